"""Rows of a record, read without the package."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

#: Columns that hold texts, and those that hold fractions.
TEXTS, FRACTIONS = {"path"}, {"weight", "lam"}


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """All rows of a record, read without the package, in the order of files' names."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq  # late: tests for a GPU do without pyarrow

            rows += pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows += [
                    {name: _value(name, cell) for name, cell in row.items()}
                    for row in csv.DictReader(file)
                ]
    return rows


def _value(name: str, cell: str) -> Any:
    if not cell:
        return None
    if name in TEXTS:
        return cell
    return float(np.float32(cell)) if name in FRACTIONS else int(cell)
