"""``dali-cutmix check``: which images are bad, before a training run stops at them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.report import SMALL_SIDE, Report, Spread
from dali_cutmix.tools.check import check_images
from dali_cutmix.tools.console import (
    FirstLabel,
    absolute,
    errors_as_one_sentence,
    image_progress,
    make_folder,
    native_messages_aside,
    print_path,
    tidy_when_terminated,
)
from dali_cutmix.tools.verdict import BAD_KINDS

BAD_NAMES = 20
ODD_NAMES = 3


def check(
    data: Annotated[
        str,
        typer.Argument(help="Images: anything that DataLoader takes as a path.", metavar="DATA"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Report to write, a .json file, which `DataLoader` takes as its source. It holds "
            "the absolute path of the data."
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=0, help="Largest image taken, in pixels; 0 takes all.")
    ] = 2**27,
    num_workers: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="CPUs of this process, at most 8"),
    ] = None,
    first_label: FirstLabel = None,
) -> None:
    """Decode every image, and list those that are bad, those that are odd, and their sizes.

    Finds what would stop a training run, and what a decoder passes over in silence. Ends with
    status 1 when an image is bad.
    """
    if out is not None and (out.suffix.lower() != ".json" or out.is_dir()):
        rule = f"must be a file that ends in .json, got {str(out)!r}."
        raise typer.BadParameter(rule, param_hint="--out")
    if out is not None and os.path.realpath(out) == os.path.realpath(data):
        rule = f"must be another file than DATA, got {str(out)!r}: a report names its source."
        raise typer.BadParameter(rule, param_hint="--out")
    with tidy_when_terminated(), errors_as_one_sentence(), _written_whole(out) as write:
        source = absolute(data)
        images = open_source(source, first_label=first_label)
        with (
            native_messages_aside() as screen,
            image_progress("Checking", len(images), screen) as on_progress,
        ):
            report = check_images(
                images,
                num_threads=num_workers,
                max_pixels=max_pixels or None,
                on_progress=on_progress,
                source=source,
                first_label=first_label,
            )
        write(report.to_json())
    console = Console()
    _print_sizes(console, report)
    _print_odd(console, report, out)
    _print_bad(console, report, out)
    if out is not None:
        print_path(console, out)
    _print(console, _reading(report, out))
    if report.bad:
        raise typer.Exit(1)


def _reading(report: Report, out: Path | None) -> str:
    count, num_bad = report.num_images, len(report.bad)
    if not num_bad:
        return f"All {count} images are fine." if count > 1 else "The only image is fine."
    found = f"{num_bad} of {count} images {'is' if num_bad == 1 else 'are'} bad."
    if out is None:
        return f'{found} With `--out report.json`, `DataLoader("report.json")` leaves them out.'
    return f'{found} `DataLoader("{_shown(str(out))}")` leaves them out.'


def _print_bad(console: Console, report: Report, out: Path | None) -> None:
    for kind in BAD_KINDS:
        lines = [f"{image.path}: {image.reason}" for image in report.bad if image.kind == kind]
        _print_names(console, f"Bad, {kind}", lines, BAD_NAMES, out)


def _print_odd(console: Console, report: Report, out: Path | None) -> None:
    for kind, found in report.odd.items():
        lines = [path for _, path in found[:ODD_NAMES]]
        _print_names(console, f"Odd but fine, {kind}", lines, ODD_NAMES, out, len(found))


def _print_names(
    console: Console,
    title: str,
    lines: Sequence[str],
    at_most: int,
    out: Path | None,
    count: int | None = None,
) -> None:
    count = len(lines) if count is None else count
    if not count:
        return
    _print(console, f"{title}: {count}")
    for line in lines[:at_most]:
        _print(console, f"  {line}")
    if count > at_most:
        where = f"see {out}" if out is not None else "see --out"
        _print(console, f"  and {count - at_most} more, {where}")


def _print_sizes(console: Console, report: Report) -> None:
    sizes = report.sizes
    of = "" if sizes.count == report.num_images else f" of {report.num_images}"
    images = "image" if report.num_images == 1 else "images"
    small = f"{sizes.num_small} with a side below {SMALL_SIDE} px"
    # No title of the table, which would be wrapped to its width.
    _print(console, f"{sizes.count}{of} {images}, {small}")
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


def _print(console: Console, text: str) -> None:
    console.print(_shown(text), markup=False, highlight=False, soft_wrap=True)


def _shown(text: str) -> str:
    """Text that any terminal can take: names are bytes, and need be neither UTF-8 nor one line."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


@contextmanager
def _written_whole(out: Path | None) -> Iterator[Any]:
    """A function that writes the report under another name first, so that it is whole or not there.

    The file is made at once: a folder that takes none is better known before an hour of checking.
    """
    if out is None:
        yield lambda text: None  # noqa: ARG005
        return
    make_folder(out.parent)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        file = open(unfinished, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None
    try:
        with file:
            yield file.write
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
