"""Classes that many scripts copy, recognised by replaying what they draw.

A candidate names the class's settings by its attributes, and draws and changes images as the
published class does. From many random states, and on images of all kinds of content, the user's
object must make the candidate's images and leave the candidate's random states.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance

from dali_cutmix.core.frame import Augmentation
from dali_cutmix.from_torch.chances import blurs, changes
from dali_cutmix.from_torch.comparison import GENERATORS, call, held, remembers
from dali_cutmix.from_torch.contents import noise
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.policies import policy
from dali_cutmix.from_torch.replays import Candidate, makes_the_same
from dali_cutmix.from_torch.report import NoCounterpartError
from dali_cutmix.from_torch.scripts import first_of, prob_of
from dali_cutmix.transforms.adjustments import IMAGENET_PCA, Lighting
from dali_cutmix.transforms.color import ColorJitter
from dali_cutmix.transforms.erasing import EraseSquares, RandomErasing

#: Tries of a rectangle that fits, in the code of Random Erasing's authors.
_NUM_TRIES = 100


def published(part: Any, levels: Levels) -> list[Augmentation] | None:
    """Return what a script's copy of a published class does; None where that is something else.

    Args:
        part: The user's object.
        levels: What pixel numbers mean in front of ``part``.

    Raises:
        NoCounterpartError: The object's color cannot be stored.
    """
    if held(part, lambda inner: isinstance(inner, GENERATORS)):
        return None
    for candidates in _CANDIDATES:
        try:
            listed = list(candidates(part, levels))
        except NoCounterpartError:
            raise
        except Exception:  # another class, or whatever the attributes of the user's class raise
            continue
        for replay, augmentations in listed:
            if makes_the_same(part, replay, levels):
                image = levels.image_of(noise((32, 32)))
                counts = remembers(part, partial(call, part, image))
                return None if counts else list(augmentations)
    return None


def _squares(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield squares of zeros on tensors: of DeVries and Taylor, and of davda54's SAM."""
    if not levels.is_tensor:
        return
    side = int(first_of(part, "length", "size", "mask_size"))
    count, prob = int(getattr(part, "n_holes", 1)), prob_of(part)
    color = levels.color_of(0)
    even = EraseSquares(side - side % 2, count, value=color)
    yield partial(_with_squares_by_numpy, side=side, count=count), [even]
    if count == 1:
        by_chance = EraseSquares(side, prob=prob, value=color)
        yield partial(_with_a_square_by_torch, side=side, prob=prob), [by_chance]


def _with_squares_by_numpy(image: torch.Tensor, side: int, count: int) -> torch.Tensor:
    half = side // 2
    for _ in range(count):
        y, x = (np.random.randint(length) for length in image.shape[1:])
        image[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
    return image


def _with_a_square_by_torch(image: torch.Tensor, side: int, prob: float) -> torch.Tensor:
    if torch.rand([1]).item() > prob:
        return image
    half = side // 2
    starts = [int(torch.randint(-half, length - half, [1])) for length in image.shape[1:]]
    rows, columns = (slice(max(start, 0), max(start + side, 0)) for start in starts)
    image[:, rows, columns] = 0
    return image


def _zhong_erasing(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Erase as the code of Random Erasing's authors does, which draws the ratio itself."""
    if not levels.is_tensor:
        return
    low, high, ratio = (float(first_of(part, name)) for name in ("sl", "sh", "r1"))
    prob = prob_of(part)
    mean = [float(number) for number in first_of(part, "mean")]
    augmentation = RandomErasing(
        prob, (low, high), (ratio, 1 / ratio), levels.color_of(mean, name="mean"), log_ratio=False
    )
    fill = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    yield partial(_erased, prob=prob, scale=(low, high), ratio=ratio, fill=fill), [augmentation]


def _erased(
    image: torch.Tensor, prob: float, scale: tuple[float, float], ratio: float, fill: torch.Tensor
) -> torch.Tensor:
    if random.uniform(0, 1) > prob:
        return image
    height, width = image.shape[1:]
    for _ in range(_NUM_TRIES):
        area = random.uniform(*scale) * height * width
        aspect = random.uniform(ratio, 1 / ratio)
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if wide < width and tall < height:
            top, left = random.randint(0, height - tall), random.randint(0, width - wide)
            image[:, top : top + tall, left : left + wide] = fill.to(image.dtype)
            return image
    return image


def _lighting(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield noise along the principal components of ImageNet's colors."""
    deviation = float(first_of(part, "alphastd", "alpha_std", "std"))
    augmentations = [Lighting(deviation)]
    if not levels.is_tensor:
        yield partial(_with_color_of_levels, deviation=deviation), augmentations
    elif levels.are_plain and not levels.are_uint8:
        yield lambda image: _with_color(image, torch.empty(3).normal_(0, deviation)), augmentations
        yield lambda image: _with_color(image, np.random.normal(0, deviation, 3)), augmentations


def _with_color(image: torch.Tensor, alpha: Any) -> torch.Tensor:
    color = IMAGENET_PCA @ np.asarray(alpha, np.float64)
    return image + torch.from_numpy(color).to(image.dtype)[:, None, None]


def _with_color_of_levels(image: Image.Image, deviation: float) -> Image.Image:
    alpha = (np.random.randn(3) * deviation).astype(np.float32)
    color = (255 * (IMAGENET_PCA @ alpha)).astype(np.float32)
    return Image.fromarray((np.asarray(image, np.float32) + color).clip(0, 255).astype(np.uint8))


def _image_jitter(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield Pillow's enhancements in a fixed order, of few-shot scripts."""
    if levels.is_tensor:
        return
    enhancements = [(enhance, float(bound)) for enhance, bound in part.transforms]
    augmentations = [
        ColorJitter(**{_ADJUSTMENTS[enhance]: (1 - bound, 1 + bound)})
        for enhance, bound in enhancements
    ]
    yield partial(_enhanced, enhancements=enhancements), augmentations


#: Arguments of `ColorJitter`.
_ADJUSTMENTS: dict[Any, str] = {
    ImageEnhance.Brightness: "brightness",
    ImageEnhance.Contrast: "contrast",
    ImageEnhance.Color: "saturation",
}


def _enhanced(image: Image.Image, enhancements: Sequence[tuple[Any, float]]) -> Image.Image:
    shares = torch.rand(len(enhancements))
    for share, (enhance, bound) in zip(shares, enhancements, strict=True):
        image = enhance(image).enhance(float(bound * (share * 2.0 - 1.0) + 1))
    return image


_CANDIDATES = _squares, _zhong_erasing, _lighting, _image_jitter, policy, changes, blurs
