"""Names with ESC, line breaks and bytes that are no text: no message hands them to a terminal."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import BadFileError, DataLoader, EvalTransform, FileList, TarShards, Tuning
from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.cli import app

HOSTILE = os.fsdecode(b"a\x1b[2J\r\n\xff\xc2\x9b")
ESCAPED = r"a\x1b[2J\r\n\udcff\x9b"

TRANSFORM = EvalTransform(resize=16, size=16)


def jpeg(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def folder_of(root: Path, name: str) -> Path:
    """A folder of four images, of which the third is text with a hostile name."""
    folder = root / "data" / name
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(80 * number))
    (folder / f"2{HOSTILE}.jpg").write_bytes(b"this is text")
    return root / "data"


def call(*arguments: object) -> tuple[int, str]:
    # Not through the runner's own decoding: a terminal gets bytes.
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, (result.stdout_bytes + result.stderr_bytes).decode()


def assert_clean(text: str, hostile: str = ESCAPED) -> None:
    assert hostile in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_bad_file_error_and_its_path(tmp_path: Path) -> None:
    loader = DataLoader(folder_of(tmp_path, "c"), 4, transform=TRANSFORM)
    with pytest.raises(BadFileError) as caught:
        next(iter(loader))
    assert_clean(str(caught.value))
    assert "\n" not in str(caught.value)
    assert caught.value.path == str(tmp_path / "data" / "c" / f"2{HOSTILE}.jpg")


def test_warning_of_a_replaced_file(tmp_path: Path) -> None:
    loader = DataLoader(folder_of(tmp_path, HOSTILE), 4, transform=TRANSFORM, on_error="replace")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(loader)
    (text,) = [str(each.message) for each in caught if "replaced" in str(each.message)]
    assert_clean(text, f"{ESCAPED}/2{ESCAPED}.jpg by ")
    assert "\n" not in text


def test_show_of_a_bad_file_and_to_a_hostile_name(tmp_path: Path) -> None:
    data = folder_of(tmp_path, HOSTILE)
    status, text = call("show", data, "--out", tmp_path / "a.png", "--batch-size", "4")
    assert status == 1
    assert_clean(text)
    (data / HOSTILE / f"2{HOSTILE}.jpg").unlink()
    status, text = call("show", data, "--out", tmp_path / f"{HOSTILE}.png", "--batch-size", "3")
    assert status == 0, text
    assert_clean(text)
    assert (tmp_path / f"{HOSTILE}.png").is_file()


def test_pack_of_a_bad_file_and_to_a_hostile_folder(tmp_path: Path) -> None:
    data, one = folder_of(tmp_path, "c"), ("--num-workers", "1")
    status, text = call("pack", data, tmp_path / "bad", *one)
    assert status == 1
    assert_clean(text)
    (data / "c" / f"2{HOSTILE}.jpg").unlink()
    status, text = call("pack", data, tmp_path / HOSTILE, *one)
    assert status == 0, text
    assert_clean(text)
    (tmp_path / HOSTILE / "000000.tar").write_bytes(b"damaged")
    status, text = call("pack", data, tmp_path / HOSTILE, *one)
    assert status == 1
    assert_clean(text)


def test_check_to_a_hostile_name(tmp_path: Path) -> None:
    data = folder_of(tmp_path, HOSTILE)
    status, text = call("check", data, "--out", tmp_path / f"{HOSTILE}.json")
    assert status == 1
    assert_clean(text, f"{ESCAPED}/2{ESCAPED}.jpg: ")
    assert_clean(text, f"{ESCAPED}.json")


def hostile_shard(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(f"{HOSTILE}.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return path


REFUSALS: dict[str, Callable[[Path], Any]] = {
    "a folder": lambda path: FileList.from_folder(path / "missing"),
    "an empty list": lambda path: FileList.from_file(written(path / "list.txt", "")),
    "a list without a class": lambda path: FileList.from_file(written(path / "list.txt", "a")),
    "a report": lambda path: open_source(written(path / "report.json", "{}")),
    "a damaged report": lambda path: open_source(written(path / "r.json", '{"format": 1}')),
    "a tuning": lambda path: Tuning.read(written(path / "tuning.json", "[]")),
    "a setting": lambda path: Tuning.read(written(path / "tuning.json", '{"prefetch": 0}')),
    "a damaged shard": lambda path: TarShards(written(path / "a.tar", "text")),
    "a sample of a shard": lambda path: TarShards(hostile_shard(path / "a.tar")),
    "a missing shard": lambda path: TarShards(path / "a.tar"),
}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_refusals_of(tmp_path: Path, refusal: Callable[[Path], Any]) -> None:
    (tmp_path / HOSTILE).mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        refusal(tmp_path / HOSTILE)
    assert_clean(str(caught.value), r"a\x1b[2J\r\n")
    assert "\n" not in str(caught.value)
