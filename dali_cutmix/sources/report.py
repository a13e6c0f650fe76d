"""What a check of a source found: the report, as an object and as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SMALL_SIDE = 224  # pixels: what most networks are trained at

_MOST_IMAGES = 2**31
_WAY_OUT = "Write it anew with `dali-cutmix check DATA --out report.json`."


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used.

    Attributes:
        index: Its index in the source.
        path: Where it is stored.
        kind: One of `verdict.BAD_KINDS`.
        reason: What a decoder or the system said.
    """

    index: int
    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of a quantity."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """Of ``[n]`` numbers; all 0 where there are none."""
        if not len(values):
            return cls(0, 0, 0)
        return cls(values.min().item(), float(np.median(values)), values.max().item())


@dataclass(frozen=True)
class Sizes:
    """Sizes of the images whose header tells one.

    Attributes:
        count: Number of them.
        width: In pixels, not turned upright.
        height: In pixels, not turned upright.
        megapixels: Width times height, in millions.
        file_bytes: Size of the file; of decoded pixels for a source of those.
        num_small: How many have a side below 224 pixels.
    """

    count: int
    width: Spread
    height: Spread
    megapixels: Spread
    file_bytes: Spread
    num_small: int

    @classmethod
    def of(cls, height: np.ndarray, width: np.ndarray, file_bytes: np.ndarray) -> Sizes:
        """Of three ``[n]`` arrays of whole numbers."""
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
    """What `check_images` found.

    Attributes:
        source: The source as it was given.
        fingerprint: Of the images; see `StoredImages.fingerprint`.
        num_images: Number of images.
        bad: The bad ones, by index.
        sizes: How large the images are.
        first_label: What the source was opened with; see `TFRecords`. None where nothing was given.
    """

    source: str
    fingerprint: str
    num_images: int
    bad: tuple[BadImage, ...]
    sizes: Sizes
    first_label: int | None = None

    def good_indices(self) -> np.ndarray:
        """Indices of all images that are not bad: ``[num_images - len(bad)]`` int64, ascending."""
        keep = np.ones(self.num_images, bool)
        keep[[image.index for image in self.bad]] = False
        return np.flatnonzero(keep).astype(np.int64)

    def to_json(self) -> str:
        """As text that `from_json` reads. Names bad images only."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Report:
        """Read a file that holds what `to_json` wrote.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no report, of another format, or damaged.
        """
        name = os.fspath(path)
        with open(name, encoding="utf-8") as file:
            try:
                text = file.read()
            except UnicodeDecodeError:
                raise ValueError(_no_report(name)) from None
        return cls.from_json(text, name)

    @classmethod
    def from_json(cls, text: str, name: str = "the report") -> Report:
        """Read what `to_json` wrote. Unknown fields, such as ``odd`` of older reports, are ignored.

        Args:
            text: The JSON text.
            name: What messages call it.

        Raises:
            ValueError: It is no report, of another format, or damaged, with the field that is.
        """
        try:
            fields = json.loads(text)
        except ValueError:
            raise ValueError(_no_report(name)) from None
        except RecursionError:
            raise ValueError(_damaged_report(name, "it is nested too deeply")) from None
        if not isinstance(fields, dict) or "format" not in fields:
            raise ValueError(_no_report(name))
        if fields["format"] != 1:
            got = f"{fields['format']!r:.80}"
            raise ValueError(f"{name} must be a report of format 1, got {got}. {_WAY_OUT}")
        try:
            return _report(fields)
        except _DamagedError as error:
            raise ValueError(_damaged_report(name, str(error))) from None


def _damaged_report(name: str, problem: str) -> str:
    return f"{name} is a damaged report: {problem}. {_WAY_OUT}"


def _no_report(name: str) -> str:
    return f"{name} is no report of `dali-cutmix check`. {_WAY_OUT}"


class _DamagedError(Exception):
    """What is wrong with which field."""


def _report(fields: dict[str, Any]) -> Report:
    _object(fields, "", ("source", "fingerprint", "num_images", "bad", "sizes"))
    count = _whole(fields["num_images"], "num_images", 1, _MOST_IMAGES)
    bad: dict[int, BadImage] = {}
    for place, found in enumerate(_list(fields["bad"], "bad")):
        name = f"bad[{place}]"
        keys = ("path", "kind", "reason")
        image = _object(found, name, ("index", *keys))
        index = _whole(image["index"], f"{name}.index", 0, count - 1)
        if index in bad:
            raise _DamagedError(f"`{name}.index` must not be there twice, got {index}")
        bad[index] = BadImage(index, *(_text(image[key], f"{name}.{key}") for key in keys))
    first_label = fields.get("first_label")
    if first_label is not None:
        _whole(first_label, "first_label", 0, _MOST_IMAGES)
    return Report(
        source=_text(fields["source"], "source"),
        fingerprint=_text(fields["fingerprint"], "fingerprint"),
        num_images=count,
        bad=tuple(bad.values()),
        sizes=_sizes(fields["sizes"], count),
        first_label=first_label,
    )


def _sizes(value: Any, num_images: int) -> Sizes:
    spreads = ("width", "height", "megapixels", "file_bytes")
    fields = _object(value, "sizes", ("count", "num_small", *spreads))
    return Sizes(
        count=_whole(fields["count"], "sizes.count", 0, num_images),
        num_small=_whole(fields["num_small"], "sizes.num_small", 0, num_images),
        **{name: _spread(fields[name], f"sizes.{name}") for name in spreads},
    )


def _spread(value: Any, name: str) -> Spread:
    keys = ("min", "median", "max")
    fields = _object(value, name, keys)
    return Spread(*(_number(fields[key], f"{name}.{key}") for key in keys))


def _object(value: Any, name: str, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(name, "be an object", value)
    for key in keys:
        if key not in value:
            raise _DamagedError(f"`{name}{'.' * bool(name)}{key}` is missing")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _damaged(name, "be a list", value)
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _damaged(name, "be text", value)
    return value


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:  # True is an int, too
        raise _damaged(name, f"be a whole number in [{least}, {most}]", value)
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise _damaged(name, "be a finite number of at least 0", value)
    return value


def _damaged(name: str, rule: str, value: Any) -> _DamagedError:
    return _DamagedError(f"`{name}` must {rule}, got {value!r:.80}")
