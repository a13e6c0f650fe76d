"""Plans: who is mixed with whom, how much, how often; as laws, with tolerances from n draws.

Seeds are fixed, so a test passes always or never. Tolerances are 4.5 standard errors: of a right
law one in 150 000 lies beyond, so changing the seeds should not make them fail.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

import graphs
import reference
from dali_cutmix import CutMix, Cutout, MixUp, cutmix_plan, cutout_plan, draw_plan, mixup_plan
from dali_cutmix.mixing import cutmix
from graphs import define_in_a_graph, draw, full

ERRORS = 4.5  # tolerance in standard errors
LEAST_P = 1e-4  # below this p-value a law counts as broken

SIZE = (24, 32)
PARTNERS = ["derangement", "permutation", "roll", "flip"]
PLANS: list[Callable[..., Any]] = [cutmix_plan, mixup_plan]


#: Drawing in a graph takes several times as long as drawing on the host.
CARRIERS = [pytest.param("graph", marks=pytest.mark.slow), "host"]


@pytest.fixture(scope="module", params=CARRIERS, autouse=True)
def carrier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every law holds in a graph and on the host."""
    graphs.CARRIER = request.param
    yield request.param
    graphs.CARRIER = "graph"


@pytest.fixture(scope="module")
def many(carrier: str) -> SimpleNamespace:
    """40 000 draws of the default plan at 224 pixels: ``[10, 4000]``."""
    assert carrier == graphs.CARRIER
    return draw(lambda: cutmix_plan((224, 224)), 4000, 10)


def mixed(plan: SimpleNamespace) -> np.ndarray:
    """Which samples are mixed: have a cut, or a blended partner."""
    return plan.kept < 1 if plan.extent is None else plan.extent.prod(axis=-1) > 0


# --- Partners -----------------------------------------------------------------------------------


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("partner", PARTNERS)
@pytest.mark.parametrize("batch_size", [1, 2, 7, *full(3, 4, 8)])
def test_partners_are_a_permutation_of_the_batch(
    define: Any, partner: str, batch_size: int
) -> None:
    plan = draw(lambda: define(SIZE, partner=partner), batch_size, 5, only=("own", "partner"))
    for own, other in zip(plan.own, plan.partner, strict=True):
        assert own.tolist() == list(range(batch_size))
        assert sorted(other.tolist()) == list(range(batch_size))


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("batch_size", [2, 3, 7, *full(4, 8)])
def test_derangement_pairs_nobody_with_itself(define: Any, batch_size: int) -> None:
    plan = draw(lambda: define(SIZE), batch_size, 200, only=("own", "partner"))
    assert (plan.partner != plan.own).all()


def test_derangement_is_a_random_cycle_so_that_every_other_sample_is_as_likely() -> None:
    # Of the 9 derangements of four samples DALI draws the 6 that are one cycle, as Sattolo's
    # algorithm does, and never two swaps. To each sample that is the same: a partner uniform over
    # the others.
    plan = draw(cutmix_plan_of_four("derangement"), 4, 1800, only=("partner",))
    found = [tuple(row) for row in plan.partner.tolist()]
    cycles = [order for order in itertools.permutations(range(4)) if is_cycle(order)]
    assert len(cycles) == 6
    counts = [found.count(order) for order in cycles]
    assert sum(counts) == len(found)
    assert stats.chisquare(counts).pvalue > LEAST_P  # 300 expected of each
    for own in range(4):
        partners = np.bincount(plan.partner[:, own], minlength=4)
        assert stats.chisquare(np.delete(partners, own)).pvalue > LEAST_P


def is_cycle(order: tuple[int, ...]) -> bool:
    seen, place = [], 0
    while place not in seen:
        seen.append(place)
        place = order[place]
    return len(seen) == len(order)


def test_permutation_is_uniform_and_pairs_one_sample_per_batch_with_itself() -> None:
    plan = draw(cutmix_plan_of_four("permutation"), 4, 2400, only=("partner",))
    found = [tuple(row) for row in plan.partner.tolist()]
    counts = [found.count(order) for order in itertools.permutations(range(4))]
    assert stats.chisquare(counts).pvalue > LEAST_P  # 100 expected of each of 24
    # The number of fixed points of a random permutation has mean 1 and variance 1.
    fixed_points = (plan.partner == np.arange(4)).sum(axis=1)
    assert fixed_points.mean() == pytest.approx(1, abs=ERRORS / np.sqrt(len(found)))


def cutmix_plan_of_four(partner: Any) -> Callable[[], Any]:
    return lambda: cutmix_plan(SIZE, partner=partner)


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_roll_takes_the_sample_before(define: Any, batch_size: int) -> None:
    plan = draw(lambda: define(SIZE, partner="roll"), batch_size, 2, only=("partner",))
    wanted = [(i - 1) % batch_size for i in range(batch_size)]
    assert plan.partner.tolist() == [wanted, wanted]


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_flip_reads_the_batch_backwards(define: Any, batch_size: int) -> None:
    plan = draw(lambda: define(SIZE, partner="flip"), batch_size, 2, only=("partner",))
    wanted = list(range(batch_size))[::-1]
    assert plan.partner.tolist() == [wanted, wanted]


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("partner", PARTNERS)
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_sample_paired_with_itself_keeps_everything(
    define: Any, partner: str, batch_size: int
) -> None:
    plan = draw(lambda: define(SIZE, partner=partner), batch_size, 20)
    alone = plan.partner == plan.own
    assert (plan.kept[alone] == 1).all()
    if plan.extent is not None:
        assert (plan.extent[alone] == 0).all()
    if partner == "derangement":
        assert alone.all() == (batch_size == 1)
        assert alone.any() == (batch_size == 1)
    elif partner == "flip":
        assert alone[0].sum() == 1  # the one in the middle of an odd batch


# --- Who shares a draw --------------------------------------------------------------------------


@pytest.mark.parametrize("define", PLANS)
def test_samples_draw_alone_by_default(define: Any) -> None:
    plan = draw(lambda: define(SIZE), 8, 4)
    for values in (plan.lam, plan.kept):
        assert len(np.unique(values)) > 28  # of 32; kept counts pixels and may repeat


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("partner", PARTNERS)
def test_batch_shares_one_draw(define: Any, partner: str) -> None:
    plan = draw(lambda: define(SIZE, per="batch", partner=partner, prob=0.5), 8, 40)
    others = plan.partner != plan.own
    for lam, kept, other in zip(plan.lam, plan.kept, others, strict=True):
        assert len(np.unique(lam)) == 1
        assert len(np.unique(kept[other])) <= 1
    assert len(np.unique(plan.lam)) == 40
    if plan.extent is not None:
        for box, other in zip(np.concatenate([plan.anchor, plan.extent], -1), others, strict=True):
            assert len(np.unique(box[other], axis=0)) <= 1
    chosen = [bool(row[other].any()) for row, other in zip(mixed(plan), others, strict=True)]
    # Of 40 fair coins fewer than 6 or more than 34 fall alike once in 10^6. All samples share it.
    assert 6 <= sum(chosen) <= 34


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("batch_size", [2, 7, 8])
def test_pair_shares_one_draw_and_pairs_do_not(define: Any, batch_size: int) -> None:
    plan = draw(lambda: define(SIZE, per="pair", partner="flip", prob=0.5), batch_size, 20)
    for name in ("lam", "kept", "anchor", "extent"):
        values = getattr(plan, name)
        if values is not None:
            np.testing.assert_array_equal(values, values[:, ::-1])
    assert len(np.unique(plan.lam)) == 20 * -(-batch_size // 2)
    half = mixed(plan)[:, : batch_size // 2]
    assert half.any()
    assert not half.all()


# --- How often, how much ------------------------------------------------------------------------


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_prob_zero_mixes_nothing_and_prob_one_everything(define: Any, per: Any) -> None:
    never = draw(lambda: define((224, 224), prob=0.0, per=per), 8, 10)
    assert (never.kept == 1).all()
    assert not mixed(never).any()
    # An alpha of 4 draws no fraction so near to 1 that the cut is empty.
    always = draw(lambda: define((224, 224), alpha=4.0, prob=1.0, per=per), 8, 10)
    assert mixed(always).all()


@pytest.mark.parametrize("define", PLANS)
def test_whole_numbers_serve_as_fractions(define: Any) -> None:
    for prob in (0, 1):
        whole = draw(lambda p=prob: define(SIZE, alpha=1, prob=p), 8)
        fractions = draw(lambda p=prob: define(SIZE, alpha=1.0, prob=float(p)), 8)
        np.testing.assert_array_equal(whole.kept, fractions.kept)
        assert whole.kept.dtype == np.float32


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("prob", [0.2, *full(0.5, 0.9)])
def test_prob_is_the_share_of_mixed_samples_and_applied_once(define: Any, prob: float) -> None:
    plan = draw(lambda: define((224, 224), alpha=4.0, prob=prob), 4000, 2, only=("kept", "extent"))
    # 8 000 coin flips: one standard error is at most sqrt(.25 / 8000) = 0.0056.
    error = np.sqrt(prob * (1 - prob) / plan.kept.size)
    assert mixed(plan).mean() == pytest.approx(prob, abs=ERRORS * error)


@pytest.mark.parametrize("define", PLANS)
def test_prob_is_drawn_apart_from_lam_and_moves_no_other_draw(define: Any) -> None:
    plain, some = (draw(lambda p=p: define((224, 224), prob=p), 4000) for p in (1.0, 0.5))
    np.testing.assert_array_equal(plain.lam, some.lam)
    np.testing.assert_array_equal(plain.partner, some.partner)
    chosen = (some.kept < 1) | (plain.kept == 1)
    np.testing.assert_array_equal(some.kept[chosen], plain.kept[chosen])
    assert (some.kept[~chosen] == 1).all()
    assert_uncorrelated(chosen, plain.lam)


@pytest.mark.parametrize("define", PLANS)
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0, *full(0.5, 2.0)])
def test_lam_follows_the_beta_law_and_its_variance_falls_with_alpha(
    define: Any, alpha: float
) -> None:
    lam = draw(lambda: define(SIZE, alpha=alpha), 4000, 10, only=("lam",)).lam.ravel()
    assert lam.dtype == np.float32
    assert ((lam >= 0) & (lam <= 1)).all()
    law = stats.beta(alpha, alpha)
    # Twenty equally likely bins. Where alpha is small much of the law is so near to 1 that float32
    # rounds it to 1; in bins that does not show.
    counts, _ = np.histogram(lam, law.ppf(np.linspace(0, 1, 21)))
    assert stats.chisquare(counts).pvalue > LEAST_P
    variance = 1 / (4 * (2 * alpha + 1))
    assert law.var() == pytest.approx(variance)
    # The standard error of a variance is sqrt((fourth moment - variance^2) / n).
    fourth = (law.stats("k") + 3) * variance**2
    error = np.sqrt((fourth - variance**2) / lam.size)
    assert lam.var(dtype=np.float64) == pytest.approx(variance, abs=ERRORS * error)


def test_kept_fraction_counts_pixels_and_not_the_drawn_lam(many: SimpleNamespace) -> None:
    pixels = 224 * 224
    counted = (pixels - many.extent.prod(axis=-1)) / pixels
    np.testing.assert_array_equal(many.kept, counted.astype(np.float32))
    # Kept lies in [0, 1], so that of 40 000 draws one standard error is at most .5 / 200 = 0.0025.
    error = many.kept.std() / np.sqrt(many.kept.size)
    assert many.kept.mean() == pytest.approx(0.68222, abs=ERRORS * error)
    assert many.lam.mean() == pytest.approx(0.5, abs=ERRORS * 0.2887 / 200)
    clipped = (many.anchor == 0) | (many.anchor + many.extent == 224)
    # 83 % of the paper's cuts touch the border, most of them clipped by it.
    assert clipped.any(axis=-1).mean() == pytest.approx(0.83, abs=0.01)


@pytest.mark.parametrize("alpha", [0.2, 4.0, *full(0.1, 0.5, 2.0)])
def test_mean_kept_follows_from_alpha(alpha: float) -> None:
    plan = draw(lambda: cutmix_plan((64, 64), alpha=alpha), 4000, 5, only=("kept",))
    wanted = reference.mean_kept((64, 64), "clipped", stats.beta(alpha, alpha).cdf)
    error = plan.kept.std() / np.sqrt(plan.kept.size)
    assert plan.kept.mean() == pytest.approx(wanted, abs=ERRORS * error)


@pytest.mark.parametrize("placement", cutmix.PLACEMENTS)
def test_pixels_are_cut_as_often_as_the_placement_says(placement: Any) -> None:
    plan = draw(lambda: cutmix_plan(SIZE, placement=placement), 4000, 5, only=("anchor", "extent"))
    anchor, extent = plan.anchor.reshape(-1, 2), plan.extent.reshape(-1, 2)
    found = reference.painted(SIZE, anchor, extent) / len(anchor)
    wanted = reference.coverage(SIZE, placement)
    # Each pixel is a mean of 20 000 coin flips: one standard error is at most 0.0035. Of 768 pixels
    # the worst lies beyond 5 of them once in 2000 seeds.
    error = np.sqrt(wanted * (1 - wanted) / len(anchor))
    assert (np.abs(found - wanted) / error).max() < 5


@pytest.mark.parametrize("placement", ["clipped", "inside", "gaussian"])
def test_a_fixed_fraction_cuts_one_size_before_the_border_clips_the_cut(placement: Any) -> None:
    plan = draw(
        lambda: cutmix_plan((32, 48), lam=0.75, placement=placement, min_kept=0, per="sample"),
        4000,
        only=("lam", "anchor", "extent"),
    )
    assert (plan.lam == np.float32(0.75)).all()
    low, high = plan.anchor[0], plan.anchor[0] + plan.extent[0]
    unclipped = ((low > 0) & (high < (32, 48))).all(axis=1)
    assert unclipped.any()
    assert (plan.extent[0][unclipped] == (16, 24)).all()  # half of each side
    assert (plan.extent[0] <= (16, 24)).all()
    assert (plan.extent[0] == (16, 24)).all() == (placement == "inside")
    if placement == "inside":
        counts = np.unique(low[:, 0], return_counts=True)[1]
        assert len(counts) == 17
        assert stats.chisquare(counts).pvalue > LEAST_P


def test_a_fixed_fraction_of_all_or_nothing_cuts_nothing_or_all() -> None:
    for lam, extent in ((1, (0, 0)), (0.0, SIZE)):
        plan = draw(lambda lam=lam: cutmix_plan(SIZE, lam=lam, placement="inside"), 8)
        assert (plan.extent == extent).all()
        assert (plan.kept == lam).all()


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("size", [(64, 64), (40, 96)])
def test_kept_stays_within_its_bounds(per: Any, size: tuple[int, int]) -> None:
    plan = draw(lambda: cutmix_plan(size, min_kept=0.3, max_kept=0.7, per=per, prob=0.5), 64, 10)
    chosen = plan.kept < 1
    assert 0 < chosen.mean() < 1
    assert plan.kept[chosen].min() >= np.float32(0.3)
    assert plan.kept[chosen].max() <= np.float32(0.7)
    counted = 1 - plan.extent.prod(axis=-1) / (size[0] * size[1])
    np.testing.assert_allclose(plan.kept, counted, atol=1e-7)


def test_bounds_choose_among_plain_draws_and_distort_nothing_within() -> None:
    bounded = draw(lambda: cutmix_plan((64, 64), min_kept=0.3, max_kept=0.7), 4000)
    plain = draw(lambda: cutmix_plan((64, 64)), 4000, 5)
    within = (plain.kept >= 0.3) & (plain.kept <= 0.7)
    for name in ("kept", "lam"):
        found, wanted = getattr(bounded, name).ravel(), getattr(plain, name)[within]
        assert stats.ks_2samp(found, wanted).pvalue > LEAST_P
    # Fraction and box belong together: the cut is never larger than what was drawn.
    sides = np.floor(64 * np.sqrt(1 - bounded.lam.astype(np.float64)))
    assert (bounded.extent.max(axis=-1) <= sides).all()


def test_bounds_in_a_loader_redraw_only_the_samples_outside_of_them() -> None:
    size, place = (64, 64), {"seed": 3, "epoch": 1, "batch": 2}
    plain = draw_plan(CutMix(), 6000, size, **place)
    bounded = draw_plan(CutMix(min_kept=0.3, max_kept=0.7), 6000, size, **place)
    within = (plain.kept >= 0.3) & (plain.kept <= 0.7)
    assert 0.2 < within.float().mean() < 0.8
    for name in ("kept", "lam", "anchor", "extent"):
        assert getattr(bounded, name)[within].equal(getattr(plain, name)[within])
        # Who was drawn again is distributed as who was not.
        pair = getattr(bounded, name)[~within], getattr(bounded, name)[within]
        for one, other in zip(*(values.reshape(len(values), -1).T for values in pair), strict=True):
            assert stats.ks_2samp(one, other).pvalue > LEAST_P
    assert float(bounded.kept.min()) >= np.float32(0.3)
    assert float(bounded.kept.max()) <= np.float32(0.7)


def test_bounds_that_no_cut_meets_take_the_nearest_of_64() -> None:
    """Each of the 64 is below a bound of 1 by as much as its cut; the smallest cut is taken."""
    settings: Any = {"seed": 0, "epoch": 0, "batch": 0}
    plain = draw_plan(CutMix(placement="inside"), 4000, (64, 64), **settings)
    mix = CutMix(placement="inside", min_kept=0.9999, max_kept=1.0)
    bounded = draw_plan(mix, 4000, (64, 64), **settings)
    missed = bounded.kept < 0.9999
    assert 0 < missed.float().mean() < 1
    # The largest of 64 lies above the median of one 1 - 2**-64 of the time.
    assert (bounded.kept > plain.kept.median()).all()


@pytest.mark.parametrize("per", ["sample", "pair", "batch"])
def test_sides_are_drawn_each_on_its_own_in_place_of_alpha(per: Any) -> None:
    size = (32, 48)
    plan = draw(
        lambda: cutmix_plan(size, sides=(0.25, 0.75), partner="flip", per=per),
        4000 if per == "sample" else 8,
        5 if per == "sample" else 200,
    )
    extent = plan.extent.reshape(-1, 2)
    assert (plan.anchor + plan.extent <= size).all()
    assert extent.min(axis=0).tolist() == [8, 12]
    assert extent.max(axis=0).tolist() == [23, 35]  # timm's randint leaves out the upper end
    np.testing.assert_array_equal(plan.lam, plan.kept)
    if per == "sample":
        for axis in (0, 1):
            assert stats.chisquare(np.unique(extent[:, axis], return_counts=True)[1]).pvalue > (
                LEAST_P
            )
        assert_uncorrelated(extent[:, 0], extent[:, 1])


@pytest.mark.parametrize(("axes", "axis"), [("y", 0), ("x", 1)])
def test_a_cut_along_one_axis_takes_whole_rows_or_columns(axes: Any, axis: int) -> None:
    plan = draw(lambda: cutmix_plan((32, 48), axes=axes), 4000)
    other = 1 - axis
    assert (plan.anchor[..., other] == 0).all()
    assert (plan.extent[..., other] == (32, 48)[other]).all()
    sides = np.floor((32, 48)[axis] * (1 - plan.lam.astype(np.float64)))
    even = 2 * (sides // 2)
    assert (plan.extent[..., axis] <= even).all()
    low = plan.anchor[..., axis]
    unclipped = (low > 0) & (low + plan.extent[..., axis] < (32, 48)[axis])
    assert unclipped.any()
    np.testing.assert_array_equal(plan.extent[..., axis][unclipped], even[unclipped])
    # 7 / 12 without rounding: the border clips `side^2 / 4` of a side, a share uniform in [0, 1].
    assert plan.kept.mean() == pytest.approx(7 / 12, abs=0.03)


def test_sides_of_a_cut_along_one_axis_are_those_of_this_axis() -> None:
    plan = draw(lambda: cutmix_plan((32, 48), sides=(0.25, 0.75), axes="x"), 4000)
    assert (plan.anchor[..., 0] == 0).all()
    assert (plan.extent[..., 0] == 32).all()
    assert (plan.extent[..., 1].min(), plan.extent[..., 1].max()) == (12, 35)
    np.testing.assert_allclose(plan.kept, 1 - plan.extent[..., 1] / 48, atol=1e-7)


# --- Independence -------------------------------------------------------------------------------


def assert_uncorrelated(one: np.ndarray, other: np.ndarray) -> None:
    # Of n independent pairs the correlation has a standard error of 1 / sqrt(n).
    found = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert abs(found) < ERRORS / np.sqrt(one.size)


def test_fraction_place_and_partner_are_drawn_independently() -> None:
    size = 4096  # so large that the place can be told from the anchor
    plan = draw(
        lambda: cutmix_plan((size, size), placement="inside", seed=5),
        4000,
        5,
    )
    place = (plan.anchor + 0.5) / (size - plan.extent + 1)
    y, x = place[..., 0], place[..., 1]
    distance = (plan.partner - plan.own) % 4000
    for one, other in itertools.combinations((plan.lam, y, x, distance), 2):
        assert_uncorrelated(one, other)
    for axis in (y, x):
        assert stats.kstest(axis.ravel(), "uniform").pvalue > LEAST_P


def test_sides_and_place_and_chance_are_drawn_independently() -> None:
    size = 4096
    plan = draw(
        lambda: cutmix_plan((size, size), sides=(0.25, 0.75), prob=0.5, seed=5),
        4000,
        5,
    )
    chosen = mixed(plan)
    (height, width), (y, x) = (
        np.moveaxis(one[chosen], -1, 0)
        for one in (plan.extent, (plan.anchor + 0.5) / (size - plan.extent + 1))
    )
    for one, other in itertools.combinations((height, width, y, x), 2):
        assert_uncorrelated(one, other)
    assert_uncorrelated(chosen, plan.lam)


def test_each_batch_and_each_sample_draws_anew(many: SimpleNamespace) -> None:
    assert_uncorrelated(many.lam[:-1], many.lam[1:])
    assert_uncorrelated(many.lam[:, :-1], many.lam[:, 1:])


def test_two_plans_of_one_graph_draw_apart() -> None:
    both = []

    def define() -> Any:
        both.extend(cutmix_plan(SIZE) for _ in range(2))
        one, other = both[-2:]
        return SimpleNamespace(
            own=None, partner=one.partner, lam=one.lam, kept=other.lam, anchor=None, extent=None
        )

    plan = draw(define, 4000)
    assert (plan.lam != plan.kept).mean() > 0.99
    assert_uncorrelated(plan.lam, plan.kept)


def test_two_kinds_of_plan_may_share_a_seed_and_still_draw_apart() -> None:
    def define() -> Any:
        one, other = cutmix_plan(SIZE, seed=3), mixup_plan(SIZE, seed=3)
        return SimpleNamespace(
            own=None, partner=None, lam=one.lam, kept=other.lam, anchor=None, extent=None
        )

    plan = draw(define, 4000)
    assert_uncorrelated(plan.lam, plan.kept)


@pytest.mark.parametrize("define", [cutmix_plan, mixup_plan])
def test_same_seed_draws_the_same_plan_whatever_the_graphs_seed(define: Any) -> None:
    one, same, another = (
        draw(lambda s=seed: define(SIZE, seed=s), 8, 3, seed=graph_seed)
        for seed, graph_seed in ((5, 1), (5, 2), (6, 1))
    )
    for name in ("partner", "lam", "kept"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert (one.lam != another.lam).all()


@pytest.mark.parametrize("define", [cutmix_plan, mixup_plan])
def test_without_a_seed_the_graphs_seed_decides(define: Any, carrier: str) -> None:
    if carrier == "host":
        pytest.skip("the host has no graph to take a seed from")
    one, same, another, free, freer = (
        draw(lambda: define(SIZE), 8, 3, seed=graph_seed) for graph_seed in (1, 1, 2, None, None)
    )
    np.testing.assert_array_equal(one.lam, same.lam)
    for left, right in ((one, another), (free, freer), (one, free)):
        assert (left.lam != right.lam).all()


# --- Cutout -------------------------------------------------------------------------------------


def test_cutout_erases_a_fifth_and_leaves_every_sample_its_own_partner() -> None:
    plan = draw(lambda: cutout_plan((32, 32), side=16), 4000, 5)
    np.testing.assert_array_equal(plan.own, np.tile(np.arange(4000), (5, 1)))
    np.testing.assert_array_equal(plan.partner, plan.own)
    counted = (32 * 32 - plan.extent.prod(axis=-1)) / (32 * 32)
    np.testing.assert_array_equal(plan.kept, counted.astype(np.float32))
    error = plan.kept.std() / np.sqrt(plan.kept.size)
    assert 1 - plan.kept.mean() == pytest.approx(0.1914, abs=ERRORS * error)
    assert_uncorrelated(plan.anchor[..., 0], plan.anchor[..., 1])


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_cutout_is_applied_with_its_probability(prob: float) -> None:
    plan = draw(lambda: cutout_plan(SIZE, side=4, prob=prob), 4000, 2, only=("kept", "extent"))
    error = np.sqrt(prob * (1 - prob) / plan.kept.size)
    assert mixed(plan).mean() == pytest.approx(prob, abs=ERRORS * error)


# --- What is refused ----------------------------------------------------------------------------

ONE_SIZE = "Mixing needs every image in the batch to have one size: resize or crop before it."
NOTHING = "To mix nothing, pass `prob=0.0`."
PAIRS = "Only there is a sample its partner's partner, so that two can share a draw."

# What both kinds of mix refuse: settings, and the end of the message.
SHARED: list[tuple[dict[str, Any], str]] = [
    ({"alpha": 0.0}, f"`alpha` must be finite and above 0, got 0.0. {NOTHING}"),
    ({"alpha": -1}, f"`alpha` must be finite and above 0, got -1. {NOTHING}"),
    ({"alpha": float("nan")}, f"`alpha` must be finite and above 0, got nan. {NOTHING}"),
    ({"alpha": float("inf")}, f"`alpha` must be finite and above 0, got inf. {NOTHING}"),
    ({"alpha": "1"}, "`alpha` must be a number, finite and above 0, got '1'."),
    ({"alpha": True}, "`alpha` must be a number, finite and above 0, got True."),
    ({"prob": -0.1}, "`prob` must be in [0, 1], got -0.1."),
    ({"prob": 1.5}, "`prob` must be in [0, 1], got 1.5."),
    ({"prob": float("nan")}, "`prob` must be in [0, 1], got nan."),
    ({"prob": None}, "`prob` must be a number in [0, 1], got None."),
    ({"per": "element"}, "`per` must be one of 'sample', 'pair', 'batch', got 'element'."),
    (
        {"partner": "shuffle"},
        "`partner` must be one of 'derangement', 'permutation', 'roll', 'flip', got 'shuffle'.",
    ),
    (
        {"per": "pair", "partner": "roll"},
        f"`partner` must be 'flip' when per='pair', got 'roll'. {PAIRS}",
    ),
]
CUTMIX: list[tuple[dict[str, Any], str]] = [
    (
        {"placement": "centre"},
        "`placement` must be one of 'clipped', 'clipped_whole', 'inside', 'uniform', "
        "'gaussian', got 'centre'.",
    ),
    ({"axes": "time"}, "`axes` must be one of 'both', 'y', 'x', got 'time'."),
    ({"min_kept": -0.5}, "`min_kept` must be in [0, 1], got -0.5."),
    ({"max_kept": 1.5}, "`max_kept` must be in [0, 1], got 1.5."),
    ({"min_kept": 0.5, "max_kept": 0.5}, "`min_kept` must be below max_kept=0.5, got 0.5."),
    ({"min_kept": 0.8, "max_kept": 0.2}, "`min_kept` must be below max_kept=0.2, got 0.8."),
    (
        {"sides": (0.5, 0.2)},
        "`sides` must be (min, max) with 0 <= min <= max <= 1, got (0.5, 0.2).",
    ),
    (
        {"sides": (0.5, 1.2)},
        "`sides` must be (min, max) with 0 <= min <= max <= 1, got (0.5, 1.2).",
    ),
    ({"sides": 0.5}, "`sides` must be (min, max) with 0 <= min <= max <= 1, got 0.5."),
    ({"sides": (0.5, 0.5)}, "`sides` must have a min below its max, got (0.5, 0.5)."),
    (
        {"sides": (0.2, 0.8), "alpha": 0.5},
        "`alpha` must be left out with `sides`, which take its place, got 0.5.",
    ),
    ({"lam": 1.5}, "`lam` must be in [0, 1], got 1.5."),
    (
        {"sides": (0.2, 0.8), "lam": 0.5},
        "`lam` must be left out with `sides`, which take its place, got 0.5.",
    ),
    (
        {"lam": 0.5, "alpha": 2},
        "`alpha` must be left out with `lam`, which takes its place, got 2.",
    ),
]
CUTOUT: list[tuple[dict[str, Any], str]] = [
    ({"side": 0}, "`side` must be a whole number of at least 2, got 0."),
    ({"side": 2.0}, "`side` must be a whole number of at least 2, got 2.0."),
    (
        {"side": 7},
        "`side` must be even, got 7. The square has a centre pixel, and 6 would be drawn.",
    ),
    ({"side": 8, "prob": 2}, "`prob` must be in [0, 1], got 2."),
]


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        call()


@pytest.mark.parametrize(("settings", "message"), SHARED + CUTMIX)
def test_cutmix_refuses_what_it_cannot_draw_and_says_why(
    settings: dict[str, Any], message: str
) -> None:
    refused(lambda: cutmix_plan(SIZE, **settings), f"cutmix_plan: {message}")
    # A loader knows the labels that a graph does not.
    message = message.replace("'flip', got", "'flip', 'weighted', got")
    refused(lambda: CutMix(**settings), f"CutMix: {message}")


@pytest.mark.parametrize(("settings", "message"), SHARED)
def test_mixup_refuses_what_it_cannot_draw_and_says_why(
    settings: dict[str, Any], message: str
) -> None:
    refused(lambda: mixup_plan(SIZE, **settings), f"mixup_plan: {message}")
    # A loader knows the labels that a graph does not.
    message = message.replace("'flip', got", "'flip', 'weighted', got")
    refused(lambda: MixUp(**settings), f"MixUp: {message}")


@pytest.mark.parametrize(("settings", "message"), CUTOUT)
def test_cutout_refuses_what_it_cannot_draw_and_says_why(
    settings: dict[str, Any], message: str
) -> None:
    refused(lambda: cutout_plan(SIZE, **settings), f"cutout_plan: {message}")
    refused(lambda: Cutout(**settings), f"Cutout: {message}")


@pytest.mark.parametrize(
    "fill", [256, -1, "red", (1, 2), (1, 2, 256), (0, float("nan"), 0)], ids=repr
)
def test_cutout_refuses_a_fill_that_is_no_colour(fill: Any) -> None:
    message = f"Cutout: `fill` must be one value or R, G, B in [0, 255], got {fill!r}."
    refused(lambda: Cutout(side=8, fill=fill), message)


@pytest.mark.parametrize(
    ("name", "define"),
    [
        ("cutmix_plan", cutmix_plan),
        ("mixup_plan", mixup_plan),
        ("cutout_plan", lambda size: cutout_plan(size, side=8)),
    ],
)
@pytest.mark.parametrize(
    "size", [(224,), 224, (224, 224, 3), (0, 224), (224.0, 224), (224, -1), None], ids=repr
)
def test_size_that_is_no_size_is_refused(name: str, define: Any, size: Any) -> None:
    message = f"{name}: `size` must be (height, width) in whole pixels, got {size!r}. {ONE_SIZE}"
    refused(lambda: define(size), message)


@pytest.mark.parametrize("size", [(32, 4), (4, 32)])
def test_sides_without_a_pixel_between_them_are_refused(size: tuple[int, int]) -> None:
    message = (
        f"cutmix_plan: `sides` must differ by at least one pixel of size={size}, got (0.3, 0.4)."
    )
    refused(lambda: define_in_a_graph(lambda: cutmix_plan(size, sides=(0.3, 0.4))), message)


@pytest.mark.parametrize("name", ["cutmix_plan", "mixup_plan", "cutout_plan"])
@pytest.mark.parametrize("seed", [-1, 1.5, True, "7"], ids=repr)
def test_seed_that_is_no_seed_is_refused(name: str, seed: Any) -> None:
    refused(
        lambda: define_in_a_graph(lambda: seeded(name, seed)),
        f"{name}: `seed` must be a whole number of at least 0, or None, got {seed!r}.",
    )


@pytest.mark.parametrize("name", ["cutmix_plan", "mixup_plan", "cutout_plan"])
def test_second_plan_of_a_kind_with_an_equal_seed_is_refused(name: str) -> None:
    message = (
        f"{name}: `seed` must differ from those of the graph's other draws of this kind, got 3. "
        "Two operators given equal seeds draw equal numbers: pass another one."
    )
    refused(lambda: define_in_a_graph(lambda: (seeded(name, 3), seeded(name, 3))), message)
    define_in_a_graph(lambda: (seeded(name, 3), seeded(name, 4)))
    define_in_a_graph(lambda: seeded(name, 3))  # another graph may


def seeded(name: str, seed: Any) -> Any:
    if name == "cutout_plan":
        return cutout_plan(SIZE, side=8, seed=seed)
    return (cutmix_plan if name == "cutmix_plan" else mixup_plan)(SIZE, seed=seed)


@pytest.mark.parametrize("mix", [CutMix, MixUp])
def test_timm_preset_refuses_an_unknown_mode(mix: Any) -> None:
    message = f"{mix.__name__}.timm: `mode` must be one of 'batch', 'pair', 'elem', got 'half'."
    refused(lambda: mix.timm(mode="half"), message)
