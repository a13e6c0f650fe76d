"""Transform lists of public training and evaluation scripts, named by repository.

Each list is written anew, from the classes and settings of the script. Classes that a script writes
itself are stand-ins with the script's attributes and behavior.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from timm.data import create_transform
from torch import nn
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import v2

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

BICUBIC = v1.InterpolationMode.BICUBIC
BILINEAR = v1.InterpolationMode.BILINEAR
LANCZOS = v1.InterpolationMode.LANCZOS

#: Images of a list: photographs of different sizes, arrays of 32 x 32, or square files.
Data = Literal["photos", "arrays", "squares"]


@dataclass(frozen=True)
class PublicList:
    """A list of a public script.

    Attributes:
        repository: Where the list is, and what for.
        transform: Makes the list.
        data: What the script reads, in kind.
        refusal: Part of the message; None where the list translates.
    """

    repository: str
    transform: Callable[[], Any]
    data: Data = "photos"
    refusal: str | None = None


def floats(statistics: Any = IMAGENET) -> list[Any]:
    return [v1.ToTensor(), v1.Normalize(*statistics)]


def flip() -> Any:
    return v1.RandomHorizontalFlip()


def listed(*parts: Any) -> Callable[[], Any]:
    """A function that makes a list of the parts, and of the lists among these."""
    flat = [each for part in parts for each in (part if isinstance(part, list) else [part])]
    return lambda: v1.Compose(flat)


class OwnCutout:
    """One or more squares of zeros, as of DeVries' and Taylor's script."""

    def __init__(self, n_holes: int, length: int) -> None:
        self.n_holes, self.length = n_holes, length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(image.shape[1:])
        for _ in range(self.n_holes):
            y, x = np.random.randint(image.shape[1]), np.random.randint(image.shape[2])
            half = self.length // 2
            mask[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image * mask


class OwnLighting:
    """Noise along the principal components of colors, as of fb.resnet.torch's descendants."""

    def __init__(self, alphastd: float, eigval: torch.Tensor, eigvec: torch.Tensor) -> None:
        self.alphastd, self.eigval, self.eigvec = alphastd, eigval, eigvec

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        alpha = image.new().resize_(3).normal_(0, self.alphastd)
        color = (self.eigvec * alpha * self.eigval).sum(1)
        return image + color.view(3, 1, 1)


EIGVAL = torch.tensor([0.2175, 0.0188, 0.0045])
EIGVEC = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class OwnErasing:
    """The authors' own Random Erasing, as of re-identification scripts."""

    def __init__(
        self, probability: float = 0.5, sl: float = 0.02, sh: float = 0.4, r1: float = 0.3
    ) -> None:
        self.probability, self.sl, self.sh, self.r1 = probability, sl, sh, r1
        self.mean = (0.4914, 0.4822, 0.4465)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) >= self.probability:
            return image
        for _ in range(100):
            target = random.uniform(self.sl, self.sh) * image.size(1) * image.size(2)
            ratio = random.uniform(self.r1, 1 / self.r1)
            h, w = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
            if w < image.size(2) and h < image.size(1):
                y, x = random.randint(0, image.size(1) - h), random.randint(0, image.size(2) - w)
                for channel in range(3):
                    image[channel, y : y + h, x : x + w] = self.mean[channel]
                return image
        return image


class OwnGaussianBlur:
    """Pillow's blur by a radius drawn from a range, as of MoCo's script."""

    def __init__(self, sigma: Any = (0.1, 2.0)) -> None:
        self.sigma = list(sigma)

    def __call__(self, image: Image.Image) -> Image.Image:
        radius = random.uniform(self.sigma[0], self.sigma[1])
        return image.filter(ImageFilter.GaussianBlur(radius=radius))


class OwnBlur:
    """Pillow's blur of some images, as of DINO's script."""

    def __init__(self, p: float = 0.5, radius_min: float = 0.1, radius_max: float = 2.0) -> None:
        self.prob, self.radius_min, self.radius_max = p, radius_min, radius_max

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() > self.prob:
            return image
        radius = random.uniform(self.radius_min, self.radius_max)
        return image.filter(ImageFilter.GaussianBlur(radius=radius))


class OwnSolarization:
    """Pillow's solarize of some images, as of DINO's script."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < self.p else image


class SubPolicy:
    """Two operations of Pillow, each by chance."""

    def __init__(self, steps: Any, fillcolor: Any) -> None:
        (name1, self.p1, index1), (name2, self.p2, index2) = steps
        self.operation1, self.magnitude1 = self.step(name1, index1 or 0, fillcolor)
        self.operation2, self.magnitude2 = self.step(name2, index2 or 0, fillcolor)

    @staticmethod
    def step(name: str, index: int, fillcolor: Any) -> tuple[Any, Any]:
        affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC

        def sheared(x: Image.Image, *rows: Any) -> Image.Image:
            return x.transform(x.size, affine, rows, bicubic, fillcolor=fillcolor)

        def shifted(x: Image.Image, *rows: Any) -> Image.Image:
            return x.transform(x.size, affine, rows, fillcolor=fillcolor)

        def turned(x: Image.Image, degrees: float) -> Image.Image:
            turned = x.convert("RGBA").rotate(degrees)
            gray = Image.new("RGBA", turned.size, (128,) * 4)
            return Image.composite(turned, gray, turned).convert(x.mode)

        def sign() -> int:
            return random.choice([-1, 1])

        def enhanced(kind: Any) -> Any:
            return lambda x, m: kind(x).enhance(1 + m * sign())

        shares, strengths = np.linspace(0, 150 / 331, 10), np.linspace(0, 0.9, 10)
        operations = {
            "ShearX": (lambda x, m: sheared(x, 1, m * sign(), 0, 0, 1, 0), 0.3 / 0.9 * strengths),
            "ShearY": (lambda x, m: sheared(x, 1, 0, 0, m * sign(), 1, 0), 0.3 / 0.9 * strengths),
            "TranslateX": (lambda x, m: shifted(x, 1, 0, m * x.size[0] * sign(), 0, 1, 0), shares),
            "TranslateY": (lambda x, m: shifted(x, 1, 0, 0, 0, 1, m * x.size[1] * sign()), shares),
            "Rotate": (turned, np.linspace(0, 30, 10)),
            "Color": (enhanced(ImageEnhance.Color), strengths),
            "Contrast": (enhanced(ImageEnhance.Contrast), strengths),
            "Sharpness": (enhanced(ImageEnhance.Sharpness), strengths),
            "Brightness": (enhanced(ImageEnhance.Brightness), strengths),
            "Posterize": (ImageOps.posterize, np.round(np.linspace(8, 4, 10), 0).astype(int)),
            "Solarize": (ImageOps.solarize, np.linspace(256, 0, 10)),
            "AutoContrast": (lambda x, _: ImageOps.autocontrast(x), [0] * 10),
            "Equalize": (lambda x, _: ImageOps.equalize(x), [0] * 10),
            "Invert": (lambda x, _: ImageOps.invert(x), [0] * 10),
        }
        operation, magnitudes = operations[name]
        return operation, magnitudes[index]

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() < self.p1:
            image = self.operation1(image, self.magnitude1)
        if random.random() < self.p2:
            image = self.operation2(image, self.magnitude2)
        return image


class OwnPolicy:
    """AutoAugment by Pillow, as of DeepVoltaire's script and many copies."""

    policy = v1.AutoAugmentPolicy.IMAGENET

    def __init__(self, fillcolor: Any = (128, 128, 128)) -> None:
        pairs = v1.AutoAugment(self.policy).policies
        self.policies = [SubPolicy(pair, fillcolor) for pair in pairs]

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.policies[random.randint(0, len(self.policies) - 1)](image)


class CIFAR10Policy(OwnPolicy):
    policy = v1.AutoAugmentPolicy.CIFAR10


class RandAugmentMC:
    """Stand for the RandAugment classes that scripts write themselves."""

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.posterize(image, random.randint(4, 8))


class RandomTranslateWithReflect:
    """A shift of some pixels, where the mirrored image goes on, as of mean-teacher's script."""

    def __init__(self, max_translation: int) -> None:
        self.max_translation = max_translation

    def __call__(self, image: Image.Image) -> Image.Image:
        most = self.max_translation
        x, y = np.random.randint(-most, most + 1, size=2)
        padded = v1.functional.pad(image, most, padding_mode="reflect")
        return v1.functional.crop(padded, most - int(y), most - int(x), image.height, image.width)


class OwnMaybeToTensor(v1.ToTensor):
    """DINOv2's class: tensors stay as they are."""

    def __call__(self, image: Any) -> torch.Tensor:
        return image if isinstance(image, torch.Tensor) else super().__call__(image)


def convert_to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def reflected(image: torch.Tensor) -> torch.Tensor:
    return nn.functional.pad(image[None], (4, 4, 4, 4), mode="reflect")[0]


def center_crop_arr(image: Image.Image, size: int = 64) -> Image.Image:
    """The crop of diffusion models."""
    while min(image.size) >= 2 * size:
        half = image.size[0] // 2, image.size[1] // 2
        image = image.resize(half, resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    sides = round(image.size[0] * scale), round(image.size[1] * scale)
    pixels = np.array(image.resize(sides, resample=Image.Resampling.BICUBIC))
    y, x = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return Image.fromarray(pixels[y : y + size, x : x + size])


def square_from_middle(image: Image.Image, size: int = 64) -> Image.Image:
    """The crop of latent diffusion models."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, bottom = (height - side) // 2, (height + side) // 2
    left, right = (width - side) // 2, (width + side) // 2
    crop = Image.fromarray(pixels[top:bottom, left:right])
    return crop.resize((size, size), resample=Image.Resampling.BICUBIC)


def expand_to_square(image: Image.Image) -> Image.Image:
    """LLaVA's square, of CLIP's mean colour."""
    width, height = image.size
    side = max(width, height)
    square = Image.new(image.mode, (side, side), tuple(int(255 * level) for level in CLIP[0]))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


class SquarePad:
    """The class of many scripts. Where sides differ by an odd number, the result lacks a row."""

    def __call__(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        x, y = (int((side - each) / 2) for each in image.size)
        return v1.functional.pad(image, [x, y, x, y], 0, "constant")


def jitter(strength: float = 1.0) -> Any:
    """SimCLR's colors."""
    bounds = 0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength
    return v1.RandomApply([v1.ColorJitter(*bounds)], p=0.8)


MOCO_JITTER = v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
BYOL_JITTER = v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
CIFAR_CROP = [v1.RandomCrop(32, padding=4), flip()]


def timm_training(size: int = 224, **settings: Any) -> Callable[[], Any]:
    """timm's `create_transform` as DeiT and its descendants call it."""
    defaults: dict[str, Any] = {
        "color_jitter": 0.4,
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "interpolation": "bicubic",
        "re_prob": 0.25,
        "re_mode": "pixel",
        "re_count": 1,
    }
    return lambda: create_transform(size, is_training=True, **{**defaults, **settings})


TRAINING = [
    PublicList("pytorch/examples imagenet", listed(v1.RandomResizedCrop(224), flip(), floats())),
    PublicList(
        "pytorch/tutorials transfer learning", listed(v1.RandomResizedCrop(224), flip(), floats())
    ),
    PublicList("pytorch/tutorials cifar10", listed(floats(HALF)), "arrays"),
    PublicList(
        "pytorch/vision references/classification, default",
        listed(
            v1.RandomResizedCrop(224, interpolation=BILINEAR, antialias=True),
            v1.RandomHorizontalFlip(0.5),
            v1.PILToTensor(),
            v1.ConvertImageDtype(torch.float),
            v1.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "pytorch/vision references/classification, newest recipe",
        listed(
            v2.RandomResizedCrop(176, interpolation=BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.TrivialAugmentWide(interpolation=BILINEAR),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(*IMAGENET),
            v2.RandomErasing(0.1),
            v2.ToPureTensor(),
        ),
    ),
    PublicList(
        "pytorch/vision references/classification, ra on tensors",
        listed(
            v2.PILToTensor(),
            v2.RandomResizedCrop(224, interpolation=BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandAugment(interpolation=BILINEAR, magnitude=9),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "pytorch/vision references/classification, augmix",
        listed(v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.AugMix(), floats()),
    ),
    PublicList(
        "pytorch/vision references, quantization",
        listed(v1.RandomResizedCrop(224), flip(), v1.AutoAugment(interpolation=BILINEAR), floats()),
    ),
    PublicList("facebookresearch/deit", timm_training(color_jitter=0.3)),
    PublicList("microsoft/Swin-Transformer", timm_training()),
    PublicList("facebookresearch/ConvNeXt", timm_training()),
    PublicList("facebookresearch/mae finetune", timm_training(color_jitter=None)),
    PublicList("microsoft/unilm beit finetune", timm_training(mean=HALF[0], std=HALF[1])),
    PublicList("whai362/PVT", timm_training(color_jitter=0.4)),
    PublicList("facebookresearch/LeViT", timm_training(color_jitter=0.4, re_prob=0.25)),
    PublicList("sail-sg/poolformer", timm_training(auto_augment="rand-m9-mstd0.5-inc1")),
    PublicList(
        "huggingface/pytorch-image-models, no aug",
        lambda: create_transform(224, is_training=True, no_aug=True),
    ),
    PublicList(
        "huggingface/pytorch-image-models, ResNet-50 A2",
        timm_training(auto_augment="rand-m7-mstd0.5-inc1", re_prob=0.0, interpolation="random"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, defaults",
        timm_training(auto_augment=None, re_prob=0.0, interpolation="random"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, constant erasing",
        timm_training(auto_augment=None, re_mode="const", re_prob=0.2, interpolation="bilinear"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, EfficientNet",
        timm_training(auto_augment="rand-m9-mstd0.5", re_prob=0.2, interpolation="random"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, kept ratio and central crop",
        timm_training(64, train_crop_mode="rkrc", auto_augment=None, re_prob=0.0),
    ),
    PublicList(
        "huggingface/pytorch-image-models, kept ratio and random crop",
        timm_training((64, 48), train_crop_mode="rkrr", scale=(0.5, 1.0), ratio=(0.8, 1.2)),
    ),
    PublicList(
        "huggingface/pytorch-image-models, not square and without augmentation",
        lambda: create_transform((3, 64, 48), is_training=True, no_aug=True),
    ),
    PublicList(
        "huggingface/pytorch-image-models, AutoAugment",
        timm_training(auto_augment="original-mstd0.5", re_prob=0.0),
    ),
    PublicList(
        "huggingface/pytorch-image-models, AugMix",
        timm_training(auto_augment="augmix-m5-w4-d2", re_prob=0.0),
    ),
    PublicList(
        "facebookresearch/deit ThreeAugment",
        listed(
            v1.Resize(224, interpolation=3),
            v1.RandomCrop(224, padding=4, padding_mode="reflect"),
            flip(),
            v1.RandomChoice([v1.Grayscale(3), v1.RandomSolarize(128, 1.0), v1.GaussianBlur(9)]),
            v1.ColorJitter(0.3, 0.3, 0.3),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/mae pretrain",
        listed(v1.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=3), flip(), floats()),
    ),
    PublicList(
        "facebookresearch/mae linprobe",
        listed(v1.RandomResizedCrop(224, interpolation=3), flip(), floats()),
    ),
    PublicList("facebookresearch/dino linear", listed(v1.RandomResizedCrop(224), flip(), floats())),
    PublicList(
        "facebookresearch/moco v1, each view",
        listed(
            v1.RandomResizedCrop(224, scale=(0.2, 1.0)),
            v1.RandomGrayscale(p=0.2),
            v1.ColorJitter(0.4, 0.4, 0.4, 0.4),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/moco v2, each view",
        listed(
            v1.RandomResizedCrop(224, scale=(0.2, 1.0)),
            MOCO_JITTER,
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([OwnGaussianBlur([0.1, 2.0])], p=0.5),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/simsiam with torchvision's blur",
        listed(
            v1.RandomResizedCrop(224, scale=(0.2, 1.0)),
            MOCO_JITTER,
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([v1.GaussianBlur(23, (0.1, 2.0))], p=0.5),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/barlowtwins, each view",
        listed(
            v1.RandomResizedCrop(224, interpolation=BICUBIC),
            flip(),
            BYOL_JITTER,
            v1.RandomGrayscale(p=0.2),
            OwnBlur(1.0),
            OwnSolarization(0.0),
            floats(),
        ),
    ),
    PublicList(
        "facebookresearch/swav, each view",
        listed(
            v1.RandomResizedCrop(224, scale=(0.14, 1.0)),
            flip(),
            jitter(),
            v1.RandomGrayscale(p=0.2),
            OwnBlur(0.5),
            floats(),
        ),
    ),
    PublicList(
        "a blur by other radii",
        listed(v1.RandomResizedCrop(224), OwnBlur(1.0, 0.5, 9.0), floats()),
    ),
    PublicList(
        "sthalles/SimCLR, each view",
        listed(
            v1.RandomResizedCrop(96),
            flip(),
            jitter(),
            v1.RandomGrayscale(p=0.2),
            v1.GaussianBlur(9),
            v1.ToTensor(),
        ),
    ),
    PublicList(
        "HobbitLong/SupContrast, each view",
        listed(
            v1.RandomResizedCrop(32, scale=(0.2, 1.0)),
            flip(),
            MOCO_JITTER,
            v1.RandomGrayscale(p=0.2),
            floats(CIFAR),
        ),
        "arrays",
    ),
    PublicList(
        "lightly-ai/lightly BYOL, each view",
        listed(
            v1.RandomResizedCrop(224, scale=(0.08, 1.0)),
            flip(),
            v1.RandomVerticalFlip(0.0),
            BYOL_JITTER,
            v1.RandomGrayscale(0.2),
            v1.RandomSolarize(128, 0.2),
            floats(),
        ),
    ),
    PublicList(
        "lucidrains/byol-pytorch on PIL images",
        listed(
            v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.3),
            v1.RandomGrayscale(p=0.2),
            flip(),
            v1.RandomApply([v1.GaussianBlur((3, 3), (1.0, 2.0))], p=0.2),
            v1.RandomResizedCrop((224, 224)),
            floats(),
        ),
    ),
    PublicList("kuangliu/pytorch-cifar", listed(CIFAR_CROP, floats(CIFAR)), "arrays"),
    PublicList(
        "weiaicunzai/pytorch-cifar100",
        listed(CIFAR_CROP, v1.RandomRotation(15), floats(CIFAR100)),
        "arrays",
    ),
    PublicList("facebookresearch/mixup-cifar10", listed(CIFAR_CROP, floats(CIFAR)), "arrays"),
    PublicList(
        "xternalz/WideResNet-pytorch",
        listed(
            v1.ToTensor(),
            v1.Lambda(reflected),
            v1.ToPILImage(),
            v1.RandomCrop(32),
            flip(),
            floats(CIFAR),
        ),
        "arrays",
    ),
    PublicList("meliketoy/wide-resnet.pytorch", listed(CIFAR_CROP, floats(CIFAR)), "arrays"),
    PublicList(
        "uoguelph-mlrg/Cutout",
        listed(CIFAR_CROP, floats(CIFAR), OwnCutout(1, 16)),
        "arrays",
    ),
    PublicList(
        "davda54/sam with torchvision's erasing",
        listed(v1.RandomCrop((32, 32), padding=4), flip(), floats(CIFAR), v1.RandomErasing()),
        "arrays",
    ),
    PublicList(
        "quark0/darts imagenet",
        listed(v1.RandomResizedCrop(224), flip(), v1.ColorJitter(0.4, 0.4, 0.4, 0.2), floats()),
    ),
    PublicList(
        "clovaai/CutMix-PyTorch imagenet",
        listed(
            v1.RandomResizedCrop(224),
            flip(),
            v1.ToTensor(),
            OwnLighting(0.1, EIGVAL, EIGVEC),
            v1.Normalize(*IMAGENET),
        ),
    ),
    PublicList("clovaai/CutMix-PyTorch cifar", listed(CIFAR_CROP, floats(CIFAR)), "arrays"),
    PublicList(
        "kekmodel/FixMatch-pytorch weak",
        listed(flip(), v1.RandomCrop(32, padding=4, padding_mode="reflect"), floats(CIFAR)),
        "arrays",
    ),
    PublicList(
        "CuriousAI/mean-teacher cifar",
        listed(RandomTranslateWithReflect(4), flip(), floats(CIFAR)),
        "arrays",
        'torchvision\'s `RandomCrop(side, padding=4, padding_mode="reflect")`',
    ),
    PublicList(
        "kekmodel/FixMatch-pytorch strong",
        listed(
            flip(),
            v1.RandomCrop(32, padding=4, padding_mode="reflect"),
            RandAugmentMC(2, 10),
            floats(CIFAR),
        ),
        "arrays",
        "torchvision's `RandAugment(2, 10)` has a counterpart.",
    ),
    PublicList(
        "DeepVoltaire/AutoAugment cifar10",
        listed(v1.RandomCrop(32, padding=4, fill=128), flip(), CIFAR10Policy(), floats(CIFAR)),
        "arrays",
    ),
    PublicList(
        "torchvision's AutoAugment on CIFAR",
        listed(
            v1.RandomCrop(32, padding=4, fill=128),
            flip(),
            v1.AutoAugment(v1.AutoAugmentPolicy.CIFAR10),
            floats(CIFAR),
        ),
        "arrays",
    ),
    PublicList(
        "torchvision's AutoAugment on CIFAR, filled with gray",
        listed(
            v1.RandomCrop(32, padding=4, fill=128),
            flip(),
            v1.AutoAugment(v1.AutoAugmentPolicy.CIFAR10, fill=(128, 128, 128)),
            floats(CIFAR),
        ),
        "arrays",
    ),
    PublicList(
        "MadryLab/robustness cifar",
        listed(CIFAR_CROP, v1.ColorJitter(0.25, 0.25, 0.25), v1.RandomRotation(2), v1.ToTensor()),
        "arrays",
    ),
    PublicList("yaodongyu/TRADES", listed(CIFAR_CROP, v1.ToTensor()), "arrays"),
    PublicList(
        "google-research/augmix, base of the dataset",
        listed(flip(), v1.RandomCrop(32, padding=4), floats(HALF)),
        "arrays",
    ),
    PublicList(
        "G-U-N/PyCIL cifar",
        listed(
            CIFAR_CROP, v1.ColorJitter(brightness=63 / 255), v1.ToTensor(), v1.Normalize(*CIFAR100)
        ),
        "arrays",
    ),
    PublicList(
        "google-research/big_transfer",
        listed(v1.Resize((160, 160)), v1.RandomCrop((128, 128)), flip(), floats(HALF)),
    ),
    PublicList(
        "jeonsworld/ViT-pytorch",
        listed(v1.RandomResizedCrop((224, 224), scale=(0.05, 1.0)), floats(HALF)),
    ),
    PublicList(
        "TACJu/TransFG",
        listed(v1.Resize((300, 300), BILINEAR), v1.RandomCrop((224, 224)), flip(), floats()),
    ),
    PublicList(
        "PRIS-CV/PMG",
        listed(v1.Resize((275, 275)), v1.RandomCrop(224, padding=8), flip(), floats(HALF)),
    ),
    PublicList(
        "layumin/Person_reID_baseline_pytorch",
        listed(
            v1.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0),
            v1.Resize((256, 128), interpolation=3),
            v1.Pad(10),
            v1.RandomCrop((256, 128)),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "michuanhaohao/reid-strong-baseline",
        listed(
            v1.Resize([256, 128]),
            v1.RandomHorizontalFlip(0.5),
            v1.Pad(10),
            v1.RandomCrop([256, 128]),
            floats(),
            v1.RandomErasing(0.5, scale=(0.02, 0.4), ratio=(0.3, 3.33)),
        ),
    ),
    PublicList(
        "zhunzhong07/Random-Erasing",
        listed(CIFAR_CROP, floats(CIFAR), OwnErasing()),
        "arrays",
    ),
    PublicList("deepinsight/insightface arcface_torch", listed(flip(), floats(HALF)), "squares"),
    PublicList(
        "tjmoon0104/pytorch-tiny-imagenet",
        listed(v1.RandomRotation(20), v1.RandomHorizontalFlip(0.5), floats()),
        "squares",
    ),
    PublicList(
        "arnoweng/CheXNet training",
        listed(v1.Resize(256), v1.RandomCrop(224), flip(), floats()),
    ),
    PublicList(
        "facebookresearch/DomainBed",
        listed(
            v1.RandomResizedCrop(224, scale=(0.7, 1.0)),
            flip(),
            v1.ColorJitter(0.3, 0.3, 0.3, 0.3),
            v1.RandomGrayscale(),
            floats(),
        ),
    ),
    PublicList(
        "kohpangwei/group_DRO",
        listed(
            v1.RandomResizedCrop(
                (224, 224), scale=(0.7, 1.0), ratio=(0.75, 1.3333333333333333), interpolation=2
            ),
            flip(),
            floats(),
        ),
    ),
    PublicList(
        "udacity/aipnd-project flowers",
        listed(v1.RandomRotation(30), v1.RandomResizedCrop(224), flip(), floats()),
    ),
    PublicList(
        "skin lesions, ISIC scripts",
        listed(
            v1.Resize((224, 224)),
            flip(),
            v1.RandomVerticalFlip(),
            v1.RandomRotation(20),
            v1.ColorJitter(brightness=0.1, contrast=0.1, hue=0.1),
            floats(),
        ),
    ),
    PublicList(
        "basveeling/pcam scripts",
        listed(
            flip(),
            v1.RandomVerticalFlip(),
            v1.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5),
            v1.ToTensor(),
        ),
        "squares",
    ),
    PublicList(
        "phelber/EuroSAT scripts",
        listed(v1.RandomResizedCrop(64), flip(), v1.RandomVerticalFlip(), floats()),
    ),
    PublicList(
        "pytorch/examples dcgan",
        listed(v1.Resize(64), v1.CenterCrop(64), floats(HALF)),
    ),
    PublicList(
        "lucidrains/denoising-diffusion-pytorch",
        listed(
            v1.Lambda(lambda image: image),
            v1.Resize(128),
            flip(),
            v1.CenterCrop(128),
            v1.ToTensor(),
        ),
    ),
    PublicList(
        "facebookresearch/DiT",
        listed(v1.Lambda(center_crop_arr), flip(), floats(HALF)),
    ),
    PublicList(
        "squares and turns of small data sets",
        listed(SquarePad(), v1.Resize((64, 64)), flip(), v1.RandomRotation(10), floats()),
    ),
    PublicList("rosinality/stylegan2-pytorch", listed(flip(), floats(HALF)), "squares"),
    PublicList(
        "mlfoundations/open_clip training",
        listed(
            v1.RandomResizedCrop(224, scale=(0.9, 1.0), interpolation=BICUBIC),
            convert_to_rgb,
            floats(CLIP),
        ),
    ),
    PublicList(
        "KaiyangZhou/CoOp",
        listed(
            v1.RandomResizedCrop(224, scale=(0.08, 1.0), interpolation=BICUBIC),
            flip(),
            floats(CLIP),
        ),
    ),
    PublicList(
        "huggingface/transformers image-classification",
        listed(v1.RandomResizedCrop(224), flip(), floats(HALF)),
    ),
    PublicList(
        "Alibaba-MIIL/ImageNet21K",
        listed(v1.Resize((224, 224)), v1.RandAugment(), v1.ToTensor()),
    ),
    PublicList(
        "lukemelas/EfficientNet-PyTorch",
        listed(v1.RandomResizedCrop(224), flip(), floats()),
    ),
    PublicList(
        "d-li14/mobilenetv2.pytorch",
        listed(v1.RandomResizedCrop(224, scale=(0.2, 1.0)), flip(), floats()),
    ),
    PublicList(
        "Kaggle notebooks with perspective",
        listed(v1.RandomResizedCrop(224), v1.RandomPerspective(0.2), floats()),
    ),
    PublicList(
        "pytorch/vision gallery v2",
        listed(
            v2.ToImage(),
            v2.RandomResizedCrop((224, 224), antialias=True),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "v2 tutorials with photometric changes",
        listed(
            v2.ToImage(),
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomAutocontrast(),
            v2.RandomAdjustSharpness(2, 0.3),
            v2.RandomEqualize(0.1),
            v2.RandomInvert(0.1),
            v2.RandomPosterize(4, 0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ),
    ),
]

EVALUATION = [
    PublicList("pytorch/examples imagenet", listed(v1.Resize(256), v1.CenterCrop(224), floats())),
    PublicList("pytorch/tutorials cifar10", listed(floats(HALF)), "arrays"),
    PublicList(
        "pytorch/vision references/classification",
        listed(
            v1.Resize(232, interpolation=BILINEAR, antialias=True),
            v1.CenterCrop(224),
            v1.PILToTensor(),
            v1.ConvertImageDtype(torch.float),
            v1.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "pytorch/vision ResNet50 V2 weights", models.ResNet50_Weights.IMAGENET1K_V2.transforms
    ),
    PublicList(
        "pytorch/vision ViT SWAG weights", models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms
    ),
    PublicList(
        "pytorch/vision EfficientNet weights", models.EfficientNet_B0_Weights.DEFAULT.transforms
    ),
    PublicList("pytorch/vision Swin weights", models.Swin_T_Weights.DEFAULT.transforms),
    PublicList(
        "facebookresearch/deit",
        listed(v1.Resize(256, interpolation=3), v1.CenterCrop(224), floats()),
    ),
    PublicList(
        "facebookresearch/mae",
        listed(v1.Resize(256, interpolation=BICUBIC), v1.CenterCrop(224), floats()),
    ),
    PublicList(
        "facebookresearch/ConvNeXt at 384",
        listed(v1.Resize((384, 384), interpolation=BICUBIC), floats()),
    ),
    PublicList(
        "microsoft/Swin-Transformer",
        listed(v1.Resize(256, interpolation=BICUBIC), v1.CenterCrop(224), floats()),
    ),
    PublicList(
        "facebookresearch/dino linear",
        listed(v1.Resize(256, interpolation=3), v1.CenterCrop(224), floats()),
    ),
    PublicList(
        "facebookresearch/dinov2",
        listed(
            v1.Resize(256, interpolation=BICUBIC),
            v1.CenterCrop(224),
            OwnMaybeToTensor(),
            v1.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "openai/CLIP",
        listed(
            v1.Resize(224, interpolation=BICUBIC), v1.CenterCrop(224), convert_to_rgb, floats(CLIP)
        ),
    ),
    PublicList(
        "mlfoundations/open_clip squash",
        listed(v1.Resize((224, 224), interpolation=BICUBIC), convert_to_rgb, floats(CLIP)),
    ),
    PublicList(
        "huggingface/pytorch-image-models, vit_base_patch16_224",
        lambda: create_transform(
            224, interpolation="bicubic", mean=HALF[0], std=HALF[1], crop_pct=0.9
        ),
    ),
    PublicList("huggingface/pytorch-image-models, defaults", lambda: create_transform(224)),
    PublicList(
        "huggingface/pytorch-image-models, squash",
        lambda: create_transform(224, interpolation="bicubic", crop_pct=1.0, crop_mode="squash"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, border",
        lambda: create_transform(224, interpolation="bicubic", crop_pct=1.0, crop_mode="border"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, border of a share",
        lambda: create_transform((3, 64, 48), crop_pct=0.9, crop_mode="border"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, not square",
        lambda: create_transform((3, 64, 48), interpolation="bicubic", crop_pct=0.95),
    ),
    PublicList(
        "huggingface/pytorch-image-models, trimmed",
        lambda: create_transform(64, crop_border_pixels=5),
    ),
    PublicList(
        "huggingface/pytorch-image-models, lanczos",
        lambda: create_transform(224, interpolation="lanczos"),
    ),
    PublicList(
        "lukemelas/EfficientNet-PyTorch",
        listed(v1.Resize(224, interpolation=Image.BICUBIC), v1.CenterCrop(224), floats()),
    ),
    PublicList("google-research/big_transfer", listed(v1.Resize((128, 128)), floats(HALF))),
    PublicList("jeonsworld/ViT-pytorch", listed(v1.Resize((224, 224)), floats(HALF))),
    PublicList(
        "TACJu/TransFG",
        listed(v1.Resize((300, 300), BILINEAR), v1.CenterCrop((224, 224)), floats()),
    ),
    PublicList(
        "layumin/Person_reID_baseline_pytorch",
        listed(v1.Resize(size=(256, 128), interpolation=3), floats()),
    ),
    PublicList("facebookresearch/DomainBed", listed(v1.Resize((224, 224)), floats())),
    PublicList(
        "kohpangwei/group_DRO",
        listed(v1.Resize((256, 256)), v1.CenterCrop((224, 224)), floats()),
    ),
    PublicList(
        "huggingface/transformers image-classification",
        listed(v1.Resize(224), v1.CenterCrop(224), floats(HALF)),
    ),
    PublicList("kuangliu/pytorch-cifar", listed(floats(CIFAR)), "arrays"),
    PublicList("weiaicunzai/pytorch-cifar100", listed(floats(CIFAR100)), "arrays"),
    PublicList("yaodongyu/TRADES", listed(v1.ToTensor()), "arrays"),
    PublicList("CIFAR at ImageNet's size", listed(v1.Resize(224), floats()), "arrays"),
    PublicList("deepinsight/insightface", listed(v1.Resize(112), floats(HALF)), "squares"),
    PublicList("tjmoon0104/pytorch-tiny-imagenet", listed(floats()), "squares"),
    PublicList(
        "mseitzer/pytorch-fid on square files", listed(v1.Resize(299), v1.ToTensor()), "squares"
    ),
    PublicList(
        "arnoweng/CheXNet test, ten crops",
        listed(
            v1.Resize(256),
            v1.TenCrop(224),
            v1.Lambda(lambda crops: torch.stack([v1.functional.to_tensor(crop) for crop in crops])),
        ),
        refusal="`TenCrop`",
    ),
    PublicList(
        "pytorch/examples dcgan at 64", listed(v1.Resize(64), v1.CenterCrop(64), floats(HALF))
    ),
    PublicList(
        "crops larger than the resize", listed(v1.Resize(200), v1.CenterCrop(224), floats())
    ),
    PublicList(
        "diffusion scripts with a Lambda for [-1, 1]",
        listed(
            v1.Resize(64), v1.CenterCrop(64), v1.ToTensor(), v1.Lambda(lambda image: image * 2 - 1)
        ),
    ),
    PublicList(
        "pytorch/vision gallery v2",
        listed(
            v2.ToImage(),
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "scripts of older torchvision: a resize of tensors without antialiasing",
        listed(v1.ToTensor(), v1.Resize((64, 64), antialias=None), v1.Normalize(*IMAGENET)),
    ),
    PublicList(
        "huggingface/pytorch-image-models, box",
        lambda: create_transform(64, interpolation="box"),
    ),
    PublicList(
        "huggingface/pytorch-image-models, hamming",
        lambda: create_transform(64, interpolation="hamming"),
    ),
    PublicList("facebookresearch/DiT", listed(v1.Lambda(center_crop_arr), floats(HALF))),
    PublicList("CompVis/latent-diffusion lsun", listed(square_from_middle, floats(HALF))),
    PublicList(
        "haotian-liu/LLaVA, square images",
        listed(expand_to_square, v1.Resize((64, 64), BICUBIC), floats(CLIP)),
    ),
    PublicList("squares by a class", listed(SquarePad(), v1.Resize((64, 64)), floats())),
    PublicList("Pillow's own resize", listed(lambda image: image.resize((64, 48)), floats())),
    PublicList(
        "letterboxes: padding to a square",
        listed(v1.Resize((180, 180)), v1.Pad(22, fill=114), floats()),
    ),
    PublicList(
        "resizes in two steps", listed(v1.Resize(256), v1.CenterCrop(224), v1.Resize(96), floats())
    ),
    PublicList(
        "gray photographs for three channels",
        listed(v1.Resize(256), v1.CenterCrop(224), v1.Grayscale(3), floats()),
    ),
    PublicList(
        "pytorch/examples mnist, of image files",
        listed(
            v1.Resize((28, 28)), v1.Grayscale(), v1.ToTensor(), v1.Normalize((0.1307,), (0.3081,))
        ),
    ),
    PublicList(
        "gray photographs, repeated for three channels",
        listed(
            v1.Resize((224, 224)),
            v1.Grayscale(1),
            v1.ToTensor(),
            v1.Lambda(lambda image: image.repeat(3, 1, 1)),
            v1.Normalize(*IMAGENET),
        ),
    ),
    PublicList(
        "models of Caffe: BGR levels without their means",
        listed(
            v1.Resize((224, 224)),
            v1.ToTensor(),
            v1.Lambda(lambda image: image[[2, 1, 0]]),
            v1.Normalize((0.40760392, 0.45795686, 0.48501961), (1, 1, 1)),
            v1.Lambda(lambda image: image.mul_(255)),
        ),
    ),
    PublicList(
        "half precision behind Normalize",
        listed(
            v1.Resize(256),
            v1.CenterCrop(224),
            floats(),
            v1.Lambda(lambda image: image.to(torch.float16)),
        ),
    ),
]
