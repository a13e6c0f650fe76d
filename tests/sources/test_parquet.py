"""Parquet files: pyarrow and Hugging Face write, and pyarrow says what each row holds."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dali_cutmix import ParquetShards
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.parquet_pages import decode_hybrid
from stored import Sample, of_the_hub, parquet

SAMPLES = [Sample(f"{n}.jpg", bytes([n]) * (37 * n % 400 + 1), n % 3) for n in range(50)]


def open_shards(shards: Any, **arguments: Any) -> ParquetShards:
    return ParquetShards(shards, progress=False, **arguments)


def contents(images: Any) -> list[bytes]:
    return [images.stored(index).tobytes() for index in range(len(images))]


def error_of(shards: Any, opener: Any = open_shards, **arguments: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        opener(shards, **arguments)
    return str(caught.value)


def outcome(call: Any) -> tuple[Any, Any]:
    """Return what a call returns, or the error that users are told of."""
    try:
        return call(), None
    except (ValueError, OSError) as error:
        return None, error


def written(path: Path, images: Any, labels: Any = None, **options: Any) -> Path:
    """Write a column of bytes, or of structs, and a column of classes."""
    labels = [0] * len(images) if labels is None else labels
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table, path, **options)
    return path


def rows_of(path: Path) -> list[bytes]:
    """The images as pyarrow reads them; missing ones are empty."""
    column = pq.read_table(path).column("image").to_pylist()
    rows = [row["bytes"] if isinstance(row, dict) else row for row in column]
    return [row or b"" for row in rows]


OPTIONS = {
    "plain": {"compression": "none", "use_dictionary": False},
    "plain, version 2": {
        "compression": "none",
        "use_dictionary": False,
        "data_page_version": "2.0",
    },
    "dictionary": {"compression": "none"},
    "dictionary that overflows": {"compression": "none", "dictionary_pagesize_limit": 500},
    "snappy": {},
    "snappy without dictionary": {"use_dictionary": False},
    "version 2": {"data_page_version": "2.0"},
    "zstd": {"compression": "zstd"},
    "gzip": {"compression": "gzip"},
    "brotli": {"compression": "brotli"},
    "lz4": {"compression": "lz4"},
    "small pages": {"data_page_size": 300, "row_group_size": 20},
    "no statistics": {"write_statistics": False},
    "checksums": {"write_page_checksum": True, "write_page_index": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["bytes", "large bytes", "required bytes", "structs"])
def test_every_row_is_what_pyarrow_reads(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    images: list[Any] = [sample.data for sample in SAMPLES]
    images[7] = b""
    if kind != "required bytes":
        images[11] = images[12] = None
    if kind == "structs":
        images = [None if n == 5 else {"bytes": image} for n, image in enumerate(images)]
    types = {
        "bytes": pa.binary(),
        "large bytes": pa.large_binary(),
        "required bytes": pa.binary(),
        "structs": pa.struct({"bytes": pa.binary()}),
    }
    schema = pa.schema([pa.field("image", types[kind], kind != "required bytes")])
    schema = schema.append(pa.field("label", pa.int32()))
    labels = [sample.label for sample in SAMPLES]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": images, "label": labels}, schema), path, **options)
    images_read = open_shards(path)
    assert contents(images_read) == rows_of(path)
    assert images_read.targets.tolist() == labels
    order = np.random.default_rng(0).permutation(len(SAMPLES))
    assert contents(images_read.take(order)) == [rows_of(path)[index] for index in order]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=60)), min_size=1, max_size=60),
    st.sampled_from(list(OPTIONS)),
    st.integers(1, 60),
)
def test_any_rows_are_what_pyarrow_reads(
    tmp_path_factory: pytest.TempPathFactory, images: list[bytes | None], name: str, rows: int
) -> None:
    assume(any(images))  # else refused: see below
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    written(path, pa.array(images, pa.binary()), **{**OPTIONS[name], "row_group_size": rows})
    assert contents(open_shards(path)) == rows_of(path)


def test_run_lengths_and_packed_bits_are_those_of_the_format() -> None:
    # From the format's own description: 0 to 7 in three bits each, and 2 repeated 200 times.
    packed = bytes([3, 0b10001000, 0b11000110, 0b11111010])
    assert decode_hybrid(memoryview(packed), 3, 8).tolist() == list(range(8))
    assert decode_hybrid(memoryview(bytes([0x90, 0x03, 2])), 3, 200).tolist() == [2] * 200


def test_only_the_bytes_of_an_image_are_read_from_what_the_hub_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_shards(of_the_hub(tmp_path, SAMPLES))
    read, num_read = images._files.read, []

    def counted(number: int, offset: int, size: int) -> np.ndarray:
        num_read.append(size)
        return read(number, offset, size)

    monkeypatch.setattr(images._files, "read", counted)
    assert contents(images) == [sample.data for sample in SAMPLES]
    assert num_read == [len(sample.data) for sample in SAMPLES]


def test_rows_and_classes_are_named(tmp_path: Path) -> None:
    folder = of_the_hub(tmp_path, SAMPLES)
    images = open_source(folder)
    assert repr(images) == "ParquetShards(50 images, 3 classes)"
    assert images.path(26) == images.path(-24) == f"{folder}/train-00001-of-00002.parquet, row 1"
    assert images.classes == ["china", "flower", "portrait"]
    assert open_shards(folder, classes=["a", "b", "c"]).classes == ["a", "b", "c"]
    for pattern in (f"{folder}/*.parquet", f"{folder}/train-{{00000..00001}}-of-00002.parquet"):
        assert open_source(pattern).fingerprint == images.fingerprint
    shutil.copy(folder / "train-00000-of-00002.parquet", folder / "test-00000-of-00001.parquet")
    assert "be shards of one split, and this folder has test, train" in error_of(folder)


def clone(root: Path, names: list[str]) -> Path:
    """A clone from Hugging Face's hub, whose files hold an image each."""
    for folder in (".git/objects", ".cache/huggingface", "assets"):
        (root / folder).mkdir(parents=True)
    (root / "README.md").write_text("A dataset")
    (root / ".cache/huggingface/train-00000-of-00001.parquet").touch()  # unfinished
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        written(root / name, [f"image {number}".encode()])
    return root


@pytest.mark.parametrize("folder", ["", "data/", "plain_text/", "default/train/"])
def test_a_clone_of_one_split_is_served(tmp_path: Path, folder: str) -> None:
    names = [f"{folder}train-{n:05d}-of-00002-ab{n}2.parquet" for n in range(2)]
    root = clone(tmp_path, names)
    for images in (open_source(root), open_source(str(root)), open_shards(root)):
        assert contents(images) == [b"image 0", b"image 1"]
        assert images.path(1) == f"{root}/{names[1]}, row 0"


@pytest.mark.parametrize("other", ["validation", "test", "extra", "Unsupervised"])
def test_splits_are_never_mixed_without_a_word(tmp_path: Path, other: str) -> None:
    names = [f"data/{split}-00000-of-00001-ab12.parquet" for split in ("train", other)]
    root = clone(tmp_path, names)
    splits = ", ".join(sorted(["train", other.lower()]))
    pattern = f"'{root}/data/train-*.parquet'"
    way_out = f"Pass a pattern like {pattern}. To mix splits, pass a list of patterns."
    rule = "ParquetShards: `shards` must be shards of one split, and this"
    for path in (root, root / "data"):
        message = error_of(path, open_source)
        assert message == f"{rule} folder has {splits}, got '{path}'. {way_out}"
    for pattern in ("data/*", "data/*.parquet", "*/*.parquet"):
        assert error_of(root / pattern) == (
            f"{rule} pattern matches {splits}, got '{root}/{pattern}'. {way_out}"
        )
    assert contents(open_source(f"{root}/data/train-*.parquet")) == [b"image 0"]
    assert error_of(f"{root}/data/train-*", open_source) == (
        "DataLoader: `source` must end as its shards do, as in 'train-*.tar', 'train-*.parquet' or "
        f"'train-*-of-*', got '{root}/data/train-*'."
    )
    assert contents(open_shards([root / "data/train-*", root / f"data/{other}-*"])) == [
        b"image 0",
        b"image 1",
    ]


def test_a_folder_for_each_split_is_asked_for(tmp_path: Path) -> None:
    root = clone(tmp_path, ["x/test/0000.parquet", "x/train/0000.parquet"])
    for opener in (open_source, open_shards):
        assert error_of(root, opener) == (
            "ParquetShards: `shards` must be a folder of shards, and shards lie in x/test, x/train,"
            f" got '{root}'. Pass one of these folders, as in '{root}/x/train'."
        )
    refused = f"and this pattern matches test, train, got '{root}/x/*/*.parquet'. Pass a pattern "
    assert refused + f"like '{root}/x/train/*.parquet'." in error_of(f"{root}/x/*/*.parquet")
    assert contents(open_source(root / "x/train")) == [b"image 1"]


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    columns = {"image": [b"a"], "mask": [b"m"], "label": [0], "kind": [1]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    where = "ParquetShards: `{}` must "
    assert error_of(tmp_path / "a.parquet") == where.format("image") + (
        "name the column of images, since there are several, got None. Columns: 'image', 'mask'."
    )
    images = open_shards(tmp_path / "a.parquet", image="mask", label="kind")
    assert (contents(images), images.targets.tolist()) == ([b"m"], [1])
    # The index of other columns is not taken.
    images = open_shards(tmp_path / "a.parquet", image="image")
    assert (contents(images), images.targets.tolist()) == ([b"a"], [0])
    pq.write_table(pa.table({"image": [b"a"], "area": [1.5]}), tmp_path / "b.parquet")
    assert error_of(tmp_path / "b.parquet") == where.format("label") + (
        "name a column of classes, got None. Columns: 'image', 'area'."
    )
    assert error_of(tmp_path / "b.parquet", label="area") == where.format("label") + (
        f"be class indices in {tmp_path / 'b.parquet'}, got double. Files of one source hold whole "
        "numbers, or all of them texts."
    )


TEXTS = {
    "texts": pa.string(),
    "large texts": pa.large_string(),
    "a dictionary": pa.dictionary(pa.int8(), pa.string()),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_classes_in_the_order_of_their_names(tmp_path: Path, kind: str) -> None:
    """As in a folder per class, and as `HuggingFaceImages` has them."""
    names = [["tench", "Ärger", "zebra"], ["ant", "tench", "ant"]]
    for number, labels in enumerate(names):
        column = pa.array(labels, pa.string()).cast(TEXTS[kind])
        written(tmp_path / f"{number}.parquet", [b"a", b"b", b"c"], column, row_group_size=2)
    images = open_shards(tmp_path)
    assert images.classes == ["ant", "tench", "zebra", "Ärger"]
    assert images.targets.tolist() == [1, 3, 2, 0, 1, 0]
    # A part of the shards has other classes, and does not take the index of these.
    assert open_shards(tmp_path / "1.parquet").classes == ["ant", "tench"]
    assert open_shards(tmp_path / "1.parquet").targets.tolist() == [0, 1, 0]
    for again in (open_shards(tmp_path), pickle.loads(pickle.dumps(images))):
        assert (again.classes, again.targets.tolist()) == (images.classes, [1, 3, 2, 0, 1, 0])
    given = open_shards(tmp_path, classes=["zebra", "tench", "ant", "Ärger", "owl"])
    assert given.targets.tolist() == [1, 3, 0, 2, 1, 2]
    assert given.classes[4] == "owl"


def test_texts_without_a_class_are_refused_by_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", [b"a", b"b", b"c"], ["ant", "bee", "bee"])
    assert error_of(path, classes=["ant", "owl"]) == (
        f"ParquetShards: `classes` must name every class, and row 1 of {path} is of 'bee', got 2 "
        "names."
    )
    assert error_of(path, classes=["ant", "bee", "ant"]) == (
        "ParquetShards: `classes` must name each class once, got 'ant' twice."
    )
    assert error_of(path, classes="ant") == (
        "ParquetShards: `classes` must be a list of texts, a name for each class, got 'ant'."
    )
    assert error_of(written(tmp_path / "b.parquet", [b"a", b"b"], ["ant", None])) == (
        f"ParquetShards: `label` must be known for every row of {tmp_path / 'b.parquet'}, got none "
        "in row 1."
    )
    other = written(tmp_path / "c.parquet", [b"a"], [3])
    way_out = "Files of one source hold whole numbers, or all of them texts."
    assert error_of([path, other]) == (
        f"ParquetShards: `label` must be texts, as in the first file, in {other}, got int64. "
        + way_out
    )
    assert error_of([other, path]) == (
        f"ParquetShards: `label` must be class indices in {path}, got string. {way_out}"
    )


def test_values_in_the_header_of_a_page_may_be_long(tmp_path: Path) -> None:
    """pyarrow notes the smallest and the largest image there, of up to 4 KB."""
    images = [np.random.default_rng(n).bytes(1500) for n in range(8)]
    path = written(tmp_path / "a.parquet", images)
    assert path.read_bytes().count(max(images)) >= 3
    assert contents(open_shards(path)) == images


def test_rows_that_only_name_their_images_are_refused_with_the_way_out(tmp_path: Path) -> None:
    """`Dataset.to_parquet` writes the path and no bytes, where the path is a file of this disk."""
    (tmp_path / "a.jpg").write_bytes(b"an image")
    dataset = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.jpg")] * 2, "label": [0, 1]})
    dataset = dataset.cast_column("image", datasets.Image())
    path = tmp_path / "a.parquet"
    dataset.to_parquet(path)
    assert error_of(path) == (
        f"ParquetShards: no row of {path} holds the bytes of an image in 'image'. Embed the images "
        "before they are written: `dataset.with_format('arrow').map("
        "datasets.table.embed_table_storage, batched=True).to_parquet(...)`."
    )
    embedded = dataset.with_format("arrow").map(
        datasets.table.embed_table_storage, batched=True, keep_in_memory=True
    )
    embedded.with_format(None).to_parquet(path)
    assert contents(open_shards(path)) == [b"an image"] * 2


@pytest.mark.parametrize("options", [{}, {"compression": "none", "use_dictionary": False}])
@pytest.mark.parametrize("statistics", [True, False])
def test_a_shard_of_missing_images_beside_good_ones_is_served(
    tmp_path: Path, options: dict[str, Any], statistics: bool
) -> None:
    options = options | {"write_statistics": statistics}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    missing = written(tmp_path / "1.parquet", pa.array([None], kind), **options)
    good = [{"bytes": b"a", "path": None}, {"bytes": None, "path": None}]
    written(tmp_path / "2.parquet", pa.array(good, kind), **options)
    for _ in range(2):  # scanned, and from the index
        assert contents(open_shards(tmp_path)) == [b"", b"a", b""]
    if statistics or options.get("compression") == "none":
        assert error_of(missing) == (
            "ParquetShards: `image` must name a column with the bytes of an image in some row, got "
            f"'image'. Every row of the shards is empty, from {missing} on."
        )
    named = pa.array([{"bytes": None, "path": "a.jpg"}], kind)
    path = written(tmp_path / "3.parquet", named, **options)
    if statistics or options.get("compression") == "none":
        assert f"no row of {path} holds the bytes of an image in 'image'. Embed" in error_of(
            tmp_path
        )


def test_a_split_with_fewer_texts_takes_the_classes_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_shards(written(tmp_path / "train.parquet", [b"a"] * 3, ["ant", "bee", "cat"]))
    path = written(tmp_path / "val.parquet", [b"a"] * 2, ["ant", "cat"])
    assert open_shards(path).targets.tolist() == [0, 1]
    assert open_shards(path, classes=train.classes).targets.tolist() == [0, 2]

    def fail(*_: Any) -> None:
        raise AssertionError

    # An index serves one list of classes: any part of the shards with that list, and no other.
    monkeypatch.setattr("dali_cutmix.sources.parquet.find_rows", fail)
    assert len(open_shards([path, tmp_path / "train.parquet"], classes=train.classes)) == 5
    with pytest.raises(AssertionError):
        open_shards(path)


def test_a_pointer_of_git_lfs_is_told_from_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n")
    assert error_of(path) == (
        f"ParquetShards: {path} is a pointer of Git LFS and not the file. Run `git lfs pull` in "
        "the clone."
    )


def test_labels_that_are_no_classes_are_refused_by_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", [b"a", b"b"], [0, None])
    assert error_of(path) == (
        f"ParquetShards: `label` must be known for every row of {path}, got none in row 1."
    )
    path = written(tmp_path / "b.parquet", [b"a", b"b"], [0, -1])
    assert error_of(path) == (
        f"ParquetShards: `label` must be class indices of at least 0 in {path}, got -1 in row 1."
    )


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_encodings_without_single_images_are_refused_by_name(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.parquet"
    options = {"use_dictionary": False, "column_encoding": {"image": encoding, "label": "PLAIN"}}
    written(path, [b"a", b"b"], **options)
    assert error_of(path) == (
        f"ParquetShards: {path} is damaged, or its images cannot be read by index: the images are "
        f"encoded by {encoding}, of which no image is read alone. Write the file again, or with "
        "`dali-cutmix pack --format parquet`."
    )


def test_lists_of_images_are_no_column_of_images(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", [[b"a"], [b"b", b"c"]])
    assert "name a column of images: encoded bytes, or a struct with `bytes`" in error_of(path)


@pytest.mark.parametrize("name", ["plain", "snappy", "version 2"])
def test_damage_is_an_error_of_the_file_or_of_its_images(tmp_path: Path, name: str) -> None:
    """Any byte of a page may be broken. At some damaged footers pyarrow ends the process."""
    images = [sample.data for sample in SAMPLES[:12]]
    good = written(tmp_path / "good.parquet", images, **OPTIONS[name]).read_bytes()
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(1)
    footer = int.from_bytes(good[-8:-4], "little") + 8
    for at in rng.integers(0, len(good) - footer, 40).tolist():
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << int(rng.integers(8))]) + good[at + 1 :])
        shards, error = outcome(lambda: open_shards(path))
        if error is not None:
            assert str(path) in str(error) or "Columns: " in str(error)
            continue
        for index in range(len(shards)):
            _, error = outcome(lambda shards=shards, index=index: shards.stored(index))
            assert error is None or error.filename == shards.path(index)


def test_truncated_and_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = parquet(tmp_path, SAMPLES)
    for content in (b"", b"no table", path.read_bytes()[:-100]):
        path.write_bytes(content)
        assert error_of(path).startswith(f"ParquetShards: {path} is damaged, or its images cannot")
    empty = written(tmp_path / "b.parquet", pa.array([], pa.binary()), pa.array([], pa.int64()))
    assert "there are no rows" in error_of(empty)
    other = written(tmp_path / "c.parquet", [b"a"])
    pq.write_table(pa.table({"label": [0]}), tmp_path / "d.parquet")
    assert "d.parquet is damaged, or its images cannot be read by index: there is no" in error_of(
        [other, tmp_path / "d.parquet"]
    )


@pytest.mark.parametrize("is_struct", [False, True])
@pytest.mark.parametrize("compression", ["NONE", "SNAPPY"])
def test_columns_named_as_the_fields_of_structs_are_not_read_instead(
    tmp_path: Path, is_struct: bool, compression: str
) -> None:
    images = [sample.data for sample in SAMPLES]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    structs = pa.array([{"bytes": image, "path": None} for image in images], kind)
    others = [b"a thumbnail"] * len(images)
    columns: dict[str, Any] = {"image.path": ["a"] * len(images), "image.bytes": others}
    columns["image"] = structs if is_struct else images
    for number, names in enumerate((list(columns), list(columns)[::-1])):
        table = pa.table({name: columns[name] for name in names} | {"label": [0] * len(images)})
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, compression=compression)
        assert contents(open_shards(path, image="image")) == images
        assert contents(open_shards(path, image="image.bytes")) == others


def test_a_file_that_changes_is_an_error_and_not_other_bytes(tmp_path: Path) -> None:
    path = parquet(tmp_path, SAMPLES)
    images = open_shards(path)
    images.stored(3)
    images = open_shards(path)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(OSError, match="has changed since it was indexed"):
        images.stored(3)


def test_the_index_spares_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path, SAMPLES)
    first = open_shards(path)

    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("dali_cutmix.sources.parquet.find_rows", fail)
    again = open_shards(path)
    assert again.fingerprint == first.fingerprint
    assert contents(again) == [sample.data for sample in SAMPLES]


def test_missing_package_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path, SAMPLES)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError) as caught:
        open_source(path)
    message = r"ParquetShards: pyarrow cannot be imported \(.*\). Install it with `pip install -e "
    assert re.match(message + re.escape("'.[parquet]'` in the checkout."), str(caught.value))
