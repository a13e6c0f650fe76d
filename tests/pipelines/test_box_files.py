"""Boxes of the images of an evaluation, from each kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_cutmix import FileList
from evaluation.box_files import read_boxes

#: Boxes by the path of the image: x0, y0, x1, y1, from 0, corners exclusive.
BOXES = {
    "cat/a 1.png": [(2, 3, 10, 12), (0, 0, 5, 4)],
    "cat/b.png": [(1, 1, 30, 20)],
    "dog/c.png": [(4, 0, 9, 24)],
}


@pytest.fixture
def images(tmp_path: Path) -> FileList:
    """Images of two classes, the last of which, ``dog/d.png``, has no box."""
    for name in (*BOXES, "dog/d.png"):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24)).save(path)
    return FileList.from_folder(tmp_path / "val")


def csv(path: Path, names: dict[str, str]) -> Path:
    lines = [f'"{names[n]}",{",".join(map(str, box))}' for n, rows in BOXES.items() for box in rows]
    path.write_text("\ufeffpath,x0,y0,x1,y1\n" + "\n".join(lines) + "\n")
    return path


def coco(path: Path, names: dict[str, str]) -> Path:
    rows = [
        {
            "id": 10 * image + number,
            "image_id": image,
            "category_id": 7,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": 1,
            "iscrowd": 0,
        }
        for image, boxes in enumerate(BOXES.values())
        for number, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    images = [
        {"id": i, "file_name": names[name], "width": 32, "height": 24}
        for i, name in enumerate(BOXES)
    ]
    categories = [{"id": 7, "name": "animal"}]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return path


def voc(path: Path, names: dict[str, str]) -> Path:
    """XML files, whose pixels count from 1 and whose corners are inclusive."""
    for name, rows in [*BOXES.items(), ("cat/elsewhere.png", [(0, 0, 1, 1)])]:
        file = path / Path(names.get(name, name)).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        objects = "".join(
            f"<object><name>animal</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for x0, y0, x1, y1 in rows
        )
        file.write_text(f"<annotation><filename>x</filename>{objects}</annotation>")
    return path


WRITERS = {"boxes.csv": csv, "boxes.json": coco, "xml": voc}


@pytest.mark.parametrize("folders", [True, False], ids=["by path", "by name alone"])
@pytest.mark.parametrize("kind", WRITERS)
def test_images_with_boxes_are_taken_with_their_classes_and_boxes(
    kind: str, folders: bool, images: FileList, tmp_path: Path
) -> None:
    names = {name: name if folders else Path(name).name for name in BOXES}
    path = WRITERS[kind](tmp_path / kind, names)

    source, boxes = read_boxes(path, images)

    assert [
        Path(sample).relative_to(tmp_path / "val").as_posix() for sample, _ in source.samples
    ] == [*BOXES]
    assert source.targets.tolist() == [0, 0, 1]
    assert source.classes == ["cat", "dog"]
    for index, rows in enumerate(BOXES.values()):
        np.testing.assert_array_equal(boxes[index]["boxes"], rows)


def changed(path: Path, categories: list[str], crowd: int | None = None) -> Path:
    """A JSON of COCO: an image of a cat, and one of a dog, with a box of each category."""
    boxes = [
        {"id": 9 * i + k, "image_id": i, "category_id": k, "bbox": [2 * k, 1, 2, 5], "area": 10}
        | {"iscrowd": int(k == crowd)}
        for i in (1, 2)
        for k in range(len(categories))
    ]
    names = ("cat/b.png", "dog/c.png")
    images = [{"id": i, "file_name": n, "width": 32, "height": 24} for i, n in enumerate(names, 1)]
    listing = [{"id": k, "name": name} for k, name in enumerate(categories)]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": listing}))
    return path


def lefts(path: Path, images: FileList) -> list[list[float]]:
    """The left side of every box of each image."""
    source, boxes = read_boxes(path, images)
    return [boxes[index]["boxes"][:, 0].tolist() for index in range(len(source.samples))]


def test_boxes_of_another_class_are_left_out_where_the_file_knows_the_images_class(
    images: FileList, tmp_path: Path
) -> None:
    path = tmp_path / "boxes.json"
    assert lefts(changed(path, ["dog", "cat"]), images) == [[2], [0]]
    assert lefts(changed(path, ["dog", "tree"]), images) == [[0, 2], [0]]  # cats have no name
    assert lefts(changed(path, ["animal", "tree"]), images) == [[0, 2], [0, 2]]


def test_boxes_of_crowds_are_left_out(images: FileList, tmp_path: Path) -> None:
    path = changed(tmp_path / "boxes.json", ["animal", "herd"], crowd=1)
    assert lefts(path, images) == [[0], [0]]


def test_objects_of_vocs_files_are_those_of_the_images_class(
    images: FileList, tmp_path: Path
) -> None:
    path = voc(tmp_path / "xml", {})
    file = path / "cat" / "a 1.xml"
    file.write_text(file.read_text().replace("animal", "cat", 1))
    assert lefts(path, images)[0] == [BOXES["cat/a 1.png"][0][0]]


@pytest.mark.parametrize("kind", WRITERS)
def test_boxes_of_other_images_alone_are_refused(
    kind: str, images: FileList, tmp_path: Path
) -> None:
    names = {name: f"other/{number}.png" for number, name in enumerate(BOXES)}
    path = WRITERS[kind](tmp_path / kind, names)
    with pytest.raises(SystemExit) as refusal:
        read_boxes(path, images)
    assert str(refusal.value).startswith(
        f"evaluate: `boxes` must hold boxes of the images of `data`, and {path} names none of "
        "them. The first image of `data` is cat/a 1.png, and the first of `boxes` "
    )


def test_a_box_without_area_is_no_box(images: FileList, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("path,x0,y0,x1,y1\ncat/b.png,3,3,3,9\ndog/c.png,0,0,4,4\n")
    source, _ = read_boxes(path, images)
    assert [Path(sample).name for sample, _ in source.samples] == ["c.png"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("boxes.csv", "path,x,y\n", "the first line must name the columns path, x0, y0, x1, y1."),
        (
            "boxes.csv",
            "path,x0,y0,x1,y1\na,1,2,3,four\n",
            "line 2: y1 must be a finite number, got 'four'.",
        ),
        (
            "boxes.csv",
            "path,x0,y0,x1,y1\na,1,2,3\n",
            "line 2: y1 must be a finite number, got None.",
        ),
        (
            "boxes.csv",
            "path,x0,y0,x1,y1\ncat/b.png,5,0,1,9\n",
            "line 2: x0 <= x1 and y0 <= y1 must hold",
        ),
        (
            "boxes.csv",
            "path,x0,y0,x1,y1\ncat/b.png,nan,0,1,9\n",
            "line 2: x0 must be a finite number, got 'nan'",
        ),
        ("boxes.json", "{", "Expecting property name"),
        ("boxes.json", "[]", "read_coco_boxes"),
        ("boxes.txt", "", "be a folder of VOC's XML files, a .json of COCO or a .csv table"),
        ("missing.csv", None, "and must exist, got"),
    ],
)
def test_files_that_are_no_boxes_are_refused(
    name: str, text: str | None, problem: str, images: FileList, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as refusal:
        read_boxes(tmp_path / name, images)
    assert problem in str(refusal.value)
    assert str(tmp_path / name) in str(refusal.value)
