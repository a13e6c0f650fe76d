"""What ``dali-cutmix tune`` tries, and how it chooses."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dali_cutmix.core.device import num_cpus
from dali_cutmix.serving.settings import Tuning
from dali_cutmix.tools.bench.machine import describe_machine, num_cores
from dali_cutmix.tools.bench.photos import Photos
from dali_cutmix.tools.bench.probe import probe_roi_decode
from dali_cutmix.tools.bench.race import Contestant, OnRound, Standing, race
from dali_cutmix.tools.bench.work import Work

#: Rates within this share of the best are taken for equal, or within the best one's own spread.
LEAST_NOISE, MOST_NOISE = 0.02, 0.05
#: Name of the last curve.
COMPARED = "against the defaults"
_LOADER = "dali_cutmix.tools.bench.loaders:ours"
_THREADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_PREFETCH = (1, 2, 3, 4, 6)
_HW_LOADS = (None, 0.0, 0.25, 0.5, 0.8, 0.9, 1.0)  # None is DALI's own, 0.65


@dataclass(frozen=True)
class TuneSettings:
    """How ``tune`` measures."""

    size: int
    """Side of each image in pixels."""
    repeats: int
    """Timed rounds of each setting."""
    seconds: float
    """Least duration of each turn."""
    device: str
    """``"cpu"`` or ``"cuda"``."""
    max_memory: int | None
    """Bytes that a loader may take, of the GPU's memory or of the process; None sets no limit."""


@dataclass(frozen=True)
class Point:
    """One setting of a curve."""

    label: str
    """Its value, as printed."""
    tuning: Tuning
    """All settings it was measured with."""
    rates: tuple[float, ...]
    """Images per second of each round; empty where it failed."""
    memory: int
    """Bytes; see `TuneSettings.max_memory`."""
    error: str | None
    """Why it failed, or None."""

    @property
    def median(self) -> float:
        """Of the rates; 0 where it failed."""
        return statistics.median(self.rates) if self.rates else 0.0


@dataclass(frozen=True)
class Curve:
    """All values of one setting, measured in turns, the others being the same."""

    name: str
    points: tuple[Point, ...]
    chosen: Point


def choose(points: Sequence[Point], max_memory: int | None) -> Point:
    """The first of the points that is as fast as the fastest within the noise and the memory.

    Compared round by round, since those of a round met the same state of the machine. Where all
    take too much memory it is the one that takes least.

    Args:
        points: In the order in which they are preferred: smaller settings first.
        max_memory: Bytes, or None.

    Raises:
        ValueError: All failed.
    """
    ran = [point for point in points if point.rates]
    if not ran:
        raise ValueError(f"dali-cutmix: the loader did not run: {points[0].error}.")
    fits = [point for point in ran if max_memory is None or point.memory <= max_memory]
    if not fits:
        return min(ran, key=lambda point: point.memory)
    best = max(fits, key=lambda point: point.median)
    spread = (max(best.rates) - min(best.rates)) / 2 / best.median
    noise = min(MOST_NOISE, max(LEAST_NOISE, spread))
    return next(point for point in fits if _against(point, best) >= 1 - noise)


def _against(point: Point, best: Point) -> float:
    return statistics.median(a / b for a, b in zip(point.rates, best.rates, strict=True))


def default_tuning(device: str) -> Tuning:
    """What a loader does without one, as `DataLoader` has it."""
    return Tuning(num_threads=num_cpus(), prefetch=4 if device == "cpu" else 2)


def run_tune(
    photos: Photos,
    settings: TuneSettings,
    on_round: OnRound,
    on_curve: Callable[[Curve], None],
    on_note: Callable[[str], None],
) -> Tuning:
    """Sweep one setting after the other, each with the best of those before it.

    Args:
        photos: What is read.
        settings: How it is measured.
        on_round: See `race`.
        on_curve: Called with each curve when it is measured; the last, `COMPARED`, holds the
            loader's own defaults and the settings found, unless these are the same.
        on_note: Called with what else has to be known, a sentence each.

    Returns:
        The settings chosen, with the machine.

    Raises:
        ValueError: The loader does not run, or takes more memory than it may with any setting.
    """
    default = tuning = default_tuning(settings.device)
    memory = 0
    coordinates: list[tuple[str, Callable[[Tuning], list[tuple[str, Tuning]]]]] = [
        ("threads", _threads),
        ("prefetch", _prefetch),
    ]
    if settings.device == "cuda":
        on_round(0, 1, "probing the decoding of regions")
        why_not = probe_roi_decode(photos.files(), "cuda")
        if why_not is not None:
            on_note(f"roi_decode was not tried, since a probe of it failed: {why_not}.")
        coordinates += [
            ("roi_decode", lambda now: _roi(now, why_not)),
            ("hw_decoder_load", _hw_loads),
            ("size hints", lambda now: _hints(now, photos)),
        ]
    for name, values in coordinates:
        candidates = values(tuning)
        if len(candidates) == 1:  # nothing to choose from
            continue
        points = _measure(photos, settings, candidates, on_round)
        chosen = choose(points, settings.max_memory)
        tuning, memory = chosen.tuning, chosen.memory
        on_curve(Curve(name, points, chosen))
    if settings.max_memory is not None and memory > settings.max_memory:
        raise ValueError(
            f"dali-cutmix: the loader takes {memory / 1e9:.2f} GB with the smallest settings, more "
            f"than `--max-memory` of {settings.max_memory / 1e9:g}. Pass a smaller `--batch-size`, "
            "or allow more."
        )
    if tuning == default:
        on_note("The loader's own defaults are as fast as anything that was tried.")
    else:
        both = [("defaults", default), ("tuned", tuning)]
        points = _measure(photos, settings, both, on_round)
        # What is not clearly faster than the defaults is noise, found by trying many.
        chosen = choose(points, settings.max_memory)
        tuning = chosen.tuning
        on_curve(Curve(COMPARED, points, chosen))
    return replace(tuning, machine=describe_machine())


def _threads(now: Tuning) -> list[tuple[str, Tuning]]:
    cores = num_cores()
    # One more than there are cores can be faster, since threads wait for memory and files.
    counts = sorted({count for count in _THREADS if count <= cores} | {cores, cores + 1})
    return [(str(count), replace(now, num_threads=count)) for count in counts]


def _prefetch(now: Tuning) -> list[tuple[str, Tuning]]:
    return [(str(depth), replace(now, prefetch=depth)) for depth in _PREFETCH]


def _roi(now: Tuning, why_not: str | None) -> list[tuple[str, Tuning]]:
    found = [("off", now)]
    return found if why_not is not None else [*found, ("on", replace(now, roi_decode=True))]


def _hw_loads(now: Tuning) -> list[tuple[str, Tuning]]:
    return [
        ("DALI's" if load is None else f"{load:g}", replace(now, hw_decoder_load=load))
        for load in _HW_LOADS
    ]


def _hints(now: Tuning, photos: Photos) -> list[tuple[str, Tuning]]:
    height, width = photos.largest
    hinted = replace(now, preallocate_width_hint=width, preallocate_height_hint=height)
    return [("none", now), (f"{width} x {height}", hinted)]


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
