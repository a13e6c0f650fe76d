"""`AttentiveCutMix`: the cells of another image that a model attends to most.

Attention comes from the user's model, which sees the images of the batch: after crop and flip, on
the model's device. So the loader draws who is mixed with whom, and the training step completes the
plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from dali_cutmix.core.checks import check_count, check_prob, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.plan import MixPlan, Partner, Rect, keep_weights, partners_of

#: Name of what is pending in plans of `AttentiveCutMix`: whether a sample is mixed, int32.
_MARK = "attentivecutmix"


@dataclass(frozen=True)
class AttentiveCutMix:
    """Fill the cells of each image that a model attends to most in another image.

    ::

        mix = Deferred(AttentiveCutMix(cells=6))
        loader = DataLoader(..., mix=mix, target="pair", with_plan=True)
        for image, target, plan in loader:
            with torch.no_grad():
                attention = backbone(image).mean(dim=1)  # [B, 7, 7]
            mixed, weight = mix_batch(image, attentive_plan(plan, attention))
            loss = mixed_cross_entropy(model(mixed), MixedTarget(target.label, weight))

    The loader draws partners, by its seed, epoch and batch. `attentive_plan` takes the cells from
    the user's map of attention. A map made beforehand would not survive random crops.

    Args:
        cells: Cells that are cut out of each image, at least 1. The authors take 6 of 7 x 7.
        prob: Probability in [0, 1] that a sample is mixed at all.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Source:
        Walawalkar et al. 2020, Attentive CutMix, arXiv:2003.13048.
    """

    cells: int = 6
    prob: float = 1.0
    partner: Partner = "derangement"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    in_torch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("AttentiveCutMix", "cells", self.cells, at_least=1)
        check_prob("AttentiveCutMix", self.prob)
        keep_weights("AttentiveCutMix", self, "sample")

    @property
    def num_sources(self) -> int:
        """Regions of a plan: the sample, and the cells of its partner."""
        return 1 + self.cells

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw partners, on the host; see `Mix`. `attentive_plan` completes the plan."""
        chance = draws.chance("attentivecutmix/prob", self.prob)
        sample, partner = partners_of(self, draws, "attentivecutmix/partner")
        partner = np.where(chance > 0, partner, sample).astype(np.int32)
        shape = (len(sample), self.num_sources, 2)
        extent = np.zeros(shape, np.int32)
        extent[:, 0] = frame.size
        rect = Rect(np.zeros(shape, np.int32), extent)
        weight = np.zeros(shape[:2], np.float32)
        weight[:, 0] = 1
        return MixPlan(
            source=np.concatenate([sample, partner.repeat(self.cells, axis=1)], axis=1),
            weight=weight,
            size=frame.size,
            taken=rect,
            put=rect,
            pending={_MARK: (partner != sample)[:, 0].astype(np.int32)},
        )

    def operate(self, sample: Sample, _plan: MixPlan, _frame: Frame) -> Sample:
        """Return the sample as it is: the training step mixes; see `Mix`."""
        return sample


def attentive_plan(plan: MixPlan, attention: torch.Tensor) -> MixPlan:
    """Complete a plan of `AttentiveCutMix` by what a model attends to.

    The image is divided into as many cells as the map has elements. Each sample gets those cells of
    its partner that have the largest attention, at their places. Of equal cells the first in
    reading order count. Nothing waits for the GPU.

    Args:
        plan: From ``DataLoader(mix=Deferred(AttentiveCutMix()), with_plan=True)`` or `draw_plan`.
        attention: A map for each sample of the batch, before mixing: ``[B, rows, columns]`` float,
            any device, without NaN. Each side is at most that of the images.

    Returns:
        The complete plan, on the device of ``attention``, for `mix_batch`.

    Raises:
        ValueError: The plan is not of an `AttentiveCutMix`, or the map is of another batch, or has
            too few or too many cells.
    """
    where = "attentive_plan"
    pending = plan.pending if isinstance(plan, MixPlan) else None
    if not isinstance(plan, MixPlan) or not isinstance(pending, dict) or _MARK not in pending:
        got = type(plan).__name__
        if isinstance(plan, MixPlan):
            got = "a complete plan" if pending is None else "a plan of another mix"
        way_out = "Take that of `DataLoader(mix=Deferred(AttentiveCutMix()), with_plan=True)`."
        refuse(where, "plan", "be drawn by AttentiveCutMix", got, way_out)
    num_samples, num_cells = len(plan.source), plan.num_regions - 1
    if not isinstance(attention, torch.Tensor):
        refuse(where, "attention", "be a tensor", type(attention).__name__)
    if attention.ndim != 3 or len(attention) != num_samples:
        rule = f"be [{num_samples}, rows, columns], a map for each sample"
        refuse(where, "attention", rule, list(attention.shape))
    rows, columns = attention.shape[1:]
    if rows * columns < num_cells or rows > plan.size[0] or columns > plan.size[1]:
        rule = f"have at least {num_cells} cells, and no side above the image's {plan.size}"
        refuse(where, "attention", rule, [rows, columns])
    plan = plan.to(attention.device)
    partner = plan.source[:, 1:2].long()
    of_partner = attention.detach().flatten(1)[partner[:, 0]]
    cell = of_partner.argsort(dim=1, descending=True, stable=True)[:, :num_cells]
    edges = [
        (index * side // count, (index + 1) * side // count)
        for index, count, side in zip(
            (cell // columns, cell % columns), (rows, columns), plan.size, strict=True
        )
    ]
    low, high = (torch.stack(ends, dim=2) for ends in zip(*edges, strict=True))
    extent = (high - low) * plan.pending[_MARK][:, None, None]
    area, num_pixels = extent.prod(dim=2), plan.size[0] * plan.size[1]
    rect = Rect(
        torch.cat([plan.taken.anchor[:, :1], low.int()], dim=1),  # type: ignore[union-attr]
        torch.cat([plan.taken.extent[:, :1], extent.int()], dim=1),  # type: ignore[union-attr]
    )
    area = torch.cat([num_pixels - area.sum(dim=1, keepdim=True), area], dim=1)
    weight = area.float() / num_pixels
    return replace(plan, weight=weight, taken=rect, put=rect, pending=None)
