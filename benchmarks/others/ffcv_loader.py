"""FFCV: a file of its own format, its compiled pipeline, then torch.

In an environment of its own: it needs OpenCV and libjpeg-turbo with their headers, and numba.
"""

# Read by FFCV's own interpreter, which may not have this library: no import of it.
from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator  # noqa: UP035

from batch_mix import MEAN, STD, batch_mix
from encoded import encode_once

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = (
    "apt-get install libopencv-dev libturbojpeg0-dev pkg-config; in an environment of its own: "
    "pip install ffcv, with its interpreter as --ffcv-python"
)
#: As FFCV's authors encode ImageNet (``write_imagenet.sh 500 0.50 90``).
MAX_SIDE, QUALITY, SHARE_OF_JPEG = 500, 90, 0.5


def ffcv_jpeg_info(work: Work) -> dict[str, Any]:
    """Return version and costs of the file, and where the loader does other work than asked."""
    return _info(work, "jpg")


def ffcv_jpeg(work: Work) -> Any:
    """Open FFCV on images that are all encoded again as JPEG."""
    return _Ffcv(work, "jpg")


def ffcv_half_raw_info(work: Work) -> dict[str, Any]:
    """Return version and costs of the file, and where the loader does other work than asked."""
    return _info(work, "proportion")


def ffcv_half_raw(work: Work) -> Any:
    """Open FFCV on images of which a random half is stored as pixels, the others as JPEG."""
    return _Ffcv(work, "proportion")


class _Ffcv:
    """Iterate FFCV's loader.

    Source: ``train_imagenet.py`` of FFCV's authors; on the CPU normalised before it becomes a
    tensor, as ``NormalizeImage`` says. Mixed by torchvision after the loader: FFCV has no CutMix,
    and the targets of its ``MixupToOneHot`` do not sum to 1 where both images are of one class.
    """

    def __init__(self, work: Work, mode: str) -> None:
        import numpy as np
        import torch
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import (
            NormalizeImage,
            RandomHorizontalFlip,
            Squeeze,
            ToDevice,
            ToTensor,
            ToTorchImage,
        )

        normalize = NormalizeImage(255 * np.array(MEAN), 255 * np.array(STD), np.float32)
        image: list[Any] = [
            RandomResizedCropRGBImageDecoder((work.size, work.size)),
            RandomHorizontalFlip(),
        ]
        label: list[Any] = [IntDecoder()]
        if work.device == "cpu":
            image += [normalize, ToTensor(), ToTorchImage()]
            label += [ToTensor()]
        else:
            to_device = ToDevice(torch.device(work.device), non_blocking=True)
            image += [ToTensor(), to_device, ToTorchImage(), normalize]
            label += [ToTensor(), ToDevice(torch.device(work.device), non_blocking=True)]
        label += [Squeeze([1])]
        self._mix = batch_mix(work)
        self._loader = Loader(
            str(_file(work, mode)[0]),
            batch_size=work.batch_size,
            num_workers=work.threads,
            order=OrderOption.RANDOM,
            os_cache=True,
            drop_last=True,
            seed=work.seed,
            pipelines={"image": image, "label": label},
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for image, label in self._loader:
            yield self._mix(image, label)


def _info(work: Work, mode: str) -> dict[str, Any]:
    return {
        "version": importlib.metadata.version("ffcv"),
        "note": (
            f"Sides shrunk to {MAX_SIDE} and JPEG quality {QUALITY} when encoding, as its authors "
            "do; resized with OpenCV's INTER_AREA; images are channels-last in memory."
        ),
        **_file(work, mode)[1],
    }


def _file(work: Work, mode: str) -> tuple[Path, dict[str, Any]]:
    def write(path: Path) -> None:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
        from torchvision.datasets import ImageFolder

        field = RGBImageField(
            write_mode=mode,
            max_resolution=MAX_SIDE,
            jpeg_quality=QUALITY,
            compress_probability=SHARE_OF_JPEG,
        )
        fields = {"image": field, "label": IntField()}
        writer = DatasetWriter(str(path), fields, num_workers=work.threads)
        writer.from_indexed_dataset(ImageFolder(work.data))

    return encode_once(work, f"ffcv-{mode}.beton", write)
