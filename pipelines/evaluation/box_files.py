"""Boxes of the images of an evaluation: from VOC's XML files, COCO's JSON or a CSV table."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dali_cutmix import Boxes, FileList, read_coco_boxes, read_voc_boxes
from evaluation.refusal import refuse

#: Columns of a CSV table of boxes.
COLUMNS = ("path", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Rows:
    """Hold the boxes of an image as a file has them.

    Attributes:
        corners: ``[n, 4]`` float64 (x0, y0, x1, y1) in pixels, corners exclusive.
        names: Name of each box's class, or nothing where the file has no classes.
    """

    corners: np.ndarray
    names: tuple[str, ...] = ()

    def of_objects(self, name: str, known: Set[str]) -> np.ndarray:
        """Return the corners of boxes of some area, and of a class where the file has that class.

        Args:
            name: Name of the class.
            known: Names of all classes of the file.
        """
        chosen = (self.corners[:, 2:] > self.corners[:, :2]).all(axis=1)
        if name in known:
            chosen &= np.array([other == name for other in self.names], bool)
        return self.corners[chosen]


def read_boxes(path: Path, images: Any) -> tuple[FileList, Boxes]:
    """Return the images that have boxes, with their classes, and the boxes.

    An image is found by its path below the root of ``images``, or else by its name alone. Where
    the file has boxes of the image's class, by the name of its folder, boxes of other classes are
    left out. So are COCO's boxes of crowds.

    Args:
        path: Where the boxes are:

            - a folder of Pascal VOC's XML files, whose pixels count from 1;
            - a ``.json`` of COCO;
            - a ``.csv`` table with the columns path, x0, y0, x1 and y1, a line for each box, in
              pixels of the upright image, from 0, corners exclusive.

        images: Images with classes, as a `FileList`.

    Returns:
        Images of ``images`` that have at least one box of some area, in their order, and the boxes
        of each, all of class 0.

    Raises:
        SystemExit: The file or folder cannot be read, no image has a box, or ``images`` are in
            shards.
    """
    if not isinstance(images, FileList):
        kind = type(images).__name__
        refuse(f"`boxes` needs a folder of images as `data`, whose files it names, got {kind}.")
    read = {".csv": _of_csv, ".json": _of_coco}.get(path.suffix.lower())
    if path.is_dir():
        read = _of_voc
    if read is None or not path.exists():
        rule = "be a folder of VOC's XML files, a .json of COCO or a .csv table"
        refuse(f"`boxes` must {rule}, and must exist, got {path}.")
    root = Path(images.root or ".")
    names = [os.path.relpath(sample, root) for sample, _ in images.samples]
    try:
        rows_of = read(path, root, names)
    except (OSError, ValueError) as error:
        refuse(f"`boxes` must be readable, got {path}: {error}")
    known = {name for rows in rows_of.values() for name in rows.names}
    corners = [
        rows_of[name].of_objects(images.classes[label], known) if name in rows_of else ()
        for name, (_, label) in zip(names, images.samples, strict=True)
    ]
    boxed = [index for index, row in enumerate(corners) if len(row)]
    if not boxed:
        example = next(iter(rows_of), "no image")
        refuse(
            f"`boxes` must hold boxes of the images of `data`, and {path} names none of them. "
            f"The first image of `data` is {names[0]}, and the first of `boxes` {example}.",
        )
    boxes = Boxes(
        [corners[index] for index in boxed],
        [np.zeros(len(corners[index]), np.int64) for index in boxed],
        min_visible=0.0,
    )
    return images.take(boxed), boxes


def _of_csv(path: Path, _root: Path, names: list[str]) -> dict[str, Rows]:
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
    return _by_name({name: Rows(np.array(rows)) for name, rows in lines.items()}, names)


def _number(text: str | None, column: str, line: int) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text or "")):
            return number
    raise ValueError(f"line {line}: {column} must be a finite number, got {text!r}.")


def _of_coco(path: Path, _root: Path, names: list[str]) -> dict[str, Rows]:
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
        rows_of = _rows(*read_coco_boxes(path, folder), Path(folder))
    return _by_name(rows_of, names)


def _of_voc(path: Path, root: Path, names: list[str]) -> dict[str, Rows]:
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
        rows_of = _rows(*read_voc_boxes(files, links), links)
    return {image_of[link]: rows for link, rows in rows_of.items()}


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.resolve())


def _rows(source: FileList, boxes: Boxes, root: Path) -> dict[str, Rows]:
    """Return the boxes by the paths of the images below a folder, without boxes of crowds."""
    rows = {}
    for index, (path, _) in enumerate(source.samples):
        row = boxes[index]
        single = row["iscrowd"] == 0 if "iscrowd" in row else np.ones(len(row["labels"]), bool)
        names = tuple(boxes.names[label] for label in row["labels"][single]) if boxes.names else ()
        rows[os.path.relpath(path, root)] = Rows(row["boxes"][single], names)
    return rows


def _by_name(rows_of: Mapping[str, Rows], names: list[str]) -> dict[str, Rows]:
    """Return boxes by the paths of the images, where they are named without folders."""
    known = set(names)
    full = {os.path.basename(name): name for name in _unique(names)}
    return {
        name if name in known else full.get(os.path.basename(name), name): rows
        for name, rows in rows_of.items()
    }


def _unique(names: list[str]) -> list[str]:
    """Return the paths whose last part no other path has."""
    counts = Counter(map(os.path.basename, names))
    return [name for name in names if counts[os.path.basename(name)] == 1]
