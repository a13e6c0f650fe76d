"""An oracle in NumPy for what the library does in a graph.

It imports nothing from the library and nothing of torch, and is written the slow and plain way:
integers and loops, from the papers and from the authors' code.

Everything here is ``(y, x)`` and ``(height, width)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import erf, sqrt
from typing import NamedTuple

import numpy as np

Box = tuple[tuple[int, int], tuple[int, int]]  # anchor and extent
Cdf = Callable[[float], float]

# --- Pixels that say where they come from -------------------------------------------------------


def identified(
    owners: Sequence[int], size: tuple[int, int], dtype: type[np.generic] = np.uint8
) -> np.ndarray:
    """Images whose channels are owner, row and column: ``[len(owners), height, width, 3]``."""
    height, width = size
    assert max(*owners, height - 1, width - 1) < 256, "a byte must hold owner, row and column"
    images = np.zeros((len(owners), height, width, 3), dtype)
    images[..., 0] = np.asarray(owners)[:, None, None]
    images[..., 1] = np.arange(height)[:, None]
    images[..., 2] = np.arange(width)
    return images


def strays(images: np.ndarray) -> int:
    """How many identified pixels are not at the row and column they came from."""
    rows = images[..., 1] != np.arange(images.shape[1])[:, None]
    columns = images[..., 2] != np.arange(images.shape[2])
    return int((rows | columns).sum())


def shares(image: np.ndarray) -> dict[int, Fraction]:
    """Share of the pixels of one identified image that each owner has, exactly."""
    owners, counts = np.unique(image[..., 0], return_counts=True)
    total = image.shape[0] * image.shape[1]
    return {int(owner): Fraction(int(n), total) for owner, n in zip(owners, counts, strict=True)}


def class_row(shares: dict[int, Fraction], classes: dict[int, int], num: int) -> list[Fraction]:
    """Weight of each class: the shares of its owners, added up. ``classes`` maps owner to class."""
    row = [Fraction(0)] * num
    for owner, share in shares.items():
        row[classes[owner]] += share
    return row


def pasted(
    images: np.ndarray, partner: np.ndarray, anchor: np.ndarray, extent: np.ndarray
) -> np.ndarray:
    """Each image with its rectangle taken from its partner, as the partner was before."""
    result = images.copy()
    for i, ((y, x), (height, width)) in enumerate(zip(anchor, extent, strict=True)):
        window = slice(y, y + height), slice(x, x + width)
        result[i][window] = images[partner[i]][window]
    return result


class Step(NamedTuple):
    """One plan as plain arrays: it pastes, blends where ``put`` is None, or erases.

    ``source`` and ``weight`` are ``[B, k]``. ``taken`` and ``put`` are ``[B, k, 2, 2]``: anchor and
    extent, (y, x). A step that erases takes nothing.
    """

    source: np.ndarray
    weight: np.ndarray
    taken: np.ndarray | None
    put: np.ndarray | None


def followed(
    pixels: np.ndarray, steps: Sequence[Step], fill: float | Sequence[float] | None = None
) -> np.ndarray:
    """Pixels ``[B, height, width, ...]`` after each step, sample by sample and region by region.

    Where a step erases, ``fill`` is put; None leaves the pixels as they were.
    """
    for source, weight, taken, put in steps:
        before, pixels = pixels, pixels.copy()
        if put is None:
            pixels = np.zeros(before.shape)
        for sample, region in np.ndindex(source.shape):
            other = before[source[sample, region]]
            if put is None:
                pixels[sample] += float(weight[sample, region]) * other
                continue
            (y, x), (height, width) = put[sample, region]
            window = slice(y, y + height), slice(x, x + width)
            if taken is not None:
                (v, u), extent = taken[sample, region]
                assert tuple(extent) == (height, width), "resizing is another oracle's"
                pixels[sample][window] = other[v : v + height, u : u + width]
            elif fill is not None:
                pixels[sample][window] = fill
    return pixels


def owned(steps: Sequence[Step], num_samples: int, size: tuple[int, int]) -> np.ndarray:
    """Share of every sample in what each sample shows, by painting: ``[B, B]``."""
    start = np.zeros((num_samples, *size, num_samples))
    start[range(num_samples), ..., range(num_samples)] = 1
    return followed(start, steps).mean(axis=(1, 2))


# --- Boxes, from the code of those who published them -------------------------------------------


def authors_box(size: tuple[int, int], lam: float, centre: tuple[int, int]) -> Box:
    """``rand_bbox`` of the CutMix authors' ``train.py`` with the centre given."""
    return _clip(size, centre, [int(side * np.sqrt(1.0 - lam)) // 2 for side in size], None)


def timm_box(size: tuple[int, int], lam: float, centre: tuple[int, int]) -> Box:
    """``rand_bbox`` of timm 1.0.31 with the centre given."""
    sides = [int(side * np.sqrt(1.0 - lam)) for side in size]
    return _clip(size, centre, [s // 2 for s in sides], [(s + 1) // 2 for s in sides])


def cutout_box(size: tuple[int, int], side: int, centre: tuple[int, int]) -> Box:
    """``Cutout`` of DeVries and Taylor with the centre given."""
    return _clip(size, centre, [side // 2, side // 2], None)


def _clip(
    size: tuple[int, int], centre: Sequence[int], before: list[int], after: list[int] | None
) -> Box:
    after = before if after is None else after
    low = [min(max(c - b, 0), s) for c, b, s in zip(centre, before, size, strict=True)]
    high = [min(max(c + a, 0), s) for c, a, s in zip(centre, after, size, strict=True)]
    return (low[0], low[1]), (high[0] - low[0], high[1] - low[1])


# --- Laws: what a placement does on average, exactly --------------------------------------------


def intervals(length: int, side: int, placement: str) -> list[tuple[int, int]]:
    """All places, equally likely, of a cut along an axis: first pixel and one past the last."""
    half = side // 2
    if placement == "inside":
        return [(start, start + side) for start in range(length - side + 1)]
    # Composer's randint(-side // 2, length + side // 2), or any pixel.
    uniform = placement == "uniform"
    centres = range(-side // 2, length + side // 2) if uniform else range(length)
    after = (side + 1) // 2 if placement == "clipped_whole" else half
    return [(min(max(c - half, 0), length), max(min(c + after, length), 0)) for c in centres]


def likelihoods(length: int, num_places: int, placement: str) -> np.ndarray:
    """Probability of each place that `intervals` lists."""
    if placement != "gaussian":
        return np.full(num_places, 1 / num_places)
    # The normal law around the middle with a deviation of a quarter of the side; what lies beyond
    # the border is moved onto the first or last pixel.
    ends = [0.5 * (1 + erf((end / length - 0.5) / 0.25 / sqrt(2))) for end in range(1, length)]
    return np.diff([0, *ends, 1])


def sides_law(size: tuple[int, int], cdf: Cdf = float) -> Iterator[tuple[float, int, int]]:
    """Every pair of whole sides a cut can have before it is placed, with its probability.

    ``cdf`` is the distribution of the *cut* fraction; the default is uniform. The sides are
    ``floor(length * sqrt(cut fraction))``: they step where the fraction is ``(k / length) ** 2``.
    """
    steps = {Fraction(k, length) ** 2 for length in size for k in range(length + 1)}
    for low, high in itertools.pairwise(sorted(steps)):
        # `low` is the square of k / length for one axis; floor of the root for either.
        sides = [_floor_root(low * length * length) for length in size]
        yield cdf(float(high)) - cdf(float(low)), sides[0], sides[1]


def _floor_root(value: Fraction) -> int:
    root = int(float(value) ** 0.5) + 1
    while root * root > value:
        root -= 1
    return root


def mean_kept(size: tuple[int, int], placement: str, cdf: Cdf = float) -> float:
    """Expected share of kept pixels of a cut."""
    cut = 0.0
    for probability, side_y, side_x in sides_law(size, cdf):
        lengths = []
        for length, side in zip(size, (side_y, side_x), strict=True):
            places = intervals(length, side, placement)
            chances = likelihoods(length, len(places), placement)
            lengths.append(float(np.diff(places)[:, 0] @ chances) / length)
        cut += probability * lengths[0] * lengths[1]
    return 1 - cut


def coverage(size: tuple[int, int], placement: str, cdf: Cdf = float) -> np.ndarray:
    """Probability that each pixel is cut: ``[height, width]``."""
    result = np.zeros(size)
    for probability, side_y, side_x in sides_law(size, cdf):
        axes = []
        for length, side in zip(size, (side_y, side_x), strict=True):
            places = intervals(length, side, placement)
            axis = np.zeros(length)
            chances = likelihoods(length, len(places), placement)
            for (low, high), chance in zip(places, chances, strict=True):
                axis[low:high] += chance
            axes.append(axis)
        result += probability * np.outer(*axes)
    return result


def painted(size: tuple[int, int], anchor: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """How many of the given boxes cover each pixel: ``[height, width]``."""
    # Corners of the boxes, summed up twice: a difference array.
    corners = np.zeros((size[0] + 1, size[1] + 1))
    low, high = np.asarray(anchor), np.asarray(anchor) + np.asarray(extent)
    np.add.at(corners, (low[:, 0], low[:, 1]), 1)
    np.add.at(corners, (high[:, 0], high[:, 1]), 1)
    np.add.at(corners, (low[:, 0], high[:, 1]), -1)
    np.add.at(corners, (high[:, 0], low[:, 1]), -1)
    return corners.cumsum(0).cumsum(1)[:-1, :-1]


# --- Targets ------------------------------------------------------------------------------------


def cross_entropy(logits: np.ndarray, target: np.ndarray, smoothing: float = 0.0) -> float:
    """Mean over the batch of minus the smoothed target times the logarithm of the softmax."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_prob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    target = np.asarray(target, np.float64)
    smoothed = (1 - smoothing) * target + smoothing / logits.shape[1]
    return float(-(smoothed * log_prob).sum(axis=1).mean())
