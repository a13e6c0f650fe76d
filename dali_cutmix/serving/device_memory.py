"""A limit on what a loader takes of a GPU's memory."""

from __future__ import annotations

from math import prod

import torch

from dali_cutmix.serving.graph import GraphSettings

#: Batches of a graph after which it is looked at: buffers grow with the images met.
NUM_CHECKED = 16

_BYTES = {"float32": 4, "float16": 2, "uint8": 1}


class DeviceMemory:
    """Holds one loader to a limit: before it starts by what is certain, then by what it took.

    Args:
        limit: Bytes; None, or a graph on the CPU, has no limit.
        settings: The graph's.

    Raises:
        ValueError: The batches alone take more.
    """

    def __init__(self, limit: int | None, settings: GraphSettings) -> None:
        self._limit = None if settings.device_id is None else limit
        self._device = settings.device_id
        self._free: int | None = None
        self._left = 0
        least = least_bytes(settings)
        if self._limit is not None and least > self._limit:
            raise ValueError(
                f"DataLoader: `max_device_memory` must be at least {least} bytes for batches of "
                f"{settings.batch_size} with prefetch={settings.prefetch}, got {limit}. "
                "Smaller batches, a smaller dtype or a smaller prefetch take less."
            )

    def begin(self) -> None:
        """Note what is free before a graph is made."""
        self._left = NUM_CHECKED
        if self._limit is not None:
            self._free = self._free_but_for_torch()

    def check(self) -> None:
        """Compare what was taken since with the limit, after each of a graph's first batches.

        What other programs took in the meantime counts too: the driver tells no more.

        Raises:
            RuntimeError: It is more.
        """
        if self._limit is None or self._free is None or self._left == 0:
            return
        self._left -= 1
        taken = self._free - self._free_but_for_torch()
        if taken > self._limit:
            raise RuntimeError(
                f"DataLoader: the graph took {taken} bytes of the GPU's memory with its first "
                f"{NUM_CHECKED - self._left} batches, more than max_device_memory={self._limit}. "
                "Smaller batches, a smaller prefetch, or `dali-cutmix tune --max-memory` take less."
            )

    def _free_but_for_torch(self) -> int:
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device)


def least_bytes(settings: GraphSettings) -> int:
    """Bytes that a graph's batches take at least: those prepared ahead, and the one in work.

    Counted are finished images, as many as are prefetched and one, and one batch each of resized
    and of mixed bytes. Decoded images and the decoder's own buffers come on top.
    """
    pixels = 3 * prod(settings.transform.output_size)
    finished = (settings.prefetch + 1) * _BYTES[settings.dtype]
    in_work = 1 + (settings.mix is not None)
    return settings.batch_size * pixels * (finished + in_work)
