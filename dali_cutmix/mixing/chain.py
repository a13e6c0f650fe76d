"""`Chain`: several mixes in a row, with weights counted on the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample, as_tensors
from dali_cutmix.mixing import shares
from dali_cutmix.mixing.choice import ChosenPlan, check_mixes
from dali_cutmix.mixing.clipcutmix import ClipCutMix
from dali_cutmix.mixing.mix import (
    Mix,
    check_completed,
    check_plan,
    inner_mixes,
    looks,
    min_batch_size,
    operated,
)
from dali_cutmix.mixing.plan import MixPlan


@dataclass(frozen=True, eq=False)
class ChainPlan(MixPlan):
    """Plans that are applied one after another, each to the result of the plan before.

    ``source`` and ``weight`` are those of the result, ``k`` being the product of the plans'
    regions. ``put`` and ``taken`` are None: read the plans.

    Attributes:
        plans: What was drawn for each mix, in order.
    """

    plans: tuple[MixPlan, ...] = ()

    @property
    def blends(self) -> bool:
        """Whether one of the mixes blends, so that operators of a graph make float32 pixels."""
        return any(plan.blends for plan in self.plans)

    def for_operators(self) -> ChainPlan:
        """Return the plans without what only labels need."""
        plans = tuple(plan.for_operators() for plan in self.plans)
        return ChainPlan(None, None, self.size, plans=plans)


@dataclass(frozen=True)
class Chain:
    """Apply several mixes one after another.

    The partner's pixels in each mix are those of the batch as the mixes before left it. Two
    CutMixes in a row show up to four images. Every label weighs what its image owns of the result;
    where a `ResizeMix` shrinks patches of the mixes before, their borders blend, and count by area.

    Args:
        mixes: At least one mix. At most one of them draws per pair, and none is `Deferred`. Mixes
            behind `FMix` or `GridMix` may blend or erase, and not paste.
    """

    mixes: Sequence[Mix]

    def __post_init__(self) -> None:
        mixes = check_mixes("Chain", self.mixes)
        object.__setattr__(self, "mixes", mixes)
        for mix in mixes[1:]:
            if looks(mix):
                way_out = "Put it first: it would have to look at images that another mix made."
                refuse("Chain", "mixes", "look at images in the first mix only", mix, way_out)
        parts = [part for mix in mixes for part in inner_mixes(mix)]
        per_pair = [part for part in parts if getattr(part, "per", None) == "pair"]
        if len(per_pair) > 1:
            way_out = (
                "Pairs of samples are the same in all of them, so that the second mix would give "
                "a sample its own pixels back. Draw one of them per sample or per batch."
            )
            refuse("Chain", "mixes", "hold at most one mix with per='pair'", mixes, way_out)

    @property
    def num_sources(self) -> int:
        """Regions of a plan: the product of those of the mixes."""
        return prod(mix.num_sources for mix in self.mixes)

    @property
    def min_batch_size(self) -> int:
        """Samples that a batch needs: as many as the mix that needs most."""
        return max(map(min_batch_size, self.mixes))

    def draw(self, draws: Draws, frame: Frame) -> ChainPlan:
        """Draw the plan, on the host; see `Mix`."""
        plans = tuple(
            mix.draw(draws.under(f"chain/{number}/"), frame)
            for number, mix in enumerate(self.mixes)
        )
        for mix, plan in zip(self.mixes, plans, strict=True):
            check_plan(mix, plan, draws.num_samples, frame)
            if any(isinstance(part, ClipCutMix) for part in inner_mixes(mix)):
                way_out = "A chain counts pixels in one frame: `CutMix()` cuts tubes."
                refuse("Chain", "mixes", "cut all frames of a clip alike", mix, way_out)
            has_many = plan.source.shape[1] > shares.MAX_OVERLAPPING
            if has_many and plan.put is not None and shares.overlap(plan.put):
                rule = f"have at most {shares.MAX_OVERLAPPING} regions that overlap each other"
                way_out = "Let the regions after the first not overlap."
                refuse("Chain", "mixes", rule, mix, way_out)
        _check_cells(self.mixes, plans)
        return _counted(plans, draws.num_samples, frame.size)

    def look(self, sample: Sample, frame: Frame) -> Any:
        """Look as the first mix does; see `LookingMix`."""
        first: Any = self.mixes[0]
        return first.look(sample, frame)

    def complete(self, plan: MixPlan, seen: Any, frame: Frame) -> ChainPlan:
        """Complete the first plan, and count owners anew; see `LookingMix`."""
        assert isinstance(plan, ChainPlan)
        first: Any = self.mixes[0]
        part = first.complete(plan.plans[0], seen, frame)
        check_completed(first, part, len(plan.source), frame)
        return _counted((part, *plan.plans[1:]), len(plan.source), frame.size)

    def operate(self, sample: Sample, plan: MixPlan, frame: Frame) -> Sample:
        """Apply the plan, which is of this chain, to pixels; see `Mix`."""
        if not isinstance(plan, ChainPlan):
            refuse("Chain", "plan", "be drawn by Chain", type(plan).__name__)
        inner = replace(frame, blends_last=False)
        for mix, part in zip(self.mixes[:-1], plan.plans[:-1], strict=True):
            sample = operated(mix, sample, part, inner)
        return operated(self.mixes[-1], sample, plan.plans[-1], frame)


def _check_cells(mixes: Sequence[Mix], plans: Sequence[MixPlan]) -> None:
    """Refuse to paste behind a mix by cells, where rectangles could not tell who owns what."""
    by_cells: Mix | None = None
    for mix, plan in zip(mixes, plans, strict=True):
        if by_cells is not None and _any(plan, _pastes):
            name = type(by_cells).__name__
            way_out = f"Put {name} last, or choose a mix for each batch by `RandomChoice`."
            refuse("Chain", "mixes", f"not paste behind {name}", mixes, way_out)
        if _any(plan, lambda part: part.owner is not None):
            by_cells = mix


def _any(plan: MixPlan, rule: Callable[[MixPlan], bool]) -> bool:
    """Tell whether a plan, or one of those that it consists of, is as a rule says."""
    parts = getattr(plan, "plans", ())
    return rule(plan) if not parts else any(_any(part, rule) for part in parts)


def _pastes(plan: MixPlan) -> bool:
    return plan.taken is not None or plan.owner is not None


def _counted(plans: tuple[MixPlan, ...], num_samples: int, size: tuple[int, int]) -> ChainPlan:
    """Return plans of arrays as one, with weights counted on the result."""
    source, weight = owners_of(as_tensors(plans), num_samples, size)
    return ChainPlan(
        source=source.numpy().astype(np.int32), weight=weight.numpy(), size=size, plans=plans
    )


def owners_of(
    plans: Sequence[MixPlan], num_samples: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count whose pixels each sample shows after plans of tensors, one after another.

    Returns:
        The owners, ``[B, k]`` int64, the sample itself first; and their weights, ``[B, k]``
        float32.
    """
    counted = shares.unmixed(num_samples, size, plans[0].source.device)
    for plan in plans:
        counted = _follow(counted, plan)
    return counted.source, shares.weights(counted, size)


def _follow(counted: shares.Shares, plan: MixPlan) -> shares.Shares:
    if isinstance(plan, ChainPlan):
        for part in plan.plans:
            counted = _follow(counted, part)
        return counted
    if isinstance(plan, ChosenPlan):
        return _follow_choice(counted, plan)
    return shares.follow(counted, plan)


def _follow_choice(counted: shares.Shares, plan: ChosenPlan) -> shares.Shares:
    """Follow each plan that may have been chosen, and let the chosen plan's rectangles count.

    All plans share the owner slots, as they share the regions of a `ChosenPlan`.
    """
    followed = [_follow(counted, part) for part in plan.plans]
    num_slots = max(part.source.shape[1] for part in followed)
    source = followed[0].source[:, :1].repeat(1, num_slots)
    slots: list[int] = []
    rectangles: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for number, part in enumerate(followed):
        is_chosen = (plan.choice == number)[:, None]
        padded = torch.cat([part.source, source[:, part.source.shape[1] :]], dim=1)
        source = torch.where(is_chosen, padded, source)
        slots += part.slot
        rectangles.append((part.low, part.high, part.weight * is_chosen))
    low, high, weight = (torch.cat(values, dim=1) for values in zip(*rectangles, strict=True))
    return shares.Shares(source, slots, low, high, weight)
