"""What is in a data source, and its stored bytes as a graph node."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, overload

import numpy as np
from torchvision.datasets.folder import (  # type: ignore[import-untyped]
    IMG_EXTENSIONS,
    default_loader,
    find_classes,
)

from dali_cutmix._checks import check_count, refuse
from dali_cutmix._dali import DataNode, fn

WHERE = "DataLoader"


class FileList:
    """Files and the class of each: what ``loader.dataset`` is. Holds no images.

    Paths are kept as one block of bytes, since a million Python strings are slow to make and large.

    Attributes:
        root: The folder it was listed from; None when made from a list.
        classes: Names of the classes, in the order of their indices.
        class_to_idx: Index of each class name.
        samples: ``(path, class index)`` of every file, as in torchvision's ``ImageFolder``; a
            read-only sequence that makes its pairs when asked.
        targets: Class index of every file: ``[len(self)]`` int64.
    """

    def __init__(
        self,
        paths: Sequence[str | bytes],
        targets: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        root: str | None = None,
    ) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.root = root
        self.classes = list(classes)
        self.class_to_idx = {name: index for index, name in enumerate(classes)}
        self.targets = np.asarray(targets, np.int64)
        if not encoded or len(encoded) != len(self.targets):
            got = (len(encoded), len(self.targets))
            refuse("FileList", "paths", "be as many as `targets`, and at least one", got)
        if self.targets.min() < 0:
            bad = int(self.targets.argmin())
            got_target = int(self.targets[bad])
            refuse("FileList", f"targets[{bad}]", "be a class index of at least 0", got_target)
        self._ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str]) -> FileList:
        """List an ImageFolder root: one folder per class, images at any depth below it.

        Files and classes are those of torchvision's ``ImageFolder``, in its order.

        Raises:
            FileNotFoundError: No such folder, no class folders, or a class without images.
            PermissionError: The folder or one of its classes cannot be read.
        """
        root = os.fspath(root)
        listing = f"{WHERE}: `source` must be a folder with one subfolder per class"
        if not os.path.isdir(root):
            problem = "is a file" if os.path.exists(root) else "does not exist"
            raise FileNotFoundError(
                f"{listing}, but {root!r} {problem}. A list of (path, class) is taken as well."
            )
        try:
            classes, class_to_idx = find_classes(root)
        except PermissionError as error:
            _refuse_unreadable(error)
        except FileNotFoundError:
            images = sum(name.lower().endswith(IMG_EXTENSIONS) for name in os.listdir(root))
            holds = f"holds images ({images}) and no subfolder" if images else "is empty"
            raise FileNotFoundError(
                f"{listing}, but {root!r} {holds}. Move the images of each class into a folder of "
                "their own, as torchvision's ImageFolder has them, or pass a list of (path, class)."
            ) from None
        encoded: list[bytes] = []
        targets: list[np.ndarray] = []
        for name in classes:
            folder = os.path.join(root, name)
            found = [os.fsencode(path) for path in _images_below(folder)]
            if not found:
                raise FileNotFoundError(
                    f"{WHERE}: class folder {folder!r} holds no images (names ending in "
                    f"{', '.join(IMG_EXTENSIONS)}). Add some, or remove the folder."
                )
            encoded.extend(found)
            targets.append(np.full(len(found), class_to_idx[name], np.int64))
        return cls(encoded, np.concatenate(targets), classes, root)

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[str | os.PathLike[str], int | str]]) -> FileList:
        """Take ``(path, class)`` pairs; a class is an index, or a name (indexed as sorted)."""
        if not pairs:
            raise ValueError(f"{WHERE}: `source` must hold at least one (path, class), got [].")
        for number, pair in enumerate(pairs):
            _check_pair(number, pair)
        paths = [os.fspath(path) for path, _ in pairs]
        labels = [label for _, label in pairs]
        named = sum(isinstance(label, str) for label in labels)
        if 0 < named < len(labels):
            rule = "name all classes or index all of them"
            refuse(WHERE, "source", rule, f"{named} names and {len(labels) - named} indices")
        if named:
            classes = sorted({str(label) for label in labels})
            index = {name: i for i, name in enumerate(classes)}
            return cls(paths, [index[str(label)] for label in labels], classes)
        targets = np.array([int(label) for label in labels], np.int64)
        return cls(paths, targets, [str(index) for index in range(int(targets.max()) + 1)])

    def take(self, indices: Sequence[int]) -> FileList:
        """The files of these indices, in their order, with the same classes."""
        chosen = np.asarray(indices, np.int64).reshape(-1)
        paths = [self.path_bytes(int(index)).tobytes() for index in chosen]
        return FileList(paths, self.targets[chosen], self.classes, self.root)

    def count_classes(self, num_classes: int | None) -> int:
        """Columns of a dense target: as asked for, if above every label, or one per class."""
        largest = int(self.targets.max())
        if num_classes is None:
            return max(len(self.classes), largest + 1)
        check_count(WHERE, "num_classes", num_classes, at_least=1)
        if largest >= num_classes:
            first = self.path(int(self.targets.argmax()))
            way_out = f"`num_classes={largest + 1}` or more, or None to have it counted."
            rule = f"be above every label, and {first} has {largest}"
            refuse(WHERE, "num_classes", rule, num_classes, way_out)
        return num_classes

    def __len__(self) -> int:
        return len(self._ends)

    def __repr__(self) -> str:
        at = f", root={self.root!r}" if self.root else ""
        return f"FileList({len(self)} files, {len(self.classes)} classes{at})"

    @property
    def samples(self) -> Sequence[tuple[str, int]]:
        """``(path, class index)`` of every file."""
        return _Samples(self)

    def path(self, index: int) -> str:
        """Path of one file."""
        return os.fsdecode(self.path_bytes(index).tobytes())

    def path_bytes(self, index: int) -> np.ndarray:
        """Path of one file as the graph is fed it: ``[length]`` uint8, a view."""
        index = range(len(self))[index]  # so that negative ones count from the end
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]]


class _Samples(Sequence[tuple[str, int]]):
    def __init__(self, files: FileList) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, int] | list[tuple[str, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self._files.path(position), int(self._files.targets[position])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return (self[index] for index in range(len(self)))


def list_files(source: Any) -> FileList:
    """List whatever a loader can be given: a folder, pairs, or a torchvision dataset object."""
    if isinstance(source, (str, Path)) or hasattr(source, "__fspath__"):
        return FileList.from_folder(source)
    if isinstance(source, FileList):
        return source
    if hasattr(source, "samples"):
        return _from_dataset(source)
    if hasattr(source, "indices") and hasattr(source, "dataset"):  # a torch Subset
        if not len(source.indices):
            raise ValueError(f"{WHERE}: the Subset given as `source` has no samples.")
        return list_files(source.dataset).take(source.indices)
    if isinstance(source, Sequence):
        return FileList.from_pairs(source)
    raise TypeError(
        f"{WHERE}: `source` must be a folder, a list of (path, class), or a torchvision "
        f"ImageFolder or a Subset of one, got {type(source).__name__}."
    )


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


def _images_below(folder: str) -> Iterator[str]:
    """Paths in torchvision's order; a folder that cannot be read is not taken for empty."""
    walk = os.walk(folder, followlinks=True, onerror=_refuse_unreadable)
    for parent, _, names in sorted(walk):
        for name in sorted(names):
            if name.lower().endswith(IMG_EXTENSIONS):
                yield os.path.join(parent, name)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise type(error)(
        f"{WHERE}: `source` must be readable, but {error.filename!r} is not: {error.strerror}. "
        "Change its permissions, or pass a list of (path, class) without it."
    ) from None


def _check_pair(number: int, pair: Any) -> None:
    ok = isinstance(pair, (tuple, list)) and len(pair) == 2
    ok = ok and isinstance(pair[0], (str, os.PathLike))
    label = pair[1] if ok else None
    ok = ok and not isinstance(label, bool) and isinstance(label, (int, np.integer, str))
    if not ok or (not isinstance(label, str) and label < 0):  # type: ignore[operator]
        raise ValueError(
            f"{WHERE}: `source[{number}]` must be (path, class) with a class index of at least 0 "
            f"or a class name, got {pair!r}."
        )


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
