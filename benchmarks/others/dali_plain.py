"""A plain DALI graph, and mixing after it in torch: what NVIDIA's own networks do."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batch_mix import MEAN, STD, batch_mix

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install nvidia-dali-cuda120 (or nvidia-dali-cuda130)"


def dali_then_torch_info(_: Work) -> dict[str, Any]:
    """Return the version, and where the loader does other work than asked for."""
    names = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    package = next((name for name in names if name in installed), None)
    return {
        "version": importlib.metadata.version(package) if package else "unknown",
        "note": "Shuffled in a buffer of 1,024; mixed after normalising, one cut per batch.",
    }


def dali_then_torch(work: Work) -> _Dali:
    """Open DALI's reader, decoder, ``random_resized_crop`` and iterator, and torchvision's mix.

    Source: ``ConvNets/image_classification/dataloaders.py`` and ``mixup.py`` of NVIDIA's
    DeepLearningExamples, with antialiasing on, and CutMix, which it has not, from torchvision.
    ``work.extra`` may have ``hw_decoder_load``.
    """
    return _Dali(work)


class _Dali:
    def __init__(self, work: Work) -> None:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIClassificationIterator

        gpu = work.device == "cuda"
        device = "gpu" if gpu else "cpu"
        decoding: dict[str, Any] = {}
        if gpu:
            # NVIDIA's own: buffers for the largest of ImageNet's files, so that none grows.
            decoding = {"device_memory_padding": 211025920, "host_memory_padding": 140544512}
            decoding |= {k: v for k, v in work.extra.items() if k == "hw_decoder_load"}

        @pipeline_def
        def graph() -> Any:
            encoded, label = fn.readers.file(
                file_root=work.data, random_shuffle=True, pad_last_batch=True, name="Reader"
            )
            image = fn.decoders.image(
                encoded, device="mixed" if gpu else "cpu", output_type=types.RGB, **decoding
            )
            image = fn.random_resized_crop(
                image,
                device=device,
                size=[work.size, work.size],
                interp_type=types.INTERP_LINEAR,
                random_aspect_ratio=[0.75, 4.0 / 3.0],
                random_area=[0.08, 1.0],
                num_attempts=100,
                antialias=True,
            )
            image = fn.crop_mirror_normalize(
                image,
                device=device,
                dtype=types.FLOAT,
                output_layout="CHW",
                mean=[255 * value for value in MEAN],
                std=[255 * value for value in STD],
                mirror=fn.random.coin_flip(probability=0.5),
            )
            return image, label

        pipeline = graph(
            batch_size=work.batch_size,
            num_threads=work.threads,
            device_id=0 if gpu else None,
            seed=work.seed,
        )
        self._loader = DALIClassificationIterator(
            pipeline,
            reader_name="Reader",
            last_batch_policy=LastBatchPolicy.DROP,
            auto_reset=True,
        )
        self._device = work.device
        self._mix = batch_mix(work)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self._loader:
            label = batch[0]["label"].reshape(-1).to(self._device).long()
            yield self._mix(batch[0]["data"], label)
