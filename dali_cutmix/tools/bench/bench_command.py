"""``dali-cutmix bench``: this loader against torch's, on a user's own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dali_cutmix.tools.bench.bench import (
    OURS,
    TORCH,
    TRAINING,
    BenchSettings,
    row_of,
    run_bench,
    stages_of,
)
from dali_cutmix.tools.bench.machine import num_cores
from dali_cutmix.tools.bench.photos import photos
from dali_cutmix.tools.bench.race import OnRound, Standing
from dali_cutmix.tools.console import (
    errors_as_one_sentence,
    make_folder,
    native_messages_aside,
    print_path,
    tidy_when_terminated,
)

LOOKING_S = 6.0


class DeviceName(str, Enum):
    """Where batches have to be."""

    CPU = "cpu"
    CUDA = "cuda"


Data = Annotated[
    str, typer.Argument(help="Folder of photos; folders below it are classes.", metavar="DATA")
]
Size = Annotated[int, typer.Option(min=8, max=4096, help="Side of each image in pixels.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Images per batch.",
        show_default="64, on a GPU 256, fewer for images that take long to decode",
    ),
]
Device = Annotated[
    DeviceName | None,
    typer.Option(help="Where batches have to be.", show_default="cuda where there is a GPU"),
]


def bench(
    data: Data,
    size: Size = 224,
    batch_size: BatchSize = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of this loader, and worker processes of torch's.",
            show_default="CPUs of this process, at most 16",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Duration of each loader's turn in a round.")
    ] = 0.8,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Results to write, a .json file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture to write, a .png file; needs matplotlib.")
    ] = None,
) -> None:
    """Measure this loader and torch's DataLoader with v2.CutMix on your own photos.

    Both do the same work with the same cores, in turns, with mixing on and off; also what reading,
    decoding and resizing take alone, and how long a training step waits. Takes about a minute.
    """
    check_ending("--out", out, ".json")
    check_ending("--plot", plot, ".png")
    with tidy_when_terminated(), errors_as_one_sentence():
        if plot is not None:
            need_matplotlib()
        for path in (out, plot):
            if path is not None:
                make_folder(path.parent)
        name = choose_device(device)
        num_threads = min(16, num_cores()) if threads is None else threads
        settings = BenchSettings(size, num_threads, repeats, seconds, name)
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
            results, standings = run_bench(chosen, settings, on_step)
        console = Console()
        for sentence in chosen.sentences():
            _print(console, sentence)
        print_bench(console, results)
        _print_failures(console, standings)
        _print(console, f"\n{results['reading']}")
        if out is not None:
            out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            print_path(console, out)
        if plot is not None:
            from dali_cutmix.tools.bench.bench_plot import draw_bench

            draw_bench(results).save(plot)
            print_path(console, plot)
    if any(standing.error is not None for standing in standings):
        raise typer.Exit(1)


def check_ending(option: str, path: Path | None, ending: str) -> None:
    """Refuse a file to write with another ending, or a folder."""
    if path is not None and (path.suffix.lower() != ending or path.is_dir()):
        rule = f"must be a file that ends in {ending}, got {str(path)!r}."
        raise typer.BadParameter(rule, param_hint=option)


def choose_device(device: DeviceName | None) -> str:
    """The device asked for, or the GPU where there is one.

    Raises:
        ValueError: ``cuda`` without a GPU that torch sees.
    """
    seen = torch.cuda.is_available()
    if device is DeviceName.CUDA and not seen:
        raise ValueError("dali-cutmix: `--device cuda` needs a GPU, and torch sees none here.")
    return ("cuda" if seen else "cpu") if device is None else device.value


def need_matplotlib() -> None:
    """Raise ImportError that says what to install, unless it is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(
            "dali-cutmix: `--plot` needs matplotlib: pip install 'dali-cutmix[demo]'."
        ) from None


@contextmanager
def steps_shown(screen: Console) -> Iterator[OnRound]:
    """Show steps done of all, what is going on, and the time left; nothing without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    hidden = not screen.is_terminal
    with Progress(*columns, transient=True, console=screen, disable=hidden) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, description=f"{what:45}", completed=done, total=total)

        yield show


def print_bench(console: Console, results: dict[str, Any]) -> None:
    """Three tables: the loaders, where the time goes, and a training step."""
    method, machine = results["method"], results["machine"]
    where = machine["gpus"][0]["name"] if method["device"] == "cuda" else machine["cpu"]
    _print(
        console,
        f"{where}, {method['threads']} threads or worker processes; {method['size']} px, batches "
        f"of {method['batch_size']}; medians of {method['repeats']} turns of "
        f"{method['seconds']:g} s, in brackets the lowest and highest.\n",
    )
    table = Table(title="Images per second; torch with torchvision v2", title_justify="left")
    for column in ("", "CutMix", "no mixing", "CPU ms/image", "MB"):
        table.add_column(column, justify="right" if column else "left")
    for name in (OURS, TORCH):
        mixed, plain = (row_of(results, name, mix) for mix in ("cutmix", "none"))
        rest = ["", ""]
        if "median" in mixed:
            rest = [f"{1e3 * mixed['cpu_s_per_image']:.2f}", f"{mixed['peak_memory'] / 1e6:,.0f}"]
        table.add_row(name, _rate(mixed), _rate(plain), *rest)
    ratios = [
        _ratio(row_of(results, OURS, mix), row_of(results, TORCH, mix))
        for mix in ("cutmix", "none")
    ]
    table.add_row("ratio", *ratios, "", "")
    console.print(table)
    stages = stages_of(results)
    if stages:
        table = Table(title=f"Where the time of {OURS} goes", title_justify="left")
        for column in ("", "up to here, images/s", "adds, ms per image", "share"):
            table.add_column(column, justify="right" if column else "left")
        whole = 1e3 / stages[-1][1]
        for name, rate, each in stages:
            table.add_row(name, f"{rate:,.0f}", f"{each:+.3f}", f"{each / whole:.0%}")
        console.print(table)
    title = f"A training step with CutMix: {method['step']}"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for column in ("batches from", "images/s", "of the time waiting"):
        table.add_column(column, justify="right" if column != "batches from" else "left")
    for name in (OURS, TORCH):
        row = row_of(results, name + TRAINING, "cutmix")
        share = f"{row['wait_share']:.0%}" if "median" in row else ""
        table.add_row(name, _rate(row), share)
    console.print(table)
    if method["device"] == "cpu":
        _print(
            console, "On a CPU the model takes its time from the loader, and the loader from it."
        )


def _rate(row: dict[str, Any]) -> str:
    if "median" not in row:
        return "did not run"
    return f"{row['median']:,.0f} ({row['min']:,.0f} to {row['max']:,.0f})"


def _ratio(one: dict[str, Any], other: dict[str, Any]) -> str:
    if "median" not in one or "median" not in other:
        return ""
    return f"{one['median'] / other['median']:.2f}"


def _print_failures(console: Console, standings: list[Standing]) -> None:
    for standing in standings:
        if standing.error is not None:
            work = standing.contestant.work
            what = f"{standing.contestant.name} ({work.mix})"
            _print(console, f"Did not run: {what}: {standing.error}")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
