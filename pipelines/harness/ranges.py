"""Types of the numbers that flags take, each with its range, and the check of all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Range:
    """Hold the rule of a number.

    Attributes:
        rule: The rule in words, behind "must be".
        holds: Function from the number to whether the rule holds. No rule holds for NaN.
    """

    rule: str
    holds: Callable[[float], bool]


def at_least(least: int) -> Range:
    """Return the range of numbers from ``least`` on."""
    return Range(f"at least {least}", lambda number: number >= least)


Several = Annotated[int, at_least(2)]
Count = Annotated[int, at_least(1)]
CountOrZero = Annotated[int, at_least(0)]
Seed = Annotated[int, Range("at least 0 and below 2**63", lambda seed: 0 <= seed < 2**63)]
Number = Annotated[float, Range("finite", math.isfinite)]
Amount = Annotated[float, Range("finite and at least 0", lambda number: 0 <= number < math.inf)]
Positive = Annotated[float, Range("finite and above 0", lambda number: 0 < number < math.inf)]
Share = Annotated[float, Range("in [0, 1]", lambda share: 0 <= share <= 1)]
Part = Annotated[float, Range("above 0 and at most 1", lambda part: 0 < part <= 1)]
BelowOne = Annotated[float, Range("in [0, 1)", lambda number: 0 <= number < 1)]


class Checked:
    """Let a dataclass check its numbers. Subclasses call ``super().__post_init__()`` first."""

    def __post_init__(self) -> None:
        for name, ranges in _ranges(type(self)).items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            for limits in ranges:
                if not all(number is None or limits.holds(number) for number in numbers):
                    raise SystemExit(f"`{name}` must be {limits.rule}, got {value}.")


@cache
def _ranges(settings: type) -> dict[str, list[Range]]:
    """Return the ranges of the numbers of each setting, by its name."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: list(_inside(hint)) for name, hint in hints.items()}


def _inside(hint: Any) -> Iterator[Range]:
    """Yield the ranges in a type, also in a tuple or beside None."""
    yield from (note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Range))
    for part in get_args(hint):
        yield from _inside(part)
