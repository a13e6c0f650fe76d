"""The micrograph of stardist's wheel, a generated one here, as tiles with masks and boxes."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from nuclei import generated_nuclei, write_wheel
from runs import recipe

prepare = recipe("data/prepare_nuclei")
#: Pixels: height and width of the generated micrograph, and the side of a tile.
SIZE, SIDE = (256, 384), 128


def run(wheel: Path, out: Path) -> None:
    prepare.main(prepare.Settings(wheel, out))


@pytest.fixture(scope="module")
def micrograph() -> tuple[np.ndarray, np.ndarray]:
    return generated_nuclei(SIZE, 30)


@pytest.fixture(scope="module")
def nuclei(
    micrograph: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("nuclei")
    run(write_wheel(folder / "stardist.whl", *micrograph), folder / "out")
    return folder / "out"


def tile_of(path: Path) -> tuple[slice, slice]:
    top, left = map(int, path.stem.split("_"))
    return slice(top, top + SIDE), slice(left, left + SIDE)


@pytest.mark.parametrize("part", ["train", "val"])
def test_every_tile_shows_its_place_of_the_micrograph_and_of_the_instances(
    part: str, nuclei: Path, micrograph: tuple[np.ndarray, np.ndarray]
) -> None:
    image, instances = micrograph
    paths = sorted((nuclei / part / "images").iterdir())
    assert len(paths) == {"train": 3 * 3, "val": 2}[part]
    for path in paths:
        tile = tile_of(path)
        stored = {
            name: np.asarray(Image.open(nuclei / part / name / path.name))
            for name in ("images", "masks", "instances")
        }
        assert stored["images"].dtype == np.uint8
        np.testing.assert_allclose(stored["images"], image[tile] * (255 / image.max()), atol=0.51)
        np.testing.assert_array_equal(stored["instances"], instances[tile])
        np.testing.assert_array_equal(stored["masks"], instances[tile] > 0)


@pytest.mark.parametrize("part", ["train", "val"])
def test_boxes_enclose_what_a_tile_shows_of_every_nucleus(
    part: str, nuclei: Path, micrograph: tuple[np.ndarray, np.ndarray]
) -> None:
    content = json.loads((nuclei / part / "coco.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["nucleus"]
    num_boxes = 0
    for entry in content["images"]:
        tile = micrograph[1][tile_of(Path(entry["file_name"]))]
        expected = []
        for number, where in enumerate(ndimage.find_objects(tile.astype(int)), 1):
            if where is not None and (tile == number).sum() >= 30:
                rows, columns = where
                size = columns.stop - columns.start, rows.stop - rows.start
                expected.append([columns.start, rows.start, *size])
        rows_of_image = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert [annotation["bbox"] for annotation in rows_of_image] == expected
        num_boxes += len(expected)
    assert num_boxes == len(content["annotations"]) > 5


def test_no_pixel_of_validation_is_in_training(nuclei: Path) -> None:
    seen = {}
    for part in ("train", "val"):
        seen[part] = np.zeros(SIZE, bool)
        for path in (nuclei / part / "images").iterdir():
            seen[part][tile_of(path)] = True
    assert not (seen["train"] & seen["val"]).any()
    assert (seen["train"] | seen["val"]).all()


def test_an_installed_package_gives_the_same_files_as_its_wheel(
    nuclei: Path, micrograph: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path / "stardist.whl", *micrograph)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    run(tmp_path / "site", tmp_path / "out")
    names = sorted(str(path.relative_to(nuclei)) for path in nuclei.rglob("*.*"))
    assert len(names) == 3 * (9 + 2) + 2
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (nuclei / name).read_bytes()


def test_what_is_no_wheel_of_stardist_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    text, empty, out = tmp_path / "a.whl", tmp_path / "b.whl", tmp_path / "out"
    text.write_text("no archive")
    with zipfile.ZipFile(empty, "w") as wheel:
        wheel.writestr("other/__init__.py", "")
    odd = write_wheel(tmp_path / "c.whl", np.zeros(SIZE, np.uint16), np.zeros((9, 9), np.uint16))
    small = write_wheel(tmp_path / "d.whl", *generated_nuclei((256, 130), 3))
    missing = tmp_path / "nothing"
    problems = {
        text: f"`wheel` must be a wheel of stardist, and {text} is no zip archive.",
        empty: f"`wheel` must hold {prepare.IMAGE}, and {empty} does not. stardist 0.9.2 does.",
        odd: r"must be of one size, 256 px at least, got (256, 384) and (9, 9).",
        small: r"must be of one size, 256 px at least, got (256, 130) and (256, 130).",
        missing: f"`wheel` must be a file or folder, got {missing}.",
    }
    for wheel, problem in problems.items():
        with pytest.raises(SystemExit, match="prepare_nuclei: .*" + re.escape(problem)):
            run(wheel, out)
        assert not out.exists()


def test_a_folder_that_holds_something_is_left_alone(
    micrograph: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path / "stardist.whl", *micrograph)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(SystemExit, match="`out` must be a folder that is new or empty, got"):
        run(wheel, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
