"""MDS shards: what Streaming's writer wrote, what is refused, and compressed shards."""

from __future__ import annotations

import base64
import fcntl
import json
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
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
    (second,) = unpacked.glob("*/shard.00001.mds")
    assert images.path(8) == f"{second}, sample 0"
    second.write_bytes(b"a copy that was cut short")
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
        assert sorted(path.name for path in unpacked.rglob("*") if path.is_file()) == [
            "shard.00000.mds",
            "shard.00001.mds",
        ]


def relabeled(by: int) -> list[Sample]:
    """Return the samples with other labels, in shards of the same size."""
    return [sample._replace(label=(sample.label + by) % 3) for sample in SAMPLES]


def test_each_split_and_each_version_of_a_shard_is_unpacked_for_itself(tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    train = mds(tmp_path / "train", SAMPLES, compress=zstd)
    val = mds(tmp_path / "val", relabeled(1), compress=zstd)
    images = {split: open_shards(split, unpack_dir=unpacked) for split in (train, val)}
    assert images[train].targets.tolist() == [sample.label for sample in SAMPLES]
    assert images[val].targets.tolist() == [sample.label for sample in relabeled(1)]
    assert contents(images[train]) == [sample.data for sample in SAMPLES]
    shutil.rmtree(train)
    mds(tmp_path / "train", relabeled(2), compress=zstd)
    again = open_shards(train, unpack_dir=unpacked)
    assert again.targets.tolist() == [sample.label for sample in relabeled(2)]
    assert contents(images[train]) == [sample.data for sample in SAMPLES]  # whose files stay


def test_where_a_shard_is_unpacked_changes_no_fingerprint(tmp_path: Path) -> None:
    here, there = (mds(tmp_path / name, SAMPLES, compress=zstd) for name in ("here", "there"))
    unpacked = [open_shards(folder, unpack_dir=tmp_path / "out") for folder in (here, there)]
    assert unpacked[0].fingerprint == unpacked[1].fingerprint


def test_processes_that_start_together_unpack_each_shard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mds(tmp_path, SAMPLES, compress=zstd)
    num_unpacked, unpack = [], pa.CompressedInputStream

    def unpack_slowly(*args: Any) -> Any:
        num_unpacked.append(1)
        time.sleep(0.1)
        return unpack(*args)

    monkeypatch.setattr("pyarrow.CompressedInputStream", unpack_slowly)
    # Threads, which lock files of their own as processes do.
    with ThreadPoolExecutor(4) as pool:
        ranks = pool.map(lambda _: open_shards(folder, unpack_dir=tmp_path / "out"), range(4))
        served = [contents(images) for images in ranks]
    assert served == [[sample.data for sample in SAMPLES]] * 4
    assert len(num_unpacked) == 3


def test_a_process_that_waits_for_unpacked_shards_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_cutmix.core.locks.SILENT_S", 0.0)
    folder, unpacked = mds(tmp_path, SAMPLES, compress=zstd), tmp_path / "out"
    unpacked.mkdir()
    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with (unpacked / ".dali-cutmix-index.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            images = pool.submit(open_shards, folder, unpack_dir=unpacked)
            end = time.monotonic() + 20
            while not told and time.monotonic() < end:
                time.sleep(0.01)
        assert contents(images.result()) == [sample.data for sample in SAMPLES]
    assert [str(warning.message) for warning in told] == [
        f"MDSShards: waiting for another process, which unpacks shards in {unpacked}."
    ]


@pytest.mark.parametrize("compress", [None, zstd])
def test_shards_in_folders_of_a_merged_index_are_read(tmp_path: Path, compress: Any) -> None:
    """As Streaming's `merge_index` names them."""
    shards = []
    for part in range(2):
        folder = mds(tmp_path / str(part), SAMPLES[10 * part : 10 * part + 10], 10, compress)
        folder.rename(tmp_path / f"all_{part}")
        (shard,) = json.loads((tmp_path / f"all_{part}/index.json").read_text())["shards"]
        for kind in filter(None, (shard["raw_data"], shard["zip_data"])):
            kind["basename"] = f"all_{part}/{kind['basename']}"
        shards.append(shard)
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    images = open_shards(tmp_path, unpack_dir=tmp_path / "unpacked")
    assert contents(images) == [sample.data for sample in SAMPLES]
    assert images.targets.tolist() == [sample.label for sample in SAMPLES]


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
    for name in ("../a.mds", "/a.mds", "0/../../a.mds", "./a.mds", "0//a.mds", "0/", ""):
        index.write_text(good.replace("shard.00001.mds", name))
        assert error_of(folder) == (
            f"MDSShards: {index} is damaged or no index of MDS shards: {name!r} is not the name "
            "of a file in the folder."
        )
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
