"""`MaskCache`: decoded masks in memory, compressed."""

from __future__ import annotations

import numpy as np

from dali_cutmix.core.extras import import_extra

#: Higher levels take several times as long to compress, and save a third of the memory.
_LEVEL = 3


class MaskCache:
    """Keep decoded masks in memory, compressed by Zstandard. Thread-safe.

    A copy, in this process or in another, begins empty.

    Raises:
        ImportError: zstandard is missing.
    """

    def __init__(self, where: str) -> None:
        self._zstandard = import_extra(
            where, "zstandard", extra="masks", way_out="leave out `cache`"
        )
        self._where = where
        self._masks: dict[int, tuple[tuple[int, ...], bytes]] = {}

    def __reduce__(self) -> tuple[type[MaskCache], tuple[str]]:
        return type(self), (self._where,)

    def get(self, index: int) -> np.ndarray | None:
        """Return a mask as it was put: uint8 of any shape, read-only; None if it was not."""
        kept = self._masks.get(index)
        if kept is None:
            return None
        shape, compressed = kept
        # Threads must not share a decompressor. To make one takes microseconds.
        pixels = self._zstandard.ZstdDecompressor().decompress(compressed)
        return np.frombuffer(pixels, np.uint8).reshape(shape)

    def put(self, index: int, mask: np.ndarray) -> None:
        """Keep a mask: contiguous uint8 of any shape."""
        compressor = self._zstandard.ZstdCompressor(level=_LEVEL)
        self._masks[index] = mask.shape, compressor.compress(mask)
