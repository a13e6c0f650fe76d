"""`RandomChoice`: one of several mixes for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf as INFINITY
from typing import Any, cast

import numpy as np

from dali_cutmix.core.checks import are_numbers, refuse
from dali_cutmix.core.dali import FLOAT, DataNode, fn, merge, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample, Structure, map_leaves
from dali_cutmix.mixing.deferred import Deferred
from dali_cutmix.mixing.mix import (
    Mix,
    check_completed,
    check_plan,
    in_torch,
    inner_mixes,
    is_mix,
    looks,
    min_batch_size,
    operated,
)
from dali_cutmix.mixing.plan import MixPlan, Rect, finished


@dataclass(frozen=True, eq=False)
class ChosenPlan(MixPlan):
    """The plan of the mix that was chosen for the batch, and the plans of all mixes.

    ``source``, ``weight``, ``put``, ``lam`` and `kept` are those of the chosen mix. Where that mix
    has fewer regions than another, regions of weight 0 and of no area follow that show the sample
    itself. In a plan of two regions, an erased square is the second region. If the chosen mix
    blends and another mix cuts, the rectangles of ``put`` are empty.

    Attributes:
        choice: Which mix was chosen, equal for all samples of a batch: scalar int32.
        plans: What was drawn for each mix.
        kept_by_choice: See `MixPlan.kept`; NaN where a mix of more than two regions was chosen.
    """

    choice: Any = None
    plans: tuple[MixPlan, ...] = ()
    kept_by_choice: Any = None

    @property
    def blends(self) -> bool:
        """Whether one of the mixes blends, so that operators of a graph make float32 of all."""
        return any(plan.blends for plan in self.plans)

    @cached_property
    def kept(self) -> Any:
        """Share of the image that stays the sample's own: see `MixPlan.kept`."""
        self._needs_at_most_two("kept")
        return self.kept_by_choice

    def for_operators(self) -> ChosenPlan:
        """Return the choice and the plans without what only labels need."""
        plans = tuple(plan.for_operators() for plan in self.plans)
        return ChosenPlan(None, None, self.size, choice=self.choice, plans=plans)


@dataclass(frozen=True)
class RandomChoice:
    """Mix each batch by one of several mixes, as ``torchvision.transforms.v2.RandomChoice`` does.

    Args:
        mixes: At least one mix, of any kinds. ``CutMix(prob=0)`` is a mix that mixes nothing.
            Where one of them blends, a graph of your own makes float32 of all. A loader blends
            behind its graph; see `MixUp`.
        weights: How likely each is, at least 0 and not all 0. Their sum does not matter. None makes
            all equally likely.
    """

    mixes: Sequence[Mix]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        where = "RandomChoice"
        object.__setattr__(self, "mixes", check_mixes(where, self.mixes))
        if self.weights is None:
            return
        is_fine = are_numbers(self.weights, len(self.mixes))
        if not is_fine or min(self.weights) < 0 or not 0 < sum(self.weights) < INFINITY:
            rule = f"be {len(self.mixes)} numbers of at least 0, one for each mix, and not all 0"
            refuse(where, "weights", rule, self.weights)
        object.__setattr__(self, "weights", tuple(self.weights))

    @property
    def num_sources(self) -> int:
        """Regions of a plan: those of the mix that has most."""
        return max(mix.num_sources for mix in self.mixes)

    @property
    def min_batch_size(self) -> int:
        """Samples that a batch needs: as many as the mix that needs most."""
        return max(map(min_batch_size, self.mixes))

    def draw(self, draws: Draws, frame: Frame) -> ChosenPlan:
        """Draw the plan, on the host; see `Mix`."""
        plans = tuple(
            mix.draw(draws.under(f"choice/{number}/"), frame)
            for number, mix in enumerate(self.mixes)
        )
        for mix, plan in zip(self.mixes, plans, strict=True):
            check_plan(mix, plan, draws.num_samples, frame)
        weights = self.weights or [1.0] * len(self.mixes)
        bounds = np.cumsum([weight / sum(weights) for weight in weights])[:-1]
        drawn = draws.uniform("choice", [1])[0, 0]
        choice = int(sum(drawn >= bound for bound in bounds))
        num_samples = len(plans[0].source)
        return ChosenPlan(
            **_fields_of(plans[choice], plans, self.num_sources),
            size=frame.size,
            choice=np.full(num_samples, choice, np.int32),
            plans=plans,
        )

    def look(self, sample: Sample, frame: Frame) -> tuple[Any, ...]:
        """Look as each of the mixes that looks; see `LookingMix`."""
        mixes: Sequence[Any] = self.mixes
        return tuple(mix.look(sample, frame) if looks(mix) else () for mix in mixes)

    def complete(self, plan: MixPlan, seen: tuple[Any, ...], frame: Frame) -> ChosenPlan:
        """Complete the chosen mix's plan; see `LookingMix`. Other mixes' plans cut nothing."""
        assert isinstance(plan, ChosenPlan)
        choice, mixes = int(plan.choice[0]), cast(Sequence[Any], self.mixes)
        plans = [finished(part) for part in plan.plans]
        if not plan.plans[choice].is_complete:
            plans[choice] = mixes[choice].complete(plan.plans[choice], seen[choice], frame)
            check_completed(mixes[choice], plans[choice], len(plan.choice), frame)
        fields = _fields_of(plans[choice], plans, self.num_sources)
        return replace(plan, **fields, plans=tuple(plans))

    def operate(self, sample: Sample, plan: MixPlan, frame: Frame) -> Sample:
        """Apply the plan, which is of this mix, to pixels; see `Mix`."""
        if not isinstance(plan, ChosenPlan):
            refuse("RandomChoice", "plan", "be drawn by RandomChoice", type(plan).__name__)
        to_float = plan.blends and not frame.blends_last
        return self._operate_from(0, sample, plan.choice, plan.plans, to_float, frame)

    def _operate_from(
        self,
        first: int,
        sample: Sample,
        choice: DataNode,
        plans: Sequence[MixPlan],
        to_float: bool,
        frame: Frame,
    ) -> Sample:
        """Apply to each batch the mix that was chosen, and spare it the mixes before and behind.

        A batch goes through whole or not at all, so that indices of its samples stay right.
        """
        mix, plan = self.mixes[first], plans[0]
        if first == len(self.mixes) - 1:
            return _as_float(operated(mix, sample, plan, frame), to_float)
        is_chosen = choice == first
        part, others = _split(sample, is_chosen)
        inside, outside = frame.within(is_chosen), frame.within(choice != first)
        mixed = _as_float(operated(mix, part, _split(plan, is_chosen)[0], inside), to_float)
        choice, plans = split(choice, is_chosen)[1], _split(plans[1:], is_chosen)[1]
        rest = self._operate_from(first + 1, others, choice, plans, to_float, outside)
        structure = Structure(mixed)
        pairs = zip(structure.leaves(mixed), structure.leaves(rest), strict=True)
        merged: Sample = structure.build([merge(*pair, is_chosen) for pair in pairs])
        return merged


def check_mixes(where: str, mixes: Any) -> tuple[Mix, ...]:
    """Refuse all but a list of at least one mix, none of which leaves the pixels to torch."""
    if not isinstance(mixes, (tuple, list)) or not mixes:
        refuse(where, "mixes", "be a list of at least one mix", mixes)
    for mix in mixes:
        if not is_mix(mix):
            way_out = "Pass mixes of dali_cutmix, such as `CutMix()`."
            refuse(where, "mixes", "hold mixes", mix, way_out)
        parts = list(inner_mixes(mix))
        if any(isinstance(part, Deferred) for part in parts):
            way_out = f"Defer all of them: `Deferred({where}([...]))`."
            refuse(where, "mixes", "mix in the graph", mix, way_out)
        if any(in_torch(part) for part in parts):
            way_out = f"Pass it alone: `Deferred({type(mix).__name__}(...))`."
            refuse(where, "mixes", "mix in the graph", mix, way_out)
    return tuple(mixes)


def _fields_of(chosen: MixPlan, plans: Sequence[MixPlan], num_regions: int) -> dict[str, Any]:
    """Return a plan's fields, padded to the fields and regions that the other plans have."""
    missing = num_regions - chosen.source.shape[1]
    zeros = np.zeros(len(chosen.source), np.float32)
    put = None
    if any(plan.put is not None for plan in plans):
        if chosen.put is None:
            shape = (len(zeros), num_regions, 2)
            put = Rect(np.zeros(shape, np.int32), np.zeros(shape, np.int32))
        else:
            # A square that is erased has to be the last of two, as a cut is; see `MixPlan.anchor`.
            pad = [(0, 0), (missing, 0) if num_regions == 2 else (0, missing), (0, 0)]
            put = Rect(np.pad(chosen.put.anchor, pad), np.pad(chosen.put.extent, pad))
    has_lam = any(plan.lam is not None for plan in plans)
    return {
        "source": np.concatenate([chosen.source, chosen.source[:, :1].repeat(missing, 1)], axis=1),
        "weight": np.pad(chosen.weight, [(0, 0), (0, missing)]),
        "put": put,
        "lam": (zeros if chosen.lam is None else chosen.lam) if has_lam else None,
        "kept_by_choice": chosen.kept if chosen.source.shape[1] <= 2 else zeros + np.nan,
    }


def _split(tree: Any, is_chosen: DataNode) -> tuple[Any, Any]:
    """Split every node of a tree into the samples that are chosen, and the others."""
    chosen: list[DataNode] = []

    def part(node: DataNode) -> DataNode:
        true, false = split(node, is_chosen)
        chosen.append(true)
        return false

    others = map_leaves(part, tree)
    nodes = iter(chosen)
    return map_leaves(lambda _: next(nodes), tree), others


def _as_float(sample: Sample, to_float: bool) -> Sample:
    return replace(sample, image=fn.cast(sample.image, dtype=FLOAT)) if to_float else sample
