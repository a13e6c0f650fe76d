"""Race contestants in interleaved rounds, so that a drift of the machine affects all alike."""

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

#: Folder that holds this package, for children with the same interpreter.
PACKAGE_PARENT = str(Path(__file__).parents[3])

#: ``on_round(done, total, what)``: steps done, steps in all, and the next step in words.
OnRound = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Contestant:
    """Name one loader by the function that opens it.

    ``opener(work)`` returns an iterable of epochs: each iteration yields the batches of one epoch.
    A batch is ``(image, target)`` on ``work.device``:

    - ``image`` is ``[B, 3, size, size]`` float32, normalised with ImageNet's mean and deviation.
    - ``target`` is ``[B, num_classes]`` float32 of rows that sum to 1 with a mix, else ``[B]``
      int64.

    A function ``<opener>_info(work)`` in the same module is optional. It is called first, and
    returns a dictionary that is reported with the result.
    """

    name: str
    """Name in tables."""
    opener: str
    """``"package.module:function"``."""
    work: Work
    """Work of the loader."""
    python: str = sys.executable
    """Interpreter, which need not have this package."""
    path: tuple[str, ...] = ()
    """Folders put in front of ``sys.path``."""
    checks: str = "tensors"
    """``"tensors"``, or ``"count"`` where numbers of images are yielded instead of batches."""
    step: str | None = None
    """``"package.module:function"``. Takes the work, and returns a function of image and target
    that is called with each batch. With a step, the share of time spent waiting is measured."""

    def setup(self) -> dict[str, Any]:
        """Return the first message to the child; see `contestant.Runner`."""
        path_last = [PACKAGE_PARENT] if self.python == sys.executable else []
        return {
            "work": asdict(self.work),
            "opener": self.opener,
            "path": list(self.path),
            "path_last": path_last,
            "checks": self.checks,
            "step": self.step,
        }


@dataclass
class Standing:
    """Hold the measurements of one contestant."""

    contestant: Contestant
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Answers of `Runner.go`, one per repeat."""
    info: dict[str, Any] = field(default_factory=dict)
    """Report of the opener."""
    error: str | None = None
    """Why the contestant failed, in a line, or None."""
    traceback: str = ""
    """More about the error."""

    @property
    def rates(self) -> list[float]:
        """Images per second of each repeat."""
        return [answer["images"] / answer["seconds"] for answer in self.rounds]

    @property
    def median(self) -> float:
        """Median of the rates. NaN without any."""
        return statistics.median(self.rates) if self.rounds else float("nan")

    @property
    def cpu_s_per_image(self) -> float:
        """Median of the CPU seconds per image, of all processes together. NaN without any."""
        values = [answer["cpu_seconds"] / answer["images"] for answer in self.rounds]
        return statistics.median(values) if values else float("nan")

    @property
    def wait_share(self) -> float | None:
        """Median share of a step spent waiting for data. None without a step."""
        if self.contestant.step is None or not self.rounds:
            return None
        return statistics.median(answer["wait_share"] for answer in self.rounds)

    @property
    def peak_memory(self) -> int:
        """Most bytes of memory that the processes held at the end of a round."""
        return max((answer["memory"] for answer in self.rounds), default=0)

    @property
    def device_memory(self) -> int | None:
        """Most bytes of GPU memory that the processes held. None without a GPU."""
        values = [answer["device_memory"] for answer in self.rounds]
        return max((value for value in values if value is not None), default=None)

    def row(self) -> dict[str, Any]:
        """Return the row of a results file. After a failure, ``error`` takes the place of rates."""
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
    """Run rounds in which all contestants take turns, in an order that rotates.

    Each contestant lives in a process of its own for the whole race. Contestants whose first
    batches are wrong are not timed. A turn begins once the contestant before has stopped preparing
    batches. A contestant that fails is out, with the reason, and the race continues.

    Args:
        contestants: Contestants in the order of the first round.
        repeats: Timed rounds.
        warmup: Batches of each turn that do not count: at least as many as a contestant keeps
            ready while it waits.
        num_batches: Batches timed in each turn, at least.
        seconds: Duration of each turn in s, at least.
        num_checked: Batches checked before the first round.
        at_once: Contestants that are opened at the same time; one on a GPU.
        timeout_s: A contestant that is silent for longer is out.
        on_round: Called before each step.

    Returns:
        One standing for each contestant, in the order of ``contestants``.
    """
    standings = [Standing(contestant) for contestant in contestants]
    children = [Child(c.python, c.setup(), timeout_s=timeout_s) for c in contestants]
    pairs = list(zip(standings, children, strict=True))
    total, done = len(contestants) * (1 + repeats), 0
    at_once = 1 if any(c.work.device == "cuda" for c in contestants) else at_once
    telling = threading.Lock()

    def tell(what: str, finished: int = 0) -> None:
        nonlocal done
        with telling:
            done += finished
            if on_round is not None:
                on_round(done, total, what)

    def open_child(pair: tuple[Standing, Child]) -> None:
        standing, child = pair
        tell(f"opening {standing.contestant.name}")
        answer = child.open()
        if answer is not None:
            standing.info = answer["info"] | {"open_s": answer["open_s"]}

    try:
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(open_child, pairs))
        for standing, child in pairs:
            tell(f"checking {standing.contestant.name}")
            child.ask({"do": "check", "num_batches": num_checked})
            child.wait_until_quiet()
            tell(f"checking {standing.contestant.name}", 1)
        go = {"do": "go", "warmup": warmup, "num_batches": num_batches, "seconds": seconds}
        for number in range(repeats):
            for turn in range(len(pairs)):
                standing, child = pairs[(turn + number) % len(pairs)]
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
