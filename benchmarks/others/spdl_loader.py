"""SPDL: threads and FFmpeg's filters, ``PipelineBuilder``, then torch."""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batch_mix import MEAN, STD, batch_mix

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "apt-get install libavdevice59 libavfilter8 (FFmpeg 4 to 9); pip install spdl"


def spdl_ffmpeg_info(_: Work) -> dict[str, Any]:
    """Return the version, and where the loader does other work than asked for."""
    return {
        "version": importlib.metadata.version("spdl"),
        "note": "Images are channels-last in memory, as SPDL hands them over.",
    }


def spdl_ffmpeg(work: Work) -> _Spdl:
    """Decode, crop, resize and flip each image by FFmpeg in one of the threads.

    Source: ``examples/imagenet_classification.py`` and ``examples/image_dataloading.py`` of SPDL,
    with a random crop in the filter, and its normalisation after the loader.
    """
    return _Spdl(work)


class _Spdl:
    def __init__(self, work: Work) -> None:
        import torch
        from torchvision.datasets import ImageFolder

        self._work = work
        self._samples = ImageFolder(work.data).samples
        self._random = random.Random(work.seed)
        self._mix = batch_mix(work)
        self._mean = torch.tensor(MEAN, device=work.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(STD, device=work.device).view(1, 3, 1, 1) * 255
        # Here an error says what is missing; a pipeline leaves out what fails.
        self._decode(self._samples[:1])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        import spdl.io
        from spdl.pipeline import PipelineBuilder

        work = self._work
        samples = self._random.sample(self._samples, len(self._samples))
        builder = (
            PipelineBuilder()
            .add_source(samples)
            .aggregate(work.batch_size, drop_last=True)
            .pipe(self._decode, concurrency=work.threads)
        )
        if work.device == "cuda":
            builder = builder.pipe(spdl.io.transfer_tensor)
        pipeline = builder.add_sink(work.extra.get("prefetch", 3)).build(num_threads=work.threads)
        with pipeline.auto_stop():
            for image, label in pipeline:
                yield self._mix((image.float() - self._mean) / self._std, label)

    def _decode(self, samples: list[tuple[str, int]]) -> tuple[Any, Any]:
        """Return a batch: ``[B, 3, size, size]`` uint8 and ``[B]`` int64, both on the CPU."""
        import spdl.io
        import torch

        frames = []
        for path, _ in samples:
            packets = spdl.io.demux_image(path)
            description = _filters(packets.width, packets.height, self._work.size)
            frames.append(spdl.io.decode_packets(packets, filter_desc=description))
        batch = spdl.io.to_torch(spdl.io.convert_frames(frames))
        label = torch.tensor([label for _, label in samples])
        return batch.permute(0, 3, 1, 2), label


def _filters(width: int, height: int, size: int) -> str:
    """Return FFmpeg's filters for one random resized crop and flip."""
    from torch import empty
    from torchvision.transforms.v2 import RandomResizedCrop

    top, left, h, w = RandomResizedCrop.get_params(
        empty(1, height, width, device="meta"), (0.08, 1.0), (3 / 4, 4 / 3)
    )
    flip = ",hflip" if random.random() < 0.5 else ""
    return (
        f"crop={w}:{h}:{left}:{top}:exact=1,scale={size}:{size}:flags=bilinear{flip},"
        "format=pix_fmts=rgb24"
    )
