"""Types of flags: argparse names the flag and the value where a type refuses a value."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def at_least(least: int) -> Callable[[str], int]:
    """Return a type of whole numbers from ``least`` on."""

    def whole_number(text: str) -> int:
        number = int(text)
        if number < least:
            raise ArgumentTypeError(f"must be at least {least}, got {text}")
        return number

    return whole_number


def positive(text: str) -> float:
    """Return a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"must be finite and above 0, got {text}")
    return number


def not_negative(text: str) -> float:
    """Return a finite number of at least 0."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ArgumentTypeError(f"must be finite and at least 0, got {text}")
    return number


count = at_least(1)


def output_file(text: str) -> Path:
    """Return the path of a file that can be written. Nothing is made."""
    path = Path(text)
    existing = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    is_there = existing == path
    if os.path.isdir(existing) == is_there or not os.access(existing, os.W_OK):
        raise ArgumentTypeError(f"must be a file that can be written, got {text}")
    return path
