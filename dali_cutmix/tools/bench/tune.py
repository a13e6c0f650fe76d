"""The command ``dali-cutmix tune``: find the settings that serve a user's files fastest here.

Longer than other commands, since the sweep and its choices belong together: `choose` says what
"fastest" means, `run_tune` what is tried.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from dali_cutmix.core.errors import printable
from dali_cutmix.core.writing import replacing
from dali_cutmix.serving.settings import num_cpus
from dali_cutmix.serving.tuning import Tuning
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
from dali_cutmix.tools.bench.probe import probe_roi_decode
from dali_cutmix.tools.bench.race import Contestant, OnRound, Standing, race
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

#: Shares of the best rate: rates within the best one's own spread, bounded by these, are equal.
LEAST_NOISE, MOST_NOISE = 0.02, 0.05
#: Name of the last curve.
COMPARED = "against the defaults"
# Characters of the longest bar.
_BAR = 12
_LOADER = "dali_cutmix.tools.bench.loaders:ours"
_THREADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_PREFETCH = (1, 2, 3, 4, 6)
_HW_LOADS = (None, 0.0, 0.25, 0.5, 0.8, 0.9, 1.0)  # None is DALI's own, 0.65

#: Name of a setting, and what returns its candidates, given the settings so far.
_Sweep = tuple[str, Callable[[Tuning], list[tuple[str, Tuning]]]]


def tune(
    data: Data,
    size: Size = 224,
    batch_size: BatchSize = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            help="Most GB that the loader may take: of GPU memory, or on the CPU of the whole "
            "process.",
            show_default="no limit",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Duration of each setting's turn in a round.")
    ] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds of each setting.")] = 3,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Settings to write, a .json file.")] = Path(
        "tuning.json"
    ),
) -> None:
    """Try threads, prefetch depth and, on a GPU, its decoder's settings, and keep the best.

    Tries one setting after another, its values in turns. Of values that are equally fast within
    the noise, the smallest is kept. Writes a file that `DataLoader(tuning=...)` takes.
    """
    out = expanded(out)
    check_ending("--out", out, ".json")
    console = Console()
    with tidy_when_terminated(), errors_as_one_sentence():
        make_folder(out.parent)
        name = choose_device(device)
        limit = None if max_memory is None else int(max_memory * 1e9)
        settings = TuneSettings(size, repeats, seconds, name, limit)
        with (
            replacing(out) as file,  # opened at once: measuring takes minutes
            native_messages_aside() as screen,
            steps_shown(screen) as on_step,
            chosen_photos(data, name, batch_size, on_step) as photos,
        ):
            for sentence in photos.sentences():
                print_text(console, sentence)
            method = f"{size} px, batches of {photos.batch_size}, CutMix on, on the {name}"
            turns = f"medians of {repeats} turns of {seconds:g} s; GB of memory"
            print_text(console, f"{method}; {turns}.\n")

            def show(curve: Curve) -> None:
                print_curve(console, curve, limit)
                if curve.name == COMPARED:
                    print_text(console, _reading(curve))

            def note(sentence: str) -> None:
                print_text(console, sentence)

            tuning = run_tune(photos, settings, on_step, show, note)
            file.write(tuning.as_json().encode())
        print_path(console, out)
        print_text(console, f'Use it: DataLoader(..., tuning="{printable(str(out))}")')


@dataclass(frozen=True)
class TuneSettings:
    """Settings of the sweep."""

    size: int
    """Side of each image in pixels."""
    repeats: int
    """Timed rounds of each setting."""
    seconds: float
    """Shortest turn in s."""
    device: str
    """``"cpu"`` or ``"cuda"``."""
    max_memory: int | None
    """Bytes that a loader may take, of GPU memory or of the process. None sets no limit."""


@dataclass(frozen=True)
class Point:
    """One value of a setting, measured."""

    label: str
    """The value, as printed."""
    tuning: Tuning
    """All settings of the measurement."""
    rates: tuple[float, ...]
    """Images per second of each round. Empty after a failure."""
    memory: int
    """Bytes taken; see `TuneSettings.max_memory`."""
    error: str | None
    """Why the loader failed, or None."""

    @property
    def median(self) -> float:
        """Median of the rates. 0 after a failure."""
        return statistics.median(self.rates) if self.rates else 0.0


@dataclass(frozen=True)
class Curve:
    """All values of one setting, measured in turns. Other settings stay the same."""

    name: str
    points: tuple[Point, ...]
    chosen: Point


def choose(points: Sequence[Point], max_memory: int | None) -> Point:
    """Return the first point that is as fast as the fastest, within the noise and the memory.

    Points are compared round by round, since turns of a round met the same state of the machine.
    Where all points take too much memory, the point that takes least is returned.

    Args:
        points: Points in the order of preference: smaller values first.
        max_memory: Bytes, or None for no limit.

    Raises:
        ValueError: All points failed.
    """
    measured = [point for point in points if point.rates]
    if not measured:
        raise ValueError(f"dali-cutmix: the loader did not run: {points[0].error}.")
    fitting = [point for point in measured if max_memory is None or point.memory <= max_memory]
    if not fitting:
        return min(measured, key=lambda point: point.memory)
    best = max(fitting, key=lambda point: point.median)
    spread = (max(best.rates) - min(best.rates)) / 2 / best.median
    noise = min(MOST_NOISE, max(LEAST_NOISE, spread))
    return next(point for point in fitting if _ratio(point, best) >= 1 - noise)


def _ratio(point: Point, best: Point) -> float:
    return statistics.median(a / b for a, b in zip(point.rates, best.rates, strict=True))


def default_tuning(device: str) -> Tuning:
    """Return the settings of a `DataLoader` without a tuning."""
    return Tuning(num_threads=num_cpus(), prefetch=4 if device == "cpu" else 2)


def run_tune(
    photos: Photos,
    settings: TuneSettings,
    on_round: OnRound,
    on_curve: Callable[[Curve], None],
    on_note: Callable[[str], None],
) -> Tuning:
    """Sweep one setting after another, each with the best values of the settings before.

    Args:
        photos: Files to read.
        settings: Settings of the sweep.
        on_round: Progress; see `race`.
        on_curve: Called with each curve once it is measured. The last, `COMPARED`, holds the
            loader's defaults and the settings found, unless these are equal.
        on_note: Called with further facts, a sentence each.

    Returns:
        The settings chosen, with the machine.

    Raises:
        ValueError: The loader does not run, or takes too much memory with every setting.
    """
    default = tuning = default_tuning(settings.device)
    memory = 0
    for name, candidates_of in _sweeps(photos, settings, on_round, on_note):
        candidates = candidates_of(tuning)
        if len(candidates) == 1:  # no choice
            continue
        points = _measure(photos, settings, candidates, on_round)
        chosen = choose(points, settings.max_memory)
        tuning, memory = chosen.tuning, chosen.memory
        on_curve(Curve(name, points, chosen))
    _check_memory(memory, settings.max_memory)
    if tuning == default:
        on_note("The loader's own defaults are as fast as anything that was tried.")
    else:
        candidates = [("defaults", default), ("tuned", tuning)]
        points = _measure(photos, settings, candidates, on_round)
        # Settings that are not clearly faster than the defaults won by chance among many.
        chosen = choose(points, settings.max_memory)
        tuning = chosen.tuning
        on_curve(Curve(COMPARED, points, chosen))
    return replace(tuning, machine=describe_machine())


def _sweeps(
    photos: Photos, settings: TuneSettings, on_round: OnRound, on_note: Callable[[str], None]
) -> list[_Sweep]:
    """Return the settings to try, in order. On a GPU the decoding of regions is probed first."""
    sweeps: list[_Sweep] = [("threads", _threads), ("prefetch", _prefetch)]
    if settings.device == "cuda":
        on_round(0, 1, "probing the decoding of regions")
        failure = probe_roi_decode(photos.files(), "cuda")
        if failure is not None:
            on_note(f"roi_decode was not tried, since a probe of it failed: {failure}.")
        else:
            sweeps.append(("roi_decode", _roi))
        sweeps += [
            ("hw_decoder_load", _hw_loads),
            ("size hints", lambda current: _hints(current, photos)),
        ]
    return sweeps


def _check_memory(memory: int, most: int | None) -> None:
    """Refuse settings that take more than ``most`` bytes, the smallest ones of the sweep."""
    if most is not None and memory > most:
        raise ValueError(
            f"dali-cutmix: the loader takes {memory / 1e9:.2f} GB with the smallest settings, more "
            f"than `--max-memory` of {most / 1e9:g}. Pass a smaller `--batch-size`, or allow more."
        )


def _threads(current: Tuning) -> list[tuple[str, Tuning]]:
    cores = usable_cpus()
    # One thread more than cores can be faster, since threads wait for memory and files.
    counts = sorted({count for count in _THREADS if count <= cores} | {cores, cores + 1})
    return [(str(count), replace(current, num_threads=count)) for count in counts]


def _prefetch(current: Tuning) -> list[tuple[str, Tuning]]:
    return [(str(depth), replace(current, prefetch=depth)) for depth in _PREFETCH]


def _roi(current: Tuning) -> list[tuple[str, Tuning]]:
    return [("off", current), ("on", replace(current, roi_decode=True))]


def _hw_loads(current: Tuning) -> list[tuple[str, Tuning]]:
    return [
        ("DALI's" if load is None else f"{load:g}", replace(current, hw_decoder_load=load))
        for load in _HW_LOADS
    ]


def _hints(current: Tuning, photos: Photos) -> list[tuple[str, Tuning]]:
    height, width = photos.largest
    hinted = replace(current, preallocate_width_hint=width, preallocate_height_hint=height)
    return [("none", current), (f"{width} x {height}", hinted)]


def _measure(
    photos: Photos,
    settings: TuneSettings,
    candidates: Sequence[tuple[str, Tuning]],
    on_round: OnRound,
) -> tuple[Point, ...]:
    standings = race(
        [_contestant(photos, settings, label, tuning) for label, tuning in candidates],
        repeats=settings.repeats,
        warmup=3 + max(tuning.prefetch or 2 for _, tuning in candidates),
        seconds=settings.seconds,
        num_checked=2,
        on_round=on_round,
    )
    return tuple(
        Point(
            label,
            tuning,
            tuple(standing.rates) if standing.error is None else (),
            _memory(standing),
            standing.error,
        )
        for (label, tuning), standing in zip(candidates, standings, strict=True)
    )


def _memory(standing: Standing) -> int:
    on_device = standing.device_memory
    return standing.peak_memory if on_device is None else on_device


def _contestant(photos: Photos, settings: TuneSettings, label: str, tuning: Tuning) -> Contestant:
    on_gpu: dict[str, Any] = {
        name: getattr(tuning, name)
        for name in ("hw_decoder_load", "preallocate_width_hint", "preallocate_height_hint")
        if getattr(tuning, name) is not None
    }
    if tuning.roi_decode:
        on_gpu["roi_decode"] = True
    work = Work(
        data=photos.root,
        num_classes=photos.num_classes,
        size=settings.size,
        batch_size=photos.batch_size,
        threads=tuning.num_threads or 1,
        device=settings.device,
        extra={"prefetch": tuning.prefetch or 2} | ({"tuning": on_gpu} if on_gpu else {}),
    )
    return Contestant(label, _LOADER, work)


def print_curve(console: Console, curve: Curve, limit: int | None) -> None:
    """Print a table of all values of one setting, with bars, and the reasons of failures.

    Args:
        console: Where to print.
        curve: Measured values.
        limit: Bytes that a loader may take, or None.
    """
    table = Table(title=curve.name, title_justify="left", min_width=len(curve.name))
    best_rate = max(point.median for point in curve.points) or 1.0
    rows = [_cells(point, best_rate, limit, point is curve.chosen) for point in curve.points]
    names = ("", "images/s", "lowest to highest", "GB", "")
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        # On a narrow screen Rich would shorten the values rather than the bars.
        width = max(map(len, (name, *cells)))
        justify: Literal["left", "right"] = "left" if "█" in "".join(cells) else "right"
        table.add_column(name, justify=justify, min_width=width)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    for point in curve.points:
        if point.error is not None:
            print_text(console, f"{curve.name} {point.label} failed: {point.error}")


def _cells(point: Point, best_rate: float, limit: int | None, is_chosen: bool) -> tuple[str, ...]:
    if not point.rates:
        return point.label, "failed", "", "", ""
    bar = "█" * max(1, round(_BAR * point.median / best_rate))
    is_over = limit is not None and point.memory > limit
    remark = " too much memory" if is_over else " kept" if is_chosen else ""
    return (
        point.label,
        f"{point.median:,.0f}",
        f"{min(point.rates):,.0f} to {max(point.rates):,.0f}",
        f"{point.memory / 1e9:.2f}",
        f"{bar}{remark}",
    )


def _reading(compared: Curve) -> str:
    default, tuned = compared.points
    if not (default.rates and tuned.rates):
        return "The settings found and the defaults could not be compared."
    ratio = f"{tuned.median / default.median:.2f} times"
    if compared.chosen is default:
        return f"The defaults are kept: the settings found are {ratio} as fast, no clear gain."
    return f"With the settings kept the loader is {ratio} as fast as with its defaults."
