"""What a user's function does to some Pillow images, by chance, as augmentations.

A function is called from many random states on a tiny image. Each result must be the image, or the
image changed in one way. Their share must fit the function's probability, and radii of a blur their
range. From some of the states, the function must do the same to images of all kinds of content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from dali_cutmix.core.frame import Augmentation
from dali_cutmix.from_torch.comparison import (
    GENERATORS,
    call,
    held,
    remembers,
    seed_all,
)
from dali_cutmix.from_torch.contents import KINDS, noise
from dali_cutmix.transforms.adjustments import (
    PillowGaussianBlur,
    RandomAutocontrast,
    RandomEqualize,
    RandomInvert,
    RandomSolarize,
)
from dali_cutmix.transforms.chain import RandomApply
from dali_cutmix.transforms.color import Grayscale
from dali_cutmix.transforms.flips import RandomHorizontalFlip, RandomVerticalFlip

#: Random states: behind the first, most other functions are refused already; the last are called
#: for a blur with less than `_NUM_RADII` radii.
NUM_STATES = 64, 2048, 16384
_NUM_RADII = 1000

#: Random states with a change, and as many without, from which all kinds of content are tried.
_NUM_STATES_OF_CONTENTS = 4

#: (height, width) of images of all kinds of content, in turn. The gradient, of few pixels at its
#: ends, is large: a cutoff of autocontrast shows there.
_SIZES = ((30, 40), (120, 160), (24, 17), (90, 300))

#: Pixels: range of the radius in the scripts of MoCo, DINO and their descendants.
_RADII = (0.1, 2.0)

#: Levels by which blurs may differ whose radius is told by `_Blur`, and is above 0.6 pixels.
_BLUR_ERROR, _WIDE = 8, 0.6


@dataclass(frozen=True)
class _Change:
    """Hold a way to change an image.

    Attributes:
        apply: Changes a Pillow image.
        augmentation: Takes a probability, and returns the augmentation.
    """

    apply: Callable[[Image.Image], Image.Image]
    augmentation: Callable[[float], Augmentation]


_CHANGES = (
    _Change(lambda image: ImageOps.solarize(image, 128), partial(RandomSolarize, 128.0)),
    _Change(ImageOps.invert, RandomInvert),
    _Change(lambda image: image.convert("L").convert("RGB"), Grayscale),
    _Change(ImageOps.mirror, RandomHorizontalFlip),
    _Change(ImageOps.flip, RandomVerticalFlip),
    _Change(ImageOps.autocontrast, RandomAutocontrast),
    _Change(ImageOps.equalize, RandomEqualize),
)


def drawn_change(function: Any) -> list[Augmentation] | None:
    """Return what a function does to an image by chance; None where that is something else.

    Recognised are solarize, negatives, gray, mirror images, autocontrast, equalize and Pillow's
    blur by a uniform radius. A function that leaves some images as they are must have its
    probability as ``p``, ``prob`` or ``probability``.
    """
    if held(function, lambda part: isinstance(part, GENERATORS)):
        return None
    try:
        change = call(_drawn_change, function)[0]
        image = Image.fromarray(noise((24, 30)))
        counts = remembers(function, lambda: call(function, image))
    except Exception:  # whatever the user's code raises
        return None
    return None if counts else change


def _drawn_change(function: Any) -> list[Augmentation] | None:
    prob = _prob_of(function)
    blocks = noise((4, 5)) // 8 * 7 + 16  # without black and white: all changes show
    image = Image.fromarray(blocks.repeat(6, axis=0).repeat(6, axis=1))
    blur = _Blur(image)
    seen = _observe(function, image, blur)
    if seen is None or not seen.fits(prob if seen.change else prob * blur.visible_share):
        return None
    expected = _expected(function, seen, blur)
    if expected is None or not _fits_contents(function, seen, expected):
        return None
    if seen.change is None:
        blurred = PillowGaussianBlur(_RADII)
        return [blurred if prob == 1 else RandomApply([blurred], prob)]
    return [seen.change.augmentation(prob)] if seen.changed else []


@dataclass(frozen=True)
class _Seen:
    """Hold what a function did to an image from many random states.

    Attributes:
        num_called: Random states, which are seeds from 0 on.
        changed: By random state, the pixels of each result that differs from the image.
        change: The way in which all of these differ. None: by blurs.
        radii: Radius of each blur.
    """

    num_called: int
    changed: dict[int, np.ndarray]
    change: _Change | None
    radii: list[float]

    def fits(self, share: float) -> bool:
        """Return whether the number of changed images is likely for a probability."""
        deviation = (self.num_called * share * (1 - share)) ** 0.5
        return abs(len(self.changed) - self.num_called * share) <= 4 * deviation


def _observe(function: Any, image: Image.Image, blur: _Blur) -> _Seen | None:
    """Call a function from random states; return None where a result is neither change nor blur."""
    seen = _Seen(0, {}, None, [])
    for num_states in NUM_STATES:
        if seen.num_called == NUM_STATES[1] and (seen.change or len(seen.radii) >= _NUM_RADII):
            break
        seeds = range(seen.num_called, num_states)
        results = {seed: _called(function, seed, image) for seed in seeds}
        different = {seed: each for seed, each in results.items() if _error(each, image) > 0}
        changed = seen.changed | different
        pixels = list(changed.values())
        change = next((each for each in _CHANGES if _is_always(each.apply(image), pixels)), None)
        radii = [] if change else [blur.radius_of(each) for each in pixels]
        known = [radius for radius in radii if radius is not None]
        if len(known) < len(radii):
            return None
        seen = _Seen(num_states, changed, change, known)
    return seen


def _expected(
    function: Any, seen: _Seen, blur: _Blur
) -> dict[int, Callable[[Image.Image], Image.Image]] | None:
    """Return what changes an image from each random state that shows; None for other blurs."""
    if seen.change:
        return dict.fromkeys(seen.changed, seen.change.apply)
    if not _may_be_usual(function) or not blur.are_uniform(seen.radii):
        return None
    pairs = zip(seen.changed, seen.radii, strict=True)
    return {seed: partial(_blurred, radius=radius) for seed, radius in pairs if radius > _WIDE}


def _fits_contents(
    function: Any, seen: _Seen, expected: dict[int, Callable[[Image.Image], Image.Image]]
) -> bool:
    """Return whether a function does the same to images of all kinds of content."""
    unchanged = [seed for seed in range(seen.num_called) if seed not in seen.changed]
    seeds = [*list(expected)[:_NUM_STATES_OF_CONTENTS], *unchanged[:_NUM_STATES_OF_CONTENTS]]
    # A small radius shows on some kinds only.
    most = 0 if seen.change else _BLUR_ERROR
    for size, kind in zip(cycle(_SIZES), KINDS, strict=False):
        content = Image.fromarray(kind(noise(size)))
        for seed in seeds:
            wanted = expected[seed](content) if seed in expected else content
            if _error(_called(function, seed, content), wanted) > most:
                return False
    return True


class _Blur:
    """Know Pillow's blur of an image by each radius.

    Args:
        image: The image.

    Attributes:
        visible_share: Of the radii of the usual range, the share that changes the image.
    """

    def __init__(self, image: Image.Image) -> None:
        self._pixels = np.asarray(image, np.int16)
        self._radii = np.arange(0.05, 1.1 * _RADII[1], 0.005)
        blurred = [np.asarray(_blurred(image, radius)) for radius in self._radii]
        self._blurred = np.stack(blurred).astype(np.int16)
        distances = np.abs(self._blurred - self._pixels).sum((1, 2, 3))
        self._distances = np.maximum.accumulate(distances)
        low, high = _RADII
        self._lowest = float(self._radii[np.searchsorted(self._distances, 1)])
        self.visible_share = (high - self._lowest) / (high - low)

    def radius_of(self, result: np.ndarray) -> float | None:
        """Return the largest radius that gives a result: ``[height, width, 3]``; or None."""
        distance = np.abs(result - self._pixels).sum()
        last = len(self._radii) - 1
        index = max(int(np.searchsorted(self._distances, distance, "right")) - 1, 0)
        near = [index, min(index + 1, last)]
        errors = [np.abs(self._blurred[each] - result).max() for each in near]
        return float(self._radii[index]) if min(errors) <= 3 else None

    def are_uniform(self, radii: Sequence[float]) -> bool:
        """Return whether largest radii are those of uniform ones in the usual range."""
        low, high = _RADII
        if not radii or not self._is_end(min(radii), low, len(radii)):
            return False
        if not self._is_end(max(radii), high, len(radii)):
            return False
        is_end = np.append(np.diff(self._distances) > 0, False)
        ends = self._radii[is_end & (self._radii > self._lowest) & (self._radii < high)]
        shares = np.searchsorted(np.sort(radii), ends + 1e-9, "right") / len(radii)
        expected = (ends - self._lowest) / (high - self._lowest)
        # A uniform sample exceeds the distance once in 8,000 times.
        return bool(np.abs(shares - expected).max() < 2.2 / len(radii) ** 0.5)

    def _is_end(self, radius: float, end: float, num_radii: int) -> bool:
        """Return whether the smallest or largest of some radii fits an end of the range."""
        # Equal results have the largest radius; ten mean gaps are exceeded once in 20,000 times.
        visible = max(end, self._lowest)
        distance = self._distances[np.searchsorted(self._radii, visible - 1e-9)]
        largest = self._radii[np.searchsorted(self._distances, distance, "right") - 1]
        gap = 10 * (_RADII[1] - _RADII[0]) / num_radii
        return bool(visible - gap - 0.01 <= radius <= largest + gap + 0.01)


def _blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(radius)))


def _called(function: Any, seed: int, image: Image.Image) -> np.ndarray:
    """Return the pixels that a function makes from a random state: ``[height, width, 3]`` int16.

    Raises:
        ValueError: The result is no RGB image.
    """
    seed_all(seed)
    result = function(image.copy())
    if result.mode != "RGB":
        raise ValueError(result.mode)
    return np.asarray(result, np.int16)


def _error(pixels: np.ndarray, image: Image.Image) -> float:
    """Return the largest difference, in levels; infinity where sizes differ."""
    wanted = np.asarray(image, np.int16)
    return float(np.abs(pixels - wanted).max()) if pixels.shape == wanted.shape else np.inf


def _is_always(image: Image.Image, results: Sequence[np.ndarray]) -> bool:
    return all(_error(each, image) == 0 for each in results)


def _prob_of(function: Any) -> float:
    """Return the probability that a function says, or 1.

    Raises:
        ValueError: The probability is outside [0, 1].
    """
    names = ("p", "prob", "probability")
    values = [getattr(function, name) for name in names if hasattr(function, name)]
    prob = float(values[0]) if values else 1.0
    if not 0 <= prob <= 1:
        raise ValueError(prob)
    return prob


def _may_be_usual(function: Any) -> bool:
    """Return whether the range of radii that a function says, if any, is the usual one."""
    sigma = getattr(function, "sigma", None)
    if sigma is None:
        sigma = [getattr(function, f"radius_{end}", None) for end in ("min", "max")]
    return all(said in (None, usual) for said, usual in zip(sigma, _RADII, strict=True))
