"""What a folder or a pattern names: shards of one split, a folder per class, or a refusal."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dali_cutmix.sources.open import open_source


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


def test_one_split_in_several_folders_is_served(tmp_path: Path) -> None:
    names = ["train/en/data-00000-of-00001.parquet", "train/fr/data-00000-of-00001.parquet"]
    root = parquet_files(tmp_path, names)
    assert len(open_source(f"{root}/*/*/*.parquet")) == 2
    assert len(open_source(f"{root}/train/*/data-*.parquet")) == 2


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
