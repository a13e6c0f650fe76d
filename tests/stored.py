"""Ways to store the same encoded images: each is written here without the package's own writers."""

from __future__ import annotations

import json
import struct
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


def mds(
    folder: Path,
    samples: list[Sample],
    per_shard: int = 8,
    compress: Callable[[bytes], bytes] | None = None,
) -> Path:
    """MDS shards, by the layout that Streaming documents: ``class``, ``id``, ``image``."""
    names, encodings, sizes = ["class", "id", "image"], ["int", "str", "jpeg"], [8, None, None]
    config: dict[str, Any] = {
        "column_encodings": encodings,
        "column_names": names,
        "column_sizes": sizes,
        "compression": "zstd" if compress else None,
        "format": "mds",
        "hashes": [],
        "size_limit": 1 << 26,
        "version": 2,
    }
    text = json.dumps(config, sort_keys=True).encode()
    (folder / "mds").mkdir(parents=True)
    shards = []
    for first in range(0, len(samples), per_shard):
        rows = []
        for sample in samples[first : first + per_shard]:
            name = sample.name.encode()
            head = struct.pack("<II", len(name), len(sample.data))
            rows.append(head + struct.pack("<q", sample.label) + name + sample.data)
        start = 4 + 4 * (len(rows) + 1) + len(text)
        offsets = [start + sum(map(len, rows[:number])) for number in range(len(rows) + 1)]
        content = struct.pack(f"<{len(rows) + 2}I", len(rows), *offsets) + text + b"".join(rows)
        raw = {"basename": f"shard.{len(shards):05d}.mds", "bytes": len(content), "hashes": {}}
        shard = config | {"samples": len(rows), "raw_data": raw, "zip_data": None}
        if compress:
            content = compress(content)
            shard["zip_data"] = raw | {"basename": raw["basename"] + ".zstd", "bytes": len(content)}
        stored = (shard["zip_data"] or raw)["basename"]
        (folder / "mds" / stored).write_bytes(content)
        shards.append(shard)
    (folder / "mds/index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    return folder / "mds"


STORAGES: dict[str, Callable[[Path, list[Sample]], Any]] = {
    "Hugging Face": lambda _, samples: hugging_face(samples),
    "Hugging Face, saved": saved,
    "Hugging Face, selected": selected,
    "Parquet of the hub": of_the_hub,
    "Parquet of pyarrow": parquet,
    "MDS": mds,
}
