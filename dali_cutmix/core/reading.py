"""Read regular files only, wait out trouble that passes, and read ahead of the graph in threads.

A FIFO, a socket or a device would be waited for without end. Trouble of the machine or the storage
is waited out; a bad file stays bad.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import BinaryIO, Protocol, TypeVar

import numpy as np

from dali_cutmix.core.errors import BadFileError, TroubleError
from dali_cutmix.core.threads import ThreadPool

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

NUM_READERS = 16  # threads; they wait more than they work
DEPTH = 2  # batches read beyond the batch that is due

#: Stands for an image that cannot be read.
NOTHING = np.zeros(0, np.uint8)


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


class Readable(Protocol):
    """Give stored arrays by index: `StoredImages`, `Decodable` and `Masks` do."""

    def waits(self, indices: Sequence[int]) -> bool:
        """Return whether `stored` waits for a disk, a network or a process, for these images."""

    def stored(self, index: int) -> np.ndarray:
        """Return the array that the graph is fed for an image."""


class ReadAhead:
    """Hand out the stored images of batch after batch, and start reading the next batches.

    An image that cannot be read is handed out as zero bytes, which fail to decode in their turn:
    the batches before are still served.

    Args:
        images: The data.
        indices: Returns the indices of a batch by its number; none after the last.
        num_readers: Threads, at least 1.
    """

    def __init__(
        self,
        images: Readable,
        indices: Callable[[int], Sequence[int]],
        num_readers: int = NUM_READERS,
    ) -> None:
        self._images = images
        self._indices = indices
        self._pool = ThreadPool(num_readers)
        self._begun: dict[int, tuple[Sequence[int], list[Future[list[np.ndarray]]]]] = {}
        self._next: int | None = None  # number of the batch to begin next

    def batch(self, number: int) -> tuple[list[int], list[np.ndarray]]:
        """Return indices and stored images of a batch, the indices as they were when begun.

        The first call may ask for any batch number. Later calls skip no number.

        Raises:
            BadFileError: See ``indices``, for this batch. A later batch that fails is begun again.
        """
        # The first number asked for is the smallest; later numbers may come out of order.
        self._next = number if self._next is None else self._next
        while self._next <= number + DEPTH:
            try:
                indices = self._indices(self._next)
            except BadFileError:
                if self._next <= number:
                    raise
                break
            self._begun[self._next] = indices, self._begin(indices)
            self._next += 1
        indices, parts = self._begun.pop(number)
        if not parts:  # nothing to wait for
            return list(indices), self._read(indices)
        return list(indices), list(chain.from_iterable(part.result() for part in parts))

    def forget(self) -> None:
        """Drop what was read: the next numbers mean other batches."""
        for _, parts in self._begun.values():
            for part in parts:
                part.cancel()
        self._begun.clear()
        self._next = None

    def close(self) -> None:
        """Let the data go and stop the threads."""
        self.forget()
        self._pool.close(wait=False)  # a read may take long, and nobody needs its result
        if hasattr(self, "_images"):
            del self._images, self._indices

    def _begin(self, indices: Sequence[int]) -> list[Future[list[np.ndarray]]]:
        if not self._images.waits(indices):
            return []
        # A thread takes several images at once, since handing over costs as much as a small read.
        step = max(1, len(indices) // NUM_READERS)
        return [
            self._pool.submit(self._read, indices[first : first + step])
            for first in range(0, len(indices), step)
        ]

    def _read(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [stored_or_nothing(self._images, index) for index in indices]


def stored_or_nothing(images: Readable, index: int) -> np.ndarray:
    """Return the array that the graph is fed for an image; `NOTHING` if it cannot be read."""
    try:
        return images.stored(index)
    except (OSError, MemoryError):
        return NOTHING


def _is_unsure(error: Exception) -> bool:
    """Return whether the system raised such an error: this package uses the numbers too."""
    if not isinstance(error, OSError) or error.errno not in _UNSURE:
        return False
    return error.strerror == os.strerror(error.errno)


def _reason_of(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory {error}".strip()
    return why_unreadable(error) if isinstance(error, OSError) else str(error)


def why_unreadable(error: OSError) -> str:
    """Return why a file cannot be read. Of a missing relative path, say where the path starts."""
    reason, path = error.strerror or str(error), error.filename
    if reason != os.strerror(errno.ENOENT) or not isinstance(path, (str, bytes)):
        return reason
    path = os.fsdecode(path)
    if os.path.isabs(path) or "://" in path:
        return reason
    return f"{reason}: the path is relative, and the present folder is {_present_folder()}"


def _present_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "gone"
