"""Give images another size: `Resize`, crops and `Pad`, as steps of `Compose`.

Positions are drawn on the host as shares; sizes of images are known in the graph only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf as INFINITY
from typing import Any, ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import (
    are_numbers,
    check_choice,
    check_range,
    check_size_or_side,
    is_whole,
    refuse,
)
from dali_cutmix.core.dali import FLOAT64, INT32, DataNode, fn, math, python_pair
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import DrawsNothing, Frame, Sample
from dali_cutmix.transforms.moves import followed
from dali_cutmix.transforms.resample import KERNELS, Kernel, Resampler
from dali_cutmix.transforms.warps import check_fill, colour_of
from dali_cutmix.transforms.windows import (
    PADDING_MODES,
    Border,
    central_window,
    central_window_of_each,
    middle_of,
    padded,
    padded_window,
    part_of,
)

Size = tuple[int, int]
Interpolation = Kernel | Literal["random"]
PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]

#: Crops that are drawn for each sample. The first that fits is taken.
NUM_CANDIDATES = 10

_RESIZES_BY_DALI = Resampler(None)


@dataclass(frozen=True)
class Resize:
    """Resize each image, by its short side or to a size.

    Args:
        size: Short side in pixels, which keeps the image's shape; or ``(height, width)``. Of an
            image more than eight times as long as wide a short side takes the middle.
        interpolation: As of `TrainTransform`.
        max_size: Most pixels of the long side, above ``size``, where ``size`` is a short side that
            would make the long side longer. None: no limit.

    Source:
        torchvision ``v2.Resize``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    size: int | Size
    interpolation: Interpolation = "bilinear"
    max_size: int | None = None

    def __post_init__(self) -> None:
        sides = check_size_or_side("Resize", self.size)
        object.__setattr__(self, "size", sides[0] if is_whole(self.size) else sides)
        if self.max_size is not None:
            if not is_whole(self.size):
                refuse("Resize", "max_size", "be left out with (height, width)", self.max_size)
            if not is_whole(self.max_size) or self.max_size <= self.size:
                refuse("Resize", "max_size", f"be above size={self.size}", self.max_size)
        check_interpolation("Resize", self.interpolation)

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        if not isinstance(self.size, int):
            return self.size
        if size is None:
            return None
        short = min(size)
        height, width = (int(self.size * side / short) for side in size)
        if self.max_size is not None and (long := max(height, width)) > self.max_size:
            return int(self.max_size * height / long), int(self.max_size * width / long)
        return height, width

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw whether each sample takes ``"bicubic"``, with ``"random"``; see `Augmentation`."""
        return draw_kernel(self.interpolation, draws)

    def operate(self, sample: Sample, plan: Any, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        size = self.size_behind(None if frame.varies else frame.size)
        if size is not None and size == frame.size:
            return sample
        if size is not None:
            extent = frame.constant(np.array(size, np.int32))
        else:
            sample = middle_of(sample)
            shape = sample.image.shape()[:2]
            sides = fn.cast(shape, dtype=FLOAT64)
            # Reduced as integers: DALI reduces no float64.
            short = fn.cast(fn.reductions.min(shape), dtype=FLOAT64)
            extent = fn.cast(math.floor(self.size * sides / short), dtype=INT32)
            if self.max_size is not None:
                extent = _at_most(extent, self.max_size)
        return resized(sample, extent, self.interpolation, plan, frame)


@dataclass(frozen=True)
class ResizedCropPlan:
    """Hold what `RandomResizedCrop` draws.

    Attributes:
        shape: Area and aspect ratio of each candidate, as shares of their ranges, in [0, 1]:
            ``[NUM_CANDIDATES, 2]`` float32 per sample.
        place: Position, as a share of all positions: ``[2]`` float32 (y, x) per sample.
        is_bicubic: Whether to resize by ``"bicubic"``, with ``"random"``: scalar bool per sample.
    """

    shape: Any
    place: Any
    is_bicubic: Any = None


@dataclass(frozen=True)
class RandomResizedCrop:
    """Crop each image at random and resize the crop.

    The first of ten drawn crops that fits is taken. Where none fits, the centre is, as large as the
    aspect ratios allow.

    Args:
        size: Side of the result in pixels, or ``(height, width)``.
        scale: Smallest and largest share of the image's area, above 0.
        ratio: Smallest and largest width over height, above 0. The logarithm is uniform.
        interpolation: As of `Resize`.

    Source:
        torchvision ``v2.RandomResizedCrop``; with ``interpolation="random"`` timm's
        ``RandomResizedCropAndInterpolation``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    size: int | Size
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        where = "RandomResizedCrop"
        check_size_or_side(where, self.size)
        for name in ("scale", "ratio"):
            bounds = getattr(self, name)
            check_range(where, name, bounds, 0, INFINITY)
            if bounds[0] <= 0:
                refuse(where, name, "start above 0", bounds)
        check_interpolation(where, self.interpolation)

    def size_behind(self, _size: Size | None) -> Size:
        """See `Augmentation`."""
        return check_size_or_side("RandomResizedCrop", self.size)

    def draw(self, draws: Draws, _frame: Frame, /) -> ResizedCropPlan:
        """See `Augmentation`."""
        return ResizedCropPlan(
            draws.uniform("shape", [NUM_CANDIDATES, 2]),
            draws.uniform("place", [2]),
            draw_kernel(self.interpolation, draws),
        )

    def window(self, shape: DataNode, plan: ResizedCropPlan) -> tuple[DataNode, DataNode]:
        """Return the crop of each image.

        Args:
            shape: Size of each image: ``[3]`` int64 (y, x, channels) per sample, CPU.
            plan: The plan of `draw`.

        Returns:
            Corner and sides in pixels: ``[2]`` int32 (y, x) per sample each, CPU.
        """

        def of_lists(*lists: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
            shape, candidates, place = map(np.stack, lists)
            anchor, extent = self._windows(shape[:, :2], candidates, place)
            return list(anchor), list(extent)

        return python_pair(of_lists, shape, plan.shape, plan.place)

    def operate(self, sample: Sample, plan: ResizedCropPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        anchor, extent = self.window(sample.image.shape(), plan)
        return self.resized(part_of(sample, anchor, extent), plan, frame)

    def resized(self, crop: Sample, plan: ResizedCropPlan, frame: Frame) -> Sample:
        """Resize what was cropped."""
        extent = frame.constant(np.array(self.size_behind(None), np.int32))
        return resized(crop, extent, self.interpolation, plan.is_bicubic, frame)

    def _windows(
        self, sides: np.ndarray, candidates: np.ndarray, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        sides = sides.astype(np.float64)
        shares = candidates.astype(np.float64)
        low, high = self.scale
        area = sides.prod(axis=1)[:, None] * (low + shares[..., 0] * (high - low))
        low, high = np.log(self.ratio)
        aspect = np.exp(low + shares[..., 1] * (high - low))
        extents = np.rint(np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=2))
        fits = ((extents > 0) & (extents <= sides[:, None])).all(axis=2)
        extent = np.take_along_axis(extents, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        anchor = np.minimum(np.floor(place * (sides - extent + 1)), sides - extent)
        # Where none fits: the centre, with the nearest of the aspect ratios.
        height, width = sides.T
        whole = np.stack(
            [
                np.minimum(height, np.maximum(1, np.rint(width / self.ratio[0]))),
                np.minimum(width, np.maximum(1, np.rint(height * self.ratio[1]))),
            ],
            axis=1,
        )
        any_fits = fits.any(axis=1)[:, None]
        anchor = np.where(any_fits, anchor, (sides - whole) // 2)
        extent = np.where(any_fits, extent, whole)
        return anchor.astype(np.int32), extent.astype(np.int32)


@dataclass(frozen=True)
class RandomCrop:
    """Cut a rectangle out of each image at a random position, without resizing.

    An image that is too small lands at a random position in the rectangle, and the rest is padded,
    as by torchvision's ``pad_if_needed=True``.

    Args:
        size: Side of the rectangle in pixels, or ``(height, width)``.
        padding: Border around the image before the crop, as of `Pad`; None: none.
        fill: As of `Pad`.
        padding_mode: As of `Pad`.

    Source:
        torchvision ``v2.RandomCrop``; without ``padding`` timm's ``RandomCropOrPad``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    size: int | Size
    padding: int | Sequence[int] | None = None
    fill: float | Sequence[float] = 0
    padding_mode: PaddingMode = "constant"

    def __post_init__(self) -> None:
        check_size_or_side("RandomCrop", self.size)
        _check_padding("RandomCrop", self.padding or 0, self.fill, self.padding_mode)

    def size_behind(self, _size: Size | None) -> Size:
        """See `Augmentation`."""
        return check_size_or_side("RandomCrop", self.size)

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw a position, as a share: ``[B, 2]`` float32 (y, x); see `Augmentation`."""
        return draws.uniform("place", [2])

    def operate(self, sample: Sample, plan: Any, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        border, fill = _border(self.padding or 0), colour_of(self.fill)
        size, mode = self.size_behind(None), self.padding_mode
        if mode != "constant" and any(border):
            sample, border = padded(sample, border, mode, fill, frame), (0, 0, 0, 0)
        return padded_window(sample, plan, size, border, frame, fill, mode)


@dataclass(frozen=True)
class CenterCrop(DrawsNothing):
    """Cut out the centre of each image, rounded half to even. What is missing is padded.

    Args:
        size: Side of the result in pixels, or ``(height, width)``.
        fill: As of `Pad`.
        padding_mode: As of `Pad`.

    Source:
        torchvision ``v2.CenterCrop``; timm's ``CenterCropOrPad``.
    """

    size: int | Size
    fill: float | Sequence[float] = 0
    padding_mode: PaddingMode = "constant"

    def __post_init__(self) -> None:
        check_size_or_side("CenterCrop", self.size)
        _check_padding("CenterCrop", 0, self.fill, self.padding_mode)

    def size_behind(self, _size: Size | None) -> Size:
        """See `Augmentation`."""
        return check_size_or_side("CenterCrop", self.size)

    def operate(self, sample: Sample, _plan: tuple[()], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        size, mode, fill = self.size_behind(None), self.padding_mode, colour_of(self.fill)
        if frame.varies or mode != "constant" or any(fill):
            return central_window_of_each(sample, size, frame, mode, fill)
        return central_window(sample, frame.size, size, frame)


@dataclass(frozen=True)
class Pad(DrawsNothing):
    """Widen each image by a border.

    Args:
        padding: Width of the border in pixels, at least 0; or ``(left and right, top and bottom)``;
            or ``(left, top, right, bottom)``.
        fill: Level of the border in [0, 255], or ``(R, G, B)``, with ``"constant"``.
        padding_mode: How the border continues the image:

            - ``"constant"`` by a colour.
            - ``"edge"`` by the outermost pixels.
            - ``"reflect"`` by the mirror image without the outermost pixels. On a GPU the border
              must be narrower than the image.
            - ``"symmetric"`` by the mirror image. On a GPU the border must not be wider than the
              image.

    Source:
        torchvision ``v2.Pad``.
    """

    padding: int | Sequence[int]
    fill: float | Sequence[float] = 0
    padding_mode: PaddingMode = "constant"

    def __post_init__(self) -> None:
        _check_padding("Pad", self.padding, self.fill, self.padding_mode)

    def size_behind(self, size: Size | None) -> Size | None:
        """See `Augmentation`."""
        left, top, right, bottom = _border(self.padding)
        return None if size is None else (size[0] + top + bottom, size[1] + left + right)

    def operate(self, sample: Sample, _plan: tuple[()], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        border = _border(self.padding)
        return padded(sample, border, self.padding_mode, colour_of(self.fill), frame)


def draw_kernel(interpolation: Interpolation, draws: Draws) -> Any:
    """Draw whether each sample takes ``"bicubic"``, with ``"random"``: ``[B]`` bool, or None."""
    if interpolation != "random":
        return None
    return draws.chance("interpolation", 0.5)[:, 0] > 0


def resized(
    sample: Sample, extent: DataNode, interpolation: Interpolation, plan: Any, frame: Frame
) -> Sample:
    """Resize each sample.

    Args:
        sample: The samples.
        extent: Sides of the result in pixels: ``[2]`` int32 (y, x) per sample, CPU.
        interpolation: Kernel.
        plan: What `draw_kernel` drew, as a node.
        frame: Of these samples.
    """
    resize = frame.resize or _RESIZES_BY_DALI.resize_each
    kernel = plan if interpolation == "random" else interpolation
    return followed(sample, resize(sample.image, extent, kernel))


def _at_most(extent: DataNode, longest: int) -> DataNode:
    """Scale the sides of each image down so that the long side has at most so many pixels."""
    long = fn.reductions.max(extent)
    is_long = long > longest
    capped = math.floor(fn.cast(longest * extent, dtype=FLOAT64) / fn.cast(long, dtype=FLOAT64))
    return fn.cast(capped, dtype=INT32) * is_long + extent * (is_long ^ True)


def _border(padding: int | Sequence[int]) -> Border:
    widths = padding if isinstance(padding, Sequence) else [padding]
    left, top, right, bottom = [int(width) for width in widths] * (4 // len(widths))
    return left, top, right, bottom


def check_interpolation(where: str, interpolation: object) -> None:
    """Refuse all but the name of a kernel, or ``"random"``."""
    check_choice(where, "interpolation", interpolation, (*KERNELS, "random"))


def _check_padding(where: str, padding: Any, fill: object, mode: object) -> None:
    widths = (padding,) if is_whole(padding) else padding
    if not any(are_numbers(widths, num) for num in (1, 2, 4)) or not all(
        is_whole(width) and width >= 0 for width in widths
    ):
        rule = "be whole pixels, (left and right, top and bottom) or (left, top, right, bottom)"
        refuse(where, "padding", rule, padding)
    check_fill(where, fill)
    check_choice(where, "padding_mode", mode, PADDING_MODES)
