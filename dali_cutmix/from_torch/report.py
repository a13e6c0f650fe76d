"""What became of each part of a torch loader: what is reported, and what has no counterpart."""

from __future__ import annotations

import os
import textwrap
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch

from dali_cutmix.core.checks import is_number

_PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic"}

WIDTH = 60  # characters of a part in the report


class NoCounterpartError(Exception):
    """A part has no counterpart; the text says why, and the way out."""


class OutOfPlaceError(NoCounterpartError):
    """A part has none behind what stands before it, so that another refusal may be its cause."""


@dataclass
class Translation:
    """Collects lines and refusals, so that all of the latter are told at once.

    Attributes:
        lines: ``(place, part, what it became)`` of each part.
        refusals: ``(place, part, reason)`` of each part without a counterpart.
        notes: Sentences on what differs.
        num_parts: Parts met so far.
    """

    lines: list[tuple[str, str, str]] = field(default_factory=list)
    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_parts: int = 0

    def became(self, place: str, part: Any, ours: str) -> None:
        """Note what a part became; ``part`` may be its text."""
        self.num_parts += 1
        self.lines.append((place, part if isinstance(part, str) else shown(part), ours))

    def refuse(self, place: str, part: Any, reason: object) -> None:
        """Note that a part has no counterpart; ``part`` may be its name."""
        self.num_parts += 1
        self.refusals.append((place, part if isinstance(part, str) else named(part), str(reason)))

    def note(self, sentence: str) -> None:
        """Note what differs, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def check(self) -> None:
        """Raise what was refused, all of it at once.

        Raises:
            ValueError: Something was.
        """
        if not self.refusals:
            return
        parts = [f"\n  - `{part}` at {place}: {why}" for place, part, why in self.refusals]
        raise ValueError(
            f"from_torch: cannot translate {len(parts)} of the loader's {self.num_parts} parts:"
            + "".join(parts)
        )

    def table(self) -> list[str]:
        """The lines in columns, then the notes."""
        places, parts, _ = zip(*self.lines, strict=True)
        left, middle = max(map(len, places)), max(map(len, parts))
        rows = [f"  {a:<{left}}  {b:<{middle}}  ->  {c}" for a, b, c in self.lines]
        return rows + [f"  * {sentence}" for sentence in self.notes]


def named(part: Any) -> str:
    """The name of a part: that of a function with its place, or that of a class, or None."""
    if part is None:
        return "None"
    name = getattr(part, "__qualname__", None)
    if name is None or isinstance(part, type):
        return name or type(part).__name__
    code = getattr(part, "__code__", None)
    package = str(getattr(part, "__module__", "")).partition(".")[0]
    if code is None or package in ("torch", "torchvision"):
        return str(name)
    name = name.rpartition("<locals>.")[2]
    return f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"


def shown(part: Any) -> str:
    """A part in one short line, as its class prints it."""
    if hasattr(part, "__qualname__"):
        return named(part)
    text = " ".join(repr(part).split())
    if text.startswith("<"):
        return named(part)
    text = text.replace("InterpolationMode.", "")
    if hasattr(part, "antialias"):  # resizes, which is bilinear unless it says so
        for usual in (", interpolation=BILINEAR", ", interpolation=bilinear"):
            text = text.replace(usual, "")
    text = text.replace(", antialias=True", "").replace("( ", "(").replace(" )", ")")
    return textwrap.shorten(text, WIDTH, placeholder=" ...")


def torchvision_name(part: Any) -> str | None:
    """The name of a class of torchvision's transforms or of torch's ``Sequential``; else None."""
    name, module = type(part).__name__, type(part).__module__
    if module.startswith("torchvision.transforms."):
        return name
    return name if module.startswith("torch.nn.") and name in ("Sequential", "Identity") else None


def mode_of(part: Any) -> str:
    """How a part interpolates, as a name: torchvision takes names and Pillow's numbers as well."""
    mode = getattr(part.interpolation, "value", part.interpolation)
    return _PILLOW.get(mode, str(mode)) if isinstance(mode, int) else str(mode)


def written(value: Any) -> str:
    """The code that makes a value, without arguments that have their defaults."""
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(written, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float):
        return f"{value:.6g}" if value == float(f"{value:.6g}") else repr(value)
    if isinstance(value, torch.dtype):
        return str(value)
    if not hasattr(value, "__dataclass_fields__"):
        return repr(value) if is_number(value) or isinstance(value, (str, bool)) else named(value)
    name = type(value).__name__
    if (preset := getattr(type(value), "torchvision", None)) and value == preset(value.alpha):
        return f"{name}.torchvision({written(value.alpha)})"
    given = {
        one.name: getattr(value, one.name)
        for one in fields(value)
        if one.default is MISSING or getattr(value, one.name) != one.default
    }
    return f"{name}({', '.join(f'{key}={written(one)}' for key, one in given.items())})"
