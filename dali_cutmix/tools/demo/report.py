"""Write the demo's report: one HTML file that fetches nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from statistics import mean, stdev

from PIL import Image

from dali_cutmix.core.writing import write_text
from dali_cutmix.tools.demo.comparison import HEADLINE, MIX, PER_CLASS, Comparison
from dali_cutmix.tools.demo.digits import SIDE
from dali_cutmix.tools.demo.trial import Trial

GRAY = "#7d868f"
RED = "#e23d1e"
INK = "#262626"

STYLE = """
body { margin: 0; background: #fff; color: #262626;
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 820px; margin: 0 auto; padding: 56px 24px 72px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 12px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 52px 0 8px; }
p { margin: 0 0 12px; }
.reading { font-size: 19px; line-height: 1.45; margin: 0 0 28px; padding-left: 16px;
           border-left: 4px solid #e23d1e; }
.note { color: #63696f; font-size: 14px; }
.table { overflow-x: auto; margin: 20px 0 12px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 9px 0 9px 16px; text-align: right; border-bottom: 1px solid #e6e6e6;
         font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 160px; }
thead th { font-weight: 600; border-bottom: 2px solid #262626; vertical-align: bottom; }
tbody th { font-weight: 400; }
img { display: block; max-width: 100%; height: auto; margin: 8px auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 12px 0 0; }
dt { color: #63696f; } dd { margin: 0; }
"""

Row = tuple[str, Callable[[Trial], float], Callable[[float], str]]


def percent(share: float) -> str:
    """Write a share in [0, 1] as percent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def three_decimals(value: float) -> str:
    """Write a number with three decimals."""
    return f"{value:.3f}"


def integer(value: float) -> str:
    """Write a number without decimals, with commas between thousands."""
    return f"{value:,.0f}"


#: Rows of the tables: name with unit, value in a trial, spelling.
ROWS: Sequence[Row] = (
    ("Accuracy, whole images (%)", lambda t: t.accuracy[0], percent),
    ("Accuracy under occlusion (%)", lambda t: t.accuracy[HEADLINE], percent),
    ("Accuracy on the training images (%)", lambda t: t.train_accuracy, percent),
    ("Calibration error, whole images", lambda t: t.calibration_error[0], three_decimals),
    ("Calibration error under occlusion", lambda t: t.calibration_error[HEADLINE], three_decimals),
    ("Training speed (images/s)", lambda t: t.images_per_s, integer),
    ("Time spent waiting for the loader (%)", lambda t: t.wait_share, percent),
)


def mean_and_spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Write mean and standard deviation, or a single value alone."""
    if len(values) == 1:
        return write(values[0])
    return f"{write(mean(values))} ± {write(stdev(values))}"


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the report: one HTML file with all its pictures inside.

    Args:
        comparison: Result of `compare`.
        path: Path of the file. Its folder exists.
    """
    write_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    """Return the report as HTML: one text, long since it reads as the page does."""
    settings, trial = comparison.settings, comparison.settings.trial
    count = len(comparison.mixed)
    share = percent((HEADLINE / SIDE) ** 2)
    setup = "".join(
        f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in comparison.setup.items()
    )
    spread = "Mean ± standard deviation" if count > 1 else "Single values"
    runs = f"{count} runs" if count > 1 else "1 run"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>CutMix on handwritten digits</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>CutMix on handwritten digits, {PER_CLASS} images per class</h1>
<p class="reading">{escape(comparison.reading)}</p>

<p>A small CNN was trained on {10 * PER_CLASS} scanned digits, {runs} without mixing and
{runs} with CutMix, and measured on the other {comparison.num_val:,}: on whole images, and with a
gray square of {HEADLINE} &times; {HEADLINE} of {SIDE} &times; {SIDE} pixels ({share} % of the area)
hiding a part of each.</p>
{_table(comparison)}
<p class="note">{spread} over n = {count} per column. Runs are paired: a run with and a run without
CutMix start from the same weights, see the same images in the same order and crops, and take the
same number of steps. Differences are taken within pairs. Every model is tested on the same images
with the same squares. All runs share their training images, so that the spread does not include
that choice (<code>--seed</code> draws others).
Calibration error: 15 equal bins of confidence, 0 is best. Training speed: images per second of wall
time, with decoding, mixing and the model's own steps.</p>

<h2>Accuracy against the size of the hidden square</h2>
{_img(_chart(comparison), "Accuracy against the side of the hidden square, by mix")}
<p class="note">Thin: each run. Thick: their mean. At 0 px nothing is hidden.</p>

<h2>What a model trains on</h2>
<p>Twelve images as the loader serves them in training. The pixels inside the outline are another
image's. Below stand the classes and their weights in the target: the shares of the pixels.</p>
{_img(comparison.contact_sheet, "A training batch, cuts outlined and class weights written below")}

<h2>What it is tested on</h2>
<p>The first validation image of each digit with its square, and the answers of the two models of
the first run. Wrong answers are red.</p>
{_img(comparison.hidden_sheet, "Validation images with a gray square and what each model says")}

<h2>How it was done</h2>
<dl>
<dt>Data</dt><dd>scikit-learn's digits (UCI Optical Recognition of Handwritten Digits): scans of
8 &times; 8 pixels, enlarged to {SIDE} &times; {SIDE} by bicubic interpolation, saved as JPEG</dd>
<dt>Mix</dt><dd>{escape(repr(MIX))}</dd>
<dt>Training</dt><dd>{trial.epochs} epochs in batches of {trial.batch_size}, AdamW, one-cycle
schedule up to {trial.learning_rate:g}, random crops of {trial.scale[0]:.0%} to
{trial.scale[1]:.0%} of the area, no mirroring; seeds {settings.seed} to
{settings.seed + count - 1}</dd>
<dt>Loader</dt><dd>dali_cutmix.DataLoader on the CPU, from JPEG files to normalised tensors</dd>
{setup}
<dt>Time</dt><dd>{comparison.seconds:.0f} s for everything</dd>
</dl>
</main>
</body>
</html>
"""


def _table(comparison: Comparison) -> str:
    rows = []
    for name, value_of, write in ROWS:
        without = [value_of(trial) for trial in comparison.without]
        mixed = [value_of(trial) for trial in comparison.mixed]
        gains = [b - a for a, b in zip(without, mixed, strict=True)]
        gain = mean_and_spread(gains, write)
        signed = gain if gain.startswith("-") else f"+{gain}"
        texts = (mean_and_spread(without, write), mean_and_spread(mixed, write), signed)
        cells = "".join(f"<td>{text}</td>" for text in texts)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        '<div class="table"><table>\n'
        "<thead><tr><th></th><th>without mixing</th><th>with CutMix</th><th>difference</th></tr>"
        f"</thead>\n<tbody>{''.join(rows)}</tbody>\n</table></div>"
    )


def _img(image: Image.Image, alt: str) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{encoded}" alt="{escape(alt)}">'


def _chart(comparison: Comparison) -> Image.Image:
    # Without pyplot, which would keep the figure in global state and may open a window.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 4.1), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    curves = (("without mixing", comparison.without, GRAY), ("with CutMix", comparison.mixed, RED))
    for name, trials, colour in curves:
        sides = sorted(trials[0].accuracy)
        for trial in trials:
            axes.plot(
                sides, [100 * trial.accuracy[s] for s in sides], color=colour, lw=0.9, alpha=0.4
            )
        means = [100 * mean(trial.accuracy[side] for trial in trials) for side in sides]
        axes.plot(sides, means, color=colour, lw=2.4, marker="o", ms=5, label=name)
    axes.set_ylim(top=101)
    axes.set_xticks(sides, [f"{side} px\n{(side / SIDE) ** 2:.0%}" for side in sides])
    axes.set_xlabel("side of the hidden square, and its share of the image", color=INK)
    axes.set_ylabel("accuracy (%)", color=INK)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.legend(frameon=False, loc="lower left")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(data).convert("RGB")
