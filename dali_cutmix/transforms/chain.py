"""Apply augmentations in turn, to all samples or to some of them, or in a drawn order.

Sizes of images are followed through a chain, so that each augmentation knows its frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.checks import are_numbers, check_prob, refuse
from dali_cutmix.core.dali import DataNode, merge, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import (
    Augmentation,
    Frame,
    Sample,
    Structure,
    check_augmentations,
    draw_each,
    frame_behind,
    frames_of,
    map_leaves,
    operate_each,
    takes_annotations,
)

Size = tuple[int, int]

#: A frame in front of which nothing is known of sizes.
ANY_SIZE = Frame((0, 0), varies=True)


def refuse_varying(where: str, augmentations: Sequence[Augmentation], frame: Frame) -> None:
    """Refuse an augmentation that needs one size where sizes of images may vary."""
    for augmentation, before in zip(augmentations, frames_of(augmentations, frame), strict=False):
        if before.varies and not getattr(augmentation, "takes_any_size", False):
            refuse(
                where,
                "transforms",
                f"give all images one size before {type(augmentation).__name__}",
                list(augmentations),
                "Put a crop or `Resize((height, width))` before it.",
            )


def apply_where(
    is_here: DataNode,
    augmentations: Sequence[Augmentation],
    sample: Sample,
    plans: Any,
    frame: Frame,
) -> Sample:
    """Apply a chain to the samples for which a scalar boolean is true. Others stay."""
    structure = Structure(sample)
    halves = [split(node, is_here) for node in structure.leaves(sample)]
    part: Sample = structure.build([true for true, _ in halves])
    part_plans = map_leaves(lambda node: split(node, is_here)[0], plans)
    changed = operate_each(augmentations, part, part_plans, frame.within(is_here))
    pairs = zip(structure.leaves(changed), halves, strict=True)
    merged: Sample = structure.build([merge(node, false, is_here) for node, (_, false) in pairs])
    return merged


class _Nest:
    """Hold augmentations, of which a sample takes some."""

    transforms: Sequence[Augmentation]

    def __post_init__(self) -> None:
        check_augmentations(type(self).__name__, self.transforms)
        object.__setattr__(self, "transforms", tuple(self.transforms))

    @property
    def takes_any_size(self) -> bool:
        """Whether all augmentations do."""
        frames = frames_of(self.transforms, ANY_SIZE)
        return all(
            getattr(augmentation, "takes_any_size", False) or not frame.varies
            for augmentation, frame in zip(self.transforms, frames, strict=False)
        )

    @property
    def takes_annotations(self) -> bool:
        """Whether all augmentations do."""
        return all(map(takes_annotations, self.transforms))


@dataclass(frozen=True)
class RandomApplyPlan:
    """Hold what `RandomApply` draws.

    Attributes:
        is_applied: Whether a sample takes the chain: scalar bool per sample.
        plans: Plan of each augmentation.
    """

    is_applied: Any
    plans: tuple[Any, ...]


@dataclass(frozen=True)
class RandomApply(_Nest):
    """Apply augmentations in turn to some samples, and nothing to the others.

    Args:
        transforms: Augmentations, in order. An augmentation of your own must not create constant
            arrays by ``types.Constant`` here, since not all samples are: see `Frame.constant`.
        prob: Probability in [0, 1] that a sample takes them.

    Source:
        torchvision ``v2.RandomApply``.
    """

    transforms: Sequence[Augmentation]
    prob: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prob("RandomApply", self.prob)

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        before = ANY_SIZE if size is None else Frame(size)
        behind = frames_of(self.transforms, before)[-1]
        return size if behind.size == before.size else None

    def draw(self, draws: Draws, frame: Frame, /) -> RandomApplyPlan:
        """See `Augmentation`."""
        is_applied = draws.chance("prob", self.prob)[:, 0] > 0
        return RandomApplyPlan(is_applied, draw_each(self.transforms, draws, frame))

    def operate(self, sample: Sample, plan: RandomApplyPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return apply_where(plan.is_applied, self.transforms, sample, plan.plans, frame)


@dataclass(frozen=True)
class RandomChoicePlan:
    """Hold what `RandomChoice` or `RandomOrder` draws.

    Attributes:
        is_chosen: For each augmentation whether a sample takes it: scalar bools per sample. With
            `RandomOrder` a tuple of these for each place in the order.
        plans: Plan of each augmentation.
    """

    is_chosen: tuple[Any, ...]
    plans: tuple[Any, ...]


@dataclass(frozen=True)
class RandomChoice(_Nest):
    """Apply one of several augmentations to each sample.

    Args:
        transforms: Augmentations, at least one.
        prob: Probability of each; numbers of at least 0, which are divided by their sum. None: all
            are equally likely.

    Source:
        torchvision ``v2.RandomChoice``.
    """

    transforms: Sequence[Augmentation]
    prob: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        where, num = "RandomChoice", len(self.transforms)
        if not num:
            refuse(where, "transforms", "hold at least one augmentation", self.transforms)
        prob = self.prob
        if prob is not None and (
            not are_numbers(prob, num) or min(prob) < 0 or not 0 < sum(prob) < float("inf")
        ):
            refuse(where, "prob", f"be {num} numbers of at least 0, one above", prob)

    @property
    def takes_any_size(self) -> bool:
        """Whether all augmentations do."""
        return all(getattr(one, "takes_any_size", False) for one in self.transforms)

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        before = ANY_SIZE if size is None else Frame(size)
        sizes = {frame_behind(augmentation, before).size for augmentation in self.transforms}
        (behind,) = sizes if len(sizes) == 1 else [(0, 0)]
        return None if behind == (0, 0) else behind

    def draw(self, draws: Draws, frame: Frame, /) -> RandomChoicePlan:
        """See `Augmentation`."""
        weights = np.ones(len(self.transforms)) if self.prob is None else np.array(self.prob)
        bounds = np.cumsum(weights / weights.sum())
        last = int(np.flatnonzero(weights)[-1])
        chosen = np.minimum(np.searchsorted(bounds, draws.uniform("choice", []), "right"), last)
        is_chosen = tuple(chosen == index for index in range(len(weights)))
        plans = tuple(
            augmentation.draw(draws.under(f"{index}/"), frame)
            for index, augmentation in enumerate(self.transforms)
        )
        return RandomChoicePlan(is_chosen, plans)

    def operate(self, sample: Sample, plan: RandomChoicePlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        for one, is_here, inner in zip(self.transforms, plan.is_chosen, plan.plans, strict=True):
            sample = apply_where(is_here, [one], sample, [inner], frame)
        return sample


@dataclass(frozen=True)
class RandomOrder(_Nest):
    """Apply augmentations in an order drawn for each sample. None of them may change sizes.

    Args:
        transforms: Augmentations.

    Source:
        torchvision ``v2.RandomOrder``.
    """

    transforms: Sequence[Augmentation]

    def __post_init__(self) -> None:
        super().__post_init__()
        for augmentation in self.transforms:
            if frame_behind(augmentation, Frame((7, 5))).size != (7, 5):
                refuse("RandomOrder", "transforms", "keep sizes of images", augmentation)

    def draw(self, draws: Draws, frame: Frame, /) -> RandomChoicePlan:
        """See `Augmentation`."""
        places = range(len(self.transforms))
        order = draws.uniform("order", [len(places)]).argsort(axis=1)
        is_chosen = tuple(tuple(order[:, turn] == index for index in places) for turn in places)
        return RandomChoicePlan(is_chosen, draw_each(self.transforms, draws, frame))

    def operate(self, sample: Sample, plan: RandomChoicePlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        for chosen_here in plan.is_chosen:
            for one, is_here, inner in zip(self.transforms, chosen_here, plan.plans, strict=True):
                sample = apply_where(is_here, [one], sample, [inner], frame)
        return sample
