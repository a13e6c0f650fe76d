"""What ``dali-cutmix check`` prints of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.report import SMALL_SIDE, Report, Spread
from dali_cutmix.tools.check.boxes import ODD_KINDS, OddBox
from dali_cutmix.tools.check.verdict import BAD_KINDS
from dali_cutmix.tools.console import print_text

#: Bad files of one kind that are named; the others are counted.
MOST_NAMES = 20


def summary(report: Report, out: Path | None, takes_report: bool) -> str:
    """Return how many images are bad, and the way out.

    Args:
        report: The report of images.
        out: The file that holds the report, or None.
        takes_report: Whether a report can be written of such data.
    """
    num_images, num_bad = report.num_images, len(report.bad)
    if not num_bad:
        return f"All {num_images} images are fine." if num_images > 1 else "The only image is fine."
    count = f"{num_bad} of {num_images} images {'is' if num_bad == 1 else 'are'} bad."
    if not takes_report:
        return f'{count} `DataLoader(on_error="replace")` replaces them.'
    if out is None:
        return f'{count} With `--out report.json`, `DataLoader("report.json")` leaves them out.'
    return f'{count} `DataLoader("{printable(str(out))}")` leaves them out.'


def print_boxes(console: Console, boxes: Boxes, odd: Sequence[OddBox]) -> None:
    """Print odd boxes by their kinds, and counts."""
    for kind, outcome in ODD_KINDS.items():
        lines = [str(box) for box in odd if box.kind == kind]
        if lines:
            print_names(console, f"Boxes, {kind}, {outcome}: {len(lines)}", lines)
    num_boxes = boxes.counts.sum()
    num_empty = int((boxes.counts == 0).sum())
    count = f"{len(odd)} of {num_boxes} boxes are odd" if odd else f"All {num_boxes} boxes are fine"
    print_line(console, f"{count}; {num_empty} of {len(boxes)} images have none.")


def print_bad(console: Console, report: Report, out: Path | None) -> None:
    """Print bad images by their kinds."""
    for kind in BAD_KINDS:
        lines = [f"{image.path}: {image.reason}" for image in report.bad if image.kind == kind]
        if lines:
            where = f", see {out}" if out is not None else ", see --out"
            print_names(console, f"Bad, {kind}: {len(lines)}", lines, where)


def print_names(console: Console, title: str, lines: Sequence[str], where: str = "") -> None:
    """Print a title and the first lines below, and count the others."""
    print_line(console, title)
    for line in lines[:MOST_NAMES]:
        print_line(console, f"  {line}")
    if len(lines) > MOST_NAMES:
        print_line(console, f"  and {len(lines) - MOST_NAMES} more{where}")


def print_sizes(console: Console, report: Report) -> None:
    """Print a table of the sizes of images."""
    sizes = report.sizes
    of_all = "" if sizes.count == report.num_images else f" of {report.num_images}"
    noun = "image" if report.num_images == 1 else "images"
    small = f"{sizes.num_small} with a side below {SMALL_SIDE} px"
    # Not the table's title, which Rich would wrap to the table's width.
    print_line(console, f"{sizes.count}{of_all} {noun}, {small}")
    table = Table()
    table.add_column("")
    for name in ("min", "median", "max"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, Spread, float, str]] = [
        ("width, px", sizes.width, 1, ".0f"),
        ("height, px", sizes.height, 1, ".0f"),
        ("megapixels", sizes.megapixels, 1, ".3g"),
        ("file, kB", sizes.file_bytes, 1e3, ".3g"),
    ]
    for name, spread, unit, form in rows:
        values = (spread.min, spread.median, spread.max)
        table.add_row(name, *(format(value / unit, form) for value in values))
    console.print(table)


def print_line(console: Console, text: str) -> None:
    """Print a line with all escaped that a terminal would obey."""
    print_text(console, printable(text))
