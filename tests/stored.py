"""Ways to store the same encoded images: each is written here without the package's own writers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CLASSES = ["china", "flower", "portrait"]


class Sample(NamedTuple):
    """An image file and its class."""

    name: str
    data: bytes
    label: int


def hugging_face(samples: list[Sample]) -> Any:
    """Rows in memory, as ``datasets`` holds them."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    )
    rows = {
        "image": [{"bytes": sample.data, "path": sample.name} for sample in samples],
        "label": [sample.label for sample in samples],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def saved(folder: Path, samples: list[Sample]) -> Path:
    """A folder of Arrow files."""
    hugging_face(samples).save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


def selected(folder: Path, samples: list[Sample]) -> Any:
    """Mapped rows behind an index mapping: every second row, turned round."""
    import datasets

    doubled = [row for sample in samples[::-1] for row in (sample, Sample("other", b"other", 0))]
    hugging_face(doubled).save_to_disk(folder / "saved", num_shards=2)
    dataset = datasets.load_from_disk(folder / "saved")
    return dataset.select(range(len(dataset) - 2, -1, -2))


def of_the_hub(folder: Path, samples: list[Sample]) -> Path:
    """Two Parquet files as ``datasets`` writes them: uncompressed, in few row groups."""
    dataset = hugging_face(samples)
    (folder / "hub").mkdir(parents=True)
    for number in range(2):
        part = dataset.shard(2, number, contiguous=True)
        part.to_parquet(folder / f"hub/train-{number:05d}-of-00002.parquet")
    return folder / "hub"


def parquet(folder: Path, samples: list[Sample], rows: int = 6, **settings: Any) -> Path:
    """A Parquet file as pyarrow writes it: by itself compressed, with a dictionary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": sample.data, "path": sample.name} for sample in samples]
    columns = {"image": images, "label": [sample.label for sample in samples]}
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    text = json.dumps({"info": {"features": features}})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind, "label": pa.int64()}, {"huggingface": text})
    table = pa.table(columns, schema)
    pq.write_table(table, folder / "a.parquet", row_group_size=rows, **settings)
    return folder / "a.parquet"


STORAGES: dict[str, Callable[[Path, list[Sample]], Any]] = {
    "Hugging Face": lambda _, samples: hugging_face(samples),
    "Hugging Face, saved": saved,
    "Hugging Face, selected": selected,
    "Parquet of the hub": of_the_hub,
    "Parquet of pyarrow": parquet,
}
