"""MDS shards: what Streaming's writer wrote, what is refused, and compressed shards."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dali_cutmix import MDSShards
from dali_cutmix.sources.open import open_source
from stored import Sample, mds

SAMPLES = [Sample(f"{n}.jpg", bytes([n]) * (11 * n + 1), n % 3) for n in range(20)]
#: By `MDSWriter.encode_joint_shard` of mosaicml-streaming 0.13.0, of columns i (uint16), s
#: (str_int), x (bytes) and y (int): images b"first", b"" and b"the third", classes 2, 0 and 1.
STREAMINGS = base64.b64decode(
    "AwAAAPMAAAALAQAAHgEAADsBAAB7ImNvbHVtbl9lbmNvZGluZ3MiOiBbInVpbnQxNiIsICJzdHJfaW50IiwgImJ5dGVz"
    "IiwgImludCJdLCAiY29sdW1uX25hbWVzIjogWyJpIiwgInMiLCAieCIsICJ5Il0sICJjb2x1bW5fc2l6ZXMiOiBbMiwg"
    "bnVsbCwgbnVsbCwgOF0sICJjb21wcmVzc2lvbiI6IG51bGwsICJmb3JtYXQiOiAibWRzIiwgImhhc2hlcyI6IFtdLCAi"
    "c2l6ZV9saW1pdCI6IDY3MTA4ODY0LCAidmVyc2lvbiI6IDJ9AQAAAAUAAAAHADVmaXJzdAIAAAAAAAAAAQAAAAAAAAAJ"
    "ADEAAAAAAAAAAAIAAAAJAAAAAQAxMnRoZSB0aGlyZAEAAAAAAAAA"
)


def open_shards(folder: Path, **settings: Any) -> MDSShards:
    return MDSShards(folder, progress=False, **settings)


def contents(images: Any) -> list[bytes]:
    return [images.stored(index).tobytes() for index in range(len(images))]


def error_of(folder: Path, **settings: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        open_shards(folder, **settings)
    return str(caught.value)


def by_streaming(folder: Path) -> Path:
    """A folder with the shard that Streaming wrote."""
    config = json.loads(STREAMINGS[20:243])
    raw = {"basename": "shard.00000.mds", "bytes": len(STREAMINGS), "hashes": {}}
    shard = config | {"samples": 3, "raw_data": raw, "zip_data": None}
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    (folder / "shard.00000.mds").write_bytes(STREAMINGS)
    return folder


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def test_what_streaming_wrote_is_read(tmp_path: Path) -> None:
    images = open_source(by_streaming(tmp_path))
    assert contents(images) == [b"first", b"", b"the third"]
    assert images.targets.tolist() == [2, 0, 1]
    assert images.classes == ["0", "1", "2"]
    assert images.path(2) == f"{tmp_path}/shard.00000.mds, sample 2"
    assert repr(images) == "MDSShards(3 images, 3 classes)"
    assert open_shards(tmp_path, label="s").targets.tolist() == [5, 1, 12]
    assert open_shards(tmp_path, label="i").targets.tolist() == [7, 9, 1]
    assert open_shards(tmp_path, classes=["a", "b", "c"]).classes == ["a", "b", "c"]


def test_compressed_shards_are_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, unpacked = mds(tmp_path, SAMPLES, compress=zstd), tmp_path / "unpacked"
    assert error_of(folder) == (
        f"MDSShards: {folder}/shard.00000.mds is there only compressed, so that single images "
        "cannot be read. Pass `unpack_dir=`, a local folder for the unpacked shards."
    )
    images = open_shards(folder, unpack_dir=unpacked)
    assert contents(images) == [sample.data for sample in SAMPLES]
    assert images.path(8) == f"{unpacked}/shard.00001.mds, sample 0"
    (unpacked / "shard.00001.mds").write_bytes(b"a copy that was cut short")
    again = open_shards(folder, unpack_dir=unpacked)
    assert contents(again) == [sample.data for sample in SAMPLES]
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.CompressedInputStream", None)
        assert len(open_shards(folder, unpack_dir=unpacked)) == len(SAMPLES)


def test_a_damaged_compressed_shard_leaves_no_file(tmp_path: Path) -> None:
    folder, unpacked = mds(tmp_path, SAMPLES, compress=zstd), tmp_path / "unpacked"
    shard = folder / "shard.00002.mds.zstd"
    good = shard.read_bytes()
    for content in (good[:-20], good[:9] + bytes(30) + good[39:], zstd(b"other")):
        shard.write_bytes(content)
        assert f"{shard} is damaged: " in error_of(folder, unpack_dir=unpacked)
        assert [path.name for path in sorted(unpacked.iterdir())] == [
            "shard.00000.mds",
            "shard.00001.mds",
        ]


def test_other_compressions_are_refused_by_name(tmp_path: Path) -> None:
    folder = mds(tmp_path, SAMPLES, compress=zstd)
    index = folder / "index.json"
    index.write_text(index.read_text().replace('"zstd"', '"br:11"'))
    assert error_of(folder, unpack_dir=tmp_path / "out") == (
        f"MDSShards: {folder}/shard.00000.mds is compressed by br:11, and zstd alone is unpacked. "
        "Write the shards again without compression."
    )


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    folder = mds(tmp_path, SAMPLES)
    assert error_of(folder, image="picture") == (
        "MDSShards: `image` must name a column of images, encoded as jpeg, png, bytes, got "
        "'picture'. Columns: 'class' (int), 'id' (str), 'image' (jpeg)."
    )
    assert error_of(folder, label="kind") == (
        "MDSShards: `label` must name a column of classes, whole numbers, got 'kind'. Columns: "
        "'class' (int), 'id' (str), 'image' (jpeg)."
    )
    message = error_of(folder, label="id")
    assert "labels are encoded as 'str', and must be whole numbers" in message
    assert f"{folder}/shard.00000.mds is damaged" in message


def test_labels_below_0_are_refused_with_their_sample(tmp_path: Path) -> None:
    folder = mds(tmp_path, [SAMPLES[0]._replace(label=-1)])
    assert "the label of the sample at byte " in error_of(folder)
    assert " is -1, and must be at least 0 and below 16777216" in error_of(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"shards": []}',
        '{"shards": [{"raw_data": {"basename": "a.mds"}}]}',
        "[" * 100_000,
        b"\xff",
    ],
)
def test_an_index_that_is_damaged_or_another_file_is_refused(
    tmp_path: Path, text: str | bytes
) -> None:
    folder = mds(tmp_path, SAMPLES)
    (folder / "index.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = f"MDSShards: {folder}/index.json is damaged or no index of MDS shards: "
    assert error_of(folder).startswith(message)


def test_files_outside_of_the_folder_and_missing_ones_are_refused(tmp_path: Path) -> None:
    folder = mds(tmp_path, SAMPLES)
    index = folder / "index.json"
    good = index.read_text()
    index.write_text(good.replace("shard.00001.mds", "../shard.00001.mds"))
    assert "'../shard.00001.mds' is no name of a file" in error_of(folder)
    index.write_text(good)
    (folder / "shard.00001.mds").unlink()
    assert error_of(folder) == (f"MDSShards: the shard '{folder}/shard.00001.mds' does not exist.")
    index.unlink()
    assert error_of(folder) == (
        f"MDSShards: {folder} holds no index.json. Pass the folder of one split, as in "
        f"{folder}/train."
    )


def test_damage_is_an_error_of_the_shard_or_gives_other_pixels(tmp_path: Path) -> None:
    """Any byte may be broken: never another error."""
    folder = by_streaming(tmp_path)
    rng = np.random.default_rng(1)
    for at in range(0, len(STREAMINGS), 3):
        bit = 1 << int(rng.integers(8))
        content = STREAMINGS[:at] + bytes([STREAMINGS[at] ^ bit]) + STREAMINGS[at + 1 :]
        (folder / "shard.00000.mds").write_bytes(content)
        try:
            images = open_shards(folder)
        except ValueError as error:
            message = str(error)
        else:
            assert sum(map(len, contents(images))) <= len(STREAMINGS)
            continue
        assert f"{folder}/shard.00000.mds" in message
    for size in (0, 3, 30, 250, len(STREAMINGS) - 1):
        (folder / "shard.00000.mds").write_bytes(STREAMINGS[:size])
        assert f"{folder}/shard.00000.mds is damaged, truncated" in error_of(folder)
