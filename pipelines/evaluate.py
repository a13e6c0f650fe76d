"""Evaluate a trained classifier beyond its accuracy, and compare two of them.

Expect: a report that opens in a browser, with the numbers as JSON and the values per image beside
it. Nothing is trained. Where all measures are chosen, the classifier sees every image some hundred
times.

Run, where DIR holds val/, or one folder of images per class:

    python pipelines/evaluate.py --checkpoint runs/cifar_resnet18/checkpoint.pt --data DIR
    python pipelines/evaluate.py --checkpoint timm:resnet50 --data DIR --boxes boxes.csv
    python pipelines/evaluate.py --compare BASELINE CUTMIX --data DIR

BASELINE and CUTMIX are each a checkpoint, the folder of an evaluation, or a folder of such folders:
training runs that differ by their seeds. Leave --data out where both sides are evaluations. To try
every part on generated pictures, in seconds:

    python pipelines/evaluate.py --smoke
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import tyro
from rich.table import Column, Table

from evaluation.compare import Difference, check_alike, compare
from evaluation.flags import MEASURES, Settings, check_flags, refuse_unread
from evaluation.prepared import Prepared, prepare
from evaluation.refusal import NAME, refuse
from evaluation.report import headlines, write_report
from evaluation.result import Result
from evaluation.saved import NUMBERS, Evaluation, load, save
from evaluation.smoke import shrunk
from harness.checkpoints import write_json
from harness.processes import CONSOLE, SMOKE_FINISHED, refuse_several

#: Beginnings of names that are no files, but models of libraries.
LIBRARIES = ("torchvision:", "timm:")
#: File of a comparison, and folders of the checkpoints that a comparison evaluates.
COMPARISON, PARTS = "comparison.json", ("first", "second")

__all__ = ["MEASURES", "Settings", "run"]


def run(settings: Settings) -> list[Evaluation]:
    """Evaluate one classifier or two, write the report, and return the evaluations.

    Of a side of several training runs the first is returned.
    """
    refuse_several(NAME)
    with tempfile.TemporaryDirectory() as temporary:
        if settings.smoke:
            settings = shrunk(settings, Path(temporary))
        check_flags(settings)
        if settings.compare is None:
            assert settings.checkpoint is not None  # check_flags refuses
            _refuse_overwriting([settings.folder], [settings.baseline])
            (prepared,) = prepare(settings, [settings.checkpoint])
            evaluations = [evaluate(prepared, settings.folder)]
            # Of an earlier comparison, whose report is replaced.
            (settings.folder / COMPARISON).unlink(missing_ok=True)
            _finish(settings.folder, evaluations, [])
        else:
            evaluations = _run_both(settings, settings.compare)
        if settings.smoke:
            CONSOLE.print(SMOKE_FINISHED)
    return evaluations


def evaluate(prepared: Prepared, out: Path) -> Evaluation:
    """Measure one classifier and write its report, report.json and samples.npz into a folder."""
    results = []
    for name in prepared.settings.chosen:
        results.append(prepared.measure(name))
        _say(prepared.subject.name, results[-1])
    evaluation = Evaluation(
        prepared.subject.name, tuple(results), prepared.about(), prepared.data.digest
    )
    save(out, evaluation)
    write_report(out / "report.html", [evaluation])
    return evaluation


def _run_both(settings: Settings, specs: tuple[str, str]) -> list[Evaluation]:
    """Compare two sides; what can be refused is refused before a checkpoint is evaluated."""
    out = settings.folder
    folders = [None if settings.smoke else _folders(spec) for spec in specs]
    written = [out, *(out / name for name, of in zip(PARTS, folders, strict=True) if of is None)]
    there = [out] if (out / NUMBERS).exists() else []
    _refuse_overwriting(written, [settings.baseline, *there, *chain(*filter(None, folders))])
    finished = [
        None if of_side is None else [load(folder, "compare") for folder in of_side]
        for of_side in folders
    ]
    if None not in finished:
        refuse_unread(settings)
    pairs = list(zip(specs, finished, strict=True))
    prepared = iter(prepare(settings, [spec for spec, runs in pairs if runs is None]))
    planned = [next(prepared) if runs is None else runs for runs in finished]
    runs = [[side.expected()] if isinstance(side, Prepared) else side for side in planned]
    check_alike([*runs[0], *runs[1]])
    sides = [
        [evaluate(side, out / name)] if isinstance(side, Prepared) else side
        for side, name in zip(planned, PARTS, strict=True)
    ]
    differences = compare(*sides, seed=settings.seed)
    evaluations = _told_apart([side[0] for side in sides])
    _finish(out, evaluations, differences)
    return evaluations


def _refuse_overwriting(written: Sequence[Path], read: Sequence[Path | None]) -> None:
    """Refuse to write an evaluation or a comparison over an evaluation that is read or kept."""
    kept = {folder.resolve() for folder in read if folder is not None}
    for folder in written:
        if folder.resolve() in kept:
            refuse(
                f"`out` must leave evaluations as they are, and {folder} holds one that would be "
                "overwritten. Pass another `--out`.",
            )


def _folders(spec: str) -> list[Path] | None:
    """Return the folders of a side's evaluations, or None where a checkpoint is to be evaluated."""
    path = Path(spec)
    if path.is_file() or spec.startswith(LIBRARIES):
        return None
    if (path / NUMBERS).is_file():
        return [path]
    folders = sorted(file.parent for file in path.glob(f"*/{NUMBERS}"))
    if not folders:
        problem = f"a folder without {NUMBERS}" if path.is_dir() else "which does not exist"
        refuse(
            f"`compare` must have checkpoints or evaluations, got {path}, {problem}. Pass the file "
            "of a checkpoint, or the folder of an evaluation.",
        )
    return folders


def _told_apart(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Return the evaluations under different names."""
    first, second = evaluations
    if first.name != second.name:
        return evaluations
    return [
        dataclasses.replace(side, name=f"{side.name} ({letter})")
        for letter, side in zip("AB", evaluations, strict=True)
    ]


def _say(name: str, result: Result) -> None:
    """Print the main numbers of a measure."""
    numbers = "  ".join(f"{n} {result.numbers[n]:.4f}" for n in headlines(result))
    colon = ": " if numbers else ""
    CONSOLE.print(f"{name}  {result.title}{colon}{numbers}", markup=False)


def _finish(out: Path, evaluations: list[Evaluation], differences: list[Difference]) -> None:
    """Write what two sides have in common, and say where the report is."""
    if differences:
        write_report(out / "report.html", evaluations, differences)
        rows = [dataclasses.asdict(row) | {"difference": row.difference} for row in differences]
        write_json(out / COMPARISON, {"sides": [e.name for e in evaluations], "rows": rows})
        CONSOLE.print(_table(evaluations, differences))
    CONSOLE.print(f"Report: {out / 'report.html'}", markup=False)


def _table(evaluations: list[Evaluation], differences: list[Difference]) -> Table:
    """Return the main differences, for a terminal."""
    main = {f"{r.name}/{name}" for r in evaluations[0].results for name in headlines(r)}
    width = max((len(row.name) for row in differences if row.name in main), default=0)
    # On a narrow screen Rich would shorten the names, whose ends tell rows apart.
    names = Column("number", min_width=width)
    table = Table(names, *(side.name for side in evaluations), "difference", "interval, images")
    for row in differences:
        if row.name in main:
            ends = row.over_images
            interval = "" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"
            numbers = (f"{row.first:.4f}", f"{row.second:.4f}", f"{row.difference:+.4f}")
            table.add_row(row.name, *numbers, interval)
    return table


if __name__ == "__main__":
    run(tyro.cli(Settings, description=__doc__))
