"""Evaluate a trained classifier beyond its accuracy, and compare two of them.

Expect: a report that opens in a browser, with the numbers as JSON and the values per image beside
it. Nothing is trained. Where all measures are chosen, the classifier sees every image some hundred
times.

Run, where DIR holds val/, or one folder of images per class:

    python pipelines/evaluate.py --checkpoint runs/cifar_resnet18/checkpoint.pt --data DIR
    python pipelines/evaluate.py --checkpoint timm:resnet50 --data DIR --boxes boxes.csv
    python pipelines/evaluate.py --compare BASELINE CUTMIX --data DIR

Each of the two is a checkpoint, the folder of an evaluation, or a folder of such folders: training
runs that differ by their seeds. To try every part on generated pictures, in seconds:

    python pipelines/evaluate.py --smoke
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from rich.table import Table
from torch import nn

from dali_cutmix import EvalTransform
from evaluation.attacks import check_attacks, measure_attacks
from evaluation.box_files import read_boxes
from evaluation.cam import Cam
from evaluation.classification import measure_classification
from evaluation.compare import Difference, compare
from evaluation.corruptions import measure_corruptions
from evaluation.image_lists import digest, listed, read_groups, spread
from evaluation.in_between import measure_in_between
from evaluation.localisation import measure_localisation
from evaluation.mixed_cam import measure_mixed_cam
from evaluation.occlusion import measure_occlusion
from evaluation.outliers import measure_outliers
from evaluation.predictions import Images
from evaluation.report import headlines, write_report
from evaluation.result import Result
from evaluation.saved import NUMBERS, Evaluation, load, save
from evaluation.subject import NAME, Subject, load_subject
from harness.checkpoints import write_json
from harness.pictures import make_pictures
from harness.processes import CONSOLE, stop

Measure = Literal[
    "classification",
    "occlusion",
    "in_between",
    "attacks",
    "corruptions",
    "outliers",
    "localisation",
    "mixed_cam",
]
MEASURES: tuple[str, ...] = get_args(Measure)


@dataclass(frozen=True)
class Settings:
    """Hold what is evaluated, on which images, and how."""

    checkpoint: str | None = None
    """Checkpoint of a recipe, `torchvision:NAME`, `timm:NAME`, or one of these two with a file of
    weights, `timm:NAME:FILE`."""

    data: Path | None = None
    """Folder with val/, or folder with one subfolder of images per class. With --smoke, None
    generates pictures."""

    compare: tuple[str, str] | None = None
    """Two to compare: each a checkpoint, the folder of an evaluation, or a folder of folders of
    evaluations. Differences are the second minus the first."""

    measures: tuple[Measure, ...] = ()
    """Measures, in any order. None of them takes all; localisation only where boxes are passed."""

    boxes: Path | None = None
    """Boxes of objects, for localisation: a folder of VOC's XML files, a .json of COCO, or a .csv
    with the columns path, x0, y0, x1, y1."""

    cam_layer: str | None = None
    """Layer that class activation maps show. None takes the last one with a grid of pixels."""

    other: Path | None = None
    """Images of other classes, as `data`, that should be told from those of the model. None takes
    noise alone."""

    groups: Path | None = None
    """A .csv with the columns path and group, for the accuracy of each group of images."""

    baseline: Path | None = None
    """Folder of an evaluation whose errors on corrupted images are the unit of this one's."""

    attack_eps: float = 8 / 255
    """Largest change of a pixel under attack, where 1 is the full range."""

    attack_steps: int = 20
    """Steps of PGD."""

    out: Path | None = None
    """Folder of report.html, report.json and samples.npz. None takes runs/evaluation, or with
    --smoke a folder that is removed at the end."""

    size: int | None = None
    """Side of the model's input in pixels. None takes what the checkpoint says."""

    resize: int | None = None
    """Short side before the centre is cut out, in pixels. None takes what the checkpoint says."""

    mean: tuple[float, float, float] | None = None
    """Mean per channel that the model was trained with, in [0, 1]. None takes the checkpoint's."""

    std: tuple[float, float, float] | None = None
    """Standard deviation per channel, as `mean`."""

    batch_size: int = 64
    """Images that the model sees at a time."""

    max_images: int | None = None
    """Most images, evenly spread over those listed, so that all classes occur. None takes all."""

    workers: int | None = None
    """CPU threads of a loader. None takes one per CPU, at most 8."""

    device: str | None = None
    """Where the model computes, such as cpu or cuda:1. None takes a GPU where there is one."""

    seed: int = 0
    """Seed of all draws."""

    smoke: bool = False
    """Compare two small untrained models on a few pictures. The numbers mean nothing."""


def run(settings: Settings) -> list[Evaluation]:
    """Evaluate one classifier or two, write the report, and return the evaluations.

    Of a side of several training runs the first is returned.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if settings.smoke:
            settings = _shrunk(settings, Path(temporary))
        out = settings.out or Path("runs/evaluation")
        if settings.compare is None:
            if settings.checkpoint is None:
                stop(NAME, "`checkpoint` must be passed, or `--compare A B`, or `--smoke` alone.")
            evaluations = [evaluate(settings, settings.checkpoint, out)]
            _finish(out, evaluations, [])
        else:
            folders = (out / "first", out / "second")
            sides = [_side(settings, *side) for side in zip(settings.compare, folders, strict=True)]
            differences = compare(*sides, seed=settings.seed)
            evaluations = _told_apart([side[0] for side in sides])
            _finish(out, evaluations, differences)
        if settings.smoke:
            CONSOLE.print("Smoke run finished: every part works. These numbers are not results.")
    return evaluations


def evaluate(settings: Settings, spec: str, out: Path) -> Evaluation:
    """Measure one classifier and write its report, report.json and samples.npz into a folder."""
    source = spread(_source(settings), settings.max_images)
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    subject = _subject(settings, spec, source.classes, device)
    chosen = _chosen(settings)
    images = Images(source, settings.batch_size, settings.workers)
    boxed, boxes = None, None
    if "localisation" in chosen and settings.boxes is not None:
        boxed_source, boxes = read_boxes(settings.boxes, source)
        boxed = dataclasses.replace(images, source=boxed_source)
    if {"localisation", "mixed_cam"} & set(chosen):  # refuses before minutes of other measures
        cam = Cam(subject.model, subject.size, settings.cam_layer)
        CONSOLE.print(f"{cam.kind} of layer {cam.layer or 'the model'}", markup=False)
    results = []
    for measure in chosen:
        if measure == "localisation" and boxed is not None and boxes is not None:
            layer = settings.cam_layer
            result = measure_localisation(subject, boxed, boxes, cam_layer=layer)
        elif measure == "mixed_cam":
            result = measure_mixed_cam(subject, images, cam_layer=settings.cam_layer)
        else:
            result = _measure(measure, settings, subject, images)
        results.append(result)
        _say(subject, result)
    evaluation = Evaluation(
        subject.name,
        tuple(results),
        _about(settings, spec, subject, source),
        digest(source),
    )
    save(out, evaluation)
    write_report(out / "report.html", [evaluation])
    return evaluation


def _measure(measure: str, settings: Settings, subject: Subject, images: Images) -> Result:
    """Run a measure that needs no maps of classes."""
    seed = settings.seed
    if measure == "classification":
        groups = None if settings.groups is None else read_groups(settings.groups, images.source)
        return measure_classification(subject, images, groups=groups)
    if measure == "occlusion":
        return measure_occlusion(subject, images)
    if measure == "in_between":
        return measure_in_between(subject, images, seed=seed)
    if measure == "attacks":
        eps, steps = settings.attack_eps, settings.attack_steps
        return measure_attacks(subject, images, eps=eps, num_steps=steps, seed=seed)
    if measure == "corruptions":
        return measure_corruptions(subject, images, baseline=_baseline(settings), seed=seed)
    other = None
    if settings.other is not None:
        other = dataclasses.replace(images, source=listed("other", settings.other))
    return measure_outliers(subject, images, other=other, seed=seed)


def _chosen(settings: Settings) -> tuple[str, ...]:
    """Return the measures in the order of the report."""
    if "localisation" in settings.measures and settings.boxes is None:
        stop(
            NAME,
            "`boxes` must be passed, since localisation compares maps with boxes of the objects. "
            "Pass `--boxes` with a folder of VOC's XML files, a .json of COCO or a .csv table.",
        )
    if settings.measures:
        return tuple(name for name in MEASURES if name in settings.measures)
    return tuple(n for n in MEASURES if n != "localisation" or settings.boxes is not None)


def _source(settings: Settings) -> Any:
    if settings.data is None:
        stop(NAME, "`data` must be a folder of images. Pass `--data DIR`, or `--smoke` alone.")
    val = settings.data / "val"
    return listed("data", val if val.is_dir() else settings.data)


def _subject(
    settings: Settings, spec: str, classes: Sequence[str], device: torch.device
) -> Subject:
    if settings.smoke:
        return _small(spec, classes, device)
    subject = load_subject(
        spec,
        classes,
        device,
        mean=settings.mean,
        std=settings.std,
        size=settings.size,
        resize=settings.resize,
    )
    if "attacks" in _chosen(settings):
        check_attacks(subject, settings.attack_eps, settings.attack_steps)
    return subject


def _baseline(settings: Settings) -> dict[str, float] | None:
    """Return the numbers that corruption errors are relative to."""
    if settings.baseline is None:
        return None
    results = {result.name: result for result in load(settings.baseline, "baseline").results}
    if "corruptions" not in results:
        stop(NAME, f"`baseline` must be an evaluation with corruptions, got {settings.baseline}.")
    return dict(results["corruptions"].numbers)


def _side(settings: Settings, spec: str, out: Path) -> list[Evaluation]:
    """Return the evaluations of one side of a comparison; a checkpoint is evaluated."""
    path = Path(spec)
    if (path / NUMBERS).is_file():
        return [load(path, "compare")]
    if path.is_dir():
        folders = sorted(file.parent for file in path.glob(f"*/{NUMBERS}"))
        if not folders:
            stop(NAME, f"`compare` must be given checkpoints or evaluations; {path} holds none.")
        return [load(folder, "compare") for folder in folders]
    return [evaluate(settings, spec, out)]


def _told_apart(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Return the evaluations under different names."""
    first, second = evaluations
    if first.name != second.name:
        return evaluations
    return [
        dataclasses.replace(side, name=f"{side.name} ({letter})")
        for letter, side in zip("AB", evaluations, strict=True)
    ]


def _about(settings: Settings, spec: str, subject: Subject, source: Any) -> dict[str, Any]:
    """Return the facts at the end of a report."""
    return {
        "checkpoint": spec,
        "data": f"{settings.data}: {len(source):,} images of {len(source.classes):,} classes",
        "transform": str(subject.transform),
        "parameters": f"{sum(p.numel() for p in subject.model.parameters()):,}",
        "seed": settings.seed,
        "device": str(subject.device),
        "versions": f"dali-cutmix {version('dali-cutmix')}, torch {torch.__version__}",
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _say(subject: Subject, result: Result) -> None:
    """Print the main numbers of a measure."""
    names = headlines(result)
    numbers = "  ".join(f"{name} {result.numbers[name]:.4f}" for name in names)
    CONSOLE.print(f"{subject.name}  {result.title}: {numbers}", markup=False)


def _finish(out: Path, evaluations: list[Evaluation], differences: list[Difference]) -> None:
    """Write what two sides have in common, and say where the report is."""
    if differences:
        write_report(out / "report.html", evaluations, differences)
        rows = [dataclasses.asdict(row) | {"difference": row.difference} for row in differences]
        write_json(out / "comparison.json", {"sides": [e.name for e in evaluations], "rows": rows})
        CONSOLE.print(_table(evaluations, differences))
    CONSOLE.print(f"Report: {out / 'report.html'}", markup=False)


def _table(evaluations: list[Evaluation], differences: list[Difference]) -> Table:
    """Return the main differences, for a terminal."""
    table = Table("number", *(side.name for side in evaluations), "difference", "interval, images")
    main = {f"{r.name}/{name}" for r in evaluations[0].results for name in headlines(r)}
    for row in differences:
        if row.name in main:
            ends = row.over_images
            interval = "" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"
            numbers = (f"{row.first:.4f}", f"{row.second:.4f}", f"{row.difference:+.4f}")
            table.add_row(row.name, *numbers, interval)
    return table


def _shrunk(settings: Settings, temporary: Path) -> Settings:
    """Return the settings of a smoke run: two untrained models, generated pictures and boxes."""
    data = settings.data
    boxes = settings.boxes
    if data is None:
        data = temporary / "pictures"
        make_pictures(data, 10, 40, num_classes=4)
        lines = [f"{path.relative_to(data)},10,10,30,30" for path in sorted(data.rglob("*.png"))]
        boxes = temporary / "boxes.csv"
        boxes.write_text("\n".join(["path,x0,y0,x1,y1", *lines]) + "\n")
    return dataclasses.replace(
        settings,
        data=data,
        boxes=boxes,
        compare=("small 0", "small 1"),
        out=settings.out or temporary / "evaluation",
        attack_steps=min(settings.attack_steps, 2),
        batch_size=min(settings.batch_size, 4),
        max_images=10,
    )


def _small(spec: str, classes: Sequence[str], device: torch.device) -> Subject:
    """Return an untrained model of a smoke run."""
    torch.manual_seed(int(spec.split()[1]))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, len(classes)),
    )
    model = model.to(device).eval().requires_grad_(False)
    return Subject(spec, model, EvalTransform(36, 32), list(classes), device)


if __name__ == "__main__":
    run(tyro.cli(Settings, description=__doc__))
