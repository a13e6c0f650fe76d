"""Plots of results, with the data they were made from noted in the picture."""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import rows_of
from PIL import Image

GRAY, RED, INK, PALE = "#8a8a8a", "#c8102e", "#222222", "#e6e6e6"
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
class Plot:
    """Draw lines over one axis, or markers alone over names."""

    name: str
    """Of the file, without its ending."""
    title: str
    x: str
    """What is on the axis."""
    y: str
    lines: dict[str, list[tuple[Any, float, float, float]]]
    """By name: (value on the axis, median, least, most)."""

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
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{self.name}.png", metadata={NOTE: self.fingerprint})

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
