"""What every mix can do, and one of several for each batch: which, and its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.dali import FLOAT, INT32, DataNode, fn, math, merge, split
from dali_cutmix.core.draws import Draws, under
from dali_cutmix.core.math import alike, cast, scalar
from dali_cutmix.mixing.partner import share
from dali_cutmix.mixing.plan import MixPlan

_FIELDS = ("own", "partner", "lam", "kept", "anchor", "extent")

#: What a mix has; see `Mix`.
MIX_NAMES = ("mixes_labels", "makes_float", "plan", "operands", "operate")


class Mix(Protocol):
    """What a loader asks of a mix."""

    @property
    def mixes_labels(self) -> bool:
        """Whether labels change: targets are weights of classes, and a batch needs two samples."""

    @property
    def makes_float(self) -> bool:
        """Whether `operate` and `apply` give float32 instead of what they are given."""

    def plan(self, size: tuple[int, int], *, seed: int | Draws | None = None) -> MixPlan:
        """Draw the plan for images of ``size`` ``(height, width)`` in pixels; see `cutmix_plan`."""

    def apply(self, image: DataNode, plan: MixPlan) -> DataNode:
        """Apply the plan to ``image``, ``[height, width, 3]`` uint8 per sample, CPU or GPU."""

    def operands(self, plan: MixPlan) -> dict[str, Any]:
        """What `operate` takes of a plan, by name; nodes or arrays, as the plan is."""

    def operate(self, image: DataNode, operands: Mapping[str, DataNode]) -> DataNode:
        """As `apply`, where the loader's host made the operands and images have the right size."""


@dataclass(frozen=True)
class ChosenPlan(MixPlan):
    """The plan of the mix that was chosen for the batch, and those of the others.

    Where one of the mixes cuts and the chosen one blends, ``anchor`` and ``extent`` are 0 and
    ``kept`` is below 1.

    Attributes:
        choice: Which was chosen, equal for all samples of a batch. Scalar int32.
        plans: What was drawn for each.
    """

    choice: Any
    plans: tuple[MixPlan, ...]


def choose_plan(
    mixes: Sequence[Mix], weights: Sequence[float], size: tuple[int, int], draws: Draws
) -> ChosenPlan:
    """Draw a plan of each, and take that of one.

    Args:
        mixes: Of which one is taken.
        weights: Probability of each, summing to 1.
        size: ``(height, width)`` of every image, in pixels.
        draws: Where the numbers come from; each mix gets a part with names of its own.

    Returns:
        A plan of nodes or arrays, as the draws are.
    """
    plans = tuple(
        mix.plan(size, seed=draws.under(f"choice/{place}/")) for place, mix in enumerate(mixes)
    )
    drawn = draws.uniform("choice", [1])
    drawn = share(drawn, "batch", plans[0].own * 0)
    choice = scalar(cast(drawn < 0, INT32))
    for bound in np.cumsum(weights)[:-1]:
        choice = choice + scalar(cast(drawn >= float(bound), INT32))
    fields = {name: _taken([getattr(plan, name) for plan in plans], choice) for name in _FIELDS}
    return ChosenPlan(**fields, size=plans[0].size, choice=choice, plans=plans)


def _taken(values: Sequence[Any], choice: Any) -> Any:
    """Each sample's value of the plan that was chosen; 0 where that has none, None if none has."""
    found = None
    for place, value in enumerate(values):
        if value is None:
            continue
        is_chosen = choice == place
        if isinstance(value, np.ndarray):
            is_chosen = is_chosen.reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype)
        own = value * is_chosen  # of finite numbers: to the bit, or 0
        found = own if found is None else found + own
    return found


def operate_chosen(
    mixes: Sequence[Mix],
    image: DataNode,
    operands: Mapping[str, DataNode],
    *,
    to_float: bool,
    first: int = 0,
) -> DataNode:
    """Apply to each batch what was chosen for it, and spare it the others.

    A batch goes through whole or not at all, so that indices of its samples stay right.

    Args:
        mixes: Of which one was taken.
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
        operands: ``choice``, and those of each mix, whose names start with its place: ``0/...``.
        to_float: Make results float32 that are not, so that all have one type.
        first: Place of the first one that is left.
    """
    own = under(f"{first}/", operands)
    if first == len(mixes) - 1:
        made = mixes[first].operate(image, own)
        return fn.cast(made, dtype=FLOAT) if to_float else made
    is_chosen = operands["choice"] == first
    part, others = split(image, is_chosen)
    made = mixes[first].operate(
        part, {name: split(node, is_chosen)[0] for name, node in own.items()}
    )
    left = {name: split(node, is_chosen)[1] for name, node in operands.items()}
    rest = operate_chosen(mixes, others, left, to_float=to_float, first=first + 1)
    return merge(fn.cast(made, dtype=FLOAT) if to_float else made, rest, is_chosen)


def of_size(image: DataNode, size: tuple[int, int]) -> DataNode:
    """The image, which has to be of this ``(height, width)``: DALI fails the batch otherwise."""
    # Above the size it would start before the image, below it would end behind it.
    excess = alike(np.array(size, np.int32), image) - image.shape(dtype=INT32)[:2]
    return fn.slice(image, start=math.min(excess, 0), shape=list(size), axes=[0, 1])
