"""The fate of each part of a torch loader: what the part became, or why there is no counterpart."""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import groupby
from math import isinf
from typing import Any

import torch

from dali_cutmix.core.checks import is_number
from dali_cutmix.transforms.views import Views

_PILLOW_MODES = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}

#: timm's modules of transforms.
_TIMM = ("timm.data.transforms", "timm.data.auto_augment", "timm.data.random_erasing")

#: (height, width) in pixels.
Size = tuple[int, int]

WIDTH = 60  # characters of a part in the report

NO_OPERATOR = "the graph has no such operator. Remove it, or pass `transform=`."


class NoCounterpartError(Exception):
    """A part has no counterpart. The text says why, and the way out."""


class SizesVaryError(NoCounterpartError):
    """Images have different sizes where they need one."""


class OutOfPlaceError(NoCounterpartError):
    """The part is supported, but not in this place."""


class NotFixedError(NoCounterpartError):
    """The list is not a `TrainTransform` or `EvalTransform`. No text: a `Compose` is tried too."""


@dataclass
class Translation:
    """Collect lines and refusals, so that one error names all refused parts.

    A ``path`` leads to a part of the torch loader, such as ``transform[1].transforms[0]``.

    Attributes:
        lines: ``(path, part, result)`` of each translated part.
        refusals: ``(path, part, reason)`` of each part without a counterpart.
        notes: Sentences about differences.
        num_parts: Parts met so far.
        doubtful: Those of ``refusals`` that depend on which images there are.
        lacks_size: Whether a list was refused since images may have different sizes.
    """

    lines: list[tuple[str, str, str]] = field(default_factory=list)
    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_parts: int = 0
    doubtful: list[tuple[str, str, str]] = field(default_factory=list)
    lacks_size: bool = False

    def became(self, path: str, part: Any, result: str) -> None:
        """Record what a part became; ``part`` may be the text to show."""
        self.num_parts += 1
        self.lines.append((path, part if isinstance(part, str) else shown(part), result))

    def refuse(self, path: str, part: Any, reason: object) -> None:
        """Record that a part has no counterpart; ``part`` may be the name to show."""
        self.num_parts += 1
        refusal = (path, part if isinstance(part, str) else named(part), str(reason))
        self.refusals.append(refusal)
        if isinstance(reason, (SizesVaryError, OutOfPlaceError)):
            self.doubtful.append(refusal)

    def drop_doubtful(self) -> None:
        """Drop the refusals that another dataset would not bring."""
        self.refusals = [each for each in self.refusals if each not in self.doubtful]
        self.doubtful = []

    def take(self, inner: Translation, places: Mapping[str, str]) -> None:
        """Record a translation of a part.

        Args:
            inner: The translation.
            places: By the path of a part in ``inner``, the path here.
        """
        for records, inner_records in (
            (self.lines, inner.lines),
            (self.refusals, inner.refusals),
            (self.doubtful, inner.doubtful),
        ):
            for path, part, text in inner_records:
                place = next((place for place in places if path.startswith(place)), "")
                records.append((places.get(place, "") + path.removeprefix(place), part, text))
        self.lacks_size |= inner.lacks_size
        self.num_parts += inner.num_parts
        for sentence in inner.notes:
            self.note(sentence)

    def note(self, sentence: str) -> None:
        """Record a difference, unless it is recorded already."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def check(self) -> None:
        """Raise all refusals as one error.

        Raises:
            ValueError: At least one part was refused.
        """
        if not self.refusals:
            return
        parts = [f"\n  - `{part}` at {path}: {reason}" for path, part, reason in self.refusals]
        raise ValueError(
            f"from_torch: cannot translate {len(parts)} of the loader's {self.num_parts} parts:"
            + "".join(parts)
        )

    def table(self) -> list[str]:
        """Return the lines in columns, then the notes."""
        paths, parts, _ = zip(*self.lines, strict=True)
        left, middle = max(map(len, paths)), max(map(len, parts))
        rows = [f"  {a:<{left}}  {b:<{middle}}  ->  {c}" for a, b, c in self.lines]
        return rows + [f"  * {sentence}" for sentence in self.notes]


def named(part: Any) -> str:
    """Return the name of a function with its file and line, or the name of a class, or "None"."""
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


def placed(part: Any) -> str:
    """Return the name of an object's class, with file and line where a user wrote the class."""
    kind = type(part)
    if kind.__module__.partition(".")[0] in ("torch", "torchvision"):
        return named(part)
    try:
        file, (_, line) = inspect.getfile(kind), inspect.getsourcelines(kind)
    except (OSError, TypeError):  # a class without a file
        return named(part)
    return f"{kind.__name__} ({os.path.basename(file)}:{line})"


def shown(part: Any) -> str:
    """Return a part in one short line, as its class prints it."""
    if hasattr(part, "__qualname__"):
        return named(part)
    text = " ".join(repr(part).split())
    if text.startswith("<"):
        return named(part)
    text = text.replace("InterpolationMode.", "")
    if hasattr(part, "antialias"):  # a resize, bilinear by default
        for default in (", interpolation=BILINEAR", ", interpolation=bilinear"):
            text = text.replace(default, "")
    text = text.replace(", antialias=True", "").replace("( ", "(").replace(" )", ")")
    return textwrap.shorten(text, WIDTH, placeholder=" ...")


def transform_name(part: Any) -> str | None:
    """Return the class name of a transform that from_torch knows, else None.

    Returns:
        The name of a class of torchvision or from_torch, or torch's ``Sequential`` or ``Identity``.
        Names of timm's classes start with ``timm.``.
    """
    name, module = type(part).__name__, type(part).__module__
    if module.startswith(("torchvision.transforms.", "dali_cutmix.from_torch.")):
        return name
    if module in _TIMM:
        return f"timm.{name}"
    return name if module.startswith("torch.nn.") and name in ("Sequential", "Identity") else None


def mode_of(part: Any) -> str:
    """Return the name of a part's interpolation, which may be a name or Pillow's number.

    Two modes, of which timm takes either, are ``"random"``.
    """
    if isinstance(part.interpolation, (tuple, list)):
        return "random"
    return mode_name(part.interpolation)


def mode_name(interpolation: Any) -> str:
    """Return the name of torchvision's or Pillow's interpolation."""
    mode = getattr(interpolation, "value", interpolation)
    return _PILLOW_MODES.get(mode, str(mode)) if isinstance(mode, int) else str(mode)


def written(value: Any) -> str:
    """Return code that makes a value, without arguments that equal their defaults."""
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(written, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float) and isinf(value):
        return f"float('{value}')"
    if isinstance(value, float):
        return f"{value:.6g}" if value == float(f"{value:.6g}") else repr(value)
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.device):
        return repr(str(value))
    if not hasattr(value, "__dataclass_fields__"):
        return repr(value) if is_number(value) or isinstance(value, (str, bool)) else named(value)
    name = type(value).__name__
    if name == "RandomChoice" and type(value).__module__.startswith("dali_cutmix.transforms."):
        name = f"augmentations.{name}"  # a mix has this name too
    if isinstance(value, Views):
        return f"Views({_written_views(value)})"
    if (preset := getattr(type(value), "torchvision", None)) and value == preset(value.alpha):
        return f"{name}.torchvision({written(value.alpha)})"
    arguments = {
        argument.name: getattr(value, argument.name)
        for argument in fields(value)
        if argument.default is MISSING or getattr(value, argument.name) != argument.default
    }
    return f"{name}({', '.join(f'{key}={written(each)}' for key, each in arguments.items())})"


def counted(names: Iterable[str]) -> str:
    """Return names in order, with the number of equal names in a row."""
    runs = [(name, len(list(same))) for name, same in groupby(names)]
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in runs)


def _written_views(views: Views) -> str:
    runs = [(view, len(list(same))) for view, same in groupby(map(written, views.transforms))]
    if all(count == 1 for _, count in runs):
        return f"[{', '.join(view for view, _ in runs)}]"
    return " + ".join(f"[{view}]" + (f" * {count}" if count > 1 else "") for view, count in runs)
