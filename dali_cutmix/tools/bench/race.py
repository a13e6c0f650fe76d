"""Contestants against each other: interleaved rounds, so that a drift of the machine hits all."""

from __future__ import annotations

import statistics
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dali_cutmix.tools.bench.child import Child
from dali_cutmix.tools.bench.work import Work

#: Where this package lies, for children with the same interpreter.
OWN_PACKAGES = str(Path(__file__).parents[3])

#: ``on_round(done, total, what)``: steps done of all, and what comes next.
OnRound = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Contestant:
    """One loader, by the function that opens it.

    ``opener(work)`` returns what can be iterated again and again, one epoch each, yielding batches
    ``(image, target)``: ``[B, 3, size, size]`` float32 normalised with ImageNet's mean and
    deviation, and ``[B, num_classes]`` float32 of rows that sum to 1 with a mix, else ``[B]``
    int64, both on ``work.device``. A function ``<opener>_info(work)`` beside it, which is called
    first, returns a dictionary that is reported with the result.
    """

    name: str
    """In the tables."""
    opener: str
    """``"package.module:function"``."""
    work: Work
    """What it is asked to do."""
    python: str = sys.executable
    """Interpreter; it need not have this package."""
    path: tuple[str, ...] = ()
    """Folders put in front of ``sys.path``."""
    checks: str = "tensors"
    """``"tensors"``, or ``"count"`` where numbers of images are yielded instead of batches."""
    step: str | None = None
    """``"package.module:function"``, called with the work; returns what is called with each image
    and target. The share of a step spent waiting for data is then measured as well."""

    def setup(self) -> dict[str, Any]:
        """What the child is told."""
        own = [OWN_PACKAGES] if self.python == sys.executable else []
        return {
            "work": asdict(self.work),
            "opener": self.opener,
            "path": list(self.path),
            "path_last": own,
            "checks": self.checks,
            "step": self.step,
        }


@dataclass
class Standing:
    """What was measured of one contestant."""

    contestant: Contestant
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Answers of `Runner.go`, one per repeat."""
    info: dict[str, Any] = field(default_factory=dict)
    """What its opener reported."""
    error: str | None = None
    """Why it did not run, in a line, or None."""
    traceback: str = ""
    """More about the error."""

    @property
    def rates(self) -> list[float]:
        """Images per second of each repeat."""
        return [one["images"] / one["seconds"] for one in self.rounds]

    @property
    def median(self) -> float:
        """Median of the rates; NaN where it did not run."""
        return statistics.median(self.rates) if self.rounds else float("nan")

    @property
    def cpu_s_per_image(self) -> float:
        """Median of the CPU seconds per image, all its processes together."""
        return self._median([one["cpu_seconds"] / one["images"] for one in self.rounds])

    @property
    def wait_share(self) -> float | None:
        """Median share of a step spent waiting for data; None without a step."""
        if self.contestant.step is None or not self.rounds:
            return None
        return statistics.median(one["wait_share"] for one in self.rounds)

    @property
    def peak_memory(self) -> int:
        """Most bytes of memory that its processes held at the end of a round."""
        return max((one["memory"] for one in self.rounds), default=0)

    @property
    def device_memory(self) -> int | None:
        """Most bytes of a GPU's memory that it held; None without a GPU."""
        found = [one["device_memory"] for one in self.rounds if one["device_memory"] is not None]
        return max(found, default=None)

    def row(self) -> dict[str, Any]:
        """The standing as a row of a results file; ``error`` stands for the rates if it failed."""
        row: dict[str, Any] = {"name": self.contestant.name, "mix": self.contestant.work.mix}
        if self.error is not None:
            return row | {"error": self.error, "info": self.info}
        return row | {
            "rates": self.rates,
            "median": self.median,
            "min": min(self.rates),
            "max": max(self.rates),
            "cpu_s_per_image": self.cpu_s_per_image,
            "peak_memory": self.peak_memory,
            "device_memory": self.device_memory,
            "wait_share": self.wait_share,
            "info": self.info,
        }

    @staticmethod
    def _median(values: list[float]) -> float:
        return statistics.median(values) if values else float("nan")


def race(
    contestants: Sequence[Contestant],
    *,
    repeats: int = 5,
    warmup: int = 8,
    num_batches: int = 1,
    seconds: float = 0.0,
    num_checked: int = 4,
    at_once: int = 2,
    timeout_s: float = 900.0,
    on_round: OnRound | None = None,
) -> list[Standing]:
    """Run contestants in rounds, in each round all of them in turn, in an order that rotates.

    Each lives in a process of its own from the first round to the last. Its first batches are
    checked, and only one whose batches are right is timed. Before another's turn, what it still
    prepares ahead is waited for. One that fails is out, with the reason, and the others go on.

    Args:
        contestants: Who runs.
        repeats: Timed rounds.
        warmup: Batches of each turn that do not count: at least as many as a contestant keeps
            ready while it waits.
        num_batches: Batches timed in each turn, at least.
        seconds: Each turn is timed for at least so long.
        num_checked: Batches checked before the first round.
        at_once: Contestants that are opened at the same time; one on a GPU.
        timeout_s: A contestant that is silent for so long is out.
        on_round: Called before each step.

    Returns:
        One standing for each contestant, in their order.
    """
    standings = [Standing(one) for one in contestants]
    children = [Child(one.python, one.setup(), timeout_s=timeout_s) for one in contestants]
    pairs = list(zip(standings, children, strict=True))
    total, done = len(contestants) * (1 + repeats), 0
    at_once = 1 if any(one.work.device == "cuda" for one in contestants) else at_once
    told = threading.Lock()

    def tell(what: str, finished: int = 0) -> None:
        nonlocal done
        with told:
            done += finished
            if on_round is not None:
                on_round(done, total, what)

    def open_one(pair: tuple[Standing, Child]) -> None:
        standing, child = pair
        tell(f"opening {standing.contestant.name}")
        answer = child.open()
        if answer is not None:
            standing.info = answer["info"] | {"open_s": answer["open_s"]}

    try:
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(open_one, pairs))
        for standing, child in pairs:
            tell(f"checking {standing.contestant.name}")
            child.ask({"do": "check", "num_batches": num_checked})
            child.wait_until_quiet()
            tell(f"checking {standing.contestant.name}", 1)
        go = {"do": "go", "warmup": warmup, "num_batches": num_batches, "seconds": seconds}
        for number in range(repeats):
            for place in range(len(pairs)):
                standing, child = pairs[(place + number) % len(pairs)]
                tell(f"timing {standing.contestant.name}")
                answer = child.ask(go)
                if answer is not None:
                    standing.rounds.append(answer)
                child.wait_until_quiet()
                tell(f"timing {standing.contestant.name}", 1)
    finally:
        for standing, child in pairs:
            standing.error, standing.traceback = child.error, child.traceback
            child.end()
    return standings
