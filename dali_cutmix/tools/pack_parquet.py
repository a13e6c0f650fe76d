"""Write and verify one shard of a pack as a Parquet file, in the layout of Hugging Face's hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, BinaryIO

from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra

#: Rows of a row group, which is in memory as a whole while it is written.
_ROWS = 100


def write_parquet(
    file: BinaryIO, samples: Iterable[tuple[str, bytes, int]], classes: Sequence[str] | None
) -> None:
    """Write images as structs of ``bytes`` and ``path``, uncompressed, and classes as ``int64``.

    Args:
        file: The file, open for writing.
        samples: Name, image file and class index of every sample.
        classes: Names of the classes, or None.
    """
    pa = import_pyarrow()
    schema = _schema(classes)
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    rows: list[tuple[str, bytes, int]] = []
    with pa.parquet.ParquetWriter(file, schema, **options) as writer:

        def flush() -> None:
            images = [{"bytes": data, "path": name} for name, data, _ in rows]
            labels = [label for _, _, label in rows]
            writer.write_table(pa.table({"image": images, "label": labels}, schema))
            rows.clear()

        for sample in samples:
            rows.append(sample)
            if len(rows) == _ROWS:
                flush()
        if rows:
            flush()


def names_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the samples of a shard.

    Raises:
        ValueError: The file is damaged, or no shard of a pack.
    """
    pa = import_pyarrow()
    try:
        table = pa.parquet.ParquetFile(path).read(columns=["image.path"])
        return [image["path"] for image in table.column("image").to_pylist()]
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(printable(str(error))) from error


def verify_parquet(
    path: str | os.PathLike[str], expected: Sequence[tuple[str, int, bytes]]
) -> None:
    """Read a shard from its file, and compare rows with what was written.

    Args:
        path: The shard.
        expected: Name, class index and blake2b digest of 16 bytes of every sample, in order.

    Raises:
        OSError: The shard cannot be read, or holds other rows. Names the first such sample.
    """
    number = 0
    for batch in import_pyarrow().parquet.ParquetFile(path).iter_batches(_ROWS):
        for image, label in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if number == len(expected):
                raise OSError("the shard holds more than was written")
            name, expected_label, digest = expected[number]
            is_same = blake2b(image["bytes"], digest_size=16).digest() == digest
            if not is_same or (image["path"], label) != (name, expected_label):
                raise OSError(f"{name} does not read back as it was written")
            number += 1
    if number < len(expected):
        raise OSError(f"{expected[number][0]} does not read back as it was written")


def import_pyarrow() -> Any:
    """Return pyarrow, or say what to install."""
    return import_extra("pack: `--format parquet`", "pyarrow", "pyarrow.parquet", extra="parquet")


def _schema(classes: Sequence[str] | None) -> Any:
    pa = import_pyarrow()
    label = {"dtype": "int64", "_type": "Value"}
    of_classes = {"names": list(classes or []), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": of_classes if classes else label}
    notes = json.dumps({"info": {"features": features}})
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.schema({"image": image, "label": pa.int64()}, {"huggingface": notes})
