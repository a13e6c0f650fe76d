"""Bring images into shape: squares, trimmed borders and kept ratios, as steps of `Compose`.

Sizes of results are computed on the host, from sizes of images, as the sources compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf as INFINITY
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from dali_cutmix.core.checks import (
    check_choice,
    check_count,
    check_prob,
    check_range,
    check_size_or_side,
    refuse,
)
from dali_cutmix.core.dali import INT32, DataNode, fn, math, python_node, python_pair
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import DrawsNothing, Frame, Sample
from dali_cutmix.transforms.sizing import (
    Interpolation,
    Size,
    check_interpolation,
    draw_kernel,
    resized,
)
from dali_cutmix.transforms.warps import check_fill, colour_of
from dali_cutmix.transforms.windows import cut, middle_of, part_of

#: Where an image lies in a square.
Position = Literal["center", "equal", "start"]


@dataclass(frozen=True)
class TrimBorder(DrawsNothing):
    """Cut a border of equal width off each image. At least one pixel stays.

    Args:
        border: Width of the border in pixels, at least 0.

    Source:
        timm ``TrimBorder``.
    """

    border: int

    def __post_init__(self) -> None:
        check_count("TrimBorder", "border", self.border, at_least=0)
        object.__setattr__(self, "border", int(self.border))

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        if size is None:
            return None
        return max(size[0] - 2 * self.border, 1), max(size[1] - 2 * self.border, 1)

    def operate(self, sample: Sample, _plan: tuple[()], _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        sides = fn.cast(sample.image.shape()[:2], dtype=INT32)
        extent = math.max(sides - 2 * self.border, 1)
        start = math.min(self.border, sides - extent)
        return part_of(sample, start, extent)


@dataclass(frozen=True)
class KeptRatioPlan:
    """Hold what `ResizeKeepRatio` draws.

    Attributes:
        factor: Of height and width: ``[2]`` float64 per sample.
        is_bicubic: Whether to resize by ``"bicubic"``, with ``"random"``: scalar bool per sample.
    """

    factor: Any
    is_bicubic: Any = None


@dataclass(frozen=True)
class ResizeKeepRatio:
    """Resize each image to fit a size, or to cover the size, and keep the image's shape.

    Args:
        size: Side in pixels, or ``(height, width)``.
        longest: 0 covers the size, and 1 fits into the size. Numbers between mix both scales. Of
            an image more than eight times as long as wide a number below 1 takes the middle.
        interpolation: As of `Resize`.
        scale_prob: Probability in [0, 1] that a sample is resized further.
        scale: Smallest and largest factor by which both sides are divided, above 0. The square of
            the factor is uniform.
        aspect_prob: Probability in [0, 1] that a sample changes its shape.
        aspect: Smallest and largest change of width over height, above 0. The logarithm is
            uniform.

    Source:
        timm ``ResizeKeepRatio``, with ``random_scale_area=True``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    size: int | Size
    longest: float = 0.0
    interpolation: Interpolation = "bilinear"
    scale_prob: float = 0.0
    scale: tuple[float, float] = (0.85, 1.05)
    aspect_prob: float = 0.0
    aspect: tuple[float, float] = (0.9, 1.11)

    def __post_init__(self) -> None:
        where = "ResizeKeepRatio"
        check_size_or_side(where, self.size)
        for name in ("longest", "scale_prob", "aspect_prob"):
            check_prob(where, getattr(self, name), name)
        for name in ("scale", "aspect"):
            bounds = getattr(self, name)
            check_range(where, name, bounds, 0, INFINITY)
            if bounds[0] <= 0:
                refuse(where, name, "start above 0", bounds)
        check_interpolation(where, self.interpolation)

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        if size is None or self.scale_prob > 0 or self.aspect_prob > 0:
            return None
        height, width = self._extent(np.array(size), np.ones(2)).tolist()
        return height, width

    def draw(self, draws: Draws, _frame: Frame, /) -> KeptRatioPlan:
        """Draw factors; see `Augmentation`."""
        is_scaled = draws.chance("scale prob", self.scale_prob)[:, 0] > 0
        is_stretched = draws.chance("aspect prob", self.aspect_prob)[:, 0] > 0
        shares = draws.uniform("shares", [2]).astype(np.float64)
        low, high = self.scale
        scale = np.where(is_scaled, (low + shares[:, 0] * (high - low)) ** -0.5, 1.0)
        low, high = np.log(self.aspect)
        aspect = np.where(is_stretched, np.exp(low + shares[:, 1] * (high - low)) ** 0.5, 1.0)
        factor = np.stack([scale / aspect, scale * aspect], axis=1)
        return KeptRatioPlan(factor, draw_kernel(self.interpolation, draws))

    def operate(self, sample: Sample, plan: KeptRatioPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        sample = sample if self.longest == 1 else middle_of(sample)
        extent = python_node(self._extents, sample.image.shape()[:2], plan.factor)
        return resized(sample, extent, self.interpolation, plan.is_bicubic, frame)

    def _extents(self, sides: list[np.ndarray], factors: list[np.ndarray]) -> list[np.ndarray]:
        return [self._extent(*pair) for pair in zip(sides, factors, strict=True)]

    def _extent(self, sides: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return sides of the result: ``[2]`` int32, in the order of operations of timm."""
        ratios = sides / np.array(check_size_or_side("ResizeKeepRatio", self.size))
        ratio = ratios.max() * self.longest + ratios.min() * (1.0 - self.longest)
        return np.maximum(np.rint(sides * factor / ratio), 1).astype(np.int32)


@dataclass(frozen=True)
class SquarePad(DrawsNothing):
    """Widen the short sides of each image to a square.

    Args:
        fill: As of `Pad`.
        padding_mode: As of `Pad`.
        position: Where the image lies in the square:

            - ``"center"``: in the middle. An odd pixel is added behind.
            - ``"equal"``: as ``"center"``, without the odd pixel: one side stays one pixel short.
            - ``"start"``: in the top left corner.
    """

    fill: float | Sequence[float] = 0
    padding_mode: Literal["constant", "edge"] = "constant"
    position: Position = "center"

    def __post_init__(self) -> None:
        check_fill("SquarePad", self.fill)
        check_choice("SquarePad", "padding_mode", self.padding_mode, ("constant", "edge"))
        check_choice("SquarePad", "position", self.position, get_args(Position))

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        return None if size is None else _size_of(self.window(np.array(size))[1])

    def operate(self, sample: Sample, _plan: tuple[()], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        start, extent = _windows(self.window, sample.image)
        fill, mode = colour_of(self.fill), self.padding_mode
        return cut(sample, start, extent, frame, mode, fill)

    def window(self, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the square's corner and sides by an image's sides: ``[2]`` (y, x) each."""
        missing = sides.max() - sides
        before = missing * 0 if self.position == "start" else missing // 2
        return -before, sides + (2 * before if self.position == "equal" else missing)


@dataclass(frozen=True)
class SquareCrop(DrawsNothing):
    """Cut the largest square out of the middle of each image.

    Args:
        rounding: Which half an odd pixel is cut off: ``"down"`` behind, ``"even"`` so that the
            corner is even, as torchvision's ``center_crop``.
    """

    rounding: Literal["down", "even"] = "down"

    def __post_init__(self) -> None:
        check_choice("SquareCrop", "rounding", self.rounding, ("down", "even"))

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        return None if size is None else (min(size), min(size))

    def operate(self, sample: Sample, _plan: tuple[()], _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        start, extent = _windows(self.window, sample.image)
        return part_of(sample, start, extent)

    def window(self, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the square's corner and sides by an image's sides: ``[2]`` (y, x) each."""
        margin = sides - sides.min()
        start = margin // 2 if self.rounding == "down" else np.rint(margin / 2)
        return start, sides - margin


def _windows(function: Any, image: DataNode) -> tuple[DataNode, DataNode]:
    """Return corner and sides of a window by each image's sides: ``[2]`` int32 per sample each."""

    def of_list(sides: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        pairs = (np.stack(function(each)).astype(np.int32) for each in sides)
        starts, extents = zip(*pairs, strict=True)
        return list(starts), list(extents)

    return python_pair(of_list, image.shape()[:2])


def _size_of(extent: np.ndarray) -> Size:
    height, width = extent.tolist()
    return int(height), int(width)
