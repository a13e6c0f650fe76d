"""A model of the rate on a CPU: seconds per image as a sum of few costs, and what follows from it.

    python benchmarks/model.py benchmarks/results/DATE_MACHINE_scale.json

With ``t`` threads, never counted as more than there are cores, one image takes

    (c1 bytes + c2 pixels + c3 sqrt(pixels) size + c4 size^2) / t^e  +  c5 / batch  +  c6    seconds

where ``bytes`` and ``pixels`` are the file's and ``size`` is the side of the output: decoding goes
through all bytes, and makes and resizes a share of the pixels; the resize makes rows of the output
from columns of the input; the output is mixed and normalised. Decoding alone has the first two
terms, and decoding with resizing the first three and a share ``c7`` of the fourth in place of it.
``c5`` and ``c6`` are what no thread shares.

The costs are fitted on half of the measured points, those at even places in their curve, by least
squares of relative errors with no cost below 0, and ``e`` by trial; the other half is predicted.
Before that curves are levelled at the point that they share, since the machine drifts between them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

OURS, DECODE, RESIZE = "dali_cutmix", "decode only", "decode and resize"
TERMS = ("byte", "pixel", "resized line", "output pixel", "batch", "image", "resized pixel")
WITHIN = 0.15
#: Images per second that one of eight GPUs may ask for.
DEMANDS = (1_000, 2_500, 5_000)
NUM_GPUS = 8


@dataclass(frozen=True)
class Point:
    """Hold what decides how long an image takes."""

    kind: str
    """`OURS`, `DECODE` or `RESIZE`."""
    num_bytes: float
    """Of a file, on average."""
    pixels: float
    """Of a stored image, on average."""
    size: int
    """Side of the output in pixels."""
    batch_size: int
    """Images per batch."""
    threads: int
    """Threads, no more than cores."""

    @classmethod
    def of(cls, row: dict[str, Any], cores: int) -> Point:
        """Return the point of a row of a scale result."""
        files, work = row["files"], row["work"]
        return cls(
            row["name"],
            files["bytes"],
            files["pixels"],
            work["size"],
            work["batch_size"],
            min(work["threads"], cores),
        )

    def terms(self, exponent: float) -> list[float]:
        """Return the factor of each of `TERMS`; ``exponent`` is ``e``."""
        resizes, finishes = self.kind != DECODE, self.kind == OURS
        shared = [
            self.num_bytes,
            self.pixels,
            resizes * math.sqrt(self.pixels) * self.size,
            finishes * self.size**2,
        ]
        resized = (self.kind == RESIZE) * self.size**2
        divided = [term / self.threads**exponent for term in (*shared, resized)]
        return [*divided[:4], 1 / self.batch_size, 1.0, divided[4]]


@dataclass(frozen=True)
class Prediction:
    """Hold a point outside the fit, as predicted and as measured."""

    curve: str
    x: Any
    kind: str
    measured: float
    """Images per second, as measured."""
    predicted: float
    """Images per second, as predicted."""

    @property
    def error(self) -> float:
        """Return the error of the prediction, relative to the measured rate."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Model:
    """Hold the fitted costs."""

    costs: tuple[float, ...]
    """Seconds for each of `TERMS`."""
    exponent: float
    """``e``: two threads do the work of ``2**e``."""

    def rate(self, point: Point) -> float:
        """Return images per second."""
        return 1 / float(np.dot(point.terms(self.exponent), self.costs))

    def cores(self, rate: float, point: Point) -> int:
        """Return the cores that a rate takes, if each core does as much as each core of ``point``.

        Args:
            rate: Images per second.
            point: What is served; ``threads`` are the cores that were measured.
        """
        return math.ceil(rate * point.threads / self.rate(point))


def fit(points: Sequence[Point], rates: Sequence[float]) -> Model:
    """Fit the costs that explain the rates best.

    Args:
        points: At least as many as `TERMS`.
        rates: Images per second of each.

    Raises:
        ValueError: There are too few points.
    """
    if len(points) < len(TERMS):
        raise ValueError(
            f"fit: `points` must be at least {len(TERMS)}, got {len(points)}. Run all curves of "
            "scale.py."
        )

    def at(exponent: float) -> tuple[float, Model]:
        terms = np.array([point.terms(exponent) for point in points])
        relative = terms * np.array(rates)[:, None]
        # Columns are scaled, since bytes and seconds are ten orders of magnitude apart.
        scale = np.maximum(relative.max(0), 1e-300)
        costs, residual = nnls(relative / scale, np.ones(len(points)))
        return residual, Model(tuple((costs / scale).tolist()), exponent)

    tried = [at(exponent) for exponent in np.linspace(0.3, 1.0, 71).tolist()]
    return min(tried, key=lambda fit: fit[0])[1]


def level(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the drift from curve to curve.

    Curves are measured one after the other, and this loader at one point in nearly all of them.
    Every curve's rates are scaled by one factor, so that this point has one rate, the median.
    """
    shared: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["name"] == OURS and "error" not in row:
            shared.setdefault(_identity(row), {})[row["curve"]] = row["median"]
    by_curve = max(shared.values(), key=len, default={})
    middle = median(by_curve.values()) if by_curve else 0.0
    factors = {curve: middle / here for curve, here in by_curve.items()}
    return [
        row if "error" in row else row | {"median": row["median"] * factors.get(row["curve"], 1)}
        for row in rows
    ]


def split(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows to fit and rows to predict: even and odd places of every kind in every curve.

    Left out are what did not run, kinds that are not modelled, several processes, and among those
    to predict what was measured in the other half as well.
    """
    halves: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    places: Counter[tuple[str, str]] = Counter()
    for row in rows:
        known = row["name"] in (OURS, DECODE, RESIZE) and row["curve"] != "processes"
        if known and "error" not in row:
            key = (row["curve"], row["name"])
            halves[places[key] % 2].append(row)
            places[key] += 1
    seen = {_identity(row) for row in halves[0]}
    return halves[0], [row for row in halves[1] if _identity(row) not in seen]


def _identity(row: dict[str, Any]) -> str:
    return json.dumps([row["name"], row["work"], row["files"]], sort_keys=True)


def model_of(result: dict[str, Any]) -> tuple[Model, list[Prediction]]:
    """Fit the model to half of a scale result and predict the other half.

    Args:
        result: As ``scale.py`` writes it.

    Raises:
        ValueError: Too few points were measured.
    """
    cores = result["machine"]["cores"]
    known, unknown = split(level(result["rows"]))
    model = fit([Point.of(row, cores) for row in known], [row["median"] for row in known])
    predictions = [
        Prediction(
            row["curve"],
            row["x"],
            row["name"],
            row["median"],
            model.rate(Point.of(row, cores)),
        )
        for row in unknown
    ]
    return model, predictions


def base_points(result: dict[str, Any]) -> dict[str, Point]:
    """Return the points of the curve over source size at which this loader ran, by name."""
    cores = result["machine"]["cores"]
    return {
        row["x"]: Point.of(row, cores)
        for row in result["rows"]
        if row["curve"] == "source size" and row["name"] == OURS and "error" not in row
    }


def main() -> None:
    """Print costs, predictions, and the cores that eight GPUs need."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="JSON file of scale.py")
    path = parser.parse_args().result
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{path} must be a JSON file of scale.py: {error}")
    if not isinstance(result, dict) or result.get("what") != "scale":
        parser.error(f"{path} must be a JSON file of scale.py, and another program wrote it")
    model, predictions = model_of(result)
    console = Console()
    for term, cost in zip(TERMS, model.costs, strict=True):
        console.print(f"{term}: {1e9 * cost:,.3f} ns", highlight=False)
    console.print(f"two threads do the work of {2**model.exponent:.2f}", highlight=False)
    table = Table("curve", "point", "loader", title="Predicted from the other half")
    for column in ("measured", "predicted", "error"):
        table.add_column(column, justify="right")
    for prediction in predictions:
        numbers = (
            f"{prediction.measured:,.0f}",
            f"{prediction.predicted:,.0f}",
            f"{prediction.error:+.0%}",
        )
        table.add_row(prediction.curve, str(prediction.x), prediction.kind, *numbers)
    console.print(table)
    for name, point in base_points(result).items():
        needed = ", ".join(
            f"{demand:,}: {model.cores(NUM_GPUS * demand, point):,}" for demand in DEMANDS
        )
        console.print(f"cores for eight GPUs at images/s each, {name}: {needed}", highlight=False)


if __name__ == "__main__":
    main()
