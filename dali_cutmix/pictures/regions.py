"""Find what a plan's regions fill of a picture: rectangles and areas, in slices of stacks too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dali_cutmix.mixing.cells import owner_of_pixels
from dali_cutmix.mixing.chain import ChainPlan
from dali_cutmix.mixing.choice import ChosenPlan
from dali_cutmix.mixing.clipcutmix import ClipPlan
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.pictures.stacks import Slice, Strip
from dali_cutmix.pictures.tiles import OTHER, REGIONS, Box, Colour


@dataclass(frozen=True)
class Outlined:
    """Hold what is outlined of one sample.

    Attributes:
        boxes: Rectangles and their colours, in pixels of the picture.
        areas: Masks of the picture's size, and their colours.
    """

    boxes: list[tuple[Box, Colour]] = field(default_factory=list)
    areas: list[tuple[Image.Image, Colour]] = field(default_factory=list)


@dataclass(frozen=True)
class _Region:
    """Say what a region fills of a sample.

    Attributes:
        number: Number of the region among those of the sample.
        corners: First pixel and pixel behind the last of a rectangle: ``[T, 4]`` (y0, x0, y1, x1),
            or ``[1, 4]`` where all frames have the same. None of a region by cells.
        mask: Whether each pixel is the region's: ``[height, width]`` bool. None of a rectangle.
    """

    number: int
    corners: np.ndarray | None = None
    mask: np.ndarray | None = None


def outlined(
    plan: MixPlan | None,
    colours: Sequence[Sequence[Colour]],
    shape: Sequence[int],
    strip: Strip | None,
) -> list[Outlined]:
    """Return what is outlined of each sample.

    Args:
        plan: Plan of the batch; None outlines nothing.
        colours: Colour of each region of each sample; see `colour_of_region`.
        shape: ``(height, width)`` of an image, or ``(T, height, width)`` of a clip or volume.
        strip: Which slices of a clip or volume lie where; None for images.
    """
    samples = [Outlined() for _ in colours]
    for part, num_sources in _simple_plans(plan):
        # Erased pixels show no class, whoever owns them.
        is_erased = part.put is not None and part.source.shape[1] == 1
        for sample, own, regions in zip(samples, colours, _regions(part), strict=True):
            for region in regions:
                slot = region.number * num_sources
                colour = OTHER if is_erased else colour_of_region(own, slot)
                if strip is None:
                    _outline_image(sample, region, colour)
                else:
                    _outline_strip(sample, region, colour, shape, strip)
    return samples


def colour_of_region(colours: Sequence[Colour], region: int) -> Colour:
    """Return the colour of a region's class, or of the region where its class is not known."""
    return colours[region] if region < len(colours) else colour_of_rank(region)


def colour_of_rank(rank: int) -> Colour:
    """Return the colour of a class, or region, by its number among those of a sample."""
    return REGIONS[rank] if rank < len(REGIONS) else REGIONS[1 + (rank - 1) % (len(REGIONS) - 1)]


def _simple_plans(plan: MixPlan | None, num_sources: int = 1) -> Iterator[tuple[MixPlan, int]]:
    """Yield the plans of one mix each that a plan consists of.

    Beside each stands the number of regions of the batch that the plan is applied to. In a chain,
    each mix takes regions from the result of the mixes before.
    """
    if isinstance(plan, ChosenPlan):
        yield from _simple_plans(plan.plans[int(plan.choice[0])], num_sources)
    elif isinstance(plan, ChainPlan):
        for part in plan.plans:
            yield from _simple_plans(part, num_sources)
            num_sources *= part.source.shape[1]
    elif plan is not None:
        yield plan, num_sources


def _regions(plan: MixPlan) -> Iterator[list[_Region]]:
    """Yield the regions with pixels of each sample, without the backdrop of all others."""
    if isinstance(plan, ClipPlan):
        low, extent = plan.anchors.cpu().numpy(), plan.extents.cpu().numpy()
        for corners in np.concatenate([low, low + extent], axis=2):
            yield [_Region(1, corners)]
    elif plan.put is not None:
        yield from _rectangles(plan)
    elif plan.owner is not None:
        for owner in owner_of_pixels(plan).cpu().numpy():
            yield [_Region(number, mask=owner == number) for number in np.unique(owner) if number]
    else:
        yield from ([] for _ in plan.source)


def _rectangles(plan: MixPlan) -> Iterator[list[_Region]]:
    """Yield the rectangles with pixels of each sample, of a plan with ``put``.

    The sample's own region is left out where the region is the whole image behind all others.
    An erased rectangle counts as a region of another image.
    """
    assert plan.put is not None
    is_erased = plan.source.shape[1] == 1
    values = (plan.weight.tolist(), plan.put.anchor.tolist(), plan.put.extent.tolist())
    for sample in zip(*values, strict=True):
        regions = []
        for number, (weight, (y, x), (height, width)) in enumerate(zip(*sample, strict=True)):
            is_backdrop = number == 0 and (height, width) == plan.size and not is_erased
            if weight > 0 and height and width and not is_backdrop:
                regions.append(_Region(number, np.array([[y, x, y + height, x + width]])))
        yield regions


def _outline_image(sample: Outlined, region: _Region, colour: Colour) -> None:
    if region.corners is not None:
        top, left, bottom, right = region.corners[0].tolist()
        sample.boxes.append(((top, left, bottom, right), colour))
    elif region.mask is not None:
        sample.areas.append((Image.fromarray(region.mask.astype(np.uint8) * 255), colour))


def _outline_strip(
    sample: Outlined, region: _Region, colour: Colour, shape: Sequence[int], strip: Strip
) -> None:
    """Outline a region in every slice that the region crosses."""
    for part in strip.slices:
        mask = _crossing(region, shape, part)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        if mask[y0:y1, x0:x1].all():
            top, left, bottom, right = (int(side) * strip.factor for side in (y0, x0, y1, x1))
            box = top + part.top, left + part.left, bottom + part.top, right + part.left
            sample.boxes.append((box, colour))
            continue
        enlarged = mask.repeat(strip.factor, axis=0).repeat(strip.factor, axis=1)
        area = Image.new("L", strip.size[::-1])
        area.paste(Image.fromarray(enlarged.astype(np.uint8) * 255), (part.left, part.top))
        sample.areas.append((area, colour))


def _crossing(region: _Region, shape: Sequence[int], part: Slice) -> np.ndarray:
    """Return which pixels of a slice are a region's: bool, of the sides of the slice."""
    numbers = [np.arange(side) for side in shape]
    numbers[part.axis] = np.array([part.index])
    time, y, x = np.ix_(*numbers)
    if region.corners is not None:
        corners = region.corners if len(region.corners) > 1 else region.corners.repeat(shape[0], 0)
        y0, x0, y1, x1 = np.moveaxis(corners[time], -1, 0)
        inside = (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)
    else:
        assert region.mask is not None
        inside = region.mask[y, x] & (time >= 0)
    crossed: np.ndarray = inside.squeeze(part.axis)
    return crossed
