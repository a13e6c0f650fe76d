"""Read regular files only, and wait out trouble of the machine or the storage, which passes.

A FIFO, a socket or a device would be waited for without end. A bad file stays bad.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import numpy as np

from dali_cutmix.core.errors import TroubleError

T = TypeVar("T")

#: Editors write the mark at the beginning of a text, and a second one before the first.
BYTE_ORDER_MARK = "\ufeff"

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}

#: Seconds between tries, 13 in all: a full table of descriptors or a server that starts again.
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)

#: Errors that say nothing about a file. `TimeoutError` and `ConnectionError` hold some more.
_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECOMM,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EKEYEXPIRED,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOLCK,
    errno.ENOLINK,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.EPROTO,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIME,
}

#: Errors that a network's file system gives for a while, and a bad sector or a missing device for
#: ever.
_UNSURE = (errno.EIO, errno.ENODEV, errno.ENXIO)
#: Pauses after which such an error counts against the file.
_PAUSES_OF_UNSURE = 4


def open_regular(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read its bytes. Links are followed.

    Args:
        path: The file.

    Returns:
        The file, buffered. Pass ``fileno()`` to functions that read by position.

    Raises:
        OSError: The path leads to anything but a regular file, or the file cannot be opened. The
            error holds the path, and returns at once whatever the path leads to.
    """
    return open(open_descriptor(os.fspath(path)), "rb")


def read_regular(path: str | bytes | os.PathLike[str]) -> np.ndarray:
    """Return the bytes of a regular file: ``[size]`` uint8, not to be written to.

    Raises:
        OSError: See `open_regular`; or reading fails.
    """
    with open_regular(path) as file:
        # `np.fromfile` takes an error for the end of the file.
        return np.frombuffer(file.read(), np.uint8)


def read_text(path: str | bytes | os.PathLike[str], errors: str = "strict") -> str:
    r"""Return the text of a regular file in UTF-8, without byte order marks at its beginning.

    Args:
        path: The file.
        errors: As of ``bytes.decode``.

    Returns:
        The text, with lines as they are stored: they may end in ``\r\n``.

    Raises:
        OSError: See `open_regular`.
        UnicodeDecodeError: The bytes are not UTF-8, and ``errors`` is ``"strict"``.
    """
    with open_regular(path) as file:
        return file.read().decode("utf-8", errors).lstrip(BYTE_ORDER_MARK)


def check_regular(mode: int, path: str | bytes | os.PathLike[str]) -> None:
    """Refuse the ``st_mode`` of anything but a regular file.

    Raises:
        OSError: The path leads to a folder, a FIFO, a socket or a device, or ``mode`` is that of a
            link, as ``os.lstat`` returns it.
    """
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.EINVAL, f"not a regular file, but {kind}", path)


def open_descriptor(path: str | bytes, flags: int = os.O_RDONLY | os.O_CLOEXEC) -> int:
    """Open a regular file, and return a descriptor, which the caller closes.

    Raises:
        OSError: See `open_regular`.
    """
    # Looked at before: to open a device, or to open a FIFO and close it, has effects. Looked at
    # afterwards too: the path may lead elsewhere by then. O_NONBLOCK changes no regular file.
    try:
        check_regular(os.stat(path).st_mode, path)
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a zero byte, which no path can hold
        raise OSError(errno.EINVAL, f"not a path: {error}", path) from None
    return regular_or_closed(descriptor, path)


def regular_or_closed(descriptor: int, path: str | bytes) -> int:
    """Return the descriptor of a regular file. Close and refuse any other.

    Raises:
        OSError: See `check_regular`.
    """
    try:
        check_regular(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class AwayError(OSError):
    """Say that a storage or a resource cannot be had for now."""


def is_transient(error: BaseException) -> bool:
    """Return whether an error is trouble of the machine or the storage, and no file's fault."""
    return isinstance(error, AwayError) or is_of_machine(error)


def is_of_machine(error: BaseException) -> bool:
    """Return whether an error is trouble of the system, which says so by number."""
    if isinstance(error, (ConnectionError, MemoryError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT


def patiently(
    attempt: Callable[[], T],
    where: str,
    what: str,
    waits: Callable[[BaseException], bool] = is_transient,
) -> T:
    """Call a function, again after a pause where trouble stops the function.

    Args:
        attempt: May be called several times.
        where: Name of the caller, for messages.
        what: The work, for messages, as in "reading a.jpg".
        waits: Returns whether an error is trouble that is waited out.

    Raises:
        TroubleError: The trouble outlasts `PAUSES`.
        OSError: The system's input/output error stays, or no device answers: the file is bad. Or
            another error.
    """
    for number, pause in enumerate(PAUSES):
        try:
            return attempt()
        except Exception as error:
            may_pass = number < _PAUSES_OF_UNSURE and _is_unsure(error)
            if not may_pass and not waits(error):
                raise
        time.sleep(pause)
    try:
        return attempt()
    except Exception as error:
        if not waits(error):
            raise
        raise TroubleError(where, what, _reason_of(error), len(PAUSES)) from error


def _is_unsure(error: Exception) -> bool:
    """Return whether the system raised such an error: this package uses the numbers too."""
    if not isinstance(error, OSError) or error.errno not in _UNSURE:
        return False
    return error.strerror == os.strerror(error.errno)


def _reason_of(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory {error}".strip()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
