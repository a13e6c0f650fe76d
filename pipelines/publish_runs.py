"""Put runs of a recipe with several seeds side by side, in one file of results/.

    python pipelines/publish_runs.py runs/baseline runs/unmix

Each folder holds the results.json of a run of contrastive_cutmix.py or segmentation_cutmix_seg.py.
The runs are of one recipe and differ in `mix` alone. The file DATE_WHAT.json has a row for each
run, with each number of each seed, and the settings that the runs share. Numbers are shares in
[0, 1], as in study.json. Folders of this machine are not named in the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from harness.checkpoints import write_json
from harness.processes import CONSOLE, stop
from harness.results import RESULTS

NAME = "publish_runs"
#: Subject of a file, by the name of the recipe.
WHAT = {"contrastive_cutmix": "contrastive", "segmentation_cutmix_seg": "cutmix_seg"}
#: Numbers that results.json holds in percent.
IN_PERCENT = ("top1", "untrained_top1")
#: Settings in which the runs of a file may differ.
VARIED = ("mix", "preset", "out")


@dataclass(frozen=True)
class Settings:
    """Hold what to read and where to write."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs, in the order of the rows."""

    out: Path = Path(__file__).parent / "results"
    """Folder of the file."""


def main(settings: Settings) -> Path:
    """Write the file; return the file's path."""
    if len({folder.resolve() for folder in settings.runs}) < max(len(settings.runs), 1):
        runs = ", ".join(map(str, settings.runs)) or "none"
        stop(NAME, f"`runs` must be at least one folder, and none of them twice, got {runs}.")
    content = side_by_side([read(folder) for folder in settings.runs])
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
    if content["recipe"] not in WHAT:
        stop(NAME, f"{path} must be of {' or '.join(WHAT)}, got {content['recipe']}.")
    if content["smoke"]:
        stop(NAME, f"{path} is of a smoke run, whose numbers mean nothing.")
    return content


def side_by_side(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a row for each run, and what the runs share.

    Args:
        runs: Contents of results.json. Every entry with ``values`` is a number, by seed.

    Returns:
        ``what``, ``date`` of the last run, ``machine``, ``versions``, name of the ``data``,
        ``settings`` and a sentence of them, and ``rows``: the name of what was mixed as
        ``method``, and lists of shares in [0, 1].
    """
    shared = [common(run) for run in runs]
    for run, facts in zip(runs, shared, strict=True):
        names = {**shared[0], **facts}
        odd = [name for name in names if facts.get(name) != shared[0].get(name)]
        if odd:
            stop(
                NAME,
                f"`runs` must differ in `mix` alone, and {run['settings']['out']} has another "
                f"{', '.join(odd)} than {runs[0]['settings']['out']}.",
            )
    first = runs[0]
    settings = {k: v for k, v in first["settings"].items() if k not in (*VARIED, "data", "smoke")}
    return {
        "what": WHAT[first["recipe"]],
        "date": max(run["finished"] for run in runs)[:10],
        "machine": first["machine"],
        "versions": first["versions"],
        "data": Path(first["settings"]["data"]).name,
        "settings": settings,
        "settings_text": (
            f"{settings['epochs']} epochs, batches of {settings['batch_size']}, "
            f"{settings['seeds']} seeds."
        ),
        "rows": [{"method": run["settings"]["mix"], **numbers(run)} for run in runs],
    }


def common(run: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be equal in all runs of a file."""
    settings = {name: value for name, value in run["settings"].items() if name not in VARIED}
    return {name: run[name] for name in ("recipe", "machine", "versions")} | settings


def numbers(run: dict[str, Any]) -> dict[str, list[float]]:
    """Return the numbers of a run, one of each seed: shares in [0, 1]."""
    lists = {name: v["values"] for name, v in run.items() if isinstance(v, dict) and "values" in v}
    return {
        name: [value / 100 for value in values] if name in IN_PERCENT else values
        for name, values in lists.items()
    }


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
