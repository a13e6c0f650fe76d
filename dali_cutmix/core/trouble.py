"""Wait out trouble of the machine or the storage, which passes; a bad file stays bad."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from dali_cutmix.core.errors import TroubleError

T = TypeVar("T")

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
