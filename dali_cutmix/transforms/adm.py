"""Crop images as scripts of diffusion models do: halve, resize bicubically, then crop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from dali_cutmix.core.checks import check_count, check_range, refuse
from dali_cutmix.core.dali import FLOAT, DataNode, fn, merge, python_pair, resize, split, types
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.transforms.sizing import Size, resized
from dali_cutmix.transforms.windows import middle_of

#: Halvings on a GPU, of which each is an operator. The bicubic kernel does the rest.
MAX_HALVINGS = 6


@dataclass(frozen=True)
class ADMCropPlan:
    """Hold what `ADMCrop` draws.

    Attributes:
        short: Short side of the resized image, in pixels: scalar int32 per sample.
        place: Position, as a share of all positions: ``[2]`` float32 (y, x) per sample. None: the
            centre.
    """

    short: Any
    place: Any = None


@dataclass(frozen=True)
class ADMCrop:
    """Halve each image while large enough, resize the short side bicubically, and crop a square.

    On the CPU pixels are Pillow's. On a GPU bicubic pixels differ as those of `Resize`, and so do
    halves of an odd number of pixels. Of an image more than eight times as long as wide the middle
    is taken.

    Args:
        size: Side of the square in pixels.
        scale: Smallest and largest share of the short side that is cropped, at a random position;
            in (0, 1]. None crops the centre, with all of the short side.

    Source:
        Dhariwal and Nichol 2021, arXiv:2105.05233; ``center_crop_arr`` and ``random_crop_arr`` of
        openai/guided-diffusion.
    """

    takes_any_size: ClassVar[bool] = True

    size: int
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_count("ADMCrop", "size", self.size, at_least=1)
        if self.scale is not None:
            check_range("ADMCrop", "scale", self.scale, 0, 1)
            if self.scale[0] <= 0:
                refuse("ADMCrop", "scale", "start above 0", self.scale)

    def size_behind(self, _size: Size | None) -> Size:
        """See `Augmentation`."""
        return self.size, self.size

    def draw(self, draws: Draws, _frame: Frame, /) -> ADMCropPlan:
        """Draw a short side and a position; see `Augmentation`."""
        share = draws.uniform("short", []).astype(np.float64)
        if self.scale is None:
            return ADMCropPlan(np.full(share.shape, self.size, np.int32))
        low, high = (ceil(self.size / share) for share in reversed(self.scale))
        # A share of exactly 1 would be one pixel too far.
        short = np.minimum(low + np.floor(share * (high - low + 1)), high)
        return ADMCropPlan(short.astype(np.int32), draws.uniform("place", [2]))

    def operate(self, sample: Sample, plan: ADMCropPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        image = middle_of(sample).image
        numbers = [plan.short] if plan.place is None else [plan.short, plan.place]
        if frame.on_threads is not None:
            return replace(sample, image=frame.on_threads(self.crop, [image, *numbers]))
        for _ in range(MAX_HALVINGS):
            image = _halved_where_large(image, plan.short)
        extent, start = python_pair(self._windows, image.shape()[:2], *numbers)
        sample = resized(Sample(image), extent, "bicubic", None, frame)
        crop = fn.slice(sample.image, start=start, shape=[self.size] * 2, axes=[0, 1])
        return replace(sample, image=crop)

    def crop(
        self, image: np.ndarray, short: Any = None, place: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the crop of one image by Pillow, with numbers of an `ADMCropPlan`."""
        short = self.size if short is None else int(short)
        picture = Image.fromarray(image)
        while min(picture.size) >= 2 * short:
            half = picture.width // 2, picture.height // 2
            picture = picture.resize(half, Image.Resampling.BOX)
        extent, start = self._window(np.array([picture.height, picture.width]), short, place)
        picture = picture.resize((int(extent[1]), int(extent[0])), Image.Resampling.BICUBIC)
        (top, left), side = start.tolist(), self.size
        return np.array(picture.crop((left, top, left + side, top + side)))

    def _windows(
        self, sides: list[np.ndarray], *numbers: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        extents, starts = zip(*map(self._window, sides, *numbers), strict=True)
        return list(extents), list(starts)

    def _window(
        self, sides: np.ndarray, short: Any, place: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sides of the resized image, and the crop's corner: ``[2]`` int32 (y, x) each."""
        extent = np.rint(sides * (int(short) / int(sides.min()))).astype(np.int32)
        room = extent - self.size
        if place is None:
            return extent, room // 2
        # A share of exactly 1 would be one position too far.
        start = np.minimum(np.floor(place.astype(np.float64) * (room + 1)), room)
        return extent, start.astype(np.int32)


def _halved_where_large(image: DataNode, short: DataNode) -> DataNode:
    """Halve images whose short side is at least twice as long as asked for.

    A pixel is the mean of four. Of an odd side, Pillow's box takes three in a row once.
    """
    is_large = fn.reductions.min(image.shape()[:2]) >= 2 * short
    large, small = split(image, is_large)
    between = fn.warp_affine(large, matrix=[1, 0, 0.5, 0, 1, 0.5], inverse_map=True)
    sides = large.shape()[:2]
    half = sides // 2
    # Pillow rounds where a pixel's box starts, and DALI where the box has its middle.
    start = 0.5 - 0.5 * fn.cast(sides, dtype=FLOAT) / fn.cast(half, dtype=FLOAT)
    halves = resize(
        between,
        size=fn.cast(half, dtype=FLOAT),
        roi_start=start,
        roi_end=start + fn.cast(sides, dtype=FLOAT),
        interp_type=types.DALIInterpType.INTERP_NN,
    )
    return merge(halves, small, is_large)
