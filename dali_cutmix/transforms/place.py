"""A rectangle of the output's size, cut out of an image without resizing it."""

from __future__ import annotations

import numpy as np

from dali_cutmix.core.dali import FLOAT, INT32, DataNode, constant, fn, math
from dali_cutmix.transforms.decode import Encoded, Pixels
from dali_cutmix.transforms.resample import LONGEST


def padded_crop(image: DataNode, share: DataNode, size: tuple[int, int], pad: int) -> DataNode:
    """Put black around each image, and cut a rectangle out at a place that was drawn.

    Args:
        image: ``[y, x, 3]`` uint8 per sample, CPU or GPU.
        share: Uniform in [0, 1]: ``[2]`` float32 (y, x) per sample, CPU. All places are equally
            likely, but for one part in 2**24 / places. Where the image and its border are smaller
            than the rectangle, the image is put at a random place of that instead.
        size: ``(height, width)`` of the rectangle, in pixels.
        pad: Width of the border in pixels.

    Returns:
        ``[height, width, 3]`` uint8 per sample, on the device of ``image``.
    """
    room = fn.cast(image.shape()[:2], dtype=FLOAT) + (
        2.0 * pad - constant(np.array(size, np.float32))
    )
    num_places = math.abs(room) + 1.0
    offset = math.min(math.floor(share * num_places), math.abs(room)) + math.min(room, 0.0)
    return fn.slice(
        image,
        start=fn.cast(offset - float(pad), dtype=INT32),
        shape=list(size),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


def centre(image: DataNode, whole: tuple[int, int], size: tuple[int, int]) -> DataNode:
    """Cut out the centre, rounded half to even as torchvision's ``CenterCrop`` does.

    Args:
        image: ``[*whole, 3]`` uint8 per sample, CPU or GPU.
        whole: ``(height, width)`` of the image, in pixels.
        size: ``(height, width)`` of the centre, none above ``whole``.

    Returns:
        ``[height, width, 3]`` uint8 per sample, on the device of ``image``.
    """
    if tuple(whole) == size:
        return image
    first = [round((side - wanted) / 2) for side, wanted in zip(whole, size, strict=True)]
    return fn.slice(image, start=first, shape=list(size), axes=[0, 1])


def middle(stored: Encoded | Pixels) -> DataNode:
    """The whole image; of a very long one the middle, since its resized whole may fill the memory.

    Returns:
        ``[y, x, 3]`` uint8 per sample, on the device; not above eight times as long as wide.
    """
    sides = stored.shape()[:2]
    extent = math.min(sides, LONGEST * fn.reductions.min(sides))
    return stored.window(fn.cast((sides - extent) // 2, dtype=INT32), fn.cast(extent, dtype=INT32))
