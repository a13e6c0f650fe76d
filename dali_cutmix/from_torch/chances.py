"""Changes and blurs of some Pillow images, as candidates of what a user's class draws.

The class says its probability, threshold and radii by its attributes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from dali_cutmix.core.checks import is_number
from dali_cutmix.from_torch.contents import KINDS
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.replays import Candidate, Replay, makes_the_same
from dali_cutmix.from_torch.scripts import first_of, prob_of
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

#: Random states in which what a chance draws is looked at.
_NUM_SEEDS = 2**13

#: Random states with a change that are compared: each kind of content is changed twice.
_NUM_CHANGED = 2 * (len(KINDS) + 1)

#: Pixels: radii in the scripts of MoCo, DINO and their descendants.
_RADII = 0.1, 2.0


@dataclass(frozen=True)
class _Chance:
    """A way in which scripts draw whether an image changes.

    Attributes:
        is_drawn: Draws from the global generators, and returns whether the image changes.
        numbers: What is drawn after each seed; an image changes below the probability:
            ``[_NUM_SEEDS]`` float64.
    """

    is_drawn: Callable[[], bool]
    numbers: np.ndarray


def changes(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield changes of fixed strength, of Pillow images, with the probability that a part says."""
    if levels.is_tensor:
        return
    prob = prob_of(part)
    said = getattr(part, "threshold", None)
    thresholds: list[Any] = [said, 128] if is_number(said) and 0 <= said <= 256 else [128]
    candidates: list[Candidate] = [
        (partial(ImageOps.solarize, threshold=threshold), [RandomSolarize(float(threshold), prob)])
        for threshold in thresholds
    ]
    candidates += [
        (ImageOps.invert, [RandomInvert(prob)]),
        (ImageOps.mirror, [RandomHorizontalFlip(prob)]),
        (ImageOps.flip, [RandomVerticalFlip(prob)]),
        (ImageOps.autocontrast, [RandomAutocontrast(prob)]),
        (ImageOps.equalize, [RandomEqualize(prob)]),
    ]
    if levels.num_channels == 3:
        candidates.append((lambda image: image.convert("L").convert("RGB"), [Grayscale(prob)]))
    yield from _by_chance(part, levels, candidates)


def blurs(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield Pillow's blur by a uniform radius, as of the scripts of MoCo, DINO and SwAV."""
    if levels.is_tensor:
        return
    prob, bounds = prob_of(part), getattr(part, "sigma", None)
    if bounds is None:
        ends = zip(("radius_min", "radius_max"), _RADII, strict=True)
        bounds = [first_of(part, name, default=usual) for name, usual in ends]
    low, high = map(float, bounds)
    blur = PillowGaussianBlur((low, high))
    augmentation = blur if prob == 1 else RandomApply([blur], prob)
    radii: tuple[Callable[[], Any], ...] = (
        lambda: random.uniform(low, high),
        lambda: np.random.uniform(low, high),
        lambda: low + torch.rand(1) * (high - low),
    )
    candidates = [(partial(_blurred, radius=radius), [augmentation]) for radius in radii]
    yield from _by_chance(part, levels, candidates)


def _blurred(image: Image.Image, radius: Callable[[], Any]) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(radius())))


def _by_chance(part: Any, levels: Levels, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield changes of some Pillow images, by each way in which scripts draw a chance.

    Args:
        part: The user's object, which says the probability.
        levels: What pixel numbers mean in front of ``part``.
        candidates: Changes of every image, with the augmentations of some images.
    """
    prob = prob_of(part)
    if prob == 0:
        candidates = [(lambda image: image, [])]
    for chance in _chances(prob):
        if prob > 0 and not (chance.numbers < prob).any():
            continue  # no change is ever seen
        seeds = _telling_seeds(chance.numbers, prob)
        for change, augmentations in candidates:
            replay = partial(_changed, is_drawn=chance.is_drawn, change=change)
            if makes_the_same(part, replay, levels, seeds):
                yield replay, augmentations


def _changed(image: Image.Image, is_drawn: Callable[[], bool], change: Replay) -> Image.Image:
    changed: Image.Image = change(image) if is_drawn() else image
    return changed


def _chances(prob: float) -> Iterator[_Chance]:
    """Yield the ways in which scripts draw whether an image changes."""
    if prob in (0, 1):
        yield _Chance(lambda: prob == 1, np.zeros(_NUM_SEEDS))
    yield _Chance(lambda: random.random() < prob, _numbers_of_python())
    yield _Chance(lambda: np.random.rand() < prob, _numbers_of_numpy())
    # `torch.bernoulli` draws and compares the same number.
    yield _Chance(lambda: bool(torch.rand(1) < prob), _numbers_of_torch())


@cache
def _numbers_of_python() -> np.ndarray:
    return np.array([random.Random(seed).random() for seed in range(_NUM_SEEDS)])


@cache
def _numbers_of_numpy() -> np.ndarray:
    return np.array([np.random.RandomState(seed).rand() for seed in range(_NUM_SEEDS)])


@cache
def _numbers_of_torch() -> np.ndarray:
    seeded = map(torch.Generator("cpu").manual_seed, range(_NUM_SEEDS))
    return np.array([torch.rand(1, generator=generator).item() for generator in seeded])


def _telling_seeds(numbers: np.ndarray, prob: float) -> list[int]:
    """Return seeds that tell functions apart: with changes, and those at which a chance turns.

    From seeds whose numbers lie nearest to 0, to the probability and to 1, a function of another
    probability does something else, and so does a function with a rare exception.
    """
    order = np.argsort(numbers)
    changing = np.flatnonzero(numbers < prob)
    count = len(changing)
    turns = order[[0, max(count - 1, 0), min(count, len(order) - 1), -1]]
    repeated = np.resize(changing, _NUM_CHANGED if count else 0)
    return [*map(int, repeated), *map(int, turns)]
