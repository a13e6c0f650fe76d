"""Write RESULTS.md from the files of results/.

    python pipelines/render_results.py
    python pipelines/render_results.py --check

Each file of results/ is a study.json that study.py wrote, under a name with its date. With --check
nothing is written, and the exit status is 1 where RESULTS.md is not what would be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from evaluation.compare import Interval, welch_interval

FOLDER = Path(__file__).parent
#: Numbers of the tables: heading, name, and by what the number is multiplied.
COLUMNS = (
    ("top-1, %", "classification/top1", 100),
    ("top-1 of training images, %", "train_top1", 100),
    ("NLL", "classification/nll", 1),
    ("ECE, %", "classification/ece", 100),
    ("confidence - top-1, %", "classification/overconfidence", 100),
    ("behind a hole, %", "occlusion/center", 100),
    ("border hidden, %", "occlusion/border", 100),
    ("between classes, cut, %", "in_between/cutmix", 100),
    ("FGSM, %", "attacks/fgsm", 100),
    ("PGD, %", "attacks/pgd", 100),
    ("corruption error, %", "corruptions/mean_error", 100),
    ("OOD AUROC, %", "outliers/auroc", 100),
    ("MaxBoxAccV2, %", "localisation/max_box_acc_v2", 100),
    ("the same of whole images, %", "localisation/whole_image_v2", 100),
)


#: Share of whole images from which on there is little to localise, and no claim is judged.
MOST_OF_WHOLE_IMAGES = 0.2


@dataclass(frozen=True)
class Claim:
    """Hold a claim of the paper, arXiv:1905.04899: one method has a better number than another.

    Attributes:
        text: The claim, and the section that makes it.
        number: Name of the number.
        better: Method that is claimed to be better.
        worse: Method that it is compared with.
        lower: Whether a lower number is better.
    """

    text: str
    number: str
    better: str = "cutmix"
    worse: str = "none"
    lower: bool = False


CLAIMS = (
    Claim("classifies better than no mix (4.1.2)", "classification/top1"),
    Claim("classifies better than Cutout (4.1.2)", "classification/top1", worse="cutout"),
    Claim("classifies better than MixUp (4.1.2)", "classification/top1", worse="mixup"),
    Claim("localises better than no mix (4.2)", "localisation/max_box_acc_v2"),
    Claim("localises better than MixUp (4.2)", "localisation/max_box_acc_v2", worse="mixup"),
    Claim("localises better than Cutout (4.2)", "localisation/max_box_acc_v2", worse="cutout"),
    Claim("sees behind a hole in the centre (4.4)", "occlusion/center"),
    Claim("sees what a hidden border leaves (4.4)", "occlusion/border"),
    Claim("sees either class of a cut image (4.4)", "in_between/cutmix"),
    Claim("withstands FGSM better (4.4)", "attacks/fgsm"),
    Claim("tells noise from its own images (4.4)", "outliers/auroc"),
    Claim("is less over-confident (4.4)", "classification/overconfidence", lower=True),
    Claim("is calibrated better (not claimed)", "classification/ece", lower=True),
    Claim("gains by a uniform centre (4.1.3)", "classification/top1", worse="centre_gaussian"),
    Claim("gains by sizes that differ (4.1.3)", "classification/top1", worse="fixed_size"),
    Claim("gains by labels of both parts (4.1.3)", "classification/top1", worse="one_hot"),
    Claim("gains by labels by area (4.1.3)", "classification/top1", worse="complete_label"),
    Claim("gains by a constant probability (4.1.3)", "classification/top1", worse="scheduled"),
    Claim("gains by mixing the input (4.1.3)", "classification/top1", worse="feature_cutmix"),
)


@dataclass(frozen=True)
class Settings:
    """Hold what to do."""

    check: bool = False
    """Write nothing, and fail where RESULTS.md is out of date."""


def main(settings: Settings) -> None:
    """Write RESULTS.md, or check it."""
    paths = sorted((FOLDER / "results").glob("*.json"))
    if not paths:
        raise SystemExit(f"render_results: {FOLDER / 'results'} must hold a study.json.")
    text = "\n".join(page([json.loads(path.read_text()) for path in paths])) + "\n"
    path = FOLDER / "RESULTS.md"
    if not settings.check:
        path.write_text(text)
    elif not path.exists() or path.read_text() != text:
        raise SystemExit(f"{path} is out of date. Run `python pipelines/render_results.py`.")


def page(studies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Results of our own"
    yield ""
    yield "Written by `python pipelines/render_results.py` from results/. Change nothing by hand."
    yield ""
    yield (
        "Small networks on small images, trained on two cores by [study.py](study.py) until they "
        "know the training images by heart. These are directions, not the paper's numbers. Means "
        "over seeds, with the standard deviation. A claim of the paper is **shown** here where "
        "the 95 % interval of the difference between training runs (Welch) lies on the claimed "
        "side of zero, **contradicted** where it lies on the other side, and **open** where it "
        "holds zero. Test images are the same throughout, and one of twenty such verdicts is wrong "
        "by chance."
    )
    for study in studies:
        yield ""
        yield from section(study)


def section(study: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of one study."""
    settings, methods = study["settings"], study["methods"]
    yield f"## {study['data']}"
    yield ""
    yield (
        f"{settings['epochs']} epochs of AdamW, batches of {settings['batch_size']}; "
        f"{study['machine']}, {study['date']}."
    )
    yield ""
    columns = [c for c in COLUMNS if any(c[1] in row["numbers"] for row in methods.values())]
    yield from table(
        ["method", "seeds", *(heading for heading, _, _ in columns)],
        [
            [
                name,
                str(len(row["numbers"]["train_top1"])),
                *(spread(row["numbers"].get(number), scale) for _, number, scale in columns),
            ]
            for name, row in methods.items()
        ],
    )
    rows = [row for claim in CLAIMS if (row := verdict(claim, methods)) is not None]
    if rows:
        yield ""
        yield from table(["CutMix ...", "difference", "95 % interval", "here"], rows)


def verdict(claim: Claim, methods: Mapping[str, Any]) -> list[str] | None:
    """Return the row of a claim, or None where nothing can be said of it."""
    sides = [
        methods.get(method, {"numbers": {}})["numbers"].get(claim.number)
        for method in (claim.worse, claim.better)
    ]
    if any(values is None or None in values for values in sides):
        return None
    whole = methods[claim.better]["numbers"].get("localisation/whole_image_v2", [0.0])
    if claim.number.startswith("localisation/") and max(whole) > MOST_OF_WHOLE_IMAGES:
        return None
    interval = welch_interval(*sides)
    if interval is None:
        return None
    difference = float(np.mean(sides[1]) - np.mean(sides[0]))
    low, high = interval
    ends = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return [claim.text, f"{100 * difference:+.1f} points", ends, judged(interval, claim.lower)]


def judged(interval: Interval, lower: bool) -> str:
    """Return what an interval says of a claim that a difference is above, or below, zero."""
    low, high = (-interval[1], -interval[0]) if lower else interval
    if low > 0:
        return "shown"
    return "**contradicted**" if high < 0 else "open"


def spread(values: Sequence[float | None] | None, scale: float) -> str:
    """Return mean and standard deviation over seeds as text."""
    if values is None or any(value is None for value in values):
        return "-"
    array = scale * np.asarray(values, np.float64)
    digits = 1 if scale == 100 else 3
    text = f"{array.mean():.{digits}f}"
    return text if len(array) < 2 else f"{text} ± {array.std(ddof=1):.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    for row in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(row) + " |"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
