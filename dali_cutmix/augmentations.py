"""Augment images in ``TrainTransform(augment=[...])``, as torchvision's classes of these names.

Augmentations change images of the output's size, after crop, resize and flip, and before mixing.
Numbers are drawn on the host, anew for each sample. A batch stays a pure function of seed, epoch,
batch number and shard.

Pixels are computed by DALI operators, on the CPU or a GPU, as by torchvision's tensor back end.
Where pixels differ, the functions in `dali_cutmix.transforms` say by how much.
"""

from __future__ import annotations

from dali_cutmix.core.frame import Augmentation, Frame
from dali_cutmix.transforms.automatic import AutoAugment, RandAugment, TrivialAugment
from dali_cutmix.transforms.color import ColorJitter, Grayscale
from dali_cutmix.transforms.erasing import RandomErasing

__all__ = [
    "Augmentation",
    "AutoAugment",
    "ColorJitter",
    "Frame",
    "Grayscale",
    "RandAugment",
    "RandomErasing",
    "TrivialAugment",
]
