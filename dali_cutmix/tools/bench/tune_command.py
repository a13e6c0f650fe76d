"""``dali-cutmix tune``: the settings that serve a user's own files fastest on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from dali_cutmix.tools.bench.bench_command import (
    LOOKING_S,
    BatchSize,
    Data,
    Device,
    Size,
    check_ending,
    choose_device,
    steps_shown,
)
from dali_cutmix.tools.bench.machine import num_cores
from dali_cutmix.tools.bench.photos import photos
from dali_cutmix.tools.bench.tune import COMPARED, Curve, Point, TuneSettings, run_tune
from dali_cutmix.tools.console import (
    errors_as_one_sentence,
    make_folder,
    native_messages_aside,
    print_path,
    tidy_when_terminated,
)

_BAR = 12  # characters


def tune(
    data: Data,
    size: Size = 224,
    batch_size: BatchSize = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="GB that the loader may take: of the GPU's memory, or of the whole process on "
            "the CPU.",
            show_default="no limit",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Duration of each setting's turn in a round.")
    ] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds of each setting.")] = 3,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Settings to write, a .json file.")] = Path(
        "tuning.json"
    ),
) -> None:
    """Try threads and prefetch depth, and on a GPU its decoder's settings, and keep what is best.

    One setting is tried after the other, its values in turns. Of values that are equally fast
    within the noise the smallest is kept. Writes a file that `DataLoader(tuning=...)` takes.
    """
    check_ending("--out", out, ".json")
    console = Console()
    with tidy_when_terminated(), errors_as_one_sentence():
        make_folder(out.parent)
        name = choose_device(device)
        limit = None if max_memory is None else int(max_memory * 1e9)
        settings = TuneSettings(size, repeats, seconds, name, limit)
        with (
            native_messages_aside() as screen,
            steps_shown(screen) as on_step,
            photos(
                data,
                device=name,
                batch_size=batch_size,
                seconds=LOOKING_S,
                num_threads=num_cores(),
                on_progress=lambda done, total: on_step(done, total, "looking at the images"),
            ) as chosen,
        ):
            for sentence in chosen.sentences():
                _print(console, sentence)
            of = f"{size} px, batches of {chosen.batch_size}, CutMix on, on the {name}"
            _print(console, f"{of}; medians of {repeats} turns of {seconds:g} s; GB of memory.\n")

            def show(curve: Curve) -> None:
                _print_curve(console, curve, limit)
                if curve.name == COMPARED:
                    _print(console, _reading(curve))

            found = run_tune(chosen, settings, on_step, show, lambda note: _print(console, note))
        found.write(out)
        print_path(console, out)
        _print(console, f'Use it: DataLoader(..., tuning="{out}")')


def _print_curve(console: Console, curve: Curve, limit: int | None) -> None:
    table = Table(title=curve.name, title_justify="left", min_width=len(curve.name))
    most = max(point.median for point in curve.points) or 1.0
    rows = [_cells(point, most, limit, point is curve.chosen) for point in curve.points]
    names = ("", "images/s", "lowest to highest", "GB", "")
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        # On a narrow screen Rich would cut the values off rather than the bars.
        width = max(map(len, (name, *cells)))
        justify: Literal["left", "right"] = "left" if "█" in "".join(cells) else "right"
        table.add_column(name, justify=justify, min_width=width)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    for point in curve.points:
        if point.error is not None:
            _print(console, f"{curve.name} {point.label} failed: {point.error}")


def _cells(point: Point, most: float, limit: int | None, chosen: bool) -> tuple[str, ...]:
    if not point.rates:
        return point.label, "failed", "", "", ""
    bar = "█" * max(1, round(_BAR * point.median / most))
    over = limit is not None and point.memory > limit
    said = " too much memory" if over else " kept" if chosen else ""
    return (
        point.label,
        f"{point.median:,.0f}",
        f"{min(point.rates):,.0f} to {max(point.rates):,.0f}",
        f"{point.memory / 1e9:.2f}",
        f"{bar}{said}",
    )


def _reading(compared: Curve) -> str:
    default, tuned = compared.points
    if not (default.rates and tuned.rates):
        return "The settings found and the defaults could not be compared."
    ratio = f"{tuned.median / default.median:.2f} times"
    if compared.chosen is default:
        return f"The defaults are kept: the settings found are {ratio} as fast, no clear gain."
    return f"With the settings kept the loader is {ratio} as fast as with its defaults."


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
