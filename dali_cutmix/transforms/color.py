"""Colours that are drawn for each sample: `ColorJitter` and `Grayscale`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf as INFINITY

import numpy as np

from dali_cutmix.core.checks import check_prob, check_range, is_number, refuse
from dali_cutmix.core.dali import DataNode, merge, split
from dali_cutmix.core.draws import HostDraws
from dali_cutmix.core.frame import Frame
from dali_cutmix.transforms.color_ops import brighten, gray, raise_contrast, saturate, shift_hue

Range = tuple[float, float]

_OPERATE = {
    "brightness": brighten,
    "contrast": raise_contrast,
    "saturation": saturate,
    "hue": shift_hue,
}


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, each by a number drawn for each sample.

    The order of those that change anything is drawn for each sample too. The result of each is cut
    off to whole levels before the next.

    Args:
        brightness: The factor is uniform in ``[max(0, 1 - brightness), 1 + brightness]``, or in the
            ``(min, max)`` that is given, at least 0.
        contrast: As ``brightness``.
        saturation: As ``brightness``.
        hue: The turn, as a share of the circle of hues, is uniform in ``[-hue, hue]``, or in the
            ``(min, max)`` that is given, within [-0.5, 0.5].

    Source:
        torchvision ``v2.ColorJitter``.
    """

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
        """Least and largest number of each operation that changes anything, by its name."""
        found = {}
        for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
            given = getattr(self, name)
            if is_number(given):
                low = neutral - given
                given = (max(0.0, low) if neutral else low, neutral + given)
            low, high = float(given[0]), float(given[1])
            if not low == high == neutral:
                found[name] = (low, high)
        return found

    def draw(self, draws: HostDraws, _frame: Frame) -> dict[str, np.ndarray]:
        """See `Augmentation`."""
        ranges = self.ranges
        drawn: dict[str, np.ndarray] = {}
        if not ranges:
            return drawn
        names = list(ranges)
        shares = draws.uniform("factor", [len(names)])
        order = draws.uniform("order", [len(names)]).argsort(axis=1)
        low, high = np.array(list(ranges.values())).T
        factors = low + shares * (high - low)
        numbers = np.take_along_axis(factors, order, axis=1).astype(np.float32)
        for turn, taken in enumerate(order.T):
            drawn[f"{turn}/number"] = numbers[:, turn].copy()  # graphs take no strides
            for place, name in enumerate(names):
                drawn[f"{turn}/is_{name}"] = taken == place
        return drawn

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], _frame: Frame) -> DataNode:
        """See `Augmentation`."""
        names = list(self.ranges)
        for turn in range(len(names)):
            for name in names:
                # Each operator sees the samples whose turn it is: some cost five times others.
                is_it = drawn[f"{turn}/is_{name}"]
                part, others = split(image, is_it)
                number, _ = split(drawn[f"{turn}/number"], is_it)
                image = merge(_OPERATE[name](part, number), others, is_it)
        return image


@dataclass(frozen=True)
class Grayscale:
    """Take the colours of some images away; they keep three channels.

    Args:
        prob: Probability in [0, 1] that a sample is.

    Source:
        torchvision ``v2.RandomGrayscale``.
    """

    prob: float

    def __post_init__(self) -> None:
        check_prob("Grayscale", self.prob)

    def draw(self, draws: HostDraws, _frame: Frame) -> dict[str, np.ndarray]:
        """See `Augmentation`."""
        return {"is_gray": draws.chance("prob", self.prob)[:, 0] > 0}

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], _frame: Frame) -> DataNode:
        """See `Augmentation`."""
        part, others = split(image, drawn["is_gray"])
        return merge(gray(part), others, drawn["is_gray"])


def _check_jitter(name: str, given: float | Range, bounds: Range, most: float) -> None:
    """Refuse what `ColorJitter` does not take."""
    low, high = bounds
    if is_number(given):
        if not 0 <= given <= most:
            rule = "be at least 0" if most == INFINITY else f"be in [0, {most:g}]"
            refuse("ColorJitter", name, f"{rule}, or (min, max)", given)
    else:
        check_range("ColorJitter", name, given, low, high)
