"""Augmentations for ``TrainTransform(augment=[...])``, each named and meant as torchvision's.

They change images of the output's size, after crop, resize and flip and before mixing. What they
draw comes from the host, anew for each sample; a batch stays a function of seed, epoch, number and
shard. They are DALI operators on the CPU and on a GPU, and compute as torchvision's tensor back end
does; where pixels differ from that, the functions that make them say by how much.
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
