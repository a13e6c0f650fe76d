"""Changes and blurs of some Pillow images, as candidates of what a user's class draws.

The class says its probability, threshold and radii by its attributes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from dali_cutmix.from_torch.comparison import call, seed_all
from dali_cutmix.from_torch.contents import KINDS
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.replays import Candidate, Replay, makes_the_same
from dali_cutmix.from_torch.scripts import prob_of
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

#: Random states with a change, so that each kind of content is changed twice; and all states among
#: which these are looked for.
_NUM_CHANGED, _NUM_SEEDS = 2 * (len(KINDS) + 1), 2**13

#: Pixels: radii in the scripts of MoCo, DINO and their descendants.
_RADII = 0.1, 2.0


def changes(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield changes of fixed strength, of Pillow images, with the probability that a part says."""
    prob = prob_of(part)
    threshold: Any = getattr(part, "threshold", 128)
    candidates: list[Candidate] = [
        (
            lambda image: ImageOps.solarize(image, threshold),
            [RandomSolarize(float(threshold), prob)],
        ),
        (ImageOps.invert, [RandomInvert(prob)]),
        (ImageOps.mirror, [RandomHorizontalFlip(prob)]),
        (ImageOps.flip, [RandomVerticalFlip(prob)]),
        (ImageOps.autocontrast, [RandomAutocontrast(prob)]),
        (ImageOps.equalize, [RandomEqualize(prob)]),
    ]
    if levels.num_channels == 3:
        candidates.append((lambda image: image.convert("L").convert("RGB"), [Grayscale(prob)]))
    return _by_chance(part, levels, candidates)


def blurs(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield Pillow's blur by a uniform radius, as of the scripts of MoCo, DINO and SwAV."""
    prob, bounds = prob_of(part), getattr(part, "sigma", None)
    if bounds is None:
        ends = zip(("radius_min", "radius_max"), _RADII, strict=True)
        bounds = [getattr(part, name, usual) for name, usual in ends]
    low, high = map(float, bounds)
    blur = PillowGaussianBlur((low, high))
    augmentation = blur if prob == 1 else RandomApply([blur], prob)
    radii: tuple[Callable[[], Any], ...] = (
        lambda: random.uniform(low, high),
        lambda: np.random.uniform(low, high),
        lambda: low + torch.rand(1) * (high - low),
    )
    candidates = [(partial(_blurred, radius=radius), [augmentation]) for radius in radii]
    return _by_chance(part, levels, candidates)


def _blurred(image: Image.Image, radius: Callable[[], Any]) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(radius())))


def _by_chance(part: Any, levels: Levels, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield changes of some Pillow images, by each way in which scripts draw a chance.

    Args:
        part: The user's object, which says the probability.
        levels: What pixel numbers mean in front of ``part``.
        candidates: Changes of every image, with the augmentations of some images.
    """
    if levels.is_tensor:
        return
    prob = prob_of(part)
    for is_drawn in _chances(prob):
        if prob == 0:
            yield partial(_changed, is_drawn=is_drawn, change=lambda image: image), []
            continue
        seeds = _changing_seeds(is_drawn)
        for change, augmentations in candidates:
            replay = partial(_changed, is_drawn=is_drawn, change=change)
            if len(seeds) == _NUM_CHANGED and makes_the_same(part, replay, levels, seeds):
                yield replay, augmentations


def _changed(image: Image.Image, is_drawn: Callable[[], bool], change: Replay) -> Image.Image:
    changed: Image.Image = change(image) if is_drawn() else image
    return changed


def _chances(prob: float) -> Iterator[Callable[[], bool]]:
    """Yield the ways in which scripts draw whether an image changes."""
    if prob in (0, 1):
        yield lambda: prob == 1
    yield lambda: random.random() < prob
    yield lambda: np.random.rand() < prob
    yield lambda: bool(torch.rand(1) < prob)
    yield lambda: bool(torch.bernoulli(torch.tensor(prob)))


def _changing_seeds(is_drawn: Callable[[], bool]) -> list[int]:
    """Return seeds from which images change, `_NUM_CHANGED` unless too few are found."""

    def changes(seed: int) -> bool:
        seed_all(seed)
        return is_drawn()

    changing = filter(changes, range(_NUM_SEEDS))
    seeds, _ = call(lambda number: list(islice(changing, number)), _NUM_CHANGED)
    return list(seeds)
