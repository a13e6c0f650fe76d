"""Read stored images in threads before they are due, where the graph cannot read the storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import chain

import numpy as np

from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.base import StoredImages

NUM_READERS = 16  # threads; they wait more than they work
DEPTH = 2  # batches read beyond the batch that is due

NOTHING = np.zeros(0, np.uint8)


class ReadAhead:
    """Hand out the stored images of batch after batch, and start reading the next batches.

    An image that cannot be read is handed out as zero bytes, which fail to decode in their turn:
    the batches before are still served.

    Args:
        images: The data.
        indices: Returns the indices of a batch by its number; none after the last.
    """

    def __init__(self, images: StoredImages, indices: Callable[[int], Sequence[int]]) -> None:
        self._images = images
        self._indices = indices
        self._pool = ThreadPool(NUM_READERS)
        self._begun: dict[int, list[Future[list[np.ndarray]]]] = {}
        self._next: int | None = None  # number of the batch to begin next

    def batch(self, number: int) -> list[np.ndarray]:
        """Return the stored images of a batch. The first number may be any; none is left out."""
        if not self._images.reads:
            return self._read(self._indices(number))
        # The first number asked for is the smallest; later numbers may come out of order.
        self._next = number if self._next is None else self._next
        while self._next <= number + DEPTH:
            self._begun[self._next] = self._begin(self._indices(self._next))
            self._next += 1
        parts = self._begun.pop(number)
        return list(chain.from_iterable(part.result() for part in parts))

    def forget(self) -> None:
        """Drop what was read: the next numbers mean other batches."""
        for part in chain.from_iterable(self._begun.values()):
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
