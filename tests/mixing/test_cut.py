"""Where cuts land: against the published integer code, at every place, and on average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import reference
from dali_cutmix.core.draws import first_smallest
from dali_cutmix.mixing import cutmix
from graphs import cuts, math_of, run_on_both

SIZES = [(12, 20), (20, 12), (7, 5), (1, 9), (32, 32)]
# 0 and 1; the fractions at which a side of 12 or 20 steps, from both sides; and some between.
LAMS = [
    0.0,
    1.0,
    *(1 - (k / 20) ** 2 for k in (1, 2, 3, 10, 19)),
    *(1 - (k / 12) ** 2 + nudge for k in (1, 5, 11) for nudge in (-1e-6, 1e-6)),
    *(0.1, 0.3, 0.5, 0.77, 0.93, 0.99),
]


def squares(side: int, place: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Anchors and extents ``[n, 2]`` of squares at ``n`` places."""
    place = np.asarray(place, np.float32)
    ((anchor, extent),) = run_on_both(
        lambda place: cutmix.square(side, place, size, math_of(place)), [([place],)]
    )
    return anchor[0], extent[0]


def every_centre(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All (y, x) of a grid, and the uniform numbers in the middle of what stands for each."""
    grid = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 2)
    return grid, (grid + 0.5) / np.asarray(counts)


def crossed(places: np.ndarray, lams: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Every fraction with every place."""
    return np.repeat(np.asarray(lams, np.float32), len(places)), np.tile(places, (len(lams), 1))


def as_fed(lam: float) -> float:
    """A drawn fraction is a float32 number; the arithmetic that follows is double."""
    return float(np.float32(lam))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("function", "box"),
    [(cutmix.clipped, reference.authors_box), (cutmix.clipped_whole, reference.timm_box)],
    ids=["clipped", "clipped_whole"],
)
def test_cut_matches_the_authors_box_at_every_centre(
    function: Any, box: Any, size: tuple[int, int]
) -> None:
    grid, places = every_centre(size)
    anchor, extent = cuts(function, *crossed(places, LAMS), size)
    wanted = np.array([box(size, as_fed(lam), centre) for lam in LAMS for centre in grid])
    np.testing.assert_array_equal(anchor, wanted[:, 0])
    np.testing.assert_array_equal(extent, wanted[:, 1])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("placement", ["inside", "uniform"])
def test_cut_takes_every_place_that_its_placement_allows_and_no_other(
    placement: str, size: tuple[int, int]
) -> None:
    for lam in LAMS:
        sides = [int(length * np.sqrt(1 - as_fed(lam))) for length in size]
        axes = [reference.intervals(*one, placement) for one in zip(size, sides, strict=True)]
        grid, places = every_centre([len(axis) for axis in axes])
        anchor, extent = cuts(cutmix.PLACEMENTS[placement], lam, places, size)
        wanted = np.array([(axes[0][y], axes[1][x]) for y, x in grid])
        low, high = wanted[..., 0], wanted[..., 1]
        np.testing.assert_array_equal(extent, high - low)
        np.testing.assert_array_equal(anchor, low)


@pytest.mark.parametrize(("axes", "axis"), [("y", 0), ("x", 1)])
@pytest.mark.parametrize("placement", [name for name in cutmix.PLACEMENTS if name != "gaussian"])
def test_strip_takes_every_place_along_its_axis_and_all_of_the_other_axis(
    placement: str, axes: str, axis: int
) -> None:
    size = (12, 20)
    for lam in LAMS:
        # Exact: a product in floating point may be rounded to a whole number.
        side = math.floor(size[axis] * (1 - Fraction(as_fed(lam))))
        intervals = reference.intervals(size[axis], side, placement)
        place = np.full((len(intervals), 2), 0.3)
        place[:, axis] = (np.arange(len(intervals)) + 0.5) / len(intervals)
        anchor, extent = cuts(
            lambda lam, place, size, math: cutmix.strip(
                cutmix.PLACEMENTS[placement], lam, place, axes, size, math
            ),
            lam,
            place,
            size,
        )
        wanted = np.zeros((len(intervals), 2, 2), int)
        wanted[:, 1, 1 - axis] = size[1 - axis]
        wanted[..., axis] = intervals
        np.testing.assert_array_equal(anchor, wanted[:, 0])
        np.testing.assert_array_equal(anchor + extent, wanted[:, 1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [2, 4, 16])
def test_square_matches_the_cutout_authors_box_at_every_centre(
    side: int, size: tuple[int, int]
) -> None:
    grid, places = every_centre(size)
    anchor, extent = squares(side, places, size)
    wanted = np.array([reference.cutout_box(size, side, centre) for centre in grid])
    np.testing.assert_array_equal(anchor, wanted[:, 0])
    np.testing.assert_array_equal(extent, wanted[:, 1])


@pytest.mark.parametrize("placement", cutmix.PLACEMENTS)
@pytest.mark.parametrize("size", [(224, 160), (33, 65), (1, 1)])
def test_no_cut_leaves_the_image(placement: str, size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    lam = generator.random(20_000, np.float32)
    lam[:10], lam[10:20] = 0, 1
    place = generator.random((20_000, 2), np.float32)
    place[::5, 0], place[::7, 1] = 0, np.nextafter(np.float32(1), np.float32(0))
    anchor, extent = cuts(cutmix.PLACEMENTS[placement], lam, place, size)
    assert anchor.min() >= 0
    assert extent.min() >= 0
    assert (anchor + extent <= size).all()
    assert (extent[10:20] == 0).all()  # lam of 1 keeps everything


@pytest.mark.parametrize("placement", [name for name in cutmix.PLACEMENTS if name != "gaussian"])
def test_uniform_number_rounded_up_to_one_is_the_last_place(placement: str) -> None:
    almost, one = (
        cuts(cutmix.PLACEMENTS[placement], [0.5], [[place, place]], (24, 32))
        for place in (np.nextafter(np.float32(1), np.float32(0)), 1.0)
    )
    np.testing.assert_array_equal(almost, one)


@pytest.mark.parametrize(
    ("placement", "wanted"),
    # 20 * sqrt(1 - lam) is 9.9: floored to 9, of which the paper keeps twice the half, 8.
    [("clipped", 8), ("clipped_whole", 9), ("inside", 9), ("uniform", 8)],
)
def test_side_is_floored_and_never_rounded(placement: str, wanted: int) -> None:
    lam = 1 - (9.9 / 20) ** 2
    _, extent = cuts(cutmix.PLACEMENTS[placement], [lam], [[0.5, 0.5]], (20, 20))
    assert extent.tolist() == [[wanted, wanted]]


def test_place_is_floored_and_never_rounded() -> None:
    # 0.74 of 10 pixels is in pixel 7. Both sides are 2.
    anchor, extent = cuts(cutmix.clipped, [1 - 0.2**2 - 1e-6], [[0.74, 0.79]], (10, 10))
    assert (anchor.tolist(), extent.tolist()) == ([[6, 6]], [[2, 2]])


def test_sides_are_computed_in_double_precision_as_the_peers_do() -> None:
    lam = np.random.default_rng(0).random(2_000_000, np.float32)
    double = np.floor(224 * np.sqrt(1 - lam.astype(np.float64)))
    single = np.floor(np.float32(224) * np.sqrt(np.float32(1) - lam))
    differ = double != single
    assert differ.sum() > 5, "no draw tells the two apart"
    _, extent = cuts(cutmix.inside, lam[differ], np.full((differ.sum(), 2), 0.5), (224, 224))
    np.testing.assert_array_equal(extent[:, 0], double[differ])


@pytest.mark.parametrize("placement", cutmix.PLACEMENTS)
def test_one_cut_and_many_candidates_are_the_same_arithmetic(placement: str) -> None:
    generator = np.random.default_rng(1)
    lam, place = generator.random((50, 1), np.float32), generator.random((50, 2), np.float32)
    size = (24, 40)
    single = run_on_both(
        lambda lam, place: cutmix.PLACEMENTS[placement](lam, place, size, math_of(lam)),
        [(lam, place)],
    )[0]
    np.testing.assert_array_equal(single, cuts(cutmix.PLACEMENTS[placement], lam, place, size))


# The fractions at which sides step divide [0, 1] into strata within which the box depends on the
# place alone. With one fraction per stratum and every place the averages below are sums, without a
# tolerance for chance. The two axes are independent, so their mean lengths may be multiplied.


def mean_kept(function: Any, size: tuple[int, int]) -> float:
    probabilities, lams = strata(size)
    longest = max(size)
    # Along the diagonal each axis visits its own places, `longest` times as often as it has pixels.
    places = np.stack([(np.arange(longest) + 0.5) / longest] * 2, axis=1)
    if size[0] != size[1]:
        assert longest % min(size) == 0, "each pixel of the short side must come equally often"
    _, extent = cuts(function, *crossed(places, lams), size)
    lengths = extent.reshape(len(lams), longest, 2).mean(axis=1) / size
    return 1 - float((probabilities * lengths.prod(axis=1)).sum())


def strata(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each stratum for a uniform fraction, and a kept fraction in its middle."""
    probabilities = np.array([probability for probability, _, _ in reference.sides_law(size)])
    return probabilities, 1 - (np.cumsum(probabilities) - probabilities / 2)


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ((8, 8), 0.76743),
        ((16, 16), 0.72272),
        ((32, 32), 0.70075),
        ((64, 64), 0.68990),
        ((224, 224), 0.68222),
        ((256, 128), 0.68319),
    ],
)
def test_mean_kept_of_the_paper_is_far_from_the_mean_lam(
    size: tuple[int, int], published: float
) -> None:
    found = mean_kept(cutmix.clipped, size)
    assert found == pytest.approx(published, abs=5e-6)  # the table has five digits
    assert found == pytest.approx(reference.mean_kept(size, "clipped"), abs=1e-12)


def test_mean_kept_inside_is_near_the_mean_lam() -> None:
    # Only the flooring of sides is between them. Sides do not depend on the place.
    probabilities, lams = strata((224, 224))
    _, extent = cuts(cutmix.inside, lams, np.full((len(lams), 2), 0.5), (224, 224))
    found = 1 - float((probabilities * extent.prod(axis=1)).sum()) / 224**2
    assert found == pytest.approx(0.503, abs=5e-4)
    assert found == pytest.approx(reference.mean_kept((224, 224), "inside"), abs=1e-12)


@pytest.mark.parametrize(("side", "published"), [(8, 0.0625), (16, 0.0156), (32, 0.0039)])
def test_share_of_empty_cuts_is_known(side: int, published: float) -> None:
    # A side below 2 pixels has half a side of 0.
    probabilities, lams = strata((side, side))
    _, extent = cuts(cutmix.clipped, lams, np.full((len(lams), 2), 0.5), (side, side))
    empty = float(probabilities[(extent == 0).all(axis=1)].sum())
    assert empty == pytest.approx((2 / side) ** 2, abs=1e-12)
    assert empty == pytest.approx(published, abs=5e-5)


def coverage(function: Any, size: tuple[int, int], placement: str) -> np.ndarray:
    """Probability that each pixel is cut, over every stratum and every place."""
    result = np.zeros(size)
    for (probability, *sides), lam in zip(reference.sides_law(size), strata(size)[1], strict=True):
        counts = [
            len(reference.intervals(length, side, placement))
            for length, side in zip(size, sides, strict=True)
        ]
        _, places = every_centre(counts)
        anchor, extent = cuts(function, lam, places, size)
        result += probability * reference.painted(size, anchor, extent) / len(places)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("placement", [name for name in cutmix.PLACEMENTS if name != "gaussian"])
@pytest.mark.parametrize("size", [(16, 16), (8, 12)])
def test_probability_of_being_cut_is_known_for_each_pixel(
    placement: str, size: tuple[int, int]
) -> None:
    found = coverage(cutmix.PLACEMENTS[placement], size, placement)
    np.testing.assert_allclose(found, reference.coverage(size, placement), atol=1e-12)


def test_gaussian_centres_are_those_of_box_and_muller_around_the_middle() -> None:
    size, sides = (24, 40), (8, 14)
    rng = np.random.default_rng(0)
    places = rng.random((4000, 2), np.float32)
    places[:2], places[2:4] = (0, 0.3), (1, 0.3)  # one in 30 million of the numbers is 1
    lam = 1 - (8.5 / 24) ** 2
    anchor, extent = cuts(cutmix.gaussian, lam, places, size)
    seen = set()
    for (u, v), low, lengths in zip(places.tolist(), anchor, extent, strict=True):
        radius = math.sqrt(-2 * math.log(max(1 - u, 2**-24)))
        normal = radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)
        for axis in (0, 1):
            centre = math.floor(size[axis] * (0.5 + normal[axis] / 4))
            centre = min(max(centre, 0), size[axis] - 1)
            half = sides[axis] // 2
            ends = max(centre - half, 0), min(centre + half, size[axis])
            assert (low[axis], low[axis] + lengths[axis]) == ends
            seen.add((axis, centre))
    assert len(seen) > 60  # of 64


def test_clipped_cuts_prefer_the_centre() -> None:
    found = coverage(cutmix.clipped, (32, 32), "clipped")
    assert found[16, 16] == pytest.approx(0.458, abs=5e-4)
    assert found[0, 16] == pytest.approx(0.249, abs=5e-4)
    assert found[0, 0] == pytest.approx(0.135, abs=5e-4)


@pytest.mark.slow
def test_uniform_cuts_prefer_no_pixel() -> None:
    found = coverage(cutmix.uniform, (16, 24), "uniform")
    assert found.max() - found.min() < 1e-12


def test_cutout_of_half_the_side_erases_a_fifth_of_the_pixels() -> None:
    _, places = every_centre((32, 32))
    _, extent = squares(16, places, (32, 32))
    erased = extent.prod(axis=1).mean() / 32**2
    assert erased == pytest.approx(0.1914, abs=5e-5)
    assert erased == (14 / 32) ** 2  # the mean clipped length is 14 of 16


@pytest.mark.parametrize("size", [(32, 48), (10, 7)])
def test_sides_between_shares_are_whole_and_stay_below_the_larger(size: tuple[int, int]) -> None:
    sides = (0.2, 0.8)
    low = [int(length * 0.2) for length in size]
    counts = [int(length * 0.8) - first for length, first in zip(size, low, strict=True)]
    grid, lengths = every_centre(counts)
    for place in (0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))):
        places = np.full((len(grid), 2), place, np.float32)
        ((anchor, extent),) = run_on_both(
            lambda length, place: cutmix.between_sides(length, sides, place, size, math_of(place)),
            [([lengths.astype(np.float32)], [places])],
        )
        np.testing.assert_array_equal(extent[0], grid + low)
        room = size - extent[0] + 1
        np.testing.assert_array_equal(anchor[0], np.floor(np.float64(place) * room))


@pytest.mark.parametrize("size", [(16, 24), (7, 5), (224, 224), (4096, 4096), (4093, 4099)])
def test_kept_is_a_correctly_rounded_quotient_of_two_counts(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    extent = generator.integers(0, np.add(size, 1), (5000, 2), dtype=np.int32)
    extent[0], extent[1] = 0, size

    def define(extent: Any) -> Any:
        return [cutmix.share_kept(extent, size, math_of(extent))]

    ((single,),) = run_on_both(define, [(extent,)])
    ((many,),) = run_on_both(define, [([extent],)])
    wanted = [
        np.float32(Fraction(size[0] * size[1] - int(h) * int(w), size[0] * size[1]))
        for h, w in extent
    ]
    np.testing.assert_array_equal(single[:, 0], wanted)
    np.testing.assert_array_equal(many[0, :, 0], wanted)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({5: 0.5, 9: 0.4, 30: 0.45}, 5),  # the first that is within, not the one in the middle
        ({7: 0.3}, 7),  # bounds belong to the range
        ({7: 0.7}, 7),
        ({63: 0.5}, 63),
        ({0: 0.5, 1: 0.5}, 0),
        ({12: 0.8, 20: 0.75}, 20),  # none is within: the nearest, from above,
        ({12: 0.1, 20: 0.25}, 20),  # or from below
        ({12: 0.75, 20: 0.75}, 12),  # and the first of those
    ],
)
def test_first_cut_within_the_bounds_is_taken_and_else_the_nearest(
    values: dict[int, float], wanted: int
) -> None:
    kept = np.full((1, cutmix.NUM_CANDIDATES, 1), 1.0, np.float32)
    for index, value in values.items():
        kept[0, index] = value

    def index_of(kept: Any) -> list[Any]:
        math = math_of(kept)
        distance = cutmix.distance(kept, 0.3, 0.7, math)
        return [first_smallest(distance, cutmix.NUM_CANDIDATES, math)]

    ((found,),) = run_on_both(index_of, [(kept,)])
    assert found.tolist() == [wanted]
