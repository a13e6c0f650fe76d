"""Read regular files only: a FIFO, a socket or a device would be waited for without end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

import numpy as np

#: Editors write the mark at the beginning of a text, and a second one before the first.
BYTE_ORDER_MARK = "\ufeff"

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}


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
