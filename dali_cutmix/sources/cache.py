"""Whole shards of buckets in a folder that the processes of one machine share."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b

from dali_cutmix.core.checks import check_count, local_path, refuse
from dali_cutmix.core.locks import is_named

#: Endings of a shard in the cache, and of a shard that is being fetched.
SHARD, PART = ".shard", ".shard.part"
_OURS = re.compile(r".*\.[0-9a-f]{16}\.shard(\.part)?", re.DOTALL)
_LOCK = ".dali-cutmix-cache.lock"
#: Seconds. A finished shard's time is set back by this much, so that it is evicted first.
_DONE_S = 10**9
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoRoomError(OSError):
    """Say that a shard does not fit into the cache beside those that are in use."""


class CachedShard:
    """Read a shard in the cache. While the object lives, no process evicts the shard.

    Args:
        descriptor: Of the file, which holds a shared lock. Closed with the object.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the shard, fewer where it ends."""
        # By position: threads share the descriptor's own position.
        return os.pread(self._descriptor, size, offset)

    def duplicate(self) -> int:
        """Return another descriptor of the file, which the caller closes."""
        return os.dup(self._descriptor)

    def done(self) -> None:
        """Let the shard be the first to be evicted, once nobody uses it."""
        with suppress(OSError):
            old = time.time() - _DONE_S
            os.utime(self._descriptor, (old, old))

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)


class ShardCache:
    """Keep whole shards in a folder, for all processes of one machine.

    | File | Is |
    | --- | --- |
    | ``NAME.DIGEST.shard`` | a complete shard; the digest is of URL, size and entity tag |
    | ``NAME.DIGEST.shard.part`` | a shard that the process which holds its lock is fetching |
    | ``.dali-cutmix-cache.lock`` | locked while files are counted and evicted |

    A shard gets its name when all its bytes are on the disk. A process that wants a shard which
    another is fetching waits for that process. All locks are the system's: they end with a process,
    however it ends, and the next process fetches again. A shard that is open is locked, and stays.
    Others are evicted when their room is needed, first those that a process was done with.

    Args:
        where: Name of the caller, for messages.
        folder: Local folder, made if missing.
        max_bytes: Most bytes of all shards in it; None for as many as the disk holds.

    Raises:
        OSError: The folder cannot be written, or its file system has no locks.
    """

    def __init__(self, where: str, folder: str | os.PathLike[str], max_bytes: int | None) -> None:
        self.folder = os.path.abspath(local_path(where, "cache_dir", folder))
        if max_bytes is not None:
            check_count(where, "cache_bytes", max_bytes, at_least=1)
        self._max_bytes = max_bytes
        os.makedirs(self.folder, exist_ok=True)
        try:
            with self._counting():
                pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            way_out = "Take a folder on a disk of the machine."
            refuse(where, "cache_dir", f"have locks ({error.strerror})", folder, way_out)

    def check_size(self, where: str, largest: int) -> None:
        """Refuse a limit that the largest shard alone exceeds."""
        if self._max_bytes is not None and largest > self._max_bytes:
            rule = f"be at least the {largest} bytes of the largest shard"
            refuse(where, "cache_bytes", rule, self._max_bytes)

    def open(self, url: str, tag: str, size: int) -> CachedShard | None:
        """Return a shard that is there; None where it has to be fetched.

        Args:
            url: URL of the shard.
            tag: Its entity tag.
            size: Its bytes. A file of another size is removed.
        """
        path = self._path(url, tag, size)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        shard = CachedShard(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a process that evicts the shard
        if not is_named(descriptor, path):
            return None
        if os.fstat(descriptor).st_size != size:
            with suppress(OSError):
                os.unlink(path)
            return None
        with suppress(OSError):
            os.utime(descriptor)
        return shard

    def fetch(
        self,
        url: str,
        tag: str,
        size: int,
        fill: Callable[[int], None],
        on_room: Callable[[], None] = lambda: None,
    ) -> CachedShard:
        """Return a shard, which is fetched unless it is there or another process fetches it.

        Args:
            url: URL of the shard.
            tag: Its entity tag.
            size: Its bytes.
            fill: Writes all bytes of the shard to a descriptor.
            on_room: Called once the shard has room, or another process fetches it.

        Raises:
            NoRoomError: The shard does not fit beside those in use, or the disk is full.
            OSError: ``fill`` raised, or the folder cannot be written.
        """
        path = self._path(url, tag, size)
        shard = self.open(url, tag, size)
        if shard is not None:
            return shard
        while True:
            part = path.removesuffix(SHARD) + PART
            with ExitStack() as until_open:
                with _open(part, os.O_RDWR | os.O_CREAT) as descriptor:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        on_room()
                        fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for who fetches the shard
                    if is_named(descriptor, part) and not os.path.exists(path):
                        self._complete(descriptor, part, path, size, fill, on_room)
                        # The lock on the shard ends with this block: nobody may evict it then.
                        until_open.enter_context(self._counting())
                shard = self.open(url, tag, size)
            if shard is not None:
                return shard

    def _complete(
        self,
        descriptor: int,
        part: str,
        path: str,
        size: int,
        fill: Callable[[int], None],
        on_room: Callable[[], None],
    ) -> None:
        try:
            os.ftruncate(descriptor, 0)  # what a killed process wrote
            self._reserve(descriptor, part, size)
            on_room()
            fill(descriptor)
            os.fsync(descriptor)  # else a shard might be there without its bytes after a crash
            os.replace(part, path)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(part)
            is_full = isinstance(error, OSError) and error.errno in _FULL
            if is_full and not isinstance(error, NoRoomError):
                raise self._no_room("the disk is full") from error
            raise

    def _reserve(self, descriptor: int, part: str, size: int) -> None:
        """Make room for a shard, by evicting others, and take it."""
        with self._counting():
            files = [file for file in self._files() if file[2] != part]
            taken = sum(size for _, size, _ in files)
            evictable = (path for _, _, path in sorted(files))
            while self._max_bytes is not None and taken + size > self._max_bytes:
                taken -= self._evict(evictable, f"cache_bytes={self._max_bytes}")
            while True:
                try:
                    return _allocate(descriptor, size)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                self._evict(evictable, "the disk is full")

    def _evict(self, paths: Iterator[str], reason: str) -> int:
        """Remove the next shard that nobody uses, and return its bytes."""
        for path in paths:
            with suppress(OSError), _open(path, os.O_RDWR) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = os.fstat(descriptor).st_size
                os.unlink(path)
                return size
        raise self._no_room(reason)

    def _no_room(self, reason: str) -> NoRoomError:
        text = f"no room for another shard beside those in use: {reason}"
        return NoRoomError(errno.ENOSPC, text, self.folder)

    def _files(self) -> list[tuple[float, int, str]]:
        """Return time, bytes and path of each shard, also of those being fetched."""
        files = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with suppress(OSError):
                        stat = entry.stat(follow_symlinks=False)
                        files.append((stat.st_mtime, stat.st_size, entry.path))
        return files

    @contextmanager
    def _counting(self) -> Iterator[None]:
        with _open(os.path.join(self.folder, _LOCK), os.O_RDWR | os.O_CREAT) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _path(self, url: str, tag: str, size: int) -> str:
        digest = blake2b(f"{url}\0{tag}\0{size}".encode("utf-8", "surrogateescape"), digest_size=8)
        name = url.rpartition("/")[2][-100:]
        return os.path.join(self.folder, f"{name}.{digest.hexdigest()}{SHARD}")


@contextmanager
def _open(path: str, flags: int) -> Iterator[int]:
    """Open a file, and close it with its locks at the end, whoever still holds an error."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Take room on the disk at once, so that a full disk shows before a shard is fetched."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        os.ftruncate(descriptor, size)
