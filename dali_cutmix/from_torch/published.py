"""Classes that many scripts copy, recognised by replaying what they draw.

A candidate names the class's settings by its attributes, and draws and changes images as the
published class does. From many random states, and on images of all kinds of content, the user's
object must make the candidate's images and leave the candidate's random states.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from dali_cutmix.core.frame import Augmentation
from dali_cutmix.from_torch.comparison import (
    GENERATORS,
    call,
    held,
    random_states,
    remembers,
    seed_all,
)
from dali_cutmix.from_torch.contents import KINDS, noise
from dali_cutmix.from_torch.functions import are_same_image
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.scripts import first_of, prob_of
from dali_cutmix.transforms.adjustments import IMAGENET_PCA, Lighting
from dali_cutmix.transforms.color import ColorJitter
from dali_cutmix.transforms.erasing import EraseSquares, RandomErasing
from dali_cutmix.transforms.timm import TimmAutoAugment

#: Random states from which a user's object is called.
NUM_REPLAYS = 256

#: (height, width) of synthetic images, in turn.
_SIZES = ((32, 32), (24, 17), (40, 60))

#: Tries of a rectangle that fits, in the code of Random Erasing's authors.
_NUM_TRIES = 100

#: Draws and changes an image as a published class does.
Replay = Callable[[Any], Any]


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
    for candidates in (_squares, _zhong_erasing, _lighting, _image_jitter, _policy):
        try:
            listed = list(candidates(part, levels))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):  # another class
            continue
        for replay, augmentations in listed:
            if _makes_the_same(part, replay, levels):
                image = levels.image_of(noise(_SIZES[0]))
                counts = remembers(part, partial(call, part, image))
                return None if counts else list(augmentations)
    return None


def _makes_the_same(
    function: Any, replay: Replay, levels: Levels, num_replays: int = NUM_REPLAYS
) -> bool:
    def are_same(_: None) -> bool:
        return all(
            _is_same(function, replay, levels, seed, pixels)
            for seed, pixels in enumerate(islice(_contents(), num_replays))
        )

    try:
        same, _ = call(are_same, None)
    except Exception:  # whatever the user's code raises
        return False
    return bool(same)


def _is_same(function: Any, replay: Replay, levels: Levels, seed: int, pixels: np.ndarray) -> bool:
    results = []
    for callee in (replay, function):
        seed_all(seed)
        results.append((callee(levels.image_of(pixels.copy())), random_states()))
    (wanted, wanted_states), (result, states) = results
    return states == wanted_states and are_same_image(result, wanted)


def _contents() -> Iterator[np.ndarray]:
    """Yield images of all kinds of content in all sizes, without end."""
    number = 0
    while True:
        kind, size = KINDS[number % len(KINDS)], _SIZES[number % len(_SIZES)]
        yield kind(noise(size, number))
        number += 1


def _squares(part: Any, levels: Levels) -> Iterator[tuple[Replay, Sequence[Augmentation]]]:
    """Squares of zeros on tensors: of DeVries and Taylor, and of davda54's SAM."""
    if not levels.is_tensor:
        return
    side = int(first_of(part, "length", "size", "mask_size"))
    count, prob = int(getattr(part, "n_holes", 1)), prob_of(part)
    color = levels.color_of([0.0] * 3)
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


def _zhong_erasing(part: Any, levels: Levels) -> Iterator[tuple[Replay, Sequence[Augmentation]]]:
    """Erase as the code of Random Erasing's authors does, which draws the ratio itself."""
    if not levels.is_tensor:
        return
    low, high, ratio = (float(first_of(part, name)) for name in ("sl", "sh", "r1"))
    prob = prob_of(part)
    mean = [float(number) for number in first_of(part, "mean")]
    augmentation = RandomErasing(
        prob, (low, high), (ratio, 1 / ratio), levels.color_of(mean), log_ratio=False
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


def _lighting(part: Any, levels: Levels) -> Iterator[tuple[Replay, Sequence[Augmentation]]]:
    """Noise along the principal components of ImageNet's colors."""
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


def _image_jitter(part: Any, levels: Levels) -> Iterator[tuple[Replay, Sequence[Augmentation]]]:
    """Pillow's enhancements in a fixed order, of few-shot scripts."""
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


def _policy(part: Any, levels: Levels) -> Iterator[tuple[Replay, Sequence[Augmentation]]]:
    """AutoAugment's policies by Pillow, as of DeepVoltaire's script: ``policies`` of two steps."""
    if levels.is_tensor:
        return
    fill = tuple(int(level) for level in getattr(part, "fillcolor", (128, 128, 128)))
    pairs = [[_Step.of(each, number, levels, fill) for number in (1, 2)] for each in part.policies]
    sequences = [[(s.operation, s.prob, s.strength) for s in steps] for steps in pairs]
    translate = 150 / 331
    augmentation = TimmAutoAugment(
        sequences, interpolation="bicubic", fill=fill, translate=translate
    )
    yield partial(_by_policy, pairs=pairs, fill=fill), [augmentation]


@dataclass(frozen=True)
class _Step:
    """Hold one step of a policy.

    Attributes:
        operation: Name in `_OPERATIONS`.
        prob: Probability in [0, 1].
        magnitude: As the script's operation takes it.
    """

    operation: str
    prob: float
    magnitude: float

    @classmethod
    def of(cls, pair: Any, number: int, levels: Levels, fill: tuple[int, ...]) -> _Step:
        """Read a step of a script's pair.

        Raises:
            ValueError: The operation is none of `_OPERATIONS`.
        """
        operation, prob, magnitude = (
            getattr(pair, f"{name}{number}") for name in ("operation", "p", "magnitude")
        )
        for name in _OPERATIONS:
            replay = partial(_applied, name=name, magnitude=magnitude, fill=fill)
            function = partial(_with_magnitude, operation=operation, magnitude=magnitude)
            if _makes_the_same(function, replay, levels, len(KINDS)):
                return cls(name, float(prob), float(magnitude))
        raise ValueError(operation)

    @property
    def strength(self) -> float:
        """timm's magnitude."""
        return 10 * _OPERATIONS[self.operation][1](self.magnitude)


def _with_magnitude(image: Image.Image, operation: Any, magnitude: Any) -> Any:
    return operation(image, magnitude)


def _by_policy(
    image: Image.Image, pairs: Sequence[Sequence[_Step]], fill: tuple[int, ...]
) -> Image.Image:
    for step in pairs[random.randint(0, len(pairs) - 1)]:
        if random.random() < step.prob:
            # Pillow takes whole bits.
            is_whole = step.magnitude == int(step.magnitude)
            magnitude = int(step.magnitude) if is_whole else step.magnitude
            image = _applied(image, step.operation, magnitude, fill)
    return image


def _applied(image: Image.Image, name: str, magnitude: float, fill: tuple[int, ...]) -> Image.Image:
    changed: Image.Image = _OPERATIONS[name][0](image, magnitude, fill)
    return changed


def _signed(magnitude: float) -> float:
    return magnitude * random.choice([-1, 1])


def _transformed(image: Image.Image, matrix: Any, fill: Any, kernel: Any) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, kernel, fillcolor=fill)


def _sheared(image: Image.Image, magnitude: float, fill: Any, axis: int) -> Image.Image:
    share = _signed(magnitude)
    matrix = (1, share, 0, 0, 1, 0) if axis == 0 else (1, 0, 0, share, 1, 0)
    return _transformed(image, matrix, fill, Image.Resampling.BICUBIC)


def _shifted(image: Image.Image, magnitude: float, fill: Any, axis: int) -> Image.Image:
    shift = magnitude * image.size[axis] * random.choice([-1, 1])
    matrix = (1, 0, shift, 0, 1, 0) if axis == 0 else (1, 0, 0, 0, 1, shift)
    return _transformed(image, matrix, fill, Image.Resampling.NEAREST)


def _enhancement(enhance: Any) -> tuple[Any, Callable[[float], float]]:
    def apply(image: Image.Image, magnitude: float, _fill: Any) -> Image.Image:
        enhanced: Image.Image = enhance(image).enhance(1 + _signed(magnitude))
        return enhanced

    return apply, lambda magnitude: magnitude / 0.9


def _of_levels(change: Any) -> tuple[Any, Callable[[float], float]]:
    return lambda image, _magnitude, _fill: change(image), lambda _: 0.0


def _solarize_strength(threshold: float) -> float:
    # Half a level more, so that no rounding makes one level less.
    return min((math.ceil(threshold) + 0.5) / 256, 1.0)


#: By timm's name what a script's operation does, and the share of full strength.
_OPERATIONS: dict[str, tuple[Any, Callable[[float], float]]] = {
    "ShearX": (partial(_sheared, axis=0), lambda magnitude: magnitude / 0.3),
    "ShearY": (partial(_sheared, axis=1), lambda magnitude: magnitude / 0.3),
    "TranslateXNearest": (partial(_shifted, axis=0), lambda magnitude: magnitude * 331 / 150),
    "TranslateYNearest": (partial(_shifted, axis=1), lambda magnitude: magnitude * 331 / 150),
    "RotateLeft": (
        lambda image, magnitude, fill: image.rotate(magnitude, fillcolor=fill),
        lambda magnitude: magnitude / 30,
    ),
    "ColorIncreasing": _enhancement(ImageEnhance.Color),
    "ContrastIncreasing": _enhancement(ImageEnhance.Contrast),
    "SharpnessIncreasing": _enhancement(ImageEnhance.Sharpness),
    "BrightnessIncreasing": _enhancement(ImageEnhance.Brightness),
    "PosterizeOriginal": (
        lambda image, magnitude, _: ImageOps.posterize(image, magnitude),
        lambda magnitude: (magnitude - 4) / 4,
    ),
    "Solarize": (
        lambda image, magnitude, _: ImageOps.solarize(image, magnitude),
        _solarize_strength,
    ),
    "AutoContrast": _of_levels(ImageOps.autocontrast),
    "Equalize": _of_levels(ImageOps.equalize),
    "Invert": _of_levels(ImageOps.invert),
}
