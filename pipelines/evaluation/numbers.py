"""How numbers of results/ are named and written in tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.compare import welch_interval

#: Names of numbers in files of results/, as headings.
NAMES = {
    "labels": "labels per class",
    "top1": "top-1",
    "untrained_top1": "top-1 of the untrained encoder",
    "iou": "IoU",
    "student_iou": "IoU of the student",
}


def spread(values: Sequence[float | None] | None, scale: float) -> str:
    """Return mean and standard deviation over runs as text."""
    if values is None or any(value is None for value in values):
        return "-"
    array = scale * np.asarray(values, np.float64)
    digits = 1 if scale == 100 else 3
    text = f"{array.mean():.{digits}f}"
    return text if len(array) < 2 else f"{text} ± {array.std(ddof=1):.{digits}f}"


def difference(baseline: Sequence[float], values: Sequence[float]) -> str:
    """Return a difference of means in points with its interval, bold where that leaves out 0."""
    points = 100 * (np.mean(values) - np.mean(baseline))
    interval = welch_interval(baseline, values)
    if interval is None:
        return f"{points:+.1f}"
    low, high = (100 * end for end in interval)
    text = f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    for row in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(row) + " |"
