"""How much of the package a batch passes on its way: a guard against a house of too many rooms.

    python benchmarks/way_of_a_batch.py            # print the counts
    python benchmarks/way_of_a_batch.py --check    # and fail above the limits

Counted on 32 small files, on the CPU, with CutMix, and the same on every machine:

- modules and functions of the package that run from the constructor to the second batch;
- those of a warm ``next()``, which prepares a later batch, and of the last, which does not;
- objects from batch number to tensor: the classes of ``serving/`` whose methods run in a warm
  ``next()``. Values, which are frozen dataclasses or tuples, do not count.

A function counts once, however often it runs. Imports, class bodies, comprehensions and methods
that ``dataclass`` writes do not count.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from nvidia.dali import fn
from operation_counts import write_files
from rich.console import Console
from rich.table import Table

import dali_cutmix as dc

PACKAGE = Path(dc.__file__).parent
#: Seconds in which threads that read a few small files ahead are done.
SETTLE_S = 0.3
COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
#: Modules from the constructor to the second batch, at most; see `dali_cutmix/serving/README.md`.
MAX_MODULES = 26
#: Objects from batch number to tensor, at most.
MAX_OBJECTS = 5


@dataclass
class Way:
    """The package's functions that ran, and the objects of ``serving/`` whose methods ran."""

    functions: set[CodeType] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)

    @property
    def modules(self) -> set[str]:
        """Return the paths of modules whose functions ran, below the package."""
        files = (Path(code.co_filename) for code in self.functions)
        return {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in files}

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; the function that `sys.setprofile` takes."""
        code = frame.f_code
        # Modules and class bodies are not optimized; Python 3.12 has no frames for comprehensions.
        is_function = code.co_flags & inspect.CO_OPTIMIZED and code.co_name not in COMPREHENSIONS
        if event == "call" and is_function and code.co_filename.startswith(f"{PACKAGE}/"):
            self.functions.add(code)
            if code.co_varnames[:1] == ("self",):
                self._note_object(type(frame.f_locals["self"]))

    def _note_object(self, kind: type) -> None:
        parameters = getattr(kind, "__dataclass_params__", None)
        is_value = issubclass(kind, tuple) or (parameters is not None and parameters.frozen)
        if kind.__module__.startswith("dali_cutmix.serving.") and not is_value:
            self.objects.add(kind.__name__)


class Tracer:
    """Note every call of the package's functions, in whatever thread.

    DALI's threads run Python operators and ignore Python's hooks for new threads. So the functions
    of Python operators set the hook themselves.
    """

    def __init__(self) -> None:
        self._way = Way()

    def take(self) -> Way:
        """Return what ran since the last call, once the threads that work ahead are quiet."""
        time.sleep(SETTLE_S)
        way, self._way = self._way, Way()
        return way

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        self._way.note(frame, event, argument)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Trace what runs within; build graphs within to trace their Python operators."""
        real = fn.python_function

        def python_function(*nodes: Any, function: Callable[..., Any], **settings: Any) -> Any:
            return real(*nodes, function=self._traced(function), **settings)

        fn.python_function = python_function
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            fn.python_function = real

    def _traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            sys.setprofile(self._note)
            return function(*arguments)

        return call


def follow(data: Path) -> tuple[Way, Way, Way]:
    """Follow a loader through one epoch.

    Args:
        data: ImageFolder root of 32 images.

    Returns:
        What runs from the constructor to the second batch, in the third ``next()``, and in the
        last, which prepares no later batch.
    """
    tracer = Tracer()
    with tracer.at_work():
        transform, mix = dc.TrainTransform(size=32), dc.CutMix()
        loader = dc.DataLoader(data, 4, True, transform=transform, mix=mix, device="cpu")
        batches = iter(loader)
        next(batches), next(batches)
        cold = tracer.take()
        next(batches)
        warm = tracer.take()
        for _ in range(len(loader) - 4):
            next(batches)
        tracer.take()
        next(batches)
        last = tracer.take()
    loader.close()
    return cold, warm, last


def table_of(cold: Way, warm: Way, last: Way) -> Table:
    """Return the counts as a table."""
    table = Table("", title="The way of a batch")
    for column in ("modules", "functions"):
        table.add_column(column, justify="right")
    rows = {"constructor to second batch": cold, "next(), warm": warm, "the last next()": last}
    for name, way in rows.items():
        table.add_row(name, str(len(way.modules)), str(len(way.functions)))
    return table


def by_room(cold: Way, warm: Way) -> dict[str, list[str]]:
    """Return the modules of the way to the second batch by room; * marks those of a warm one."""
    rooms: dict[str, list[str]] = {}
    for module in sorted(cold.modules):
        room, _, name = module.rpartition("/")
        rooms.setdefault(room or "package", []).append(name + "*" * (module in warm.modules))
    return rooms


def risen(cold: Way, warm: Way) -> list[str]:
    """Return a line for each count above its limit."""
    counts = (
        ("modules from constructor to second batch", len(cold.modules), MAX_MODULES),
        ("objects from batch number to tensor", len(warm.objects), MAX_OBJECTS),
    )
    return [
        f"{count} {what}, at most {limit}, missed" for what, count, limit in counts if count > limit
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print; 1 where ``--check`` finds a count above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    parser.add_argument("--names", action="store_true", help="print the modules too")
    options = parser.parse_args(arguments)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        cold, warm, last = follow(Path(folder))
    console.print(table_of(cold, warm, last))
    objects = ", ".join(sorted(warm.objects))
    console.print(f"{len(warm.objects)} objects from batch number to tensor: {objects}")
    if options.names:
        console.print("Constructor to second batch, and * in a warm next() too:")
        for room, names in by_room(cold, warm).items():
            console.print(f"  {room}: {', '.join(names)}", soft_wrap=True)
    lines = risen(cold, warm) if options.check else []
    for line in lines:
        console.print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
