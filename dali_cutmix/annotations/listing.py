"""What readers of masks and boxes share: files without classes, and folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import local_path
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.files import FileList


def without_classes(paths: Sequence[str], root: str) -> FileList:
    """List files below a folder: annotations say what the files show."""
    return FileList(paths, np.zeros(len(paths), np.int64), [], root)


def existing_folder(where: str, name: str, path: str | bytes | os.PathLike[Any]) -> str:
    """Return the path of a folder as text.

    Raises:
        FileNotFoundError: The folder does not exist, or is a file.
    """
    folder = local_path(where, name, path)
    if not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        message = f"{where}: `{name}` must be a folder, but {folder} {problem}."
        raise FileNotFoundError(printable(message))
    return folder


def names_below(folder: str, endings: Sequence[str]) -> dict[str, str]:
    """List files at any depth of a folder, sorted.

    Args:
        folder: The folder.
        endings: Endings of the files, with dots, in lower case.

    Returns:
        Path below the folder by the same path without its ending. Of files that differ by
        ending alone, the last.
    """
    listed: list[str] = []
    for parent, _, names in os.walk(folder):
        below = os.path.relpath(parent, folder)
        prefix = "" if below == os.curdir else os.path.join(below, "")
        listed += [prefix + name for name in names if name.lower().endswith(tuple(endings))]
    return {os.path.splitext(name)[0]: name for name in sorted(listed)}
