"""The report of a check of a source, as an object and as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from dali_cutmix.core.checks import is_number, is_whole, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text

_LARGEST = 2**63 - 1  # what an array of whole numbers holds

SMALL_SIDE = 224  # pixels: what most networks are trained at

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
            report: Report = _read(cls, content, "")
            report._check_numbers()
        except _DamagedError as error:
            raise ValueError(_damaged(name, str(error))) from None
        return report

    def _check_numbers(self) -> None:
        """Refuse numbers that contradict each other."""
        seen: set[int] = set()
        for place, image in enumerate(self.bad):
            rule = f"be below num_images={self.num_images}"
            _check(image.index < self.num_images, f"bad[{place}].index", rule, image.index)
            _check(image.index not in seen, f"bad[{place}].index", "come once", image.index)
            seen.add(image.index)
        sizes = self.sizes
        rule = f"be at most num_images={self.num_images}"
        _check(sizes.count <= self.num_images, "sizes.count", rule, sizes.count)
        rule = f"be at most count={sizes.count}"
        _check(sizes.num_small <= sizes.count, "sizes.num_small", rule, sizes.num_small)
        for name in ("width", "height", "megapixels", "file_bytes"):
            spread: Spread = getattr(sizes, name)
            rule = "have min <= median <= max"
            _check(spread.min <= spread.median <= spread.max, f"sizes.{name}", rule, asdict(spread))

    def check_num_images(self, num_images: int, name: str) -> None:
        """Refuse a report of another number of images than the data have.

        Args:
            num_images: Images of the data, whose fingerprint is the report's.
            name: Name of the report, for messages.

        Raises:
            ValueError: The numbers differ.
        """
        if self.num_images != num_images:
            rule = f"`num_images` must be {num_images}, the number of images in {self.source}"
            raise ValueError(_damaged(name, f"{rule}, got {self.num_images}"))


def _not_a_report(name: str) -> str:
    return f"{name} is not a report of `dali-cutmix check`. {_WAY_OUT}"


def _damaged(name: str, problem: str) -> str:
    return f"{name} is a damaged report: {problem}. {_WAY_OUT}"


class _DamagedError(Exception):
    """Name a damaged field and its content."""


def _read(kind: Any, value: Any, name: str) -> Any:
    """Return JSON's value as a field's type, a dataclass, a tuple, or a plain type.

    Args:
        kind: Type of the field.
        value: Content of the field.
        name: Path of the field, for messages.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        _check(isinstance(value, dict), name, "be an object", value)
        kinds, parts = get_type_hints(kind), {}
        for field in fields(kind):
            path = f"{name}.{field.name}".removeprefix(".")
            if field.name in value:
                parts[field.name] = _read(kinds[field.name], value[field.name], path)
            elif field.default is MISSING:
                raise _DamagedError(f"`{path}` is missing")
        return kind(**parts)
    if get_origin(kind) is tuple:
        _check(isinstance(value, list), name, "be a list", value)
        item_kind = get_args(kind)[0]
        return tuple(_read(item_kind, item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind is float:
        _check(is_number(value) and abs(value) < math.inf, name, "be a finite number", value)
        _check(0 <= value <= _LARGEST, name, f"be from 0 to {_LARGEST}", value)
    elif kind is str:
        _check(isinstance(value, str), name, "be text", value)
    elif value is not None or kind is int:  # `int` or `int | None`
        _check(is_whole(value) and value >= 0, name, "be a whole number of at least 0", value)
        _check(value <= _LARGEST, name, f"be at most {_LARGEST}", value)
    return value


def _check(is_right: bool, name: str, rule: str, value: Any) -> None:
    if not is_right:
        raise _DamagedError(f"`{name}` must {rule}, got {shown(value, 80)}")
