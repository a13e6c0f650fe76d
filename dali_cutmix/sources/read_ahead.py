"""Reads stored images before they are due, in threads: for storage that the graph cannot read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np

from dali_cutmix.sources.base import StoredImages

NUM_READERS = 16  # they wait more than they work
DEPTH = 2  # batches read beyond the one that is asked for

NOTHING = np.zeros(0, np.uint8)


class ReadAhead:
    """Hands out the stored images of batch after batch, and starts on those that come next.

    What cannot be read is handed out as nothing, zero bytes, which fails to decode in its turn:
    the batches before it are still served.

    Args:
        images: The data.
        indices: Indices of a batch by its number; none after the last.
    """

    def __init__(self, images: StoredImages, indices: Callable[[int], Sequence[int]]) -> None:
        self._images = images
        self._indices = indices
        self._threads: ThreadPoolExecutor | None = None
        self._begun: dict[int, list[Future[list[np.ndarray]]]] = {}
        self._next: int | None = None  # the batch that is to be begun next

    def batch(self, number: int) -> list[np.ndarray]:
        """The stored images of one batch."""
        if not self._images.reads:
            return self._read(self._indices(number))
        # The first that is asked for is the first of all; after it they may come out of order.
        self._next = number if self._next is None else self._next
        while self._next <= number + DEPTH:
            self._begun[self._next] = self._begin(self._indices(self._next))
            self._next += 1
        parts = self._begun.pop(number)
        return list(chain.from_iterable(part.result() for part in parts))

    def forget(self) -> None:
        """Drop what was begun: the batches are others now."""
        for part in chain.from_iterable(self._begun.values()):
            part.cancel()
        self._begun.clear()
        self._next = None

    def close(self, *, wait: bool = True) -> None:
        """Stop the threads and let the data go; without ``wait`` where a fork left them behind."""
        threads, self._threads = self._threads, None
        if threads is not None and wait:
            self.forget()
            threads.shutdown(wait=False, cancel_futures=True)
        if hasattr(self, "_images"):
            del self._images, self._indices

    def _begin(self, indices: Sequence[int]) -> list[Future[list[np.ndarray]]]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(NUM_READERS, "dali_cutmix-read")
        # A thread takes several images at once, since handing over costs as much as a small read.
        step = max(1, len(indices) // NUM_READERS)
        return [
            self._threads.submit(self._read, indices[first : first + step])
            for first in range(0, len(indices), step)
        ]

    def _read(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [self._read_one(index) for index in indices]

    def _read_one(self, index: int) -> np.ndarray:
        try:
            return self._images.stored(index)
        except OSError:
            return NOTHING
