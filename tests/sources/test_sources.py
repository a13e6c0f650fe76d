"""One loader for every storage: the same pictures give the same batches, wherever they lie."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import CIFAR10
from torchvision.datasets.folder import IMG_EXTENSIONS
from typer.testing import CliRunner

from dali_cutmix import (
    BadFileError,
    CutMix,
    DataLoader,
    EvalTransform,
    FileList,
    ImageArrays,
    TarShards,
    TrainTransform,
)
from dali_cutmix.sources.base import IMAGE_ENDINGS
from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.cli import app

CROP = TrainTransform(size=(24, 32))


def batches(source: Any, **settings: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    defaults = {"batch_size": 4, "shuffle": True, "transform": CROP, "mix": CutMix(), "seed": 1}
    return list(DataLoader(source, **{**defaults, **settings}))


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


def write_tar(path: Path, samples: list[tuple[str, bytes, int]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, data, label in samples:
            for ending, content in (("jpg", data), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def samples_of(listed: list[tuple[str, int]]) -> list[tuple[str, bytes, int]]:
    return [(f"{n:04d}", Path(path).read_bytes(), label) for n, (path, label) in enumerate(listed)]


@pytest.fixture(scope="module")
def listed(photo_folder: Path) -> list[tuple[str, int]]:
    return list(FileList.from_folder(photo_folder).samples)


@pytest.fixture(scope="module")
def expected(photo_folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(photo_folder)


def test_pairs_and_list_files_serve_what_the_folder_does(
    listed: list[tuple[str, int]], expected: Any, photo_folder: Path, tmp_path: Path
) -> None:
    assert_same(batches(listed), expected)
    (tmp_path / "index.txt").write_text("".join(f"{path} {label}\n" for path, label in listed))
    assert_same(batches(tmp_path / "index.txt"), expected)
    (tmp_path / "photos").symlink_to(photo_folder)
    inside = [(os.path.relpath(path, photo_folder), Path(path).parent.name) for path, _ in listed]
    lines = [f"photos/{path}\t{name}" for path, name in inside]
    (tmp_path / "names.tsv").write_text("\n\n".join(lines))
    assert_same(batches(str(tmp_path / "names.tsv")), expected)
    assert open_source(tmp_path / "names.tsv").classes == ["china", "flower", "portrait"]


def test_files_are_images_by_the_endings_that_torchvision_takes() -> None:
    assert IMAGE_ENDINGS == IMG_EXTENSIONS


def test_paths_with_spaces_are_parted_from_the_class_at_the_last_one(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a b/c d.jpg 3\n/e f.jpg 0\n")
    files = FileList.from_file(tmp_path / "list.txt")
    assert list(files.samples) == [(str(tmp_path / "a b/c d.jpg"), 3), ("/e f.jpg", 0)]
    assert files.classes == ["0", "1", "2", "3"]


def test_list_file_with_a_line_that_lacks_its_class_is_refused(tmp_path: Path) -> None:
    """Else all classes would be names, and be numbered anew in the order of text."""
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*(f"{n}.jpg {n}" for n in range(12)), "my photo.png"]))
    message = (
        f"DataLoader: the list {path} must name all classes or index all of them, and line 1 has "
        "an index and line 13 none."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_source(path)


@pytest.mark.parametrize("index", ["-1", "-0001", "16777216", "9" * 100])
def test_class_index_out_of_range_is_refused_with_its_line(tmp_path: Path, index: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"a.jpg 0\n\nb.jpg {index}\n")
    message = (
        f"DataLoader: line 3 of the list {path} must have a class name, or a class index of at "
        f"least 0 and below 16777216, got {index:.80}. Ids have to be mapped to 0, 1, 2, ... first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_source(path)


def test_shards_may_be_listed_as_any_kind_of_path(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("0", b"an image", 0)])

    class Entry:
        def __init__(self, path: str | bytes) -> None:
            self.path = path

        def __fspath__(self) -> str | bytes:
            return self.path

    expected = open_source(str(shard)).fingerprint
    for path in (shard, Entry(str(shard)), Entry(os.fsencode(shard))):
        assert open_source([path]).fingerprint == expected


def test_list_file_is_the_same_data_by_any_path_to_it(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photo_folder, tmp_path / "here" / "photos")
    files = sorted((tmp_path / "here").rglob("*.jpg"))
    lines = [f"{path.relative_to(tmp_path / 'here')} {n % 3}" for n, path in enumerate(files)]
    (tmp_path / "here" / "list.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path / "here")
    found = {open_source(path).fingerprint for path in ("list.txt", "./list.txt")}
    found.add(open_source(tmp_path / "here" / "list.txt").fingerprint)
    shutil.move(tmp_path / "here", tmp_path / "there")
    found.add(open_source(tmp_path / "there" / "list.txt").fingerprint)
    assert len(found) == 1


def test_folder_is_the_same_data_by_any_path_to_it_whatever_its_classes_are_called(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "constrain", "q"):
        shutil.copytree(photo_folder / "china", tmp_path / "train" / name)
    monkeypatch.chdir(tmp_path)
    paths = ["train", "train/", "./train", str(tmp_path / "train"), f"{tmp_path}//train//"]
    assert len({open_source(path).fingerprint for path in paths}) == 1


def test_folder_with_folders_in_it_is_an_imagefolder_whatever_else_lies_there(
    photo_folder: Path, tmp_path: Path
) -> None:
    for name in ("birds-of-prey", "best-of-2024", "shards.tar", "list.txt", "report.json"):
        shutil.copytree(photo_folder, tmp_path / name)
        write_tar(tmp_path / name / "backup.tar", [("0", b"x", 0)])
        (tmp_path / name / "train-00000-of-00001").touch()
        assert len(open_source(tmp_path / name)) == 21


@pytest.mark.parametrize("huge", [2**24, 10**30])
def test_ids_in_place_of_class_indices_are_refused(huge: int) -> None:
    message = (
        f"DataLoader: `source` must have class indices below 16777216, got {huge}. Ids have to be "
        "mapped to 0, 1, 2, ... first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_source([("a.jpg", 0), ("b.jpg", huge)])


def test_list_files_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.jpg 1\n\nb.jpg\n")
    message = (
        f"DataLoader: line 3 of the list {path} must be a path and a class, separated by a tab or "
        "a space, got 'b.jpg'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_source(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=rf"^DataLoader: the list {re.escape(str(path))} is empty"):
        open_source(path)
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "none.txt")


def test_tar_shards_serve_what_the_folder_does(
    listed: list[tuple[str, int]], expected: Any, tmp_path: Path
) -> None:
    samples = [
        (f"{n:04d}", Path(path).read_bytes(), label) for n, (path, label) in enumerate(listed)
    ]
    shards = [write_tar(tmp_path / f"{n}.tar", samples[7 * n : 7 * n + 7]) for n in range(3)]
    for source in (
        tmp_path,
        str(tmp_path / "{0..2}.tar"),
        tmp_path / "*.tar",
        shards,
        TarShards(shards),
    ):
        assert_same(batches(source), expected)
    # What webdataset readers cannot do: any sampler, a subset, a resume in mid-epoch.
    order = [20, 0, 7, 7, 13]
    assert_same(
        batches(tmp_path, sampler=order, shuffle=False),
        batches(listed, sampler=order, shuffle=False),
    )
    assert_same(batches(TarShards(shards).take(order)), batches([listed[i] for i in order]))
    first = DataLoader(tmp_path, 4, True, transform=CROP, mix=CutMix(), seed=1)
    next(iter(first))
    second = DataLoader(tmp_path, 4, True, transform=CROP, mix=CutMix(), seed=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert_same(list(second), expected[1:])


def test_images_in_memory_serve_what_the_files_do(
    listed: list[tuple[str, int]], expected: Any
) -> None:
    labels = np.array([label for _, label in listed])
    encoded = [Path(path).read_bytes() for path, _ in listed]
    assert_same(batches(ImageArrays(encoded, labels)), expected)
    arrays = [np.frombuffer(data, np.uint8) for data in encoded]
    assert_same(batches(ImageArrays(arrays, torch.from_numpy(labels))), expected)
    pixels = [np.asarray(Image.open(path)) for path, _ in listed]
    assert_same(batches(ImageArrays(pixels, labels)), expected)
    assert_same(
        batches(ImageArrays(pixels, labels), transform=EvalTransform(40, 32)),
        batches(listed, transform=EvalTransform(40, 32)),
    )


@pytest.mark.gpu
def test_images_in_memory_serve_on_a_gpu_what_the_files_do(listed: list[tuple[str, int]]) -> None:
    labels = [label for _, label in listed]
    encoded = [Path(path).read_bytes() for path, _ in listed]
    pixels = [np.asarray(Image.open(path)) for path, _ in listed]
    expected = batches(listed, device="cuda")
    for images in (ImageArrays(encoded, labels), ImageArrays(pixels, labels)):
        found = batches(images, device="cuda")
        for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
            assert torch.equal(target, wanted_target)
            assert (image - wanted).abs().mean() < 0.1  # Pillow decoded the pixels


def test_one_array_of_images_is_served_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (10, 8, 8, 3), np.uint8)
    gray = color[..., 0]
    settings: dict[str, Any] = {
        "transform": EvalTransform(8, 8),
        "dtype": torch.uint8,
        "mix": None,
        "shuffle": False,
    }
    first = np.ascontiguousarray(color.transpose(0, 3, 1, 2))
    last = torch.from_numpy(first).permute(0, 2, 3, 1)  # a view, as the way out has it
    mirrored = np.ascontiguousarray(color[:, :, ::-1])[:, :, ::-1]
    for images in (color, torch.from_numpy(color), last, mirrored):
        served = torch.cat(
            [image for image, _ in batches(ImageArrays(images, range(10)), **settings)]
        )
        np.testing.assert_array_equal(served.permute(0, 2, 3, 1), color)
    served = torch.cat([image for image, _ in batches(ImageArrays(gray, range(10)), **settings)])
    for channel in range(3):
        np.testing.assert_array_equal(served[:, channel], gray)


def test_torchvisions_datasets_in_memory_are_taken() -> None:
    dataset = CIFAR10.__new__(CIFAR10)  # as it is after reading its files, which are not at hand
    dataset.data = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    dataset.targets = [3, 1, 2, 0, 9, 9]
    dataset.classes = [f"class {n}" for n in range(10)]
    dataset.transform = dataset.target_transform = None
    settings: dict[str, Any] = {
        "transform": EvalTransform(32, 32),
        "dtype": torch.uint8,
        "mix": None,
        "shuffle": False,
    }
    served = batches(dataset, **settings)
    images = torch.cat([image for image, _ in served]).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(images, dataset.data)
    assert torch.cat([label for _, label in served]).tolist() == dataset.targets
    part = torch.cat([label for _, label in batches(Subset(dataset, [4, 0]), **settings)])
    assert part.tolist() == [9, 3]
    assert open_source(dataset).classes == dataset.classes
    dataset.transform = str
    with pytest.raises(ValueError, match=r"the CIFAR10 in `source` has a `transform` \(type\)"):
        open_source(dataset)


def as_objects(*images: np.ndarray) -> np.ndarray:
    found = np.empty(len(images), object)
    found[:] = images
    return found


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            np.zeros((2, 3, 8, 8), np.uint8),
            [0, 1],
            "`images[0]` must be [height, width, 3] RGB or [height, width] gray, uint8, got shape "
            "(3, 8, 8) of uint8. Channels come last: `images.permute(0, 2, 3, 1)`.",
        ),
        (
            np.zeros((2, 8, 8, 3), np.float32),
            [0, 1],
            "`images[0]` must be [height, width, 3] RGB or [height, width] gray, uint8, got shape "
            "(8, 8, 3) of float32.",
        ),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 4), np.uint8)],
            [0, 1],
            "`images[1]` must be [height, width, 3] RGB or [height, width] gray, uint8, got shape "
            "(8, 8, 4) of uint8.",
        ),
        (
            as_objects(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.float32)),
            [0, 1],
            "`images[1]` must be [height, width, 3] RGB or [height, width] gray, uint8, got shape "
            "(8, 9, 3) of float32.",
        ),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((0, 5, 3), np.uint8)],
            [0, 1],
            "`images[1]` must be [height, width, 3] RGB or [height, width] gray, uint8, got shape "
            "(0, 5, 3) of uint8. Leave images without pixels out.",
        ),
        (
            np.zeros((2, 8, 0), np.uint8),
            [0, 1],
            "`images[0]` must be [height, width, 3] RGB or [height, width] gray, uint8, got shape "
            "(8, 0) of uint8. Leave images without pixels out.",
        ),
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            [0],
            "`labels` must be as many as `images`, got 1 labels for 2 images.",
        ),
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            [0.5, 1.5],
            "`labels` must be class indices, [N] of whole numbers, got shape (2,) of float64.",
        ),
        (
            np.zeros((1, 8, 8, 3), np.uint8),
            [-1],
            "`targets[0]` must be a class index of at least 0, got -1.",
        ),
        (
            np.zeros((0, 8, 8, 3), np.uint8),
            np.zeros(0, int),
            "`targets` must hold at least one class index, got [].",
        ),
    ],
)
def test_arrays_of_other_shapes_are_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('ImageArrays: ' + message)}$"):
        ImageArrays(images, labels)


def test_bad_image_in_memory_is_named_by_its_index(listed: list[tuple[str, int]]) -> None:
    encoded = [Path(path).read_bytes() for path, _ in listed]
    encoded[5] = encoded[5][:300]
    with pytest.raises(BadFileError, match=r"cannot decode images\[5\]: Truncated File Read"):
        batches(ImageArrays(encoded, [0] * len(encoded)))


def test_bad_image_in_a_tar_is_named_by_shard_and_member_and_can_be_replaced(
    listed: list[tuple[str, int]], tmp_path: Path
) -> None:
    samples = [
        (f"{n:04d}", Path(path).read_bytes(), label) for n, (path, label) in enumerate(listed)
    ]
    samples[5] = ("0005", samples[5][1][:300], 0)
    shard = write_tar(tmp_path / "train.tar", samples)
    with pytest.raises(BadFileError) as caught:
        batches(shard)
    assert caught.value.path == f"{shard}/0005.jpg"
    loader = DataLoader(shard, 4, True, transform=CROP, on_error="replace")
    with pytest.warns(RuntimeWarning, match=r"replaced .*train\.tar/0005\.jpg by"):
        assert [len(label) for _, label in loader] == [4] * 5 + [1]
    assert [path for path, _ in loader.bad_files] == [f"{shard}/0005.jpg"]


def test_shards_of_two_kinds_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must be paths of tar shards only, of Parquet files only"
    ):
        open_source(["a.tar", "train-00000-of-00001"])


def test_sources_are_told_apart_by_their_fingerprints(listed: list[tuple[str, int]]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    other = pixels.copy()
    other[4, 7, 7, 2] ^= 1
    sources = [
        ImageArrays(pixels, range(5)),
        ImageArrays(other, range(5)),
        ImageArrays(pixels, [0, 1, 2, 3, 3]),
        ImageArrays(pixels, range(5)).take([0, 1, 2, 4, 3]),
        FileList(["a", "bc"], [0, 1], ["x", "y"]),
        FileList(["ab", "c"], [0, 1], ["x", "y"]),
        FileList(["ab", "c"], [1, 1], ["x", "y"]),
        open_source(listed),
        open_source(listed[:-1]),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert ImageArrays(pixels, range(5)).fingerprint == sources[0].fingerprint


def test_report_of_check_serves_all_but_the_bad_images(photo_folder: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "data", tmp_path / "report.json"
    shutil.copytree(photo_folder, data)
    bad = data / "flower" / "02.jpg"
    bad.write_bytes(bad.read_bytes()[:500])
    result = CliRunner().invoke(app, ["check", str(data), "--out", str(report)])
    assert result.exit_code == 1
    good = [pair for pair in FileList.from_folder(data).samples if pair[0] != str(bad)]
    assert len(good) == 20
    assert_same(batches(report), batches(good))
    assert open_source(report).classes == ["china", "flower", "portrait"]

    shutil.copy(data / "flower" / "03.jpg", data / "flower" / "99.jpg")
    message = (
        f"DataLoader: {data} has changed since {report} was written: images, names or "
        "classes differ (22 images now, 21 then). Run "
        f"`dali-cutmix check {data} --out {report}` again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_source(report)


def test_report_of_a_dataset_without_a_good_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "0.jpg").write_bytes(b"junk")
    report = tmp_path / "report.json"
    CliRunner().invoke(app, ["check", str(tmp_path / "data"), "--out", str(report)])
    message = f"DataLoader: every image of {tmp_path / 'data'} is bad, says {report}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_source(report)
