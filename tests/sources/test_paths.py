"""How paths are written: ``~``, byte order marks, zero bytes, capitals, and links that go round."""

from __future__ import annotations

import codecs
import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import BadFileError, DataLoader, EvalTransform, FileList, TarShards, Tuning
from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.check.images import check_images
from dali_cutmix.tools.cli import app


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that holds data of every kind. The working directory is elsewhere."""
    folder = tmp_path / "home"
    for number in range(4):
        path = folder / "data" / "ab"[number // 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(60 * number))
    (folder / "list.txt").write_text("data/a/0.jpg 0\n~/data/b/2.jpg 1\n")
    (folder / "tuning.json").write_text('{"prefetch": 3}')
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, content in (("0.jpg", jpeg(0)), ("0.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("~/data", 4),
        (Path("~/data"), 4),
        ("~/list.txt", 2),
        ([("~/data/a/0.jpg", 0), (Path("~/data/b/2.jpg"), 1)], 2),
        ("~/0.tar", 1),
        (["~/0.tar"], 1),
        ("~/*.tar", 1),
        ("~/{0..0}.tar", 1),
    ],
    ids=repr,
)
def test_tilde_is_the_home_folder_in_every_source(home: Path, source: Any, count: int) -> None:
    images = open_source(source)
    assert len(images) == count
    assert all(images.path(index).startswith(str(home)) for index in range(count))
    shades = {images.encoded(index).tobytes() for index in range(count)}
    assert jpeg(0) in shades <= {jpeg(60 * number) for number in range(4)}


def test_tilde_is_the_home_folder_for_what_is_written(home: Path) -> None:
    call("check", "~/data", "--out=~/report.json")
    assert json.loads((home / "report.json").read_text())["source"] == str(home / "data")
    assert len(open_source("~/report.json")) == 4
    call("show", "~/data", "--out=~/sheet.png", "--batch-size", "4", "--size", "32")
    call("pack", "~/data", "~/shards", "--num-workers", "1")
    assert Tuning.read("~/tuning.json").prefetch == 3
    Tuning(prefetch=4).write("~/tuning.json")
    assert json.loads((home / "tuning.json").read_text())["prefetch"] == 4
    TarShards("~/0.tar", index_dir="~/indexes", progress=False)
    left = {"report.json", "sheet.png", "shards", "tuning.json", "indexes"}
    assert left <= set(os.listdir(home))
    assert os.listdir() == []


def test_tilde_within_a_name_is_a_tilde(home: Path) -> None:
    shutil.copytree(home / "data", home / "my~data")
    (home / "list~.txt").write_text("~data~/x.jpg 0\n")
    assert len(open_source(home / "my~data")) == 4
    assert FileList.from_file(home / "list~.txt").path(0) == str(home / "~data~" / "x.jpg")


def test_byte_order_mark_is_no_part_of_a_text(home: Path) -> None:
    def marked(name: str, text: str) -> Path:
        (home / name).write_bytes(codecs.BOM_UTF8 + text.encode())
        return home / name

    images = open_source(marked("list.txt", "data/a/0.jpg 0\r\ndata/b/2.jpg 1\r\n"))
    assert [images.encoded(index).tobytes() for index in range(2)] == [jpeg(0), jpeg(120)]
    assert Tuning.read(marked("tuning.json", '{"prefetch": 5}')).prefetch == 5
    report = check_images(images, num_threads=1, max_pixels=None, source=str(home / "list.txt"))
    assert len(open_source(marked("report.json", report.to_json()))) == 2
    marked("classes.txt", "cat\n")
    assert open_source(home / "0.tar").classes == ["cat"]


def test_several_byte_order_marks_are_no_part_of_a_text(home: Path) -> None:
    mark, line = codecs.BOM_UTF8, b"data/a/0.jpg 0\n"
    (home / "list.txt").write_bytes(mark * 2 + line + mark + line)
    assert {open_source(home / "list.txt").path(n) for n in (0, 1)} == {f"{home}/data/a/0.jpg"}
    (home / "classes.txt").write_bytes(mark * 2 + b"cat\n")
    assert open_source(home / "0.tar").classes == ["cat"]
    (home / "tuning.json").write_bytes(mark * 2 + b'{"prefetch": 5}')
    assert Tuning.read(home / "tuning.json").prefetch == 5


@pytest.mark.parametrize("label", ["+-3", "--3", "1" * 5000, "\N{ARABIC-INDIC DIGIT THREE}"])
def test_class_index_that_is_no_number_is_refused_by_line(home: Path, label: str) -> None:
    (home / "list.txt").write_text(f"a.jpg +0\na.jpg {label}\n")
    with pytest.raises(ValueError, match=r"^DataLoader: line 2 of the list .*list.txt must have a"):
        open_source(home / "list.txt")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("\0.tar", "DataLoader: `source` must hold no zero byte, got '\\x00.tar'."),
        ("a\0b", "DataLoader: `source` must hold no zero byte, got 'a\\x00b'."),
        (["\0.tar"], "TarShards: `shards` must hold no zero byte, got '\\x00.tar'."),
    ],
    ids=["a tar", "a folder", "a list of tars"],
)
def test_source_with_a_zero_byte_is_refused_as_such(source: Any, told: str) -> None:
    with pytest.raises(ValueError, match="zero byte") as caught:
        DataLoader(source, transform=EvalTransform(16, 16), batch_size=1)
    assert str(caught.value) == told


class BytesPath:
    def __init__(self, path: str) -> None:
        self._path = os.fsencode(path)

    def __fspath__(self) -> bytes:
        return self._path


@pytest.mark.parametrize("name", ["data", "list.txt", "0.tar"])
def test_source_whose_path_is_bytes_is_opened(home: Path, name: str) -> None:
    images = open_source(BytesPath(f"~/{name}"))
    assert images.encoded(0).tobytes() == jpeg(0)
    assert images.path(0).startswith(str(home))


def test_paths_of_pairs_tunings_and_indexes_may_be_bytes(home: Path) -> None:
    pairs: Any = [(BytesPath("~/data/a/0.jpg"), 0)]
    assert FileList.from_pairs(pairs).path(0) == f"{home}/data/a/0.jpg"
    path: Any = BytesPath("~/tuning.json")
    assert Tuning.read(path).prefetch == 3
    shards: Any = BytesPath("~/0.tar")
    folder: Any = BytesPath("~/indexes")
    assert len(TarShards(shards, index_dir=folder, progress=False)) == 1
    assert len(list((home / "indexes").iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [b"data/a/0.jpg\0.png 0\n", "data/a/0.jpg 0\n".encode("utf-16")],
    ids=["a zero byte", "UTF-16"],
)
def test_list_with_a_zero_byte_is_refused_by_line(home: Path, content: bytes) -> None:
    (home / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"line 1 of the list .* must hold no zero byte, got "):
        open_source(home / "list.txt")


def test_path_with_a_zero_byte_opens_no_other_file(home: Path) -> None:
    pairs = [("~/data/a/0.jpg", 0), (f"{home}/data/a/1.jpg\0.png", 0)]
    settings: dict[str, Any] = {"transform": EvalTransform(16, 16), "batch_size": 2}
    with pytest.raises(BadFileError, match="embedded null byte"):
        list(DataLoader(pairs, **settings))
    (bad,) = check_images(FileList.from_pairs(pairs), num_threads=1, max_pixels=None).bad
    assert (bad.index, bad.kind) == (1, "unreadable")
    chosen = FileList.from_pairs(pairs).take([1, 0])
    assert chosen.path(0).endswith("1.jpg\0.png")


@pytest.mark.parametrize("name", ["list.TXT", "list.Tsv", "report.JSON"])
def test_endings_may_be_in_capitals(home: Path, name: str) -> None:
    images = FileList.from_pairs([(home / "data/a/0.jpg", 0)])
    (home / "plain.txt").write_text(f"{home}/data/a/0.jpg 0\n")
    report = check_images(images, num_threads=1, max_pixels=None, source=str(home / "plain.txt"))
    fingerprint = open_source(home / "plain.txt").fingerprint
    text = report.to_json().replace(report.fingerprint, fingerprint)
    is_report = name.endswith("JSON")
    (home / name).write_text(text if is_report else f"{home}/data/a/0.jpg 0\n")
    assert len(open_source(home / name)) == 1


def test_endings_of_shards_may_be_in_capitals(home: Path) -> None:
    (home / "shards").mkdir()
    shutil.copy(home / "0.tar", home / "shards" / "0.TAR")
    assert len(open_source(home / "shards" / "0.TAR")) == 1
    assert len(open_source(home / "shards")) == 1


def names_of(folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for path, _ in FileList.from_folder(folder).samples]


@pytest.mark.parametrize(
    "link",
    [
        lambda data: (data / "a/self").symlink_to("."),
        lambda data: (data / "a/self").symlink_to(data / "a"),
        lambda data: [(data / f"a/self{n}").symlink_to(".") for n in range(3)],
        lambda data: ((data / "a/in").mkdir(), (data / "a/in/up").symlink_to("..")),
    ],
    ids=["itself", "by its path", "three times", "from below"],
)
def test_links_to_a_folder_above_list_nothing_twice(
    home: Path, link: Callable[[Path], object]
) -> None:
    before = names_of(home / "data")
    link(home / "data")
    assert names_of(home / "data") == before


def test_links_that_double_at_each_level_are_listed_once(home: Path) -> None:
    chain = [home / f"level{number}" for number in range(30)]
    for folder in chain:
        folder.mkdir()
    for folder, below in itertools.pairwise(chain):
        (folder / "x").symlink_to(below)
        (folder / "y").symlink_to(below)
    (chain[-1] / "deep.jpg").write_bytes(jpeg(0))
    (home / "data/a/chain").symlink_to(chain[0])
    wanted = f"a/chain/{'x/' * 29}deep.jpg"
    assert names_of(home / "data") == ["a/0.jpg", "a/1.jpg", wanted, "b/2.jpg", "b/3.jpg"]


def test_path_without_a_link_is_taken_before_a_link(home: Path) -> None:
    (home / "data/a/z").mkdir()
    (home / "data/a/z/4.jpg").write_bytes(jpeg(0))
    (home / "data/a/early").symlink_to("z")
    assert names_of(home / "data")[:3] == ["a/0.jpg", "a/1.jpg", "a/z/4.jpg"]


def test_ordinary_links_are_listed_as_torchvision_lists_them(home: Path) -> None:
    for name in ("outside/x/5.jpg", "outside/6.jpg", "more/7.jpg"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(jpeg(0))
    (home / "data/c").symlink_to(home / "outside")  # a class
    (home / "data/a/m").symlink_to(home / "more")  # a folder of a class
    (home / "data/b/m").symlink_to(home / "more")  # the same one, of another class
    (home / "data/b/9.jpg").symlink_to(home / "more/7.jpg")  # a file
    reference = torchvision.datasets.ImageFolder(str(home / "data"))
    assert list(FileList.from_folder(home / "data").samples) == reference.samples
