"""What a folder or a pattern names: shards of one split, a folder per class, or a refusal."""

from __future__ import annotations

import io
import re
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dali_cutmix.sources.open import open_source
from records import write_records
from stored import Sample, mds


def contents(images: Any) -> list[bytes]:
    return [images.stored(index).tobytes() for index in range(len(images))]


def error_of(source: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        open_source(source)
    return str(caught.value)


def parquet_files(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": [f"image {number}".encode()], "label": [0]})
        pq.write_table(table, root / name)
    return root


def tar_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in (("a.jpg", b"an image"), ("a.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


FORMS = ("{}-00000-of-00001", "{}-00000-of-00001-ab12", "{}-0000", "{}", "{}/0000")
FORMS += ("{}/data-00000-of-00001", "{}/en/data-00000-of-00001", "{}/en/0000", "{}/a-0000")
SPLITS = [("train", "test"), ("train", "train-extra"), ("train", "val-train"), ("train", "Val")]
SPLITS += [("x_train", "x_test"), ("extra", "unsupervised")]


def is_refused(pattern: str) -> bool:
    """Open a pattern that matches several splits, and then what the refusal advises."""
    try:
        assert len(open_source(pattern)) == 2  # the names tell no splits apart
        return False
    except ValueError as error:
        message = str(error)
    assert "`shards` must be shards of one split, and this pattern matches " in message
    advised = re.search(r"Pass a pattern like '(.*)'\. To mix", message)
    if advised is None:
        assert "Pass a list of the shards of one split. To mix splits, " in message
    else:
        assert len(open_source(advised[1])) == 1
        assert advised[1].rpartition(".")[2] == pattern.rpartition(".")[2]
    return True


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("splits", SPLITS, ids="-".join)
def test_splits_are_told_by_every_form_of_name_and_the_advice_is_served(
    tmp_path: Path, form: str, splits: tuple[str, str]
) -> None:
    names = [form.format(split) for split in splits]
    root = parquet_files(tmp_path / "root", [f"data/{name}.parquet" for name in names])
    pattern = f"{root}/data/" + "/".join("*" * (form.count("/") + 1)) + ".parquet"
    is_hub_name = form.startswith("{}-00000-of")
    have_words = splits not in (("train", "train-extra"), ("extra", "unsupervised"))
    assert is_refused(pattern) == (is_hub_name or have_words)


@pytest.mark.parametrize(
    "name", ["{}-00000-of-00001.tar", "{}-0.tar", "{}/data-00000-of-00001.tar"]
)
def test_tars_of_several_splits_are_refused_with_a_pattern_that_is_served(
    tmp_path: Path, name: str
) -> None:
    for split in ("train", "test"):
        tar_file(tmp_path / name.format(split))
    pattern = f"{tmp_path}/" + "/".join("*" * (name.count("/") + 1)) + ".tar"
    assert is_refused(pattern)


def shards_of(total: int, ending: str = "", prefix: str = "data/train") -> list[str]:
    return [f"{prefix}-{number:05d}-of-{total:05d}{ending}.parquet" for number in range(total)]


@pytest.mark.parametrize("ending", ["", "-ab12"])
def test_shards_of_two_totals_are_refused_with_a_pattern_that_is_served(
    tmp_path: Path, ending: str
) -> None:
    root = parquet_files(tmp_path, shards_of(2, ending) + shards_of(3, ending)[:2])
    complete = f"{root}/data/train-?????-of-00002{ending and '*'}.parquet"
    rule = "ParquetShards: `shards` must be shards of one total, and this"
    way_out = f"Pass a pattern like {complete!r}. To read all, pass a list of patterns."
    for source, kind in (
        (f"{root}/data", "folder has"),
        (f"{root}/data/*.parquet", "pattern matches"),
    ):
        assert error_of(source) == (
            f"{rule} {kind} 'train' of 2 and of 3 shards, got {source!r}. {way_out}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert contents(open_source(complete)) == [b"image 0", b"image 1"]
        both = [f"{root}/data/*-of-00002*.parquet", f"{root}/data/*-of-00003*.parquet"]
        assert len(open_source(both)) == 4
        braces = f"{root}/data/train-0000{{0,1}}-of-0000{{2,3}}{ending}.parquet"
        assert len(open_source(braces)) == 4


def test_shards_of_one_number_are_refused(tmp_path: Path) -> None:
    root = parquet_files(tmp_path, shards_of(2, "-ab12") + shards_of(2, "-cd34"))
    one, two = (f"{root}/data/train-00000-of-00002-{digest}.parquet" for digest in ("ab12", "cd34"))
    for source in (f"{root}/data", f"{root}/data/*.parquet"):
        assert error_of(source) == (
            "ParquetShards: `shards` must be shards of numbers of their own, and two are "
            f"{one!r} and {two!r}, got {source!r}. Pass a list of the shards of one export."
        )
    listed = [one, two, *(str(path) for path in sorted((root / "data").glob("*-00001-*")))]
    assert len(open_source(listed)) == 4


def test_totals_of_shards_in_several_folders_may_differ(tmp_path: Path) -> None:
    names = shards_of(1, prefix="en/train") + shards_of(2, prefix="fr/train")
    root = parquet_files(tmp_path, names)
    assert len(open_source(f"{root}/*/train-*.parquet")) == 3
    parquet_files(tmp_path, shards_of(2, prefix="en/train"))
    assert error_of(f"{root}/*/train-*.parquet") == (
        "ParquetShards: `shards` must be shards of one total, and this pattern matches 'train' of "
        f"1 and of 2 shards, got '{root}/*/train-*.parquet'. Pass a list of the shards of one "
        "total. To read all, pass a list of patterns."
    )


@pytest.mark.parametrize("first", [0, 1])
def test_a_folder_that_lacks_shards_of_its_total_is_served_with_a_warning(
    tmp_path: Path, first: int
) -> None:
    names = [f"data/train-{first + n:05d}-of-00003.parquet" for n in range(3)]
    root = parquet_files(tmp_path, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_source(root)) == 3
        (root / names[1]).unlink()
        assert len(open_source(f"{root}/data/train-*.parquet")) == 2
    with pytest.warns(RuntimeWarning) as told:
        assert len(open_source(f"{root}/data")) == 2
    assert [str(warning.message) for warning in told] == [
        f"ParquetShards: {root}/data holds 2 of the 3 shards of 'train', and lacks number "
        f"{first + 1}. Copy the missing shards, or pass a pattern like "
        f"'{root}/data/train-*.parquet' to take what is there."
    ]


def test_one_split_in_several_folders_is_served(tmp_path: Path) -> None:
    names = ["train/en/data-00000-of-00001.parquet", "train/fr/data-00000-of-00001.parquet"]
    root = parquet_files(tmp_path, names)
    assert len(open_source(f"{root}/*/*/*.parquet")) == 2
    assert len(open_source(f"{root}/train/*/data-*.parquet")) == 2


def shard_of(kind: str, folder: Path) -> Path:
    """Write a shard of a kind, with one image."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "tar":
        tar_file(path := folder / "0.tar")
    elif kind == "parquet":
        parquet_files(folder, ["0.parquet"])
        path = folder / "0.parquet"
    elif kind == "mds":
        (path,) = mds(folder, [Sample("a", b"an image", 0)]).glob("*.mds")
    else:
        record = {"image/encoded": b"an image", "image/class/label": 1}
        path = write_records(folder / f"train-00000-of-00001{kind}", [record])
    return path


KINDS = ["tar", "parquet", "mds", "", ".tfrecord"]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_beside_shards_are_left_out(tmp_path: Path, kind: str) -> None:
    """Such as macOS's notes on files, which ``tar`` and network disks keep."""
    path = shard_of(kind, tmp_path)
    (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7 a note of macOS")
    assert len(open_source(path.parent)) == 1
    if kind != "mds":
        assert len(open_source(f"{path.parent}/*{path.name[1:]}")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_shards_beside_a_folder_without_images_are_served(tmp_path: Path, kind: str) -> None:
    folder = shard_of(kind, tmp_path).parent
    (folder / "logs").mkdir()
    (folder / "logs/run.txt").write_text("a text")
    assert len(open_source(folder)) == 1


def test_shards_in_folders_of_a_merged_index_are_served(tmp_path: Path) -> None:
    """As Streaming's `merge_index` writes the index of the folder above."""
    path = shard_of("mds", tmp_path)
    index = (path.parent / "index.json").read_text()
    (tmp_path / "index.json").write_text(index.replace(path.name, f"mds/{path.name}"))
    assert contents(open_source(tmp_path)) == [b"an image"]


def test_hidden_files_in_a_flat_folder_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"an image")
    (tmp_path / "._0.png").write_bytes(b"a note of macOS")
    (tmp_path / ".cache").mkdir()
    images = open_source(tmp_path, needs_classes=False)
    assert [path for path, _ in images.samples] == [str(tmp_path / "0.png")]


def image_folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"an image")
    return root


@pytest.mark.parametrize(
    "shard", ["old/part.parquet", "old/part.tar", "part.tar", "meta/a.parquet"]
)
def test_a_class_folder_without_images_is_refused_where_there_are_shards_too(
    tmp_path: Path, shard: str
) -> None:
    root = image_folder(tmp_path, ["cat/0.jpg", "dog/a/b/1.jpg"])
    (root / "old").mkdir()
    if shard.endswith("tar"):
        tar_file(root / shard)
    else:
        parquet_files(root, [shard])
    folder = (root / shard).parent
    message = error_of(root)
    assert re.match(r"DataLoader: class folder '.*/(meta|old)' holds no images \(names", message)
    assert message.endswith(
        f"or remove the folder. For the shards in '{folder}', pass that folder or a pattern."
    )


def test_images_beside_shards_are_no_class(tmp_path: Path) -> None:
    root = parquet_files(tmp_path, ["data/train-00000-of-00001.parquet", "data/train.parquet"])
    image_folder(root, ["assets/sample.jpg", "data/preview.jpg"])
    assert error_of(root) == (
        "DataLoader: `source` must be images in a folder per class, or shards, got images and "
        f"'train-00000-of-00001.parquet' in '{root}/data'. Pass a pattern or a list of the shards, "
        "or move the shards elsewhere."
    )
    assert contents(open_source(f"{root}/data/train-*.parquet")) == [b"image 0"]
    (root / "data/train-00000-of-00001.parquet").unlink()
    assert len(open_source(root)) == 2  # other files in a class folder count for nothing


def test_pictures_in_the_root_or_in_hidden_folders_of_a_clone_are_left_out(tmp_path: Path) -> None:
    root = parquet_files(tmp_path, ["data/train-00000-of-00001.parquet"])
    image_folder(root, ["logo.png", ".github/logo.png"])
    assert contents(open_source(root)) == [b"image 0"]
