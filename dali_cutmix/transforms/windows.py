"""Rectangles cut out of images without resizing: padded, central, and the middle of long images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dali_cutmix.core.dali import FLOAT, INT32, DataNode, constant, fn, math, types
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.transforms.decode import Stored
from dali_cutmix.transforms.moves import Area, moved, size_of
from dali_cutmix.transforms.resample import MAX_ELONGATION

#: How a border continues an image, by torchvision's names.
PADDING_MODES = ("constant", "edge", "reflect", "symmetric")

#: Those of mirror images.
MIRRORS = ("reflect", "symmetric")

#: Widths left, top, right, bottom, in pixels.
Border = tuple[int, int, int, int]


def padded_window(
    sample: Sample,
    share: DataNode,
    size: tuple[int, int],
    border: Border,
    frame: Frame,
    fill: Sequence[int] = (0,),
    mode: str = "constant",
) -> Sample:
    """Pad each image, then cut a rectangle out at a drawn position.

    All positions are equally likely, but for one part in ``2**24 / positions``. Where image and
    border are smaller than the rectangle, the image lands at a random position inside the rectangle
    instead, and the rest continues the image.

    Args:
        sample: The samples.
        share: Position, uniform in [0, 1]: ``[2]`` float32 (y, x) per sample, CPU.
        size: ``(height, width)`` of the rectangle, in pixels.
        border: Widths ``(left, top, right, bottom)`` of the border in pixels, each at least 0.
        frame: Of these samples.
        fill: Level of the border, or levels R, G, B.
        mode: As of `window`.
    """
    left, top, right, bottom = border
    room = fn.cast(sample.image.shape()[:2], dtype=FLOAT) + frame.constant(
        np.array([top + bottom - size[0], left + right - size[1]], np.float32)
    )
    num_positions = math.abs(room) + 1.0
    # A share of exactly 1 would be one position too far.
    offset = math.min(math.floor(share * num_positions), math.abs(room)) + math.min(room, 0.0)
    start = fn.cast(offset - frame.constant(np.array([top, left], np.float32)), dtype=INT32)
    return cut(sample, start, size, frame, mode, fill)


def cut(
    sample: Sample,
    start: DataNode | Sequence[int],
    size: tuple[int, int] | DataNode,
    frame: Frame,
    mode: str = "constant",
    fill: Sequence[int] = (0,),
) -> Sample:
    """Cut a rectangle out of each sample; see `window`. Outside, masks have their ignored index."""

    def cut_out(pixels: DataNode, levels: Sequence[int]) -> DataNode:
        if mode in MIRRORS and frame.on_threads is not None:
            ends = [
                end if isinstance(end, DataNode) else frame.constant(np.array(end, np.int32))
                for end in (start, size)
            ]
            return frame.on_threads(partial(_continued, mode), [pixels, *ends])
        return window(pixels, start, size, mode, levels, frame.constant)

    return moved(
        sample,
        cut_out(sample.image, fill),
        lambda mask, number: cut_out(mask, frame.ignored[number]),
        lambda: (Area(start, size), Area((0, 0), size)),
    )


def window(
    image: DataNode,
    start: DataNode | Sequence[int],
    size: tuple[int, int] | DataNode,
    mode: str = "constant",
    fill: Sequence[int] = (0,),
    constant: Callable[[np.ndarray], DataNode] = constant,
) -> DataNode:
    """Cut a rectangle out of each image, which a border continues where the rectangle is larger.

    Args:
        image: ``[y, x, 3]`` uint8 per sample, CPU or GPU.
        start: Corner in pixels, below 0 outside the image: ``[2]`` int32 (y, x) per sample, CPU;
            or two numbers, with ``"constant"``.
        size: ``(height, width)`` of the rectangle, in pixels; or ``[2]`` int32 per sample, CPU.
        mode: A name of `PADDING_MODES`, with the limits of `padded`.
        fill: Level of the border, or levels R, G, B, with ``"constant"``.
        constant: Makes constant nodes; see `Frame.constant`.

    Returns:
        ``[*size, 3]`` uint8 per sample, on the device of ``image``.
    """
    sides = size if isinstance(size, DataNode) else list(size)
    if mode == "constant":
        return fn.slice(
            image,
            start=start,
            shape=sides,
            axes=[0, 1],
            out_of_bounds_policy="pad",
            fill_values=list(fill),
        )
    if mode == "edge":
        # A shift by whole pixels; without a fill the outermost pixels are repeated.
        unit = constant(np.eye(2, dtype=np.float32))
        shift = fn.cast(fn.stack(start[1], start[0]), dtype=FLOAT)
        return fn.warp_affine(
            image,
            matrix=fn.cat(unit, fn.reshape(shift, shape=[2, 1]), axis=1),
            size=fn.cast(sides, dtype=FLOAT) if isinstance(sides, DataNode) else sides,
            interp_type=types.DALIInterpType.INTERP_NN,
            inverse_map=True,
        )
    for axis in (1, 0):
        image = _window_of_mirrors(image, axis, start, size, skipped=int(mode == "reflect"))
    return image


def _continued(mode: str, image: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Cut a rectangle out of an image that its mirror images continue without end, as NumPy's pad.

    Args:
        mode: ``"reflect"`` or ``"symmetric"``.
        image: ``[y, x, channels]`` uint8.
        start: Corner in pixels, below 0 outside the image: ``[2]`` (y, x).
        size: Sides in pixels: ``[2]`` (y, x).
    """
    for axis in (0, 1):
        side, skipped = image.shape[axis], int(mode == "reflect")
        position = np.arange(start[axis], start[axis] + size[axis])
        position %= max(2 * (side - skipped), 1)
        image = image.take(np.minimum(position, 2 * side - 1 - skipped - position), axis)
    return image


def _window_of_mirrors(image: DataNode, axis: int, start: Any, size: Any, skipped: int) -> DataNode:
    """Cut a part of an axis out of an image between its mirror images."""
    mirror = fn.flip(image, horizontal=int(axis == 1), vertical=int(axis == 0))
    side = fn.cast(image.shape()[axis], dtype=INT32) - skipped
    length = fn.reshape(side, shape=[1])
    before = fn.slice(mirror, start=[0], shape=length, axes=[axis])
    behind = fn.slice(mirror, start=[skipped], shape=length, axes=[axis])
    first = fn.reshape(start[axis] + side, shape=[1])
    shape = fn.reshape(size[axis], shape=[1]) if isinstance(size, DataNode) else [size[axis]]
    wide = fn.cat(before, image, behind, axis=axis)
    return fn.slice(wide, start=first, shape=shape, axes=[axis])


def central_window(
    sample: Sample, sides: tuple[int, int], size: tuple[int, int], frame: Frame
) -> Sample:
    """Cut out the centre, rounded half to even as torchvision's ``CenterCrop`` rounds.

    Args:
        sample: Samples of one size.
        sides: ``(height, width)`` of every sample, in pixels.
        size: ``(height, width)`` of the centre, in pixels. What lies beyond the image is black.
        frame: Of the loader.
    """
    if sides == size:
        return sample
    margins = [side - wanted for side, wanted in zip(sides, size, strict=True)]
    start = [round(margin / 2) if margin > 0 else -(-margin // 2) for margin in margins]
    return cut(sample, start, size, frame)


def central_window_of_each(
    sample: Sample,
    size: tuple[int, int],
    frame: Frame,
    mode: str = "constant",
    fill: Sequence[int] = (0,),
) -> Sample:
    """Cut out the centre of samples of any sizes, as `central_window`; see `window`."""
    margin = size_of(sample.image) - frame.constant(np.array(size, np.float32))
    # Half to even: floor((margin + 1) / 2), minus 1 where margin is 1 above a multiple of 4. A
    # margin that is missing is halved downwards.
    is_rounded_up = (margin - 4.0 * math.floor(margin / 4.0) == 1.0) & (margin > 0.0)
    start = math.floor((margin + 1.0) / 2.0) - is_rounded_up
    return cut(sample, fn.cast(start, dtype=INT32), size, frame, mode, fill)


def padded(sample: Sample, border: Border, mode: str, fill: Sequence[int], frame: Frame) -> Sample:
    """Widen each sample by a border.

    Args:
        sample: The samples.
        border: Widths ``(left, top, right, bottom)`` of the border in pixels, each at least 0.
        mode: A name of `PADDING_MODES`. On a GPU ``"reflect"`` takes borders below, ``"symmetric"``
            up to the side of an image.
        fill: Level of the border, or levels R, G, B, with ``"constant"``.
        frame: Of these samples.
    """
    if not any(border):
        return sample
    left, top, right, bottom = border
    sides = fn.cast(sample.image.shape()[:2], dtype=INT32)
    size = sides + frame.constant(np.array([top + bottom, left + right], np.int32))
    start = frame.constant(np.array([-top, -left], np.int32))
    return cut(sample, start, size, frame, mode, fill)


def middle(stored: Stored) -> Sample:
    """Return whole samples, but only the middle of a very long one.

    A very long image, resized as a whole, may not fit into memory. The long side of the result is
    at most `MAX_ELONGATION` times the short side.
    """
    return stored.window(*_middle(stored.shape()))


def middle_of(sample: Sample) -> Sample:
    """Return the middle of very long samples, as `middle`."""
    return part_of(sample, *_middle(sample.image.shape()))


def part_of(sample: Sample, anchor: DataNode, extent: DataNode) -> Sample:
    """Cut out a rectangle that lies inside each sample.

    Args:
        sample: The samples.
        anchor: Top left corner in pixels: ``[2]`` int32 (y, x) per sample, CPU.
        extent: Sides in pixels: ``[2]`` int32 (y, x) per sample, CPU.
    """

    def cut_out(pixels: DataNode, _number: int = 0) -> DataNode:
        return fn.slice(pixels, start=anchor, shape=extent, axes=[0, 1])

    return moved(
        sample,
        cut_out(sample.image),
        cut_out,
        lambda: (Area(anchor, extent), Area((0, 0), extent)),
    )


def _middle(shape: DataNode) -> tuple[DataNode, DataNode]:
    sides = shape[:2]
    extent = math.min(sides, MAX_ELONGATION * fn.reductions.min(sides))
    return fn.cast((sides - extent) // 2, dtype=INT32), fn.cast(extent, dtype=INT32)
