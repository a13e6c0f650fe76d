"""What a loader was given as its source, and its stored bytes as a graph node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets.folder import default_loader  # type: ignore[import-untyped]

from dali_cutmix._dali import DataNode, fn
from dali_cutmix.files import FileList
from dali_cutmix.stored import WHERE, StoredImages

LISTS = (".txt", ".tsv", ".lst")  # endings of list files


def open_source(source: Any) -> StoredImages:
    """List whatever a loader can be given: see ``source`` of `DataLoader`."""
    if isinstance(source, StoredImages):
        return source
    if isinstance(source, (str, Path)) or hasattr(source, "__fspath__"):
        return _from_path(os.fspath(source))
    if hasattr(source, "samples"):
        return _from_dataset(source)
    if hasattr(source, "indices") and hasattr(source, "dataset"):  # a torch Subset
        if not len(source.indices):
            raise ValueError(f"{WHERE}: the Subset given as `source` has no samples.")
        return open_source(source.dataset).take(source.indices)
    if isinstance(source, Sequence):
        return FileList.from_pairs(source)
    raise TypeError(
        f"{WHERE}: `source` must be a folder, a list of (path, class), or a torchvision "
        f"ImageFolder or a Subset of one, got {type(source).__name__}."
    )


def _from_path(path: str) -> StoredImages:
    if path.endswith(LISTS):
        return FileList.from_file(path)
    return FileList.from_folder(path)


def _from_dataset(dataset: Any) -> FileList:
    name = type(dataset).__name__
    for attribute in ("transform", "target_transform"):
        own = getattr(dataset, attribute, None)
        if own is not None:
            instead = (
                "pass `transform=TrainTransform(...)` or `EvalTransform(...)` to the loader"
                if attribute == "transform"
                else "pass a list of (path, class) with the classes you want"
            )
            raise ValueError(
                f"{WHERE}: the {name} given as `source` carries its own `{attribute}` "
                f"({type(own).__name__}), which cannot run inside the graph. Build it without one, "
                f"and {instead}."
            )
    if getattr(dataset, "loader", default_loader) is not default_loader:
        raise ValueError(
            f"{WHERE}: the {name} given as `source` has a `loader` of its own, and DALI decodes "
            "the files instead. Build it with torchvision's default_loader if they are images."
        )
    if not len(dataset.samples):
        raise ValueError(f"{WHERE}: the {name} given as `source` has no samples.")
    paths = [os.fspath(path) for path, *_ in dataset.samples]
    targets = np.array([int(target) for _, target, *_ in dataset.samples], np.int64)
    classes = getattr(dataset, "classes", None) or range(int(targets.max()) + 1)
    return FileList(paths, targets, [str(c) for c in classes], getattr(dataset, "root", None))


def read(path: DataNode) -> DataNode:
    """Stored bytes of the files named by the graph's input.

    Args:
        path: Path of the file: ``[length]`` uint8 per sample, CPU.

    Returns:
        The file's bytes: ``[size]`` uint8 per sample, CPU.
    """
    # Read instead of mapped: twice as fast for files in the page cache, and a file that is cut
    # short while it is mapped kills the process with SIGBUS.
    read_file: Any = fn.io.file.read  # type: ignore[attr-defined]  # missing from the stubs
    return read_file(path, dont_use_mmap=True)
