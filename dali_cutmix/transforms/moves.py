"""Move masks and the matrix of a sample as a step has moved the sample's image.

Masks are resized by the nearest pixel, as torch's ``mode="nearest-exact"``: the pixel whose centre
is nearest to the centre of the new one. No class index is ever a mean of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dali_cutmix.core.dali import (
    FLOAT,
    DataNode,
    constant,
    fn,
    python_pair,
    resize,
    types,
)
from dali_cutmix.core.frame import Frame, MaskChange, Sample
from dali_cutmix.transforms.resample import Kernel, Resampler

_NEAREST = types.DALIInterpType.INTERP_NN

#: Share of the coordinates. Maps are float32: what an image shows shall lose nothing to rounding.
_SLACK = 2**-20


def moved(
    sample: Sample,
    image: DataNode,
    move_mask: MaskChange,
    areas: Callable[[], tuple[Area, Area]],
) -> Sample:
    """Return a sample whose other fields follow the image of a step.

    Args:
        sample: The sample in front of the step.
        image: The image behind the step.
        move_mask: Moves a mask. The second argument is the mask's number.
        areas: Return a rectangle of the image in front, and where the image behind shows it.
    """
    masks = tuple(move_mask(mask, number) for number, mask in enumerate(sample.masks))
    matrix, part = sample.matrix, sample.part
    if matrix is not None and part is not None:
        matrix, part = mapped(matrix, part, *areas(), size_of(image))
    return replace(sample, image=image, masks=masks, matrix=matrix, part=part)


def followed(sample: Sample, image: DataNode) -> Sample:
    """Return a sample whose masks and matrix follow an image that was resized."""

    def resize_mask(mask: DataNode, _number: int) -> DataNode:
        return resized_mask(mask, image.shape()[:2])

    return moved(
        sample,
        image,
        resize_mask,
        lambda: (Area((0, 0), size_of(sample.image)), Area((0, 0), size_of(image))),
    )


def resized_sample(
    sample: Sample,
    size: tuple[int, int],
    resampler: Resampler,
    kernel: Kernel | DataNode,
    mirrored: DataNode | None = None,
) -> Sample:
    """Resize samples to one size; see `Resampler.resize`."""
    return moved(
        sample,
        resampler.resize(sample.image, size, mirrored, kernel),
        lambda mask, _: resized_mask(mask, size, mirrored),
        lambda: (Area((0, 0), size_of(sample.image)), Area((0, 0), size, mirrored)),
    )


def resized_centre(
    sample: Sample,
    short_side: int,
    size: tuple[int, int],
    resampler: Resampler,
    kernel: Kernel | DataNode,
) -> Sample:
    """Resize the short side of samples and cut out the centre; see `Resampler.resize_centre`."""
    image = resampler.resize_centre(sample.image, short_side, size, kernel)
    if not sample.masks and sample.matrix is None:
        return replace(sample, image=image)
    sides, start = python_pair(partial(_centres, short_side, size), sample.image.shape())

    def cut_out(mask: DataNode, _number: int) -> DataNode:
        return fn.slice(resized_mask(mask, sides), start=start, shape=list(size), axes=[0, 1])

    return moved(
        sample,
        image,
        cut_out,
        lambda: (Area((0, 0), size_of(sample.image)), Area(-start, sides)),
    )


def _centres(
    short_side: int, size: tuple[int, int], shapes: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return sides of resized images, and the corners of their centres: ``[2]`` int32 (y, x)."""
    sides = [
        np.array([short_side * side // min(shape[:2]) for side in shape[:2].tolist()])
        for shape in shapes
    ]
    # Half to even, as torchvision rounds; NumPy's rint does.
    starts = [np.rint((after - np.array(size)) / 2) for after in sides]
    return [v.astype(np.int32) for v in sides], [v.astype(np.int32) for v in starts]


def flipped(
    sample: Sample,
    horizontal: DataNode | int = 0,
    vertical: DataNode | int = 0,
) -> Sample:
    """Mirror samples left to right, top to bottom, or both.

    Args:
        sample: Samples of layout HWC.
        horizontal: 1 to mirror left to right, else 0: scalar int32 per sample, CPU.
        vertical: 1 to mirror top to bottom, else 0: scalar int32 per sample, CPU.
    """

    def flip(pixels: DataNode, _number: int = 0) -> DataNode:
        return fn.flip(pixels, horizontal=horizontal, vertical=vertical)

    def areas() -> tuple[Area, Area]:
        size = size_of(sample.image)
        mirrored, turned = (
            node if isinstance(node, DataNode) else None for node in (horizontal, vertical)
        )
        return Area((0, 0), size), Area((0, 0), size, mirrored, turned)

    return moved(sample, flip(sample.image), flip, areas)


def follow_warp(
    sample: Sample,
    image: DataNode,
    inverse: DataNode,
    frame: Frame,
    size: DataNode | None = None,
) -> Sample:
    """Return a sample whose masks and matrix follow an affine map of the image.

    Args:
        sample: The sample in front of the step.
        image: The image behind the step.
        inverse: Map of points of the result to points in front, in pixels: ``[2, 3]`` float32
            (x, y) per sample, CPU.
        frame: Of these samples.
        size: ``(height, width)`` of the result in pixels: ``[2]`` float32 per sample, CPU. None:
            the image's in front.
    """
    masks = tuple(
        _warped_mask(mask, ignored, inverse, size)
        for mask, ignored in zip(sample.masks, frame.ignored, strict=True)
    )
    matrix, part = sample.matrix, sample.part
    if matrix is not None and part is not None:
        behind = python_pair(_behind, matrix, part, inverse, size_of(image))
        matrix, part = (fn.reshape(node, layout="**") for node in behind)
    return replace(sample, image=image, masks=masks, matrix=matrix, part=part)


def _warped_mask(
    mask: DataNode, ignored: Sequence[int], inverse: DataNode, size: DataNode | None
) -> DataNode:
    arguments: dict[str, Any] = {"matrix": inverse, "interp_type": _NEAREST, "inverse_map": True}
    if size is not None:
        arguments["size"] = size
    if len(set(ignored)) == 1:
        return fn.warp_affine(mask, fill_value=ignored[0], **arguments)
    # The operator fills all channels with one value.
    channels = [
        fn.warp_affine(
            fn.slice(mask, start=[number], shape=[1], axes=[2]), fill_value=value, **arguments
        )
        for number, value in enumerate(ignored)
    ]
    return fn.cat(*channels, axis=2)


def _behind(
    matrices: list[np.ndarray],
    parts: list[np.ndarray],
    inverses: list[np.ndarray],
    sizes: list[np.ndarray],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the maps that apply each matrix first, and then undo each inverse; see `mapped`."""
    squares = np.zeros((2, len(matrices), 3, 3))
    squares[:, :, 2, 2] = 1
    squares[0, :, :2], squares[1, :, :2] = matrices, inverses
    return _with_parts(np.linalg.solve(squares[1], squares[0])[:, :2], parts, np.stack(sizes))


def _with_parts(
    maps: np.ndarray, parts: list[np.ndarray], sizes: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return maps with what images behind them can show: see `Sample`.

    Args:
        maps: ``[B, 2, 3]`` float64.
        parts: What images in front could show, ``[2, 2]`` float32 each.
        sizes: ``(height, width)`` of the images behind: ``[B, 2]`` or ``[1, 2]``.
    """
    linear, shift = maps[:, :, :2], maps[:, :, 2:]
    # The image's corners in the stored image, and the rectangle around them.
    ends = sizes[:, None, ::-1] * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])  # [B, 4, 2] (x, y)
    stored = np.linalg.solve(linear, ends.transpose(0, 2, 1) - shift)
    seen = np.stack([stored.min(axis=2), stored.max(axis=2)], axis=1)
    slack = _SLACK * np.abs(seen).max(axis=(1, 2), keepdims=True)
    is_whole = np.abs(seen - seen.round()) <= slack  # as the corners of most crops are
    seen = np.where(is_whole, seen.round(), seen + slack * np.array([[-1], [1]]))
    before = np.stack(parts)
    low, high = np.maximum(before[:, 0], seen[:, 0]), np.minimum(before[:, 1], seen[:, 1])
    behind = np.stack([low, np.maximum(low, high)], axis=1)
    return list(maps.astype(np.float32)), list(behind.astype(np.float32))


class Area(NamedTuple):
    """Describe a rectangle by two opposite corners.

    Attributes:
        first: Corner (y, x) in pixels: ``[2]`` of any number type per sample, CPU; or two numbers.
        extent: Sides (y, x) in pixels, as ``first``.
        mirrored: 1 to name the corners from right to left, else 0: scalar int32 per sample, CPU.
        flipped: As ``mirrored``, from bottom to top.
    """

    first: DataNode | Sequence[float]
    extent: DataNode | Sequence[float]
    mirrored: DataNode | None = None
    flipped: DataNode | None = None


def mapped(
    matrix: DataNode,
    part: DataNode,
    source: Area,
    target: Area,
    size: DataNode | Sequence[int],
) -> tuple[DataNode, DataNode]:
    """Return the map that applies ``matrix`` first, and then takes ``source`` to ``target``.

    Args:
        matrix: ``[2, 3]`` float32 per sample, CPU.
        part: What images could show before, ``[2, 2]`` float32 per sample, CPU; see `Sample`.
        source: A rectangle.
        target: A rectangle.
        size: ``(height, width)`` of the images behind: ``[2]`` of any number type per sample, CPU;
            or two numbers.

    Returns:
        The map, and what images can show behind.
    """
    parts = (*source, *target, size)
    numbers = tuple(None if isinstance(part, DataNode) else part for part in parts)
    nodes = {n: part for n, part in enumerate(parts) if isinstance(part, DataNode)}
    # One call for a batch: some thirty operators on scalars would take as long as the flip.
    function = partial(_mapped, numbers, tuple(nodes))
    behind = python_pair(function, matrix, part, *nodes.values())
    of_map, of_part = (fn.reshape(node, layout="**") for node in behind)
    return of_map, of_part


def _mapped(
    numbers: Sequence[Any],
    positions: Sequence[int],
    matrices: list[np.ndarray],
    parts: list[np.ndarray],
    *nodes: list[np.ndarray],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return maps of a batch, and what images can show; see `mapped`.

    Args:
        numbers: First corner, sides, mirrored and flipped of both rectangles, and the size; None
            for each node.
        positions: Positions of ``nodes`` among the ``numbers``.
        matrices: A map for each sample.
        parts: What each image could show before.
        nodes: For each node an array for each sample.
    """
    values = list(numbers)
    for position, node in zip(positions, nodes, strict=True):
        values[position] = np.stack(node)
    (from_start, from_end), (to_start, to_end) = _ends(*values[:4]), _ends(*values[4:8])
    scale = (to_end - to_start) / (from_end - from_start)
    maps = np.stack(matrices).astype(np.float64) * scale[..., None]
    maps[..., 2] += to_start - from_start * scale
    return _with_parts(maps, parts, np.asarray(values[8]).reshape(-1, 2))


def _ends(first: Any, extent: Any, mirrored: Any, flipped: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return two opposite corners of rectangles, (x, y): ``[B, 2]`` or ``[1, 2]`` float64 each."""
    start, sides = (np.asarray(v, np.float64).reshape(-1, 2)[:, ::-1] for v in (first, extent))
    is_reversed = [np.reshape(0 if v is None else v, -1) for v in (mirrored, flipped)]
    jump = sides * np.stack(np.broadcast_arrays(*is_reversed), axis=1)
    return start + jump, start + sides - jump


def resized_mask(
    mask: DataNode,
    size: tuple[int, int] | DataNode,
    mirrored: DataNode | None = None,
    window: tuple[DataNode, DataNode] | None = None,
) -> DataNode:
    """Resize a mask by the nearest pixel.

    Args:
        mask: ``[y, x, bytes]`` uint8 per sample, CPU or GPU.
        size: ``(height, width)`` of the result, in pixels; or ``[2]`` int32 per sample, CPU.
        mirrored: 1 to mirror left to right, else 0: scalar int32 per sample, CPU.
        window: Top left corner and sides of the part that is resized, in pixels: ``[2]`` int32
            (y, x) per sample each, CPU. None is the whole mask. Less is copied than by a slice.
    """
    sides = fn.cast(size, dtype=FLOAT) if isinstance(size, DataNode) else list(size)
    if mirrored is None and window is None:
        return resize(mask, size=sides, interp_type=_NEAREST)
    start: Any = constant(np.zeros(2, np.float32))
    end: Any = constant(np.ones(2, np.float32))
    if mirrored is not None:
        start = mirrored * constant(np.array([0, 1], np.float32))
        end = end - start
    if window is not None:
        anchor, extent = window
        start, end = anchor + start * extent, anchor + end * extent
    return resize(
        mask,
        size=sides,
        interp_type=_NEAREST,
        roi_start=start,
        roi_end=end,
        roi_relative=window is None,
    )


def size_of(image: DataNode) -> DataNode:
    """Return the sides of each image: ``[2]`` float32 (y, x) per sample, CPU."""
    return fn.cast(image.shape()[:2], dtype=FLOAT)
