"""Files of a record: parts of epochs as Parquet or CSV, and what run they belong to.

A record is a folder. Each part is a file of its own, which is complete or absent, and holds rows of
one epoch and one rank, from one batch on. pandas and pyarrow read the folder of a Parquet record as
one table, and pass over the description, whose name starts with an underscore.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.reading import read_text
from dali_cutmix.core.writing import replacing, write_text

Format = Literal["parquet", "csv"]

DESCRIPTION = "_record.json"
#: Version of the description and of the columns.
VERSION = 1
#: What a whole number stands for that is not known: an empty cell.
UNKNOWN = -1

#: Columns, and their types in Parquet. ``path`` is text, which is written once for each sample.
COLUMNS: dict[str, str] = {
    "epoch": "int64",
    "batch": "int64",
    "rank": "int32",
    "position": "int32",
    "view": "int32",
    "region": "int32",
    "sample": "int64",
    "path": "string",
    "class": "int64",
    "weight": "float32",
    "lam": "float32",
    **{
        f"{rect}_{side}": "int32"
        for rect in ("taken", "put")
        for side in ("y", "x", "height", "width")
    },
    "seed": "int64",
}

_PART = re.compile(r"epoch-(\d{5,})-batch-(\d{6,})-rank-(\d{4,})\.(parquet|csv)")

Rows = dict[str, Any]


@dataclass(frozen=True, order=True)
class Part:
    """Name a file of rows.

    Attributes:
        epoch: Epoch of all rows.
        batch: First batch. Later parts of the epoch start behind the last batch.
        rank: Process that served the batches.
        format: ``"parquet"`` or ``"csv"``.
    """

    epoch: int
    batch: int
    rank: int
    format: Format

    @property
    def name(self) -> str:
        """The file's name in the folder."""
        return f"epoch-{self.epoch:05d}-batch-{self.batch:06d}-rank-{self.rank:04d}.{self.format}"


@dataclass(frozen=True)
class Description:
    """Say what run a record belongs to.

    Attributes:
        format: Of all parts.
        data: Fingerprint of the data.
        num_samples: Number of samples in the data.
        seed: The loader's seed.
        classes: Names of the classes, in the order of their indices; None without classes.
    """

    format: Format
    data: str
    num_samples: int
    seed: int
    classes: list[str] | None


def write_description(folder: str, description: Description) -> None:
    """Write the description of a record."""
    text = json.dumps({"version": VERSION, **vars(description)}, indent=1)
    write_text(os.path.join(folder, DESCRIPTION), text + "\n")


def read_description(where: str, folder: str) -> Description:
    """Read the description of a record.

    Raises:
        OSError: The description is missing, or cannot be read.
        ValueError: The description is damaged, or of another version.
    """
    path = os.path.join(folder, DESCRIPTION)
    try:
        values = json.loads(read_text(path))
        version = values.pop("version")
        described = Description(**values)
        types = {"format": str, "data": str, "num_samples": int, "seed": int}
        is_fine = all(type(getattr(described, name)) is kind for name, kind in types.items())
        names = described.classes
        is_fine &= names is None or all(isinstance(name, str) for name in names)
        if not is_fine or described.format not in ("parquet", "csv"):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, IsADirectoryError):
        raise ValueError(f"{where}: {printable(path)} describes no record.") from None
    if version != VERSION:
        way_out = "Read it with the version of dali_cutmix that wrote it."
        refuse(where, f"version in {printable(path)}", f"be {VERSION}", version, way_out)
    return described


def parts_in(folder: str) -> list[Part]:
    """List the parts of a record, by epoch, first batch and rank."""
    matches = filter(None, map(_PART.fullmatch, os.listdir(folder)))
    return sorted(
        Part(int(m[1]), int(m[2]), int(m[3]), "parquet" if m[4] == "parquet" else "csv")
        for m in matches
    )


def write_part(
    folder: str, part: Part, rows: Mapping[str, np.ndarray], path: Callable[[int], str]
) -> None:
    """Write rows, all or none; replace a part of the same name.

    Args:
        folder: The record's.
        part: The file.
        rows: Each of `COLUMNS` but ``path``: ``[n]`` numbers, `UNKNOWN` or NaN where not known.
        path: Returns the path of a sample by its index.
    """
    samples, inverse = np.unique(rows["sample"], return_inverse=True)
    names = [printable(path(int(sample))) for sample in samples]
    with replacing(os.path.join(folder, part.name)) as file:
        if part.format == "csv":
            file.write(_as_csv(rows, names, inverse).encode())
        else:
            _write_parquet(file, rows, names, inverse)


def read_part(folder: str, part: Part, names: Sequence[str] | None = None) -> Rows:
    """Read rows of a part.

    Args:
        folder: The record's.
        part: The file.
        names: Columns to read; None reads all.

    Returns:
        An array for each column, with `UNKNOWN` or NaN where not known; ``path`` a list.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged.
    """
    path = os.path.join(folder, part.name)
    names = list(COLUMNS) if names is None else list(names)
    try:
        return _from_csv(path, names) if part.format == "csv" else _from_parquet(path, names)
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        raise ValueError(f"Record: cannot read {printable(path)}: {error}") from error


def cut_off(folder: str, parts: Sequence[Part], epoch: int, batch: int) -> None:
    """Remove the rows of a batch and of all that come later, from the last part to the first."""
    for part in sorted(parts, reverse=True):
        path = os.path.join(folder, part.name)
        if (part.epoch, part.batch) >= (epoch, batch):
            os.unlink(path)
        elif part.epoch == epoch:
            rows = read_part(folder, part)
            stays = rows["batch"] < batch
            if not stays.all():
                names = dict(zip(rows["sample"].tolist(), rows.pop("path"), strict=True))
                kept = {name: column[stays] for name, column in rows.items()}
                write_part(folder, part, kept, names.__getitem__)


def last_batch(folder: str, parts: Sequence[Part], epoch: int, before: int) -> int:
    """Return the last batch of an epoch, below ``before``, that has a row; -1 where none has.

    Other ranks may remove later parts meanwhile.
    """
    last = -1
    for part in parts:
        if part.epoch == epoch and part.batch < before:
            with suppress(FileNotFoundError):
                batches = read_part(folder, part, ["batch"])["batch"]
                last = max(last, int(batches[batches < before].max(initial=-1)))
    return last


def import_pyarrow(where: str) -> Any:
    """Return ``pyarrow``, with ``pyarrow.parquet``.

    Raises:
        ImportError: pyarrow is missing.
    """
    way_out = "write CSV by `format='csv'`"
    return import_extra(where, "pyarrow", "pyarrow.parquet", extra="record", way_out=way_out)


def _write_parquet(
    file: Any, rows: Mapping[str, np.ndarray], names: list[str], inverse: np.ndarray
) -> None:
    arrow = import_pyarrow("Record")
    columns = {}
    for name, kind in COLUMNS.items():
        if name == "path":
            indices = arrow.array(inverse.astype(np.int32))
            texts = arrow.array(names, arrow.string())
            columns[name] = arrow.DictionaryArray.from_arrays(indices, texts)
        else:
            values = rows[name]
            mask = np.isnan(values) if kind == "float32" else values == UNKNOWN
            columns[name] = arrow.array(values.astype(kind), mask=mask)
    arrow.parquet.write_table(arrow.table(columns), file, compression="zstd")


def _from_parquet(path: str, names: list[str]) -> Rows:
    arrow = import_pyarrow("Record")
    table = arrow.parquet.read_table(path, columns=names, partitioning=None)
    rows: Rows = {}
    for name in names:
        column = table.column(name)
        if name == "path":
            rows[name] = column.to_pylist()
        else:
            empty = np.nan if COLUMNS[name] == "float32" else UNKNOWN
            rows[name] = column.fill_null(empty).to_numpy().astype(COLUMNS[name])
    return rows


def _as_csv(rows: Mapping[str, np.ndarray], names: list[str], inverse: np.ndarray) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns: list[Iterator[Any]] = []
    for name, kind in COLUMNS.items():
        if name == "path":
            columns.append(names[number] for number in inverse)
        elif kind == "float32":
            # The shortest text that reads as the same float32.
            columns.append("" if np.isnan(v) else str(v) for v in rows[name].astype(np.float32))
        else:
            columns.append("" if v == UNKNOWN else v for v in rows[name].tolist())
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _from_csv(path: str, names: list[str]) -> Rows:
    header, *lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    numbers = {name: header.index(name) for name in names}
    rows: Rows = {}
    for name, number in numbers.items():
        cells = [line[number] for line in lines]
        if name == "path":
            rows[name] = cells
        elif COLUMNS[name] == "float32":
            rows[name] = np.array([float(cell or "nan") for cell in cells], np.float32)
        else:
            rows[name] = np.array([int(cell or UNKNOWN) for cell in cells], COLUMNS[name])
    return rows
