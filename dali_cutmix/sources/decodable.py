"""`Decodable`: stored images in the forms that DALI's decoders read soundly."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import numpy as np

from dali_cutmix.core.regular import open_descriptor
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.kinds import Decoder, decoder_of, reader_of
from dali_cutmix.sources.pillow import Decoded, PillowProcesses
from dali_cutmix.sources.read_ahead import NOTHING
from dali_cutmix.sources.upright import RefusedError

#: Bytes. Headers of most files are shorter, and are read at once.
_HEAD = 4096

#: Of the module, since a loader with a lock of its own could not be pickled.
_MAKING_PROCESSES = threading.Lock()

#: Values of the array that remembers who decodes an image.
_UNKNOWN, _DALI, _PILLOW = 0, 1, 2


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


def decoder_of_bytes(encoded: np.ndarray) -> Decoder:
    """Return who decodes an image file: ``[size]`` uint8."""
    return decoder_of(reader_of(encoded))


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
