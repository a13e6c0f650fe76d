"""Where a cut lands: from a kept fraction and a place to a rectangle of whole pixels.

Every function takes, per sample and on the CPU, ``lam``, the kept fraction as drawn, in [0, 1], with
shape ``[1]`` or ``[n, 1]``, and ``place``, uniform numbers in [0, 1) for (y, x), with shape ``[2]`` or
``[n, 2]``: one cut, or ``n`` candidates. It returns ``(anchor, extent)``, top left corner and sides in
pixels, int32 in the shape of ``place``. A side may be 0, and ``anchor + extent <= size`` always holds.

A full side is ``side * sqrt(1 - lam)``, so that the cut has the image's aspect ratio and the area
``1 - lam`` before it is rounded and clipped. Arithmetic is float64, so that the same draw gives the
peers' pixels and not nearly those.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dali_cutmix._dali import FLOAT64, INT32, DataNode, fn, math, types

Cut = tuple[DataNode, DataNode]


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
    return place_inside(_side(lam, size), place, size)


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


def place_inside(side: DataNode, place: DataNode, size: tuple[int, int]) -> Cut:
    """Put sides given in pixels (float64, whole) at a uniform place inside the image."""
    anchor = _pick(place, _sides(size) - side + 1.0)
    return fn.cast(anchor, dtype=INT32), fn.cast(side, dtype=INT32)


Placement = Callable[[DataNode, DataNode, tuple[int, int]], Cut]

PLACEMENTS: dict[str, Placement] = {
    "clipped": clipped,
    "clipped_whole": clipped_whole,
    "inside": inside,
    "uniform": uniform,
}


def _sides(size: tuple[int, int]) -> DataNode:
    return types.Constant(np.array(size, np.float64), device="cpu")


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
