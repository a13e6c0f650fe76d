"""A FIFO, a socket, a device or a folder in the place of a file: refused at once, by name."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dali_cutmix import BadFileError, DataLoader, EvalTransform, FileList, TarShards, Tuning
from dali_cutmix.core.reading import open_regular
from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.check.images import check_images


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # By a short relative name: the path of a socket ends at 107 bytes.
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}
kinds = pytest.mark.parametrize("kind", IRREGULAR)


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """Turn a wait without end into a failure."""

    def give_up(*_: object) -> None:
        raise TimeoutError("waited for a file that never says anything")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def jpeg(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four images in two classes."""
    for number in range(4):
        path = tmp_path / "data" / "ab"[number // 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(60 * number))
    return tmp_path / "data"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shards" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name, content in (("0.jpg", jpeg()), ("0.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def reason(kind: str) -> str:
    return "Is a directory" if kind == "a folder" else f"not a regular file, but {kind}"


def refused(kind: str, path: Path) -> str:
    return re.escape(f"{reason(kind)}: '{path}'")


@kinds
def test_anything_but_a_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    IRREGULAR[kind](path := tmp_path / "x.jpg")
    with pytest.raises(OSError, match=refused(kind, path)) as caught:
        open_regular(path)
    assert caught.value.filename == str(path)


def test_path_with_a_zero_byte_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a path"):
        open_regular(f"{tmp_path}/a\0b.jpg")


@kinds
def test_check_calls_an_image_that_is_no_regular_file_unreadable(folder: Path, kind: str) -> None:
    IRREGULAR[kind](path := folder / "x.jpg")
    images = FileList.from_pairs([(folder / "a" / "0.jpg", 0), (path, 1)])
    (bad,) = check_images(images, num_threads=1, max_pixels=None).bad
    assert (bad.kind, bad.index, bad.reason) == ("unreadable", 1, reason(kind))


@kinds
def test_loader_takes_an_image_that_is_no_regular_file_for_a_bad_one(
    folder: Path, kind: str
) -> None:
    path = folder / "x.jpg"
    pairs = [*FileList.from_folder(folder).samples, (path, 1)]
    IRREGULAR[kind](path)
    settings: dict[str, Any] = {"transform": EvalTransform(16, 16), "batch_size": 5}
    with pytest.raises(BadFileError, match=reason(kind)) as caught:
        list(DataLoader(pairs, **settings))
    assert caught.value.path == str(path)
    with pytest.warns(RuntimeWarning, match=f"replaced {path} by .*: {reason(kind)}"):
        (batch,) = DataLoader(pairs, on_error="replace", **settings)
    assert len(batch[0]) == 5


@kinds
def test_list_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    IRREGULAR[kind](path := tmp_path / "list.txt")
    with pytest.raises(OSError, match=refused(kind, path)):
        FileList.from_file(path)


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
def test_report_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    IRREGULAR[kind](path := tmp_path / "report.json")
    with pytest.raises(OSError, match=refused(kind, path)):
        open_source(path)


@kinds
def test_tuning_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    IRREGULAR[kind](path := tmp_path / "tuning.json")
    with pytest.raises(OSError, match=refused(kind, path)):
        Tuning.read(path)


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
def test_shard_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    IRREGULAR[kind](path := tmp_path / "0.tar")
    with pytest.raises(OSError, match=refused(kind, path)):
        TarShards(path)


@kinds
def test_class_names_that_are_no_regular_file_are_refused(shard: Path, kind: str) -> None:
    IRREGULAR[kind](path := shard.with_name("classes.txt"))
    with pytest.raises(OSError, match=refused(kind, path)):
        TarShards(shard)


@kinds
def test_index_that_is_no_regular_file_is_passed_over_and_left_alone(
    shard: Path, kind: str
) -> None:
    IRREGULAR[kind](path := shard.with_name("0.tar.index.npz"))
    before = path.lstat()
    images = TarShards(shard)
    assert images.stored(0).tobytes() == jpeg()
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("kind", ["a FIFO", "a socket"])
def test_settings_of_a_pack_that_are_no_regular_file_say_nothing(shard: Path, kind: str) -> None:
    IRREGULAR[kind](shard.with_name("pack.json"))
    assert len(TarShards(shard.parent)) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"num_shards": "2"}', '{"num_shards": [2]}'])
def test_settings_of_a_pack_that_are_damaged_say_nothing(shard: Path, text: str) -> None:
    shard.with_name("pack.json").write_text(text)
    assert len(TarShards(shard.parent)) == 1
