"""Write RESULTS.md, and its plots, from the files of results/.

    python pipelines/render_results.py
    python pipelines/render_results.py --check

Files of results/ are those that study.py and the recipes with few or no labels write, under names
with their dates. With --check nothing is written, and the exit status is 1 where RESULTS.md is not
what would be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from evaluation.compare import Interval, welch_interval
from evaluation.figures import COLOURS, saved
from harness.methods import ABLATIONS, HEADLINE, SWEEPS

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
    ("AUROC of noise, %", "outliers/uniform_auroc", 100),
    ("AUROC of other images, %", "outliers/other_auroc", 100),
    ("MaxBoxAccV2, %", "localisation/max_box_acc_v2", 100),
    ("at IoU 0.5, %", "localisation/max_box_acc_v2_iou50", 100),
    ("GT-known, %", "localisation/gt_known", 100),
    ("MaxBoxAccV2 of whole images, %", "localisation/whole_image_v2", 100),
)
#: Parts of a study's table.
PARTS = (("Methods", HEADLINE), ("Ablations", ABLATIONS), ("Sweeps", SWEEPS))
#: Plots of the sweeps: axis, and the method at each of its points.
AXES = {
    "share of images that are mixed": {
        0.0: "none",
        0.1: "prob_0.1",
        0.25: "prob_0.25",
        0.5: "cutmix",
        0.75: "prob_0.75",
        1.0: "prob_1",
    },
    "alpha": {
        0.1: "alpha_0.1",
        0.25: "alpha_0.25",
        1.0: "cutmix",
        2.0: "alpha_2",
        4.0: "alpha_4",
    },
    "share that is kept (fixed size)": {
        0.1: "kept_0.1",
        0.5: "kept_0.5",
        0.75: "fixed_size",
        0.95: "kept_0.95",
    },
}
#: Lines of those plots.
LINES = {"top-1": "classification/top1", "behind a hole": "occlusion/center"}

#: Share of whole images from which on there is little to localise, and no claim is judged.
MOST_OF_WHOLE_IMAGES = 0.2

#: Names of what files of results/ hold, as headings.
HEADINGS = {
    "few_labels": "Few labels: MixMatch and FixMatch",
    "cutmix_seg": "Few masks: CutMix-Seg",
    "contrastive": "No labels: i-CutMix and Un-Mix",
}


@dataclass(frozen=True)
class Claim:
    """Hold a claim of the paper, arXiv:1905.04899: CutMix has a better number than another method.

    Attributes:
        text: The claim, and the section that makes it.
        number: Name of the number.
        worse: Method that CutMix is compared with.
        lower: Whether a lower number is better.
    """

    text: str
    number: str
    worse: str = "none"
    lower: bool = False


GT_KNOWN, MAX_BOX_ACC = "localisation/gt_known", "localisation/max_box_acc_v2"
CLAIMS = (
    Claim("classifies better than no mix (4.1.2)", "classification/top1"),
    Claim("classifies better than Cutout (4.1.2)", "classification/top1", worse="cutout"),
    Claim("classifies better than MixUp (4.1.2)", "classification/top1", worse="mixup"),
    # The paper's threshold is fixed. Tuned ones, of MaxBoxAccV2, can order methods otherwise.
    Claim("localises better than no mix: GT-known (4.2)", GT_KNOWN),
    Claim("localises better than MixUp: GT-known (4.2)", GT_KNOWN, worse="mixup"),
    Claim("localises better than Cutout: GT-known (4.2)", GT_KNOWN, worse="cutout"),
    Claim("localises better than no mix: MaxBoxAccV2 (4.2)", MAX_BOX_ACC),
    Claim("localises better than MixUp: MaxBoxAccV2 (4.2)", MAX_BOX_ACC, worse="mixup"),
    Claim("localises better than Cutout: MaxBoxAccV2 (4.2)", MAX_BOX_ACC, worse="cutout"),
    Claim("sees behind a hole in the centre (4.4)", "occlusion/center"),
    Claim("sees what a hidden border leaves (4.4)", "occlusion/border"),
    Claim("sees either class of a cut image (4.4)", "in_between/cutmix"),
    Claim("withstands FGSM better (4.4)", "attacks/fgsm"),
    Claim("tells uniform noise from its own images (4.4)", "outliers/uniform_auroc"),
    Claim("tells other images from its own (4.4)", "outliers/other_auroc"),
    Claim("is less over-confident (4.4)", "classification/overconfidence", lower=True),
    Claim("is calibrated better (not claimed)", "classification/ece", lower=True),
    Claim("gains by a uniform centre (4.1.3)", "classification/top1", worse="centre_gaussian"),
    Claim("gains by sizes that differ (4.1.3)", "classification/top1", worse="fixed_size"),
    Claim("gains by labels of both parts (4.1.3)", "classification/top1", worse="one_hot"),
    Claim("gains by labels by area (4.1.3)", "classification/top1", worse="complete_label"),
    Claim("gains by a constant probability (4.1.3)", "classification/top1", worse="scheduled"),
    Claim(
        "gains by mixing images instead of features of any layer (4.1.3)",
        "classification/top1",
        worse="feature_cutmix",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hold what to do."""

    check: bool = False
    """Write nothing, and fail where RESULTS.md is out of date."""


def main(settings: Settings) -> None:
    """Write RESULTS.md and its plots, or check it."""
    paths = sorted((FOLDER / "results").glob("*.json"))
    if not paths:
        raise SystemExit(f"render_results: {FOLDER / 'results'} must hold a study.json.")
    results = {path.stem: json.loads(path.read_text()) for path in paths}
    text = "\n".join(page(results)) + "\n"
    path = FOLDER / "RESULTS.md"
    if settings.check:
        if not path.exists() or path.read_text() != text:
            raise SystemExit(f"{path} is out of date. Run `python pipelines/render_results.py`.")
        return
    path.write_text(text)
    for name, content in results.items():
        if content["what"] == "study" and axes_of(content["methods"]):
            (FOLDER / "results" / f"{name}.svg").write_bytes(sweeps(content["methods"]))


def page(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page.

    Args:
        results: Content of each file of results/, by the file's name without its suffix.
    """
    yield "# Results of our own"
    yield ""
    yield "Written by `python pipelines/render_results.py` from results/. Change nothing by hand."
    yield ""
    yield (
        "Small networks on small images, trained on CPU cores by [study.py](study.py) until they "
        "know the training images by heart, since CutMix is made for networks that overfit. These "
        "are directions, not the paper's numbers. Methods are those of "
        "[harness/methods.py](harness/methods.py), numbers those of [evaluate.py](README.md): "
        "means over training runs, with the standard deviation."
    )
    yield ""
    yield (
        "A claim of the paper is **shown** here where 95 % intervals of the difference lie on the "
        "claimed side of zero, **contradicted** where they lie on the other side, and **open** "
        "otherwise. One interval is over training runs (Welch), the other over test images "
        "(paired bootstrap of the runs' means); numbers that are no mean over images have the "
        "first alone. One of twenty such intervals misses the truth by chance."
    )
    for name, content in results.items():
        yield ""
        if content["what"] == "study":
            yield from section(name, content)
        else:
            yield from short_section(content)


def section(name: str, study: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of one study."""
    settings, methods, facts = study["settings"], study["methods"], study["facts"]
    yield f"## {study['data']}"
    yield ""
    yield (
        f"{facts['training images']} training images and {facts['test images']} test images of "
        f"{facts['classes']} classes, {facts['side']} x {facts['side']} pixels. "
        f"{settings['epochs']} epochs of AdamW, batches of {settings['batch_size']}."
    )
    for title, part in PARTS:
        rows = {method: methods[method] for method in part if method in methods}
        if rows:
            yield from ("", f"### {title}", "")
            yield from method_table(rows)
    if axes_of(methods):
        yield from ("", f"![Top-1 over share, alpha and size of the cut](results/{name}.svg)")
    yield from control(methods)
    claims = [row for claim in CLAIMS if (row := verdict(claim, methods)) is not None]
    if claims:
        yield from ("", "### Claims of the paper", "")
        heading = ["CutMix ...", "difference", "over training runs", "over images", "here"]
        yield from table(heading, claims)
    yield from ("", f"<sub>{study['machine']}; {study['date']}; `results/{name}.json`.</sub>")


def method_table(rows: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of some methods, with the numbers that any of them has."""
    columns = [c for c in COLUMNS if any(c[1] in row["numbers"] for row in rows.values())]
    yield from table(
        ["method", "runs", *(heading for heading, _, _ in columns)],
        [
            [
                name,
                str(len(row["numbers"]["train_top1"])),
                *(spread(row["numbers"].get(number), scale) for _, number, scale in columns),
            ]
            for name, row in rows.items()
        ],
    )


def control(methods: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a training with wrong labels shows."""
    if not {"none", "cutmix", "swapped_labels"} <= set(methods):
        return
    none, right, wrong = (
        spread(methods[name]["numbers"]["classification/top1"], 100)
        for name in ("none", "cutmix", "swapped_labels")
    )
    yield ""
    yield (
        f"**Control.** `swapped_labels` gives each part of a mixed image the weight of the other "
        f"part. Its top-1 is {wrong} %, against {right} % with the right weights and {none} % "
        f"without a mix. A network that trains, and scores as one would expect, is no proof that "
        f"labels follow the pixels: the library's tests compare labels with pixels."
    )


def verdict(claim: Claim, methods: Mapping[str, Any]) -> list[str] | None:
    """Return the row of a claim, or None where nothing can be said of it."""
    sides = [
        methods.get(method, {"numbers": {}})["numbers"].get(claim.number)
        for method in (claim.worse, "cutmix")
    ]
    if any(values is None or None in values for values in sides):
        return None
    whole = methods["cutmix"]["numbers"].get("localisation/whole_image_v2", [0.0])
    if claim.number.startswith("localisation/") and max(whole) > MOST_OF_WHOLE_IMAGES:
        return None
    over_runs = welch_interval(*sides)
    if over_runs is None:
        return None
    over_images = methods[claim.worse].get("cutmix_minus_this_over_images", {}).get(claim.number)
    judged_by = [interval for interval in (over_runs, over_images) if interval is not None]
    return [
        claim.text,
        f"{100 * float(np.mean(sides[1]) - np.mean(sides[0])):+.1f} points",
        ends(over_runs),
        ends(over_images) if over_images is not None else "-",
        judged(judged_by, claim.lower),
    ]


def ends(interval: Interval) -> str:
    """Return an interval of shares as text, in percentage points."""
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def judged(intervals: Sequence[Interval], lower: bool) -> str:
    """Return what intervals say of a claim that a difference is above, or below, zero."""
    if lower:
        intervals = [(-high, -low) for low, high in intervals]
    if all(low > 0 for low, _ in intervals):
        return "shown"
    return "**contradicted**" if all(high < 0 for _, high in intervals) else "open"


def axes_of(methods: Mapping[str, Any]) -> dict[str, dict[float, str]]:
    """Return the axes along which there are at least three methods, and these."""
    there = {
        axis: {x: method for x, method in points.items() if method in methods}
        for axis, points in AXES.items()
    }
    return {axis: points for axis, points in there.items() if len(points) > 2}


def sweeps(methods: Mapping[str, Any]) -> bytes:
    """Return the plots of the sweeps, with deviations over runs, as an SVG file."""
    axes_there = axes_of(methods)
    figure = Figure(figsize=(3.2 * len(axes_there), 2.9), layout="constrained")
    for column, (title, points) in enumerate(axes_there.items()):
        axes = figure.add_subplot(1, len(axes_there), column + 1)
        for colour, (label, number) in zip(COLOURS, LINES.items(), strict=False):
            runs = [100 * np.array(methods[m]["numbers"][number]) for m in points.values()]
            middle, deviation = (
                [np.mean(run) for run in runs],
                [np.std(run, ddof=1) for run in runs],
            )
            axes.errorbar(list(points), middle, deviation, color=colour, label=label, capsize=2)
        axes.set(xlabel=title, ylabel="%" if column == 0 else None)
        if title == "alpha":
            axes.set_xscale("log")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return saved(figure, "svg")


def short_section(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of a recipe with few or no labels."""
    yield f"## {HEADINGS[content['what']]}"
    yield ""
    yield f"{content['data']}. {content.get('settings_text', '')}".rstrip()
    yield ""
    names = list(content["rows"][0])
    cells = [
        [
            spread(row[name], 100) if isinstance(row[name], list) else str(row[name])
            for name in names
        ]
        for row in content["rows"]
    ]
    headings = [
        f"{name}, %" if isinstance(content["rows"][0][name], list) else name for name in names
    ]
    yield from table(headings, cells)
    yield from ("", f"<sub>{content['machine']}; {content['date']}.</sub>")


def spread(values: Sequence[float | None] | None, scale: float) -> str:
    """Return mean and standard deviation over runs as text."""
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
