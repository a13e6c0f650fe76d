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
    "map": "mAP",
    "map_50": "at IoU 0.5",
    "map_75": "at IoU 0.75",
    "mar_100": "recall",
    "miou": "mean IoU",
    "boundary_iou": "boundary IoU",
    "dice": "Dice",
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "blind_bleu4": "BLEU-4 against other images",
    "exact": "exactly right",
    "caption_r1": "captions at 1",
    "caption_r5": "captions at 5",
    "image_r1": "images at 1",
    "image_r5": "images at 5",
    "probe": "linear probe",
    "few_1": "one image a class",
    "few_5": "five",
    "few_20": "twenty",
    "pretrained": "first classes",
    **{f"top1_{level}": f"{int(level)} % covered" for level in ("00", "25", "50", "75")},
    "recall": "recall",
    "map_covered": "mAP, mean of all covers",
    "recall_covered": "recall, mean of all covers",
    **{
        f"{number}_covered_{level}": f"{name}{int(level)} % covered"
        for number, name in (("map", "mAP, "), ("recall", "recall, "))
        for level in ("00", "25", "50", "75")
    },
    "top1_video": "top-1 of videos",
    "top1_clip": "of clips",
    **{f"frozen_{share}": f"{share} % of frames frozen" for share in (25, 50, 75)},
    **{f"dropped_{share}": f"{share} % dropped" for share in (25, 50, 75)},
}
#: Numbers in files of results/ that no table shows: losses are no shares.
HIDDEN = ("val_loss",)


def spread(values: Sequence[float | None] | None, scale: float) -> str:
    """Return mean and standard deviation over runs as text."""
    if values is None or any(value is None for value in values):
        return "-"
    array = scale * np.asarray(values, np.float64)
    digits = 1 if scale == 100 else 3
    text = f"{array.mean():.{digits}f}"
    return text if len(array) < 2 else f"{text} ± {array.std(ddof=1):.{digits}f}"


def difference(
    baseline: Sequence[float | None] | None, values: Sequence[float | None] | None
) -> str:
    """Return a difference of means in points with its interval, bold where that leaves out 0.

    The interval is judged as it is printed. None stands for a number that a row or a run lacks.
    """
    if baseline is None or values is None or None in (*baseline, *values):
        return "-"
    points = 100 * (np.mean(np.array(values, float)) - np.mean(np.array(baseline, float)))
    interval = welch_interval(baseline, values)
    if interval is None:
        return f"{points:+.1f}"
    low, high = (round(100 * end, 1) for end in interval)
    text = f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    for row in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(row) + " |"
