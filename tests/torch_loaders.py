"""Torch loaders with torchvision's parts, and the loaders and refusals that come of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import default_collate
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import v2

from dali_cutmix import CutMix, DataLoader, MixUp, TrainTransform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

RAW: list[Any] = [v2.ToImage()]
SCALED = [*RAW, v2.ToDtype(torch.float32, scale=True)]
FLOATS = [*SCALED, v2.Normalize(MEAN, STD)]
CROP = v2.RandomResizedCrop(32)

cutmix, mixup = v2.CutMix(num_classes=3), v2.MixUp(alpha=0.2, num_classes=3)
choice = v2.RandomChoice([cutmix, mixup], p=[0.25, 0.75])
#: The mixes that `cutmix` and `mixup` become.
CUTMIX, MIXUP = CutMix.torchvision(), MixUp.torchvision(0.2)

UNSEEN = "from_torch cannot see what the function does. Remove it, or pass `transform=`."


def over(root: Path | str, parts: Any, **settings: Any) -> TorchLoader[Any]:
    """A torch loader over a folder with these transforms."""
    transform = v2.Compose(parts) if isinstance(parts, list) else parts
    return TorchLoader(ImageFolder(str(root), transform), **{"batch_size": 4, **settings})


def silently(loader: TorchLoader[Any], **changes: Any) -> DataLoader:
    return DataLoader.from_torch(loader, report=None, **changes)


def reported(loader: TorchLoader[Any], **changes: Any) -> list[str]:
    """The lines of the report."""
    lines: list[str] = []
    DataLoader.from_torch(loader, report=lines.append, **changes)
    return lines


def notes(loader: TorchLoader[Any], about: str = "") -> list[str]:
    """The sentences of the report that speak about a word."""
    lines = [line for line in reported(loader) if line.startswith("  * ")]
    return [line.removeprefix("  * ") for line in lines if about in line]


def refusal(loader: TorchLoader[Any], **changes: Any) -> str:
    """The message that a loader is refused with."""
    with pytest.raises(ValueError, match="from_torch: cannot translate") as refused:
        silently(loader, **changes)
    return str(refused.value)


def written(kind: type) -> str:
    """A class of a test as refusals name it: with file and line."""
    file = Path(inspect.getfile(kind)).name
    return f"`{kind.__name__} ({file}:{inspect.getsourcelines(kind)[1]})`"


def cifar(transform: Any, size: tuple[int, int] = (32, 32)) -> CIFAR10:
    dataset = CIFAR10.__new__(CIFAR10)  # as after reading its files, which are not at hand
    dataset.data = np.random.default_rng(0).integers(0, 256, (12, *size, 3), np.uint8)
    dataset.targets = [n % 10 for n in range(12)]
    dataset.classes = [f"class {n}" for n in range(10)]
    dataset.transform, dataset.target_transform = transform, None
    return dataset


def labels(loader: Any) -> list[list[int]]:
    return [label.tolist() for _, label in loader]


def train(*augment: Any, **settings: Any) -> TrainTransform:
    """The transform that `CROP` becomes, with augmentations and other settings."""
    augmentations = {"augment": augment} if augment else {}
    return TrainTransform(**{"size": 32, "flip": 0.0, **PLAIN, **augmentations, **settings})


def closure(mix: Any) -> Callable[[Any], Any]:
    """A collate function that mixes, two closures deep."""

    def collate(batch: Any) -> Any:
        def inner() -> Any:
            return mix(*default_collate(batch))

        return inner()

    return collate


def as_dict(batch: Any) -> Any:
    """A collate function without a counterpart."""
    return dict(zip(("image", "label"), cutmix(*default_collate(batch)), strict=True))
