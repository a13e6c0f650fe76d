"""Shards, files that hold many images each: found by pattern, and read by byte range."""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.bucket import NUM_REQUESTS, Bucket, is_url, split_url

SCAN_BYTES = 8 << 20  # of a shard in a bucket, fetched at once while it is read from end to end

T = TypeVar("T")
S = TypeVar("S")

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test)(?![a-z])", re.IGNORECASE)


def find_shards(
    where: str, shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], names: str
) -> list[str]:
    """Spell out paths and URLs of shards.

    Args:
        where: Who asks, for messages.
        shards: One path or URL, or several. Each may hold brace ranges and lists as WebDataset
            writes them, ``train-{0000..0127}.tar``; or the wildcards ``*`` and ``?``, whose
            matches are sorted; or be a folder (in a bucket: end with a slash), whose shards are
            taken as sorted.
        names: Regular expression that the names of shards in a folder match as a whole.

    Raises:
        FileNotFoundError: A pattern or a folder without shards.
        ValueError: None is given, one is given twice, or a folder has shards of several splits.
    """
    given = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    found = [
        shard
        for pattern in given
        for plain in _expand_braces(os.fspath(pattern))
        for shard in _match(where, plain, names)
    ]
    if not found:
        refuse(where, "shards", "name at least one shard", shards)
    files = [shard if is_url(shard) else os.path.realpath(shard) for shard in found]
    if len(set(files)) < len(files):
        twice = next(
            shard for shard, file in zip(found, files, strict=True) if files.count(file) > 1
        )
        refuse(where, "shards", f"name each shard once, and {twice!r} comes twice", shards)
    return found


def _expand_braces(pattern: str) -> list[str]:
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None or (not is_url(pattern) and os.path.exists(pattern)):
        return [pattern]
    tails = _expand_braces(pattern[found.end() :])
    return [pattern[: found.start()] + item + tail for item in _items(found[1]) for tail in tails]


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
        matching = [path for path in matching if re.fullmatch(names, path.rpartition("/")[2])]
        _refuse_several_splits(where, plain, matching)
    if not matching:
        what = "holds no shards" if is_folder else "matches no file"
        way_out = f" Beside it lie {', '.join(sorted(beside)[:3])}." if beside else ""
        raise FileNotFoundError(f"{where}: {plain!r} {what}.{way_out}")
    return sorted(matching)


def _match_in_bucket(plain: str) -> tuple[list[str], list[str]]:
    """``(matching URLs, other names in the same folder)``; wildcards stand in the name only."""
    name, key = split_url(plain)
    bucket = Bucket(name)
    folder, slash, last = key.rpartition("/")
    _, keys = bucket.list_folder(folder + slash)
    parts = ({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in last)
    pattern = "".join(parts) or ".*"
    matching: list[str] = []
    beside: list[str] = []
    for found in keys:
        base = found.rpartition("/")[2]
        (matching if re.fullmatch(pattern, base) else beside).append(base)
    return [bucket.url(folder + slash + base) for base in matching], beside


def _refuse_several_splits(where: str, folder: str, shards: Sequence[str]) -> None:
    splits = {
        found[1].lower() for shard in shards if (found := _SPLIT.search(shard.rpartition("/")[2]))
    }
    if len(splits) > 1:
        rule = f"be shards of one split, and this folder has {', '.join(sorted(splits))}"
        pattern = os.path.join(folder, f"*{min(splits)}*")
        refuse(where, "shards", rule, folder, f"Pass a pattern like {pattern!r}.")


class Stat(NamedTuple):
    """What tells whether a shard is still the one that was indexed.

    Args:
        size: In bytes; -1 when there is no such shard.
        tag: Entity tag of an object in a bucket; empty for a file.
        changed: Time of the last change of a file, in ns; 0 for an object in a bucket.
    """

    size: int
    tag: str
    changed: int


class ShardFiles:
    """Reads byte ranges of shards on a disk or in buckets. Thread-safe; may be pickled.

    Files are opened at the first read, and only a part of them is open at any time.

    Args:
        where: Who asks, for messages.
        shards: Paths or URLs.

    Raises:
        FileNotFoundError: One does not exist.
    """

    def __init__(self, where: str, shards: Sequence[str]) -> None:
        self.names = list(shards)
        buckets = {split_url(shard)[0] for shard in self.names if is_url(shard)}
        self.buckets = {name: Bucket(name) for name in buckets}
        self._open: dict[int, _Descriptor] = {}
        self.stats = self.find_out(self._stat, range(len(self.names)))
        missing = [name for name, stat in zip(self.names, self.stats, strict=True) if stat.size < 0]
        if missing:
            rest = f", and {len(missing) - 1} more of {len(self.names)}" if missing[1:] else ""
            raise FileNotFoundError(f"{where}: the shard {missing[0]!r} does not exist{rest}.")

    def __len__(self) -> int:
        return len(self.names)

    def find_out(self, ask: Callable[[S], T], over: Sequence[S]) -> list[T]:
        """Ask something of many shards: many at once where each has to wait for a bucket."""
        if not self.buckets:
            return [ask(item) for item in over]
        with ThreadPool(NUM_REQUESTS) as pool:
            return pool.map(ask, over)

    def read(self, number: int, offset: int, size: int) -> np.ndarray:
        """Bytes of one shard: ``[size]`` uint8, not to be written to.

        Args:
            number: Of the shard.
            offset: First byte.
            size: Number of bytes.

        Raises:
            FileNotFoundError: The shard is not there any more.
            OSError: It cannot be read, or has another size or tag than it had at first.
        """
        name, stat = self.names[number], self.stats[number]
        if is_url(name):
            bucket, key = split_url(name)
            found = self.buckets[bucket].read_range(key, offset, size, tag=stat.tag)
        else:
            found = np.frombuffer(self._descriptor(number).read(offset, size), np.uint8)
        if len(found) != size:
            reason = f"the shard is cut short: it ends before byte {offset + size}"
            raise OSError(errno.EIO, reason, name)
        return found

    def scan(self, number: int) -> BinaryIO:
        """Open one shard to read it from its beginning to its end."""
        name = self.names[number]
        if not is_url(name):
            return open(name, "rb")
        bucket, key = split_url(name)
        stat = self.stats[number]
        return io.BufferedReader(_Object(self.buckets[bucket], key, stat), SCAN_BYTES)

    def _stat(self, number: int) -> Stat:
        name = self.names[number]
        try:
            if is_url(name):
                bucket, key = split_url(name)
                return Stat(*self.buckets[bucket].stat(key), 0)
            found = os.stat(name)
            return Stat(found.st_size, "", found.st_mtime_ns)
        except FileNotFoundError:
            return Stat(-1, "", 0)

    def _descriptor(self, number: int) -> _Descriptor:
        found = self._open.get(number)
        if found is not None:
            return found
        # Without a lock, which a fork could leave locked for ever. A thread that still reads from
        # what is thrown out here keeps it open until it is done.
        found = self._open[number] = _Descriptor(self.names[number], self.stats[number])
        while len(self._open) > _most_descriptors():
            with suppress(KeyError, RuntimeError, StopIteration):  # other threads throw out, too
                self._open.pop(next(iter(self._open)))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


class _Descriptor:
    def __init__(self, name: str, stat: Stat) -> None:
        self._number = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        now = os.fstat(self._number)
        # The time too: shards are padded, and often as long as the one that they replace.
        if (now.st_size, now.st_mtime_ns) != (stat.size, stat.changed):
            reason = "the shard has changed since it was indexed. Make the loader anew"
            raise OSError(errno.EIO, reason, name)

    def read(self, offset: int, size: int) -> bytes:
        # By position, which threads and forked processes that share the descriptor do not share.
        return os.pread(self._number, size, offset)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._number)


def _most_descriptors() -> int:
    """A quarter of what the process may have open: ImageNet has 1024 shards, the usual limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else max(1, soft // 4)


class _Object(io.RawIOBase):
    """An object in a bucket as a file to read."""

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
        wanted = max(0, min(len(buffer), self._stat.size - self._at))
        found = self._bucket.read_range(self._key, self._at, wanted, tag=self._stat.tag)
        buffer[: len(found)] = found.data
        self._at += len(found)
        return len(found)
