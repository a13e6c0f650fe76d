"""The images behind a command's flags: a source, their names, and the group of each."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from dali_cutmix import DataLoader, EvalTransform
from evaluation.refusal import refuse
from evaluation.result import fingerprint


def listed(name: str, data: Path) -> Any:
    """Return the source that our loader makes of a folder of images, a list or shards.

    Args:
        name: The flag, for messages.
        data: The folder or file.

    Raises:
        SystemExit: There are no images with classes.
    """
    try:
        loader = DataLoader(str(data), 1, transform=EvalTransform(8, 8), device="cpu")
    except (OSError, ValueError) as error:
        refuse(f"`{name}` must be images with classes, got {data}: {error}")
    loader.close()
    return loader.dataset


def names_of(source: Any) -> list[str]:
    """Return the path of each image below the folder of all, or as the source has the path."""
    paths = [os.fspath(source.path(index)) for index in range(len(source))]
    root = getattr(source, "root", None)
    return [os.path.relpath(path, root) for path in paths] if root else paths


def spread(source: Any, max_images: int | None) -> Any:
    """Return a source of at most so many images, evenly spread over those listed.

    Images are listed class by class, so that the first ones would be of a few classes.

    Args:
        source: The images.
        max_images: How many; None takes all.
    """
    if max_images is None or max_images >= len(source):
        return source
    if max_images < 1:
        refuse(f"`max_images` must be at least 1, got {max_images}.")
    return source.take(np.linspace(0, len(source) - 1, max_images).round().astype(np.int64))


def digest(source: Any) -> str:
    """Return a digest of images, equal for equal images wherever their folder lies.

    The digest tells names, labels and the sizes of files in bytes.
    """
    paths = [os.fspath(source.path(index)) for index in range(len(source))]
    sizes = [os.path.getsize(path) if os.path.isfile(path) else None for path in paths]
    return fingerprint([names_of(source), np.asarray(source.targets).tolist(), sizes])


def read_groups(path: Path, source: Any) -> list[str]:
    """Return the group of each image from a CSV table with the columns path and group.

    Args:
        path: The table. Paths are those below the folder of the images.
        source: The images.

    Raises:
        SystemExit: The table cannot be read, or lacks an image.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            group_of: dict[str, str | None] = {}
            for row in table:
                name = os.path.normpath(row["path"] or "")
                if group_of.setdefault(name, row["group"]) != row["group"]:
                    raise ValueError(f"line {table.line_num} has another group for {name}")
    except KeyError as error:
        refuse(
            f"`groups` must be a .csv with a column path and a column group, got {path} without "
            f"{error}.",
        )
    except (OSError, ValueError, csv.Error) as error:
        refuse(f"`groups` must be a .csv with a group for each image, got {path}: {error}.")
    names = names_of(source)
    missing = next((name for name in names if group_of.get(name) is None), None)
    if missing is not None:
        refuse(f"`groups` must hold a group for each image, and {path} lacks {missing}.")
    return [group_of[name] or "" for name in names]
