"""Replay what a published class draws, and compare a user's object from many random states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dali_cutmix.core.frame import Augmentation
from dali_cutmix.from_torch.comparison import call, random_states, seed_all
from dali_cutmix.from_torch.contents import KINDS, noise
from dali_cutmix.from_torch.functions import are_same_image
from dali_cutmix.from_torch.levels import Levels

#: Random states from which a user's object is called.
NUM_REPLAYS = 256

#: (height, width) of synthetic images, in turn.
_SIZES = ((32, 32), (24, 17), (40, 60))

#: (height, width) of a few images: a class may do something else to images of ImageNet's size.
_LARGE_SIZES = ((224, 224), (256, 320), (448, 384))

#: Draws and changes an image as a published class does.
Replay = Callable[[Any], Any]

#: What a user's object may do, and the augmentations that do the same.
Candidate = tuple[Replay, Sequence[Augmentation]]


def makes_the_same(
    function: Any, replay: Replay, levels: Levels, seeds: Iterable[int] = range(NUM_REPLAYS)
) -> bool:
    """Return whether a function makes a replay's images, and leaves the replay's random states.

    Args:
        function: The user's function or object.
        replay: Draws and changes an image as ``function`` may do.
        levels: What pixel numbers mean in front of ``function``.
        seeds: Of the random states, each with another image.
    """

    def are_same(_: None) -> bool:
        return all(
            _is_same(function, replay, seed, levels.image_of(_content(number)))
            for number, seed in enumerate(seeds)
        )

    try:
        same, _ = call(are_same, None)
    except Exception:  # whatever the user's code raises
        return False
    return bool(same)


def _is_same(function: Any, replay: Replay, seed: int, image: Any) -> bool:
    results = []
    for callee in (replay, function):
        seed_all(seed)
        # Some classes change the image itself.
        image_of_callee = image.copy() if isinstance(image, Image.Image) else image.clone()
        results.append((callee(image_of_callee), random_states()))
    (wanted, wanted_states), (result, states) = results
    return states == wanted_states and are_same_image(result, wanted)


def _content(number: int) -> np.ndarray:
    """Return an image of all kinds of content in all sizes, in turn."""
    rounds, index = divmod(number, len(KINDS) + 1)
    if index == len(KINDS):
        return noise(_LARGE_SIZES[rounds % len(_LARGE_SIZES)], number)
    return KINDS[index](noise(_SIZES[number % len(_SIZES)], number))
