"""Results of measures: numbers, values per image, curves, tables, pictures, notes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Curve:
    """Hold lines that share a plot.

    Attributes:
        title: Title of the plot.
        x_label: What the horizontal axis shows, with the unit.
        y_label: What the vertical axis shows, with the unit.
        series: ``(x, y)`` of each line by the line's name, two lists of equal length.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Table:
    """Hold rows of texts and numbers.

    Attributes:
        title: Title of the table.
        header: Name of each column.
        rows: A text, a count or a share in [0, 1] for each column.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


@dataclass(frozen=True)
class Picture:
    """Hold an image for the report.

    Attributes:
        caption: Text below the image.
        png: The image as a PNG file.
    """

    caption: str
    png: bytes


@dataclass(frozen=True)
class Result:
    """Hold what a measure says of one classifier.

    Attributes:
        name: Name of the measure: its module.
        title: Heading in a report.
        numbers: Numbers by name. Rates, accuracies and errors are shares in [0, 1].
        samples: Values per image by name, ``[N]`` float64 in the order of the images. Their mean is
            the number of the same name, so that two classifiers can be compared image by image.
        curves: Plots.
        pictures: Images.
        notes: Sentences about what was measured and how.
        tables: Rows that are too many for ``numbers``.
        settings: What the numbers depend on beside classifier and images, in JSON's types: seeds,
            strengths, digests of other files. Two classifiers can be compared where every setting
            that both results have is equal.
    """

    name: str
    title: str
    numbers: Mapping[str, float]
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def as_json(result: Result) -> dict[str, Any]:
    """Return what JSON can hold, in its types: all but samples and pictures."""
    return {
        "name": result.name,
        "title": result.title,
        "numbers": {name: float(number) for name, number in result.numbers.items()},
        "curves": [asdict(curve) for curve in result.curves],
        "tables": [asdict(table) for table in result.tables],
        "notes": list(result.notes),
        "settings": dict(result.settings),
    }


def fingerprint(value: Any) -> str:
    """Return a digest of a value that JSON can hold: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
