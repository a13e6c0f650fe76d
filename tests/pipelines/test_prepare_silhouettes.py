"""The silhouettes of animal-shape-mnist's wheel, a generated one here, as folders with boxes."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runs import recipe

prepare = recipe("data/prepare_silhouettes")
NUM_OF_CLASS = 9


def write_wheel(path: Path, images: object, classes: object) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in ((prepare.IMAGES, images), (prepare.CLASSES, classes)):
            wheel.writestr(prepare.FOLDER + name, gzip.compress(pickle.dumps(content)))
    return path


def generated() -> tuple[np.ndarray, np.ndarray]:
    """Rectangles of gray levels that name the image; every third image is there twice."""
    rng = np.random.default_rng(0)
    images, classes = [], []
    for index in range(10 * NUM_OF_CLASS):
        image = np.zeros((28, 28), np.uint8)
        top, left = rng.integers(0, 14, 2)
        height, width = rng.integers(5, 14, 2)
        image[top : top + height, left : left + width] = 100 + index
        images += [image] * (2 if index % 3 == 0 else 1)
        classes += [index % 10] * (2 if index % 3 == 0 else 1)
    return np.stack(images), np.array(classes, np.uint8)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / "animals.whl", *generated())


def run(wheel: Path, out: Path, **settings: int) -> Path:
    prepare.main(prepare.Settings(wheel, out, **{"num_train": 3, "num_val": 4, **settings}))
    return out


def written(out: Path, part: str) -> list[tuple[np.ndarray, str, list[int]]]:
    """Every image with its class and its box, as COCO's file tells."""
    content = json.loads((out / f"{part}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    boxes = {entry["image_id"]: entry for entry in content["annotations"]}
    rows = []
    for entry in content["images"]:
        image = np.asarray(Image.open(out / part / entry["file_name"]))
        assert image.shape == (entry["height"], entry["width"])
        box = boxes[entry["id"]]
        assert names[box["category_id"]] == Path(entry["file_name"]).parent.name
        rows.append((image, names[box["category_id"]], box["bbox"]))
    assert len(rows) == len(list((out / part).rglob("*.png")))
    return rows


def test_every_image_is_written_once_under_its_class(wheel: Path, tmp_path: Path) -> None:
    out = run(wheel, tmp_path / "out")
    images, classes = generated()
    class_of = {image.tobytes(): prepare.NAMES[c] for image, c in zip(images, classes, strict=True)}
    seen = Counter()
    for part, count in (("train", 3), ("val", 4)):
        rows = written(out, part)
        assert Counter(name for _, name, _ in rows) == dict.fromkeys(prepare.NAMES, count)
        for image, name, _ in rows:
            assert class_of[image.tobytes()] == name
            seen[image.tobytes()] += 1
    assert max(seen.values()) == 1  # also over both parts


def test_images_that_show_no_animal_are_left_out(tmp_path: Path) -> None:
    images, classes = generated()
    faint = np.full((10, 28, 28), 63, np.uint8)
    faint[:, 0, 0] = np.arange(10)  # different images
    wheel = write_wheel(
        tmp_path / "animals.whl",
        np.concatenate([faint, images]),
        np.concatenate([np.arange(10, dtype=np.uint8), classes]),
    )
    out = run(wheel, tmp_path / "out", num_train=1, num_val=NUM_OF_CLASS - 1)
    for part in ("train", "val"):
        assert all(image.max() >= 100 for image, _, _ in written(out, part))


@pytest.mark.parametrize("canvas", [28, 41])
def test_boxes_enclose_the_animals(canvas: int, wheel: Path, tmp_path: Path) -> None:
    out = run(wheel, tmp_path / "out", canvas=canvas)
    corners = set()
    for image, _, (x, y, width, height) in written(out, "val"):
        assert image.shape == (canvas, canvas)
        box = image[y : y + height, x : x + width]
        # A generated animal of gray g covers noise of v by g / 255: a level above its own gray.
        assert box.min() >= 100
        if canvas == 28:
            assert len(np.unique(box)) == 1
            assert (image > 0).sum() == box.size
        corners.add((x, y))
    assert len(corners) > 10


def test_a_canvas_shows_the_animal_in_front_of_noise(tmp_path: Path) -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 4:20, 6:26] = 255
    image[0, 4:20, 5] = 128
    classes = np.repeat(np.arange(10), 2)
    images = np.repeat(image, 20, axis=0)
    images[:, 5, 7] = np.arange(180, 200)  # different images
    wheel = write_wheel(tmp_path / "animals.whl", images, classes)
    out = run(wheel, tmp_path / "out", num_train=1, num_val=1, canvas=60)
    levels = []
    for pixels, _, (x, y, width, height) in written(out, "train"):
        assert (width, height) == (21, 16)
        assert (pixels[y : y + height, x + 3 : x + width] == 255).all()
        outside = pixels.copy()
        outside[y : y + height, x : x + width] = 0
        levels.append(np.count_nonzero(outside > 20) / (pixels.size - width * height))
        assert 128 <= pixels[y, x] <= 255 - Fraction(127, 255) * 95
    assert min(levels) > 0.5


def test_one_seed_gives_the_same_files_from_a_wheel_and_from_a_folder(
    wheel: Path, tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    first = run(wheel, tmp_path / "a", canvas=32)
    again = run(tmp_path / "site", tmp_path / "b", canvas=32)
    other = run(wheel, tmp_path / "c", canvas=32, seed=1)
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*.*"))
    assert len(names) == 10 * 7 + 2
    assert all((first / n).read_bytes() == (again / n).read_bytes() for n in names)
    assert any((first / n).read_bytes() != (other / n).read_bytes() for n in names)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a pickle that runs code",)


#: A pickle that calls a function of the system by way of a module of NumPy's.
BY_WAY_OF_NUMPY = b"\x80\x04\x8c\nnumpy.f2py\x8c\tos.system\x93\x8c\x04true\x85R."


def test_what_is_no_wheel_of_animals_is_refused_and_leaves_no_folder(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "a.whl", tmp_path / "out"
    text.write_text("no archive")
    empty = tmp_path / "b.whl"
    zipfile.ZipFile(empty, "w").close()
    images, classes = generated()
    odd = write_wheel(tmp_path / "c.whl", images[:, 1:], classes)
    missing = tmp_path / "nothing"
    problems = {
        text: f"`wheel` must be a wheel of animal-shape-mnist, and {text} is no zip archive.",
        empty: f"`wheel` must hold {prepare.FOLDER + prepare.IMAGES}, and {empty} does not.",
        odd: "must hold [N, 28, 28] uint8, got",
        missing: f"`wheel` must be a file or folder, got {missing}.",
    }
    for path, problem in problems.items():
        with pytest.raises(SystemExit, match="prepare_silhouettes: .*" + re.escape(problem)):
            run(path, out)
        assert not out.exists()
    with pytest.raises(SystemExit, match=r"must hold an array: it also holds builtins\.print\."):
        run(write_wheel(tmp_path / "d.whl", Evil(), classes), out)
    assert "runs code" not in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "e.whl", "w") as wheel_of_numpy:
        content = gzip.compress(BY_WAY_OF_NUMPY)
        wheel_of_numpy.writestr(prepare.FOLDER + prepare.IMAGES, content)
    with pytest.raises(SystemExit, match=r"it also holds numpy\.f2py\.os\.system\."):
        run(tmp_path / "e.whl", out)
    for settings, problem in (
        (
            {"num_val": NUM_OF_CLASS},
            r"together be at most 9, as many as there are of bear, got 3 and",
        ),
        ({"num_train": 0}, "`num_train` must be from 1 to 1000000, got 0."),
        ({"canvas": 27}, "`canvas` must be from 28 to 4096, got 27."),
    ):
        with pytest.raises(SystemExit, match=problem):
            run(wheel, out, **settings)
        assert not out.exists()


def test_a_folder_that_holds_something_is_left_alone(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(SystemExit, match="`out` must be a folder that is new or empty, got"):
        run(wheel, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
