"""The base of every source: images as they are stored, and the class of each."""

from __future__ import annotations

import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Literal, overload

import numpy as np

from dali_cutmix.core.checks import Told, check_count, checked_indices, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import patiently

WHERE = "DataLoader"

#: Classes. A larger label is an id or nonsense, and names of so many classes would fill the memory.
MAX_CLASSES = 2**24

#: Classes. Names of more classes are made when asked, if they are mere numbers.
MOST_LISTED = 2**16

#: Endings of image files: torchvision's ``IMG_EXTENSIONS``. To import torchvision takes a third of
#: the time that this package does.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

#: Name of a shard as TensorFlow and Hugging Face's hub write it, which no image's note has.
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?\.(parquet|tar)$")

#: A split in a name, as in ``imagenet-train``.
SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test)(?![a-z])", re.IGNORECASE)

Kind = Literal["path", "encoded", "pixels"]


def refuse_shards(folder: str, names: Iterable[str]) -> None:
    """Refuse a class folder with images if the folder holds shards too.

    Args:
        folder: Path or URL of the folder, for the message.
        names: Names of the files in the folder.

    Raises:
        ValueError: A name is that of a shard, such as ``train-00000-of-00001.parquet``.
    """
    shard = next(filter(_SHARD.search, names), None)
    if shard is not None:
        rule = "be images in a folder per class, or shards"
        way_out = "Pass a pattern or a list of the shards, or move the shards elsewhere."
        refuse(WHERE, "source", rule, Told(f"images and {shard!r} in {folder!r}"), way_out)


def warn_of_splits(where: str, root: str, classes: Sequence[str]) -> None:
    """Warn where all classes of a folder are named as splits: ``train``, ``val``.

    torchvision's ``ImageFolder`` serves such classes, and so does this package.

    Args:
        where: Name of the caller, for messages.
        root: The folder, or the URL of one.
        classes: Names of its class folders, at least one.
    """
    if all(map(SPLIT.fullmatch, classes)):
        chosen = next((name for name in classes if "train" in name.lower()), classes[0])
        shown = ", ".join(map(printable, classes))
        warnings.warn(
            f"{where}: the classes of {printable(root)} are {shown}, which are names of splits. "
            f"For the classes of one split, pass {root.rstrip('/') + '/' + chosen!r}.",
            UserWarning,
            stacklevel=2,
        )


class Numbers(Sequence[str]):
    """Name classes by their indices, without a text for each: one label may be far above others.

    Args:
        count: Number of classes.
    """

    def __init__(self, count: int) -> None:
        self._indices = range(count)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [str(number) for number in self._indices[index]]
        return str(self._indices[index])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Numbers):
            return len(self) == len(other)
        return isinstance(other, list) and len(other) == len(self) and list(self) == other

    def __hash__(self) -> int:
        return hash(self._indices)


def numbered(count: int) -> Sequence[str]:
    """Return the indices of classes as their names: a list, unless there are very many."""
    numbers = Numbers(count)
    return numbers if count > MOST_LISTED else list(numbers)


class StoredImages(ABC):
    """Hold a list of images and the class of each. A new source defines `path` and `stored`.

    Args:
        targets: Class index of every image, each at least 0.
        classes: Names of the classes, in the order of their indices.
        are_checked: All targets are known to be class indices: they are then not read.

    Attributes:
        kind: What `stored` returns: the ``"path"`` of a file, which the graph reads; ``"encoded"``
            bytes of an image file; or ``"pixels"``.
        classes: Names of the classes, in the order of their indices: a list; `Numbers` where more
            than 65,536 classes have no names.
        class_to_idx: Index of each class name.
        targets: Class index of every image: ``[len(self)]`` int64. May be replaced by other class
            indices, as ``source.targets = groups[source.targets]``, before a loader is made.
        samples: ``(path, class index)`` of every image, as in torchvision's ``ImageFolder``; a
            read-only sequence that makes its pairs when asked.
        columns: Names of the columns of a table, one of which may hold classes; of others none.
    """

    kind: Kind = "encoded"
    columns: Sequence[str] = ()

    def __init__(
        self,
        targets: Sequence[int] | np.ndarray,
        classes: Iterable[str],
        *,
        are_checked: bool = False,
    ) -> None:
        self.targets = targets
        if not are_checked:
            check_labels(type(self).__name__, self.targets)
        self.classes: Sequence[str] = classes if isinstance(classes, Numbers) else list(classes)

    @property
    def targets(self) -> np.ndarray:
        """Class index of every image: ``[len(self)]`` int64."""
        return self._targets

    @targets.setter
    def targets(self, targets: Sequence[int] | np.ndarray) -> None:
        array = np.asarray(targets)
        if array.size and array.dtype.kind not in "iub":
            whole = array.astype(np.int64) if array.dtype.kind == "f" else None
            if whole is None or (whole != array).any():  # the cast makes class 0 of 0.7
                got = Told(f"{array.reshape(-1)[:3].tolist()} of {array.dtype}")
                way_out = "Other values go into `target=Rows(values)`."
                refuse(type(self).__name__, "targets", "be class indices", got, way_out)
        self._targets = array.astype(np.int64, copy=False)
        self.__dict__.pop("fingerprint", None)  # is of the targets before

    @abstractmethod
    def path(self, index: int) -> str:
        """Return where an image is stored, as messages name the image."""

    @abstractmethod
    def stored(self, index: int) -> np.ndarray:
        """Return the array that the graph is fed for an image; see ``kind``.

        Returns:
            ``[size]`` uint8: a path or the bytes of an image file; or ``[height, width, 3]`` uint8
            RGB. May be a view: not to be written to.

        Raises:
            OSError: The image cannot be read.
        """

    def encoded(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8.

        Raises:
            OSError: The image cannot be read.
        """
        return self.stored(index)

    @property
    def read_images(self) -> StoredImages:
        """The images that a graph reads: these. Of clips, the frames of all clips."""
        return self

    @cached_property
    def class_to_idx(self) -> dict[str, int]:
        """Index of each class name."""
        return {label: index for index, label in enumerate(self.classes)}

    @property
    def reads(self) -> bool:
        """Whether `stored` waits for a disk or a network, so that reading ahead pays."""
        return self.kind == "encoded"

    def waits(self, indices: Sequence[int]) -> bool:  # noqa: ARG002
        """Return whether `stored` waits for a disk or a network, for these images."""
        return self.reads

    def expect(self, order: np.ndarray) -> None:  # noqa: ARG002 - a source may ignore the order
        """Take the images that will be read, in order: ``[num_reads]`` int64; none ends that.

        A source that fetches ahead goes by the last order. Others need not know.
        """
        return

    @property
    def shard_sizes(self) -> np.ndarray | None:
        """Images in each shard, in order: ``[num_shards]`` int64; None where they lie in none."""
        return None

    def _describe(self) -> Iterable[bytes]:
        """Yield what identifies the data beside the targets, except for where the data lies."""
        return ()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the images' names, order or classes."""
        return fingerprint_of(self.targets, self._describe())

    def take(self, indices: Sequence[int] | np.ndarray) -> StoredImages:
        """Return the images of these indices, in this order, with the same classes.

        Args:
            indices: Whole numbers in [-len(self), len(self)), at least one: ``[n]``. Negative ones
                count from the end.

        Raises:
            ValueError: An index is out of range; or bools, which `numpy.flatnonzero` makes indices.
        """
        return Selection(self, indices)

    def count_classes(self, num_classes: int | None) -> int:
        """Return the number of columns of a dense target, ``num_classes`` or the classes' count."""
        largest = self._largest()
        if num_classes is None:
            return max(len(self.classes), largest + 1)
        check_count(WHERE, "num_classes", num_classes, at_least=1)
        if largest >= num_classes:
            first = self.path(int(self.targets.argmax()))
            way_out = f"`num_classes={largest + 1}` or more, or None to count the classes."
            rule = f"be above every label, and {first} has {largest}"
            refuse(WHERE, "num_classes", rule, num_classes, way_out)
        return num_classes

    def _largest(self) -> int:
        """Return the largest class index."""
        return int(self.targets.max())

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {len(self.classes)} classes)"

    @property
    def samples(self) -> Sequence[tuple[str, int]]:
        """``(path, class index)`` of every image."""
        return _Samples(self)


def read_patiently(images: StoredImages, index: int, where: str) -> np.ndarray:
    """Return the bytes of an image file, ``[size]`` uint8; wait where the storage is in trouble.

    Args:
        images: The data.
        index: Index of the image.
        where: Name of the caller, for messages.

    Raises:
        OSError: The image cannot be read, and will not be.
        TroubleError: The machine or the storage is in trouble, and stayed in trouble.
    """
    what = f"reading {images.path(index)}"
    return patiently(lambda: images.encoded(index), where, what)


def fingerprint_of(targets: np.ndarray, parts: Iterable[bytes]) -> str:
    """Return 16 hexadecimal digits of classes, ``[N]`` int64, and of what else is identified."""
    digest = blake2b(np.ascontiguousarray(targets, "<i8").data, digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def check_labels(where: str, labels: np.ndarray, path: Callable[[int], str] | None = None) -> None:
    """Refuse labels that are not class indices.

    Args:
        where: Name of the caller, for messages.
        labels: ``[N]`` int64.
        path: Returns where an image is stored, for messages.
    """
    if not len(labels):
        refuse(where, "targets", "hold at least one class index", [])
    for bad in (int(labels.argmin()), int(labels.argmax())):
        label = int(labels[bad])
        if 0 <= label < MAX_CLASSES:
            continue
        name = f"targets[{bad}]" if path is None else f"the label of {path(bad)}"
        if label < 0:
            refuse(where, name, "be a class index of at least 0", label)
        way_out = "Ids have to be mapped to 0, 1, 2, ... first."
        refuse(where, name, f"be a class index below {MAX_CLASSES}", label, way_out)


class Selection(StoredImages):
    """Select images of another source, in any order."""

    def __init__(self, images: StoredImages, indices: Sequence[int] | np.ndarray) -> None:
        self._images = images
        self._indices = checked_indices(type(images).__name__, indices, len(images))
        self.kind = images.kind
        self.columns = images.columns
        super().__init__(images.targets[self._indices], images.classes)

    def path(self, index: int) -> str:
        """Return where an image is stored, as messages name the image."""
        return self._images.path(int(self._indices[index]))

    def stored(self, index: int) -> np.ndarray:
        """Return the array that the graph is fed for an image; see `StoredImages`."""
        return self._images.stored(int(self._indices[index]))

    def encoded(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8."""
        return self._images.encoded(int(self._indices[index]))

    def expect(self, order: np.ndarray) -> None:
        """Take the images that will be read, in order; see `StoredImages`."""
        self._images.expect(self._indices[order])

    @property
    def shard_sizes(self) -> np.ndarray | None:
        """Selected images in each shard; None unless they are in the order of the shards."""
        sizes = self._images.shard_sizes
        if sizes is None or (np.diff(self._indices) <= 0).any():
            return None
        ends = np.searchsorted(self._indices, np.cumsum(sizes))
        return np.diff(ends, prepend=0)

    def _describe(self) -> Iterable[bytes]:
        yield from self._images._describe()
        yield np.ascontiguousarray(self._indices, "<i8").tobytes()


class Names:
    """Hold strings as a block of bytes: a million Python strings are slow and large."""

    def __init__(self, names: Sequence[bytes]) -> None:
        self._ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))
        self._bytes = np.frombuffer(b"".join(names), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def holds(self, byte: int) -> bool:
        """Return whether a byte occurs in a name."""
        return byte in self._bytes

    def bytes_of(self, index: int) -> np.ndarray:
        """Return a name: ``[length]`` uint8, a view."""
        index = range(len(self))[index]  # negative indices count from the end
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]]

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.bytes_of(index).tobytes())

    def describe(self, without: int = 0) -> Iterator[bytes]:
        """Yield all names, each ``without`` so many bytes in front, and the lengths left."""
        lengths = np.diff(self._ends, prepend=0)
        for first in range(0, len(self), 1 << 16):
            part = lengths[first : first + (1 << 16)]
            start, end = int(self._ends[first] - part[0]), int(self._ends[first + len(part) - 1])
            # Distance of each byte from the start of its name.
            distance = np.arange(end - start) - np.repeat(np.cumsum(part) - part, part)
            yield self._bytes[start:end][distance >= without].tobytes()
        yield (lengths - without).astype("<i8").tobytes()


class _Samples(Sequence[tuple[str, int]]):
    def __init__(self, images: StoredImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, int] | list[tuple[str, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self._images.path(position), int(self._images.targets[position])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return (self[index] for index in range(len(self)))
