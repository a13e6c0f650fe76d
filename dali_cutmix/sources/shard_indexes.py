"""The index of each shard: made by a scan, kept in a file, and used while the shard is the same."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from hashlib import blake2b
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from dali_cutmix.core.bars import COUNTS, bar
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import is_of_machine, patiently, read_regular
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.core.writing import remove_unfinished, replacing
from dali_cutmix.sources.base import MAX_CLASSES
from dali_cutmix.sources.bucket import NUM_REQUESTS, is_url, split_url
from dali_cutmix.sources.shard_files import ShardFiles

INDEX_ENDING = ".index.npz"
INDEX_VERSION = 4
#: Bytes of a gap between images that are read at once, to bound the memory.
_CHUNK = 8 << 20
#: Gaps of a shard in a bucket that are compared. Each costs a request.
_REMOTE_MARKS = 4
#: Threads. Scans hold the GIL except while they read, so that more threads help slow storage only.
NUM_SCANS = 4
#: Shards that are looked at together. The indexes of twice as many are in memory at a time.
_AT_ONCE = 128


class Index(NamedTuple):
    """Say where the images of a shard lie. Each column is ``[number of images]`` int64.

    Args:
        offset: First byte of the image in the shard.
        size: Bytes of the image.
        label: Label of the image in the shard.
        head: Bytes before the image, which hold its name.
    """

    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    head: np.ndarray


class ShardIndexes:
    """Read the index of each shard, and make those that are missing; see `PackedImages`.

    Args:
        where: Name of the caller, for messages.
        files: The shards.
        layout: Name of the shards' format.
        scan: Returns the index of a shard; see `PackedImages`.
        folder: Local folder for the indexes; None for the shards' folder.
    """

    def __init__(
        self,
        where: str,
        files: ShardFiles,
        layout: str,
        scan: Callable[[BinaryIO, int, str], Index],
        folder: str | None,
    ) -> None:
        self._where = where
        self._files = files
        self._layout = layout
        self._scan = scan
        self._folder = folder

    def saved(self) -> Iterator[Index | None]:
        """Yield the saved index of each shard, in order; None where the shard has to be scanned."""
        numbers = range(len(self._files))
        for first in numbers[::_AT_ONCE]:
            yield from self._files.map(self._find, numbers[first : first + _AT_ONCE])

    def read(self, *, progress: bool) -> Generator[Index, None, None]:
        """Yield the index of each shard, in order, with few of them in memory.

        Args:
            progress: Show a bar on stderr, if it is a terminal, from the first scan on.

        Raises:
            OSError: A shard cannot be read, or the folder cannot be written.
            ValueError: A shard is damaged or holds something else.
        """
        numbers = range(len(self._files))
        workers = NUM_REQUESTS if self._files.buckets else NUM_SCANS
        with ThreadPool(workers) as pool, ExitStack() as shown:
            update: Callable[..., None] | None = None
            begun: deque[Index | Future[Index]] = deque()
            for first in [*numbers[::_AT_ONCE], len(numbers)]:
                block = numbers[first : first + _AT_ONCE]
                indexes = self._files.map(self._find, block)
                missing = [n for n, index in zip(block, indexes, strict=True) if index is None]
                if missing and update is None:
                    self._tidy()
                    of_shards = bar("Indexing shards", len(numbers), COUNTS, shown=progress)
                    update = shown.enter_context(of_shards)
                    update(completed=first - len(begun))
                for number, index in zip(block, indexes, strict=True):
                    begun.append(index or pool.submit(self._make_patiently, number))
                # The scans of this block have begun, so that no slow shard in front holds them up.
                while len(begun) > len(block):
                    oldest = begun.popleft()
                    yield oldest.result() if isinstance(oldest, Future) else oldest
                    if update is not None:
                        update(advance=1)

    def _tidy(self) -> None:
        # Once for each folder: to list a folder takes as long as the folder is large.
        paths = map(self._path, range(len(self._files)))
        for parent in {os.path.dirname(path) for path in paths if not is_url(path)}:
            remove_unfinished(parent or os.curdir)

    def _path(self, number: int) -> str:
        shard = self._files.names[number]
        if self._folder is None:
            return shard + INDEX_ENDING
        parent, _, name = (shard if is_url(shard) else os.path.abspath(shard)).rpartition("/")
        # Shards of several folders may have one name, as train/0000.tar and val/0000.tar.
        digest = blake2b(os.fsencode(parent), digest_size=4).hexdigest()
        return os.path.join(self._folder, f"{name}.{digest}{INDEX_ENDING}")

    def _find(self, number: int) -> Index | None:
        """Return the saved index of a shard, from the folder or from beside a shard in a bucket."""
        path = self._path(number)
        index = self._load(number, path)
        beside = self._files.names[number] + INDEX_ENDING
        if index is None and is_url(beside) and beside != path:
            index = self._load(number, beside)
            if index is not None:
                self._save(number, index, np.zeros(0, np.int64))
        return index

    def _load(self, number: int, path: str) -> Index | None:
        """Return the saved index of a shard; None where the shard has to be scanned again."""
        stat = self._files.stats[number]
        try:
            saved = self._saved(path)
            index = Index(*(saved[column] for column in Index._fields))
            format_of_index = saved["layout"].item(), saved["version"].item()
            size, tag = saved["shard_size"].item(), saved["shard_tag"].item()
            times = saved["shard_times"].tolist()
            marks = saved["marks"]
        except Exception:  # missing, denied, or damaged in many ways
            return None
        if format_of_index != (self._layout, INDEX_VERSION) or size != stat.size:
            return None
        if not _is_sound(index, size):
            return None
        if tag:
            return index if tag == stat.tag else None
        if marks.shape != (len(index.offset) + 1,) or marks.dtype != np.int64:
            return None
        is_remote = is_url(self._files.names[number])
        if not is_remote and times == [stat.modified, stat.changed]:
            return index
        gaps = np.arange(len(marks))
        if is_remote:
            gaps = np.unique(np.linspace(0, len(marks) - 1, _REMOTE_MARKS).astype(np.int64))
        try:
            if not np.array_equal(marks[gaps], self._marks(number, index, gaps)):
                return None
        except OSError:
            return None
        if not is_remote:
            with suppress(OSError):  # only saves the next comparison
                self._save(number, index, marks)
        return index

    def _saved(self, path: str) -> dict[str, np.ndarray]:
        """Return the arrays of an index's file.

        Raises:
            Exception: Of any class: the file cannot be read, is damaged, or is packed.
        """
        if is_url(path):
            bucket, key = split_url(path)
            content = self._files.buckets[bucket].read(key)
        else:
            content = read_regular(path)
        file = io.BytesIO(content.tobytes())
        with ZipFile(file) as members:  # a small packed one may fill the memory
            if any(member.compress_type != ZIP_STORED for member in members.infolist()):
                raise ValueError(path)
        with np.load(file, allow_pickle=False) as saved:
            return dict(saved)

    def _marks(self, number: int, index: Index, gaps: np.ndarray) -> np.ndarray:
        """Return digests of all bytes between images of a shard: ``[len(gaps)]`` int64.

        Args:
            number: Number of the shard.
            index: Its index.
            gaps: Numbers of gaps, ``[n]`` int64: 0 lies before the first image, and the last one
                behind the last image.

        Raises:
            OSError: The shard cannot be read, or has changed.
        """
        order = np.argsort(index.offset, kind="stable")
        begins = np.append(0, (index.offset + index.size)[order])
        ends = np.append(index.offset[order], self._files.stats[number].size)
        marks = np.zeros(len(gaps), np.int64)
        sides = np.stack([begins[gaps], ends[gaps]], 1).tolist()
        for position, (begin, end) in enumerate(sides):
            digest = blake2b(digest_size=8)
            for at in range(begin, end, _CHUNK):
                digest.update(self._files.read(number, at, min(_CHUNK, end - at)).data)
            marks[position] = int.from_bytes(digest.digest(), "little", signed=True)
        self._files.release(number)
        return marks

    def _make_patiently(self, number: int) -> Index:
        what = f"indexing {self._files.names[number]}"
        return patiently(lambda: self._make(number), self._where, what, is_of_machine)

    def _make(self, number: int) -> Index:
        shard, stat = self._files.names[number], self._files.stats[number]
        with self._files.scan(number) as file:
            index = self._scan(file, stat.size, printable(shard))
        if is_url(self._path(number)):
            return index
        num_gaps = 0 if is_url(shard) else len(index.offset) + 1
        marks = self._marks(number, index, np.arange(num_gaps))
        try:
            self._save(number, index, marks)
        except OSError:
            if self._folder is not None:
                raise
        return index

    def _save(self, number: int, index: Index, marks: np.ndarray) -> None:
        stat = self._files.stats[number]
        columns: dict[str, Any] = index._asdict()
        columns |= {"layout": self._layout, "version": INDEX_VERSION, "marks": marks}
        columns |= {"shard_size": stat.size, "shard_tag": stat.tag}
        columns |= {"shard_times": np.array([stat.modified, stat.changed], np.int64)}
        with replacing(self._path(number), tidies=False) as out:
            np.savez(out, **columns)


def _is_sound(index: Index, shard_size: int) -> bool:
    offset, size, label, head = index
    shapes = {(column.shape, column.dtype) for column in index}
    if not offset.ndim or shapes != {((len(offset),), np.dtype(np.int64))} or not len(offset):
        return False
    # No sum: numbers of a damaged index may overflow.
    inside = (head >= 0) & (offset >= head) & (size >= 0) & (label >= 0) & (label < MAX_CLASSES)
    inside &= (offset <= shard_size) & (size <= shard_size - offset)
    return bool(inside.all())
