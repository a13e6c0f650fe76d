"""Decode a few images at a time by DALI on the CPU, and say which DALI refuses."""

from __future__ import annotations

import numpy as np

from dali_cutmix.core.dali import Pipeline, fn
from dali_cutmix.serving.diagnose import find_undecodable
from dali_cutmix.tools.check.inspection import CHUNK_IMAGES, Inspected
from dali_cutmix.transforms import decode


class Decoder:
    """Decode batches on the CPU, with one decoder: building it costs as much as ten images.

    Args:
        num_threads: CPU threads.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pipeline: Pipeline | None = None

    def refusals(self, chunk: list[Inspected]) -> dict[int, str]:
        """Return why DALI refuses images, by index. Accepted images are missing.

        Images with a complaint are decoded alone, since one refusal fails a whole batch.
        """
        batch: list[tuple[int, np.ndarray]] = []
        suspects: list[tuple[int, np.ndarray]] = []
        for image in chunk:
            if image.encoded is not None:
                looks_good = image.look.complaint is None and image.look.size is not None
                (batch if looks_good else suspects).append((image.index, image.encoded))
        groups = [[suspect] for suspect in suspects]
        if batch and not self._decodes([encoded for _, encoded in batch]):
            groups.append(batch)
        refusals: dict[int, str] = {}
        for group in groups:
            reasons = find_undecodable(
                [encoded for _, encoded in group], num_threads=self._num_threads
            )
            refusals |= {group[position][0]: reason for position, reason in reasons.items()}
        return refusals

    def _decodes(self, batch: list[np.ndarray]) -> bool:
        if self._pipeline is None:
            self._pipeline = Pipeline(
                batch_size=CHUNK_IMAGES,
                num_threads=self._num_threads,
                device_id=None,
                prefetch_queue_depth=1,
            )
            with self._pipeline:
                encoded = fn.external_source(name="encoded")
                self._pipeline.set_outputs(decode.whole(encoded, "cpu"))
            self._pipeline.build()
        self._pipeline.feed_input("encoded", batch)
        try:
            self._pipeline.run()
        except RuntimeError:  # the pipeline runs no batch after an error
            self.close()
            return False
        return True

    def close(self) -> None:
        """Free the decoder's memory."""
        if self._pipeline is not None:
            self._pipeline._shutdown()
            self._pipeline = None
