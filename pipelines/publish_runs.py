"""Put runs of a recipe with several seeds side by side, in one file of results/.

    python pipelines/publish_runs.py runs/baseline runs/unmix
    python pipelines/publish_runs.py runs/plain runs/mixed --vary backbone --names plain cutmix

Each folder holds the results.json of a run with several seeds. The runs are of one recipe and
differ in `mix` alone, or in the settings of --vary. The first is the baseline that the others are
compared with. The file DATE_WHAT.json has a row for each run, with each number of each seed, and
the settings that the runs share. Numbers are shares in [0, 1], as in study.json. Folders of this
machine are not named in the file.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from harness.checkpoints import check_out, write_json
from harness.processes import CONSOLE, stop
from harness.results import RESULTS

NAME = "publish_runs"
#: Subject of a file where that is not the name of the recipe.
WHAT = {"contrastive_cutmix": "contrastive", "segmentation_cutmix_seg": "cutmix_seg"}
#: Numbers that results.json holds in percent, by recipe.
IN_PERCENT = {"contrastive_cutmix": ("top1", "untrained_top1")}
#: Settings that change no number of a run.
WITHOUT_EFFECT = ("preset", "out", "resume", "workers", "tuning", "checkpoint_minutes")


@dataclass(frozen=True)
class Settings:
    """Hold what to read and where to write."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs, in the order of the rows."""

    out: Path = Path(__file__).parent / "results"
    """Folder of the file."""

    vary: tuple[str, ...] = ("mix",)
    """Settings in which the runs may differ."""

    names: tuple[str, ...] = ()
    """Name of each row. None are the values of the first setting of --vary."""

    experiment: str = ""
    """What is compared, where a recipe has several comparisons: a word for the file's name."""


def main(settings: Settings) -> Path:
    """Write the file; return the file's path."""
    if len({folder.resolve() for folder in settings.runs}) < max(len(settings.runs), 1):
        runs = ", ".join(map(str, settings.runs)) or "none"
        stop(NAME, f"`runs` must be at least one folder, and none of them twice, got {runs}.")
    if settings.names and len(settings.names) != len(settings.runs):
        stop(
            NAME,
            f"`names` must be as many as the runs, {len(settings.runs)}, got "
            f"{len(settings.names)}.",
        )
    check_out(NAME, settings.out)
    content = side_by_side([read(folder) for folder in settings.runs], settings)
    path = settings.out / f"{content['date']}_{content['what']}.json"
    write_json(path, content)
    CONSOLE.print(f"{path}: {len(content['rows'])} rows")
    return path


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a run's results.json, or end with a sentence."""
    path = folder / RESULTS
    if not path.is_file():
        stop(NAME, f"`runs` must be folders that hold {RESULTS}, and {folder} does not.")
    content: dict[str, Any] = json.loads(path.read_text())
    if "seeds" not in content["settings"]:
        stop(NAME, f"{path} must be of trainings with several seeds, got one of a single training.")
    if content["smoke"]:
        stop(NAME, f"{path} is of a smoke run, whose numbers mean nothing.")
    return content


def side_by_side(runs: Sequence[dict[str, Any]], publishing: Settings) -> dict[str, Any]:
    """Return a row for each run, and what the runs share.

    Args:
        runs: Contents of results.json. Every entry with ``values`` is a number, by seed.
        publishing: What may differ, and names of the rows.

    Returns:
        ``what``, ``recipe``, ``date`` of the last run, ``machine``, ``versions``, name of the
        ``data``, ``settings`` and a sentence of them, ``minutes`` that the steps of a training took
        on average, where the runs tell, and ``rows``: the name of the row as ``method``, and lists
        of shares in [0, 1].
    """
    varied = (*publishing.vary, *WITHOUT_EFFECT)
    refuse_unlike(runs, varied, publishing.vary)
    first = runs[0]
    settings = {
        name: value
        for name, value in first["settings"].items()
        if name not in (*varied, "data", "smoke")
    }
    methods = publishing.names or [str(run["settings"][publishing.vary[0]]) for run in runs]
    content = {
        "what": "_".join(
            filter(None, (WHAT.get(first["recipe"], first["recipe"]), publishing.experiment))
        ),
        "recipe": first["recipe"],
        "date": max(run["finished"] for run in runs)[:10],
        "machine": first["machine"],
        "versions": first["versions"],
        "data": Path(first["settings"]["data"]).name,
        "settings": settings,
        "settings_text": (
            f"{settings['epochs']} epochs, batches of {settings['batch_size']}, "
            f"{settings['seeds']} seeds."
        ),
        "rows": [
            {"method": method, **numbers(run)} for method, run in zip(methods, runs, strict=True)
        ],
    }
    folders = publishing.runs
    minutes = [
        spent
        for folder, run in zip(folders, runs, strict=True)
        for spent in minutes_of(folder, run)
    ]
    return content | ({"minutes": statistics.mean(minutes)} if minutes else {})


def refuse_unlike(
    runs: Sequence[dict[str, Any]], varied: Sequence[str], vary: Sequence[str]
) -> None:
    """Stop at runs that differ in more than may vary.

    Args:
        runs: Contents of results.json.
        varied: Settings that may differ.
        vary: Those among them that the message names.
    """
    shared = [common(run, varied) for run in runs]
    for run, facts in zip(runs, shared, strict=True):
        names = {**shared[0], **facts}
        odd = [name for name in names if facts.get(name) != shared[0].get(name)]
        if odd:
            stop(
                NAME,
                f"`runs` must differ in `{'`, `'.join(vary)}` alone, and "
                f"{run['settings']['out']} has another {', '.join(odd)} than "
                f"{runs[0]['settings']['out']}.",
            )


def common(run: dict[str, Any], varied: Sequence[str]) -> dict[str, Any]:
    """Return what has to be equal in all runs of a file."""
    settings = {name: value for name, value in run["settings"].items() if name not in varied}
    return {name: run[name] for name in ("recipe", "machine", "versions")} | settings


def numbers(run: dict[str, Any]) -> dict[str, list[float]]:
    """Return the numbers of a run, one of each seed: shares in [0, 1]."""
    lists = {name: v["values"] for name, v in run.items() if isinstance(v, dict) and "values" in v}
    in_percent = IN_PERCENT.get(run["recipe"], ())
    return {
        name: [value / 100 for value in values] if name in in_percent else values
        for name, values in lists.items()
    }


def minutes_of(folder: Path, run: dict[str, Any]) -> list[float]:
    """Return the minutes of the steps of each training, where the run tells.

    A training may have several parts, such as a pretraining in a folder of its own.

    Args:
        folder: Folder of the run, which holds a folder for each seed.
        run: Content of the run's results.json.
    """
    parts = [sorted(of_seed.rglob(RESULTS)) for of_seed in sorted(folder.iterdir())]
    told = [[row for path in paths for row in epochs_of(path)] for paths in parts if paths]
    told = told or [training["epochs"] for training in run["runs"] if "epochs" in training]
    return [sum(row["num_train"] / row["images_per_s"] for row in rows) / 60 for rows in told]


def epochs_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the epochs in the results of a training."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content["epochs"]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
