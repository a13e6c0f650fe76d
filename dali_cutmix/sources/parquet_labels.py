"""The column of classes in Parquet files: class indices, or texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import Told, checked_names, refuse
from dali_cutmix.sources.parquet_files import WHERE, import_pyarrow, refuse_damaged


def is_text(kind: Any) -> bool:
    """Return whether a column's type is of texts, plain or behind an Arrow dictionary."""
    types = import_pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def checked_texts(classes: Sequence[str]) -> list[str]:
    """Return the names of classes that texts are looked up in.

    Raises:
        ValueError: Not texts, or a name comes twice.
    """
    names = checked_names(WHERE, "classes", classes)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        refuse(WHERE, "classes", "name each class once", Told(f"{twice!r} twice"))
    return names


def find_texts(table: Any, label: str, shard: str) -> list[str]:
    """Return the texts in the column of classes of a shard, each once.

    Raises:
        ValueError: The shard is damaged, or a row has no class or another kind of class.
    """
    column = _column(table, label, shard, are_texts=True)
    texts: list[str] = column.unique().to_pylist()
    return texts


def read_labels(table: Any, label: str, shard: str, texts: Sequence[str] | None) -> np.ndarray:
    """Return the column of classes of a shard: ``[N]`` int64.

    Args:
        table: The shard: a ``pyarrow.parquet.ParquetFile``.
        label: Name of the column.
        shard: Name of the shard, for messages.
        texts: Names of the classes where the column holds texts; None where it holds indices.

    Raises:
        ValueError: The shard is damaged, a row has no class, or a text is the name of none.
    """
    column = _column(table, label, shard, are_texts=texts is not None)
    if texts is not None:
        return _indices_of(column, shard, texts)
    labels: np.ndarray = column.to_numpy().astype(np.int64)
    if len(labels) and labels.min() < 0:
        row = int(labels.argmin())
        rule = f"be class indices of at least 0 in {shard}"
        refuse(WHERE, "label", rule, Told(f"{labels[row]} in row {row}"))
    return labels


def _column(table: Any, label: str, shard: str, *, are_texts: bool) -> Any:
    if label not in table.schema_arrow.names:
        refuse_damaged(shard, f"there is no column {label!r}")
    column = table.read(columns=[label]).column(0)
    types = import_pyarrow().types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (is_text(column.type) if are_texts else types.is_integer(column.type)):
        what = "texts, as in the first file," if are_texts else "class indices"
        way_out = "Files of one source hold whole numbers, or all of them texts."
        refuse(WHERE, "label", f"be {what} in {shard}", Told(str(column.type)), way_out)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        refuse(WHERE, "label", f"be known for every row of {shard}", Told(f"none in row {row}"))
    return column


def _indices_of(column: Any, shard: str, texts: Sequence[str]) -> np.ndarray:
    encoded = column.dictionary_encode().combine_chunks()
    numbers = encoded.indices.to_numpy()
    index = {text: number for number, text in enumerate(texts)}
    names = encoded.dictionary.to_pylist()
    for number, name in enumerate(names):
        if name not in index:
            row = int(np.flatnonzero(numbers == number)[0])
            rule = f"name every class, and row {row} of {shard} is of {name!r}"
            refuse(WHERE, "classes", rule, Told(f"{len(texts)} names"))
    return np.array([index[name] for name in names], np.int64)[numbers]
