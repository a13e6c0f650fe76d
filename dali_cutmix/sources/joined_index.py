"""The indexes of all shards as one: in memory, or a file that the processes of a machine share."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from itertools import chain
from typing import BinaryIO, NamedTuple

import numpy as np

from dali_cutmix.core.errors import printable
from dali_cutmix.core.output import replacing
from dali_cutmix.core.regular import open_regular
from dali_cutmix.sources.base import fingerprint_of
from dali_cutmix.sources.bucket import is_url
from dali_cutmix.sources.shard_files import ShardFiles
from dali_cutmix.sources.shard_indexes import INDEX_VERSION, Index

#: Images. The index of fewer, at most 32 MB, is held by each process.
MOST_PRIVATE = 1 << 20

_VERSION = 1
#: What is read at a time of an image, so that a random image costs one page of the file.
_SPAN = np.dtype([("offset", "<i8"), ("size", "<i8"), ("head", "<i8")])
_NUMBER = np.dtype("<i8")
_PER_IMAGE = _SPAN.itemsize + _NUMBER.itemsize
#: The file's end: bytes of the description in front, and a mark.
_END = struct.Struct("<Q8s")
_MARK = b"dcmjoin\n"
#: Images whose columns are read at once.
_CHUNK = 1 << 20


class _Notes(NamedTuple):
    """Describe the file of an index.

    Args:
        key: Digest of the shards' names, sizes, and times or entity tags.
        num_images, num_shards: Of the index.
        extremes, fingerprint: See `JoinedIndex`.
    """

    key: str
    num_images: int
    num_shards: int
    extremes: Sequence[int]
    fingerprint: str


class Span(NamedTuple):
    """Say where an image lies: number of its shard, and bytes; see `Index`."""

    shard: int
    offset: int
    size: int
    head: int


class JoinedIndex:
    """Say where each image of all shards lies, and its class.

    The file of an index holds ``spans``, ``labels``, ``counts``, a description in JSON, and `_END`.
    The file is mapped, and never written to again.

    Args:
        spans: Where images lie in their shards: ``[N]`` of `_SPAN`.
        labels: Class indices: ``[N]`` int64.
        counts: Images of each shard: ``[num_shards]`` int64.
        extremes: Numbers of an image of the smallest label and of an image of the largest one.
        fingerprint: See `StoredImages`; empty if it has not been computed.
        is_mapped: The arrays are those of a file.
    """

    def __init__(
        self,
        spans: np.ndarray,
        labels: np.ndarray,
        counts: np.ndarray,
        extremes: Sequence[int],
        fingerprint: str = "",
        *,
        is_mapped: bool = False,
    ) -> None:
        self.spans = spans
        self.labels = labels
        self.counts = counts
        self.extremes = extremes
        self.fingerprint = fingerprint
        self.is_mapped = is_mapped
        self._ends = np.cumsum(counts)

    @classmethod
    def of(cls, indexes: Sequence[Index], first_label: int) -> JoinedIndex:
        """Join the indexes of all shards in memory."""
        spans = np.concatenate([_spans(index) for index in indexes])
        labels = np.concatenate([index.label for index in indexes]) - first_label
        counts = np.array([len(index.offset) for index in indexes])
        return cls(spans, labels, counts, (int(labels.argmin()), int(labels.argmax())))

    @classmethod
    def mapped(cls, path: str, key: str) -> JoinedIndex | None:
        """Map the file of an index; None if the file is missing, or is of other shards.

        Args:
            path: The file.
            key: What the file must be of.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is damaged.
        """
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return None
        with file:
            length = os.fstat(file.fileno()).st_size
            if length < _END.size:
                raise ValueError("the file ends too early")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        notes_end = length - _END.size
        size, mark = _END.unpack_from(content, notes_end)
        if mark != _MARK or size > notes_end:
            raise ValueError("the end is missing")
        notes = _Notes(**json.loads(content[notes_end - size : notes_end]))
        if notes.key != key:
            return None
        if notes.num_images * _PER_IMAGE + notes.num_shards * _NUMBER.itemsize + size != notes_end:
            raise ValueError("the length is wrong")
        joined = cls._in(content, notes)
        is_sound = int(joined.counts.sum()) == len(joined) > max(notes.extremes)
        if not is_sound or min(notes.extremes) < 0 or not isinstance(notes.fingerprint, str):
            raise ValueError("the numbers do not fit")
        return joined

    @classmethod
    def _in(cls, content: mmap.mmap, notes: _Notes) -> JoinedIndex:
        num_images, num_shards, extremes = notes.num_images, notes.num_shards, notes.extremes
        spans = np.frombuffer(content, _SPAN, num_images)
        labels = np.frombuffer(content, _NUMBER, num_images, spans.nbytes)
        counts = np.frombuffer(content, _NUMBER, num_shards, spans.nbytes + labels.nbytes)
        return cls(spans, labels, counts, extremes, notes.fingerprint, is_mapped=True)

    def __len__(self) -> int:
        return len(self.labels)

    def span(self, index: int) -> Span:
        """Return where an image lies. Negative indices count from the end."""
        index = range(len(self))[index]
        return Span(int(self.shards(index)), *self.spans[index].item())

    def shards(self, indices: np.ndarray | int) -> np.ndarray:
        """Return the numbers of the images' shards."""
        return np.searchsorted(self._ends, indices, "right")

    def first(self, shard: int) -> int:
        """Return the number of the first image of a shard."""
        return int(self._ends[shard] - self.counts[shard])

    def num_before(self, index: int) -> int:
        """Return how many images in front of an image lie at the same place, one page of many."""
        shard = self.span(index).shard
        others = self.spans["offset"][self.first(shard) : index] != self.spans["offset"][index]
        ends = np.flatnonzero(others)
        return len(others) - (int(ends[-1]) + 1 if len(ends) else 0)

    def describe(self, names: Iterable[str]) -> Iterator[bytes]:
        """Yield what identifies the images beside the labels.

        Args:
            names: Paths or URLs of the shards.
        """
        yield from (os.fsencode(name.rpartition("/")[2]) for name in names)
        for shard, count in enumerate(self.counts.tolist()):
            yield np.full(count, shard, _NUMBER).tobytes()
        for column in ("offset", "size"):
            for first in range(0, len(self), _CHUNK):
                yield self.spans[column][first : first + _CHUNK].tobytes()


def join_indexes(
    where: str,
    files: ShardFiles,
    layout: str,
    folder: str | None,
    first_label: int,
    read: Callable[[], Generator[Index, None, None]],
) -> JoinedIndex:
    """Return the index of all shards, mapped from a file where there are many images.

    One process makes the file, and the others wait, where the file system has locks. A file that
    is damaged is made anew, with a warning, and so is one of shards that have changed. Where no
    file can be written, the index is held in memory, with a warning.

    Args:
        where: Name of the caller, for messages.
        files: The shards.
        layout: Name of the shards' format.
        folder: Local folder for indexes; None for the shards' folder.
        first_label: Label of class 0.
        read: Yields the index of each shard, in order.
    """
    parent = folder or os.path.dirname(files.names[0]) or os.curdir
    if is_url(parent):
        return _in_memory(where, read, first_label, "a bucket is only read")
    path, key = _identify(files, parent, f"{layout} {INDEX_VERSION} {_VERSION} {first_label}")
    if (joined := _mapped(path, key)) is not None:
        return joined
    if not all(stat.tag or stat.changed for stat in files.stats):
        return _in_memory(where, read, first_label, "the bucket's server names no entity tags")
    if not os.access(parent, os.W_OK):
        reason = f"{printable(parent)} cannot be written"
        return _in_memory(where, read, first_label, reason)
    with _one_at_a_time(parent):
        if (joined := _mapped(path, key, where)) is not None:  # of the process before
            return joined
        try:
            return _make(path, key, files.names, first_label, read)
        except OSError as error:
            if error.filename != path:
                raise
            reason = f"{printable(path)} cannot be written ({error.strerror})"
        return _in_memory(where, read, first_label, reason)


def _identify(files: ShardFiles, parent: str, kind: str) -> tuple[str, str]:
    """Return the path of the file for these shards, and the key of what the shards are now."""
    digest = blake2b(kind.encode(), digest_size=8)
    if not os.path.isabs(files.names[0]):
        digest.update(os.fsencode(os.path.relpath(os.curdir, parent)))
    for name in files.names:  # relative: an index moves with its shards
        digest.update(os.fsencode(name.removeprefix(parent + "/")) + b"\0")
    path = os.path.join(parent, f"joined.{digest.hexdigest()}.index")
    for stat in files.stats:
        digest.update(f"{stat.size} {stat.tag} {stat.modified} {stat.changed}\0".encode())
    return path, digest.hexdigest()


def _mapped(path: str, key: str, where: str | None = None) -> JoinedIndex | None:
    """Return the index in a file; None where it has to be made. Warn of damage by ``where``."""
    try:
        return JoinedIndex.mapped(path, key)
    except OSError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if where is not None:
            warnings.warn(
                f"{where}: {printable(path)} is damaged, and is made anew: {error}.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None


def _make(
    path: str,
    key: str,
    names: Sequence[str],
    first_label: int,
    read: Callable[[], Generator[Index, None, None]],
) -> JoinedIndex:
    """Return the index, mapped from a new file if there are more than `MOST_PRIVATE` images."""
    parts: list[Index] = []
    num_images = 0
    with closing(read()) as indexes:
        for index in indexes:
            parts.append(index)
            num_images += len(index.offset)
            if num_images > MOST_PRIVATE:
                break
        else:
            return JoinedIndex.of(parts, first_label)
        with replacing(path) as out:
            return _write(out, key, names, first_label, chain(parts, indexes))


def _write(
    out: BinaryIO, key: str, names: Sequence[str], first_label: int, indexes: Iterable[Index]
) -> JoinedIndex:
    """Write an index with few shards in memory at a time, and return it mapped."""
    counts = []
    with tempfile.TemporaryFile(dir=os.path.dirname(out.name)) as labels:
        for index in indexes:
            counts.append(len(index.offset))
            out.write(_spans(index).tobytes())
            labels.write((index.label - first_label).astype(_NUMBER).tobytes())
        labels.seek(0)
        shutil.copyfileobj(labels, out, 1 << 20)
    out.write(np.array(counts, _NUMBER).tobytes())
    out.flush()
    content = mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ)
    notes = _Notes(key, sum(counts), len(counts), (0, 0), "")
    joined = JoinedIndex._in(content, notes)
    joined.extremes = int(joined.labels.argmin()), int(joined.labels.argmax())
    joined.fingerprint = fingerprint_of(joined.labels, joined.describe(names))
    notes = notes._replace(extremes=joined.extremes, fingerprint=joined.fingerprint)
    text = json.dumps(notes._asdict()).encode()
    out.write(text + _END.pack(len(text), _MARK))
    return joined


def _in_memory(
    where: str, read: Callable[[], Generator[Index, None, None]], first_label: int, reason: str
) -> JoinedIndex:
    joined = JoinedIndex.of(list(read()), first_label)
    if len(joined) > MOST_PRIVATE:
        megabytes = len(joined) * _PER_IMAGE / 1e6
        warnings.warn(
            f"{where}: every process holds {megabytes:.0f} MB, the index of {len(joined)} images, "
            f"instead of sharing them, since {reason}. Pass `index_dir=`, a local folder.",
            RuntimeWarning,
            stacklevel=2,
        )
    return joined


def _spans(index: Index) -> np.ndarray:
    spans = np.empty(len(index.offset), _SPAN)
    for column in _SPAN.names or ():
        spans[column] = getattr(index, column)
    return spans


@contextmanager
def _one_at_a_time(folder: str) -> Iterator[None]:
    """Let one process at a time go on, as far as the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
