"""Decoding alone on a GPU, at a given load of its JPEG engines: an opener for a race."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work


def decode_at_load(work: Work) -> Decode:
    """Read and decode whole images; ``work.extra`` holds arguments of ``fn.decoders.image``.

    On the CPU ``hw_decoder_load`` and the like have no meaning, and are left out.
    """
    return Decode(work)


class Decode:
    """Decode an epoch, shuffled in DALI's buffer, and yield numbers of images."""

    def __init__(self, work: Work) -> None:
        from nvidia.dali import Pipeline, fn

        gpu = work.device == "cuda"
        self._pipeline = Pipeline(
            work.batch_size,
            work.threads,
            0 if gpu else None,
            seed=work.seed,
            prefetch_queue_depth=2,
        )
        with self._pipeline:
            encoded, _ = fn.readers.file(
                file_root=work.data, random_shuffle=True, dont_use_mmap=True, name="files"
            )
            settings: dict[str, Any] = work.extra if gpu else {}
            image = fn.decoders.image(encoded, device="mixed" if gpu else "cpu", **settings)
            self._pipeline.set_outputs(image)
        self._pipeline.build()
        self._num_batches = self._pipeline.epoch_size("files") // work.batch_size

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._num_batches):
            yield len(self._pipeline.run()[0])
