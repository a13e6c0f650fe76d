"""Clips as film strips, and volumes as three slices."""

from __future__ import annotations

from collections.abc import Callable

import torch

#: Frames of a strip.
MAX_FRAMES = 6

#: Pixels between frames and slices.
_GAP = 4

Overlay = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def flattened(image: torch.Tensor, mask: torch.Tensor | None, overlay: Overlay) -> torch.Tensor:
    """Return a picture of an image, a clip or a volume.

    Args:
        image: ``[3, height, width]`` or, of a clip, ``[3, T, height, width]`` uint8 RGB; of a
            volume, ``[1, D, height, width]`` of any number type. CPU.
        mask: Class of each pixel or voxel, without the axis of channels; or None.
        overlay: Tints an image by a mask.

    Returns:
        ``[3, y, x]`` uint8 RGB. Of a clip frames from left to right, of a volume the middle slices
        across each axis, on white.
    """
    if image.ndim == 3:
        return image if mask is None else overlay(image, mask)
    if image.shape[0] == 3:
        count = min(MAX_FRAMES, image.shape[1])
        numbers = torch.linspace(0, image.shape[1] - 1, count).round().long().tolist()
        frames = [image[:, number] for number in numbers]
        masks = [None if mask is None else mask[number] for number in numbers]
    else:
        gray = _levels(image[0]).expand(3, *image.shape[1:])
        axes = [(axis, side // 2) for axis, side in enumerate(image.shape[1:])]
        frames = [gray.select(1 + axis, middle) for axis, middle in axes]
        masks = [None if mask is None else mask.select(axis, middle) for axis, middle in axes]
    pictures = [
        frame if frame_mask is None else overlay(frame, frame_mask)
        for frame, frame_mask in zip(frames, masks, strict=True)
    ]
    return _side_by_side(pictures)


def _levels(volume: torch.Tensor) -> torch.Tensor:
    """Return gray levels between the smallest and the largest value: uint8."""
    if volume.dtype == torch.uint8:
        return volume
    values = volume.float()
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)


def _side_by_side(pictures: list[torch.Tensor]) -> torch.Tensor:
    height = max(picture.shape[1] for picture in pictures)
    width = sum(picture.shape[2] + _GAP for picture in pictures) - _GAP
    strip = torch.full((3, height, width), 255, dtype=torch.uint8)
    left = 0
    for picture in pictures:
        strip[:, : picture.shape[1], left : left + picture.shape[2]] = picture
        left += picture.shape[2] + _GAP
    return strip
