"""The report of a check of a source, as an object and as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.checks import is_number, is_whole, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text

SMALL_SIDE = 224  # pixels: what most networks are trained at

#: What a number of images, a side or a size of a file may be.
_LARGEST = 2**63 - 1

#: What a field must be, by the type of its value.
_RULES = {
    int: f"be a whole number from 0 to {_LARGEST}",
    float: f"be a number from 0 to {_LARGEST}",
    str: "be text",
    list: "be a list",
    dict: "be an object",
}

_SPREAD = "min", "median", "max"

_WAY_OUT = "Write it anew with `dali-cutmix check DATA --out report.json`."


@dataclass(frozen=True)
class BadImage:
    """Name an image that cannot be used.

    Attributes:
        index: Index of the image in the source.
        path: Where the image is stored.
        kind: One of `verdict.BAD_KINDS`.
        reason: Message of a decoder or of the system.
    """

    index: int
    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """Hold the smallest, median and largest value of a quantity."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """Return the spread of ``[n]`` numbers; all 0 if n is 0."""
        if not len(values):
            return cls(0, 0, 0)
        return cls(values.min().item(), float(np.median(values)), values.max().item())


@dataclass(frozen=True)
class Sizes:
    """Hold the sizes of the images whose header tells a size.

    Attributes:
        count: Number of these images.
        width: Pixels, before an EXIF rotation.
        height: Pixels, before an EXIF rotation.
        megapixels: Width times height, in millions.
        file_bytes: Bytes of the file, or of the pixels in a source of pixels.
        num_small: Number of images with a side below 224 pixels.
    """

    count: int
    width: Spread
    height: Spread
    megapixels: Spread
    file_bytes: Spread
    num_small: int

    @classmethod
    def of(cls, height: np.ndarray, width: np.ndarray, file_bytes: np.ndarray) -> Sizes:
        """Return the sizes for three ``[n]`` arrays of whole numbers."""
        return cls(
            count=len(height),
            width=Spread.of(width),
            height=Spread.of(height),
            megapixels=Spread.of(height.astype(np.int64) * width / 1e6),
            file_bytes=Spread.of(file_bytes),
            num_small=int((np.minimum(height, width) < SMALL_SIDE).sum()),
        )


@dataclass(frozen=True)
class Report:
    """Hold the result of `check_images`.

    Attributes:
        source: The source that was checked, as its user named it.
        fingerprint: Fingerprint of the images; see `StoredImages`.
        num_images: Number of images.
        bad: The bad images, by index.
        sizes: Sizes of the images.
        first_label: Argument of `TFRecords` that the source was opened with; None without.
    """

    source: str
    fingerprint: str
    num_images: int
    bad: tuple[BadImage, ...]
    sizes: Sizes
    first_label: int | None = None

    def good_indices(self) -> np.ndarray:
        """Return the indices of all other images: ``[num_images - len(bad)]`` int64, sorted."""
        keep = np.ones(self.num_images, bool)
        keep[[image.index for image in self.bad]] = False
        return np.flatnonzero(keep).astype(np.int64)

    def to_json(self) -> str:
        """Return the report as text that `from_json` reads."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Report:
        """Read a file that holds the text of `to_json`.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not a report, of another format, or damaged.
        """
        name = os.path.expanduser(os.fsdecode(path))
        try:
            text = read_text(name)
        except UnicodeDecodeError:
            raise ValueError(_not_a_report(printable(name))) from None
        return cls.from_json(text, name)

    @classmethod
    def from_json(cls, text: str, name: str = "the report") -> Report:
        """Read the text of `to_json`. Unknown fields, such as ``odd`` before, are ignored.

        Args:
            text: The JSON text.
            name: Name of the report, for messages.

        Raises:
            ValueError: The text is not a report, of another format, or damaged; the message names
                the field.
        """
        name = printable(name)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or "format" not in content:
            raise ValueError(_not_a_report(name))
        if not is_whole(content["format"]) or content["format"] != 1:
            got = shown(content["format"], 80)
            raise ValueError(f"{name} must be a report of format 1, got {got}. {_WAY_OUT}")
        try:
            return cls._from_content(content)
        except _DamagedError as error:
            raise ValueError(_damaged(name, str(error))) from None

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Report:
        num_images = _field(content, "num_images", int)
        bad: dict[int, BadImage] = {}
        for number, image in enumerate(_field(content, "bad", list)):
            path = f"bad[{number}]"
            _check(image, dict, path)
            texts = (_field(image, key, str, path) for key in ("path", "kind", "reason"))
            entry = BadImage(_field(image, "index", int, path), *texts)
            if entry.index >= num_images or entry.index in bad:
                rule = f"be below {num_images=} and come once"
                raise _DamagedError(f"`{path}.index` must {rule}, got {entry.index}")
            bad[entry.index] = entry
        first_label = content.get("first_label")
        return cls(
            _field(content, "source", str),
            _field(content, "fingerprint", str),
            num_images,
            tuple(bad.values()),
            _sizes(_field(content, "sizes", dict)),
            None if first_label is None else _field(content, "first_label", int),
        )


class _DamagedError(Exception):
    """Name a damaged field and its content."""


def _sizes(content: dict[str, Any]) -> Sizes:
    spreads: dict[str, Any] = {}
    for name in ("width", "height", "megapixels", "file_bytes"):
        spread, path = _field(content, name, dict, "sizes"), f"sizes.{name}"
        spreads[name] = Spread(*(_field(spread, key, float, path) for key in _SPREAD))
    counts = {name: _field(content, name, int, "sizes") for name in ("count", "num_small")}
    return Sizes(**counts, **spreads)


def _field(holder: dict[str, Any], key: str, kind: type, path: str = "") -> Any:
    """Return a field of an object of a report.

    Args:
        holder: The object.
        key: Name of the field.
        kind: What JSON's value must be, of `_RULES`.
        path: Of the object, for messages; empty is the report.
    """
    name = f"{path}.{key}".removeprefix(".")
    if key not in holder:
        raise _DamagedError(f"`{name}` is missing")
    return _check(holder[key], kind, name)


def _check(value: Any, kind: type, name: str) -> Any:
    if kind in (int, float):
        is_kind = is_whole(value) if kind is int else is_number(value)
        is_right = is_kind and 0 <= value <= _LARGEST
    else:
        is_right = isinstance(value, kind)
    if not is_right:
        raise _DamagedError(f"`{name}` must {_RULES[kind]}, got {shown(value, 80)}")
    return value


def _not_a_report(name: str) -> str:
    return f"{name} is not a report of `dali-cutmix check`. {_WAY_OUT}"


def _damaged(name: str, problem: str) -> str:
    return f"{name} is a damaged report: {problem}. {_WAY_OUT}"
