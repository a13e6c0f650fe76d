"""Operations that are chosen for each sample: `TrivialAugment`, `RandAugment`, `AutoAugment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dali_cutmix.core.checks import check_choice, check_count, is_whole, refuse
from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import HostDraws, under
from dali_cutmix.core.frame import Frame
from dali_cutmix.transforms.affine import INTERPOLATIONS, Interpolation
from dali_cutmix.transforms.operations import OPERATIONS, SIGNED, apply, levels, numbers
from dali_cutmix.transforms.policies import POLICIES


@dataclass(frozen=True)
class TrivialAugment:
    """One operation for each sample, of 14, with a strength of its own: all equally likely.

    Args:
        num_bins: Strengths to choose from, at least 2.
        interpolation: How shears and turns make a pixel: of the nearest one, or of the four around
            its place (``"bilinear"``).

    Source:
        Müller and Hutter 2021, TrivialAugment, arXiv:2103.10158; torchvision
        ``v2.TrivialAugmentWide``, with black where a pixel comes from outside.
    """

    num_bins: int = 31
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        check_count("TrivialAugment", "num_bins", self.num_bins, at_least=2)
        check_choice("TrivialAugment", "interpolation", self.interpolation, INTERPOLATIONS)

    def draw(self, draws: HostDraws, frame: Frame) -> dict[str, np.ndarray]:
        """See `Augmentation`."""
        chosen = _below(draws.uniform("operation", []), len(OPERATIONS))
        bins = _below(draws.uniform("bin", []), self.num_bins)
        strengths = levels(self.num_bins, frame.size, wide=True)
        return _numbers(draws, OPERATIONS, chosen, bins, strengths, frame)

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], frame: Frame) -> DataNode:
        """See `Augmentation`."""
        return apply(image, OPERATIONS, drawn, frame.size, self.interpolation)


@dataclass(frozen=True)
class RandAugment:
    """Some operations in turn for each sample, of 14, all of one strength.

    Args:
        num_ops: Operations for each sample; 0 changes nothing.
        magnitude: Which strength, from 0, below ``num_bins``.
        num_bins: Strengths there are, at least 2.
        interpolation: As `TrivialAugment`'s.

    Source:
        Cubuk et al. 2019, RandAugment, arXiv:1909.13719; torchvision ``v2.RandAugment``, with black
        where a pixel comes from outside.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        where = "RandAugment"
        check_count(where, "num_ops", self.num_ops, at_least=0)
        check_count(where, "num_bins", self.num_bins, at_least=2)
        check_choice(where, "interpolation", self.interpolation, INTERPOLATIONS)
        if not is_whole(self.magnitude) or not 0 <= self.magnitude < self.num_bins:
            rule = f"be a whole number from 0 to num_bins - 1 = {self.num_bins - 1}"
            refuse(where, "magnitude", rule, self.magnitude)

    def draw(self, draws: HostDraws, frame: Frame) -> dict[str, np.ndarray]:
        """See `Augmentation`."""
        drawn: dict[str, np.ndarray] = {}
        strengths = levels(self.num_bins, frame.size, wide=False)
        for turn in range(self.num_ops):
            own = draws.under(f"{turn}/")
            chosen = _below(own.uniform("operation", []), len(OPERATIONS))
            bins = np.full(len(chosen), self.magnitude)
            made = _numbers(own, OPERATIONS, chosen, bins, strengths, frame)
            drawn |= {f"{turn}/{name}": value for name, value in made.items()}
        return drawn

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], frame: Frame) -> DataNode:
        """See `Augmentation`."""
        for turn in range(self.num_ops):
            own = under(f"{turn}/", drawn)
            image = apply(image, OPERATIONS, own, frame.size, self.interpolation)
        return image


@dataclass(frozen=True)
class AutoAugment:
    """One pair of operations for each sample, of 25 found by search on a data set.

    Args:
        policy: ``"imagenet"``, ``"cifar10"`` or ``"svhn"``: the data set.
        interpolation: As `TrivialAugment`'s.

    Source:
        Cubuk et al. 2018, AutoAugment, arXiv:1805.09501; torchvision ``v2.AutoAugment``, with black
        where a pixel comes from outside.
    """

    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        check_choice("AutoAugment", "policy", self.policy, tuple(POLICIES))
        check_choice("AutoAugment", "interpolation", self.interpolation, INTERPOLATIONS)

    def _names(self, turn: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pair[turn].operation for pair in POLICIES[self.policy]))

    def draw(self, draws: HostDraws, frame: Frame) -> dict[str, np.ndarray]:
        """See `Augmentation`."""
        pairs = POLICIES[self.policy]
        pair = _below(draws.uniform("pair", []), len(pairs))
        strengths = levels(10, frame.size, wide=False)
        drawn: dict[str, np.ndarray] = {}
        for turn in (0, 1):
            own, names = draws.under(f"{turn}/"), self._names(turn)
            prob = np.array([steps[turn].prob for steps in pairs])[pair]
            chosen = np.array([names.index(steps[turn].operation) for steps in pairs])[pair]
            # A uniform number is rounded up to 1 once in 30 million.
            is_taken = (own.uniform("prob", []) < prob) | (prob == 1)
            bins = np.array([steps[turn].level for steps in pairs])[pair]
            chosen = np.where(is_taken, chosen, -1)
            made = _numbers(own, names, chosen, bins, strengths, frame)
            drawn |= {f"{turn}/{name}": value for name, value in made.items()}
        return drawn

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], frame: Frame) -> DataNode:
        """See `Augmentation`."""
        for turn in (0, 1):
            names, own = self._names(turn), under(f"{turn}/", drawn)
            image = apply(image, names, own, frame.size, self.interpolation)
        return image


def _below(share: np.ndarray, num: int) -> np.ndarray:
    """Whole numbers from 0, below ``num``, of uniform ones in [0, 1]."""
    return np.minimum((share * num).astype(np.int64), num - 1)


def _numbers(
    draws: HostDraws,
    names: Sequence[str],
    chosen: np.ndarray,
    bins: np.ndarray,
    strengths: Mapping[str, np.ndarray],
    frame: Frame,
) -> dict[str, np.ndarray]:
    """What the graph takes for chosen operations, half of those that have a sign negated."""
    level = np.stack([strengths[name] for name in names])[chosen, bins]
    is_signed = np.array([name in SIGNED for name in names])[chosen]
    is_negated = is_signed & (draws.chance("sign", 0.5)[:, 0] > 0)
    return numbers(names, chosen, np.where(is_negated, -level, level), frame.size)
