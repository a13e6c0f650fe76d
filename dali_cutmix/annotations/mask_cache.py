"""`MaskCache`: decoded masks in memory, compressed."""

from __future__ import annotations

import mmap
import threading

import numpy as np

from dali_cutmix.core.extras import import_extra

#: Zstandard makes masks as small, and takes three times as long to decompress. LZ4's faster modes
#: make them three times as large.
_MODE = {"mode": "high_compression", "compression": 3}

#: Bytes that are asked for at a time.
_BLOCK = 2**20


class MaskCache:
    """Keep decoded masks in memory, compressed by LZ4. Thread-safe.

    A copy, in this process or in another, begins empty.

    Raises:
        ImportError: lz4 is missing.
    """

    def __init__(self, where: str) -> None:
        way_out = "leave `cache` out"
        self._lz4 = import_extra(where, "lz4.block", extra="masks", way_out=way_out)
        self._where = where
        self._masks: dict[int, tuple[tuple[int, ...], memoryview]] = {}
        # Blocks of the system's, since single small parts would lie scattered among the decoded
        # masks of all threads, whose memory could not be used again: that took 1 GB for 14 MB.
        self._block, self._used = memoryview(b""), 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[MaskCache], tuple[str]]:
        return type(self), (self._where,)

    def get(self, index: int) -> np.ndarray | None:
        """Return a mask as it was put: uint8 of any shape, read-only; None if it was not."""
        kept = self._masks.get(index)
        if kept is None:
            return None
        shape, compressed = kept
        return np.frombuffer(self._lz4.decompress(compressed), np.uint8).reshape(shape)

    def put(self, index: int, mask: np.ndarray) -> None:
        """Keep a mask: contiguous uint8 of any shape."""
        compressed = self._lz4.compress(mask, **_MODE)
        size = len(compressed)
        with self._lock:
            if self._used + size > len(self._block):
                self._block, self._used = memoryview(mmap.mmap(-1, max(_BLOCK, size))), 0
            part = self._block[self._used : self._used + size]
            self._used += size
        part[:] = compressed
        self._masks[index] = mask.shape, part.toreadonly()
