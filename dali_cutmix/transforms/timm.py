"""timm's automatic augmentations: `TimmRandAugment` and `TimmAutoAugment`.

Operations, strengths and chances are timm's, and so are pixels, which timm computes by Pillow:
within two levels of Pillow's on the CPU, where Pillow turns, shears, shifts and blurs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf as INFINITY
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from dali_cutmix.core.checks import (
    are_numbers,
    check_choice,
    check_count,
    check_prob,
    is_number,
    refuse,
)
from dali_cutmix.core.dali import DataNode, merge, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample, Structure
from dali_cutmix.core.host_draws import below, normal
from dali_cutmix.transforms.adjustments import pillow_blur
from dali_cutmix.transforms.color_ops import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    ring_of_each,
    solarize_add,
)
from dali_cutmix.transforms.tables import (
    autocontrast,
    change_levels,
    equalize,
    posterize_code,
    solarize_code,
)
from dali_cutmix.transforms.warps import (
    WARP_KERNELS,
    WarpKernel,
    WarpPlan,
    check_fill,
    colour_of,
    linear_part,
    warped,
)

#: Strengths are shares of this magnitude.
FULL_MAGNITUDE = 10.0

#: timm's list for ``inc0``.
OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness"),
    *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
_GRADED = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")

#: timm's list for ``inc1``, whose operations grow stronger with the magnitude.
INCREASING = tuple(f"{name}Increasing" if name in _GRADED else name for name in OPERATIONS)

#: timm's sets of operations with weights, by the names of its ``t`` setting.
_WEIGHTED = {
    "3a": dict.fromkeys(("SolarizeIncreasing", "Desaturate", "GaussianBlur"), 0.0),
    "3aw": {
        **dict.fromkeys(("SolarizeIncreasing", "Desaturate", "GaussianBlur"), 6.0),
        **{"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0},
        **dict.fromkeys(("PosterizeIncreasing", "AutoContrast", "ColorIncreasing"), 1.0),
        **dict.fromkeys(("SharpnessIncreasing", "ContrastIncreasing"), 1.0),
        **dict.fromkeys(("BrightnessIncreasing", "Equalize", "Invert"), 1.0),
    },
    "weights": {
        **{"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0},
        **{"TranslateXRel": 1.0, "TranslateYRel": 1.0},
        **{"ColorIncreasing": 0.25, "SharpnessIncreasing": 0.25, "AutoContrast": 0.25},
        **dict.fromkeys(("SolarizeIncreasing", "SolarizeAdd", "ContrastIncreasing"), 0.05),
        **dict.fromkeys(("BrightnessIncreasing", "Equalize", "PosterizeIncreasing"), 0.05),
        "Invert": 0.05,
    },
}

#: One choice of a policy: name, probability and magnitude of each operation, in turn.
Steps = Sequence[tuple[str, float, float]]


@dataclass(frozen=True)
class TimmPlan:
    """Say which operation each sample takes, and by which numbers.

    A field that no operation of the list needs is None. A sample that takes no operation of a
    field has the field's neutral number.

    Attributes:
        kind: Index of the kind; 0 for none: scalar int32 per sample.
        warp: Turn, shear or shift.
        is_bicubic: Whether to turn, shear or shift by ``"bicubic"``: scalar bool per sample.
        factor: Share of the image itself, at least 0: scalar float32 per sample.
        code: What `change_levels` does to levels: scalar uint16 per sample.
        added: What is added to levels below 128: scalar int32 per sample.
        sigma: Standard deviation of a blur in pixels: scalar float32 per sample.
    """

    kind: Any
    warp: WarpPlan | None = None
    is_bicubic: Any = None
    factor: Any = None
    code: Any = None
    added: Any = None
    sigma: Any = None


class _Kind(NamedTuple):
    names: tuple[str, ...]
    fields: tuple[str, ...] = ()
    operate: Callable[..., DataNode] | None = None


def _graded(name: str) -> tuple[str, str]:
    return name, f"{name}Increasing"


#: Every kind. `TimmPlan.kind` is an index of this list.
_KINDS = (
    _Kind(()),
    _Kind(("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"), ("warp", "is_bicubic")),
    _Kind(_graded("Brightness"), ("factor",), adjust_brightness),
    _Kind((*_graded("Color"), "Desaturate"), ("factor",), adjust_saturation),
    _Kind(_graded("Contrast"), ("factor",), adjust_contrast),
    _Kind(_graded("Sharpness"), ("factor",)),
    _Kind(
        (*_graded("Posterize"), "PosterizeOriginal", *_graded("Solarize"), "Invert"),
        ("code",),
        change_levels,
    ),
    _Kind(("SolarizeAdd",), ("added",), solarize_add),
    _Kind(("AutoContrast",), (), autocontrast),
    _Kind(("Equalize",), (), equalize),
    _Kind(("GaussianBlur", "GaussianBlurRand"), ("sigma",)),
    _Kind(("RotateLeft", "TranslateXNearest", "TranslateYNearest"), ("warp",)),
)
_INDEX = {name: index for index, kind in enumerate(_KINDS) for name in kind.names}
_WARP, _SHARPNESS, _BLUR, _NEAREST_WARP = (
    _INDEX[name] for name in ("Rotate", "Sharpness", "GaussianBlur", "RotateLeft")
)


class OfTimm:
    """Draw and apply timm's operations, by settings of the class; see `TimmRandAugment`."""

    takes_any_size: ClassVar[bool] = True
    magnitude_std: float
    magnitude_max: float
    interpolation: WarpKernel | Literal["random"]
    fill: float | Sequence[float]
    translate: float

    def _check_settings(self, names: Sequence[str]) -> None:
        """Refuse settings outside their ranges, and unknown operations."""
        where = type(self).__name__
        for name in names:
            check_choice(where, "operations", name, tuple(_INDEX))
        for name, value in (("magnitude_std", self.magnitude_std), ("translate", self.translate)):
            if not is_number(value) or value < 0:
                refuse(where, name, "be a number of at least 0", value)
        if not is_number(self.magnitude_max) or not 0 < self.magnitude_max < INFINITY:
            refuse(where, "magnitude_max", "be a number above 0", self.magnitude_max)
        check_choice(where, "interpolation", self.interpolation, (*WARP_KERNELS, "random"))
        check_fill(where, self.fill)

    def _draw_turn(
        self,
        draws: Draws,
        names: Sequence[str],
        chosen: np.ndarray,
        magnitude: np.ndarray,
        prob: np.ndarray,
    ) -> TimmPlan:
        """Draw the numbers of one operation for each sample.

        Args:
            draws: The batch's random numbers.
            names: Operations to choose from.
            chosen: Index in ``names`` of each sample's operation; -1 for none: ``[B]``.
            magnitude: Mean magnitude: ``[B]`` float64.
            prob: Probability that a sample takes its operation: ``[B]`` float64.
        """
        # A uniform number is rounded up to 1 once in 30 million.
        is_applied = (draws.uniform("prob", []) < prob) | (prob == 1)
        chosen = np.where(is_applied, chosen, -1)
        if self.magnitude_std == INFINITY:
            magnitude = magnitude * draws.uniform("magnitude", [])
        elif self.magnitude_std > 0:
            magnitude = magnitude + self.magnitude_std * normal(draws, "magnitude", [])
        level = np.clip(magnitude, 0, self.magnitude_max) / FULL_MAGNITUDE
        sign = np.where(draws.chance("sign", 0.5)[:, 0] > 0, -1.0, 1.0)
        return self._plan(draws, names, chosen, level, sign)

    def _plan(
        self,
        draws: Draws,
        names: Sequence[str],
        chosen: np.ndarray,
        level: np.ndarray,
        sign: np.ndarray,
    ) -> TimmPlan:
        """Turn strengths into the operators' numbers.

        Source:
            timm 1.0, ``data/auto_augment.py``, ``LEVEL_TO_ARG``.
        """
        name = np.array([*names, ""])[chosen]
        kind = np.array([*(_INDEX[each] for each in names), 0], np.int32)[chosen]
        needed = {field for each in names for field in _KINDS[_INDEX[each]].fields}
        numbers: dict[str, Any] = {}
        if "warp" in needed:
            numbers["warp"] = self._warp(name, sign * level)
            if self.interpolation == "random":
                numbers["is_bicubic"] = draws.chance("interpolation", 0.5)[:, 0] > 0
        if "factor" in needed:
            is_increasing = np.char.endswith(name, "Increasing")
            factor = np.where(
                is_increasing, np.maximum(0.1, 1 + sign * level * 0.9), level * 1.8 + 0.1
            )
            factor = np.where(name == "Desaturate", 1 - np.clip(0.5 + 0.5 * level, 0.5, 1), factor)
            numbers["factor"] = factor.astype(np.float32)
        if "code" in needed:
            is_posterize, is_solarize = (
                np.char.startswith(name, prefix) for prefix in ("Posterize", "Solarize")
            )
            bits = np.trunc(level * 4)
            bits = np.where(name == "PosterizeIncreasing", 4 - bits, bits)
            bits = np.where(name == "PosterizeOriginal", bits + 4, bits)
            bits = np.where(is_posterize, np.clip(bits, 0, 8), 8)
            threshold = np.minimum(256, np.trunc(level * 256))
            threshold = np.where(name == "SolarizeIncreasing", 256 - threshold, threshold)
            threshold = np.where(is_solarize, threshold, np.where(name == "Invert", 0, 256))
            numbers["code"] = np.where(is_posterize, posterize_code(bits), solarize_code(threshold))
        if "added" in needed:
            numbers["added"] = np.minimum(128, np.trunc(level * 110)).astype(np.int32)
        if "sigma" in needed:
            sigma = np.clip(0.1 + 1.9 * level, 0.1, 2)
            if "GaussianBlurRand" in names:
                drawn = 0.1 + draws.uniform("radius", []) * (2 * np.clip(level, 0, 1) - 0.1)
                sigma = np.where(name == "GaussianBlurRand", drawn, sigma)
            numbers["sigma"] = sigma.astype(np.float32)
        return TimmPlan(kind, **numbers)

    def _warp(self, name: np.ndarray, level: np.ndarray) -> WarpPlan:
        # Pillow turns counterclockwise, `linear_part` clockwise.
        angle = np.where(name == "Rotate", level, np.where(name == "RotateLeft", abs(level), 0.0))
        linear = linear_part(-30 * angle)
        linear[:, 0, 1] += np.where(name == "ShearX", 0.3 * level, 0.0)
        linear[:, 1, 0] += np.where(name == "ShearY", 0.3 * level, 0.0)
        # A shear keeps the top left corner.
        pivot = np.where(np.char.startswith(name, "Shear"), 0.0, 0.5)
        shift = np.zeros((len(name), 2))
        for axis, direction in enumerate("XY"):
            names = f"Translate{direction}Rel", f"Translate{direction}Nearest"
            is_shifted = np.isin(name, names)
            shift[:, axis] = np.where(is_shifted, -self.translate * level, 0.0)
        return WarpPlan(linear, shift, np.stack([pivot, pivot], axis=1))

    def _operate_turn(
        self, image: DataNode, names: Sequence[str], plan: TimmPlan, frame: Frame
    ) -> DataNode:
        """Apply one operation to each sample."""
        for index in sorted({_INDEX[name] for name in names}):
            is_here = plan.kind == index
            part, others = split(image, is_here)
            fields = {field: getattr(plan, field) for field in _KINDS[index].fields}
            structure = Structure(fields)
            numbers = structure.build([split(n, is_here)[0] for n in structure.leaves(fields)])
            part = self._operated(part, index, numbers, frame.within(is_here))
            image = merge(part, others, is_here)
        return image

    def _operated(
        self, image: DataNode, index: int, numbers: dict[str, Any], frame: Frame
    ) -> DataNode:
        if index == _WARP:
            kernel = numbers["is_bicubic"] if self.interpolation == "random" else self.interpolation
            fill = colour_of(self.fill)
            return warped(image, numbers["warp"], kernel, fill, frame, whole_pixels=False)
        if index == _NEAREST_WARP:
            fill = colour_of(self.fill)
            return warped(image, numbers["warp"], "nearest", fill, frame, whole_pixels=False)
        if index == _SHARPNESS:
            return adjust_sharpness(image, **numbers, **ring_of_each(image, frame))
        if index == _BLUR:
            return pillow_blur(image, numbers["sigma"], frame)
        operate = _KINDS[index].operate
        assert operate is not None
        return operate(image, **numbers)


@dataclass(frozen=True)
class TimmRandAugment(OfTimm):
    """Apply some operations in turn to each sample, each by chance, at magnitudes with noise.

    ``TimmRandAugment.from_config("rand-m9-mstd0.5-inc1")`` takes timm's string.

    Args:
        magnitude: Mean magnitude, at least 0; 10 is full strength.
        magnitude_std: Standard deviation of the magnitude, which is normal, at least 0. Infinity
            draws magnitudes uniformly from 0 to ``magnitude``.
        num_layers: Operations for each sample, at least 0.
        prob: Probability in [0, 1] that a sample takes an operation that was chosen.
        operations: Names of the operations to choose from, by timm's names. None: timm's 15.
        weights: Weight of each operation, at least 0, of which a sample then takes none twice.
            None: all are equally likely, also twice.
        magnitude_max: Largest magnitude, above 0.
        interpolation: How turns, shears and shifts make a pixel: ``"nearest"``, ``"bilinear"`` or
            ``"bicubic"``, which is bilinear on a GPU. ``"random"`` takes ``"bilinear"`` or
            ``"bicubic"`` for each.
        fill: Level of pixels from outside the image, in [0, 255], or ``(R, G, B)``. timm's
            ``create_transform`` takes the mean.
        translate: Full shift, as a share of the image's side, at least 0.

    Source:
        timm 1.0, ``data/auto_augment.py``, ``RandAugment``; Cubuk et al. 2019, arXiv:1909.13719.
    """

    magnitude: float = 10.0
    magnitude_std: float = 0.0
    num_layers: int = 2
    prob: float = 0.5
    operations: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    magnitude_max: float = FULL_MAGNITUDE
    interpolation: WarpKernel | Literal["random"] = "random"
    fill: float | Sequence[float] = 128
    translate: float = 0.45

    def __post_init__(self) -> None:
        where = "TimmRandAugment"
        if not is_number(self.magnitude) or not 0 <= self.magnitude < INFINITY:
            refuse(where, "magnitude", "be a number of at least 0", self.magnitude)
        check_count(where, "num_layers", self.num_layers, at_least=0)
        check_prob(where, self.prob)
        self._check_settings(self._names)
        weights, num = self.weights, len(self._names)
        if weights is not None and (not are_numbers(weights, num) or min(weights) < 0):
            refuse(where, "weights", f"be {num} numbers of at least 0", weights)
        if weights is not None and sum(weight > 0 for weight in weights) < self.num_layers:
            way_out = "With weights no operation is taken twice."
            rule = f"be above 0 for at least num_layers={self.num_layers}"
            refuse(where, "weights", rule, weights, way_out)

    @classmethod
    def from_config(cls, config: str, **settings: Any) -> TimmRandAugment:
        """Read timm's string, such as ``"rand-m9-mstd0.5-inc1"``.

        Args:
            config: ``"rand"``, and behind dashes ``m`` (magnitude), ``n`` (layers), ``p``,
                ``mstd``, ``mmax`` and ``inc`` with their values, and ``t3a``, ``t3aw`` or
                ``tweights``.
            settings: Further settings, which replace those of the string.

        Raises:
            ValueError: A part of the string is unknown.
        """
        where = "TimmRandAugment.from_config"
        kind, *parts = config.split("-")
        if kind != "rand":
            refuse(where, "config", "start with 'rand'", config)
        names: tuple[str, ...] = OPERATIONS
        read = {"magnitude": FULL_MAGNITUDE}
        fields = {"m": "magnitude", "p": "prob", "mstd": "magnitude_std", "mmax": "magnitude_max"}
        weighted: dict[str, float] | None = None
        for part in parts:
            match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)([\d.]+)|t(3a|3aw|weights)", part)
            if match is None:
                refuse(where, "config", f"hold known parts only, not {part!r}", config)
            key, value, name = match.groups()
            if name:
                weighted = _WEIGHTED[name]
            elif key == "inc":
                names = INCREASING if float(value) else OPERATIONS
            elif key == "n":
                settings = {"num_layers": int(value), **settings}
            else:
                read[fields[key]] = float(value)
        if read.get("magnitude_std", 0) > 100:
            read["magnitude_std"] = INFINITY
        given: dict[str, Any] = {**read, "operations": names}
        if weighted is not None:
            given["operations"] = tuple(weighted)
            if any(weighted.values()):
                given["weights"] = tuple(weighted.values())
        return cls(**{**given, **settings})

    @property
    def _names(self) -> Sequence[str]:
        return OPERATIONS if self.operations is None else self.operations

    def draw(self, draws: Draws, _frame: Frame, /) -> tuple[TimmPlan, ...]:
        """Draw one plan for each layer; see `Augmentation`."""
        num = len(self._names)
        shares = draws.uniform("operation", [num if self.weights is not None else self.num_layers])
        if self.weights is None:
            chosen = below(shares, num)
        else:
            # The first of exponential times with these rates, then the next, are a choice by
            # weight, then another among the rest.
            weights = np.array(self.weights, np.float64)
            rates = np.where(weights > 0, weights, 1.0)
            times = np.where(weights > 0, -np.log1p(-shares.astype(np.float64)) / rates, INFINITY)
            chosen = times.argsort(axis=1)
        magnitude, prob = (np.full(len(chosen), n) for n in (self.magnitude, self.prob))
        return tuple(
            self._draw_turn(
                draws.under(f"{layer}/"), self._names, chosen[:, layer], magnitude, prob
            )
            for layer in range(self.num_layers)
        )

    def operate(self, sample: Sample, plan: tuple[TimmPlan, ...], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        image = sample.image
        for layer in plan:
            image = self._operate_turn(image, self._names, layer, frame)
        return replace(sample, image=image)


@dataclass(frozen=True)
class TimmAutoAugment(OfTimm):
    """Apply one of several sequences of operations to each sample, at magnitudes with noise.

    Args:
        policy: The sequences, all equally likely. Each is a list of ``(name, prob, magnitude)``, by
            timm's names. ``"RotateLeft"`` turns to one side, ``"TranslateXNearest"`` and
            ``"TranslateYNearest"`` shift, all to the nearest pixel, as in policies of scripts.
        magnitude_std, magnitude_max, interpolation, fill, translate: As in `TimmRandAugment`.

    Source:
        timm 1.0, ``data/auto_augment.py``, ``AutoAugment``; Cubuk et al. 2018, arXiv:1805.09501.
    """

    policy: Sequence[Steps]
    magnitude_std: float = 0.0
    magnitude_max: float = FULL_MAGNITUDE
    interpolation: WarpKernel | Literal["random"] = "random"
    fill: float | Sequence[float] = 128
    translate: float = 0.45

    def __post_init__(self) -> None:
        where = "TimmAutoAugment"
        if not self.policy:
            refuse(where, "policy", "hold at least one sequence", self.policy)
        if not isinstance(self.policy, (tuple, list)) or not all(
            isinstance(sequence, (tuple, list))
            and all(isinstance(step, (tuple, list)) and len(step) == 3 for step in sequence)
            for sequence in self.policy
        ):
            refuse(where, "policy", "be lists of (name, prob, magnitude)", self.policy)
        # As tuples: a list that changes later would change half of the loader.
        steps = tuple(
            tuple((name, prob, magnitude) for name, prob, magnitude in sequence)
            for sequence in self.policy
        )
        object.__setattr__(self, "policy", steps)
        self._check_settings([name for sequence in steps for name, _, _ in sequence])
        for sequence in steps:
            for _, prob, magnitude in sequence:
                check_prob(where, prob, "policy")
                if not is_number(magnitude) or not 0 <= magnitude < INFINITY:
                    refuse(where, "policy", "hold magnitudes of at least 0", magnitude)

    @property
    def _turns(self) -> list[tuple[tuple[str, ...], list[tuple[int, float, float]]]]:
        """Per turn the names, and for each sequence index, probability and magnitude."""
        turns = []
        for turn in range(max(map(len, self.policy))):
            steps = [sequence[turn] if turn < len(sequence) else None for sequence in self.policy]
            names = tuple(dict.fromkeys(step[0] for step in steps if step is not None))
            rows = [(-1, 0.0, 0.0) if s is None else (names.index(s[0]), *s[1:]) for s in steps]
            turns.append((names, rows))
        return turns

    def draw(self, draws: Draws, _frame: Frame, /) -> tuple[TimmPlan, ...]:
        """Draw one plan for each turn; see `Augmentation`."""
        sequence = below(draws.uniform("sequence", []), len(self.policy))
        plans = []
        for turn, (names, rows) in enumerate(self._turns):
            index, prob, magnitude = np.array(rows, np.float64)[sequence].T
            turn_draws = draws.under(f"{turn}/")
            chosen = index.astype(np.int64)
            plans.append(self._draw_turn(turn_draws, names, chosen, magnitude, prob))
        return tuple(plans)

    def operate(self, sample: Sample, plan: tuple[TimmPlan, ...], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        image = sample.image
        for (names, _), turn_plan in zip(self._turns, plan, strict=True):
            image = self._operate_turn(image, names, turn_plan, frame)
        return replace(sample, image=image)
