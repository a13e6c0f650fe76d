"""What a user's function does to some Pillow images, by chance, as augmentations.

A function is called from many random states. Each result must be the image, or the image changed in
one way. Their number must fit the function's probability, and radii of a blur their range.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from dali_cutmix.core.frame import Augmentation
from dali_cutmix.from_torch.comparison import (
    GENERATORS,
    call,
    held,
    random_states_of,
    set_random_states,
)
from dali_cutmix.transforms.adjustments import RandomInvert, RandomSolarize
from dali_cutmix.transforms.color import Grayscale
from dali_cutmix.transforms.flips import RandomHorizontalFlip, RandomVerticalFlip
from dali_cutmix.transforms.timm import TimmAutoAugment

NUM_STATES = 64

#: Changes of an image, and the augmentation with a probability.
_CHANGES: tuple[tuple[Callable[[Image.Image], Image.Image], Callable[[float], Augmentation]], ...]
_CHANGES = (
    (lambda image: ImageOps.solarize(image, 128), partial(RandomSolarize, 128.0)),
    (ImageOps.invert, RandomInvert),
    (lambda image: image.convert("L").convert("RGB"), Grayscale),
    (ImageOps.mirror, RandomHorizontalFlip),
    (ImageOps.flip, RandomVerticalFlip),
)

#: Pixels: range of the radius in the scripts of MoCo, DINO and their descendants.
_RADIUS = (0.1, 2.0)


def drawn_change(function: Any) -> list[Augmentation] | None:
    """Return what a function does to an image by chance; None where that is something else.

    Recognised are solarize, negatives, gray, mirror images and Pillow's blur by a uniform radius.
    A function that leaves some images as they are must have its probability as ``p``, ``prob`` or
    ``probability``.
    """
    if held(function, lambda part: isinstance(part, GENERATORS)):
        return None
    image = _image()
    try:
        results = [call(partial(_called, function, seed), image)[0] for seed in range(NUM_STATES)]
        pixels = [np.asarray(result) for result in results if result.mode == "RGB"]
    except Exception:  # whatever the user's code raises
        return None
    if len(pixels) < NUM_STATES:
        return None
    changed = [each for each in pixels if not np.array_equal(each, np.asarray(image))]
    prob = _prob_of(function, len(changed))
    if prob is None:
        return None
    if not changed:
        return []
    for change, augmentation in _CHANGES:
        expected = np.asarray(change(image))
        if all(np.array_equal(each, expected) for each in changed):
            return [augmentation(prob)]
    if _are_blurred(image, changed):
        return [TimmAutoAugment([[("GaussianBlurRand", prob, 5 * _RADIUS[1])]])]
    return None


def _called(function: Any, seed: int, image: Image.Image) -> Any:
    set_random_states(random_states_of(seed))
    return function(image.copy())


def _image() -> Image.Image:
    """Return an image with edges, of all levels."""
    levels = (np.arange(8 * 10 * 3) * 97 % 256).astype(np.uint8).reshape(8, 10, 3)
    return Image.fromarray(levels.repeat(8, axis=0).repeat(8, axis=1))


def _prob_of(function: Any, num_changed: int) -> float | None:
    """Return a function's probability; None where ``num_changed`` of all calls do not fit."""
    names = ("p", "prob", "probability")
    values = [getattr(function, name) for name in names if hasattr(function, name)]
    prob = float(values[0]) if values else 1.0
    deviation = (NUM_STATES * max(prob * (1 - prob), 0)) ** 0.5
    return prob if abs(num_changed - NUM_STATES * prob) <= 4 * deviation else None


def _are_blurred(image: Image.Image, changed: list[np.ndarray]) -> bool:
    """Return whether images are blurred by radii that are uniform in the usual range."""
    low, high = _RADIUS
    radii: list[float] = []
    for each in changed:
        if (radius := _radius(image, each)) is None:
            return False
        radii.append(radius)
    if len(radii) < 5:  # too few to know their range
        return False
    shares = np.sort((np.array(radii) - low) / (high - low))
    expected = (np.arange(len(shares)) + 0.5) / len(shares)
    is_inside = shares[0] > -0.02 and shares[-1] < 1.02
    # A uniform sample exceeds the distance once in a thousand times.
    return bool(is_inside and np.abs(shares - expected).max() < 1.95 / len(shares) ** 0.5)


def _radius(image: Image.Image, blurred: np.ndarray) -> float | None:
    """Return the radius of Pillow's blur that gives ``blurred``, found by bisection, or None."""

    def by(radius: float) -> np.ndarray:
        return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.int64)

    pixels = np.asarray(image, np.int64)
    distance = np.abs(blurred - pixels).sum()
    low, high = 0.0, 1.1 * _RADIUS[1]
    for _ in range(10):
        middle = (low + high) / 2
        if np.abs(by(middle) - pixels).sum() < distance:
            low = middle
        else:
            high = middle
    return high if np.abs(by(high) - blurred).max() <= 1 else None
