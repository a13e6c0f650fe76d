"""Where a cut lands: from a kept fraction and a place to a rectangle of whole pixels.

Every function takes, per sample and on the CPU, ``lam``, the kept fraction as drawn, in [0, 1],
with shape ``[1]`` or ``[n, 1]``, and ``place``, uniform numbers in [0, 1) for (y, x), with shape
``[2]`` or ``[n, 2]``: one cut, or ``n`` candidates. It returns ``(anchor, extent)``, top left
corner and sides in pixels, int32 in the shape of ``place``. A side may be 0, and ``anchor + extent
<= size`` always holds.

A full side is ``side * sqrt(1 - lam)``, so that the cut has the image's aspect ratio and the area
``1 - lam`` before it is rounded and clipped. Arithmetic is float64, so that the same draw gives the
peers' pixels and not nearly those.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dali_cutmix._checks import refuse
from dali_cutmix._dali import FLOAT, FLOAT64, INT32, DataNode, constant, fn, math

Cut = tuple[DataNode, DataNode]

NUM_CANDIDATES = 64  # cuts drawn when bounds are set on the kept fraction


def clipped(lam: DataNode, place: DataNode, size: tuple[int, int]) -> Cut:
    """The authors' cut: centre uniform over the pixels, sides even, clipped by the border.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, section 3.1; ``rand_bbox`` in the authors'
        ``train.py``. torchvision's ``v2.CutMix`` has the same.
    """
    half = math.floor(_side(lam, size) / 2)
    centre = _pick(place, _sides(size))
    return _between(centre - half, centre + half, size)


def clipped_whole(lam: DataNode, place: DataNode, size: tuple[int, int]) -> Cut:
    """As ``clipped``, but an odd side keeps its last pixel.

    Source:
        ``rand_bbox`` in timm 1.0.31, ``timm/data/mixup.py``.
    """
    side = _side(lam, size)
    low = _pick(place, _sides(size)) - math.floor(side / 2)
    return _between(low, low + side, size)


def inside(lam: DataNode, place: DataNode, size: tuple[int, int]) -> Cut:
    """Every place where the whole cut lies inside the image is equally likely.

    Source:
        ``RandomCutMixV2`` in Kornia; Harris et al. 2020, arXiv:2002.12047, compare placements.
    """
    return _place_inside(_side(lam, size), place, size)


def uniform(lam: DataNode, place: DataNode, size: tuple[int, int]) -> Cut:
    """Every pixel is equally likely to be cut: centres reach beyond the image by half a cut.

    Source:
        ``cutmix_batch(uniform_sampling=True)`` in MosaicML Composer.
    """
    side = _side(lam, size)
    half = math.floor(side / 2)
    # From -ceil(side / 2) to size + half, as Composer's `randint(-side // 2, size + side // 2)`.
    centre = _pick(place, _sides(size) + side) - (side - half)
    return _between(centre - half, centre + half, size)


def square(side: int, place: DataNode, size: tuple[int, int]) -> Cut:
    """A square of ``side`` pixels around a centre uniform over the pixels, clipped by the border.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552; ``Cutout`` in the authors' ``cutout.py``.
    """
    centre = _pick(place, _sides(size))
    half = float(side // 2)
    return _between(centre - half, centre + half, size)


def between_sides(
    length: DataNode, sides: tuple[float, float], place: DataNode, size: tuple[int, int]
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
    return _place_inside(_pick(length, constant(high - low)) + constant(low), place, size)


def kept(extent: DataNode, size: tuple[int, int]) -> DataNode:
    """Share of the pixels outside the cut: ``[1]`` or ``[n, 1]`` float32, as ``lam``.

    A correctly rounded quotient of two counts, up to 4096 x 4096 pixels.
    """
    num_pixels = size[0] * size[1]
    height = fn.slice(extent, start=[0], shape=[1], axes=[-1])
    width = fn.slice(extent, start=[1], shape=[1], axes=[-1])
    return fn.cast(num_pixels - height * width, dtype=FLOAT) / float(num_pixels)


def first_within(kept: DataNode, low: float, high: float) -> DataNode:
    """Index of the first candidate within [low, high], or of the first of those nearest to it."""
    distance = math.max(math.max(low - kept, kept - high), 0.0)
    nearest = fn.cast(distance <= fn.reductions.min(distance, axes=[0]), dtype=INT32)
    countdown = constant(np.arange(NUM_CANDIDATES, 0, -1, dtype=np.int32)[:, None])
    return NUM_CANDIDATES - fn.reductions.max(nearest * countdown)


Placement = Callable[[DataNode, DataNode, tuple[int, int]], Cut]

PLACEMENTS: dict[str, Placement] = {
    "clipped": clipped,
    "clipped_whole": clipped_whole,
    "inside": inside,
    "uniform": uniform,
}


def _sides(size: tuple[int, int]) -> DataNode:
    return constant(np.array(size, np.float64))


def _place_inside(side: DataNode, place: DataNode, size: tuple[int, int]) -> Cut:
    anchor = _pick(place, _sides(size) - side + 1.0)
    return fn.cast(anchor, dtype=INT32), fn.cast(side, dtype=INT32)


def _side(lam: DataNode, size: tuple[int, int]) -> DataNode:
    return math.floor(_sides(size) * math.sqrt(1.0 - fn.cast(lam, dtype=FLOAT64)))


def _pick(place: DataNode, count: DataNode) -> DataNode:
    """A whole number in [0, count), uniform as ``place`` is in [0, 1)."""
    # The minimum guards against a float32 uniform number that was rounded up to 1.
    return math.min(math.floor(fn.cast(place, dtype=FLOAT64) * count), count - 1.0)


def _between(low: DataNode, high: DataNode, size: tuple[int, int]) -> Cut:
    # Cast last: a cast from float to integer rounds, so what it gets must be whole already.
    low = math.clamp(low, 0.0, _sides(size))
    high = math.clamp(high, 0.0, _sides(size))
    return fn.cast(low, dtype=INT32), fn.cast(high - low, dtype=INT32)
