"""Refuse bad arguments while the graph is being defined, in one message shape.

``where: `name` must <rule>, got <value>. <way out>``. DALI itself would refuse most of these only on the
first batch, and with the name of an operator instead of an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn


def refuse(where: str, name: str, must: str, got: object, way_out: str = "") -> NoReturn:
    """Raise ``ValueError`` in the house's message shape."""
    message = f"{where}: `{name}` must {must}, got {got!r}."
    raise ValueError(f"{message} {way_out}" if way_out else message)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_alpha(where: str, alpha: float) -> None:
    if not is_number(alpha) or not math.isfinite(alpha) or alpha <= 0:
        way_out = "To mix nothing, pass `prob=0.0`."
        refuse(where, "alpha", "be finite and above 0", alpha, way_out)


def check_prob(where: str, prob: float, name: str = "prob") -> None:
    if not is_number(prob) or not 0 <= prob <= 1:
        refuse(where, name, "be a probability in [0, 1]", prob)


def check_choice(where: str, name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        refuse(where, name, f"be one of {listed}", value)


def check_range(where: str, name: str, value: object, low: float, high: float) -> None:
    """``value`` is ``(min, max)`` with ``low <= min <= max <= high``."""
    ok = isinstance(value, (tuple, list)) and len(value) == 2 and all(is_number(v) for v in value)
    if not ok or not low <= value[0] <= value[1] <= high:  # type: ignore[index]
        refuse(where, name, f"be (min, max) with {low:g} <= min <= max <= {high:g}", value)


def check_positive_range(where: str, name: str, value: object) -> None:
    ok = isinstance(value, (tuple, list)) and len(value) == 2 and all(is_number(v) for v in value)
    if not ok or not 0 < value[0] <= value[1] < math.inf:  # type: ignore[index]
        refuse(where, name, "be (min, max) with 0 < min <= max", value)


def check_count(where: str, name: str, value: object, at_least: int, way_out: str = "") -> None:
    if not is_whole(value) or value < at_least:  # type: ignore[operator]
        refuse(where, name, f"be a whole number of at least {at_least}", value, way_out)


def check_size(where: str, size: object, name: str = "size") -> tuple[int, int]:
    """``(height, width)`` in pixels, both at least 1."""
    ok = isinstance(size, (tuple, list)) and len(size) == 2
    if not ok or not all(is_whole(side) and side >= 1 for side in size):  # type: ignore[attr-defined]
        refuse(
            where,
            name,
            "be (height, width) in whole pixels",
            size,
            "Mixing needs every image in the batch to have one size: resize or crop before it.",
        )
    height, width = size  # type: ignore[misc]
    return int(height), int(width)


def check_size_or_side(where: str, size: object, name: str = "size") -> tuple[int, int]:
    """A side in pixels or ``(height, width)``, all at least 1."""
    if is_whole(size) and size >= 1:  # type: ignore[operator]
        return int(size), int(size)  # type: ignore[call-overload]
    ok = isinstance(size, (tuple, list)) and len(size) == 2
    if not ok or not all(is_whole(side) and side >= 1 for side in size):  # type: ignore[attr-defined]
        refuse(where, name, "be a side or (height, width) in whole pixels, each at least 1", size)
    height, width = size  # type: ignore[misc]
    return int(height), int(width)
