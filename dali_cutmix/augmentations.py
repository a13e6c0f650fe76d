"""Augment images, as torchvision's classes of these names.

``TrainTransform(augment=[...])`` takes augmentations that keep the size of images, after crop,
resize and flip, and before mixing. ``Compose([...])`` takes all, in any order.

Numbers are drawn on the host, anew for each sample. A batch stays a pure function of seed, epoch,
batch number and shard.

Pixels are computed on the CPU or a GPU, as by torchvision. Where pixels differ, the functions in
`dali_cutmix.transforms` say by how much.
"""

from __future__ import annotations

from dali_cutmix.core.frame import Augmentation, Frame
from dali_cutmix.transforms.adjustments import (
    GaussianBlur,
    Lighting,
    PillowGaussianBlur,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
)
from dali_cutmix.transforms.adm import ADMCrop
from dali_cutmix.transforms.augmix import AugMix, TimmAugMix
from dali_cutmix.transforms.automatic import AutoAugment, RandAugment, TrivialAugment
from dali_cutmix.transforms.chain import RandomApply, RandomChoice, RandomOrder
from dali_cutmix.transforms.color import (
    ColorJitter,
    Grayscale,
    PermuteChannels,
    RandomChannelPermutation,
)
from dali_cutmix.transforms.erasing import EraseSquares, RandomErasing
from dali_cutmix.transforms.flips import RandomHorizontalFlip, RandomVerticalFlip
from dali_cutmix.transforms.shapes import ResizeKeepRatio, SquareCrop, SquarePad, TrimBorder
from dali_cutmix.transforms.sizing import CenterCrop, Pad, RandomCrop, RandomResizedCrop, Resize
from dali_cutmix.transforms.timm import TimmAutoAugment, TimmRandAugment
from dali_cutmix.transforms.warps import RandomAffine, RandomPerspective, RandomRotation

__all__ = [
    "ADMCrop",
    "AugMix",
    "Augmentation",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "EraseSquares",
    "Frame",
    "GaussianBlur",
    "Grayscale",
    "Lighting",
    "Pad",
    "PermuteChannels",
    "PillowGaussianBlur",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChannelPermutation",
    "RandomChoice",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomOrder",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "ResizeKeepRatio",
    "SquareCrop",
    "SquarePad",
    "TimmAugMix",
    "TimmAutoAugment",
    "TimmRandAugment",
    "TrimBorder",
    "TrivialAugment",
]
