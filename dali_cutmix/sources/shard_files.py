"""Shards, which are files of many images: listed by pattern, read by byte range."""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import resource
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.core.regular import check_regular, open_regular
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.core.trouble import is_of_machine, patiently
from dali_cutmix.sources.bucket import NUM_REQUESTS, TIMEOUTS, Bucket, Timeouts, is_url, split_url
from dali_cutmix.sources.cache import ShardCache
from dali_cutmix.sources.fetching import Fetching

#: Bytes of a shard in a bucket that a scan fetches at once.
SCAN_BYTES = 8 << 20

T = TypeVar("T")

#: What may follow the pattern of a shard's name where the shard is compressed.
_COMPRESSED = r"\.(gz|bz2|xz|zst|lz4|Z)|[^.].*\.(tgz|tbz2?|txz|tzst)"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test)(?![a-z])", re.IGNORECASE)


def find_shards(
    where: str, shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], names: str
) -> list[str]:
    """Return the paths and URLs of all shards that patterns name.

    Args:
        where: Name of the caller, for messages.
        shards: A path or URL, or several; ``~`` is the home folder. Each may be a folder (in a
            bucket: end with a slash), or hold brace ranges and lists as in WebDataset,
            ``train-{0000..0127}.tar``, or the wildcards ``*`` and ``?``. Matches and the shards of
            a folder are sorted.
        names: Regular expression that the full names of shards in a folder match, in either case.
            Where none does, compressed shards are returned, to be refused for what they are.

    Raises:
        FileNotFoundError: A pattern or a folder has no shards.
        ValueError: No shard is named, a shard is named twice, a folder has several splits, or a
            pattern holds a zero byte.
    """
    if not isinstance(shards, (str, os.PathLike)) and not isinstance(shards, Iterable):
        refuse(where, "shards", "be a path or URL, or several", shards)
    patterns = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    paths = [
        path
        for pattern in patterns
        for plain in _expand_braces(local_path(where, "shards", pattern))
        for path in _match(where, plain, names)
    ]
    if not paths:
        refuse(where, "shards", "name at least one shard", shards)
    files = [path if is_url(path) else os.path.realpath(path) for path in paths]
    if len(set(files)) < len(files):
        twice = next(path for path, file in zip(paths, files, strict=True) if files.count(file) > 1)
        refuse(where, "shards", f"name each shard once, and {twice!r} comes twice", shards)
    return paths


def _expand_braces(pattern: str) -> list[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None or (not is_url(pattern) and os.path.exists(pattern)):
        return [pattern]
    head, tails = pattern[: braces.start()], _expand_braces(pattern[braces.end() :])
    return [head + item + tail for item in _items(braces[1]) for tail in tails]


def _items(braced: str) -> list[str]:
    ends = _RANGE.fullmatch(braced)
    if ends is None:
        return braced.split(",") if "," in braced else ["{" + braced + "}"]
    first, last = int(ends[1]), int(ends[2])
    padded = any(len(end) > 1 and end.startswith("0") for end in ends.groups())
    width = max(map(len, ends.groups())) if padded else 0
    step = 1 if first <= last else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _match(where: str, plain: str, names: str) -> list[str]:
    has_wildcard = "*" in plain or "?" in plain
    is_folder = plain.endswith("/") if is_url(plain) else os.path.isdir(plain)
    if not has_wildcard and not is_folder:
        return [plain]
    if is_url(plain):
        matching, beside = _match_in_bucket(plain)
    elif is_folder:
        matching, beside = [os.path.join(plain, name) for name in os.listdir(plain)], []
    else:
        matching, beside = glob.glob(plain.replace("[", "[[]")), []
    if is_folder:
        matching = _named(names, matching) or _named(f"({names}){_COMPRESSED}", matching)
        _refuse_several_splits(where, plain, matching)
    if not matching:
        what = "holds no shards" if is_folder else "matches no file"
        way_out = f" Beside it lie {', '.join(sorted(beside)[:3])}." if beside else ""
        raise FileNotFoundError(f"{where}: {plain!r} {what}.{way_out}")
    return sorted(matching)


def _named(names: str, paths: Sequence[str]) -> list[str]:
    pattern = re.compile(names, re.IGNORECASE)
    return [path for path in paths if pattern.fullmatch(path.rpartition("/")[2])]


def _match_in_bucket(plain: str) -> tuple[list[str], list[str]]:
    """Return ``(matching URLs, other names in the folder)``; only the name may have wildcards."""
    name, key = split_url(plain)
    bucket = Bucket(name)
    folder, slash, last = key.rpartition("/")
    _, keys = bucket.list_folder(folder + slash)
    parts = ({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in last)
    pattern = "".join(parts) or ".*"
    matching: list[str] = []
    beside: list[str] = []
    for listed in keys:
        base = listed.rpartition("/")[2]
        (matching if re.fullmatch(pattern, base) else beside).append(base)
    return [bucket.url(folder + slash + base) for base in matching], beside


def _refuse_several_splits(where: str, folder: str, shards: Sequence[str]) -> None:
    names = (_SPLIT.search(shard.rpartition("/")[2]) for shard in shards)
    splits = {name[1].lower() for name in names if name}
    if len(splits) > 1:
        rule = f"be shards of one split, and this folder has {', '.join(sorted(splits))}"
        pattern = os.path.join(folder, f"*{min(splits)}*")
        refuse(where, "shards", rule, folder, f"Pass a pattern like {pattern!r}.")


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

    def scan(self, number: int) -> BinaryIO:
        """Open a shard to read it from its beginning to its end."""
        name = self.names[number]
        if not is_url(name):
            return open_regular(name)
        if self.fetching is not None and (file := self.fetching.scan(number)) is not None:
            return file
        bucket, key = split_url(name)
        stat = self.stats[number]
        return io.BufferedReader(_Object(self.buckets[bucket], key, stat), SCAN_BYTES)

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
