"""Files that are no ordinary JPEG: handled, or refused by name, and never a silent end."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import damage
from dali_cutmix import BadFileError, CutMix, DataLoader, EvalTransform, TrainTransform


def folder_with(tmp_path: Path, photo: np.ndarray, name: str, data: bytes | None) -> list[Any]:
    """23 good files, and ``data`` under ``name`` as number 13; None leaves the file out."""
    piece = Image.fromarray(photo[:96, :128])
    pairs = []
    for number in range(24):
        path = tmp_path / f"{number:02d}.jpg"
        if number == 13:
            path = tmp_path / name
            if data is not None:
                path.write_bytes(data)
        else:
            piece.save(path, quality=90)
        pairs.append((str(path), number % 3))
    return pairs


def jpeg(photo: np.ndarray, **settings: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo[:96, :128]).save(stream, "JPEG", **settings)
    return stream.getvalue()


NO_IMAGE = "not an image, or an unsupported format"
TRUNCATED = "Truncated File Read"  # in front of the pixels, which Pillow says
REASONS = {
    "empty": "the file is empty",
    "one byte": NO_IMAGE,
    "text": NO_IMAGE,
    "cut in the middle": TRUNCATED,
    "only a header": TRUNCATED,
    "cut near its end": "damaged or cut short",
    "missing": "No such file or directory",
}


def broken(kind: str, photo: np.ndarray) -> bytes | None:
    whole = jpeg(photo)
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"this is a text file and no image at all",
        "cut in the middle": whole[: len(whole) // 2],
        "only a header": whole[:200],
        "cut near its end": whole[:-100],
        "missing": None,
    }[kind]


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("transform", [TrainTransform(size=16), EvalTransform(16, 16)], ids=repr)
@pytest.mark.parametrize("prefetch", [1, 3])
def test_bad_file_stops_the_epoch_at_its_batch_and_is_named(
    tmp_path: Path, photos: list[np.ndarray], kind: str, transform: Any, prefetch: int
) -> None:
    pairs = folder_with(tmp_path, photos[0], "bad.jpg", broken(kind, photos[0]))
    loader = DataLoader(pairs, 4, transform=transform, mix=CutMix(), prefetch=prefetch)
    epoch = iter(loader)
    for _ in range(3):
        next(epoch)
    with pytest.raises(BadFileError) as caught:
        next(epoch)
    error = caught.value
    assert error.path == str(tmp_path / "bad.jpg")
    assert str(error) == (
        f'DataLoader: cannot decode {error.path}: {error.reason}. `on_error="replace"` serves '
        "another image in its place, and `dali-cutmix check` lists all bad files."
    )
    assert error.reason == REASONS[kind]
    # Asking again must not look like the end of the epoch.
    with pytest.raises(BadFileError):
        next(epoch)


def test_a_new_epoch_after_a_bad_file_starts_at_its_beginning(
    tmp_path: Path, photos: list[np.ndarray]
) -> None:
    pairs = folder_with(tmp_path, photos[0], "bad.jpg", b"junk")
    loader = DataLoader(pairs, 4, transform=TrainTransform(size=16))
    for _ in range(3):
        epoch = iter(loader)
        assert len([next(epoch) for _ in range(3)]) == 3
        with pytest.raises(BadFileError):
            next(epoch)
    (tmp_path / "bad.jpg").write_bytes(jpeg(photos[0]))
    assert len(list(loader)) == 6


def test_bad_file_error_survives_pickling() -> None:
    whole = BadFileError("a.jpg", "no image", "Look elsewhere.")
    error = pickle.loads(pickle.dumps(whole))
    assert (error.path, error.reason) == ("a.jpg", "no image")
    assert str(error) == str(whole)
    assert str(error) == "DataLoader: cannot decode a.jpg: no image. Look elsewhere."


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        pytest.param(
            lambda path: path.touch(mode=0),
            "Permission denied",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything"),
        ),
    ],
)
def test_unreadable_path_is_named_with_the_systems_reason(
    tmp_path: Path, photos: list[np.ndarray], make: Any, reason: str
) -> None:
    pairs = folder_with(tmp_path, photos[0], "unreadable.jpg", None)
    make(tmp_path / "unreadable.jpg")
    match = re.escape(f"{tmp_path / 'unreadable.jpg'}: {reason}. ")
    with pytest.raises(BadFileError, match=match):
        list(DataLoader(pairs, 4, transform=TrainTransform(size=16)))


def test_missing_relative_path_is_named_with_the_present_folder(
    tmp_path: Path, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder_with(tmp_path, photos[0], "good.jpg", jpeg(photos[0]))
    monkeypatch.chdir(tmp_path)
    loader = DataLoader([("good.jpg", 0)], 1, transform=TrainTransform(size=16))
    assert len(list(loader)) == 1
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(BadFileError) as caught:
        list(loader)
    assert caught.value.reason == (
        "No such file or directory: the path is relative, and the present folder is "
        f"{tmp_path / 'elsewhere'}"
    )


def test_path_that_no_file_can_have_is_named(photos: list[np.ndarray], tmp_path: Path) -> None:
    pairs = folder_with(tmp_path, photos[0], "good.jpg", jpeg(photos[0]))
    pairs[2] = ("a\0b.jpg", 0)
    with pytest.raises(BadFileError, match=r"embedded null byte\."):
        list(DataLoader(pairs, 4, transform=TrainTransform(size=16)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("cropped", [False, True])
def test_odd_files_become_upright_rgb(
    tmp_path: Path, photos: list[np.ndarray], device: str, cropped: bool
) -> None:
    files = damage.odd_files(photos[0])
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    pairs = [(str(tmp_path / name), 0) for name in files]
    # A crop of the whole image leaves the pixels as they are, on either path of decoding.
    whole = TrainTransform(size=(96, 128), scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=0)
    turned = TrainTransform(size=(128, 96), scale=(1, 1), ratio=(3 / 4, 3 / 4), flip=0)
    for (path, _), (name, (_, expected)) in zip(pairs, files.items(), strict=True):
        if cropped:
            transform: Any = whole if expected.shape == (96, 128, 3) else turned
        else:
            transform = EvalTransform(96, 96)
            corner = [(side - 96) // 2 for side in expected.shape[:2]]
            expected = expected[corner[0] : corner[0] + 96, corner[1] : corner[1] + 96]
        loader = DataLoader(
            [(path, 0)], transform=transform, dtype=torch.uint8, channels_last=True, device=device
        )
        got = next(iter(loader))[0][0].permute(1, 2, 0).cpu().numpy()
        difference = np.abs(got.astype(int) - expected)
        # Pillow's and DALI's conversions from CMYK differ by rounding; a GPU decodes otherwise.
        limit = 0 if device == "cpu" and "cmyk" not in name else 3
        assert difference.mean() <= limit, name
