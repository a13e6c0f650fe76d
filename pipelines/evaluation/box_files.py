"""Boxes of the images of an evaluation: from VOC's XML files, COCO's JSON or a CSV table."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dali_cutmix import Boxes, FileList, read_coco_boxes, read_voc_boxes
from evaluation.subject import NAME
from harness.processes import stop

#: Columns of a CSV table of boxes.
COLUMNS = ("path", "x0", "y0", "x1", "y1")


def read_boxes(path: Path, images: Any) -> tuple[FileList, Boxes]:
    """Return the images that have boxes, with their classes, and the boxes.

    An image is found by its path below the root of ``images``, or else by its name alone.

    Args:
        path: Where the boxes are:

            - a folder of Pascal VOC's XML files, whose pixels count from 1;
            - a ``.json`` of COCO;
            - a ``.csv`` table with the columns path, x0, y0, x1 and y1, a line for each box, in
              pixels of the upright image, from 0, corners exclusive.

        images: Images with classes, as a `FileList`.

    Returns:
        Images of ``images`` that have at least one box of some area, in their order, and the boxes
        of each. Classes of boxes are not kept.

    Raises:
        SystemExit: The file or folder cannot be read, no image has a box, or ``images`` are in
            shards.
    """
    if not isinstance(images, FileList):
        kind = type(images).__name__
        stop(NAME, f"`boxes` needs a folder of images as `data`, whose files it names, got {kind}.")
    read = {".csv": _of_csv, ".json": _of_coco}.get(path.suffix.lower())
    if path.is_dir():
        read = _of_voc
    if read is None or not path.exists():
        rule = "be a folder of VOC's XML files, a .json of COCO or a .csv table"
        stop(NAME, f"`boxes` must {rule}, and must exist, got {path}.")
    root = Path(images.root or ".")
    names = [os.path.relpath(sample, root) for sample, _ in images.samples]
    try:
        corners = read(path, root, names)
    except (OSError, ValueError) as error:
        stop(NAME, f"`boxes` must be readable, got {path}: {error}")
    rows = [corners.get(name, np.zeros((0, 4))) for name in names]
    rows = [row[(row[:, 2:] > row[:, :2]).all(axis=1)] for row in rows]
    boxed = [index for index, row in enumerate(rows) if len(row)]
    if not boxed:
        example = next(iter(corners), "no image")
        stop(
            NAME,
            f"`boxes` must hold boxes of the images of `data`, and {path} names none of them. "
            f"The first image of `data` is {names[0]}, and the first of `boxes` {example}.",
        )
    kept = [rows[index] for index in boxed]
    boxes = Boxes(kept, [np.zeros(len(row), np.int64) for row in kept], min_visible=0.0)
    return images.take(boxed), boxes


def _of_csv(path: Path, _root: Path, names: list[str]) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        missing = set(COLUMNS) - set(table.fieldnames or ())
        if missing:
            raise ValueError(f"the first line must name the columns {', '.join(COLUMNS)}.")
        lines: dict[str, list[list[float]]] = {}
        for row in table:
            corner = [_number(row[column], column, table.line_num) for column in COLUMNS[1:]]
            if not (corner[0] <= corner[2] and corner[1] <= corner[3]):
                raise ValueError(f"line {table.line_num}: x0 <= x1 and y0 <= y1 must hold.")
            lines.setdefault(os.path.normpath(row["path"] or ""), []).append(corner)
    return _by_name({name: np.array(rows) for name, rows in lines.items()}, names)


def _number(text: str | None, column: str, line: int) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text or "")):
            return number
    raise ValueError(f"line {line}: {column} must be a finite number, got {text!r}.")


def _of_coco(path: Path, _root: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Read a JSON of COCO; a stand-in is the first image, the only one the reader looks for."""
    try:
        name = str(json.loads(path.read_text(encoding="utf-8-sig"))["images"][0]["file_name"])
    except (KeyError, IndexError, TypeError):
        name = ""  # the reader says what is wrong
    with tempfile.TemporaryDirectory() as folder:
        first = os.path.normpath(os.path.join(folder, name))
        if first.startswith(folder + os.sep):
            os.makedirs(os.path.dirname(first), exist_ok=True)
            Path(first).touch()
        corners = _corners(*read_coco_boxes(path, folder), Path(folder))
    return _by_name(corners, names)


def _of_voc(path: Path, root: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Read XML files that have the names of images; links give images the files' folders.

    ImageNet's XML files lie in one folder, and its images in a folder for each class.
    """
    stems = {os.path.splitext(name)[0]: name for name in names}
    bases = {os.path.splitext(os.path.basename(name))[0]: name for name in _unique(names)}
    with tempfile.TemporaryDirectory() as folder:
        files, links = Path(folder, "files"), Path(folder, "images")
        image_of: dict[str, str] = {}
        for file in sorted(path.rglob("*.xml")):
            stem = file.relative_to(path).with_suffix("")
            image = stems.get(stem.as_posix()) or bases.get(stem.name)
            if image is not None:
                link = stem.with_name(stem.name + os.path.splitext(image)[1])
                image_of[link.as_posix()] = image
                _link(files / stem.with_name(file.name), file)
                _link(links / link, root / image)
        if not image_of:
            return {}
        corners = _corners(*read_voc_boxes(files, links), links)
    return {image_of[link]: rows for link, rows in corners.items()}


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.resolve())


def _corners(source: FileList, boxes: Boxes, root: Path) -> dict[str, np.ndarray]:
    paths = [os.path.relpath(path, root) for path, _ in source.samples]
    return {name: boxes[index]["boxes"] for index, name in enumerate(paths)}


def _by_name(corners: Mapping[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Return boxes by the paths of the images, where they are named without folders."""
    known = set(names)
    full = {os.path.basename(name): name for name in _unique(names)}
    return {
        name if name in known else full.get(os.path.basename(name), name): rows
        for name, rows in corners.items()
    }


def _unique(names: list[str]) -> list[str]:
    """Return the paths whose last part no other path has."""
    counts = Counter(map(os.path.basename, names))
    return [name for name in names if counts[os.path.basename(name)] == 1]
