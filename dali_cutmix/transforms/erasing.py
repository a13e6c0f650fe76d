"""A rectangle of some images in one colour: `RandomErasing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf as INFINITY

import numpy as np

from dali_cutmix.core.checks import are_numbers, check_prob, check_range, is_number, refuse
from dali_cutmix.core.dali import DataNode, fn, merge, split
from dali_cutmix.core.draws import HostDraws
from dali_cutmix.core.frame import Frame

Range = tuple[float, float]

#: Rectangles drawn of which the first that fits is erased.
NUM_CANDIDATES = 10


@dataclass(frozen=True)
class RandomErasing:
    """Fill a rectangle of some images with one colour.

    Args:
        prob: Probability in [0, 1] that a sample is cut.
        scale: Smallest and largest share of the image's area, in [0, 1].
        ratio: Smallest and largest height over width, above 0; its logarithm is uniform.
        value: What is put there. 0 is the transform's mean, and so 0 after normalisation but for
            rounding to a level (by less than half of one: 0.009 with ImageNet's deviation):
            torchvision's ``value=0`` after ``Normalize``. ``(R, G, B)`` are levels in [0, 255], so
            that ``(0, 0, 0)`` is black: torchvision's ``value=0`` before ``Normalize``.

    Source:
        Zhong et al. 2017, Random Erasing, arXiv:1708.04896; torchvision ``v2.RandomErasing``. As
        there, the first of ten rectangles that fits is taken, and where none does, none.
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
        is_colour = are_numbers(self.value, 3) and all(0 <= one <= 255 for one in self.value)
        if not is_zero and not is_colour:
            way_out = "The graph erases with one colour: 0 is the mean of the data."
            refuse(where, "value", "be 0, or R, G, B in [0, 255]", self.value, way_out)

    def draw(self, draws: HostDraws, frame: Frame) -> dict[str, np.ndarray]:
        """See `Augmentation`."""
        height, width = frame.size
        is_erased = draws.chance("prob", self.prob)[:, 0] > 0
        drawn = draws.uniform("shape", [NUM_CANDIDATES, 2]).astype(np.float64)
        low, high = self.scale
        area = height * width * (low + drawn[..., 0] * (high - low))
        low, high = np.log(self.ratio)
        aspect = np.exp(low + drawn[..., 1] * (high - low))
        tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (tall < height) & (wide < width)
        first = fits.argmax(axis=1)[:, None]
        shape = np.concatenate(
            [np.take_along_axis(one, first, axis=1) for one in (tall, wide)], axis=1
        )
        is_erased &= fits.any(axis=1)
        shape[~is_erased] = 0
        room = np.array([height, width]) - shape + 1
        place = draws.uniform("place", [2])
        anchor = np.minimum(np.floor(place * room), room - 1)
        return {
            "is_erased": is_erased,
            "anchor": anchor.astype(np.float32),
            "shape": shape.astype(np.float32),
        }

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], frame: Frame) -> DataNode:
        """See `Augmentation`."""
        value = self.value
        fill = [255 * one for one in frame.mean] if isinstance(value, (int, float)) else list(value)
        is_erased = drawn["is_erased"]
        part, others = split(image, is_erased)
        anchor, shape = (split(drawn[name], is_erased)[0] for name in ("anchor", "shape"))
        part = fn.erase(
            part,
            anchor=anchor,
            shape=shape,
            axes=[0, 1],
            fill_value=[float(np.rint(one)) for one in fill],
        )
        return merge(part, others, is_erased)
