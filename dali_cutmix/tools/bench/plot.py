"""Draw the results of ``dali-cutmix bench``."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

from PIL import Image

from dali_cutmix.tools.bench.results import (
    MIXING,
    OURS,
    REST,
    STAGES,
    row_of,
    stages_of,
    torch_row_of,
)
from dali_cutmix.tools.demo.report import GRAY, INK, RED

LIGHT = {RED: "#f3b3a7", GRAY: "#ccd1d5"}
#: Colours in the order of the stages, from stored bytes to tensors.
STAGE_COLOURS = dict(
    zip(
        (*STAGES, REST, MIXING),
        ("#c9ced3", "#7d868f", "#4a5259", "#f3b3a7", "#e23d1e"),
        strict=True,
    )
)


def draw_bench(results: dict[str, Any]) -> Image.Image:
    """Draw rates with and without mixing, of this loader and torch's fastest, and the stages.

    Args:
        results: Content of the results file; see `run_bench`.

    Returns:
        An RGB image.
    """
    # Without pyplot, which would keep the figure in global state and may open a window.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.6), dpi=180, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2.6, 1))
    _draw_rates(above, results)
    _draw_stages(below, results)
    method, machine = results["method"], results["machine"]
    processor = machine["gpus"][0]["name"] if method["device"] == "cuda" else machine["cpu"]
    figure.suptitle(
        f"{processor}, {method['threads']} threads or workers, {method['size']} px, batches of "
        f"{method['batch_size']}; n = {method['repeats']}, {results['date']}",
        fontsize=9,
        color=INK,
    )
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(data).convert("RGB")


def _draw_rates(axes: Any, results: dict[str, Any]) -> None:
    bars = [
        (f"{row['name']}\n{words}", row, colour, mix)
        for choose, colour in ((partial(row_of, name=OURS), RED), (torch_row_of, GRAY))
        for mix, words in (("cutmix", "CutMix"), ("none", "no mixing"))
        for row in [choose(results, mix=mix)]
    ]
    positions = [0.0, 1.0, 2.4, 3.4]
    most = max((row.get("max", 0.0) for _, row, _, _ in bars), default=0.0) or 1.0
    for position, (_, row, colour, mix) in zip(positions, bars, strict=True):
        if "median" not in row:
            axes.text(0.01 * most, position, "did not run", va="center", color=INK)
            continue
        median = row["median"]
        error = [[median - row["min"]], [row["max"] - median]]
        face = colour if mix == "cutmix" else LIGHT[colour]
        axes.barh(position, median, 0.82, color=face, xerr=error, error_kw={"ecolor": INK, "lw": 1})
        text = f"{median:,.0f}"
        axes.text(row["max"] + 0.012 * most, position, text, va="center", color=INK)
    decoded = row_of(results, "decoding the crop", "none")
    right = 1.12 * most  # room for the number behind the longest bar
    if "median" in decoded:
        label, rate = f"decoding alone: {decoded['median']:,.0f}", decoded["median"]
        # A line far beyond would squeeze all bars to the left.
        if rate <= right:
            axes.axvline(rate, color=INK, lw=1.2, ls=(0, (4, 3)))
        else:
            label += ", beyond this axis →"
        axes.text(
            min(rate, right), 4.3, f"{label} ", ha="right", va="bottom", color=INK, fontsize=9
        )
    axes.set_xlim(0, right)
    axes.set_ylim(4.35, -0.55)
    axes.set_yticks(positions, [label for label, _, _, _ in bars])
    axes.set_xlabel("images per second; lines span the lowest and highest turn", color=INK)
    axes.grid(axis="x", color="#e6e6e6", lw=0.8)
    _tidy(axes)


def _draw_stages(axes: Any, results: dict[str, Any]) -> None:
    right = left = 0.0
    for stage in stages_of(results):
        # `+ 0.0` makes 0.00 of -0.00.
        label = f"{stage.name} {round(stage.added_ms, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
        start = right if stage.added_ms > 0 else left
        colour = STAGE_COLOURS[stage.name]
        axes.barh(0, stage.added_ms, 0.6, left=start, color=colour, label=label)
        right, left = right + max(0.0, stage.added_ms), left + min(0.0, stage.added_ms)
    words = "milliseconds per image, where they go"
    if round(left, 2) < 0:  # see `Stage.added_ms`
        words += "; left of 0: faster than what was timed before, to be subtracted"
        axes.axvline(0, color=INK, lw=1)
    axes.set_yticks([0], [f"{OURS}\n{right + left:.2f} in all"])
    axes.set_xlabel(words, color=INK)
    axes.set_ylim(-0.4, 0.4)
    axes.set_xlim(left, right or 1)
    axes.legend(
        frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=5, fontsize=8,
        handlelength=1, columnspacing=1.2,
    )  # fmt: skip
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
