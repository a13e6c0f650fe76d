"""Locks between processes, each on a file in the folder that they write to."""

from __future__ import annotations

import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from dali_cutmix.core.errors import printable

#: Seconds after which a process that waits for another one says so.
SILENT_S = 5.0
_LOCK = ".dali-cutmix-index.lock"


@contextmanager
def one_at_a_time(where: str, folder: str, work: str = "indexes shards") -> Iterator[bool]:
    """Let one process at a time go on, as far as the folder takes a lock.

    Args:
        where: Name of the caller, for messages.
        folder: Local folder in which the processes write.
        work: Verb and object: the work of the other process, for messages.

    Yields:
        Whether another process had to end first.
    """
    path = os.path.join(folder, _LOCK)
    has_waited = False
    with ExitStack() as opened:
        with suppress(OSError):  # no locks, or another user's file
            is_locked = False
            while not is_locked:  # else removed by the process before
                # For writing: NFS locks no folder, and no file that is only read. See flock(2).
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(path, flags, 0o666)
                opened.callback(os.close, descriptor)
                has_waited |= _lock(descriptor, where, f"{work} in {printable(folder)}")
                is_locked = is_named(descriptor, path)
            opened.callback(_remove, path)  # before the lock ends
        yield has_waited


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _lock(descriptor: int, where: str, work: str) -> bool:
    """Lock a file, and return whether another process had to end first."""
    end = time.monotonic() + SILENT_S
    has_waited = False
    while not has_waited or time.monotonic() < end:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return has_waited
        has_waited = True
        time.sleep(0.1)
    warnings.warn(
        f"{where}: waiting for another process, which {work}.",
        RuntimeWarning,
        stacklevel=2,
    )
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return True


def is_named(descriptor: int, path: str) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
