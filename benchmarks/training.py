"""Training fed by a loader against training on tensors that are in memory already: the ceiling.

    python benchmarks/training.py --data DIR --out benchmarks/results/DATE_MACHINE_training.json

The step is the same for all: ResNet-50 in bfloat16 on a GPU, a small net on the CPU, where it has
to share the cores with the loader. The ceiling trains on real batches, decoded once and kept on the
device. Reported are images per second, their share of the ceiling's, the share of a step spent
waiting for data, and CPU time per image, each loader with CutMix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compare import (
    ENTRANTS,
    OTHERS,
    WARMUP,
    Entrant,
    method_of,
    shown_by,
)
from rich.console import Console
from rich.table import Table
from running import parser_of, work_of, write_results

from dali_cutmix.tools.bench import loaders
from dali_cutmix.tools.bench.race import Contestant, OnRound, race
from dali_cutmix.tools.bench.steps import describe_step, name_of_step
from dali_cutmix.tools.bench.work import Work

HERE = str(Path(__file__).parent)
CEILING = "tensors in memory"
FED = ("dali_cutmix", "torch DataLoader, tensors")
#: Batches kept for the ceiling: decoded images, several batches in turn.
NUM_KEPT = 4


def in_memory(work: Work) -> InMemory:
    """Open the ceiling's loader: a few batches of this library, kept on the device."""
    return InMemory(work)


class InMemory:
    """Keep batches on ``work.device``, and yield all of them in each iteration."""

    def __init__(self, work: Work) -> None:
        with loaders.ours(work) as loader:
            stream = (batch for _ in range(NUM_KEPT) for batch in loader)
            self._batches = [next(stream) for _ in range(NUM_KEPT)]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._batches)


def contestants_of(work: Work, names: tuple[str, ...] = FED) -> list[Contestant]:
    """Return the ceiling, then the loaders of these names, all with the device's step."""
    by_name: dict[str, Entrant] = {entrant.name: entrant for entrant in ENTRANTS}
    openers = {CEILING: "training:in_memory"} | {name: by_name[name].opener for name in names}
    return [
        Contestant(name, opener, work, path=(HERE, str(OTHERS)), step=name_of_step(work.device))
        for name, opener in openers.items()
    ]


def train(
    work: Work,
    *,
    names: tuple[str, ...] = FED,
    repeats: int = 5,
    seconds: float = 3.0,
    timeout_s: float = 900.0,
    on_round: OnRound | None = None,
) -> list[dict[str, Any]]:
    """Race; return rows. ``of_ceiling`` is the share of the ceiling's median rate.

    A contestant that is silent for ``timeout_s`` is out.
    """
    standings = race(
        contestants_of(work, names),
        repeats=repeats,
        warmup=WARMUP + 2 * work.threads,
        seconds=seconds,
        at_once=1,
        timeout_s=timeout_s,
        on_round=on_round,
    )
    ceiling = standings[0].median
    return [
        standing.row() | ({} if standing.error else {"of_ceiling": standing.median / ceiling})
        for standing in standings
    ]


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return rows as a table for the screen."""
    table = Table("fed by", "images/s", "from", "to", "of ceiling", "waiting", "CPU ms/image")
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], row["error"])
            continue
        rates = (f"{row[key]:,.0f}" for key in ("median", "min", "max"))
        shares = (f"{row[key]:.1%}" for key in ("of_ceiling", "wait_share"))
        table.add_row(row["name"], *rates, *shares, f"{1e3 * row['cpu_s_per_image']:.2f}")
    return table


def main() -> None:
    """Train with each in turn and write one JSON file."""
    args = parser_of(__doc__.splitlines()[0]).parse_args()
    console = Console()
    method = method_of(args) | {"step": describe_step(args.device), "num_kept": NUM_KEPT}
    with console.status("") as status:
        rows = train(
            work_of(args),
            repeats=args.repeats,
            seconds=args.seconds,
            on_round=shown_by(console, status),
        )
    write_results(args.out, "training", method, rows)
    console.print(table_of(rows))


if __name__ == "__main__":
    main()
