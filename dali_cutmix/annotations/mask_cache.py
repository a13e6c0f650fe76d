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
        self._block = _Block()

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
        self._masks[index] = mask.shape, self._block.put(compressed)


class _Block(threading.local):
    """Memory that a thread fills with small parts, and then takes more.

    Single parts of the heap would lie scattered among the decoded masks of all threads, whose
    memory could not be used again: that took 1 GB for 14 MB.
    """

    memory, used = memoryview(b""), 0

    def put(self, part: bytes) -> memoryview:
        """Return a copy of a part, read-only."""
        if self.used + len(part) > len(self.memory):
            size = max(_BLOCK, len(part))
            mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.memory, self.used = memoryview(mapped), 0
        copy = self.memory[self.used : self.used + len(part)]
        copy[:] = part
        self.used += len(part)
        return copy.toreadonly()
