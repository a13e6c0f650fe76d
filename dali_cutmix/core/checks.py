"""Refuse bad arguments while the graph is being defined, in one message shape.

The shape is ``where: `name` must <rule>, got <value>. <way out>``. DALI would refuse most bad
arguments too, but only in the first batch, and by the name of an operator.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any, NoReturn, TypeGuard

import numpy as np

from dali_cutmix.core.errors import printable

#: Characters of a value in a message: a file may hold a value of a million.
_MOST_SHOWN = 1000


class Told(str):
    """Hold what was passed in words, such as ``"3 names"``: a message shows words unquoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def refuse(where: str, name: str, must: str, got: object, way_out: str = "") -> NoReturn:
    """Raise ``ValueError`` in the shape of every message here.

    Args:
        where: Public function or class that was called.
        name: Argument that is refused.
        must: Rule that the argument breaks, as in "be above 0".
        got: Value that was passed, or `Told` of the value.
        way_out: A sentence that says what to do instead, where the rule does not say so.
    """
    message = printable(f"{where}: `{name}` must {must}, got {shown(got, _MOST_SHOWN)}.")
    raise ValueError(f"{message} {printable(way_out)}" if way_out else message)


def shown(value: object, most: int | None = None) -> str:
    """Return what a message shows of a value, ``most`` characters of it: what a file held.

    Python refuses to write numbers of many digits, and what is nested deeply.
    """
    try:
        return repr(value)[:most]
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__} that is too large to show"


def local_path(where: str, name: str, path: str | bytes | os.PathLike[Any]) -> str:
    """Return a path as text, with the home folder for ``~``. A URL stays as it is.

    Raises:
        ValueError: Not a path; or the path holds a zero byte, which no file's name can hold.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        refuse(where, name, "be a path", path)
    text = os.path.expanduser(os.fsdecode(path))
    if "\0" in text:
        refuse(where, name, "hold no zero byte", text)
    return text


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number, Python's or NumPy's. A bool is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, Python's or NumPy's. A bool is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def checked_flag(where: str, name: str, value: object) -> bool:
    """Return a flag as a bool; refuse all but True, False, None, 1 and 0, Python's or NumPy's."""
    is_flag = value is None or isinstance(value, (bool, np.bool_))
    if not is_flag and not (is_whole(value) and value in (0, 1)):
        refuse(where, name, "be True or False", value)
    return bool(value)


def are_numbers(value: object, count: int) -> TypeGuard[Sequence[float]]:
    """Return whether a value is a tuple or list of ``count`` real numbers."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == count
        and all(is_number(v) for v in value)
    )


def check_alpha(where: str, alpha: float, name: str = "alpha") -> None:
    """Refuse all but a parameter of a Beta distribution: finite and above 0."""
    if not is_number(alpha):
        refuse(where, name, "be a number, finite and above 0", alpha)
    if not math.isfinite(alpha) or alpha <= 0:
        refuse(where, name, "be finite and above 0", alpha, "To mix nothing, pass `prob=0.0`.")


def check_prob(where: str, prob: float, name: str = "prob") -> None:
    """Refuse all but a probability or share, in [0, 1]."""
    if not is_number(prob):
        refuse(where, name, "be a number in [0, 1]", prob)
    if not 0 <= prob <= 1:
        refuse(where, name, "be in [0, 1]", prob)


def check_choice(where: str, name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse all but the choices, and list them."""
    if value not in choices:
        refuse(where, name, f"be one of {', '.join(map(repr, choices))}", value)


def checked_names(where: str, name: str, names: object) -> list[str]:
    """Return names of classes as a list; refuse all but texts. A text is no list of its letters."""
    is_text = isinstance(names, (str, bytes))
    if is_text or not isinstance(names, Iterable) or isinstance(names, (Mapping, Set)):
        refuse(where, name, "be a list of texts, a name for each class", names)
    listed = list(names)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            refuse(where, f"{name}[{number}]", "be a text, the name of a class", text)
    return listed


def by_position(values: Any) -> Any:
    """Return a pandas ``Series`` as a list in its order; other values as they are.

    pandas indexes a Series by its labels, which a filter or a shuffle leaves as they were.
    """
    if not hasattr(values, "iloc"):
        return values
    # Not by `iloc` where another way leads there: a million values take ten seconds.
    return list(values) if values.ndim == 1 else [values.iloc[n] for n in range(len(values))]


def checked_indices(where: str, indices: object, count: int) -> np.ndarray:
    """Return the indices of samples as ``[n]`` int64 in [0, count), at least one.

    Args:
        where: Public class or function, for messages.
        indices: Whole numbers in [-count, count). Negative ones count from the end.
        count: Number of samples.

    Raises:
        ValueError: Bools, such as a mask of the samples; other numbers; an index out of range; or
            no index.
    """
    array = np.asarray(indices).reshape(-1)
    if not array.size:
        refuse(where, "indices", "hold at least one index", [])
    if array.dtype == object and all(map(is_whole, array)):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        got = Told(f"{array[:3].tolist()} of {array.dtype}")
        # As numbers, the bools of a mask would be the indices 0 and 1.
        is_mask = array.dtype == np.bool_
        way_out = "`numpy.flatnonzero(mask)` makes indices of a mask." if is_mask else ""
        refuse(where, "indices", "be whole numbers", got, way_out)
    is_inside = (array >= -count) & (array < count)
    if not is_inside.all():
        got = Told(f"{array[is_inside.argmin()]} for {count} samples")
        refuse(where, "indices", f"be below {count} and at least {-count}", got)
    return array.astype(np.int64) % count


def check_range(where: str, name: str, value: object, low: float, high: float) -> None:
    """Refuse all but ``(min, max)`` with ``low <= min <= max <= high``."""
    if not are_numbers(value, 2) or not low <= value[0] <= value[1] <= high:
        refuse(where, name, f"be (min, max) with {low:g} <= min <= max <= {high:g}", value)


def check_count(where: str, name: str, value: object, at_least: int, way_out: str = "") -> None:
    """Refuse all but whole numbers of at least ``at_least``."""
    if not is_whole(value) or value < at_least:
        refuse(where, name, f"be a whole number of at least {at_least}", value, way_out)


def check_size(where: str, size: object) -> tuple[int, int]:
    """Return ``(height, width)`` in pixels; refuse all but two whole numbers above 0."""
    if not _are_sides(size):
        way_out = (
            "Mixing needs every image in the batch to have one size: resize or crop before it."
        )
        refuse(where, "size", "be (height, width) in whole pixels", size, way_out)
    return int(size[0]), int(size[1])


def check_size_or_side(where: str, size: object, name: str = "size") -> tuple[int, int]:
    """Return ``(height, width)`` of a side or of both; refuse all but whole numbers above 0."""
    if is_whole(size) and size >= 1:
        return int(size), int(size)
    if not _are_sides(size):
        refuse(where, name, "be a side or (height, width) in whole pixels, each above 0", size)
    return int(size[0]), int(size[1])


def _are_sides(size: object) -> TypeGuard[Sequence[int]]:
    return are_numbers(size, 2) and all(is_whole(side) and side >= 1 for side in size)
