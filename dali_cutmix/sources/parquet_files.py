"""Parquet files as pyarrow opens them, and which of pyarrow's errors are damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra
from dali_cutmix.sources.parquet_pages import DamagedError

WHERE = "ParquetShards"

#: First bytes of what a clone without Git LFS holds in the place of a large file.
_POINTER = b"version https://git-lfs"


def open_table(file: BinaryIO, shard: str) -> Any:
    """Open a shard as ``pyarrow.parquet.ParquetFile``.

    Raises:
        ValueError: The shard is damaged or another file.
    """
    with damage_refused(shard):
        try:
            return import_pyarrow().parquet.ParquetFile(file)
        except Exception:
            file.seek(0)
            if file.read(len(_POINTER)) != _POINTER:
                raise
    raise ValueError(
        f"{WHERE}: {printable(shard)} is a pointer of Git LFS and not the file. Run `git lfs pull` "
        "in the clone."
    )


def features_of(schema: Any) -> dict[str, dict[str, Any]]:
    """Return Hugging Face's features by column; none where the file has none."""
    try:
        text = (schema.metadata or {})[b"huggingface"]
        features = json.loads(text)["info"]["features"]
        return {name: dict(feature) for name, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


@contextmanager
def damage_refused(shard: str) -> Iterator[None]:
    """Turn errors of damage into a ``ValueError`` that names the shard."""
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        refuse_damaged(shard, first_line(error))


def is_damage(error: Exception) -> bool:
    """Return whether an error is pyarrow's word for damage, or `parquet_pages`'.

    pyarrow raises ``OSError`` too, without the number that errors of the system have.
    """
    damage = (DamagedError, UnicodeDecodeError, import_pyarrow().ArrowException)
    return isinstance(error, damage) or (isinstance(error, OSError) and error.errno is None)


def first_line(error: Exception) -> str:
    """Return what an error says, without a full stop."""
    return printable(str(error).partition("\n")[0].rstrip("."))


def refuse_damaged(shard: str, problem: str) -> NoReturn:
    """Raise the ``ValueError`` of a shard that cannot be read by index."""
    raise ValueError(
        f"{WHERE}: {printable(shard)} is damaged, or its images cannot be read by index: "
        f"{printable(problem)}. Write the file again, or with `dali-cutmix pack --format parquet`."
    ) from None


def import_pyarrow() -> Any:
    """Return the package, with its part for Parquet.

    Raises:
        ImportError: pyarrow is missing.
    """
    return import_extra(WHERE, "pyarrow", "pyarrow.parquet", extra="parquet")
