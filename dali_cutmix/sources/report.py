"""The report of a check of a source, as an object and as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.checks import is_whole, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text

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
            ValueError: The text is not a report, of another format, or damaged.
        """
        name = printable(name)
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict) or "format" not in content:
            raise ValueError(_not_a_report(name))
        if not is_whole(content["format"]) or content["format"] != 1:
            got = shown(content["format"], 80)
            raise ValueError(f"{name} must be a report of format 1, got {got}. {_WAY_OUT}")
        try:
            report = cls._from_content(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = printable(f"{type(error).__name__}: {error}")
            raise ValueError(_damaged(name, problem)) from None
        num_images = report.num_images
        for index in [image.index for image in report.bad]:
            if not is_whole(index) or not 0 <= index < num_images:
                rule = f"`index` of a bad image must be a whole number below {num_images=}"
                raise ValueError(_damaged(name, f"{rule}, got {shown(index, 80)}"))
        return report

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Report:
        sizes: dict[str, Any] = {
            key: Spread(**value) if isinstance(value, dict) else value
            for key, value in content["sizes"].items()
        }
        return cls(
            content["source"],
            content["fingerprint"],
            int(content["num_images"]),
            tuple(BadImage(**image) for image in content["bad"]),
            Sizes(**sizes),
            content.get("first_label"),
        )


def _not_a_report(name: str) -> str:
    return f"{name} is not a report of `dali-cutmix check`. {_WAY_OUT}"


def _damaged(name: str, problem: str) -> str:
    return f"{name} is a damaged report: {problem}. {_WAY_OUT}"
