"""Change colours by numbers that are drawn for each sample, and put channels in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf as INFINITY
from typing import Any, ClassVar

import numpy as np

from dali_cutmix.core.checks import are_numbers, check_range, is_number, refuse
from dali_cutmix.core.dali import DataNode, merge, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import DrawsNothing, Frame, Sample
from dali_cutmix.transforms.adjustments import Adjustment
from dali_cutmix.transforms.color_ops import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    contrast_by_shift,
    grayscale,
    hue_matrix,
    permute_channels,
    saturate_by_matrix,
    saturation_matrix,
    turn_hue_by_matrix,
)

Range = tuple[float, float]

_ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}

#: Adjustments from few operators of a GPU to many.
_BY_COST = ("brightness", "saturation", "hue", "contrast")


@dataclass(frozen=True)
class JitterStep:
    """Say which samples take an adjustment at one place in the order of `ColorJitter`.

    Attributes:
        name: Of the adjustment.
        is_here: Whether a sample takes the adjustment here: scalar bool per sample.
        number: Factor, or turn of the hue: scalar float32 per sample. The neutral number where a
            sample does not take the adjustment here.
        operand: What stands for the number on a GPU, or beside the number. A matrix, ``[3, n]``
            float32 per sample, for saturation and hue; one minus the factor, scalar float32 per
            sample, for contrast; None for brightness.
    """

    name: str
    is_here: Any
    number: Any
    operand: Any = None


#: For each adjustment, a function that makes `JitterStep.operand` of the numbers drawn.
_OPERANDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contrast": lambda factor: 1 - factor,
    "saturation": saturation_matrix,
    "hue": hue_matrix,
}


def _word(names: Sequence[str]) -> tuple[str, ...]:
    """Return a sequence that has every permutation of the names as a subsequence.

    The last name stands once; both sides of it are such sequences of the other names.
    """
    if not names:
        return ()
    others = _word(names[:-1])
    return (*others, names[-1], *others)


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, each by a number drawn for each sample.

    The order of the adjustments is drawn for each sample too. The result of each is truncated to
    whole levels before the next. An adjustment whose range holds its neutral number alone is left
    out.

    Args:
        brightness: Bound or range of the factor, which is uniform. A number stands for
            ``[max(0, 1 - brightness), 1 + brightness]``; a range is ``(min, max)``, at least 0.
        contrast: As ``brightness``.
        saturation: As ``brightness``.
        hue: Bound or range of the turn, which is uniform, as a share of the circle of hues. A
            number stands for ``[-hue, hue]``; a range is ``(min, max)`` within [-0.5, 0.5].

    Source:
        torchvision ``v2.ColorJitter``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    brightness: float | Range = 0.0
    contrast: float | Range = 0.0
    saturation: float | Range = 0.0
    hue: float | Range = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check_jitter(name, getattr(self, name), (0, INFINITY), INFINITY)
        _check_jitter("hue", self.hue, (-0.5, 0.5), 0.5)

    @property
    def ranges(self) -> dict[str, Range]:
        """Smallest and largest number of each adjustment that changes anything, by name."""
        ranges = {}
        for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
            setting = getattr(self, name)
            if is_number(setting):
                low = neutral - setting
                setting = (max(0.0, low) if neutral else low, neutral + setting)
            low, high = float(setting[0]), float(setting[1])
            if not low == high == neutral:
                ranges[name] = (low, high)
        return ranges

    def draw(self, draws: Draws, _frame: Frame, /) -> tuple[JitterStep, ...]:
        """Draw an order and a number for each adjustment; see `Augmentation`.

        Returns:
            Steps to go through in turn, 15 for four adjustments. Each sample takes each adjustment
            in one of the steps, so that the steps that a sample takes have the sample's order.
        """
        if not self.ranges:
            return ()
        names, num = list(self.ranges), len(self.ranges)
        shares = draws.uniform("factor", [num])
        order = draws.uniform("order", [num]).argsort(axis=1)
        low, high = np.array(list(self.ranges.values())).T
        numbers = (low + shares * (high - low)).astype(np.float32)
        # The last row is of a sample that takes no step.
        numbers = np.vstack([numbers, [np.float32(name != "hue") for name in names]])
        operands = {
            name: _OPERANDS[name](numbers[:, index])
            for index, name in enumerate(names)
            if name in _OPERANDS
        }
        steps, num_taken = [], np.zeros(len(order), int)
        samples = np.arange(len(order))
        for name in _word([name for name in _BY_COST if name in names]):
            index = names.index(name)
            is_next = order[samples, np.minimum(num_taken, num - 1)] == index
            is_here = is_next & (num_taken < num)
            row = np.where(is_here, samples, -1)
            operand = operands[name][row] if name in operands else None
            steps.append(JitterStep(name, is_here, numbers[row, index], operand))
            num_taken += is_here
        return tuple(steps)

    def operate(self, sample: Sample, plan: tuple[JitterStep, ...], _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        image = sample.image
        change = _change_all if image.device == "gpu" else _change_some
        for step in plan:
            image = change(image, step)
        return replace(sample, image=image)


def _change_some(image: DataNode, step: JitterStep) -> DataNode:
    """Adjust the samples that take a step. Costs of adjustments differ by a factor of 40."""
    part, others = split(image, step.is_here)
    number, _ = split(step.number, step.is_here)
    return merge(_ADJUST[step.name](part, number), others, step.is_here)


def _change_all(image: DataNode, step: JitterStep) -> DataNode:
    """Adjust all samples, those that do not take the step by a neutral number.

    An operator of a GPU takes the host as long to start for all samples as for some, and to split a
    batch takes longer than both.
    """
    if step.name == "brightness":
        return adjust_brightness(image, step.number)
    if step.name == "contrast":
        return contrast_by_shift(image, step.number, step.operand)
    by_matrix = saturate_by_matrix if step.name == "saturation" else turn_hue_by_matrix
    return by_matrix(image, step.operand)


@dataclass(frozen=True)
class Grayscale(Adjustment):
    """Take the colours of some images away. Images keep three channels.

    Args:
        prob: Probability in [0, 1] that a sample turns gray.

    Source:
        torchvision ``v2.RandomGrayscale``.
    """

    prob: float

    def _change(self, image: DataNode, _frame: Frame) -> DataNode:
        return grayscale(image)


@dataclass(frozen=True)
class PermuteChannels(DrawsNothing):
    """Put the channels of all images in another order: ``(2, 1, 0)`` makes BGR of RGB.

    ``mean`` and ``std`` of the transform are in the new order.

    Args:
        permutation: Channel of the image that is first, second and third: 0, 1 and 2 in any order.

    Source:
        torchvision ``v2.functional.permute_channels``.
    """

    permutation: Sequence[int]

    def __post_init__(self) -> None:
        order = self.permutation
        if not are_numbers(order, 3) or sorted(order) != [0, 1, 2]:
            refuse("PermuteChannels", "permutation", "hold 0, 1 and 2 in any order", order)
        object.__setattr__(self, "permutation", tuple(order))

    def operate(self, sample: Sample, _plan: tuple[()], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        order = frame.constant(np.array(self.permutation, np.int32))
        return replace(sample, image=permute_channels(sample.image, order))


@dataclass(frozen=True)
class RandomChannelPermutation:
    """Put the channels of each image in an order drawn for each sample.

    Source:
        torchvision ``v2.RandomChannelPermutation``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw an order: ``[B, 3]`` int32; see `Augmentation`."""
        return draws.uniform("order", [3]).argsort(axis=1).astype(np.int32)

    def operate(self, sample: Sample, plan: Any, _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return replace(sample, image=permute_channels(sample.image, plan))


def _check_jitter(name: str, setting: float | Range, bounds: Range, most: float) -> None:
    """Refuse a setting that `ColorJitter` does not take."""
    low, high = bounds
    if is_number(setting):
        if not 0 <= setting <= most:
            rule = "be at least 0" if most == INFINITY else f"be in [0, {most:g}]"
            refuse("ColorJitter", name, f"{rule}, or (min, max)", setting)
    else:
        check_range("ColorJitter", name, setting, low, high)
