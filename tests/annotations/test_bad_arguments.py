"""What is no path, no file, no folder or no list is refused by the argument's name."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dali_cutmix import (
    Boxes,
    BucketFiles,
    Clips,
    ImageArrays,
    Masks,
    Notes,
    Rows,
    TarShards,
    TFRecords,
    VolumeMasks,
    Volumes,
    read_cityscapes,
    read_coco_boxes,
    read_coco_masks,
    read_coco_panoptic,
    read_masks,
    read_notes,
    read_rows,
    read_voc_boxes,
    read_voc_masks,
    read_yolo_boxes,
)

#: Values that are no path: of another type each.
NO_PATHS = [None, 5, [], {"a": 1}]

#: Each reader, with its paths: a letter for a file (f) or a folder (d), by argument.
READERS: dict[Callable[..., Any], dict[str, str]] = {
    read_cityscapes: {"root": "d"},
    read_coco_boxes: {"annotations": "f", "images": "d"},
    read_coco_masks: {"annotations": "f", "images": "d"},
    read_coco_panoptic: {"annotations": "f", "images": "d", "masks": "d"},
    read_masks: {"images": "d", "masks": "d"},
    read_notes: {"images": "d", "table": "f"},
    read_rows: {"images": "d", "table": "f"},
    read_voc_boxes: {"annotations": "d", "images": "d", "image_set": "f"},
    read_voc_masks: {"root": "d"},
    read_yolo_boxes: {"labels": "d", "images": "d"},
}
PLACES = [(read, name) for read, names in READERS.items() for name in names]


def good_paths(read: Callable[..., Any], folder: Path) -> dict[str, str]:
    """Paths that the reader gets past: the fault of one is the only fault."""
    images = folder / "images"
    images.mkdir()
    Image.new("RGB", (8, 6)).save(images / "a.png")
    table, coco, names = folder / "table.csv", folder / "coco.json", folder / "train.txt"
    table.write_text("file,value\na.png,1\n")
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
                "categories": [{"id": 1, "name": "cat"}],
                "annotations": [],
            }
        )
    )
    names.write_text("a\n")
    files = {"table": table, "annotations": coco, "image_set": names}
    return {
        name: str(files[name] if kind == "f" else images) for name, kind in READERS[read].items()
    }


@pytest.mark.parametrize("value", NO_PATHS)
@pytest.mark.parametrize(("read", "name"), PLACES, ids=lambda part: getattr(part, "__name__", part))
def test_what_is_no_path_is_refused(
    read: Callable[..., Any], name: str, value: Any, tmp_path: Path
) -> None:
    if (name, value) == ("image_set", None):
        return  # asks for all files
    arguments = {**good_paths(read, tmp_path), name: value}
    rule = "be a path"
    if read in (read_notes, read_rows) and name == "images":
        rule = "be a folder or a list of files"  # which `images` may be too
        value = type(value).__name__
    message = f"{read.__name__}: `{name}` must {rule}, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read(**arguments)


@pytest.mark.parametrize("problem", ["does not exist", "is a folder", "is a file"])
@pytest.mark.parametrize(("read", "name"), PLACES, ids=lambda part: getattr(part, "__name__", part))
def test_missing_files_and_folders_are_named_by_the_argument(
    read: Callable[..., Any], name: str, problem: str, tmp_path: Path
) -> None:
    kind = "file" if READERS[read][name] == "f" else "folder"
    if problem == f"is a {kind}":
        return
    arguments = good_paths(read, tmp_path)
    path = tmp_path / "other"
    if problem == "is a folder":
        path.mkdir()
    if problem == "is a file":
        path.write_bytes(b"")
    message = f"{read.__name__}: `{name}` must be a {kind}, but {path} {problem}."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        read(**{**arguments, name: str(path)})


@pytest.mark.parametrize("name", ["masks", "images", "xml", "labels"])
def test_a_folder_that_cannot_be_read_is_refused_and_not_taken_for_empty(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = {"masks": "png", "images": "png", "xml": "xml", "labels": "txt"}
    for folder, ending in endings.items():
        for path in (tmp_path / folder / f"1.{ending}", tmp_path / folder / "b" / f"2.{ending}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("<annotation/>" if ending == "xml" else "")
    scandir = os.scandir

    def deny(path: Any) -> Any:  # also for root, who reads everything
        if Path(path) == tmp_path / name / "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    message = (
        f"must be readable, but {str(tmp_path / name / 'b')!r} is not: Permission denied. Change "
        "its permissions, or move it elsewhere."
    )
    readers: dict[str, Callable[..., Any]] = {
        "masks": lambda: read_masks(tmp_path / "images", tmp_path / "masks"),
        "xml": lambda: read_voc_boxes(tmp_path / "xml", tmp_path / "images"),
        "labels": lambda: read_yolo_boxes(tmp_path / "labels", tmp_path / "images"),
    }
    for read in readers.values() if name == "images" else [readers[name]]:
        with pytest.raises(PermissionError, match=f"{re.escape(message)}$"):
            read()


@pytest.mark.parametrize("value", [None, 5, 0.5])
@pytest.mark.parametrize(
    ("make", "start"),
    [
        (Masks, "Masks: `masks` must be a list of paths, or arrays"),
        (VolumeMasks, "VolumeMasks: `masks` must be a list of arrays or paths, at least one"),
        (Volumes, "Volumes: `volumes` must be a list of arrays or paths"),
        (Clips, "Clips: `clips` must be a list of at least one folder of frames"),
        (lambda v: Boxes(v, v), "Boxes: `boxes` must be a list with an item for each image"),
        (
            lambda v: Boxes([[[0, 0, 1, 1]]], v),
            "Boxes: `classes` must be a list with an item for each image",
        ),
        (
            lambda v: Boxes([[[0, 0, 1, 1]]], [[0]], fields={"iscrowd": v}),
            "Boxes: `fields['iscrowd']` must be a list with an item for each image",
        ),
        (Notes, "Notes: `values` must be a list of notes"),
        (Rows, "Rows: `values` must be [N, d] or [N] numbers, and at least one"),
        (lambda v: ImageArrays(v, [0]), "ImageArrays: `images` must be a list or an array of"),
        (TarShards, "TarShards: `shards` must be a path or URL, or several"),
        (TFRecords, "TFRecords: `shards` must be a path or URL, or several"),
        (BucketFiles, "DataLoader: `source` must be s3://bucket/key"),
    ],
)
def test_what_is_no_list_is_refused(make: Callable[[Any], Any], start: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*, got "):
        make(value)


#: Names of classes that are refused, where, and by which rule.
BAD_NAMES: list[tuple[Any, str, str]] = [
    ("cat", "", "a list of texts, a name for each class"),
    (5, "", "a list of texts, a name for each class"),
    ({0: "cat", 1: "dog"}, "", "a list of texts, a name for each class"),
    ({"cat"}, "", "a list of texts, a name for each class"),
    (["cat", None], "[1]", "a text, the name of a class"),
    ([b"cat", "dog"], "[0]", "a text, the name of a class"),
]


@pytest.mark.parametrize(("names", "at", "rule"), BAD_NAMES)
def test_names_of_classes_that_are_no_list_of_texts_are_refused(
    names: Any, at: str, rule: str
) -> None:
    got = names[int(at[1])] if at else names
    corners, zero = np.array([[0, 0, 1, 1]]), np.array([0])
    for where, make in (
        ("Boxes", lambda: Boxes([corners], [zero], names=names)),
        ("Boxes", lambda: Boxes.from_flat(corners, zero, zero + 1, names=names)),
        ("Masks", lambda: Masks(np.zeros((1, 4, 6), np.uint8), names=names)),
    ):
        message = f"{where}: `names{at}` must be {rule}, got {got!r}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make()


@pytest.mark.parametrize(("classes", "at", "rule"), BAD_NAMES)
@pytest.mark.parametrize("read", [read_voc_boxes, read_yolo_boxes])
def test_classes_of_readers_that_are_no_list_of_texts_are_refused(
    read: Callable[..., Any], classes: Any, at: str, rule: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "a.xml").write_text("<annotation></annotation>")
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    got = classes[int(at[1])] if at else classes
    message = f"{read.__name__}: `classes{at}` must be {rule}, got {got!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(tmp_path, tmp_path, classes=classes)


def test_names_of_classes_may_be_any_sequence_of_texts() -> None:
    for names in (["a"], ("a",), np.array(["a"])):
        assert Boxes([[[0, 0, 1, 1]]], [[0]], names=names).names == ["a"]
        assert Masks(np.zeros((1, 4, 6), np.uint8), names=names).names == ["a"]


@pytest.mark.parametrize("fields", [5, "iscrowd", [[0]], [("iscrowd", [[0]])]])
def test_fields_of_boxes_that_are_no_mapping_are_refused(fields: Any) -> None:
    rule = "`fields` must be a mapping from names to values"
    with pytest.raises(ValueError, match=f"^Boxes: {re.escape(rule)}, got "):
        Boxes([[[0, 0, 1, 1]]], [[0]], fields=fields)
    with pytest.raises(ValueError, match=f"^{re.escape(f'Boxes.from_flat: {rule}')}, got "):
        Boxes.from_flat(np.zeros((1, 4)), np.zeros(1, np.int64), np.array([1]), fields=fields)


def test_boxes_of_a_generator_are_refused() -> None:
    rule = "`boxes` must be a list with an item for each image, got <generator"
    with pytest.raises(ValueError, match=f"^Boxes: {re.escape(rule)}"):
        Boxes((corners for corners in [[[0, 0, 1, 1]]]), [[0]])  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["npy", "nii", "nii.gz"])
@pytest.mark.parametrize("make", [Volumes, VolumeMasks])
def test_a_missing_volume_is_named(make: Callable[[Any], Any], ending: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.uint8))
    path = tmp_path / f"b.{ending}"
    message = f"{make.__name__}: the volume {path} does not exist."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        make([tmp_path / "a.npy", path])
