"""Transform lists of research scripts, in the form of `public_lists`.

Domain adaptation, continual and few-shot learning, noisy and rare labels, re-identification,
self-supervision, outliers and generation: each list as the repository has it.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data import create_transform
from torchvision import transforms as v1

from public_lists import (
    BICUBIC,
    BILINEAR,
    CIFAR,
    CIFAR100,
    CIFAR_CROP,
    HALF,
    IMAGENET,
    LANCZOS,
    MOCO_JITTER,
    PublicList,
    flip,
    floats,
    jitter,
    listed,
)

GTSRB = (0.3337, 0.3064, 0.3171), (0.2672, 0.2564, 0.2629)


class SometimesBlur:
    """Pillow's blur, by torch's numbers, as of suncet's and MSN's scripts."""

    def __init__(self, p: float = 0.5, radius_min: float = 0.1, radius_max: float = 2.0) -> None:
        self.prob, self.radius_min, self.radius_max = p, radius_min, radius_max

    def __call__(self, image: Image.Image) -> Image.Image:
        if not torch.bernoulli(torch.tensor(self.prob)):
            return image
        radius = self.radius_min + torch.rand(1) * (self.radius_max - self.radius_min)
        return image.filter(ImageFilter.GaussianBlur(radius=float(radius)))


class SometimesSolarize:
    """Solarize by a threshold that is drawn, as of suncet's script."""

    def __init__(self, p: float = 0.2) -> None:
        self.prob = p

    def __call__(self, image: Image.Image) -> Image.Image:
        if not torch.bernoulli(torch.tensor(self.prob)):
            return image
        return ImageOps.solarize(image, int(torch.rand(1) * 256))


class Equalization:
    """As of solo-learn's script."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.equalize(image)


class Random2DTranslation:
    """A larger resize and a crop of half of the images, as of torchreid's script."""

    def __init__(self, height: int, width: int, p: float = 0.5) -> None:
        self.height, self.width, self.p = height, width, p

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.uniform(0, 1) > self.p:
            return image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        width, height = round(self.width * 1.125), round(self.height * 1.125)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + self.width, top + self.height))


class CenterCropLongEdge:
    """The square in the middle, as of BigGAN's script."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return v1.functional.center_crop(image, [min(image.size)])


class ResizeImage:
    """Pillow's resize, as of the Transfer Learning Library."""

    def __init__(self, size: int) -> None:
        self.size = size, size

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize(self.size)


class Convert:
    """As of OpenOOD's script."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.convert(self.mode)


def cifar_of_deit() -> Any:
    """timm's list, whose crop the script replaces for small images."""
    transform = create_transform(
        32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel"
    )
    transform.transforms[0] = v1.RandomCrop(32, padding=4)
    return transform


TRAINING = [
    PublicList("HobbitLong/RepDistiller", listed(CIFAR_CROP, floats(CIFAR100)), "arrays"),
    PublicList(
        "JDAI-CV/DCL",
        listed(
            v1.Resize((512, 512)),
            v1.RandomRotation(degrees=15),
            v1.RandomCrop((448, 448)),
            flip(),
            v1.Resize((448, 448)),
            floats(),
        ),
    ),
    PublicList(
        "LiJunnan1992/DivideMix clothing1M",
        listed(v1.Resize(256), v1.RandomCrop(224), flip(), floats(IMAGENET)),
    ),
    PublicList(
        "LiJunnan1992/DivideMix webvision",
        listed(v1.Resize(320), v1.RandomResizedCrop(299), flip(), floats()),
    ),
    PublicList(
        "TorchSSL imagenet",
        listed(
            v1.Resize([256, 256]),
            flip(),
            v1.RandomCrop(224, padding=4, padding_mode="reflect"),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/DomainBed WILDS",
        listed(
            v1.Resize((224, 224)),
            v1.RandomResizedCrop(224, scale=(0.7, 1.0)),
            flip(),
            v1.ColorJitter(0.3, 0.3, 0.3, 0.3),
            v1.RandomGrayscale(),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/suncet imagenet",
        listed(
            v1.RandomResizedCrop(size=224, scale=(0.14, 1.0)),
            flip(),
            v1.Compose([jitter(0.5), v1.RandomGrayscale(p=0.2)]),
            SometimesBlur(p=0.5),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/suncet cifar",
        listed(v1.RandomResizedCrop(32), flip(), SometimesSolarize(), floats(CIFAR)),
        "arrays",
        "`SometimesSolarize` at transform[2]",
    ),
    PublicList("facebookresearch/deit cifar", cifar_of_deit, "arrays"),
    PublicList(
        "facebookresearch/moco-v3, second view",
        listed(
            v1.RandomResizedCrop(224, scale=(0.08, 1.0)),
            v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([SometimesBlur(1.0)], p=0.1),
            v1.RandomApply([v1.Lambda(ImageOps.solarize)], p=0.2),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "vturrisi/solo-learn, second view",
        listed(
            v1.RandomResizedCrop(224, scale=(0.08, 1.0), interpolation=BICUBIC),
            MOCO_JITTER,
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([SometimesBlur(1.0)], p=0.1),
            v1.RandomApply([Equalization()], p=0.1),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "huggingface/diffusers text_to_image",
        listed(v1.Resize(128, LANCZOS), v1.CenterCrop(128), flip(), floats(([0.5], [0.5]))),
    ),
    PublicList(
        "lucidrains/DALLE-pytorch",
        listed(
            v1.Lambda(lambda image: image.convert("RGB") if image.mode != "RGB" else image),
            v1.RandomResizedCrop(128, scale=(0.75, 1.0), ratio=(1.0, 1.0)),
            v1.ToTensor(),
        ),
    ),
    PublicList(
        "microsoft/SimMIM, the image",
        listed(
            v1.RandomResizedCrop(192, scale=(0.67, 1.0), ratio=(3 / 4, 4 / 3)),
            flip(),
            floats([torch.tensor(numbers) for numbers in IMAGENET]),
        ),
    ),
    PublicList(
        "mit-han-lab/once-for-all",
        listed(
            v1.RandomResizedCrop(224),
            flip(),
            v1.ColorJitter(brightness=32 / 255, saturation=0.5),
            floats(),
        ),
    ),
    PublicList(
        "mmasana/FACIL cifar100",
        listed(v1.Pad(4), v1.RandomResizedCrop(32), flip(), floats(CIFAR100)),
        "arrays",
    ),
    PublicList(
        "poojahira/gtsrb-pytorch, shear and shift",
        listed(
            v1.Resize((32, 32)),
            v1.RandomAffine(15, translate=(0.1, 0.1), shear=2),
            flip(),
            v1.RandomVerticalFlip(1),
            floats(GTSRB),
        ),
    ),
    PublicList(
        "szagoruyko/wide-residual-networks",
        listed(
            v1.Pad(4, padding_mode="reflect"),
            flip(),
            v1.RandomCrop(32),
            v1.Compose([v1.ToTensor(), v1.Normalize(np.array(CIFAR[0]), np.array(CIFAR[1]))]),
        ),
        "arrays",
    ),
    PublicList(
        "Jingkang50/OpenOOD, RandAugment first",
        listed(
            Convert("RGB"),
            v1.RandAugment(2, 14, interpolation=BILINEAR),
            v1.Resize(32, interpolation=BILINEAR),
            v1.CenterCrop(32),
            flip(),
            v1.RandomCrop(32, padding=4),
            floats(CIFAR),
        ),
        "squares",
    ),
    PublicList(
        "KaiyangZhou/deep-person-reid",
        listed(v1.Resize((256, 128)), flip(), Random2DTranslation(256, 128), floats()),
        refusal="`Random2DTranslation` at transform[2]",
    ),
    PublicList(
        "thuml/Transfer-Learning-Library",
        listed(ResizeImage(256), v1.RandomResizedCrop(224), flip(), floats()),
    ),
]

EVALUATION = [
    PublicList(
        "ajbrock/BigGAN-PyTorch", listed(CenterCropLongEdge(), v1.Resize(128), floats(HALF))
    ),
    PublicList("JDAI-CV/DCL", listed(v1.Resize((512, 512)), v1.CenterCrop((448, 448)), floats())),
    PublicList(
        "LiJunnan1992/DivideMix webvision",
        listed(v1.Resize(320), v1.CenterCrop(299), floats()),
    ),
    PublicList(
        "locuslab/fast_adversarial", listed(v1.Resize(352), v1.CenterCrop(288), v1.ToTensor())
    ),
    PublicList(
        "mmasana/FACIL cifar100",
        listed(v1.Pad(4), v1.CenterCrop(32), floats(CIFAR100)),
        "arrays",
    ),
    PublicList(
        "poojahira/gtsrb-pytorch, center",
        listed(v1.Resize((36, 36)), v1.CenterCrop(32), floats(GTSRB)),
    ),
    PublicList(
        "thuml/Transfer-Learning-Library", listed(ResizeImage(256), v1.CenterCrop(224), floats())
    ),
    PublicList(
        "wetliu/energy_ood textures", listed(v1.Resize(32), v1.CenterCrop(32), floats(CIFAR))
    ),
    PublicList(
        "wetliu/energy_ood, speckles",
        listed(
            v1.ToTensor(),
            lambda image: torch.clamp(image + image * torch.randn_like(image), 0, 1),
            v1.Normalize(*CIFAR),
        ),
        "arrays",
        "<lambda>",
    ),
    PublicList(
        "MedMNIST/experiments",
        listed(
            v1.Resize((224, 224), interpolation=v1.InterpolationMode.NEAREST),
            floats(([0.5], [0.5])),
        ),
        "arrays",
    ),
    PublicList(
        "Jingkang50/OpenOOD",
        listed(Convert("RGB"), v1.Resize(256, BILINEAR), v1.CenterCrop(224), floats()),
    ),
    PublicList(
        "eladhoffer/convNet.pytorch, five crops",
        listed(
            v1.Resize(256),
            v1.FiveCrop(224),
            v1.Lambda(lambda crops: torch.stack([v1.functional.to_tensor(crop) for crop in crops])),
        ),
        refusal="`FiveCrop`",
    ),
    PublicList(
        "yangze0930/NTS-Net",
        listed(v1.Resize((600, 600), BILINEAR), v1.CenterCrop(448), floats(HALF)),
    ),
]
