"""What ``dali-cutmix bench`` measures, and what it says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from dali_cutmix.tools.bench.machine import describe_machine
from dali_cutmix.tools.bench.photos import Photos
from dali_cutmix.tools.bench.race import Contestant, OnRound, Standing, race
from dali_cutmix.tools.bench.steps import describe_step, name_of_step
from dali_cutmix.tools.bench.work import Work

OURS = "this loader"
TORCH = "torch DataLoader"
TRAINING = ", in training"
#: Parts of the work on their own, each with all before it, by the names of their openers.
STAGES = {
    "reading": "read_only",
    "decoding the crop": "decode_roi",
    "resizing": "ours_bytes",
}
REST = "normalising"
MIXING = "CutMix"
#: More batches than either loader keeps ready, two for each worker and three.
_WARMUP = 3
_IN_THE_NOISE = "less than the repeats differ"
_LOADERS = "dali_cutmix.tools.bench.loaders:"


@dataclass(frozen=True)
class BenchSettings:
    """How ``bench`` measures."""

    size: int
    """Side of each image in pixels."""
    threads: int
    """Worker processes of torch's loader, and threads of this one."""
    repeats: int
    """Timed rounds."""
    seconds: float
    """Least duration of each contestant's turn in a round."""
    device: str
    """``"cpu"`` or ``"cuda"``."""


def run_bench(
    photos: Photos, settings: BenchSettings, on_round: OnRound
) -> tuple[dict[str, Any], list[Standing]]:
    """Race everything that ``bench`` shows.

    Args:
        photos: What is read.
        settings: How it is measured.
        on_round: See `race`.

    Returns:
        The content of the results file, and the standings, which know more of what failed.
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
    chosen = {k: v for k, v in asdict(photos).items() if k not in ("root", "bad")}
    results: dict[str, Any] = {
        "what": "bench",
        "date": machine["date"],
        "machine": machine,
        "method": asdict(settings)
        | {"batch_size": photos.batch_size, "step": describe_step(settings.device)},
        "photos": chosen | {"num_bad": len(photos.bad)},
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
    found = []
    for name, opener in ((OURS, "ours"), (TORCH, "torch_tensor")):
        found += [Contestant(name, _LOADERS + opener, work) for work in (mixed, plain)]
        found.append(Contestant(name + TRAINING, _LOADERS + opener, mixed, step=step))
    found += [
        Contestant(name, _LOADERS + opener, plain, checks="count")
        for name, opener in STAGES.items()
    ]
    return found


def row_of(results: dict[str, Any], name: str, mix: str) -> dict[str, Any]:
    """The row of one contestant; without ``median`` where it did not run."""
    return next(row for row in results["rows"] if (row["name"], row["mix"]) == (name, mix))


def stages_of(results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Where the time of this loader goes.

    Returns:
        For each stage its name, images per second of it and all before it, and the milliseconds per
        image that it adds, which may be below 0 where the stages of the loader are faster than
        DALI's own. Stages that did not run are absent.
    """
    rows = [(name, row_of(results, name, "none")) for name in STAGES]
    rows += [(REST, row_of(results, OURS, "none")), (MIXING, row_of(results, OURS, "cutmix"))]
    found, before = [], 0.0
    for name, row in rows:
        if "median" in row:
            each = 1e3 / row["median"]
            found.append((name, row["median"], each - before))
            before = each
    return found


def reading(results: dict[str, Any]) -> str:
    """One sentence that says what the numbers say, losses as plainly as wins."""
    ours, torch = (row_of(results, name, "cutmix") for name in (OURS, TORCH))
    if "median" not in ours:
        return f"This loader did not run: {ours['error']}."
    said = [f"With CutMix this loader serves {ours['median']:,.0f} images/s"]
    if "median" not in torch:
        said[0] += f"; torch's did not run ({torch['error']})"
    else:
        ratio = ours["median"] / torch["median"]
        against = f"torch's {torch['median']:,.0f}"
        if _overlap(ours, torch):
            said[0] += f", no clear difference from {against}: the repeats overlap"
        elif ratio > 1:
            said[0] += f", {ratio:.2f} times {against}"
        else:
            said[0] += f" and loses to {against}, being {ratio:.2f} times as fast"
    costs = {
        who: _cost(row_of(results, name, "none"), row)
        for who, name, row in (("here", OURS, ours), ("there", TORCH, torch))
        if "median" in row and "median" in row_of(results, name, "none")
    }
    if len(costs) > 1 and set(costs.values()) == {_IN_THE_NOISE}:
        said.append(f"mixing costs both {_IN_THE_NOISE}")
    elif costs:
        said.append(f"mixing costs {' and '.join(f'{who} {cost}' for who, cost in costs.items())}")
    stages = stages_of(results)
    # Stages were timed apart: where one takes less than those before it, they met other conditions.
    if len(stages) > 1 and min(each for _, _, each in stages) > -0.05e3 / stages[-1][1]:
        name, _, most = max(stages, key=lambda stage: stage[2])
        whole = 1e3 / stages[-1][1]
        said.append(f"most of its time goes into {name} ({most / whole:.0%})")
    return "; ".join(said) + "."


def _cost(plain: dict[str, Any], mixed: dict[str, Any]) -> str:
    share = 1 - mixed["median"] / plain["median"]
    if _overlap(plain, mixed):
        return _IN_THE_NOISE
    return f"{share:.1%}" if share >= 0 else f"nothing (faster by {-share:.1%})"


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["min"] <= other["max"] and other["min"] <= one["max"])
