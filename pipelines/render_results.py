"""Write RESULTS.md, its plots, and the README's table of tasks from the files of results/.

    python pipelines/render_results.py
    python pipelines/render_results.py --check

Files of results/ are those that study.py, study_few_labels.py and publish_runs.py write, under
names with their dates. With --check nothing is written, and the exit status is 1 where RESULTS.md
or the table is not what would be written.
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

from evaluation.claims import CLAIMS, QUESTIONS, verdict
from evaluation.figures import COLOURS, saved
from evaluation.numbers import HIDDEN, NAMES, difference, spread, table
from evaluation.tasks import HEADER, TASKS, summary, task_rows
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
    ("between classes, blended, %", "in_between/mixup", 100),
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
#: Rows of those plots.
LINES = {"top-1, %": "classification/top1", "behind a hole, %": "occlusion/center"}

#: Names of what files of results/ hold, as headings.
HEADINGS = {
    "few_labels": "Few labels: MixMatch and FixMatch",
    "cutmix_seg": "Few masks: CutMix-Seg",
    "contrastive": "No labels: i-CutMix and Un-Mix",
    "detection_ssd": "Detection: SSD",
    "detection_ssd_backbone": "Detection: SSD on a trained backbone",
    "detection_ssd_scenes": "Detection: SSD on street scenes, a stand-in",
    "detection_fasterrcnn": "Detection: Faster R-CNN",
    "segmentation_deeplab": "Segmentation: DeepLab v3",
    "volumes_unet3d": "Volumes: 3-D U-Net",
    "video_r3d": "Video: R3D",
    "audio_spectrogram": "Sound: log-mel spectrograms",
    "captions": "Captions",
    "captions_backbone": "Captions on a trained encoder",
    "clip_contrastive": "Images and texts",
    "transfer": "Transfer to other classes",
    "transfer_near": "Transfer to classes that look alike",
    "scenes": "Street scenes, a stand-in: a classifier under growing cover",
    "scenes_detection": "Street scenes, a stand-in: detectors under growing cover",
}

#: Lines of the README between which the table of tasks stands.
MARKS = ("<!-- rendered by render_results.py -->", "<!-- end of what is rendered -->")


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
    pages = {
        FOLDER / "RESULTS.md": "\n".join(page(results)) + "\n",
        FOLDER / "README.md": with_tasks((FOLDER / "README.md").read_text(), results),
    }
    for path, text in pages.items():
        if not settings.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            raise SystemExit(f"{path} is out of date. Run `python pipelines/render_results.py`.")
    if settings.check:
        return
    for name, content in results.items():
        if content["what"] == "study" and axes_of(content["methods"]):
            (FOLDER / "results" / f"{name}.svg").write_bytes(sweeps(content["methods"]))


def with_tasks(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the README with the table of tasks that the results make."""
    start, end = (text.index(mark) for mark in MARKS)
    rows = "\n".join(table(HEADER, list(task_rows(results))))
    part = f"{summary(results)}\n\n{rows}"
    return f"{text[: start + len(MARKS[0])]}\n\n{part}\n\n{text[end:]}"


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
        "Small networks on small images, trained on CPU cores. These are directions, not the "
        "paper's numbers. Tables show means over training runs, with the standard deviation."
    )
    yield ""
    yield (
        "[study.py](study.py) trains until the training images are known by heart, since CutMix is "
        "made for networks that overfit. Methods are those of "
        "[harness/methods.py](harness/methods.py), numbers those of [evaluate.py](README.md). A "
        "claim of the paper is **shown** here where 95 % intervals of the difference lie on the "
        "claimed side of zero, **contradicted** where they lie on the other side, and **open** "
        "otherwise. One interval is over training runs (Welch), the other over test images "
        "(paired bootstrap of the runs' means). Numbers that are no mean over images have the "
        "first alone. One of twenty such intervals misses the truth by chance."
    )
    # Studies come first, since the page begins with what they are.
    for name, content in sorted(results.items(), key=lambda item: item[1]["what"] != "study"):
        yield ""
        if content["what"] == "study":
            yield from section(name, content)
        else:
            yield from short_section(name, content)


def section(name: str, study: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of one study."""
    settings, methods, facts = study["settings"], study["methods"], study["facts"]
    yield f"## {study['data']}"
    yield ""
    yield (
        f"{facts['training images']} training images and {facts['test images']} test images of "
        f"{facts['classes']} classes, {facts['side']} x {facts['side']} pixels. "
        f"{settings['epochs']} epochs of AdamW, batches of {settings['batch_size']}. Cut and "
        f"blended images, attacks, corruptions and other images: {settings['max_images']} images."
    )
    for title, part in PARTS:
        rows = {method: methods[method] for method in part if method in methods}
        if rows:
            yield from ("", f"### {title}", "")
            yield from method_table(rows)
    if axes_of(methods):
        yield from ("", f"![Top-1 over share, alpha and size of the cut](results/{name}.svg)")
    yield from control(methods)
    for title, claims, words in (
        ("Claims of the paper", CLAIMS, ("shown", "**contradicted**")),
        ("Beside the claims", QUESTIONS, ("yes", "**no**")),
    ):
        rows = [row for claim in claims if (row := verdict(claim, methods, words)) is not None]
        if rows:
            yield from ("", f"### {title}", "")
            heading = ["CutMix ...", "difference", "over training runs", "over images", "here"]
            yield from table(heading, rows)
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
    size = (2.7 * len(axes_there), 2.0 * len(LINES))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(LINES), len(axes_there), sharey="row", sharex="col", squeeze=False)
    for row, (label, number) in enumerate(LINES.items()):
        for column, (title, points) in enumerate(axes_there.items()):
            runs = [100 * np.array(methods[m]["numbers"][number]) for m in points.values()]
            middle = [run.mean() for run in runs]
            deviation = [run.std(ddof=1) if len(run) > 1 else 0.0 for run in runs]
            axes = grid[row, column]
            axes.errorbar(list(points), middle, deviation, color=COLOURS[row], capsize=2)
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            if title == "alpha":
                axes.set_xscale("log")
                axes.set_xticks(list(points), [f"{x:g}" for x in points])
                axes.minorticks_off()
            if row == len(LINES) - 1:
                axes.set_xlabel(title)
            if column == 0:
                axes.set_ylabel(label)
    return saved(figure, "svg")


def short_section(name: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of a recipe that trains with several seeds."""
    what, rows = content["what"], content["rows"]
    yield f"## {HEADINGS.get(what, what)}"
    yield ""
    text = f"Data: {content['data']}. {content.get('settings_text', '')}".rstrip()
    if content.get("minutes"):
        text += f" The steps of a training took {content['minutes']:.1f} minutes on average."
    yield text
    yield ""
    # What any row has: the first may lack a number of the others.
    is_number = {
        key: isinstance(value, list)
        for row in rows
        for key, value in row.items()
        if key not in HIDDEN
    }
    yield from table(
        ["runs", *(f"{NAMES.get(key, key)}{', %' * is_number[key]}" for key in is_number)],
        [
            [
                str(max(len(value) for value in row.values() if isinstance(value, list))),
                *(
                    spread(row.get(key), 100) if is_one else str(row[key])
                    for key, is_one in is_number.items()
                ),
            ]
            for row in rows
        ],
    )
    yield from comparison(what, rows, [key for key, is_one in is_number.items() if is_one])
    for file, shown in ((f"{what}.png", "what a network says"), (f"{what}_levels.png", "a plot")):
        if (FOLDER / "pictures" / file).exists():
            yield from ("", f"![{HEADINGS.get(what, what)}: {shown}](pictures/{file})")
    yield from ("", f"<sub>{content['machine']}; {content['date']}; `results/{name}.json`.</sub>")


def comparison(what: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Iterator[str]:
    """Yield the differences of all rows to the baseline of a task, where a row is the baseline."""
    names = [row.get("method") for row in rows]
    baseline = next((task.sides[0] for task in TASKS if task.what == what), None)
    if baseline not in names:
        return
    first = rows[names.index(baseline)]
    yield ""
    yield f"Points above {baseline}, with Welch's 95 % interval over training runs:"
    yield ""
    yield from table(
        ["method", *(NAMES.get(key, key) for key in keys)],
        [
            [row["method"], *(difference(first.get(key), row.get(key)) for key in keys)]
            for row in rows
            if row is not first
        ],
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
