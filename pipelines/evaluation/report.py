"""A report as one HTML file that needs no other file: the table first, then every measure."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from evaluation.compare import LEVEL, Difference
from evaluation.figures import plot
from evaluation.result import Curve, Result, Table
from evaluation.saved import Evaluation

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 46rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .3rem .4rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid #eee; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid #999; overflow-wrap: anywhere; min-width: 3.6rem; }
thead th:last-child { overflow-wrap: normal; }
tbody th { padding-top: .9rem; font-weight: 600; border-bottom: 1px solid #bbb; }
.interval { display: block; color: #555; font-size: .75rem; }
summary { cursor: pointer; margin: .6rem 0; }
figure { margin: 1rem 0; }
img { display: block; width: 100%; max-width: 34rem; height: auto; }
figcaption, .notes, dl { color: #444; font-size: .9rem; }
ul.notes { padding-left: 1.2rem; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; overflow-wrap: anywhere; }
"""

#: Numbers of each measure in the first table; all numbers of measures that are not here.
HEADLINES = {
    "classification": ("top1", "top5", "nll", "ece", "aurc", "worst_class", "worst_group"),
    "occlusion": ("center", "border"),
    "in_between": ("mixup", "cutmix"),
    "corruptions": ("clean_error", "mean_error", "mean_corruption_error"),
    "outliers": ("auroc", "fpr95", "detection_error"),
    "localisation": ("gt_known", "top1_localisation", "max_box_acc_v2"),
}

#: How numbers are called. Arrows say where better numbers lie, up or down.
LABELS = {
    "top1": "top-1 ↑",
    "top5": "top-5 ↑",
    "nll": "NLL ↓",
    "ece": "ECE ↓",
    "aurc": "AURC ↓",
    "worst_class": "worst class ↑",
    "worst_group": "worst group ↑",
    "center": "centre hidden ↑",
    "border": "border hidden ↑",
    "mixup": "blended inputs ↑",
    "cutmix": "cut inputs ↑",
    "clean": "top-1, no attack ↑",
    "fgsm": "top-1, FGSM ↑",
    "pgd": "top-1, PGD ↑",
    "clean_error": "error, clean ↓",
    "mean_error": "error, corrupted ↓",
    "mean_corruption_error": "mCE ↓",
    "auroc": "AUROC ↑",
    "fpr95": "FPR at 95 % ↓",
    "detection_error": "detection error ↓",
    "gt_known": "GT-known ↑",
    "top1_localisation": "top-1 localisation ↑",
    "max_box_acc": "MaxBoxAcc ↑",
    "max_box_acc_v2": "MaxBoxAccV2 ↑",
    "whole_image_v2": "MaxBoxAccV2 of whole images",
    "overconfidence": "confidence minus top-1",
}


def headlines(result: Result) -> list[str]:
    """Return the names of a result's main numbers."""
    names = HEADLINES.get(result.name, tuple(result.numbers))
    return [name for name in names if name in result.numbers]


def write_report(
    path: Path, evaluations: Sequence[Evaluation], differences: Sequence[Difference] = ()
) -> None:
    """Write report.html; the path holds the complete old or the complete new file at any time.

    Args:
        path: The file.
        evaluations: One evaluation; or two sides, of which the first runs are drawn.
        differences: What the second side has more than the first, where there are two.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(_page(evaluations, differences)) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _page(evaluations: Sequence[Evaluation], differences: Sequence[Difference]) -> Iterator[str]:
    title = " and ".join(evaluation.name for evaluation in evaluations)
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}: evaluation</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(title)}</h1>"
    yield from _first_table(evaluations, differences)
    titles = {r.name: r.title for evaluation in evaluations for r in evaluation.results}
    columns = _columns(evaluations, differences)
    for measure, heading in titles.items():
        results = {e.name: r for e in evaluations for r in e.results if r.name == measure}
        yield f'<h2 id="{escape(measure)}">{escape(heading)}</h2>'
        yield from _section(results)
        shown = headlines(next(iter(results.values())))
        prefix = f"{measure}/"
        names = [n.removeprefix(prefix) for n in columns if n.startswith(prefix)]
        if set(names) - set(shown):
            yield "<details><summary>All numbers</summary>"
            yield '<div class="wide"><table>'
            yield from _head(evaluations, differences)
            yield from _rows(measure, names, columns)
            yield "</tbody></table></div></details>"
    yield "<h2>About</h2>"
    for evaluation in evaluations:
        yield "<dl>"
        for term, fact in {"classifier": evaluation.name, **evaluation.about}.items():
            yield f"<dt>{escape(str(term))}</dt><dd>{escape(str(fact))}</dd>"
        yield "</dl>"
    yield "</body></html>"


def _first_table(
    evaluations: Sequence[Evaluation], differences: Sequence[Difference]
) -> Iterator[str]:
    """Yield the table of the main numbers of all measures."""
    results = {r.name: r for e in evaluations for r in e.results}
    columns = _columns(evaluations, differences)
    yield '<div class="wide"><table>'
    yield from _head(evaluations, differences)
    for measure, result in results.items():
        names = [n for n in headlines(result) if f"{measure}/{n}" in columns]
        if names:
            link = f'<a href="#{escape(measure)}">{escape(result.title)}</a>'
            count = len(evaluations) + 1 + bool(differences)
            yield f'<tr><th colspan="{count}" scope="rowgroup">{link}</th></tr>'
            yield from _rows(measure, names, columns)
    yield "</tbody></table></div>"
    text = "Shares in [0, 1], but for NLL and mCE. ↑: larger is better, ↓: smaller is better."
    text += f" {_explained(differences)}" if differences else ""
    yield f'<p class="notes">{text}</p>'


def _columns(
    evaluations: Sequence[Evaluation], differences: Sequence[Difference]
) -> dict[str, list[str]]:
    """Return the cells of each row, by the number's name."""
    if not differences:
        return {name: [_number(value)] for name, value in evaluations[0].numbers.items()}
    return {d.name: [_number(d.first), _number(d.second), _difference(d)] for d in differences}


def _head(evaluations: Sequence[Evaluation], differences: Sequence[Difference]) -> Iterator[str]:
    heads = ["number", *(e.name for e in evaluations), *["difference"] * bool(differences)]
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    yield f"<thead><tr>{cells}</tr></thead><tbody>"


def _rows(measure: str, names: Sequence[str], columns: dict[str, list[str]]) -> Iterator[str]:
    for name in names:
        values = "".join(f"<td>{cell}</td>" for cell in columns[f"{measure}/{name}"])
        label = LABELS.get(name, name.replace("_", " "))
        label = re.sub(" (?=[↑↓])", "&nbsp;", escape(label))  # no arrow on a line of its own
        yield f"<tr><td>{label}</td>{values}</tr>"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "undefined"


def _difference(row: Difference) -> str:
    """Return a difference with its intervals below, bold where all of them exclude 0."""
    text = f"{row.difference:+.4f}" if math.isfinite(row.difference) else "undefined"
    text = f"<b>{text}</b>" if row.is_clear else text
    for interval, what in ((row.over_images, ""), (row.over_seeds, "seeds: ")):
        if interval is not None:
            low, high = interval
            text += f'<span class="interval">{what}{low:+.4f} to {high:+.4f}</span>'
    return text


def _explained(differences: Sequence[Difference]) -> str:
    text = f"Differences are the second column minus the first, with {LEVEL:.0%} intervals: "
    text += "over images by a paired bootstrap"
    if any(row.over_seeds is not None for row in differences):
        text += ", over training runs by Welch's method"
    text += ". All intervals of a bold difference exclude 0. By chance that happens to some "
    text += f"{1 - LEVEL:.0%} of the rows where nothing differs."
    return text


def _section(results: dict[str, Result]) -> Iterator[str]:
    """Yield plots, pictures and notes of one measure, of every subject that has the measure."""
    curves: dict[str, dict[str, Curve]] = {}
    for subject, result in results.items():
        for curve in result.curves:
            curves.setdefault(curve.title, {})[subject] = curve
    for title, drawn in curves.items():
        yield _figure("svg+xml", plot(drawn), title)
    for subject, result in results.items():
        prefix = f"{subject}: " if len(results) > 1 else ""
        for picture in result.pictures:
            yield _figure("png", picture.png, prefix + picture.caption)
        for table in result.tables:
            yield from _details(prefix + table.title, table)
    said_by: dict[str, list[str]] = {}
    for subject, result in results.items():
        for note in result.notes:
            said_by.setdefault(note, []).append(subject)
    notes = [
        note if len(said_by[note]) == len(results) else f"{', '.join(said_by[note])}: {note}"
        for note in said_by
    ]
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        yield f'<ul class="notes">{items}</ul>'


def _details(title: str, table: Table) -> Iterator[str]:
    """Yield a table of a measure, closed until it is clicked, since classes may be a thousand."""
    yield f'<details><summary>{escape(title)}</summary><div class="wide"><table><thead><tr>'
    yield "".join(f'<th scope="col">{escape(head)}</th>' for head in table.header)
    yield "</tr></thead><tbody>"
    for row in table.rows:
        cells = (_number(cell) if isinstance(cell, float) else escape(str(cell)) for cell in row)
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table></div></details>"


def _figure(kind: str, data: bytes, caption: str) -> str:
    encoded = base64.b64encode(data).decode()
    text = escape(caption)
    image = f'<img src="data:image/{kind};base64,{encoded}" alt="{text}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
