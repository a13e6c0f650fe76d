"""Read stored images in threads before they are due, where the graph cannot read the storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Protocol

import numpy as np

from dali_cutmix.core.errors import BadFileError
from dali_cutmix.core.threads import ThreadPool

NUM_READERS = 16  # threads; they wait more than they work
DEPTH = 2  # batches read beyond the batch that is due

NOTHING = np.zeros(0, np.uint8)


class Readable(Protocol):
    """What `ReadAhead` reads: `StoredImages` and `Decodable`."""

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

        The first number may be any; none is left out.

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
        return [self._read_image(index) for index in indices]

    def _read_image(self, index: int) -> np.ndarray:
        try:
            return self._images.stored(index)
        except (OSError, MemoryError):
            return NOTHING
