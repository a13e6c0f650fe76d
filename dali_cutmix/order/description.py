"""Describe settings in terms that JSON can hold, and name those in which two runs differ."""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from dali_cutmix.core.checks import is_number, is_whole, shown

#: Where a description looks at a function of t: 0, 1/32, ..., 1.
POINTS = [index / 32 for index in range(33)]
#: Relative and absolute. The last bits of a cosine differ between machines; draws are float32.
TOLERANCE = 1e-9
#: Lists in lists. What is nested deeper was not written by a `Description`.
MAX_DEPTH = 16
#: Items. A longer sequence is data rather than a setting, and would make every state as long.
MAX_ITEMS = 1000
#: Characters of a value in a message.
MAX_SHOWN = 200

_MISSING = object()


def is_description(value: object) -> bool:
    """Return whether a value from a state can be the ``values`` of a `Description`."""
    return isinstance(value, Mapping) and all(
        isinstance(path, str) and _is_described(part, MAX_DEPTH) for path, part in value.items()
    )


def _is_described(value: object, depth: int) -> bool:
    """Return whether JSON could hold a value, with this many levels of lists."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_is_described(part, depth - 1) for part in value)
    if isinstance(value, dict):
        is_function = set(value) == {"function", "values"}
        return is_function and all(_is_described(part, depth - 1) for part in value.values())
    return value is None or isinstance(value, (str, int, float))


class Description:
    """Describe a transform or a mix, so that a state can hold it and another run compare it.

    Attributes are read at once, and functions are called when the description is asked for.
    ``values`` holds a value or the name of a class under each path, as in
    ``{"": "CutMix", ".alpha": 1.0, ".sides": None}``:

    | Setting | Description |
    | --- | --- |
    | number, string, None, or a sequence of these | itself |
    | dataclass | name of the class, and its fields under their names |
    | object with a ``fingerprint``, a string | name of the class, and the fingerprint |
    | function in a dataclass | qualified name, and its values at `POINTS` |
    | another object | name of the class, and its simple public attributes; always with a doubt |

    Args:
        name: Name of the setting, for messages.
        value: The setting.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self._values: dict[str, Any] = {}
        self._doubts: list[str] = []
        self._defaults: dict[str, Any] = {}
        self._functions: list[tuple[str, Callable[[float], Any], int]] = []
        try:
            self._add("", value)
        except RecursionError:  # an object that holds itself
            self._values, self._doubts, self._functions = {}, [], []
            self._add_object("", value, in_object=True)

    @property
    def values(self) -> dict[str, Any]:
        """Description by path; equal to itself after a round trip through JSON."""
        self._call_functions()
        return self._values

    @property
    def doubts(self) -> list[str]:
        """Return a sentence for each part that a state cannot hold."""
        self._call_functions()
        return self._doubts

    def differences(self, then: Mapping[str, Any]) -> Iterator[str]:
        """Yield a clause for each difference: "mix.alpha is 1.0 here and 0.2 in the state".

        A field that the state lacks counts as the field's default, so that a class may gain fields
        without refusing the states from before. Parts of what differs are not compared.

        Args:
            then: The ``values`` in the state.
        """
        differing: tuple[str, ...] = ()
        for path in {**self.values, **then}:
            here = self.values.get(path, _MISSING)
            before = then.get(path, self._defaults.get(path, _MISSING))
            if path.startswith(differing) or _agree(here, before):
                continue
            differing += (f"{path}.", f"{path}[")
            yield f"{self.name}{path} is {_compare(here, before)}"

    def _add(self, path: str, value: Any, *, in_object: bool = False) -> None:
        is_simple, simple = _simplify(value)
        if is_simple:
            self._values[path] = simple
        elif isinstance(value, (list, tuple, Mapping)) and len(value) <= MAX_ITEMS:
            parts = _parts(path, value)
            self._values[path] = [_title(part) for part in parts.values()]
            for part_path, part in parts.items():
                self._add(part_path, part, in_object=in_object)
        elif isinstance(fingerprint := _fingerprint_of(value), str):
            self._values[path] = [_title(value), fingerprint]
        elif is_dataclass(value) and not isinstance(value, type):
            self._add_fields(path, value)
        elif _is_function(value) and not in_object:
            self._add_function(path, value)
        else:
            self._add_object(path, value, in_object)

    def _add_fields(self, path: str, value: Any) -> None:
        self._values[path] = _title(value)
        for field in fields(value):
            self._add(f"{path}.{field.name}", getattr(value, field.name))
            is_simple, default = _simplify(field.default)
            if field.default is not MISSING and is_simple:
                self._defaults[f"{path}.{field.name}"] = default

    def _add_function(self, path: str, function: Callable[[float], Any]) -> None:
        name = getattr(function, "__qualname__", type(function).__name__)
        self._values[path] = {"function": name}
        self._functions.append((path, function, len(self._doubts)))
        self._doubts.append("")

    def _call_functions(self) -> None:
        """Add the functions' values: a user's function is called once somebody asks."""
        functions, self._functions = self._functions, []
        for path, function, doubt in functions:
            values = [_value_at(function, t) for t in POINTS]
            self._values[path]["values"] = values
            rest = (
                "; its values at 33 points of t agree"
                if values != [None] * len(POINTS)
                else ", and which is not a function of t: make sure that it is the same"
            )
            self._doubts[doubt] = (
                f"{self.name}{path} is a function, which a state cannot hold{rest}."
            )

    def _add_object(self, path: str, value: Any, in_object: bool) -> None:
        self._values[path] = _title(value)
        self._doubts.append(
            f"{self.name}{path} is an object ({_title(value)}) of which a state cannot hold all "
            "attributes: make sure that they are the same."
        )
        for key, part in () if in_object else _attributes(value):
            if not key.startswith("_"):
                self._add(f"{path}.{key}", part, in_object=True)


def _simplify(value: Any) -> tuple[bool, Any]:
    """Return ``(True, what JSON holds)`` for a plain value or a sequence of such."""
    if value is None or isinstance(value, (bool, str)):
        return True, value
    if isinstance(value, enum.Enum):
        return True, f"{type(value).__name__}.{value.name}"
    if isinstance(value, os.PathLike):
        return True, os.fsdecode(value)
    if isinstance(value, np.bool_) or (isinstance(value, np.ndarray) and value.size <= MAX_ITEMS):
        return _simplify(value.tolist())
    if is_whole(value):
        return True, int(value)
    if is_number(value):
        return True, float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (list, tuple)) and len(value) <= MAX_ITEMS:
        parts = [_simplify(part) for part in value]
        return all(is_simple for is_simple, _ in parts), [plain for _, plain in parts]
    return False, None


def _fingerprint_of(value: Any) -> Any:
    """Return a value's fingerprint; None where the value has none, or fails to tell."""
    try:
        return getattr(value, "fingerprint", None)
    except Exception:  # of any kind: the attribute may be the user's property
        return None


def _value_at(function: Callable[[float], Any], t: float) -> Any:
    """Return the function's value; None where the function fails or returns something else."""
    try:
        return _simplify(function(t))[1]
    except Exception:  # of any kind: the function is the user's
        return None


def _parts(path: str, value: Any) -> dict[str, Any]:
    """Return the items of a sequence or a mapping by path; pairs with names count as a mapping."""
    pairs = list(value.items()) if isinstance(value, Mapping) else list(value)
    if all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
        return {f"{path}.{name}": part for name, part in pairs}
    return {f"{path}[{index}]": part for index, part in enumerate(pairs)}


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, of its dictionary and its slots, with their names."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name != "__dict__" and hasattr(value, name):
                yield name, getattr(value, name)


def _is_part(value: Any) -> bool:
    """Return whether a value is a transform, a mix or an augmentation."""
    return hasattr(value, "draw") or hasattr(value, "operate")


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not _is_part(value)


def _title(value: Any) -> Any:
    is_simple, simple = _simplify(value)
    if is_simple:
        return simple
    if isinstance(value, (list, tuple, Mapping)):
        return "sequence"
    return "function" if _is_function(value) else type(value).__name__


def _is_described_function(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("values"), list)


def _agree(here: Any, then: Any) -> bool:
    if not _is_described_function(here) or not _is_described_function(then):
        return bool(here == then)
    return not _differing_points(here, then)


def _differing_points(here: Any, then: Any) -> list[int]:
    pairs = zip_longest(here["values"], then["values"])
    return [index for index, pair in enumerate(pairs) if not _are_close(*pair)]


def _are_close(here: Any, then: Any) -> bool:
    if is_number(here) and is_number(then):
        return math.isclose(here, then, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(here == then)


def _compare(here: Any, then: Any) -> str:
    if _is_described_function(here) and _is_described_function(then):
        index = _differing_points(here, then)[0]
        if len(here["values"]) != len(then["values"]):
            return "a function here and one of other points in the state"
        values = here["values"][index], then["values"][index]
        at = f"a function whose value at t={POINTS[index]}"
        return f"{at} is {_show(values[0])} here and {_show(values[1])} in the state"
    return f"{_show(here)} here and {_show(then)} in the state"


def _show(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    if _is_described_function(value):
        return "a function"
    if isinstance(value, list):
        return f"({', '.join(map(_show, value))})"
    return shown(value, MAX_SHOWN)
