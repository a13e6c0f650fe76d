"""Fill rectangles of some images with one colour or with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf as INFINITY
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from dali_cutmix.core.checks import (
    are_numbers,
    check_choice,
    check_count,
    check_prob,
    check_range,
    is_number,
    is_whole,
    refuse,
)
from dali_cutmix.core.dali import INT32, DataNode, fn, merge, python_image, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import key, normal, random_words

Range = tuple[float, float]

#: Rectangles that are drawn for each sample. The first that fits is erased.
NUM_CANDIDATES = 10

#: Fillings of a rectangle, by timm's names.
MODES = ("const", "rand", "pixel")


@dataclass(frozen=True)
class ErasingPlan:
    """Say which rectangle of each sample is erased.

    Attributes:
        is_erased: Whether any is: scalar bool per sample.
        anchor: Top left corner, in whole pixels: ``[2]`` float32 (y, x) per sample.
        extent: Sides, in whole pixels: ``[2]`` float32 (y, x) per sample; 0 where nothing is
            erased.
        colour: Levels R, G, B, with ``mode="rand"``: ``[3]`` float32 per sample.
        noise: Key of the noise, with ``mode="pixel"``: ``[4]`` uint32 per sample.
    """

    is_erased: Any
    anchor: Any
    extent: Any
    colour: Any = None
    noise: Any = None


class _Erasing:
    """Fill the rectangles that are drawn."""

    takes_annotations: ClassVar[bool] = True
    value: float | Sequence[float]

    def operate(self, sample: Sample, plan: tuple[ErasingPlan, ...], frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        image = sample.image
        for rectangle in plan:
            image = _erased(image, rectangle, _colour(self.value, frame), frame)
        return replace(sample, image=image)


@dataclass(frozen=True)
class RandomErasing(_Erasing):
    """Fill a rectangle of some images, or several, with one colour or with noise.

    The first of ten drawn rectangles that fits is erased. Where none of the ten fits, the image
    stays.

    Args:
        prob: Probability in [0, 1] that a rectangle of a sample is erased.
        scale: Smallest and largest share of the image's area, in [0, 1].
        ratio: Smallest and largest height over width, above 0. The logarithm is uniform.
            ``log_ratio=False`` draws the ratio itself, as the authors' code does.
        value: Colour of the rectangle, with ``mode="const"``.

            - 0 is the transform's mean, so that pixels are 0 after normalization, but for rounding
              to a level (less than 0.009 with ImageNet's deviation). torchvision's ``value=0``
              after ``Normalize`` does the same.
            - ``(R, G, B)`` are levels in [0, 255]. ``(0, 0, 0)`` is black, as torchvision's
              ``value=0`` before ``Normalize``.

        mode: What fills the rectangle.

            - ``"const"``: ``value``.
            - ``"rand"``: a colour drawn for each rectangle. After normalization its values are
              normal, of mean 0 and deviation 1, rounded to levels and clipped to [0, 255].
            - ``"pixel"``: such values for each pixel and channel, as torchvision's
              ``value="random"`` after ``Normalize``.

        max_count: Most rectangles of a sample. Their number is uniform from 1, and each has its
            share of the area.

    Source:
        Zhong et al. 2017, Random Erasing, arXiv:1708.04896; torchvision ``v2.RandomErasing``;
        ``mode`` and ``max_count`` are those of timm's ``RandomErasing``.
    """

    prob: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: float | Sequence[float] = 0
    mode: Literal["const", "rand", "pixel"] = "const"
    max_count: int = 1
    log_ratio: bool = True

    def __post_init__(self) -> None:
        where = "RandomErasing"
        check_prob(where, self.prob)
        check_range(where, "scale", self.scale, 0, 1)
        check_range(where, "ratio", self.ratio, 0, INFINITY)
        if self.ratio[0] <= 0:
            refuse(where, "ratio", "start above 0", self.ratio)
        is_zero = _check_value(where, self.value)
        check_choice(where, "mode", self.mode, MODES)
        check_count(where, "max_count", self.max_count, at_least=1)
        if self.mode != "const" and not is_zero:
            refuse(where, "value", f"be left out with mode={self.mode!r}", self.value)

    def draw(self, draws: Draws, frame: Frame, /) -> tuple[ErasingPlan, ...]:
        """Draw a plan for each of ``max_count`` rectangles; see `Augmentation`."""
        is_erased = draws.chance("prob", self.prob)[:, 0] > 0
        count = np.ones(len(is_erased))
        if self.max_count > 1:
            share = draws.uniform("count", [])
            count = np.minimum(np.floor(share * self.max_count), self.max_count - 1) + 1
        return tuple(
            self._draw_one(
                draws.under(f"{number}/") if number else draws,
                frame,
                is_erased & (number < count),
                count,
            )
            for number in range(self.max_count)
        )

    def _draw_one(
        self, draws: Draws, frame: Frame, is_erased: np.ndarray, count: np.ndarray
    ) -> ErasingPlan:
        height, width = frame.size
        shares = draws.uniform("shape", [NUM_CANDIDATES, 2]).astype(np.float64)
        low, high = self.scale
        area = height * width * (low + shares[..., 0] * (high - low)) / count[:, None]
        low, high = np.log(self.ratio) if self.log_ratio else self.ratio
        aspect = low + shares[..., 1] * (high - low)
        aspect = np.exp(aspect) if self.log_ratio else aspect
        candidates = np.rint(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=2))
        fits = (candidates < frame.size).all(axis=2)
        extent = np.take_along_axis(candidates, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        is_erased = is_erased & fits.any(axis=1)
        extent[~is_erased] = 0
        num_positions = np.array(frame.size) - extent + 1
        share = draws.uniform("place", [2])
        anchor = np.minimum(np.floor(share * num_positions), num_positions - 1)
        colour = noise = None
        if self.mode == "rand":
            colour = _levels(frame, normal(draws, "colour", [3])).astype(np.float32)
        elif self.mode == "pixel":
            noise = key(draws, "noise")
        rectangle = anchor.astype(np.float32), extent.astype(np.float32)
        return ErasingPlan(is_erased, *rectangle, colour, noise)


@dataclass(frozen=True)
class EraseSquares(_Erasing):
    """Fill squares of some images with one colour. Centres are uniform, borders cut squares off.

    Args:
        side: Side of a square in pixels, or ``(min, max)``, of which each sample takes one.
        count: Squares of a sample, which may overlap.
        prob: Probability in [0, 1] that a sample's squares are filled.
        value: Colour of the squares, as of `RandomErasing`.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552. The mix `dali_cutmix.Cutout` fills one.
    """

    side: int | Sequence[int]
    count: int = 1
    prob: float = 1.0
    value: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        where = "EraseSquares"
        low, high = self._sides
        if not is_whole(low) or not is_whole(high) or not 0 <= low <= high:
            refuse(where, "side", "be a number of pixels, or (min, max)", self.side)
        check_count(where, "count", self.count, at_least=1)
        check_prob(where, self.prob)
        _check_value(where, self.value)

    @property
    def _sides(self) -> Sequence[int]:
        side = self.side
        return side if isinstance(side, Sequence) and len(side) == 2 else (side, side)  # type: ignore[return-value]

    def draw(self, draws: Draws, frame: Frame, /) -> tuple[ErasingPlan, ...]:
        """Draw a plan for each of ``count`` squares; see `Augmentation`."""
        low, high = self._sides
        is_erased = draws.chance("prob", self.prob)[:, 0] > 0
        share = draws.uniform("side", []).astype(np.float64)
        side = np.minimum(low + np.floor(share * (high - low + 1)), high)[:, None]
        plans = []
        for number in range(self.count):
            share = draws.uniform(f"centre {number}", [2]).astype(np.float64)
            centre = np.minimum(np.floor(share * frame.size), np.array(frame.size) - 1)
            start = centre - side // 2
            anchor = np.maximum(start, 0)
            extent = np.maximum(np.minimum(start + side, frame.size) - anchor, 0)
            extent[~is_erased] = 0
            rectangle = anchor.astype(np.float32), extent.astype(np.float32)
            plans.append(ErasingPlan(is_erased, *rectangle))
        return tuple(plans)


def _erased(image: DataNode, plan: ErasingPlan, colour: Any, frame: Frame) -> DataNode:
    """Fill the rectangle of a plan with the plan's colour or noise, else with ``colour``."""
    part, others = split(image, plan.is_erased)
    anchor, _ = split(plan.anchor, plan.is_erased)
    extent, _ = split(plan.extent, plan.is_erased)
    if plan.colour is not None:
        colour, _ = split(plan.colour, plan.is_erased)
    elif plan.noise is not None:
        colour = 0.0
    part = fn.erase(part, anchor=anchor, shape=extent, axes=[0, 1], fill_value=colour)
    if plan.noise is not None:
        noise, _ = split(plan.noise, plan.is_erased)
        part = part | _placed(_noise(noise, extent, frame), anchor, frame, part.device)
    return merge(part, others, plan.is_erased)


def _check_value(where: str, value: Any) -> bool:
    """Refuse all but 0 and a colour, and return whether it is 0."""
    is_zero = is_number(value) and value == 0
    is_colour = are_numbers(value, 3) and all(0 <= level <= 255 for level in value)
    if not is_zero and not is_colour:
        way_out = "0 is the mean of the data. `mode=` fills with noise."
        refuse(where, "value", "be 0, or R, G, B in [0, 255]", value, way_out)
    return is_zero


def _colour(value: float | Sequence[float], frame: Frame) -> list[float]:
    """Return the levels of a ``value``."""
    levels = [*value] if isinstance(value, Sequence) else [255 * mean for mean in frame.mean]
    return [float(np.rint(level)) for level in levels]


def _levels(frame: Frame, numbers: np.ndarray) -> np.ndarray:
    """Return levels of which normalization makes the numbers, ``[..., 3]``, as far as it can."""
    return np.clip(np.rint(255 * (np.array(frame.mean) + numbers * frame.std)), 0, 255)


def _noise(key: DataNode, extent: DataNode, frame: Frame) -> DataNode:
    """Return noise for each sample, ``[*extent, 3]`` uint8, CPU."""

    def of_lists(keys: list[np.ndarray], extents: list[np.ndarray]) -> list[np.ndarray]:
        table, results = _table(frame.mean, frame.std), []
        for one, sides in zip(keys, extents, strict=True):
            shape = int(sides[0]), int(sides[1]), 3
            words = random_words(one, shape[0] * shape[1] * 3).reshape(shape)
            results.append(table[words, np.arange(3)])
        return results

    return python_image(of_lists, key, extent)


@cache
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return the level that a uniform word stands for in each channel: ``[65536, 3]`` uint8."""
    share = (torch.arange(2**16, dtype=torch.float64, device="cpu") + 0.5) / 2**16
    numbers = torch.special.ndtri(share).numpy()
    frame = Frame((0, 0), (mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))
    return _levels(frame, numbers[:, None]).astype(np.uint8)


def _placed(noise: DataNode, anchor: DataNode, frame: Frame, device: str) -> DataNode:
    """Surround noise by zeros, up to the size of images."""
    return fn.slice(
        noise.gpu() if device == "gpu" else noise,
        start=fn.cast(0.0 - anchor, dtype=INT32),
        shape=list(frame.size),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )
