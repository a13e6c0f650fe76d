"""Rectangles cut out of images without resizing: padded, central, and the middle of long images."""

from __future__ import annotations

import numpy as np

from dali_cutmix.core.dali import FLOAT, INT32, DataNode, constant, fn, math
from dali_cutmix.transforms.decode import Encoded, Pixels
from dali_cutmix.transforms.resample import MAX_ELONGATION


def padded_window(image: DataNode, share: DataNode, size: tuple[int, int], pad: int) -> DataNode:
    """Pad each image with black, then cut a rectangle out at a drawn position.

    All positions are equally likely, but for one part in ``2**24 / positions``. Where image and
    border are smaller than the rectangle, the image lands at a random position inside the rectangle
    instead, and the rest is black.

    Args:
        image: ``[y, x, 3]`` uint8 per sample, CPU or GPU.
        share: Position, uniform in [0, 1]: ``[2]`` float32 (y, x) per sample, CPU.
        size: ``(height, width)`` of the rectangle, in pixels.
        pad: Width of the border in pixels, at least 0.

    Returns:
        ``[height, width, 3]`` uint8 per sample, on the device of ``image``.
    """
    room = fn.cast(image.shape()[:2], dtype=FLOAT) + (
        2.0 * pad - constant(np.array(size, np.float32))
    )
    num_positions = math.abs(room) + 1.0
    # A share of exactly 1 would be one position too far.
    offset = math.min(math.floor(share * num_positions), math.abs(room)) + math.min(room, 0.0)
    return fn.slice(
        image,
        start=fn.cast(offset - float(pad), dtype=INT32),
        shape=list(size),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


def central_window(image: DataNode, sides: tuple[int, int], size: tuple[int, int]) -> DataNode:
    """Cut out the centre, rounded half to even as torchvision's ``CenterCrop`` rounds.

    Args:
        image: ``[*sides, 3]`` uint8 per sample, CPU or GPU.
        sides: ``(height, width)`` of every image, in pixels.
        size: ``(height, width)`` of the centre, in pixels, at most ``sides``.

    Returns:
        ``[height, width, 3]`` uint8 per sample, on the device of ``image``.
    """
    if sides == size:
        return image
    start = [round((side - wanted) / 2) for side, wanted in zip(sides, size, strict=True)]
    return fn.slice(image, start=start, shape=list(size), axes=[0, 1])


def middle(stored: Encoded | Pixels) -> DataNode:
    """Return whole images, but only the middle of a very long image.

    A very long image, resized as a whole, may not fit into memory.

    Returns:
        ``[y, x, 3]`` uint8 per sample, on the device of ``stored``. The long side is at most
        `MAX_ELONGATION` times the short side.
    """
    sides = stored.shape()[:2]
    extent = math.min(sides, MAX_ELONGATION * fn.reductions.min(sides))
    return stored.window(fn.cast((sides - extent) // 2, dtype=INT32), fn.cast(extent, dtype=INT32))
