"""Results files: which there are, and their numbers as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


@dataclass(frozen=True)
class Results:
    """Hold the newest result of each kind, on the CPU and on a GPU."""

    by_kind: dict[tuple[str, bool], dict[str, Any]]
    """By ``what`` and whether a GPU ran it."""

    @classmethod
    def read(cls, folder: Path = RESULTS) -> Results:
        """Read a folder; of each kind the last file name counts, which begins with a date.

        Raises:
            ValueError: A file is not what a benchmark writes.
        """
        newest: dict[tuple[str, bool], dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                result = json.loads(path.read_text())
                # The file of `reading.py` does not say what it is.
                what = result.setdefault("what", path.stem.rpartition("_")[2])
                on_gpu = result.get("method", {}).get("device") == "cuda"
                result["file"] = path.name
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{path}: no result of a benchmark: {error}") from error
            newest[what, on_gpu] = result
        return cls(newest)

    def get(self, what: str, on_gpu: bool = False) -> dict[str, Any] | None:
        """Return a result, or None."""
        return self.by_kind.get((what, on_gpu))


def machine_of(result: dict[str, Any]) -> str:
    """Return the machine of a result with versions and date, as one line."""
    machine = result["machine"]
    versions = machine.get("versions") or result.get("versions", {})
    parts = [machine["cpu"], count(machine["cores"], "core")]
    if machine.get("memory_gib"):
        parts.append(f"{machine['memory_gib']:.0f} GiB")
    for gpu in machine.get("gpus", []):
        limits = (f"power limit {gpu['power_limit_w']} W", f"{gpu['clock_mhz']} MHz as found")
        parts.append(f"{gpu['name']} ({', '.join(limits)}, driver {gpu['driver']})")
    named = {"dali": "DALI", "torch": "torch", "torchvision": "torchvision", "python": "Python"}
    parts += [f"{named[name]} {version}" for name, version in versions.items() if name in named]
    return f"{', '.join(parts)}; {result['date']}; `results/{result['file']}`."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, all columns but the first to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def number(value: float) -> str:
    """Return a number with three significant digits; a large number with all its digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def rate(row: dict[str, Any]) -> str:
    """Return images per second: the median, and the least and most of the repeats."""
    return f"{row['median']:,.0f} ({row['min']:,.0f} to {row['max']:,.0f})"


def share(value: float) -> str:
    """Return a share in percent."""
    return f"{100 * value:.1f} %"


def mebibytes(value: float | None) -> str:
    """Return bytes as MiB; a dash for None."""
    return "-" if value is None else f"{value / 2**20:,.0f}"


def count(amount: int, noun: str) -> str:
    """Return a number with its noun: ``1 core``, ``2 cores``."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def ran(rows: Iterable[dict[str, Any]], **where: Any) -> list[dict[str, Any]]:
    """Return the rows that have rates and these values."""
    return [
        row for row in rows if "error" not in row and all(row.get(k) == v for k, v in where.items())
    ]


def rows_of(result: dict[str, Any], curve: str) -> list[dict[str, Any]]:
    """Return the rows of a curve. Rows of named files come by pixels of a file."""
    rows = [row for row in result["rows"] if row["curve"] == curve]
    if any(isinstance(row["x"], str) for row in rows):
        rows.sort(key=lambda row: row["files"]["pixels"])
    return rows


def by_name(rows: Iterable[dict[str, Any]], **where: Any) -> dict[str, dict[str, Any]]:
    """Return the rows that have rates and these values, by name."""
    return {row["name"]: row for row in ran(rows, **where)}


def or_not_yet(
    result: dict[str, Any] | None, command: str, write: Callable[[dict[str, Any]], list[str]]
) -> list[str]:
    """Return the lines of a result, or the command that measures it."""
    if result is None:
        return [f"Not yet measured. `python benchmarks/{command}` measures it."]
    return [*write(result), "", f"<sub>{machine_of(result)}</sub>"]
