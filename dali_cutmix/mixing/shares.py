"""Whose pixels a sample shows after several plans in a row, counted exactly.

Multiplying the weights of the plans errs by up to .18, since cuts overlap. Here every sample keeps
a list of rectangles, each with an owner and a signed weight: the share of an owner is the sum of
weight times area. Pasting into a rectangle takes away what the list has there (the same rectangles
clipped, with the opposite sign) and adds what the source's list has. The count is exact, since
areas are whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dali_cutmix.mixing.plan import MixPlan, Rect

#: Regions of a plan that may overlap: what is taken away doubles the list with every region. Of
#: plans with more regions those after the first do not overlap, so that each covers the first only.
MAX_OVERLAPPING = 8


@dataclass(frozen=True)
class Shares:
    """Rectangles with owners, ``n`` per sample.

    Attributes:
        source: Sample that each owner slot stands for: ``[B, k]`` int64.
        slot: Owner slot of each rectangle, the same for all samples.
        low: Top left corners: ``[B, n, 2]`` float64 (y, x), in pixels.
        high: Bottom right corners, exclusive.
        weight: Signed weight of each rectangle: ``[B, n]`` float64.
    """

    source: torch.Tensor
    slot: list[int]
    low: torch.Tensor
    high: torch.Tensor
    weight: torch.Tensor


def unmixed(num_samples: int, size: tuple[int, int], device: torch.device) -> Shares:
    """Start with every sample owned by itself."""
    kind = {"dtype": torch.float64, "device": device}
    high = torch.tensor(size, **kind).expand(num_samples, 1, 2)  # type: ignore[arg-type]
    source = torch.arange(num_samples, device=device)[:, None]
    return Shares(source, [0], torch.zeros_like(high), high, torch.ones_like(high[..., 0]))


def follow(shares: Shares, plan: MixPlan) -> Shares:
    """Apply a plan of tensors to the owners of pixels, as it is applied to the pixels.

    Owner slots of the result are those of the first region's source, then of the second's, and so
    on. A plan that erases changes no owner.
    """
    if plan.fill is not None:
        return shares
    regions = range(plan.source.shape[1])
    num_slots = shares.source.shape[1]
    sources = [plan.source[:, region].long() for region in regions]
    owners = torch.cat([shares.source[source] for source in sources], dim=1)
    slots: list[int] = []
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for region, source in zip(regions, sources, strict=True):
        low, high, weight = (v[source] for v in (shares.low, shares.high, shares.weight))
        if plan.put is None:
            weight = weight * plan.weight[:, region, None].double()
        else:
            assert plan.taken is not None
            taken, put = _corners(plan.taken, region), _corners(plan.put, region)
            may_overlap = len(regions) <= MAX_OVERLAPPING or region == 0
            below = parts if may_overlap else parts[:1]
            covered = [(*_clip(low, high, put), -weight) for low, high, weight in below]
            slots = slots + (slots if may_overlap else shares.slot)
            parts = parts + covered
            low, high = _clip(low, high, taken)
            scale = (put[1] - put[0]) / (taken[1] - taken[0]).clamp(min=1)
            low, high = ((end - taken[0]) * scale + put[0] for end in (low, high))
        slots = slots + [region * num_slots + slot for slot in shares.slot]
        parts = [*parts, (low, high, weight)]
    low, high, weight = (torch.cat(values, dim=1) for values in zip(*parts, strict=True))
    return Shares(owners, slots, low, high, weight)


def weights(shares: Shares, size: tuple[int, int]) -> torch.Tensor:
    """Sum up what each owner slot has, as a share of the image: ``[B, k]`` float32."""
    area = (shares.high - shares.low).clamp(min=0).prod(dim=2) * shares.weight
    slot = torch.tensor(shares.slot, device=area.device).expand(area.shape)
    total = area.new_zeros(shares.source.shape).scatter_add_(1, slot, area)
    return (total / (size[0] * size[1])).float()


def _corners(rect: Rect, region: int) -> tuple[torch.Tensor, torch.Tensor]:
    low = rect.anchor[:, region, None].double()
    return low, low + rect.extent[:, region, None].double()


def _clip(
    low: torch.Tensor, high: torch.Tensor, window: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.maximum(low, window[0]), torch.minimum(high, window[1])


def overlap(rect: Rect) -> bool:
    """Tell whether regions after the first overlap in some sample, in a plan of arrays."""
    low, high = rect.anchor[:, 1:], rect.anchor[:, 1:] + rect.extent[:, 1:]
    sides = np.minimum(high[:, :, None], high[:, None]) - np.maximum(low[:, :, None], low[:, None])
    area = sides.clip(min=0).prod(axis=-1)
    return bool(np.triu(area, k=1).any())
