"""AutoAugment's policies by Pillow, as a script's list ``policies`` of pairs of steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

from dali_cutmix.from_torch.contents import KINDS
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.replays import Candidate, makes_the_same
from dali_cutmix.transforms.timm import FULL_MAGNITUDE, TimmAutoAugment

#: Random states of which the nearest to probabilities are taken.
_NUM_SEEDS = 2**13


def policy(part: Any, levels: Levels) -> Iterator[Candidate]:
    """Yield AutoAugment by Pillow, as of DeepVoltaire's script: ``policies`` of two steps."""
    if levels.is_tensor:
        return
    fill = tuple(int(level) for level in getattr(part, "fillcolor", (128, 128, 128)))
    pairs = [[_Step.of(each, number, levels, fill) for number in (1, 2)] for each in part.policies]
    sequences = [[(s.operation, s.prob, s.strength) for s in steps] for steps in pairs]
    translate = 150 / 331
    augmentation = TimmAutoAugment(
        sequences, interpolation="bicubic", fill=fill, translate=translate
    )
    replay = partial(_by_policy, pairs=pairs, fill=fill)
    if makes_the_same(part, replay, levels, _seeds_near_probs(pairs)):
        yield replay, [augmentation]


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
            ValueError: `_OPERATIONS` lacks the operation, or the magnitude is outside timm's range.
        """
        operation, prob, magnitude = (
            getattr(pair, f"{name}{number}") for name in ("operation", "p", "magnitude")
        )
        for name in _OPERATIONS:
            replay = partial(_applied, name=name, magnitude=magnitude, fill=fill)
            function = partial(_with_magnitude, operation=operation, magnitude=magnitude)
            # All kinds of content, and a large image.
            if makes_the_same(function, replay, levels, range(len(KINDS) + 1)):
                step = cls(name, float(prob), float(magnitude))
                if not 0 <= step.strength <= FULL_MAGNITUDE:  # the graph clips
                    raise ValueError(magnitude)
                return step
        raise ValueError(operation)

    @property
    def strength(self) -> float:
        """timm's magnitude, without an error of rounding."""
        share = _OPERATIONS[self.operation][1](self.magnitude)
        return FULL_MAGNITUDE * (1.0 if math.isclose(share, 1) else share)


def _seeds_near_probs(pairs: Sequence[Sequence[_Step]]) -> list[int]:
    """Return seeds whose draws lie nearest to the probability of each step, below and above.

    From such random states, a step of another probability does something else.
    """
    nearest: dict[tuple[int, int, bool], tuple[float, int]] = {}
    for seed in range(_NUM_SEEDS):
        rng = random.Random(seed)
        index = rng.randint(0, len(pairs) - 1)
        for number, step in enumerate(pairs[index]):
            distance = rng.random() - step.prob
            key, entry = (index, number, distance < 0), (abs(distance), seed)
            nearest[key] = min(nearest.get(key, entry), entry)
            if distance < 0 and step.operation in _SIGNED:
                rng.choice([-1, 1])
    return [seed for _, seed in nearest.values()]


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
    return min((max(math.ceil(threshold), 0) + 0.5) / 256, 1.0)


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

#: Operations that draw a sign.
_SIGNED = tuple(
    name for name in _OPERATIONS if name.startswith(("Shear", "Translate")) or "Increasing" in name
)
