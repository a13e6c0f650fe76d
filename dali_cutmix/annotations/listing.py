"""What readers of masks and boxes share: files without classes, and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.files import FileList

#: Folders that a system puts at the root of a disk, and lets nobody read.
_OF_SYSTEM = {"lost+found", "System Volume Information"}


def without_classes(paths: Sequence[str], root: str) -> FileList:
    """List files below a folder: annotations say what the files show."""
    return FileList(paths, np.zeros(len(paths), np.int64), [], root)


def existing_folder(
    where: str, name: str, path: str | bytes | os.PathLike[Any], kind: str = "a folder"
) -> str:
    """Return the path of a folder as text. ``kind`` is the folder in words, for the message.

    Raises:
        FileNotFoundError: The folder does not exist, or is a file.
    """
    folder = local_path(where, name, path)
    if not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        message = f"{where}: `{name}` must be {kind}, but {folder} {problem}."
        raise FileNotFoundError(printable(message))
    return folder


def existing_file(where: str, name: str, path: str | bytes | os.PathLike[Any]) -> str:
    """Return the path of a file as text.

    Raises:
        FileNotFoundError: The file does not exist, or is a folder.
    """
    file = local_path(where, name, path)
    if os.path.isdir(file) or not os.path.lexists(file):
        problem = "is a folder" if os.path.isdir(file) else "does not exist"
        message = f"{where}: `{name}` must be a file, but {file} {problem}."
        raise FileNotFoundError(printable(message))
    return file


def names_below(
    where: str, name: str, folder: str, endings: Sequence[str], suffix: str = ""
) -> dict[str, str]:
    """List files at any depth of a folder, sorted.

    Links are followed. Hidden files and folders, whose names begin with a dot, are left out.

    Args:
        where: Name of the caller, for messages.
        name: The caller's argument that names the folder, for messages.
        folder: The folder.
        endings: Endings of the files, with dots, in lower case.
        suffix: What names have before their ending. Other files are left out.

    Returns:
        Path below the folder by the same path without suffix and ending.

    Raises:
        PermissionError: A folder cannot be read.
        ValueError: Two files differ by their endings alone.
    """
    names: dict[str, str] = {}
    for path in sorted(walk(where, name, folder)):
        ending = next((ending for ending in endings if path.lower().endswith(ending)), "")
        stem = path[: len(path) - len(ending)]
        if not ending or not stem.endswith(suffix):
            continue
        key = stem.removesuffix(suffix)
        if key in names:
            rule = "have one file for each name without its ending"
            refuse(where, name, rule, f"{names[key]} and {path} in {folder}")
        names[key] = path
    return names


def walk(where: str, name: str, root: str) -> Iterator[str]:
    """Yield paths of files below a folder, relative to the folder; see `names_below`."""

    def refuse_unreadable(error: OSError) -> None:
        """Refuse a folder whose files would be missing without a word."""
        if isinstance(error, PermissionError):
            raise PermissionError(
                f"{where}: `{name}` must be readable, but {error.filename!r} is not: "
                f"{error.strerror}. Change its permissions, or move it elsewhere."
            ) from None
        if not isinstance(error, FileNotFoundError):
            raise error

    listed: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=refuse_unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in listed:  # a link leads round
            folders.clear()
            continue
        listed.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links the same one counts everywhere.
        visible = (sub for sub in folders if sub[0] != "." and sub not in _OF_SYSTEM)
        folders[:] = sorted(visible)
        below = os.path.relpath(folder, root)
        for file in names:
            if not file.startswith("."):
                yield file if below == os.curdir else os.path.join(below, file)
