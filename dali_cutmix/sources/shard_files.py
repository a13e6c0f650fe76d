"""Shards, which are files of many images, read by byte range."""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from dali_cutmix.core.reading import check_regular, is_of_machine, open_regular, patiently
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.bucket import NUM_REQUESTS, TIMEOUTS, Bucket, Timeouts, is_url, split_url
from dali_cutmix.sources.cache import ShardCache
from dali_cutmix.sources.fetching import Fetching

#: Bytes of a shard in a bucket that a scan fetches at once.
SCAN_BYTES = 8 << 20

T = TypeVar("T")


class Stat(NamedTuple):
    """Tell whether a shard has changed since it was indexed.

    Args:
        size: Bytes of the shard; -1 if the shard does not exist.
        tag: Entity tag of an object in a bucket; empty for a file.
        modified: Nanoseconds, time of a file's last modification, which programs may set; 0 for an
            object in a bucket.
        changed: Nanoseconds, time of a file's last change of content, name or mode, which no
            program sets; 0 for an object in a bucket.
        number: Number of a file in its file system; 0 for an object in a bucket.
    """

    size: int
    tag: str = ""
    modified: int = 0
    changed: int = 0
    number: int = 0


class ShardFiles:
    """Read byte ranges of shards on a disk or in buckets. Thread-safe; may be pickled.

    Files are opened at the first read, and a limited number is open at any time.

    Args:
        where: Name of the caller, for messages.
        shards: Paths or URLs.
        timeouts: How long the server of a bucket may be silent.
        cache: Where whole shards of buckets are kept; None reads ranges.
        shows: Show a bar while a read waits for a shard.

    Raises:
        FileNotFoundError: A shard does not exist.
    """

    def __init__(
        self,
        where: str,
        shards: Sequence[str],
        timeouts: Timeouts = TIMEOUTS,
        cache: ShardCache | None = None,
        *,
        shows: bool = True,
    ) -> None:
        self.names = list(shards)
        buckets = {split_url(shard)[0] for shard in self.names if is_url(shard)}
        self.buckets = {name: Bucket(name, timeouts) for name in buckets}
        self._open: dict[int, _Descriptor] = {}
        self.stats = self.map(
            lambda number: patiently(
                lambda: self._stat(number), where, f"looking at {shards[number]}", is_of_machine
            ),
            range(len(self.names)),
        )
        missing = [name for name, stat in zip(self.names, self.stats, strict=True) if stat.size < 0]
        if missing:
            rest = f", and {len(missing) - 1} more of {len(self.names)}" if missing[1:] else ""
            raise FileNotFoundError(f"{where}: the shard {missing[0]!r} does not exist{rest}.")
        self.fetching: Fetching | None = None
        if cache is not None and self.buckets:
            cache.check_size(where, max(stat.size for stat in self.stats))
            objects = [(n, s.tag, s.size) for n, s in zip(self.names, self.stats, strict=True)]
            self.fetching = Fetching(where, cache, objects, self._request, shows=shows)

    def __len__(self) -> int:
        return len(self.names)

    def map(self, function: Callable[[int], T], numbers: Sequence[int]) -> list[T]:
        """Call a function for the number of each shard, in threads where a bucket is waited for."""
        if not self.buckets:
            return [function(number) for number in numbers]
        with ThreadPool(NUM_REQUESTS) as pool:
            return pool.map(function, numbers)

    def read(self, number: int, offset: int, size: int) -> np.ndarray:
        """Return bytes of a shard: ``[size]`` uint8, not to be written to.

        Args:
            number: Number of the shard, from 0.
            offset: First byte.
            size: Number of bytes.

        Raises:
            FileNotFoundError: The shard no longer exists.
            OSError: The shard cannot be read, or has changed.
        """
        if is_url(self.names[number]):
            cached = None
            if self.fetching is not None:
                cached = self.fetching.read(number, offset, size)
            if cached is not None:
                return np.frombuffer(cached, np.uint8)
            return self._request(number, offset, size)
        try:
            data = np.frombuffer(self._descriptor(number).read(offset, size), np.uint8)
        except OSError:
            self._open.pop(number, None)  # may be stale: the next try opens the file anew
            raise
        return self._complete(data, number, offset, size)

    def _request(self, number: int, offset: int, size: int) -> np.ndarray:
        """Return bytes of a shard in a bucket."""
        bucket, key = split_url(self.names[number])
        tag = self.stats[number].tag
        data = self.buckets[bucket].read_range(key, offset, size, tag=tag)
        return self._complete(data, number, offset, size)

    def _complete(self, data: np.ndarray, number: int, offset: int, size: int) -> np.ndarray:
        if len(data) != size:
            reason = f"the shard is truncated: it ends before byte {offset + size}"
            raise OSError(errno.EIO, reason, self.names[number])
        return data

    def release(self, number: int) -> None:
        """Close a shard until the next read, which looks again whether the shard has changed."""
        self._open.pop(number, None)

    def scan(self, number: int, at_once: int = SCAN_BYTES) -> BinaryIO:
        """Open a shard to read it from its beginning to its end.

        Args:
            number: Number of the shard, from 0.
            at_once: Bytes that a request for a part of a shard in a bucket fetches.
        """
        name = self.names[number]
        if not is_url(name):
            return open_regular(name)
        if self.fetching is not None and (file := self.fetching.scan(number)) is not None:
            return file
        bucket, key = split_url(name)
        stat = self.stats[number]
        return io.BufferedReader(_Object(self.buckets[bucket], key, stat), at_once)

    def _stat(self, number: int) -> Stat:
        name = self.names[number]
        try:
            if is_url(name):
                bucket, key = split_url(name)
                return Stat(*self.buckets[bucket].stat(key))
            stat = os.stat(name)
            check_regular(stat.st_mode, name)
            return _stat_of(stat)
        except FileNotFoundError:
            return Stat(-1)

    def _descriptor(self, number: int) -> _Descriptor:
        descriptor = self._open.get(number)
        if descriptor is not None:
            return descriptor
        # Without a lock, which a fork could leave locked for ever. A descriptor that is dropped
        # here stays open until the threads that read from it are done.
        descriptor = self._open[number] = _Descriptor(self.names[number], self.stats[number])
        while len(self._open) > _most_descriptors():
            with suppress(KeyError, RuntimeError, StopIteration):  # other threads drop some, too
                self._open.pop(next(iter(self._open)))
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def _stat_of(stat: os.stat_result) -> Stat:
    return Stat(stat.st_size, "", stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


class _Descriptor:
    def __init__(self, name: str, stat: Stat) -> None:
        self._file = open_regular(name)
        now = _stat_of(os.fstat(self._file.fileno()))
        # The times too: shards are padded, and often as long as their predecessors. A link or a
        # mode changes a time and not the number, a replacement changes both.
        is_other = now.changed != stat.changed and now.number != stat.number
        if (now.size, now.modified) != (stat.size, stat.modified) or is_other:
            reason = "the shard has changed since it was indexed. Make a new loader"
            raise OSError(errno.EIO, reason, name)

    def read(self, offset: int, size: int) -> bytes:
        # By position: threads and forked processes share the descriptor's own position.
        return os.pread(self._file.fileno(), size, offset)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self._file.close()  # without the warning of a file that is dropped open


def _most_descriptors() -> int:
    """Return a quarter of the process's limit, usually 1024: ImageNet has as many shards."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else max(1, soft // 4)


class _Object(io.RawIOBase):
    """Read an object in a bucket as a file.

    obstore's ``open_reader`` drops its buffer at every seek, as `tarfile` does at every member, and
    does not notice that the object was replaced.
    """

    def __init__(self, bucket: Bucket, key: str, stat: Stat) -> None:
        self._bucket, self._key, self._stat = bucket, key, stat
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stat.size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._stat.size - self._at))
        data = self._bucket.read_range(self._key, self._at, size, tag=self._stat.tag)
        buffer[: len(data)] = data.data
        self._at += len(data)
        return len(data)
