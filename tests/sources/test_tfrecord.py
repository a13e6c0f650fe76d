"""TFRecord shards: what is read from a record, what is refused, and where labels start."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia.dali import tfrecord as dali_tfrecord

from dali_cutmix.core.dali import Pipeline, fn
from dali_cutmix.sources import tfrecord
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.tfrecord import TFRecords
from records import example, framed, masked_crc, write_records


def test_checksum_of_these_tests_is_crc32c() -> None:
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32


def image(number: int) -> bytes:
    return f"image {number} ".encode() * (10 + 7 * number % 90)


def features(number: int, label: int | None = None) -> dict[str, Any]:
    return {
        "image/class/label": number % 3 + 1 if label is None else label,
        "image/class/text": b"tench",
        "image/object/bbox/xmin": 0.25,
        "image/encoded": image(number),
        "image/height": 500,
    }


def numbered(path: Path, numbers: Iterable[int]) -> Path:
    return write_records(path, [features(number) for number in numbers])


def open_shards(shards: Any, **settings: Any) -> TFRecords:
    return TFRecords(shards, progress=False, **settings)


def contents(images: TFRecords) -> list[bytes]:
    return [images.stored(index).tobytes() for index in range(len(images))]


def error_of(shards: Any, **settings: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        open_shards(shards, **settings)
    return str(caught.value)


def test_records_are_read_as_dali_reads_them(tmp_path: Path) -> None:
    paths = [
        numbered(tmp_path / f"train-{n:05d}-of-00002", range(5 * n, 5 * n + 5)) for n in range(2)
    ]
    indexes = []
    for path in paths:
        start, lines, data = 0, [], path.read_bytes()
        while start < len(data):
            size = struct.unpack_from("<Q", data, start)[0] + 16
            lines.append(f"{start} {size}\n")
            start += size
        indexes.append(tmp_path / f"{path.name}.idx")
        indexes[-1].write_text("".join(lines))
    pipeline = Pipeline(batch_size=10, num_threads=1, device_id=None)
    with pipeline:
        read = fn.readers.tfrecord(
            path=[str(path) for path in paths],
            index_path=[str(path) for path in indexes],
            features={
                "image/encoded": dali_tfrecord.FixedLenFeature((), dali_tfrecord.string, ""),
                "image/class/label": dali_tfrecord.FixedLenFeature([1], dali_tfrecord.int64, -1),
            },
        )
        pipeline.set_outputs(read["image/encoded"], read["image/class/label"])
    encoded, label = pipeline.run()
    images = open_shards(f"{tmp_path}/train-{{00000..00001}}-of-00002")
    assert contents(images) == [np.array(one).tobytes() for one in encoded]
    assert contents(images) == [image(number) for number in range(10)]
    assert images.targets.tolist() == [int(np.array(one)[0]) - 1 for one in label]
    assert images.classes == ["0", "1", "2"]
    assert images.path(7) == f"{paths[1]}, record 2"
    assert repr(images) == "TFRecords(10 images, 3 classes)"


def test_first_label_is_the_label_of_class_0(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.tfrecord", [features(n, label=n) for n in (2, 1, 1000)])
    assert open_shards(path).targets.tolist() == [1, 0, 999]
    assert open_shards(path, first_label=0).targets.tolist() == [2, 1, 1000]
    assert len(open_shards(path, first_label=0).classes) == 1001
    path = write_records(tmp_path / "b.tfrecord", [features(n, label=n) for n in (2, 0, 5)])
    assert error_of(path) == (
        f"TFRecords: `first_label` must be at most every label, and {path}, record 1 has 0, got 1. "
        "Pass `first_label=0`."
    )
    assert open_shards(path, first_label=0).targets.tolist() == [2, 0, 5]
    assert error_of(path, first_label=-1) == (
        "TFRecords: `first_label` must be a whole number of at least 0, got -1."
    )
    path = write_records(tmp_path / "c.tfrecord", [features(0, label=-1)])
    assert error_of(path) == (
        f"TFRecords: record 0 at byte 0 of {path} has the label -1, which must be at least 0."
    )


def test_index_serves_any_first_label(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(4))
    open_shards(path)
    assert (tmp_path / "a.tfrecord.index.npz").exists()
    assert open_shards(path, first_label=0).targets.tolist() == [1, 2, 3, 1]
    assert open_shards(path).targets.tolist() == [0, 1, 2, 0]


def test_class_names_must_name_every_class(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(4))
    assert open_shards(path, classes=["cat", "dog", "owl"]).classes == ["cat", "dog", "owl"]
    assert error_of(path, classes=["cat", "dog"]) == (
        f"TFRecords: `classes` must name every class, and {path}, record 2 is of class 2, got 2 "
        "names."
    )


def test_folder_gives_the_shards_of_one_split(tmp_path: Path) -> None:
    for number in range(2):
        numbered(tmp_path / f"train-{number:05d}-of-00002", [number])
    (tmp_path / "notes.txt").touch()
    assert contents(open_shards(tmp_path)) == [image(0), image(1)]
    numbered(tmp_path / "validation-00000-of-00001", [2])
    assert error_of(tmp_path) == (
        "TFRecords: `shards` must be shards of one split, and this folder has train, validation, "
        f"got {str(tmp_path)!r}. Pass a pattern like '{tmp_path}/train-*-of-*'. To mix splits, "
        "pass a list of patterns."
    )
    assert contents(open_source(f"{tmp_path}/train-*-of-*")) == [image(0), image(1)]
    train = open_shards(f"{tmp_path}/train-?????-of-00002")
    assert contents(train) == [image(0), image(1)]


def test_truncated_shard_is_refused_with_the_record(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(3))
    whole = path.read_bytes()
    second = len(framed(example(features(0))))
    third = second + len(framed(example(features(1))))
    for size in [*range(1, second, 7), *range(second + 1, third, 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        record = (size > second) + (size > third)
        start = (0, second, third)[record]
        assert error_of(path) == (
            f"TFRecords: {path} is damaged, truncated or not a TFRecord file: record {record} at "
            f"byte {start} is truncated. Copy or write the file again."
        )
    path.write_bytes(b"")
    assert ": the file is empty." in error_of(path)


def test_damaged_length_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(3))
    data = bytearray(path.read_bytes())
    second = len(framed(example(features(0))))
    data[second] ^= 1
    path.write_bytes(data)
    assert error_of(path) == (
        f"TFRecords: {path} is damaged, truncated or not a TFRecord file: the length of record 1 "
        f"at byte {second} does not match its checksum. Copy or write the file again."
    )


def test_impossible_length_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(1))
    length = struct.pack("<Q", 1 << 62)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + path.read_bytes())
    assert "record 0 at byte 0 is truncated" in error_of(path)


def test_compressed_shard_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(3))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert error_of(path) == (
        f"TFRecords: {path} is compressed, so that single images cannot be read. "
        "Decompress it with gunzip: images are compressed already."
    )


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (
            {"image": b"x", "label": 1},
            "must have a single bytes value in 'image/encoded', got 0. Its features are: image, "
            "label.",
        ),
        (
            {"image/encoded": b"x", "image/class/label": b"1"},
            "must have a single int64 value in 'image/class/label', got 0. Its features are: "
            "image/class/label, image/encoded.",
        ),
        ({}, "must have a single bytes value in 'image/encoded', got 0. Its features are: none."),
    ],
)
def test_record_without_image_or_label_is_refused_with_what_it_has(
    tmp_path: Path, record: dict[str, Any], problem: str
) -> None:
    path = write_records(tmp_path / "a.tfrecord", [features(0), record])
    start = len(framed(example(features(0))))
    assert error_of(path) == f"TFRecords: record 1 at byte {start} of {path} {problem}"


def test_record_that_is_no_example_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(framed(b"\xff" * 40))
    assert error_of(path).startswith(
        f"TFRecords: record 0 at byte 0 of {path} is not a tf.train.Example ("
    )


def test_shard_cut_after_indexing_is_named(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(3))
    images = open_shards(path)
    images.stored(0)
    os.truncate(path, 500)
    with pytest.raises(OSError, match="the shard is truncated: it ends before byte") as caught:
        images.stored(2)
    assert caught.value.filename == str(path)


def test_missing_protobuf_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered(tmp_path / "a.tfrecord", range(1))
    tfrecord._example_class.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(ImportError) as caught:
        open_shards(path)
    assert str(caught.value).startswith("TFRecords: google.protobuf cannot be imported (")
    assert str(caught.value).endswith(
        "Install it with `pip install -e '.[tfrecord]'` in the checkout."
    )


def test_record_that_repeats_the_beginning_of_its_image_is_read_in_linear_time(
    tmp_path: Path,
) -> None:
    zeros = bytes(10**6)
    record = {"a": zeros[1:], "image/encoded": zeros + b"\x01", "image/class/label": 1}
    begin = time.process_time()
    images = open_shards(write_records(tmp_path / "a.tfrecord", [record]))
    assert images.stored(0).tobytes() == zeros + b"\x01"
    assert time.process_time() - begin < 5  # 0.1 s; in the square of the length, 15 s and more
