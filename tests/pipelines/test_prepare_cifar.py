"""Official CIFAR archives, small ones made up here, as folders of images."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder

from dali_cutmix import DataLoader, EvalTransform
from runs import PIPELINES, recipe, run_here

prepare = recipe("data/prepare_cifar")

#: Of the real archives, whose classes are in alphabetical order.
CLASSES_10 = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES_10 += ["dog", "frog", "horse", "ship", "truck"]
CLASSES_100 = ["apple", "aquarium_fish", "baby", "bear", "beaver"]

Content = dict[str, Any]

NUM_TRAIN, NUM_VAL = 50, 10


def batch(rng: np.random.Generator, num_images: int, num_classes: int, key: str) -> Content:
    """What one file of an archive holds: rows of 1024 red levels, 1024 green, 1024 blue."""
    return {
        "data": rng.integers(0, 256, (num_images, 3072), np.uint8),
        key: [int(label) for label in rng.permutation(num_images) % num_classes],
        "coarse_labels": [0] * num_images,  # which are to be left alone
    }


def make_archive(path: Path, name: str, leave_out: str = "") -> dict[str, Content]:
    """A small archive of the official structure; gives its files' content."""
    rng = np.random.default_rng(0)
    if name == "cifar-100-python":
        files = {
            "train": batch(rng, NUM_TRAIN, 5, "fine_labels"),
            "test": batch(rng, NUM_VAL, 5, "fine_labels"),
            "meta": {"fine_label_names": CLASSES_100, "coarse_label_names": ["all"]},
        }
    else:
        parts = [f"data_batch_{number}" for number in range(1, 6)]
        files = {part: batch(rng, NUM_TRAIN // 5, 10, "labels") for part in parts}
        files["test_batch"] = batch(rng, NUM_VAL, 10, "labels")
        files["batches.meta"] = {"label_names": CLASSES_10}
    with tarfile.open(path, "w:gz") as tar:
        for file, content in {**files, "readme.html": "left alone"}.items():
            if file == leave_out:
                continue
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return files


def images_of(content: Content) -> np.ndarray:
    """``[num, 32, 32, 3]`` of one file, pixel by pixel as the data set's page describes it."""
    rows = np.asarray(content["data"])
    planes = [rows[:, 1024 * channel : 1024 * (channel + 1)] for channel in range(3)]
    return np.stack([plane.reshape(-1, 32, 32) for plane in planes], axis=-1)


def run(archive: Path, out: Path, **settings: object) -> None:
    prepare.main(prepare.Settings(archive, out, **{"check": False, **settings}))


@pytest.mark.parametrize(
    ("name", "classes"), [("cifar-100-python", CLASSES_100), ("cifar-10-batches-py", CLASSES_10)]
)
def test_archive_comes_back_from_the_folders_bit_by_bit(
    name: str, classes: list[str], tmp_path: Path
) -> None:
    files = make_archive(tmp_path / "archive.tar.gz", name)
    run(tmp_path / "archive.tar.gz", tmp_path / "out")

    for part, is_train, num_images in (("train", True, NUM_TRAIN), ("val", False, NUM_VAL)):
        found = ImageFolder(tmp_path / "out" / part)
        assert found.classes == classes
        assert len(found) == num_images
        parts = [
            content
            for file, content in files.items()
            if "meta" not in file and ("test" not in file) == is_train
        ]
        images = np.concatenate([images_of(content) for content in parts])
        key = "fine_labels" if "100" in name else "labels"
        labels = [label for content in parts for label in content[key]]
        for path, label in found.samples:
            assert re.fullmatch(r"\d{5}\.png", Path(path).name)
            index = int(Path(path).stem)
            np.testing.assert_array_equal(np.asarray(Image.open(path)), images[index])
            assert label == labels[index]


def test_loader_serves_the_pixels_and_labels_of_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    files = make_archive(archive, "cifar-100-python")
    run(archive, tmp_path / "out")
    with DataLoader(
        tmp_path / "out" / "val",
        NUM_VAL,
        transform=EvalTransform(32, 32),
        dtype=torch.uint8,
        num_workers=1,
    ) as loader:
        ((image, label),) = list(loader)
        paths = [loader.dataset.samples[index][0] for index in loader.batch_indices]
    order = [int(Path(path).stem) for path in paths]
    assert sorted(order) == list(range(NUM_VAL))
    expected = torch.from_numpy(images_of(files["test"])).permute(0, 3, 1, 2)
    assert torch.equal(image.cpu(), expected[order])
    assert label.tolist() == [files["test"]["fine_labels"][index] for index in order]


def test_jpeg_changes_pixels_a_little_and_keeps_their_places(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :32]
    smooth = np.stack([8 * y, 8 * x, 4 * (x + y)]).astype(np.uint8)
    archive = tmp_path / "archive.tar.gz"
    rows = {"data": np.tile(smooth.reshape(1, -1), (5, 1)), "fine_labels": [0, 1, 2, 3, 4]}
    with tarfile.open(archive, "w:gz") as tar:
        meta = {"fine_label_names": CLASSES_100}
        for file, content in {"train": rows, "test": rows, "meta": meta}.items():
            member, data = tarfile.TarInfo(f"cifar-100-python/{file}"), pickle.dumps(content)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    run(archive, tmp_path / "out", format="jpeg")
    (path,) = (tmp_path / "out" / "train" / "bear").iterdir()
    assert path.name == "00003.jpg"
    with Image.open(path) as image:
        assert image.format == "JPEG"
        difference = np.asarray(image).astype(int) - smooth.transpose(1, 2, 0)
    assert 0 < np.abs(difference).mean() < 3


def test_archive_without_the_official_md5_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    for kind, name in ((CIFAR100, "cifar-100-python"), (CIFAR10, "cifar-10-batches-py")):
        make_archive(archive, name)
        with pytest.raises(SystemExit) as refused:
            run(archive, tmp_path / "out", check=True)
        assert str(refused.value) == (
            f"prepare_cifar: `archive` must have the official MD5 {kind.tgz_md5}, and {archive} "
            "has another. Download it again, or pass `--no-check` if you trust it."
        )
    assert not (tmp_path / "out").exists()


def test_archive_with_the_expected_md5_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive.tar.gz"
    make_archive(archive, "cifar-100-python")
    md5 = hashlib.md5(archive.read_bytes())
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5.hexdigest())
    run(archive, tmp_path / "out", check=True)
    assert (tmp_path / "out" / "train" / "apple").is_dir()


def test_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive.tar.gz", tmp_path / "out"
    make_archive(archive, "cifar-100-python")
    out.mkdir()
    (out / "mine").write_text("a year's work")
    file = tmp_path / "file"
    file.write_text("no folder")
    for taken in (out, file):
        with pytest.raises(SystemExit) as refused:
            run(archive, taken)
        assert str(refused.value) == (
            f"prepare_cifar: `out` must be a folder that is new or empty, got {taken}. Name "
            "another `--out`."
        )
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    run(archive, out)  # an empty one is taken
    assert sorted(path.name for path in out.iterdir()) == ["train", "val"]


def test_interrupted_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive.tar.gz"
    make_archive(archive, "cifar-100-python")
    save, calls = Image.Image.save, []

    def interrupted_at_the_last_image(self: Image.Image, *arguments: object) -> None:
        calls.append(self)
        if len(calls) == NUM_TRAIN + NUM_VAL:
            raise KeyboardInterrupt
        save(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", interrupted_at_the_last_image)
        with pytest.raises(KeyboardInterrupt):
            run(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["archive.tar.gz"]
    run(archive, tmp_path / "out")


def test_what_is_no_whole_archive_of_cifar_is_refused(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive.tar.gz", tmp_path / "out"
    with pytest.raises(SystemExit, match=r"`archive` must be a file, got .*downloads nothing"):
        run(archive, out)
    make_archive(archive, "cifar-100-python", leave_out="test")
    with pytest.raises(SystemExit) as refused:
        run(archive, out)
    assert str(refused.value) == (
        "prepare_cifar: `archive` must hold all files of cifar-100-python or cifar-10-batches-py, "
        f"and {archive} does not."
    )
    make_archive(archive, "cifar-100-python")
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(SystemExit, match="`archive` must be a whole tar archive"):
        run(archive, out)
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(SystemExit, match="`archive` must be a whole tar archive"):
        run(archive, out)
    make_archive(archive, "cifar-100-python")
    with pytest.raises(SystemExit, match="`quality` must be from 1 to 100, got 0"):
        run(archive, out, quality=0)
    assert not out.exists()


def test_command_line_is_the_one_in_the_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "cifar-100-python.tar.gz"
    make_archive(archive, "cifar-100-python")
    script = PIPELINES / "data" / "prepare_cifar.py"
    (words,) = re.findall(r"prepare_cifar\.py (.*)", prepare.__doc__)
    assert words == "cifar-100-python.tar.gz --out cifar100"
    run_here(script, archive, "--out", tmp_path / "cifar100", "--no-check")
    said = capsys.readouterr().out
    assert "50 images in 5 classes" in said
    assert "10 images in 5 classes" in said
