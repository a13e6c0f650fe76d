"""Image files listed by a folder, by a list in memory, or by a list file."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from dali_cutmix.core.checks import checked_indices, is_whole, local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import BYTE_ORDER_MARK, read_regular, read_text
from dali_cutmix.sources.base import (
    IMAGE_ENDINGS,
    MAX_CLASSES,
    WHERE,
    Names,
    StoredImages,
    numbered,
    refuse_shards,
    warn_of_splits,
)
from dali_cutmix.sources.other_files import files_below, holdings, reader_of

_INDEX = re.compile(r"[+-]?[0-9]{1,100}")


class FileList(StoredImages):
    """List files and the class of each: ``loader.dataset`` for a folder or a list.

    Args:
        paths: Paths of the files.
        targets: Class index of every file, each at least 0.
        classes: Names of the classes, in the order of their indices.
        root: A folder above all paths, or None. The fingerprint leaves the folder out, so that the
            data may move.

    Attributes:
        root: The listed folder, or the list file's folder if all paths lie below; else None.
        classes: Names of the classes, in the order of their indices.
        class_to_idx: Index of each class name.
        samples: ``(path, class index)`` of every file, as in torchvision's ``ImageFolder``; a
            read-only sequence, whose pairs are made when read.
        targets: Class index of every file: ``[len(self)]`` int64.
    """

    kind = "path"

    def __init__(
        self,
        paths: Sequence[str | bytes],
        targets: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        root: str | None = None,
    ) -> None:
        self.root = root
        self._paths = Names([os.fsencode(path) for path in paths])
        self._has_zeros = self._paths.holds(0)
        if not len(paths) or len(paths) != len(targets):
            got = (len(paths), len(targets))
            refuse("FileList", "paths", "be as many as `targets`, and at least one", got)
        super().__init__(targets, classes)

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str]) -> FileList:
        """List an ImageFolder root: a folder per class, with images at any depth.

        Files, classes and their order are those of torchvision's ``ImageFolder``. A folder above
        ``train`` and ``val`` has these two classes, and a ``UserWarning`` says so.

        Raises:
            FileNotFoundError: The folder does not exist or has no class folders, or a class folder
                has no images.
            PermissionError: The folder or a class folder cannot be read.
            ValueError: A folder holds images and shards such as ``train-00000-of-00001.tar``.
        """
        root = local_path(WHERE, "source", root)
        listing = f"{WHERE}: `source` must be a folder with one subfolder per class"
        if not os.path.isdir(root):
            problem = "is a file" if os.path.exists(root) else "does not exist"
            raise FileNotFoundError(
                f"{listing}, but {root!r} {problem}. A list of (path, class) is taken as well."
            )
        try:
            classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        except PermissionError as error:
            _refuse_unreadable(error)
        if not classes:
            names = sorted(os.listdir(root))
            images = sum(name.lower().endswith(IMAGE_ENDINGS) for name in names)
            holds = f"holds images ({images}) and no subfolder"
            way_out = (
                "Move the images of each class into a folder of their own, as torchvision's "
                "ImageFolder has them, or pass a list of (path, class)."
            )
            if not images:
                holds, way_out = holdings(names, "an image"), reader_of(names) or way_out
            raise FileNotFoundError(f"{listing}, but {root!r} {holds}. {way_out}")
        encoded: list[bytes] = []
        targets: list[np.ndarray] = []
        for index, name in enumerate(classes):
            folder = os.path.join(root, name)
            paths = _images_below(folder)
            if not paths:
                way_out = reader_of(files_below(folder)) or "Add some, or remove the folder."
                raise FileNotFoundError(
                    f"{WHERE}: class folder {folder!r} holds no images (names ending in "
                    f"{', '.join(IMAGE_ENDINGS)}). {way_out}"
                )
            encoded.extend(paths)
            targets.append(np.full(len(paths), index, np.int64))
        warn_of_splits(WHERE, root, classes)
        return cls(encoded, np.concatenate(targets), classes, root)

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[str | os.PathLike[str], int | str]]) -> FileList:
        """List ``(path, class)`` pairs. A class is an index, or a name (indexed as sorted)."""
        if not pairs:
            raise ValueError(f"{WHERE}: `source` must hold at least one (path, class), got [].")
        for number, pair in enumerate(pairs):
            _check_pair(number, pair)
        paths = [os.path.expanduser(os.fsdecode(path)) for path, _ in pairs]
        labels = [_plain(label) for _, label in pairs]
        named = sum(isinstance(label, str) for label in labels)
        if 0 < named < len(labels):
            rule = "name all classes or index all of them"
            refuse(WHERE, "source", rule, f"{named} names and {len(labels) - named} indices")
        if named:
            classes = sorted({str(label) for label in labels})
            index = {name: i for i, name in enumerate(classes)}
            return cls(paths, [index[str(label)] for label in labels], classes)
        return cls(paths, *_numbered([int(label) for label in labels]))

    @classmethod
    def from_paths(
        cls, paths: Sequence[str | os.PathLike[str]], root: str | None = None
    ) -> FileList:
        """List images without classes: ``classes`` is empty, and every index is 0."""
        expanded = [os.path.expanduser(os.fsdecode(path)) for path in paths]
        return cls(expanded, np.zeros(len(paths), np.int64), [], root)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> FileList:
        """Read a list file: a path and a class per line, separated by a tab or the last space.

        A class is an index, as in DALI's ``file_list``, or a name (indexed as sorted). Relative
        paths start in the folder of the list file, and ``~`` is the home folder. Empty lines and
        byte order marks are skipped.

        Raises:
            OSError: The file does not exist, is not a regular file, or cannot be read.
            ValueError: The file has no lines; or a line has no class, a zero byte, or a class index
                that is too long or out of range. The line's number is named.
        """
        path = local_path(WHERE, "source", path)
        folder, listed = os.path.dirname(path), f"the list {printable(path)}"
        paths: list[str] = []
        labels: list[str] = []
        kinds: dict[bool, int] = {}  # whether a class is an index: number of the first such line
        lines = io.StringIO(read_text(path, "surrogateescape"), newline=None)
        for number, line in enumerate(lines, 1):
            # Lists that were put together have marks at the beginning of later lines, too.
            text = line.strip().lstrip(BYTE_ORDER_MARK).lstrip()
            if not text:
                continue
            name, label = _split_line(text, f"line {number} of {listed}")
            paths.append(os.path.join(folder, os.path.expanduser(name)))
            labels.append(label)
            kinds.setdefault(_INDEX.fullmatch(label) is not None, number)
        if not paths:
            raise ValueError(f"{WHERE}: {listed} is empty.")
        if len(kinds) > 1:
            raise ValueError(
                f"{WHERE}: {listed} must name all classes or index all of them, and line "
                f"{kinds[True]} has an index and line {kinds[False]} none."
            )
        inside = os.path.join(folder, "")
        root = folder if folder and all(path.startswith(inside) for path in paths) else None
        if True in kinds:
            return cls(paths, *_numbered([int(label) for label in labels]), root)
        classes = sorted(set(labels))
        index = {name: i for i, name in enumerate(classes)}
        return cls(paths, [index[label] for label in labels], classes, root)

    def take(self, indices: Sequence[int] | np.ndarray) -> FileList:
        """Return the files of these indices, in this order, with the same classes."""
        chosen = checked_indices("FileList", indices, len(self))
        paths = [self._paths.bytes_of(int(index)).tobytes() for index in chosen]
        return FileList(paths, self.targets[chosen], self.classes, self.root)

    def __repr__(self) -> str:
        at = f", root={self.root!r}" if self.root else ""
        return f"FileList({len(self)} files, {len(self.classes)} classes{at})"

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return self._paths[index]

    def stored(self, index: int) -> np.ndarray:
        """Return the path of a file as the graph is fed it: ``[length]`` uint8, a view.

        Raises:
            OSError: The path holds a zero byte, at which the graph would end the path.
        """
        path = self._paths.bytes_of(index)
        if self._has_zeros and not path.all():
            raise OSError(errno.EINVAL, "not a path: embedded null byte", self.path(index))
        return path

    def encoded(self, index: int) -> np.ndarray:
        """Return the bytes of a file: ``[size]`` uint8.

        Raises:
            OSError: The file cannot be read.
        """
        return read_regular(self.path(index))

    def _describe(self) -> Iterable[bytes]:
        if not self.root:
            return self._paths.describe()
        return self._paths.describe(len(os.fsencode(os.path.join(self.root, ""))))


def _split_line(text: str, line: str) -> tuple[str, str]:
    """Return path and class of a line of a list.

    Args:
        text: The line, stripped and not empty.
        line: Name of the line, for messages.

    Raises:
        ValueError: The line has no class, a zero byte, or an odd class index.
    """
    name, separator, label = text.rpartition("\t" if "\t" in text else " ")
    if not separator:
        raise ValueError(
            f"{WHERE}: {line} must be a path and a class, separated by a tab or a space, got "
            f"{text!r}."
        )
    if "\0" in text:
        raise ValueError(
            f"{WHERE}: {line} must hold no zero byte, got {text!r:.80}. Save the list in UTF-8."
        )
    if _INDEX.fullmatch(label) is None:
        if label.lstrip("+-").isdecimal():
            raise ValueError(
                f"{WHERE}: {line} must have a class name, or a class index of at most 100 digits "
                f"from 0 to 9, got {label!r:.80}."
            )
    elif not 0 <= int(label) < MAX_CLASSES:
        raise ValueError(
            f"{WHERE}: {line} must have a class name, or a class index of at least 0 and below "
            f"{MAX_CLASSES}, got {label:.80}. Ids have to be mapped to 0, 1, 2, ... first."
        )
    return name.rstrip(), label


def _numbered(labels: Sequence[int]) -> tuple[np.ndarray, Sequence[str]]:
    """Return class indices as an array, and their texts as the names of the classes."""
    largest = max(labels)
    if largest >= MAX_CLASSES:  # checked here: the number may be too large for an array
        rule = f"have class indices below {MAX_CLASSES}"
        refuse(WHERE, "source", rule, largest, "Ids have to be mapped to 0, 1, 2, ... first.")
    return np.array(labels, np.int64), numbered(largest + 1)


def _images_below(folder: str) -> list[bytes]:
    """Return paths in torchvision's order. An unreadable folder is refused, not skipped.

    Links are followed, but each folder is listed once: a link to a folder above itself would repeat
    the folder without end. A path without links comes first, then the first by name.
    """
    listed: set[tuple[int, int]] = set()
    parents: list[tuple[str, list[str]]] = []
    tops = [folder]
    while tops:
        links: list[str] = []
        for top in tops:
            for parent, folders, names in os.walk(top, onerror=_refuse_unreadable):
                identity = os.stat(parent)
                if (identity.st_dev, identity.st_ino) in listed:
                    folders.clear()
                    continue
                listed.add((identity.st_dev, identity.st_ino))
                parents.append((parent, names))
                below = (os.path.join(parent, name) for name in folders)
                links += [path for path in below if os.path.islink(path)]
        tops = sorted(links)
    paths: list[str] = []
    for parent, names in sorted(parents):
        prefix = os.path.join(parent, "")
        images = [prefix + n for n in sorted(names) if n.lower().endswith(IMAGE_ENDINGS)]
        if images and len(images) < len(names):
            refuse_shards(parent, names)
        paths += images
    # Encoding a single text is faster, and no path holds a zero byte.
    return os.fsencode("\0".join(paths)).split(b"\0") if paths else []


def _refuse_unreadable(error: OSError) -> NoReturn:
    if not isinstance(error, PermissionError):
        raise error
    raise type(error)(
        f"{WHERE}: `source` must be readable, but {error.filename!r} is not: {error.strerror}. "
        "Change its permissions, or pass a list of (path, class) that leaves it out."
    ) from None


def _plain(label: Any) -> Any:
    """Return the number in an array or tensor without axes; other labels as they are."""
    has_no_axes = not isinstance(label, (str, int)) and getattr(label, "ndim", None) == 0
    return label.item() if has_no_axes else label


def _check_pair(number: int, pair: Any) -> None:
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    is_pair = is_pair and isinstance(pair[0], (str, os.PathLike))
    label = _plain(pair[1]) if is_pair else None
    if not isinstance(label, str) and not (is_whole(label) and label >= 0):
        raise ValueError(
            f"{WHERE}: `source[{number}]` must be (path, class) with a class index of at least 0 "
            f"or a class name, got {pair!r}."
        )
