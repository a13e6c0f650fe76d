"""The command ``dali-cutmix bench``: race this loader against torch's on a user's own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.table import Table

from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.writing import replacing
from dali_cutmix.tools.bench.machine import describe_machine, usable_cpus
from dali_cutmix.tools.bench.options import (
    BatchSize,
    Data,
    Device,
    Size,
    choose_device,
    chosen_photos,
    steps_shown,
)
from dali_cutmix.tools.bench.photos import Photos
from dali_cutmix.tools.bench.plot import draw_bench
from dali_cutmix.tools.bench.race import Contestant, OnRound, Standing, race
from dali_cutmix.tools.bench.results import (
    OURS,
    STAGES,
    TORCH,
    TORCH_BYTES,
    TRAINING,
    reading,
    row_of,
    stages_of,
    torch_row_of,
)
from dali_cutmix.tools.bench.steps import describe_step, name_of_step
from dali_cutmix.tools.bench.work import Work
from dali_cutmix.tools.console import (
    check_ending,
    errors_as_one_sentence,
    expanded,
    make_folder,
    native_messages_aside,
    print_path,
    print_text,
    tidy_when_terminated,
)

# Batches, beside two for each worker: more than either loader keeps ready.
_WARMUP = 3
_LOADERS = "dali_cutmix.tools.bench.loaders:"


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
        float, typer.Option(min=0.1, max=3600, help="Duration of each loader's turn in a round.")
    ] = 0.8,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Results to write, a .json file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture to write, a .png file; needs matplotlib.")
    ] = None,
) -> None:
    """Measure this loader and torch's DataLoader with v2.CutMix on your own photos.

    All loaders do the same work on the same cores, in turns, with and without mixing. Torch's
    loader runs as torchvision documents it, and once more mixing bytes in its workers; the
    faster one counts. Also measures reading, decoding and resizing alone, and how long a
    training step waits. Takes about a minute.
    """
    out, plot = expanded(out), expanded(plot)
    check_ending("--out", out, ".json")
    check_ending("--plot", plot, ".png")
    with tidy_when_terminated(), errors_as_one_sentence():
        if plot is not None:
            import_extra("bench: `--plot`", "matplotlib", extra="demo")
        for path in (out, plot):
            if path is not None:
                make_folder(path.parent)
        name = choose_device(device)
        num_threads = min(16, usable_cpus()) if threads is None else threads
        settings = BenchSettings(size, num_threads, repeats, seconds, name)
        with (
            _opened(out, plot) as (file_of_results, file_of_plot),
            native_messages_aside() as screen,
            steps_shown(screen) as on_step,
            chosen_photos(data, name, batch_size, on_step) as chosen,
        ):
            results, standings = run_bench(chosen, settings, on_step)
            if file_of_results is not None:
                file_of_results.write(json.dumps(results, indent=2).encode() + b"\n")
            if file_of_plot is not None:
                draw_bench(results).save(file_of_plot, "PNG")
        console = Console()
        for sentence in chosen.sentences():
            print_text(console, sentence)
        print_bench(console, results)
        _print_failures(console, standings)
        print_text(console, f"\n{results['reading']}")
        for path in (out, plot):
            if path is not None:
                print_path(console, path)
    if any(standing.error is not None for standing in standings):
        raise typer.Exit(1)


@contextmanager
def _opened(*paths: Path | None) -> Iterator[list[BinaryIO | None]]:
    """Open the files to write before anything is measured, which takes minutes."""
    with ExitStack() as files:
        yield [None if path is None else files.enter_context(replacing(path)) for path in paths]


@dataclass(frozen=True)
class BenchSettings:
    """Settings of the race."""

    size: int
    """Side of each image in pixels."""
    threads: int
    """Worker processes of torch's loader, and threads of this loader."""
    repeats: int
    """Timed rounds."""
    seconds: float
    """Shortest turn of each contestant in a round, in s."""
    device: str
    """``"cpu"`` or ``"cuda"``."""


def run_bench(
    photos: Photos, settings: BenchSettings, on_round: OnRound
) -> tuple[dict[str, Any], list[Standing]]:
    """Race all loaders and stages that ``bench`` shows.

    Args:
        photos: Files to read.
        settings: Settings of the race.
        on_round: Progress; see `race`.

    Returns:
        The content of the results file, and the standings, which know more about failures.
    """
    standings = race(
        _contestants(photos, settings),
        repeats=settings.repeats,
        warmup=_WARMUP + 2 * settings.threads,
        seconds=settings.seconds,
        num_checked=2,
        at_once=settings.threads,
        on_round=on_round,
    )
    machine = describe_machine()
    photo_facts = {k: v for k, v in asdict(photos).items() if k not in ("root", "bad")}
    results: dict[str, Any] = {
        "what": "bench",
        "date": machine["date"],
        "machine": machine,
        "method": asdict(settings)
        | {"batch_size": photos.batch_size, "step": describe_step(settings.device)},
        "photos": photo_facts | {"num_bad": len(photos.bad)},
        "rows": [standing.row() for standing in standings],
    }
    results["reading"] = reading(results)
    return results, standings


def _contestants(photos: Photos, settings: BenchSettings) -> list[Contestant]:
    mixed = Work(
        data=photos.root,
        num_classes=photos.num_classes,
        size=settings.size,
        batch_size=photos.batch_size,
        threads=settings.threads,
        device=settings.device,
    )
    plain = replace(mixed, mix="none")
    step = name_of_step(settings.device)
    contestants = []
    openers = {OURS: "ours", TORCH: "torch_tensor", TORCH_BYTES: "torch_bytes"}
    for name, opener in openers.items():
        contestants += [Contestant(name, _LOADERS + opener, work) for work in (mixed, plain)]
    contestants += [
        Contestant(name + TRAINING, _LOADERS + openers[name], mixed, step=step)
        for name in (OURS, TORCH_BYTES)
    ]
    contestants += [
        Contestant(name, _LOADERS + opener, plain, checks="count")
        for name, opener in STAGES.items()
    ]
    return contestants


def print_bench(console: Console, results: dict[str, Any]) -> None:
    """Print three tables: the loaders, where the time goes, and a training step."""
    method, machine = results["method"], results["machine"]
    processor = machine["gpus"][0]["name"] if method["device"] == "cuda" else machine["cpu"]
    print_text(
        console,
        f"{processor}, {method['threads']} threads or worker processes; {method['size']} px, "
        f"batches of {method['batch_size']}; medians of {method['repeats']} turns of "
        f"{method['seconds']:g} s, in brackets the lowest and highest.\n",
    )
    console.print(_table_of_loaders(results))
    if stages_of(results):
        console.print(_table_of_stages(results))
    console.print(_table_of_steps(results))
    if method["device"] == "cpu":
        print_text(console, "On a CPU, the model and the loader take time from each other.")


def _table_of_loaders(results: dict[str, Any]) -> Table:
    table = Table(title="Images per second; torch with torchvision v2", title_justify="left")
    for column in ("", "CutMix", "no mixing", "CPU ms/image", "MB"):
        table.add_column(column, justify="right" if column else "left")
    for name in (OURS, TORCH, TORCH_BYTES):
        mixed, plain = (row_of(results, name, mix) for mix in ("cutmix", "none"))
        costs = ["", ""]
        if "median" in mixed:
            costs = [f"{1e3 * mixed['cpu_s_per_image']:.2f}", f"{mixed['peak_memory'] / 1e6:,.0f}"]
        table.add_row(name, _rate(mixed), _rate(plain), *costs)
    ratios = [
        _ratio(row_of(results, OURS, mix), torch_row_of(results, mix)) for mix in ("cutmix", "none")
    ]
    table.add_row("over torch's best", *ratios, "", "")
    return table


def _table_of_stages(results: dict[str, Any]) -> Table:
    stages = stages_of(results)
    table = Table(title=f"Where the time of {OURS} goes", title_justify="left")
    for column in ("", "up to here, images/s", "adds, ms per image", "share"):
        table.add_column(column, justify="right" if column else "left")
    total_ms = 1e3 / stages[-1].images_per_s
    for stage in stages:
        rate, share = f"{stage.images_per_s:,.0f}", f"{stage.added_ms / total_ms:.0%}"
        table.add_row(stage.name, rate, f"{stage.added_ms:+.3f}", share)
    return table


def _table_of_steps(results: dict[str, Any]) -> Table:
    title = f"A training step with CutMix: {results['method']['step']}"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for column in ("batches from", "images/s", "of the time waiting"):
        table.add_column(column, justify="right" if column != "batches from" else "left")
    for name in (OURS, TORCH_BYTES):
        row = row_of(results, name + TRAINING, "cutmix")
        share = f"{row['wait_share']:.0%}" if "median" in row else ""
        table.add_row(name, _rate(row), share)
    return table


def _rate(row: dict[str, Any]) -> str:
    if "median" not in row:
        return "did not run"
    return f"{row['median']:,.0f} ({row['min']:,.0f} to {row['max']:,.0f})"


def _ratio(ours: dict[str, Any], torch: dict[str, Any]) -> str:
    if "median" not in ours or "median" not in torch:
        return ""
    return f"{ours['median'] / torch['median']:.2f}"


def _print_failures(console: Console, standings: list[Standing]) -> None:
    for standing in standings:
        if standing.error is not None:
            contestant = standing.contestant
            name = f"{contestant.name} ({contestant.work.mix})"
            print_text(console, f"Did not run: {name}: {standing.error}")
