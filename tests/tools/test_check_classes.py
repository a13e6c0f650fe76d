"""``dali-cutmix check --boxes``: classes that a model does not have are listed by their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import Boxes, FileList
from dali_cutmix.tools.check.boxes import check_boxes
from dali_cutmix.tools.check.check import check

app = typer.Typer()
app.command()(check)

ODD = "Boxes, class out of range, correct the box or the classes"


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
        app, [str(argument) for argument in arguments]
    )
    return result.exit_code, result.output


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of 40 x 30 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


def yolo(folder: Path) -> Path:
    """A box of class 0, and boxes of classes 2 and 3 in another image."""
    folder.mkdir()
    (folder / "0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "1.txt").write_text("2 0.5 0.5 0.5 0.5\n3 0.25 0.5 0.5 0.5\n")
    return folder


def coco(path: Path) -> Path:
    """A box of the class cat, and boxes of the classes dog and bird in another image."""
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 30, "width": 40} for n in range(2)],
        "categories": [
            {"id": 7, "name": "bird"},
            {"id": 3, "name": "dog"},
            {"id": 1, "name": "cat"},
        ],
        "annotations": [
            {"image_id": 0, "category_id": 1, "bbox": [10, 7, 20, 15]},
            {"image_id": 1, "category_id": 3, "bbox": [10, 7, 20, 15]},
            {"image_id": 1, "category_id": 7, "bbox": [0, 7, 20, 15]},
        ],
    }
    path.write_text(json.dumps(content))
    return path


def voc(folder: Path) -> Path:
    """The boxes of `coco`."""
    folder.mkdir()

    def thing(name: str, x: int) -> str:
        sides = f"<xmin>{x + 1}</xmin><ymin>8</ymin><xmax>{x + 20}</xmax><ymax>22</ymax>"
        return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"

    for name, things in (("0", thing("cat", 10)), ("1", thing("dog", 10) + thing("bird", 0))):
        (folder / f"{name}.xml").write_text(f"<annotation>{things}</annotation>")
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\ndog\n\nbird\n"),
        ("data.yaml", "names: [cat, dog, bird]\n"),
        ("data.yml", "path: here\nnames:\n  0: cat\n  2: bird\n  1: dog\n"),
    ],
)
def test_classes_of_yolo_beyond_the_names_are_listed(
    images: Path, tmp_path: Path, name: str, text: str
) -> None:
    if name != "classes.txt":
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    labels = yolo(tmp_path / "labels")
    code, output = run(images, "--boxes", labels, "--names", tmp_path / name)
    assert output.endswith(
        f"{ODD}: 1\n  {images}/1.png: box (0, 7.5, 20, 22.5), class 3, and there are 3: 0 to 2\n"
        "1 of 3 boxes are odd; 0 of 2 images have none.\n"
    )
    assert code == 1


def test_classes_of_yolo_are_counted_without_names(images: Path, tmp_path: Path) -> None:
    labels = yolo(tmp_path / "labels")
    code, output = run(images, "--boxes", labels, "--num-classes", 2)
    assert (
        f"{ODD}: 2\n  {images}/1.png: box (10, 7.5, 30, 22.5), class 2, and there are 2" in output
    )
    assert code == 1
    code, output = run(images, "--boxes", labels, "--num-classes", 4)
    assert output.endswith("All 3 boxes are fine; 0 of 2 images have none.\n")
    assert code == 0


@pytest.mark.parametrize("write", [coco, voc])
def test_classes_of_coco_and_voc_are_compared_by_their_names(
    write: Any, images: Path, tmp_path: Path
) -> None:
    boxes, names = write(tmp_path / "boxes"), tmp_path / "names.txt"
    names.write_text("bird\ncat\nhorse\n")
    code, output = run(images, "--boxes", boxes, "--names", names)
    assert output.endswith(
        f"{ODD}: 1\n"
        f"  {images}/1.png: box (10, 7, 30, 22), class 'dog', which is none of the 3 names\n"
        "1 of 3 boxes are odd; 0 of 2 images have none.\n"
    )
    assert code == 1
    names.write_text("bird\ncat\ndog\n")
    assert run(images, "--boxes", boxes, "--names", names)[0] == 0


def test_classes_of_coco_are_counted_in_the_order_of_their_ids(
    images: Path, tmp_path: Path
) -> None:
    code, output = run(images, "--boxes", coco(tmp_path / "boxes.json"), "--num-classes", 2)
    remark = "box (0, 7, 20, 22), class 2, 'bird', and there are 2: 0 to 1"
    assert f"{ODD}: 1\n  {images}/1.png: {remark}\n" in output
    assert code == 1


def test_a_box_that_is_odd_twice_is_listed_twice_and_counted_once(images: Path) -> None:
    corners = np.array([[50.0, 4, 57, 9], [1, 1, 5, 5]])
    boxes = Boxes.from_flat(corners, np.array([4, 1]), np.array([2, 0]))
    files = FileList.from_paths([images / "0.png", images / "1.png"])
    report = check_boxes(files, boxes, num_classes=3)
    assert [box.kind for box in report.odd] == ["outside the image", "class out of range"]
    assert (report.num_odd, report.num_boxes, report.is_bad) == (1, 2, True)


def test_an_id_without_a_category_is_named(images: Path, tmp_path: Path) -> None:
    path = coco(tmp_path / "boxes.json")
    path.write_text(path.read_text().replace('"category_id": 7', '"category_id": 8'))
    code, output = run(images, "--boxes", path)
    assert code == 1
    rule = "must have the id of a category as annotations[2].category_id, got 8."
    assert f"{path} {rule}" in output


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("none.txt", None, "none.txt"),
        ("empty.txt", b"\n", "`--names` must hold the name of a class on each line"),
        ("bytes.txt", b"\xff\xfe\x00", "`--names` must be text in UTF-8"),
        ("data.yaml", b"nc: 3\n", "`--names` must have `names`, a list or a mapping from 0, 1"),
        ("list.yaml", b"[cat]\n", "`--names` must have `names`, a list or a mapping from 0, 1"),
        ("gap.yaml", b"names: {0: a, 2: b}\n", "`--names` must have `names`, a list or a mapping"),
        ("bad.yaml", b"names: [cat\n", "`--names` must be YAML"),
    ],
)
def test_files_without_names_are_one_sentence(
    images: Path, tmp_path: Path, name: str, data: bytes | None, rule: str
) -> None:
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    if data is not None:
        (tmp_path / name).write_bytes(data)
    code, output = run(images, "--boxes", yolo(tmp_path / "labels"), "--names", tmp_path / name)
    assert code == 1
    assert rule in output
    assert name in output
    assert "Traceback" not in output


def test_options_of_classes_go_with_boxes(images: Path, tmp_path: Path) -> None:
    labels = yolo(tmp_path / "labels")
    code, output = run(images, "--names", labels)
    assert (code, "goes with --boxes." in output) == (2, True)
    code, output = run(images, "--boxes", labels, "--names", labels, "--num-classes", 3)
    assert (code, "goes without --names" in output) == (2, True)
