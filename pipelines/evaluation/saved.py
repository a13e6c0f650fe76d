"""Evaluations on disk: report.json with the numbers, samples.npz with the values per image."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from evaluation.refusal import refuse
from evaluation.result import Curve, Result, Table, as_json
from harness.checkpoints import write_json

#: Names of the files in the folder of an evaluation.
NUMBERS, SAMPLES = "report.json", "samples.npz"


@dataclass(frozen=True)
class Evaluation:
    """Hold all that was measured of one classifier.

    Attributes:
        name: Name of the classifier.
        results: What each measure returned.
        about: Facts for the report's end, by name: data, settings, versions.
        images: Digest of the images, in order. Values per image of two evaluations belong together
            only where the digests are equal.
    """

    name: str
    results: tuple[Result, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    images: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """Every number by the names of its measure and its own, as ``occlusion/center_0.5``."""
        return {
            f"{result.name}/{name}": float(number)
            for result in self.results
            for name, number in result.numbers.items()
        }

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """Values per image, ``[N]`` float64, by names as those of `numbers`."""
        return {
            f"{result.name}/{name}": values
            for result in self.results
            for name, values in result.samples.items()
        }


def save(folder: Path, evaluation: Evaluation) -> None:
    """Write an evaluation into a folder. Pictures are in report.html alone."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    np.savez_compressed(written, **evaluation.samples)  # type: ignore[arg-type]
    partial = folder / f"{SAMPLES}.partial"
    partial.write_bytes(written.getvalue())
    os.replace(partial, folder / SAMPLES)
    state = {
        "name": evaluation.name,
        "images": evaluation.images,
        "about": dict(evaluation.about),
        "results": [as_json(result) for result in evaluation.results],
    }
    write_json(folder / NUMBERS, state)


def load(folder: Path, flag: str | None = None) -> Evaluation:
    """Read an evaluation that `save` wrote, without its pictures.

    Args:
        folder: The folder.
        flag: Flag that named the folder, for messages.

    Raises:
        SystemExit: The folder holds no complete evaluation.
    """
    try:
        state = json.loads((folder / NUMBERS).read_text())
        with np.load(folder / SAMPLES, allow_pickle=False) as file:
            samples = {name: file[name] for name in file.files}
        results = tuple(_result(row, samples) for row in state["results"])
        return Evaluation(state["name"], results, state["about"], state["images"])
    except KeyError as error:
        _refuse(folder, flag, f"{error} is missing")
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        _refuse(folder, flag, str(error))


def _refuse(folder: Path, flag: str | None, problem: str) -> NoReturn:
    what = str(folder) if flag is None else f"`{flag}`"
    got = "" if flag is None else f" got {folder}:"
    refuse(
        f"{what} must be a folder with complete {NUMBERS} and {SAMPLES} of an evaluation,{got} "
        f"{problem}. Evaluate anew, or pass another folder.",
    )


def _result(row: Mapping[str, Any], samples: Mapping[str, np.ndarray]) -> Result:
    prefix = f"{row['name']}/"
    curves = [
        Curve(**curve | {"series": {name: tuple(line) for name, line in curve["series"].items()}})
        for curve in row["curves"]
    ]
    tables = [
        Table(table["title"], tuple(table["header"]), tuple(map(tuple, table["rows"])))
        for table in row["tables"]
    ]
    return Result(
        row["name"],
        row["title"],
        # JSON has no NaN.
        {name: math.nan if value is None else value for name, value in row["numbers"].items()},
        {k.removeprefix(prefix): v for k, v in samples.items() if k.startswith(prefix)},
        curves=tuple(curves),
        tables=tuple(tables),
        notes=tuple(row["notes"]),
        settings=row.get("settings", {}),  # which older evaluations lack
    )
