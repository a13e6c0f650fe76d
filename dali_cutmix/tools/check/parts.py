"""What a check finds of a kind of data: lines to print, and whether any of it is bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

#: Bad files of one kind that are named; the others are counted.
MOST_NAMES = 20

#: Shows how far a check has come, by what is done, how many there are, and the unit. What the
#: context yields is called with the number done.
Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]


class Part(Protocol):
    """Say what boxes, masks, clips or volumes hold."""

    @property
    def is_bad(self) -> bool:
        """Whether the command exits with status 1."""

    def lines(self) -> list[str]:
        """Return the lines to print."""


def names_in(title: str, lines: Sequence[str], where: str = "") -> list[str]:
    """Return a title, the first lines below, and a count of the others; nothing without lines.

    Args:
        title: What the lines name, without their number.
        lines: The lines.
        where: Where the other lines are, behind the count.
    """
    if not lines:
        return []
    more = len(lines) - MOST_NAMES
    shown = [f"  {line}" for line in lines[:MOST_NAMES]]
    return [f"{title}: {len(lines)}", *shown, *([f"  and {more} more{where}"] if more > 0 else [])]


def count_of_bad(num_bad: int, num_all: int, noun: str, way_out: str = "") -> str:
    """Return how many of some files are bad, and what to do with them.

    Args:
        num_bad: Bad files.
        num_all: All files.
        noun: What the files are, in the plural.
        way_out: A sentence.
    """
    if not num_bad:
        only = f"The only {noun[:-1]} is fine."
        return f"All {num_all} {noun} are fine." if num_all != 1 else only
    count = f"{num_bad} of {num_all} {noun} {'is' if num_bad == 1 else 'are'} bad."
    return f"{count} {way_out}" if way_out else count
