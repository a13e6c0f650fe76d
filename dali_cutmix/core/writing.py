"""Write files so that others see the old content or the complete new content, and nothing else."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from dali_cutmix.core.reading import check_regular

_UNFINISHED = re.compile(r"\.dali-cutmix-[0-9a-z_]{8}\..*\.part", re.DOTALL)
#: Seconds after which an unfinished file is left over, where a file system has no locks.
_OLD_S = 86400.0


@contextmanager
def replacing(path: str | os.PathLike[str], *, tidies: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file that gets its name when the block ends without an error.

    Until then the new file lies beside the old one under a name that nobody can guess, and holds a
    lock. An error removes the new file. A process that is killed leaves the new file behind without
    its lock: the next call for the folder removes the file.

    Args:
        path: The file to write. A link is replaced, and its target stays as it is. The mode of an
            old file is kept.
        tidies: Remove what killed processes left in the folder; see `remove_unfinished`.

    Yields:
        The new file, empty, to write and to map. Its ``name`` is the name for the time being.

    Raises:
        OSError: The file cannot be written, or something other than a file has its name. Holds the
            path.
    """
    path = os.fspath(path)
    with _errors_of(path):
        mode = None
        with suppress(FileNotFoundError):
            mode = os.stat(path).st_mode
            check_regular(mode, path)
        folder, name = os.path.split(path)
        if tidies:
            remove_unfinished(folder or os.curdir)
        file = _locked_file(folder, name, mode)
    try:
        with _errors_of(path, file.name), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                _set_mode(file, mode)
            os.replace(file.name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(file.name)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text in UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def remove_unfinished(folder: str) -> None:
    """Remove the unfinished files in a folder that killed processes left behind.

    A file that is being written is locked, and stays. Where a file system has no locks, a file that
    nobody has written to for a day goes. Errors are passed over.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _UNFINISHED.fullmatch(entry.name)]:
            with suppress(OSError):  # gone, or another user's
                _remove_unless_locked(os.path.join(folder, name))


def _remove_unless_locked(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _locks(descriptor) or time.time() - os.fstat(descriptor).st_mtime > _OLD_S:
            os.unlink(path)
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    """Lock a file until it is closed, and return whether the file system has locks.

    Raises:
        BlockingIOError: The file is locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _locked_file(folder: str, name: str, mode: int | None) -> BinaryIO:
    """Create an unfinished file that no other process removes.

    Args:
        folder: Of the file; empty is the current one.
        name: That the file will get.
        mode: Of the file; None takes the usual one.
    """
    while True:
        # The end of the name is enough: a name has at most 255 bytes, and a character up to 4.
        unfinished = f".dali-cutmix-{secrets.token_hex(4)}.{name[-50:]}.part"
        path = os.path.join(folder or os.curdir, unfinished)
        try:
            file = open(path, "x+b")  # noqa: SIM115  # the caller closes the file
        except FileExistsError:
            continue
        if mode is not None:
            # At once, so that nobody else reads a private file while it is written. The owner may
            # write until the end: a lock, and with it the removal of a leftover, needs that.
            _set_mode(file, mode | 0o600)
        with suppress(BlockingIOError, FileNotFoundError):
            _locks(file.fileno())
            # Another process may have removed the file before the lock.
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        file.close()


def _set_mode(file: BinaryIO, mode: int) -> None:
    with suppress(OSError):  # some file systems have no modes
        os.fchmod(file.fileno(), mode & 0o777)


@contextmanager
def _errors_of(path: str, unfinished: str | None = None) -> Iterator[None]:
    """Name the file that was to be written in errors of the unfinished file."""
    try:
        yield
    except OSError as error:
        is_other = error.filename not in (None, unfinished, path) and unfinished is not None
        if error.errno is None or is_other:
            raise
        raise OSError(error.errno, error.strerror, path) from error
