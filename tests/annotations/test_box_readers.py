"""Readers of COCO's, Pascal VOC's and YOLO's boxes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    Boxes,
    CutMix,
    DataLoader,
    EvalTransform,
    read_coco_boxes,
    read_voc_boxes,
    read_yolo_boxes,
)
from dali_cutmix.core.errors import printable

SIZE = (30, 40)  # height, width of every image, upright


def save_images(folder: Path, *names: str, orientation: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    height, width = SIZE if orientation < 5 else SIZE[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(path, exif=exif)
    return folder


def listed(boxes: Boxes) -> list[dict[str, Any]]:
    return [
        {name: values.tolist() for name, values in boxes[index].items()}
        for index in range(len(boxes))
    ]


def serve(source: Any, boxes: Boxes) -> list[dict[str, torch.Tensor]]:
    """Serve all images as they are stored."""
    keep = EvalTransform(SIZE, SIZE)
    loader = DataLoader(source, 2, transform=keep, target=boxes, device="cpu")
    return [of_image for _, target in loader for of_image in target]


# --- COCO ---------------------------------------------------------------------------------------


def annotation(**changes: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "image_id": 20,
        "category_id": 18,
        "bbox": [1, 2, 3.5, 4],
        "segmentation": [[1.5, 2, 3, 4, 5, 6]],
        **changes,
    }


def coco(folder: Path, **changes: Any) -> Path:
    """Three images, the second without annotations, and categories with gaps, in any order.

    A change to ``...`` leaves a key out.
    """
    content = {
        "info": {"description": "é, 写真"},
        "annotations": [
            annotation(),
            annotation(image_id=7, bbox=[0, 0, 8, 9], iscrowd=1, category_id=3),
            annotation(image_id=20, bbox=[5, 6, 0, 4]),
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "café"}],
        "images": [
            {"id": 20, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 9, "file_name": "b.jpg", "height": 30, "width": 40},
            {"id": 7, "file_name": "c/写真.jpg", "height": 30, "width": 40},
        ],
        **changes,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return path


def test_coco_lists_images_boxes_crowds_and_names_of_classes(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg", "b.jpg", "c/写真.jpg")
    source, boxes = read_coco_boxes(coco(tmp_path), images)
    assert [source.path(index) for index in range(3)] == [
        str(images / name) for name in ("a.jpg", "b.jpg", "c/写真.jpg")
    ]
    assert boxes.names == ["background", "café", "dog"]
    assert listed(boxes) == [
        {"boxes": [[1, 2, 4.5, 6], [5, 6, 5, 10]], "labels": [2, 2], "iscrowd": [0, 0]},
        {"boxes": [], "labels": [], "iscrowd": []},
        {"boxes": [[0, 0, 8, 9]], "labels": [1], "iscrowd": [1]},
    ]
    first, second, third = serve(source, boxes)
    assert first["boxes"].tolist() == [[1, 2, 4.5, 6]]
    assert second["boxes"].shape == (0, 4)
    assert third["iscrowd"].tolist() == [1]


def test_coco_with_an_empty_list_of_annotations_has_no_boxes(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg")
    assert read_coco_boxes(coco(tmp_path, annotations=[]), images)[1].counts.tolist() == [0, 0, 0]


def test_coco_without_background_and_without_empty_images(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg")
    source, boxes = read_coco_boxes(
        coco(tmp_path), images, background=False, empty=False, min_visible=0.7
    )
    assert len(source) == len(boxes) == 2
    assert boxes.names == ["café", "dog"]
    assert [of_image["labels"] for of_image in listed(boxes)] == [[1, 1], [0]]
    assert boxes.min_visible == 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [annotation(), annotation(bbox=[1, 2, "3", 4])]},
            "have numbers x, y, width, height as annotations[1].bbox, got [1, 2, '3', 4].",
        ),
        (
            {"annotations": [annotation(bbox=[1, 2, 3])]},
            "have numbers x, y, width, height as annotations[0].bbox, got [1, 2, 3].",
        ),
        (
            {"annotations": [annotation(bbox=None)]},
            "have numbers x, y, width, height as annotations[0].bbox, got None.",
        ),
        (
            {"annotations": [annotation(), annotation(bbox=[1, 2, float("nan"), 4])]},
            "have finite numbers as annotations[1].bbox, got [1.0, 2.0, nan, 4.0].",
        ),
        (
            {"annotations": [annotation(), annotation(bbox=[1, 2, 3, -4])]},
            "have sides of at least 0 as annotations[1].bbox, got [1.0, 2.0, 3.0, -4.0].",
        ),
        *(
            (
                {"annotations": [annotation(iscrowd=is_crowd)]},
                f"have whole numbers, 0 or 1, as annotations[0].iscrowd, got {is_crowd!r}.",
            )
            for is_crowd in (2, 300, "no", 0.0, None, [0])
        ),
        (
            {"annotations": [annotation(category_id=4)]},
            "have the id of a category as annotations[0].category_id, got 4.",
        ),
        (
            {"annotations": [annotation(image_id=4)]},
            "have an image for each annotation, and none has the id 4.",
        ),
        (
            {"annotations": [annotation(image_id=2**70)]},
            f"have whole numbers as 'image_id' in 'annotations', got {2**70}.",
        ),
        (
            {"annotations": [annotation(category_id="dog")]},
            "have whole numbers as 'category_id' in 'annotations', got 'dog'.",
        ),
        (
            {"categories": [{"id": 3, "name": "dog"}, {"id": 3, "name": "cat"}]},
            "have one category of each id, and 3 comes twice.",
        ),
        ({"categories": []}, "have 'images', 'annotations' and 'categories'."),
        ({"categories": ...}, "have 'images', 'annotations' and 'categories'."),
        ({"categories": None}, "have a list as 'categories', got None."),
        ({"annotations": None}, "have a list as 'annotations', got None."),
        ({"annotations": {"1": 2}}, "have a list as 'annotations', got {'1': 2}."),
        (
            {"annotations": ...},
            "have a list as 'annotations', got none. Files such as image_info_test-dev2017.json "
            "only list images: a loader takes the folder of the images. Where no image shows an "
            "object, add 'annotations': [].",
        ),
        (
            {"images": [{"id": 1, "file_name": "", "height": 2, "width": 2}]},
            "give file_name, height and width of images, got {'id': 1, 'file_name': '', 'height': "
            "2, 'width': 2}.",
        ),
    ],
    ids=str,
)
def test_odd_coco_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    images, path = save_images(tmp_path / "images", "a.jpg"), coco(tmp_path, **changes)
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'read_coco_boxes: the JSON {path} must {message}')}$"
    ):
        read_coco_boxes(path, images)


@pytest.mark.parametrize("rest", ["x", "{}", "\0" * 30, ' "annotations": []}', "\n]"], ids=repr)
def test_coco_with_something_behind_its_end_is_refused(tmp_path: Path, rest: str) -> None:
    images, path = save_images(tmp_path / "images", "a.jpg"), coco(tmp_path)
    path.write_text(path.read_text() + " \n" + rest)
    got = f"got {rest.strip()[:20]!r} behind it."
    message = f"read_coco_boxes: the JSON {path} must end behind its last }}, {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(printable(message))}$"):
        read_coco_boxes(path, images)


def test_coco_that_ends_before_its_brace_is_refused(tmp_path: Path) -> None:
    images, path = save_images(tmp_path / "images", "a.jpg"), coco(tmp_path)
    path.write_text(path.read_text().removesuffix("}"))
    message = f"read_coco_boxes: the JSON {path} must be complete JSON: "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_coco_boxes(path, images)


@pytest.mark.parametrize("name", ["annotations", "categories"])
@pytest.mark.parametrize(
    ("intact", "damaged", "fault"),  # at the place of |
    [
        ("}, {", "} |{", "Expecting ',' or ']'"),
        ("}, {", "}, |, {", "Expecting value"),
        ("}], ", "}, |], ", "Expecting value"),
        ("[{", "[|, {", "Expecting value"),
        ("}], ", "}] |", "Expecting ',' or '}'"),
        ("}], ", "}], |, ", "Expecting value"),
    ],
)
def test_coco_with_a_damaged_list_is_refused_with_the_position(
    tmp_path: Path, name: str, intact: str, damaged: str, fault: str
) -> None:
    images, path = save_images(tmp_path / "images", "a.jpg"), coco(tmp_path)
    start, key, rest = path.read_text().partition(f'"{name}": ')
    text = start + key + rest.replace(intact, damaged, 1)
    byte = text.index("|")
    path.write_text(text.replace("|", ""))
    message = f"read_coco_boxes: the JSON {path} must be complete JSON: {fault} at byte {byte}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_coco_boxes(path, images)


@pytest.mark.parametrize("key", ["7", "null", "[]"])
def test_coco_with_a_value_in_the_place_of_a_name_is_refused(tmp_path: Path, key: str) -> None:
    images, path = save_images(tmp_path / "images", "a.jpg"), coco(tmp_path)
    path.write_text(path.read_text().replace('"info"', key))
    with pytest.raises(ValueError, match=r"must have names in front of its values, got .+\.$"):
        read_coco_boxes(path, images)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": [{"id": 3', "a" * 5000], ids=range(5))
def test_broken_coco_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^read_coco_boxes: the JSON {re.escape(str(path))} must"):
        read_coco_boxes(path, tmp_path)


def test_coco_of_another_folder_is_refused(tmp_path: Path) -> None:
    path = coco(tmp_path)
    other = save_images(tmp_path / "other")
    message = (
        f"read_coco_boxes: `images` must be the folder of the images that {path} names, but "
        f"{other / 'a.jpg'} does not exist."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        read_coco_boxes(path, other)
    with pytest.raises(FileNotFoundError, match=r"`images` must be a folder, but .*/none does not"):
        read_coco_boxes(path, tmp_path / "none")
    with pytest.raises(ValueError, match="`empty` must be True where no image has an annotation"):
        read_coco_boxes(coco(tmp_path, annotations=[]), other, empty=False)


# --- Pascal VOC ---------------------------------------------------------------------------------


def voc_object(name: str, box: Any, extra: str = "") -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def voc(folder: Path, name: str, *objects: str, filename: str | None = None) -> Path:
    path = folder / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    filename = f"{name}.jpg" if filename is None else filename
    path.write_text(f"<annotation><filename>{filename}</filename>{''.join(objects)}</annotation>")
    return path


def test_voc_counts_pixels_from_1_and_keeps_what_is_difficult(tmp_path: Path) -> None:
    folder = tmp_path / "Annotations"
    images = save_images(tmp_path / "JPEGImages", "a.jpg", "b.jpg", "c.png")
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    objects = (
        voc_object("person", (1, 1, 1, 1), "<difficult>1</difficult>"),
        voc_object("cat", (11, 5.5, 40, 30), part),
    )
    voc(folder, "a", *objects)
    voc(folder, "b")
    voc(folder, "c", voc_object("cat", (1, 1, 40, 30)), filename="of another tool")
    source, boxes = read_voc_boxes(folder, images)
    assert [Path(source.path(index)).name for index in range(3)] == ["a.jpg", "b.jpg", "c.png"]
    assert boxes.names is not None
    assert boxes.names[0] == "background"
    assert len(boxes.names) == 21
    labels = [boxes.names.index(name) for name in ("person", "cat")]
    assert listed(boxes) == [
        {"boxes": [[0, 0, 1, 1], [10, 4.5, 40, 30]], "labels": labels, "difficult": [1, 0]},
        {"boxes": [], "labels": [], "difficult": []},
        {"boxes": [[0, 0, 40, 30]], "labels": labels[1:], "difficult": [0]},
    ]
    assert serve(source, boxes)[2]["boxes"].tolist() == [[0, 0, 40, 30]]
    _, from_0 = read_voc_boxes(folder, images, first_pixel=0, background=False)
    assert listed(from_0)[0]["boxes"] == [[1, 1, 1, 1], [11, 5.5, 40, 30]]
    assert listed(from_0)[0]["labels"] == [label - 1 for label in labels]


def test_names_in_a_list_of_voc_need_not_be_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xc3\xa8\xe9")
    images = save_images(tmp_path / "images", f"{name}.jpg", "b.jpg")
    voc(tmp_path / "xml", name, filename="")
    (tmp_path / "train.txt").write_bytes(os.fsencode(name) + b"  1\n")
    source, _ = read_voc_boxes(tmp_path / "xml", images, image_set=tmp_path / "train.txt")
    assert [path for path, _ in source.samples] == [str(images / f"{name}.jpg")]


def test_voc_of_a_list_and_of_other_classes(tmp_path: Path) -> None:
    folder = tmp_path / "xml"
    images = save_images(tmp_path / "images", "sub/a.jpg", "b.jpg")
    voc(folder, "sub/a", voc_object("nut", (1, 1, 4, 4)), filename="a.jpg")
    voc(folder, "b", voc_object("bolt", (1, 1, 4, 4)))
    (tmp_path / "train.txt").write_text("b  1\n\nsub/a -1\n")
    source, boxes = read_voc_boxes(folder, images, image_set=tmp_path / "train.txt")
    assert [source.path(index) for index in range(2)] == [
        str(images / name) for name in ("b.jpg", "sub/a.jpg")
    ]
    assert boxes.names == ["background", "bolt", "nut"]
    _, boxes = read_voc_boxes(folder, images, classes=["nut", "screw", "bolt"])
    assert [of_image["labels"] for of_image in listed(boxes)] == [[3], [1]]
    with pytest.raises(
        ValueError, match=rf"`classes` must name the class of every object, and {folder}/b.xml has"
    ):
        read_voc_boxes(folder, images, classes=["nut"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{path} must be XML, got 'no element found: line 1, column 0'."),
        ("<annotation>", "{path} must be XML, got 'no element found: line 1, column 12'."),
        ("<html/>", "{path} must begin with <annotation>, got '<html>'."),
        (
            "<annotation><object><name> </name></object></annotation>",
            "`object[0].name` in {path} must be the name of a class, got ' '.",
        ),
        (
            f"<annotation>{voc_object('cat', (1, 1, 'two', 2))}</annotation>",
            "`object[0].bndbox.xmax` in {path} must be a finite number, got 'two'.",
        ),
        (
            f"<annotation>{voc_object('cat', (1, 'nan', 2, 2))}</annotation>",
            "`object[0].bndbox.ymin` in {path} must be a finite number, got 'nan'.",
        ),
        (
            "<annotation><object><name>cat</name></object></annotation>",
            "`object[0].bndbox.xmin` in {path} must be a finite number, got None.",
        ),
        (
            f"<annotation>{voc_object('cat', (5, 1, 2, 2))}</annotation>",
            "`object[0].bndbox` in {path} must have xmin <= xmax and ymin <= ymax, got "
            "[5.0, 1.0, 2.0, 2.0].",
        ),
    ],
    ids=range(8),
)
def test_odd_voc_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    images = save_images(tmp_path / "images", "a.jpg")
    way_out = "Mend the file, or leave it out by `image_set`."
    expected = f"read_voc_boxes: {message.format(path=path)} {way_out}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        read_voc_boxes(tmp_path, images)


@pytest.mark.parametrize("encoding", ["GBK", "gb2312", "Shift_JIS", "big5", "euc-kr", "utf-16"])
def test_voc_is_read_in_the_encoding_that_its_first_line_says(
    tmp_path: Path, encoding: str
) -> None:
    images = save_images(tmp_path / "images", "a.jpg")
    name = "한글" if encoding == "euc-kr" else "人口"
    path = voc(tmp_path / "xml", "a", voc_object(name, (1, 1, 5, 5)))
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n{path.read_text()}'
    path.write_bytes(text.encode(encoding))
    assert read_voc_boxes(tmp_path / "xml", images)[1].names == ["background", name]


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("foo", "unknown encoding: foo"),
        ("GBK", "'gbk' codec can't decode byte 0xff in position 37: incomplete multibyte sequence"),
    ],
)
def test_voc_in_no_encoding_is_refused_by_name(tmp_path: Path, encoding: str, reason: str) -> None:
    images = save_images(tmp_path / "images", "a.jpg")
    first_line = f'<?xml version="1.0" encoding="{encoding}"?>\n'
    (tmp_path / "a.xml").write_bytes(first_line.encode() + b"\xff")
    message = (
        f"read_voc_boxes: {tmp_path / 'a.xml'} must be XML in the encoding {encoding}, as its "
        f"first line says, got {reason!r}. Mend the file, or leave it out by `image_set`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_voc_boxes(tmp_path, images)


def test_two_files_of_voc_with_one_image_are_refused_by_both_names(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg", "b.jpg")
    first = voc(tmp_path / "xml", "a", filename="b.jpg")
    second = voc(tmp_path / "xml", "b", filename="b.jpg")
    message = (
        f"read_voc_boxes: `filename` in {second} must name another image than {first}, got "
        "'b.jpg'. Mend the file, or leave it out by `image_set`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_voc_boxes(tmp_path / "xml", images)
    (tmp_path / "list.txt").write_text("b\n")
    assert len(read_voc_boxes(tmp_path / "xml", images, image_set=tmp_path / "list.txt")[0]) == 1


def test_voc_of_no_image_is_refused(tmp_path: Path) -> None:
    path = voc(tmp_path / "xml", "a")
    images = save_images(tmp_path / "images", "b.jpg")
    expected = f"`filename` in {path} must name an image of `images`, or have the name of an image"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_voc_boxes(tmp_path / "xml", images)
    with pytest.raises(FileNotFoundError, match="`annotations` must hold XML files"):
        read_voc_boxes(images, images)
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ValueError, match="`image_set` must name at least one file"):
        read_voc_boxes(tmp_path / "xml", images, image_set=tmp_path / "list.txt")


# --- YOLO ---------------------------------------------------------------------------------------


def yolo(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_yolo_boxes_are_shares_of_upright_sides(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg", "c.jpg", "d.png", "none.jpg")
    save_images(images, "sub/b.jpg", orientation=6)
    labels = yolo(
        tmp_path / "labels",
        a="1 0.5 0.5 0.5 0.2\n\n0\t0.1 0.1 0.2 0.2\n",
        c="",
        d="2 0.1 0.1 0.9 0.2 0.5 0.6\n",
        **{"sub/b": "0 0.5 0.5 1 1\n"},
    )
    source, boxes = read_yolo_boxes(labels, images, classes=["x", "y", "z"])
    names = [str(Path(source.path(index)).relative_to(images)) for index in range(5)]
    assert names == ["a.jpg", "c.jpg", "d.png", "none.jpg", "sub/b.jpg"]
    assert boxes.names == ["background", "x", "y", "z"]
    expected = [
        [[10, 12, 30, 18], [0, 0, 8, 6]],
        [],
        [[4, 3, 36, 18]],
        [],
        [[0, 0, 40, 30]],
    ]
    for of_image, corners in zip(listed(boxes), expected, strict=True):
        assert np.allclose(np.reshape(of_image["boxes"], (-1, 4)), np.reshape(corners, (-1, 4)))
    assert [of_image["labels"] for of_image in listed(boxes)] == [[2, 1], [], [3], [], [1]]
    assert serve(source, boxes)[4]["boxes"].tolist() == [[0, 0, 40, 30]]
    _, unnamed = read_yolo_boxes(labels, images, background=False)
    assert unnamed.names is None
    assert listed(unnamed)[0]["labels"] == [1, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 a b c d", "hold numbers only, got '0 a b c d'."),
        (
            "0 0.5 0.5 0.1",
            "be `class x y width height`, or `class` and at least three corners of a polygon, got "
            "'0 0.5 0.5 0.1'.",
        ),
        ("-1 0.5 0.5 0.1 0.1", "begin with a class index of at least 0, got '-1 0.5 0.5 0.1 0.1'."),
        ("0.5 0.5 0.5 0 0", "begin with a class index of at least 0, got '0.5 0.5 0.5 0 0'."),
        ("nan 0.5 0.5 0 0", "begin with a class index of at least 0, got 'nan 0.5 0.5 0 0'."),
        ("0 5 5 10 10", "hold shares of the image's sides, in [0, 1], got '0 5 5 10 10'."),
        ("0 nan 0 1 1", "hold shares of the image's sides, in [0, 1], got '0 nan 0 1 1'."),
        # Poses: one keypoint of three numbers, and two of which one has a visibility of 2.
        (
            "0 0.5 0.5 0.1 0.1 0.5 0.5 1",
            "be `class x y width height`, or `class` and at least three corners of a polygon, got "
            "'0 0.5 0.5 0.1 0.1 0.5 0.5 1'.",
        ),
        (
            "0 0.5 0.5 0.1 0.1 0.5 0.5 1 0.4 0.4 2",
            "hold shares of the image's sides, in [0, 1], got "
            "'0 0.5 0.5 0.1 0.1 0.5 0.5 1 0.4 0.4 2'.",
        ),
    ],
    ids=str,
)
def test_odd_yolo_is_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    images = save_images(tmp_path / "images", "a.jpg")
    labels = yolo(tmp_path / "labels", a=f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    expected = f"read_yolo_boxes: line 3 of {labels / 'a.txt'} must {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)} Mend the line, or remove it.$"):
        read_yolo_boxes(labels, images)


def test_yolo_of_other_images_or_classes_is_refused(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg")
    labels = yolo(tmp_path / "labels", b="0 0.5 0.5 0.1 0.1", a="3 0.5 0.5 0.1 0.1")
    other = yolo(tmp_path / "other", b="0 0.5 0.5 0.1 0.1")
    with pytest.raises(ValueError, match=r"`labels` must hold a \.txt for an image of `images`"):
        read_yolo_boxes(other, images)
    rule = rf"`classes` must name every class, and the text of {images}/a.jpg has class 3"
    with pytest.raises(ValueError, match=rule):
        read_yolo_boxes(labels, images, classes=["x", "y", "z"])
    for classes, rule in (("names.txt", "texts"), ([], "at least one name")):
        with pytest.raises(ValueError, match=f"`classes` must be a list of {rule}"):
            read_yolo_boxes(labels, images, classes=classes)


def test_readers_follow_links_and_leave_hidden_files_out(tmp_path: Path) -> None:
    hidden = (".hidden.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "lost+found/x.jpg")
    images = save_images(tmp_path / "images", "a.jpg", *hidden)
    save_images(tmp_path / "elsewhere", "b.jpg")
    (images / "link").symlink_to(tmp_path / "elsewhere")
    (images / "round").symlink_to(images)
    labels = yolo(tmp_path / "labels", a="0 0.5 0.5 1 1", **{"link/b": "1 0.5 0.5 1 1"})
    source, boxes = read_yolo_boxes(labels, images)
    assert [Path(source.path(index)).name for index in range(len(source))] == ["a.jpg", "b.jpg"]
    assert [of_image["labels"] for of_image in listed(boxes)] == [[1], [2]]


def test_images_that_differ_by_their_endings_alone_are_refused(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg", "a.png")
    labels = yolo(tmp_path / "labels", a="0 0.5 0.5 1 1")
    with pytest.raises(ValueError, match=r"`images` must have one file for each name .* a\.png"):
        read_yolo_boxes(labels, images)


def test_yolo_lists_unreadable_images_without_boxes_and_warns(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg", "b.jpg")
    (images / "b.jpg").write_bytes(b"no image")
    labels = yolo(tmp_path / "labels", a="0 0.5 0.5 1 1", b="0 0.5 0.5 1 1")
    with pytest.warns(UserWarning, match=rf"1 of 2 images .* as {images}/b.jpg, and are listed"):
        source, boxes = read_yolo_boxes(labels, images)
    assert len(source) == 2
    assert [len(of_image["labels"]) for of_image in listed(boxes)] == [1, 0]


def test_lists_of_readers_train_with_a_mix(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a.jpg", "b.jpg")
    labels = yolo(tmp_path / "labels", a="0 0.5 0.5 1 1", b="0 0.5 0.5 1 1")
    source, boxes = read_yolo_boxes(labels, images)
    loader = DataLoader(
        source, 2, transform=EvalTransform(SIZE, SIZE), mix=CutMix(), target=boxes, device="cpu"
    )
    ((_, target),) = loader
    assert 1 <= max(len(of_image["labels"]) for of_image in target) <= 2


@pytest.mark.parametrize(
    "read", [read_coco_boxes, read_voc_boxes, read_yolo_boxes], ids=lambda read: read.__name__
)
def test_bad_settings_are_refused_before_files_are_read(read: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{read.__name__}: `min_visible` must be in \[0, 1\]"):
        read("none", "none", min_visible=2)
    with pytest.raises(FileNotFoundError, match=f"^{read.__name__}: .* must be a folder"):
        read("none", "none")
