"""Differences of two classifiers, and the intervals around them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.compare import Difference, compare, paired_intervals, welch_interval
from evaluation.result import Result
from evaluation.saved import Evaluation


def evaluation(name: str, top1: np.ndarray, ece: float = 0.1, images: str = "a") -> Evaluation:
    result = Result("classification", "Accuracy", {"top1": top1.mean(), "ece": ece}, {"top1": top1})
    return Evaluation(name, (result,), images=images)


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    """Of 400 intervals of 90 % of skewed values, those that miss are binomial.

    The percentile interval of 80 values is narrower than the exact one by some two points.
    """
    rng = np.random.default_rng(0)
    rate, count = 0.2, 80
    hits = 0
    for number in range(400):
        first = rng.random(count) < 0.6
        second = np.where(rng.random(count) < rate, True, first)  # better by rate * 0.4 on average
        row = (second.astype(float) - first)[None]
        ((low, high),) = paired_intervals(row, level=0.9, num_resamples=400, seed=number)
        hits += low <= rate * 0.4 <= high
    spread = math.sqrt(0.9 * 0.1 / 400)
    assert 0.9 - 0.03 - 3 * spread < hits / 400 < 0.9 + 3 * spread


def test_intervals_are_those_of_the_exact_distribution_of_resampled_means() -> None:
    """The mean of resamples of zeros and ones is binomial, so quantiles are known."""
    row = np.array([[1.0] * 30 + [0.0] * 70])
    ((low, high),) = paired_intervals(row, num_resamples=20_000, seed=3)
    exact = stats.binom(100, 0.3).ppf([0.025, 0.975]) / 100
    np.testing.assert_allclose([low, high], exact, atol=0.0101)  # one step of the distribution


def test_equal_seeds_give_equal_intervals_and_rows_share_their_images() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 50))
    rows[1] = rows[0] + 1
    ends = paired_intervals(rows, num_resamples=100, seed=4)
    np.testing.assert_array_equal(ends, paired_intervals(rows, num_resamples=100, seed=4))
    assert (ends != paired_intervals(rows, num_resamples=100, seed=5)).any()
    np.testing.assert_allclose(ends[1], ends[0] + 1)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    """Two classifiers that differ on one image of 40 have an interval of a few images."""
    first = np.random.default_rng(0).random(40)
    second = first.copy()
    second[7] += 0.5
    ((low, high),) = paired_intervals((second - first)[None])
    assert low == 0
    assert high <= 4 * 0.5 / 40


def test_the_interval_over_seeds_is_welchs() -> None:
    first, second = [0.71, 0.73, 0.70], [0.75, 0.78, 0.74, 0.77]
    exact = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert welch_interval(first, second) == pytest.approx((exact.low, exact.high))
    assert welch_interval([0.7], second) is None
    assert welch_interval([0.7, 0.7], [0.8, 0.8]) is None  # of no spread nothing is known


def test_differences_are_the_second_minus_the_first() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200), rng.random(200) + 0.3
    top1, ece = compare([evaluation("a", first, 0.1)], [evaluation("b", second, 0.3)], seed=2)
    assert top1.name == "classification/top1"
    assert top1.difference == pytest.approx((second - first).mean())
    assert (top1.first, top1.second) == pytest.approx((first.mean(), second.mean()))
    ((low, high),) = paired_intervals((second - first)[None], seed=2)
    assert top1.over_images == (low, high)
    assert top1.over_seeds is None
    assert top1.is_clear
    assert ece.difference == pytest.approx(0.2)
    assert ece.over_images is None  # no mean of values per image
    assert not ece.is_clear


def test_runs_of_several_seeds_are_averaged_image_by_image() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 50)), rng.random((3, 50))
    sides = [[evaluation("x", row, row[0]) for row in side] for side in (first, second)]
    top1, ece = compare(*sides)
    means = second.mean(0) - first.mean(0)
    ((low, high),) = paired_intervals(means[None])
    assert top1.over_images == pytest.approx((low, high))
    assert top1.over_seeds == welch_interval(first.mean(1).tolist(), second.mean(1).tolist())
    assert ece.over_seeds == welch_interval(first[:, 0].tolist(), second[:, 0].tolist())
    assert (ece.first, ece.second) == pytest.approx((first[:, 0].mean(), second[:, 0].mean()))


@pytest.mark.parametrize(
    ("images", "seeds", "is_clear"),
    [
        ((0.1, 0.2), None, True),
        ((-0.2, -0.1), (-0.3, -0.1), True),
        ((0.1, 0.2), (-0.1, 0.3), False),
        ((-0.1, 0.2), None, False),
        (None, None, False),
        (None, (0.1, 0.2), True),
        ((math.nan, math.nan), None, False),
    ],
)
def test_a_difference_is_clear_where_every_interval_excludes_zero(
    images: tuple[float, float] | None, seeds: tuple[float, float] | None, is_clear: bool
) -> None:
    assert Difference("x", 0.0, 0.1, images, seeds).is_clear == is_clear


def test_measures_of_one_side_alone_are_left_out_and_lengths_may_differ() -> None:
    first = evaluation("a", np.arange(10.0))
    extra = Result("attacks", "Attacks", {"pgd": 0.5}, {"pgd": np.full(4, 0.5)})
    both = dataclasses.replace(first, results=(*first.results, extra))
    names = [row.name for row in compare([first], [both])]
    assert names == ["classification/top1", "classification/ece"]
    rows = compare([both], [both])
    assert [row.over_images for row in rows] == [(0, 0), None, (0, 0)]


def test_evaluations_of_other_images_are_refused() -> None:
    values = np.arange(10.0)
    with pytest.raises(SystemExit) as refusal:
        compare([evaluation("a", values)], [evaluation("b", values, images="b")])
    assert str(refusal.value) == (
        "evaluate: `compare` must have evaluations of the same images, and a and b are of "
        "different ones. Evaluate both with equal `--data` and `--max-images`."
    )


def attacked(name: str, count: int = 10, **settings: object) -> Evaluation:
    result = Result("attacks", "Attacks", {"pgd": 0.5}, {"pgd": np.zeros(count)}, settings=settings)
    return dataclasses.replace(evaluation(name, np.arange(10.0)), results=(result,))


def test_a_measure_of_other_settings_is_refused_by_name() -> None:
    sides = [attacked("a", eps=0.25, seed=0), attacked("b", eps=0.5, seed=0)]
    with pytest.raises(SystemExit) as refusal:
        compare([sides[0]], [sides[1]])
    assert str(refusal.value) == (
        "evaluate: `compare` must have evaluations of equal settings, and `eps` of attacks is 0.25 "
        "for a and 0.5 for b. Evaluate one of them anew, or compare other measures."
    )
    with pytest.raises(SystemExit, match="`seed` of attacks is 0 for a and 1 for c"):
        compare([sides[0], sides[0]], [sides[0], attacked("c", eps=0.25, seed=1)])
    with pytest.raises(SystemExit, match="`eps` of attacks"):  # older than the first side's runs
        compare([attacked("old")], sides)


def test_settings_that_one_side_does_not_know_are_not_compared() -> None:
    rows = compare([attacked("a", eps=0.25, seed=0)], [attacked("old")])
    assert [row.name for row in rows] == ["attacks/pgd"]


def test_other_numbers_of_values_per_image_are_refused_by_name() -> None:
    with pytest.raises(SystemExit) as refusal:
        compare([attacked("a", 10)], [attacked("b", 13)])
    assert str(refusal.value) == (
        "evaluate: `compare` must have evaluations of the same images, and pgd of attacks has 10 "
        "values for a and 13 for b. Evaluate one of them anew."
    )


def test_a_single_image_says_nothing_of_other_images() -> None:
    first, second = attacked("a", 1), evaluation("b", np.ones(1))
    (row,) = compare([first], [first])
    assert row.over_images is None
    top1, _ = compare([evaluation("a", np.zeros(1))], [second])
    assert (top1.difference, top1.over_images, top1.is_clear) == (1, None, False)


def test_evaluations_without_a_common_measure_are_refused() -> None:
    empty = Evaluation("b", (Result("attacks", "Attacks", {"pgd": 0.5}),), images="a")
    with pytest.raises(SystemExit) as refusal:
        compare([evaluation("a", np.arange(10.0))], [empty])
    assert str(refusal.value) == (
        "evaluate: `compare` must have evaluations of a common measure, and a has classification; "
        "b has attacks. Evaluate both with equal `--measures`."
    )
