"""Clips as film strips, and volumes as three slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dali_cutmix.pictures.tiles import MOST_WIDTH, SHOWN_SIDE

#: Frames of a strip.
MAX_FRAMES = 6

#: Pixels of the sheet between frames and slices. Holds the outlines of both neighbours.
GAP = 10

Overlay = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Slice:
    """Say which slice of a stack of frames is shown, and where.

    Attributes:
        axis: Axis that the slice is across: 0 is a frame, 1 and 2 are across height and width.
        index: Number of the slice along the axis.
        top: First row in the strip, in its pixels.
        left: First column in the strip, in its pixels.
    """

    axis: int
    index: int
    top: int
    left: int


@dataclass(frozen=True)
class Strip:
    """Describe how the slices of a clip or volume lie beside each other.

    Attributes:
        slices: Slices from left to right, and in rows where one row would be too wide.
        size: ``(height, width)`` of the strip, in pixels.
        factor: Whole factor by which slices are enlarged without smoothing.
    """

    slices: list[Slice]
    size: tuple[int, int]
    factor: int


def strip_of(shape: tuple[int, ...]) -> Strip:
    """Lay out a clip or a volume.

    Args:
        shape: ``(3, T, height, width)`` of a clip, ``(1, D, height, width)`` of a volume.
    """
    sides = shape[1:]
    if shape[0] == 3:
        count = min(MAX_FRAMES, sides[0])
        chosen = [(0, round(n)) for n in torch.linspace(0, sides[0] - 1, count).tolist()]
    else:
        chosen = [(axis, side // 2) for axis, side in enumerate(sides)]
    sizes = [tuple(side for n, side in enumerate(sides) if n != axis) for axis, _ in chosen]
    factor = max(1, math.ceil(SHOWN_SIDE / max(map(max, sizes))))
    widest = factor * max(width for _, width in sizes) + GAP
    per_row = max(1, min(len(chosen), (MOST_WIDTH + GAP) // widest))
    per_row = math.ceil(len(chosen) / math.ceil(len(chosen) / per_row))
    slices, top, bottom, right = [], 0, 0, 0
    for number, ((axis, index), (height, width)) in enumerate(zip(chosen, sizes, strict=True)):
        if number % per_row == 0:
            top, left = (bottom + GAP, 0) if number else (0, 0)
        slices.append(Slice(axis, index, top, left))
        bottom, right = max(bottom, top + factor * height), max(right, left + factor * width)
        left += factor * width + GAP
    return Strip(slices, (bottom, right), factor)


def flattened(
    image: torch.Tensor, mask: torch.Tensor | None, overlay: Overlay, strip: Strip | None
) -> torch.Tensor:
    """Return a picture of an image, a clip or a volume.

    Args:
        image: ``[3, height, width]`` or, of a clip, ``[3, T, height, width]`` uint8 RGB; of a
            volume, ``[1, D, height, width]`` of any number type. CPU.
        mask: Class of each pixel or voxel, without the axis of channels; or None.
        overlay: Tints an image by a mask.
        strip: Which slices of a clip or volume lie where; None for an image.

    Returns:
        ``[3, y, x]`` uint8 RGB. Of a clip frames from left to right, of a volume the middle slices
        across each axis, on white.
    """
    if strip is None:
        return image if mask is None else overlay(image, mask)
    pixels = image if image.shape[0] == 3 else _levels(image[0]).expand(3, *image.shape[1:])
    picture = torch.full((3, *strip.size), 255, dtype=torch.uint8)
    for part in strip.slices:
        shown = pixels.select(1 + part.axis, part.index)
        if mask is not None:
            shown = overlay(shown, mask.select(part.axis, part.index))
        for axis in (1, 2):
            shown = shown.repeat_interleave(strip.factor, axis)
        bottom, right = part.top + shown.shape[1], part.left + shown.shape[2]
        picture[:, part.top : bottom, part.left : right] = shown
    return picture


def _levels(volume: torch.Tensor) -> torch.Tensor:
    """Return gray levels between the smallest and the largest value: uint8."""
    if volume.dtype == torch.uint8:
        return volume
    values = volume.float()
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
