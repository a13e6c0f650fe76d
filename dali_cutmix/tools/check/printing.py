"""What ``dali-cutmix check`` prints of a report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from dali_cutmix.core.errors import printable
from dali_cutmix.sources.report import SMALL_SIDE, Report, Spread
from dali_cutmix.tools.check.parts import Part, count_of_bad, names_in
from dali_cutmix.tools.check.verdict import BAD_KINDS
from dali_cutmix.tools.console import print_path, print_text


def print_report(
    console: Console, report: Report, out: Path | None, *, noun: str, takes_report: bool
) -> None:
    """Print sizes of images, bad images by their kinds, how many are bad, and the way out.

    Args:
        console: Where to print.
        report: The report.
        out: The file that holds the report, or None.
        noun: ``"image"`` or ``"frame"``.
        takes_report: Whether a report can be written of such data.
    """
    _print_sizes(console, report, noun)
    where = ("" if not takes_report else ", see --out") if out is None else f", see {out}"
    for kind in BAD_KINDS:
        lines = [f"{image.path}: {image.reason}" for image in report.bad if image.kind == kind]
        for line in names_in(f"Bad, {kind}", lines, where):
            print_line(console, line)
    if out is not None:
        print_path(console, out)
    print_line(console, _summary(report, out, noun, takes_report))


def print_part(console: Console, part: Part) -> None:
    """Print the report of boxes, masks, clips or volumes."""
    for line in part.lines():
        print_line(console, line)


def _summary(report: Report, out: Path | None, noun: str, takes_report: bool) -> str:
    """Return how many images are bad, and the way out."""
    if not takes_report:
        replaced = "their clips" if noun == "frame" else "them"
        way_out = f'`DataLoader(on_error="replace")` replaces {replaced}.'
    elif out is None:
        way_out = 'With `--out report.json`, `DataLoader("report.json")` leaves them out.'
    else:
        way_out = f'`DataLoader("{printable(str(out))}")` leaves them out.'
    return count_of_bad(len(report.bad), report.num_images, f"{noun}s", way_out)


def _print_sizes(console: Console, report: Report, noun: str) -> None:
    """Print a table of the sizes of images."""
    sizes = report.sizes
    of_all = "" if sizes.count == report.num_images else f" of {report.num_images}"
    small = f"{sizes.num_small} with a side below {SMALL_SIDE} px"
    # Not the table's title, which Rich would wrap to the table's width.
    plural = "" if report.num_images == 1 else "s"
    print_line(console, f"{sizes.count}{of_all} {noun}{plural}, {small}")
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
