"""Choose operations for each sample: `TrivialAugment`, `RandAugment` and `AutoAugment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import check_choice, check_count, is_whole, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import below
from dali_cutmix.transforms.affine import INTERPOLATIONS, Interpolation
from dali_cutmix.transforms.operations import (
    OPERATIONS,
    SIGNED,
    OperationPlan,
    levels,
    operate,
    operate_in_turn,
    plan_operations,
)
from dali_cutmix.transforms.policies import POLICIES
from dali_cutmix.transforms.warps import check_fill


@dataclass(frozen=True)
class TrivialAugment:
    """Apply one of 14 operations to each sample, at a strength of its own, all equally likely.

    Args:
        num_bins: Number of strengths to choose from, at least 2.
        interpolation: How shears and turns make a pixel: ``"nearest"`` takes the nearest pixel,
            ``"bilinear"`` the four around a place.
        fill: Level of pixels from outside the image, in [0, 255], or ``(R, G, B)``.

    Source:
        Müller and Hutter 2021, TrivialAugment, arXiv:2103.10158; torchvision
        ``v2.TrivialAugmentWide``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    num_bins: int = 31
    interpolation: Interpolation = "nearest"
    fill: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        check_count("TrivialAugment", "num_bins", self.num_bins, at_least=2)
        check_choice("TrivialAugment", "interpolation", self.interpolation, INTERPOLATIONS)
        check_fill("TrivialAugment", self.fill)

    def draw(self, draws: Draws, frame: Frame, /) -> OperationPlan:
        """See `Augmentation`."""
        chosen = below(draws.uniform("operation", []), len(OPERATIONS))
        bins = below(draws.uniform("bin", []), self.num_bins)
        return _plan(draws, OPERATIONS, chosen, bins, self.num_bins, frame, wide=True)

    def operate(self, sample: Sample, plan: OperationPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return operate(sample, OPERATIONS, plan, frame, self.interpolation, self.fill)


@dataclass(frozen=True)
class RandAugment:
    """Apply some of 14 operations in turn to each sample, all at one strength.

    Args:
        num_ops: Operations for each sample; 0 changes nothing.
        magnitude: Index of the strength, from 0, below ``num_bins``.
        num_bins: Number of strengths, at least 2.
        interpolation: As in `TrivialAugment`.
        fill: As in `TrivialAugment`.

    Source:
        Cubuk et al. 2019, RandAugment, arXiv:1909.13719; torchvision ``v2.RandAugment``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31
    interpolation: Interpolation = "nearest"
    fill: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        where = "RandAugment"
        check_count(where, "num_ops", self.num_ops, at_least=0)
        check_count(where, "num_bins", self.num_bins, at_least=2)
        check_choice(where, "interpolation", self.interpolation, INTERPOLATIONS)
        check_fill(where, self.fill)
        if not is_whole(self.magnitude) or not 0 <= self.magnitude < self.num_bins:
            rule = f"be a whole number from 0 to num_bins - 1 = {self.num_bins - 1}"
            refuse(where, "magnitude", rule, self.magnitude)

    def draw(self, draws: Draws, frame: Frame, /) -> tuple[OperationPlan, ...]:
        """Draw one plan for each of the ``num_ops`` operations; see `Augmentation`."""
        plans = []
        for turn in range(self.num_ops):
            turn_draws = draws.under(f"{turn}/")
            chosen = below(turn_draws.uniform("operation", []), len(OPERATIONS))
            bins = np.full(len(chosen), self.magnitude)
            plans.append(_plan(turn_draws, OPERATIONS, chosen, bins, self.num_bins, frame))
        return tuple(plans)

    def operate(self, sample: Sample, plan: tuple[OperationPlan, ...], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return operate_in_turn(sample, OPERATIONS, plan, frame, self.interpolation, self.fill)


@dataclass(frozen=True)
class AutoAugment:
    """Apply one of 25 pairs of operations to each sample, found by search on a data set.

    Args:
        policy: The data set: ``"imagenet"``, ``"cifar10"`` or ``"svhn"``.
        interpolation: As in `TrivialAugment`.
        fill: As in `TrivialAugment`.

    Source:
        Cubuk et al. 2018, AutoAugment, arXiv:1805.09501; torchvision ``v2.AutoAugment``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    interpolation: Interpolation = "nearest"
    fill: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        check_choice("AutoAugment", "policy", self.policy, tuple(POLICIES))
        check_choice("AutoAugment", "interpolation", self.interpolation, INTERPOLATIONS)
        check_fill("AutoAugment", self.fill)

    def _names(self, turn: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pair[turn].operation for pair in POLICIES[self.policy]))

    def draw(self, draws: Draws, frame: Frame, /) -> tuple[OperationPlan, OperationPlan]:
        """Draw one plan for each operation of the pair; see `Augmentation`."""
        pair = below(draws.uniform("pair", []), len(POLICIES[self.policy]))
        return self._draw_turn(0, pair, draws, frame), self._draw_turn(1, pair, draws, frame)

    def _draw_turn(self, turn: int, pair: np.ndarray, draws: Draws, frame: Frame) -> OperationPlan:
        """Draw the first or second operation of each sample's pair, ``[B]`` indices."""
        draws, names = draws.under(f"{turn}/"), self._names(turn)
        steps = [steps[turn] for steps in POLICIES[self.policy]]
        prob = np.array([step.prob for step in steps])[pair]
        chosen = np.array([names.index(step.operation) for step in steps])[pair]
        bins = np.array([step.level for step in steps])[pair]
        # A uniform number is rounded up to 1 once in 30 million.
        is_applied = (draws.uniform("prob", []) < prob) | (prob == 1)
        return _plan(draws, names, np.where(is_applied, chosen, -1), bins, 10, frame)

    def operate(
        self, sample: Sample, plan: tuple[OperationPlan, OperationPlan], frame: Frame, /
    ) -> Sample:
        """See `Augmentation`."""
        for turn, turn_plan in enumerate(plan):
            sample = operate(
                sample, self._names(turn), turn_plan, frame, self.interpolation, self.fill
            )
        return sample


def _plan(
    draws: Draws,
    names: Sequence[str],
    chosen: np.ndarray,
    bins: np.ndarray,
    num_bins: int,
    frame: Frame,
    *,
    wide: bool = False,
) -> OperationPlan:
    """Plan the chosen operations, negating half of the levels that have a sign."""
    size = None if frame.varies else frame.size
    strengths = levels(num_bins, size or (1, 1), wide=wide)
    level = np.stack([strengths[name] for name in names])[chosen, bins]
    is_signed = np.array([name in SIGNED for name in names])[chosen]
    is_negated = is_signed & (draws.chance("sign", 0.5)[:, 0] > 0)
    level = np.where(is_negated, -level, level)
    return plan_operations(names, chosen, level, size, wide=wide)
