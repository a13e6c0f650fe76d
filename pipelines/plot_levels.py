"""Plot what networks reach while more and more of an animal is covered.

    python pipelines/plot_levels.py runs/none runs/cutmix --out levels.svg

Each folder holds the results.json of a run with several seeds. A line is the mean of a run, named
by the run's `mix`; bars are standard deviations over the seeds. With --number map_covered the plot
is of detectors that scenes_detection.py measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from evaluation.figures import COLOURS, PLOT_SIZE, saved
from harness.checkpoints import check_out_file
from harness.processes import CONSOLE, stop
from publish_runs import read

NAME = "plot_levels"
#: Names of the numbers on the axis.
TITLES = {"top1": "top-1, %", "map_covered": "mAP, %", "recall_covered": "recall, %"}


@dataclass(frozen=True)
class Settings:
    """Hold what to read and where to write."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs, in the order of the lines."""

    out: Path
    """File of the plot; its name ends in .svg or .png."""

    number: str = "top1"
    """Number of which results.json has one for each level, as top1_25."""


def main(settings: Settings) -> None:
    """Write the plot, or end with a sentence."""
    kind = settings.out.suffix.removeprefix(".")
    if kind not in ("svg", "png"):
        stop(NAME, f"`out` must end in .svg or .png, got {settings.out}.")
    check_out_file(NAME, settings.out)
    lines = {}
    for folder in settings.runs:
        content = read(folder)
        levels = levels_of(content, settings.number)
        if not levels:
            stop(
                NAME,
                f"`number` must be one of which {folder / 'results.json'} has a number for each "
                f"level, got {settings.number!r}.",
            )
        mix = content["settings"]["mix"]
        if mix in lines:
            stop(NAME, f"`runs` must differ in `mix`, and two have {mix!r}.")
        lines[mix] = levels
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_bytes(plot_levels(lines, TITLES.get(settings.number, settings.number), kind))
    CONSOLE.print(f"{settings.out}: {len(lines)} lines")


def levels_of(content: Mapping[str, Any], number: str) -> dict[int, tuple[float, float]]:
    """Return mean and deviation at each level, by the covered percentage.

    Args:
        content: Content of results.json.
        number: Name of the number without the level.
    """
    levels = {}
    for name, value in content.items():
        match = re.fullmatch(rf"{re.escape(number)}_(\d\d)", name)
        # Only a number with a level 00 is a curve; map_50 has an IoU of 0.5.
        is_curve = match is not None and isinstance(value, dict) and f"{number}_00" in content
        if is_curve and value["mean"] is not None:
            levels[int(match[1])] = (value["mean"], value["deviation"] or 0.0)
    return dict(sorted(levels.items()))


def plot_levels(
    lines: Mapping[str, Mapping[int, tuple[float, float]]], title: str, kind: str
) -> bytes:
    """Return a plot as a file.

    Args:
        lines: Of each method, by its name: mean and deviation by covered percentage, in [0, 1].
        title: Name of the number.
        kind: "svg" or "png".
    """
    figure = Figure(figsize=PLOT_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, levels) in enumerate(lines.items()):
        # Side by side, so that bars do not hide each other.
        shift = 0.8 * (number - (len(lines) - 1) / 2)
        means, deviations = (
            [100 * value for value in values] for values in zip(*levels.values(), strict=True)
        )
        axes.errorbar(
            [level + shift for level in levels],
            means,
            deviations,
            color=COLOURS[number % len(COLOURS)],
            label=name,
            linewidth=1.4,
            capsize=2,
        )
    axes.set(xlabel="covered pixels of the animal, %", ylabel=title)
    axes.set_xticks(sorted({level for levels in lines.values() for level in levels}))
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    return saved(figure, kind)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
