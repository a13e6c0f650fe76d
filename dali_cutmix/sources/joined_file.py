"""The index of the images of all shards: in memory, or mapped from a file that processes share."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import open_regular
from dali_cutmix.sources.base import fingerprint_of
from dali_cutmix.sources.shard_indexes import Index

#: Number of the file's layout. Another number is another key, and so another name of the file.
LAYOUT = 2
#: What is read at a time of an image, so that a random image costs few pages of the file.
_SPAN = np.dtype([("offset", "<i8"), ("size", "<i8"), ("head", "<i8")])
_NUMBER = np.dtype("<i8")
_CHECKSUM = np.dtype("<u4")
#: Bytes of an image in the index.
PER_IMAGE = _SPAN.itemsize + _NUMBER.itemsize
#: Images of one checksum: 32 KB, which take some 20 microseconds to check.
BLOCK = 1024
#: The file's end: bytes of the description in front, their CRC-32, and a mark.
_END = struct.Struct("<QI8s")
_MARK = b"dcmjoin\n"
#: Images whose columns are read at once.
_CHUNK = 1 << 20


class _Notes(NamedTuple):
    """Describe the file of an index.

    Args:
        key: Digest of the shards' names, sizes, and times or entity tags.
        num_images, num_shards: Of the index.
        extremes, fingerprint: See `JoinedIndex`.
        checksum: CRC-32 of counts and checksums.
    """

    key: str
    num_images: int
    num_shards: int
    extremes: Sequence[int]
    fingerprint: str
    checksum: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the file in front of these notes."""
        num_blocks = -(-self.num_images // BLOCK)
        in_shards = self.num_shards * _NUMBER.itemsize
        return self.num_images * PER_IMAGE + in_shards + num_blocks * _CHECKSUM.itemsize


class Span(NamedTuple):
    """Say where an image lies: number of its shard, and bytes; see `Index`."""

    shard: int
    offset: int
    size: int
    head: int


class JoinedIndex:
    """Say where each image of all shards lies, and its class.

    The file of an index holds ``spans``, ``labels``, ``counts``, ``checksums``, a description in
    JSON, and `_END`. The file is mapped, and never written to again. Description, counts and
    checksums are checked when the file is mapped. Spans and labels, of up to some gigabytes, are
    checked in blocks, each when an image of the block is first looked at.

    Args:
        spans: Where images lie in their shards: ``[N]`` of `_SPAN`.
        labels: Class indices: ``[N]`` int64.
        counts: Images of each shard: ``[num_shards]`` int64.
        extremes: Numbers of an image of the smallest label and of an image of the largest one;
            None looks for them.
        fingerprint: See `StoredImages`; empty if it has not been computed.
        checksums: CRC-32 of the spans and then the labels of each `BLOCK` images,
            ``[ceil(N / BLOCK)]`` uint32; None in memory.
        path: The file, for messages; empty in memory.
    """

    def __init__(
        self,
        spans: np.ndarray,
        labels: np.ndarray,
        counts: np.ndarray,
        extremes: Sequence[int] | None = None,
        fingerprint: str = "",
        checksums: np.ndarray | None = None,
        path: str = "",
    ) -> None:
        self.spans = spans
        self.labels = labels
        self.counts = counts
        self.extremes = extremes or (int(labels.argmin()), int(labels.argmax()))
        self.fingerprint = fingerprint
        self._checksums = checksums
        self._path = path
        self._ends = np.cumsum(counts)
        self._is_checked = bytearray(0 if checksums is None else len(checksums))

    @classmethod
    def of(cls, indexes: Iterable[Index], first_label: int) -> JoinedIndex:
        """Join the indexes of all shards in memory, with few of them there at a time."""
        spans, labels = bytearray(), bytearray()  # which grow in place: arrays would be copied
        counts = []
        for index in indexes:
            counts.append(len(index.offset))
            spans += _spans(index).tobytes()
            labels += (index.label - first_label).astype(_NUMBER).tobytes()
        numbers = np.frombuffer(labels, _NUMBER)
        return cls(np.frombuffer(spans, _SPAN), numbers, np.array(counts, _NUMBER))

    @classmethod
    def mapped(cls, path: str, key: str) -> JoinedIndex | None:
        """Map the file of an index; None if the file is missing.

        Args:
            path: The file.
            key: Digest of the shards that the file must describe.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is damaged, or is of other shards.
        """
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return None
        with file:
            return cls._in(file, path, key)

    @classmethod
    def _in(cls, file: BinaryIO, path: str, key: str) -> JoinedIndex:
        notes_end = os.fstat(file.fileno()).st_size - _END.size
        if notes_end < 0:
            raise ValueError("the file ends too early")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size, checksum, mark = _END.unpack_from(content, notes_end)
        if mark != _MARK or size > notes_end:
            raise ValueError("the end is missing")
        text = content[notes_end - size : notes_end]
        if zlib.crc32(text) != checksum:
            raise ValueError("the description has another checksum")
        notes = _Notes(**json.loads(text))
        if notes.key != key:
            raise ValueError("the file is of other shards")
        if notes.num_bytes + size != notes_end:
            raise ValueError("the length is wrong")
        arrays = _arrays(content, notes.num_images, notes.num_shards)
        counts_end = sum(array.nbytes for array in arrays)
        checksums = np.frombuffer(content[counts_end : notes.num_bytes], _CHECKSUM)
        if zlib.crc32(checksums.data, zlib.crc32(arrays[2].data)) != notes.checksum:
            raise ValueError("the counts have another checksum")
        joined = cls(*arrays, notes.extremes, notes.fingerprint, checksums, path)
        for image in notes.extremes:
            joined._check_block(image // BLOCK)
        return joined

    @property
    def is_mapped(self) -> bool:
        """Whether the numbers are those of a file."""
        return self._checksums is not None

    def __len__(self) -> int:
        return len(self.labels)

    def span(self, index: int) -> Span:
        """Return where an image lies. Negative indices count from the end.

        Raises:
            RuntimeError: The file is damaged there, or at the label of the image.
        """
        index = range(len(self))[index]
        self._check(index, index + 1)
        return Span(int(self.shards(index)), *self.spans[index].item())

    def shards(self, indices: np.ndarray | int) -> np.ndarray:
        """Return the numbers of the images' shards."""
        return np.searchsorted(self._ends, indices, "right")

    def first(self, shard: int) -> int:
        """Return the number of the first image of a shard."""
        return int(self._ends[shard] - self.counts[shard])

    def num_before(self, index: int) -> int:
        """Return how many images in front of an image lie at the same place, one page of many."""
        shard, offset, *_ = self.span(index)
        first = self.first(shard)
        end, length = index, BLOCK  # a page holds few images as a rule
        while end > first:
            start = max(first, end - length)
            self._check(start, end)
            others = np.flatnonzero(self.spans["offset"][start:end] != offset)
            if len(others):
                return index - (start + int(others[-1]) + 1)
            end, length = start, 2 * length
        return index - first

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
                self._check(first, min(first + _CHUNK, len(self)))
                yield self.spans[column][first : first + _CHUNK].tobytes()

    def _check(self, first: int, end: int) -> None:
        """Compare images with their checksums, each block once.

        Args:
            first, end: Numbers of the first image, and of the image behind the last one.

        Raises:
            RuntimeError: The file is damaged.
        """
        if self._checksums is None:
            return
        for block in range(first // BLOCK, (end - 1) // BLOCK + 1):
            if self._is_checked[block]:
                continue
            try:
                self._check_block(block)
            except ValueError as error:
                raise RuntimeError(
                    f"{printable(self._path)} is damaged: {error}. Delete the file, and resume "
                    "from the last state: the file is made anew."
                ) from None

    def _check_block(self, block: int) -> None:
        assert self._checksums is not None
        if _checksum(self.spans, self.labels, block) != self._checksums[block]:
            raise ValueError(f"images from number {block * BLOCK} on have another checksum")
        self._is_checked[block] = True


def write_index(
    out: BinaryIO,
    path: str,
    key: str,
    names: Sequence[str],
    first_label: int,
    indexes: Iterable[Index],
) -> JoinedIndex:
    """Write an index with few shards in memory at a time, and return it mapped.

    Args:
        out: An empty file, for reading and writing.
        path: Name of the file when it is complete, for messages.
        key: See `_Notes`.
        names: Paths or URLs of the shards.
        first_label: Label of class 0 in the shards.
        indexes: Of each shard, in order.
    """
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
    joined = JoinedIndex(*_arrays(content, sum(counts), len(counts)))
    blocks = range(-(-len(joined) // BLOCK))
    sums = [_checksum(joined.spans, joined.labels, block) for block in blocks]
    checksums = np.array(sums, _CHECKSUM)
    notes = _Notes(
        key,
        len(joined),
        len(counts),
        joined.extremes,
        fingerprint_of(joined.labels, joined.describe(names)),
        zlib.crc32(checksums.data, zlib.crc32(joined.counts.data)),
    )
    text = json.dumps(notes._asdict()).encode()
    out.write(checksums.tobytes() + text + _END.pack(len(text), zlib.crc32(text), _MARK))
    out.flush()
    return JoinedIndex._in(out, path, key)


def _arrays(
    content: mmap.mmap, num_images: int, num_shards: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return spans, labels and counts in a file."""
    spans = np.frombuffer(content, _SPAN, num_images)
    labels = np.frombuffer(content, _NUMBER, num_images, spans.nbytes)
    counts = np.frombuffer(content, _NUMBER, num_shards, spans.nbytes + labels.nbytes)
    return spans, labels, counts


def _checksum(spans: np.ndarray, labels: np.ndarray, block: int) -> int:
    images = slice(block * BLOCK, (block + 1) * BLOCK)
    return zlib.crc32(labels[images].data, zlib.crc32(spans[images].data))


def _spans(index: Index) -> np.ndarray:
    spans = np.empty(len(index.offset), _SPAN)
    for column in _SPAN.names or ():
        spans[column] = getattr(index, column)
    return spans
