"""Read stored images ahead of the graph, in the forms that DALI's decoders read soundly."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Protocol

import numpy as np

from dali_cutmix.core.errors import BadFileError
from dali_cutmix.core.reading import open_descriptor, patiently
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.kinds import Decoder, decoder_of, decoder_of_bytes
from dali_cutmix.sources.pillow import Decoded, PillowProcesses
from dali_cutmix.sources.upright import RefusedError

NUM_READERS = 16  # threads; they wait more than they work
DEPTH = 2  # batches read beyond the batch that is due

#: Stands for an image that cannot be read.
NOTHING = np.zeros(0, np.uint8)

#: Bytes. Headers of most files are shorter, and are read at once.
_HEAD = 4096

#: Of the module, since a loader with a lock of its own could not be pickled.
_MAKING_PROCESSES = threading.Lock()

#: Values of the array that remembers who decodes an image.
_UNKNOWN, _DALI, _PILLOW = 0, 1, 2


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


class Decodable:
    """Hand out images as the graph is fed them: as stored where DALI decodes them, else as a PPM.

    Who decodes an image is looked up once, from the first bytes of its file. Processes of Pillow
    start with the first file that needs one. Thread-safe.

    Args:
        images: The data.
        max_pixels: Most pixels of an image that Pillow decodes. None decodes all.
        num_processes: Most processes of Pillow at a time, at least 1.

    Attributes:
        kind: Of the data; see `StoredImages`.
        refused: Reasons by index of images that Pillow refused when they were read last.
    """

    def __init__(self, images: StoredImages, max_pixels: int | None, num_processes: int) -> None:
        self.kind = images.kind
        self.refused: dict[int, str] = {}
        self._images = images
        self._max_pixels = max_pixels
        self._num_processes = num_processes
        self._pillow: PillowProcesses | None = None
        self._decoders = np.full(len(images), _UNKNOWN, np.uint8)

    def waits(self, indices: Sequence[int]) -> bool:
        """Return whether `stored` waits for a disk, a network or a process, for these images."""
        is_known = self.kind == "pixels" or bool((self._decoders[indices] == _DALI).all())
        return self._images.reads or not is_known

    def stored(self, index: int) -> np.ndarray:
        """Return what the graph is fed for an image.

        Returns:
            As `StoredImages.stored` where DALI decodes the image. Else a binary PPM file:
            ``[size]`` uint8, of size 0 where Pillow refuses the image.

        Raises:
            OSError: The image cannot be read.
        """
        if self.kind == "pixels":
            return self._images.stored(index)
        decoder = self._decoders[index]
        if decoder == _DALI and self.kind == "path":
            return self._images.stored(index)
        encoded: np.ndarray | None = None
        if self.kind == "path":
            if decoder == _UNKNOWN:
                decoder = self._remember(index, _decoder_of_file(self._images.stored(index)))
        else:
            encoded = self._images.stored(index)
            if decoder == _UNKNOWN:
                decoder = self._remember(index, decoder_of_bytes(encoded))
        if decoder == _DALI:
            return self._images.stored(index) if encoded is None else encoded
        try:
            image = self.decode(self._images.encoded(index) if encoded is None else encoded)
        except RefusedError as error:
            self._decoders[index] = _UNKNOWN  # the file may be mended
            self.refused[index] = error.reason
            return NOTHING
        self.refused.pop(index, None)
        return image.ppm

    def are_paths(self, indices: Sequence[int]) -> np.ndarray:
        """Return whether `stored` returns the path of a file for images: ``[n]`` bool."""
        return np.asarray(self._decoders[indices] != _PILLOW) & (self.kind == "path")

    def decode(self, encoded: np.ndarray) -> Decoded:
        """Decode a file by Pillow; see `PillowProcesses.decode`."""
        with _MAKING_PROCESSES:
            if self._pillow is None:
                self._pillow = PillowProcesses(self._num_processes)
        return self._pillow.decode(encoded, self._max_pixels)

    def forget(self, indices: Sequence[int]) -> None:
        """Look again who decodes these images: their files may have changed."""
        self._decoders[indices] = _UNKNOWN

    def close(self) -> None:
        """End the processes of Pillow."""
        if self._pillow is not None:
            self._pillow.close()

    def _remember(self, index: int, decoder: Decoder) -> int:
        self._decoders[index] = _PILLOW if decoder == "pillow" else _DALI
        return int(self._decoders[index])


def stored_or_nothing(images: Readable, index: int) -> np.ndarray:
    """Return the array that the graph is fed for an image; `NOTHING` if it cannot be read."""
    try:
        return images.stored(index)
    except (OSError, MemoryError):
        return NOTHING


def read_patiently(images: StoredImages, index: int, where: str) -> np.ndarray:
    """Return the bytes of an image file, ``[size]`` uint8; wait where the storage is in trouble.

    Args:
        images: The data.
        index: Index of the image.
        where: Name of the caller, for messages.

    Raises:
        OSError: The image cannot be read, and will not be.
        TroubleError: The machine or the storage is in trouble, and stayed in trouble.
    """
    what = f"reading {images.path(index)}"
    return patiently(lambda: images.encoded(index), where, what)


def _decoder_of_file(path: np.ndarray) -> Decoder:
    # Without a buffered file, whose making takes longer than all the rest.
    file = open_descriptor(path.tobytes())
    try:
        head = os.pread(file, _HEAD, 0)

        def read_at(at: int, size: int) -> bytes:
            if at + size <= len(head):
                return head[at : at + size]
            return os.pread(file, size, at)

        return decoder_of(read_at, head)
    finally:
        os.close(file)
