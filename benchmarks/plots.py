"""Plots of results, with the data they were made from noted in the picture."""

from __future__ import annotations

import hashlib
import json
import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import rows_of
from PIL import Image

GRAY, RED, INK, PALE = "#8a8a8a", "#c8102e", "#222222", "#e6e6e6"
#: Bars without a mix: of this loader, and of others.
PINK, PALER = "#f0b4bd", "#bdbdbd"
#: Colour, marker and line of known names; other names take theirs by position.
STYLES = {
    "dali_cutmix": (RED, "o", "-"),
    "torch DataLoader": (INK, "s", "-"),
    "decode only": (GRAY, "^", "-"),
    "decode and resize": (GRAY, "D", "--"),
}
OTHERS = ((GRAY, "v", ":"), (GRAY, "P", "-."))
NOTE = "Data"  # key of the PNG's text


@dataclass(frozen=True)
class Picture(ABC):
    """Draw data into a file that says which data it was drawn from."""

    name: str
    """Of the file, without its ending."""
    title: str
    x: str
    """What is on the horizontal axis."""
    y: str
    """What is on the vertical axis."""
    lines: dict[str, list[tuple[Any, float, float, float]]]
    """By name: (value on an axis, median, least, most)."""

    @property
    def fingerprint(self) -> str:
        """Return a fingerprint of all that is drawn."""
        drawn = json.dumps([self.title, self.x, self.y, self.lines])
        return hashlib.sha256(drawn.encode()).hexdigest()[:16]

    @property
    def markdown(self) -> str:
        """Return Markdown for the picture, with its data's fingerprint, beside ``pictures/``."""
        alt = f"{self.title}: {self.y} by {self.x}"
        return f"![{alt}](pictures/{self.name}.png)<!-- {self.fingerprint} -->"

    def is_drawn(self, folder: Path) -> bool:
        """Return whether the picture in a folder was made from the same data."""
        path = folder / f"{self.name}.png"
        if not path.exists():
            return False
        with Image.open(path) as picture:
            return bool(picture.info.get(NOTE) == self.fingerprint)

    @abstractmethod
    def draw(self, folder: Path) -> None:
        """Write the picture."""

    def save(self, figure: Any, folder: Path) -> None:
        """Write a figure of matplotlib."""
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{self.name}.png", metadata={NOTE: self.fingerprint})


@dataclass(frozen=True)
class Bars(Picture):
    """Draw a pair of bars for each loader: rates with CutMix and without, the fastest on top.

    ``lines`` holds two points for each loader, ``"cutmix"`` and ``"none"``, and one for a limit.
    """

    limit: str = ""
    """Name of the rate that is a dashed line; empty draws none."""

    def draw(self, folder: Path) -> None:
        """Write the picture."""
        from matplotlib.figure import Figure

        loaders = [name for name in self.lines if name != self.limit]
        figure = Figure(figsize=(6.4, 0.6 + 0.42 * len(loaders)), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for place, name in enumerate(loaders):
            for shift, colours, (_, median, least, most) in zip(
                (-0.2, 0.2), ((RED, INK), (PINK, PALER)), self.lines[name], strict=True
            ):
                colour = colours[not name.startswith("dali_cutmix")]
                spread = [[median - least], [most - median]]
                style = {"ecolor": GRAY, "elinewidth": 0.9}
                axes.barh(place + shift, median, 0.38, color=colour, xerr=spread, error_kw=style)
        if self.limit:
            ((_, rate, _, _),) = self.lines[self.limit]
            axes.axvline(rate, color=INK, lw=1, ls=(0, (4, 3)))
            last = len(loaders) - 0.6
            axes.text(rate, last, f"{self.limit} ", ha="right", va="bottom", fontsize=8, color=INK)
        axes.set_yticks(range(len(loaders)), loaders)
        axes.invert_yaxis()
        axes.set_title(self.title, loc="left", color=INK, fontsize=10)
        axes.set_xlabel(self.x, color=INK, fontsize=9)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=PALE, lw=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelcolor=INK, labelsize=9)
        axes.xaxis.set_major_formatter("{x:,g}")
        self.save(figure, folder)


@dataclass(frozen=True)
class Plot(Picture):
    """Draw lines over one axis, or markers alone over names."""

    def draw(self, folder: Path) -> None:
        """Write the picture."""
        # Without pyplot, which would keep the figure in global state and may open a window.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.4), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        named = any(isinstance(point[0], str) for line in self.lines.values() for point in line)
        places = {x: index for index, x in enumerate(self._values())}
        for index, (name, line) in enumerate(self.lines.items()):
            at = [places[x] if named else x for x, *_ in line]
            middle = [median for _, median, _, _ in line]
            below = [median - least for _, median, least, _ in line]
            above = [most - median for _, median, _, most in line]
            colour, marker, dashes = STYLES.get(name, OTHERS[index % len(OTHERS)])
            style = {"color": colour, "marker": marker, "ls": "none" if named else dashes}
            thin = {"ms": 4, "lw": 1.6, "capsize": 2.5, "elinewidth": 0.9, "label": name}
            # Without bars, the legend would still draw one.
            spread = (below, above) if any(below + above) else None
            axes.errorbar(at, middle, spread, **style, **thin)
        self._scale(axes, named)
        axes.set_title(self.title, loc="left", color=INK, fontsize=10)
        axes.set_xlabel(self.x, color=INK)
        axes.set_ylabel(self.y, color=INK)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=PALE, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelcolor=INK)
        axes.yaxis.set_major_formatter("{x:,g}")  # whole numbers would hide halves
        # Beside the lines, which would cross a legend inside.
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
        self.save(figure, folder)

    def _values(self) -> list[Any]:
        return list(dict.fromkeys(x for line in self.lines.values() for x, *_ in line))

    def _scale(self, axes: Any, named: bool) -> None:
        values = self._values()
        if named:
            axes.set_xticks(range(len(values)), [textwrap.fill(name, 11) for name in values])
            axes.set_xlim(-0.3, len(values) - 0.7)
            return
        if max(values) >= 4 * min(values):
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.minorticks_off()


def compare_bars(result: dict[str, Any], limit: str) -> Bars | None:
    """Return the bars of a comparison; None where no loader ran with and without a mix."""
    rows = [row for row in result["rows"] if "median" in row]
    points: dict[str, dict[str, tuple[Any, float, float, float]]] = {}
    for row in rows:
        if row["kind"] == "loader":
            point = (row["mix"], row["median"], row["min"], row["max"])
            points.setdefault(row["name"], {})[row["mix"]] = point
    both = {name: [of["cutmix"], of["none"]] for name, of in points.items() if len(of) > 1}
    if not both:
        return None
    lines = dict(sorted(both.items(), key=lambda item: -item[1][0][1]))
    limits = [row for row in rows if row["name"] == limit]
    for row in limits:
        lines[limit] = [("none", row["median"], row["min"], row["max"])]
    suffix = "_gpu" if result["method"]["device"] == "cuda" else ""
    title = "With CutMix (dark) and without (light)"
    return Bars(
        f"compare{suffix}", title, "images per second", "loaders", lines, limit * bool(limits)
    )


def scale_plots(result: dict[str, Any]) -> dict[str, Plot]:
    """Return the curves of a scale result, by name."""
    plots = {}
    suffix = "_gpu" if result["method"]["device"] == "cuda" else ""
    for name in dict.fromkeys(row["curve"] for row in result["rows"]):
        lines: dict[str, list[tuple[Any, float, float, float]]] = {}
        for row in rows_of(result, name):
            if "error" not in row:
                point = (row["x"], row["median"], row["min"], row["max"])
                lines.setdefault(row["name"], []).append(point)
        if lines:
            file = f"scale_{name.replace(' ', '_')}{suffix}"
            unit = " (px)" if name == "image size" else ""
            plots[name] = Plot(file, f"By {name}", name + unit, "images per second", lines)
    return plots


def memory_plot(result: dict[str, Any]) -> Plot:
    """Return the plot of peak memory by batch size."""
    lines: dict[str, list[tuple[Any, float, float, float]]] = {}
    for row in result["rows"]:
        if "error" not in row:
            held = row["peak_memory"] / 2**20
            lines.setdefault(row["name"], []).append((row["batch_size"], held, held, held))
    suffix = "_gpu" if result["method"]["device"] == "cuda" else ""
    title = "Training and validation loader together"
    return Plot(f"memory{suffix}", title, "batch size", "MiB held at most", lines)
