"""Where a cut lands: from a kept fraction and a place to a rectangle of whole pixels.

Every function takes, per sample and on the CPU, ``lam``, the kept fraction as drawn, in [0, 1],
with shape ``[1]`` or ``[n, 1]``, and ``place``, uniform numbers in [0, 1) for (y, x), with shape
``[2]`` or ``[n, 2]``: one cut, or ``n`` candidates; nodes, or arrays with the batch axis in front.
It returns ``(anchor, extent)``, top left corner and sides in pixels, int32 in the shape of
``place``. A side may be 0, and ``anchor + extent <= size`` always holds.

A full side is ``side * sqrt(1 - lam)``, so that the cut has the image's aspect ratio and the area
``1 - lam`` before it is rounded and clipped. Arithmetic is float64, so that the same draw gives the
peers' pixels and not nearly those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import FLOAT, FLOAT64, INT32
from dali_cutmix.core.math import (
    alike,
    cast,
    column,
    floor,
    greatest,
    largest,
    least,
    smallest_row,
    sqrt,
)

Cut = tuple[Any, Any]

NUM_CANDIDATES = 64  # cuts drawn when bounds are set on the kept fraction


def clipped(lam: Any, place: Any, size: tuple[int, int]) -> Cut:
    """The authors' cut: centre uniform over the pixels, sides even, clipped by the border.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, section 3.1; ``rand_bbox`` in the authors'
        ``train.py``. torchvision's ``v2.CutMix`` has the same.
    """
    half = floor(_side(lam, size) / 2)
    centre = _pick(place, _sides(size, place))
    return _between(centre - half, centre + half, size)


def clipped_whole(lam: Any, place: Any, size: tuple[int, int]) -> Cut:
    """As ``clipped``, but an odd side keeps its last pixel.

    Source:
        ``rand_bbox`` in timm 1.0.31, ``timm/data/mixup.py``.
    """
    side = _side(lam, size)
    low = _pick(place, _sides(size, place)) - floor(side / 2)
    return _between(low, low + side, size)


def inside(lam: Any, place: Any, size: tuple[int, int]) -> Cut:
    """Every place where the whole cut lies inside the image is equally likely.

    Source:
        ``RandomCutMixV2`` in Kornia; Harris et al. 2020, arXiv:2002.12047, compare placements.
    """
    return _place_inside(_side(lam, size), place, size)


def uniform(lam: Any, place: Any, size: tuple[int, int]) -> Cut:
    """Every pixel is equally likely to be cut: centres reach beyond the image by half a cut.

    Source:
        ``cutmix_batch(uniform_sampling=True)`` in MosaicML Composer.
    """
    side = _side(lam, size)
    half = floor(side / 2)
    # From -ceil(side / 2) to size + half, as Composer's `randint(-side // 2, size + side // 2)`.
    centre = _pick(place, _sides(size, side) + side) - (side - half)
    return _between(centre - half, centre + half, size)


def square(side: int, place: Any, size: tuple[int, int]) -> Cut:
    """A square of ``side`` pixels around a centre uniform over the pixels, clipped by the border.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552; ``Cutout`` in the authors' ``cutout.py``.
    """
    centre = _pick(place, _sides(size, place))
    half = float(side // 2)
    return _between(centre - half, centre + half, size)


def between_sides(
    length: Any, sides: tuple[float, float], place: Any, size: tuple[int, int]
) -> Cut:
    """Each side on its own uniform between two shares of the image's side, the cut inside.

    Args:
        length: Uniform numbers in [0, 1) for the sides (y, x), in the shape of ``place``.
        sides: Smallest share, and the share that is just not reached, in [0, 1].
        place: As everywhere here.
        size: ``(height, width)`` in pixels.

    Source:
        ``rand_bbox_minmax`` in timm 1.0.31.
    """
    low = np.array([int(side * sides[0]) for side in size], np.float64)
    high = np.array([int(side * sides[1]) for side in size], np.float64)
    if not (low < high).all():
        refuse("cutmix_plan", "sides", f"differ by at least one pixel of size={size}", sides)
    return _place_inside(_pick(length, alike(high - low, length)) + alike(low, length), place, size)


def kept(extent: Any, size: tuple[int, int]) -> Any:
    """Share of the pixels outside the cut: ``[1]`` or ``[n, 1]`` float32, as ``lam``.

    A correctly rounded quotient of two counts, up to 4096 x 4096 pixels.
    """
    num_pixels = size[0] * size[1]
    cut_out = column(extent, 0) * column(extent, 1)
    return cast(num_pixels - cut_out, FLOAT) / float(num_pixels)


def first_within(kept: Any, low: float, high: float) -> Any:
    """Index of the first candidate within [low, high], or of the first of those nearest to it."""
    distance = greatest(greatest(low - kept, kept - high), 0.0)
    nearest = cast(distance <= smallest_row(distance), INT32)
    countdown = np.arange(NUM_CANDIDATES, 0, -1, dtype=np.int32)[:, None]
    return NUM_CANDIDATES - largest(nearest * alike(countdown, nearest))


Placement = Callable[[Any, Any, tuple[int, int]], Cut]

PLACEMENTS: dict[str, Placement] = {
    "clipped": clipped,
    "clipped_whole": clipped_whole,
    "inside": inside,
    "uniform": uniform,
}


def _sides(size: tuple[int, int], value: Any) -> Any:
    """The image's sides, float64, on the carrier of ``value``."""
    return alike(np.array(size, np.float64), value)


def _place_inside(side: Any, place: Any, size: tuple[int, int]) -> Cut:
    anchor = _pick(place, _sides(size, side) - side + 1.0)
    return cast(anchor, INT32), cast(side, INT32)


def _side(lam: Any, size: tuple[int, int]) -> Any:
    return floor(_sides(size, lam) * sqrt(1.0 - cast(lam, FLOAT64)))


def _pick(place: Any, count: Any) -> Any:
    """A whole number in [0, count), uniform as ``place`` is in [0, 1)."""
    # The minimum guards against a float32 uniform number that was rounded up to 1.
    return least(floor(cast(place, FLOAT64) * count), count - 1.0)


def _between(low: Any, high: Any, size: tuple[int, int]) -> Cut:
    # Cast last: a cast from float to integer rounds, so what it gets must be whole already.
    sides = _sides(size, low)
    low, high = (least(greatest(end, 0.0), sides) for end in (low, high))
    return cast(low, INT32), cast(high - low, INT32)
