"""Fill a rectangle of some images with one colour: `RandomErasing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf as INFINITY
from typing import Any

import numpy as np

from dali_cutmix.core.checks import are_numbers, check_prob, check_range, is_number, refuse
from dali_cutmix.core.dali import fn, merge, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample

Range = tuple[float, float]

#: Rectangles that are drawn for each sample. The first that fits is erased.
NUM_CANDIDATES = 10


@dataclass(frozen=True)
class ErasingPlan:
    """Say which rectangle of each sample is erased.

    Attributes:
        is_erased: Whether any is: scalar bool per sample.
        anchor: Top left corner, in whole pixels: ``[2]`` float32 (y, x) per sample.
        extent: Sides, in whole pixels: ``[2]`` float32 (y, x) per sample; 0 where nothing is
            erased.
    """

    is_erased: Any
    anchor: Any
    extent: Any


@dataclass(frozen=True)
class RandomErasing:
    """Fill a rectangle of some images with one colour.

    The first of ten drawn rectangles that fits is erased. Where none of the ten fits, the image
    stays.

    Args:
        prob: Probability in [0, 1] that a rectangle of a sample is erased.
        scale: Smallest and largest share of the image's area, in [0, 1].
        ratio: Smallest and largest height over width, above 0. The logarithm is uniform.
        value: Colour of the rectangle.

            - 0 is the transform's mean, so that pixels are 0 after normalization, but for rounding
              to a level (less than 0.009 with ImageNet's deviation). torchvision's ``value=0``
              after ``Normalize`` does the same.
            - ``(R, G, B)`` are levels in [0, 255]. ``(0, 0, 0)`` is black, as torchvision's
              ``value=0`` before ``Normalize``.

    Source:
        Zhong et al. 2017, Random Erasing, arXiv:1708.04896; torchvision ``v2.RandomErasing``.
    """

    prob: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        where = "RandomErasing"
        check_prob(where, self.prob)
        check_range(where, "scale", self.scale, 0, 1)
        check_range(where, "ratio", self.ratio, 0, INFINITY)
        if self.ratio[0] <= 0:
            refuse(where, "ratio", "start above 0", self.ratio)
        is_zero = is_number(self.value) and self.value == 0
        is_colour = are_numbers(self.value, 3) and all(0 <= level <= 255 for level in self.value)
        if not is_zero and not is_colour:
            way_out = "The graph erases with one colour: 0 is the mean of the data."
            refuse(where, "value", "be 0, or R, G, B in [0, 255]", self.value, way_out)

    def draw(self, draws: Draws, frame: Frame, /) -> ErasingPlan:
        """See `Augmentation`."""
        height, width = frame.size
        is_erased = draws.chance("prob", self.prob)[:, 0] > 0
        shares = draws.uniform("shape", [NUM_CANDIDATES, 2]).astype(np.float64)
        low, high = self.scale
        area = height * width * (low + shares[..., 0] * (high - low))
        low, high = np.log(self.ratio)
        aspect = np.exp(low + shares[..., 1] * (high - low))
        candidates = np.rint(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=2))
        fits = (candidates < frame.size).all(axis=2)
        extent = np.take_along_axis(candidates, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        is_erased &= fits.any(axis=1)
        extent[~is_erased] = 0
        num_positions = np.array(frame.size) - extent + 1
        share = draws.uniform("place", [2])
        anchor = np.minimum(np.floor(share * num_positions), num_positions - 1)
        return ErasingPlan(is_erased, anchor.astype(np.float32), extent.astype(np.float32))

    def operate(self, sample: Sample, plan: ErasingPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        value = self.value
        colour = [255 * mean for mean in frame.mean] if isinstance(value, (int, float)) else value
        part, others = split(sample.image, plan.is_erased)
        anchor, _ = split(plan.anchor, plan.is_erased)
        extent, _ = split(plan.extent, plan.is_erased)
        part = fn.erase(
            part,
            anchor=anchor,
            shape=extent,
            axes=[0, 1],
            fill_value=[float(np.rint(level)) for level in colour],
        )
        return replace(sample, image=merge(part, others, plan.is_erased))
