"""Whose pixels a sample shows after several plans in a row, counted exactly.

Multiplying the weights of the plans errs by up to .18, since cuts overlap. Here every sample keeps
a list of rectangles, each with an owner and a signed weight: the share of an owner is the sum of
weight times area. Pasting into a rectangle takes away what the list has there (the same rectangles
clipped, with the opposite sign) and adds what the source's list has. The count is exact where areas
are whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dali_cutmix.mixing.plan import MixPlan, Rect, erases

#: Regions of a plan that may overlap: what is taken away doubles the list with every region. Of
#: plans with more regions those after the first do not overlap, so that each covers the first only.
MAX_OVERLAPPING = 8

#: Share of the image. A smaller weight is a rounding error and becomes 0. Cells and resizing make
#: areas that are not whole numbers.
_LEAST = 1e-12


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
    if erases(plan):
        return shares
    if plan.owner is not None:
        return _follow_cells(shares, plan)
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


def _follow_cells(shares: Shares, plan: MixPlan) -> Shares:
    """Count what every region's cells show of every owner.

    The result stands for the counts alone: one rectangle per owner, whose place means nothing. So
    no plan that pastes may follow, as `Chain` sees to.
    """
    cell = torch.tensor(plan.cell, dtype=torch.float64, device=plan.owner.device)
    sources, totals = [], []
    for region in range(plan.source.shape[1]):
        source = plan.source[:, region].long()
        # Pixels of the region above and to the left of each corner of a cell.
        is_shown = (plan.owner == region).double() * cell.prod()
        corners = torch.nn.functional.pad(is_shown.cumsum(1).cumsum(2), (1, 0, 1, 0))
        low, high, weight = (v[source] for v in (shares.low, shares.high, shares.weight))
        low, high = low / cell, torch.maximum(low, high) / cell
        low_x, high_x = (
            torch.stack([first[..., 0], second[..., 1]], dim=2)
            for first, second in ((high, low), (low, high))
        )
        area = _above(corners, high) - _above(corners, low_x)
        area = area - _above(corners, high_x) + _above(corners, low)
        slot = torch.tensor(shares.slot, device=area.device).expand(area.shape)
        total = area.new_zeros(shares.source.shape).scatter_add_(1, slot, area * weight)
        sources.append(shares.source[source])
        totals.append(total)
    owners, total = torch.cat(sources, dim=1), torch.cat(totals, dim=1)
    counted = unmixed(len(owners), plan.size, owners.device)
    shape = (-1, owners.shape[1], -1)
    low, high = counted.low.expand(*shape), counted.high.expand(*shape)
    num_pixels = plan.size[0] * plan.size[1]
    return Shares(owners, list(range(owners.shape[1])), low, high, total / num_pixels)


def _above(corners: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Count pixels above and to the left of places, between the corners of cells too.

    Args:
        corners: The count at each corner: ``[B, rows + 1, columns + 1]`` float64.
        point: ``[B, n, 2]`` float64 (y, x), in cells.

    Returns:
        ``[B, n]`` float64. Cells are of one region each, so that counts between corners are linear.
    """
    last = torch.tensor(corners.shape[1:], device=point.device) - 2
    first = torch.minimum(point.floor().long(), last)
    y, x = (point - first).unbind(dim=2)
    sample = torch.arange(len(corners), device=point.device)[:, None]
    row, column = first.unbind(dim=2)
    near = corners[sample, row, column] * (1 - x) + corners[sample, row, column + 1] * x
    far = corners[sample, row + 1, column] * (1 - x) + corners[sample, row + 1, column + 1] * x
    return near * (1 - y) + far * y


def weights(shares: Shares, size: tuple[int, int]) -> torch.Tensor:
    """Sum up what each owner slot has, as a share of the image: ``[B, k]`` float32."""
    area = (shares.high - shares.low).clamp(min=0).prod(dim=2) * shares.weight
    slot = torch.tensor(shares.slot, device=area.device).expand(area.shape)
    total = area.new_zeros(shares.source.shape).scatter_add_(1, slot, area)
    share = total / (size[0] * size[1])
    return share.where(share > _LEAST, 0.0).float()


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
