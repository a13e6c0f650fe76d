"""Two classifiers side by side: differences, and intervals that say what a difference is worth.

Two kinds of chance are kept apart:

- **Images.** Other test images would give another difference. A paired bootstrap resamples images:
  both classifiers are judged on the same images, so that what is hard for both cancels.
- **Seeds.** Another training run would give another classifier. Where each side has several runs,
  Welch's interval of the runs' means says so. The images stay as they are.

An interval over images says nothing about another training run.

Sources: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile
interval); Welch 1947, Biometrika 34.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from evaluation.refusal import refuse
from evaluation.result import Result
from evaluation.saved import Evaluation

#: Share of intervals that hold the true difference.
LEVEL = 0.95

#: Resamples of the bootstrap: an end of the interval then varies by some 3 % of its width.
NUM_RESAMPLES = 2000

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Hold a number of two sides.

    Attributes:
        name: Name of the number, as ``occlusion/center_0.5``.
        first: Mean over the runs of the first side.
        second: Mean over the runs of the second side.
        over_images: Interval of ``second - first`` over images; None where the number is no mean of
            values per image, or of one image alone.
        over_seeds: Interval of ``second - first`` over training runs; None with fewer than two runs
            on a side.
    """

    name: str
    first: float
    second: float
    over_images: Interval | None = None
    over_seeds: Interval | None = None

    @property
    def difference(self) -> float:
        """The second side's number minus the first side's."""
        return self.second - self.first

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval, and every interval excludes 0."""
        intervals = [i for i in (self.over_images, self.over_seeds) if i is not None]
        return bool(intervals) and all(low > 0 or high < 0 for low, high in intervals)


def compare(
    first: Sequence[Evaluation], second: Sequence[Evaluation], *, seed: int = 0
) -> list[Difference]:
    """Compare two sides, each of one or several training runs that differ by their seeds alone.

    Args:
        first: Runs of the side that is subtracted, such as the baseline.
        second: Runs of the other side.
        seed: Seed of the bootstrap.

    Returns:
        Differences of all numbers that every run has, in the order of the first run.

    Raises:
        SystemExit: The runs have no number in common, or `check_alike` refuses them.
    """
    runs = [*first, *second]
    check_alike(runs)
    common = [name for name in runs[0].numbers if all(name in run.numbers for run in runs)]
    if not common:
        measures = "; ".join(
            f"{name} has {', '.join(result.name for result in run.results) or 'none'}"
            for name, run in {run.name: run for run in runs}.items()
        )
        refuse(
            f"`compare` must have evaluations of a common measure, and {measures}. Evaluate both "
            "with equal `--measures`.",
        )
    per_image = [name for name in common if all(name in run.samples for run in runs)]
    rows = {name: _mean(second, name) - _mean(first, name) for name in per_image}
    over_images = _intervals(rows, seed)
    return [
        Difference(
            name,
            *(float(np.mean([run.numbers[name] for run in side])) for side in (first, second)),
            over_images=over_images.get(name),
            over_seeds=welch_interval(
                *([r.numbers[name] for r in side] for side in (first, second))
            ),
        )
        for name in common
    ]


def check_alike(runs: Sequence[Evaluation]) -> None:
    """Refuse evaluations that differ by more than their classifiers.

    Settings that a result lacks are not compared: evaluations of older versions have none.

    Raises:
        SystemExit: Images, a setting of a common measure or its number of values per image differ.
            The sentence names them.
    """
    for first, other in combinations(runs, 2):
        if other.images != first.images:
            refuse(
                f"`compare` must have evaluations of the same images, and {first.name} and "
                f"{other.name} are of different ones. Evaluate both with equal `--data` and "
                "`--max-images`.",
            )
        theirs = {result.name: result for result in other.results}
        for result in first.results:
            if result.name in theirs:
                _check_measure(first.name, result, other.name, theirs[result.name])


def _check_measure(first: str, mine: Result, second: str, theirs: Result) -> None:
    """Refuse two results of one measure whose settings or numbers of values differ."""
    for name in filter(theirs.settings.__contains__, mine.settings):
        values = (mine.settings[name], theirs.settings[name])
        if values[0] != values[1]:
            refuse(
                f"`compare` must have evaluations of equal settings, and `{name}` of {mine.name} "
                f"is {values[0]} for {first} and {values[1]} for {second}. Evaluate one of them "
                "anew, or compare other measures.",
            )
    for name in filter(theirs.samples.__contains__, mine.samples):
        counts = (len(mine.samples[name]), len(theirs.samples[name]))
        if counts[0] != counts[1]:
            refuse(
                f"`compare` must have evaluations of the same images, and {name} of {mine.name} "
                f"has {counts[0]} values for {first} and {counts[1]} for {second}. Evaluate one of "
                "them anew.",
            )


def paired_intervals(
    differences: np.ndarray,
    *,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Return bootstrap intervals of means over images.

    Args:
        differences: A row of differences per image for each number: ``[S, N]`` float64.
        level: Share of intervals that hold the true mean, in (0, 1).
        num_resamples: Resamples; all rows share the images of each.
        seed: Seed of the resampling.

    Returns:
        Low and high end of each row: ``[S, 2]`` float64.
    """
    rng = np.random.default_rng(seed)
    count = differences.shape[1]
    means = np.empty((num_resamples, len(differences)))
    for resample in means:
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        resample[:] = differences @ times / count
    tail = (1 - level) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def welch_interval(
    first: Sequence[float | None], second: Sequence[float | None], level: float = LEVEL
) -> Interval | None:
    """Return Welch's interval of the difference of two means, or None where runs tell too little.

    Args:
        first: A number of each run of the side that is subtracted; None where a run has none.
        second: The same of the other side.
        level: Share of intervals that hold the true difference, in (0, 1).
    """
    if min(len(first), len(second)) < 2 or None in (*first, *second):
        return None
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    middle, spread = float(np.mean(second) - np.mean(first)), math.sqrt(sum(parts))
    if spread == 0:  # equal runs say nothing of other runs
        return None
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True)
    )
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * spread
    return middle - reach, middle + reach


def _mean(side: Sequence[Evaluation], name: str) -> np.ndarray:
    """Return the mean over runs of each image's value: ``[N]``."""
    return np.mean([run.samples[name] for run in side], axis=0)


def _intervals(rows: dict[str, np.ndarray], seed: int) -> dict[str, Interval]:
    """Return an interval for each row of at least two images, since one says nothing of others.

    Measures may have left out images, so lengths differ.
    """
    intervals: dict[str, Interval] = {}
    for count in dict.fromkeys(map(len, rows.values())):
        if count < 2:
            continue
        names = [name for name, row in rows.items() if len(row) == count]
        ends = paired_intervals(np.stack([rows[name] for name in names]), seed=seed)
        intervals |= {
            name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)
        }
    return intervals
