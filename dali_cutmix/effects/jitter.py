"""Colours that are drawn for each sample: `ColorJitter` and `Grayscale`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf as INFINITY

import numpy as np

from dali_cutmix._checks import check_prob, check_range, is_number, refuse
from dali_cutmix._dali import DataNode, merge, split
from dali_cutmix.draws import HostDraws
from dali_cutmix.effects.enhance import blend_colours, gray, shift_hue
from dali_cutmix.effects.frame import Frame

Range = tuple[float, float]


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
        for turn in range(len(names)):
            taken = order[:, turn : turn + 1]
            number = np.take_along_axis(factors, taken, axis=1)[:, 0]
            is_of = {name: taken[:, 0] == place for place, name in enumerate(names)}
            if "hue" in ranges:
                drawn[f"{turn}/is_hue"] = is_of["hue"]
                drawn[f"{turn}/turn"] = np.where(is_of["hue"], number, 0).astype(np.float32)
                number = np.where(is_of["hue"], 1, number)
            if len(ranges) > ("hue" in ranges):
                drawn[f"{turn}/factor"] = number.astype(np.float32)
            for name, share in (("saturation", "own_gray"), ("contrast", "mean_gray")):
                if name in ranges:
                    other = np.where(is_of[name], 1 - number, 0)
                    drawn[f"{turn}/{share}"] = other.astype(np.float32)
        return drawn

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], _frame: Frame) -> DataNode:
        """See `Augmentation`."""
        for turn in range(len(self.ranges)):
            own = {
                name: drawn[f"{turn}/{name}"]
                for name in ("factor", "own_gray", "mean_gray")
                if f"{turn}/{name}" in drawn
            }
            if "hue" not in self.ranges:
                image = blend_colours(image, **own)
                continue
            is_hue = drawn[f"{turn}/is_hue"]
            part, others = split(image, is_hue)
            part = shift_hue(part, split(drawn[f"{turn}/turn"], is_hue)[0])
            if own:
                own = {name: split(node, is_hue)[1] for name, node in own.items()}
                others = blend_colours(others, **own)
            image = merge(part, others, is_hue)
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
