"""What ``dali-cutmix check --boxes`` finds: boxes that are odd, and classes out of range."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.coco_boxes import read_coco_boxes
from dali_cutmix.annotations.listing import names_below
from dali_cutmix.annotations.voc_boxes import read_voc_boxes
from dali_cutmix.annotations.yolo_boxes import read_yolo_boxes
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.sizes import upright_size
from dali_cutmix.tools.check.parts import names_in

#: Pixels. Tools round corners to whole pixels, counted from 0 or 1.
_TOLERANCE = 1.0

_OF_CLASS = "class out of range"

#: Kinds of odd boxes, and what a loader does with them, or what to do.
ODD_KINDS = {
    "no area": "never served",
    "outside the image": "never served",
    "partly outside the image": "clipped",
    _OF_CLASS: "correct the box or the classes",
}


@dataclass(frozen=True)
class OddBox:
    """Name a box that is not as it should be.

    Attributes:
        kind: One of `ODD_KINDS`.
        path: The image.
        corners: The box, (x0, y0, x1, y1) in pixels.
        remark: What else there is to say of the box. May be empty.
    """

    kind: str
    path: str
    corners: tuple[float, ...]
    remark: str

    def __str__(self) -> str:
        corners = ", ".join(format(corner, "g") for corner in self.corners)
        return f"{self.path}: box ({corners}){self.remark and ', '}{self.remark}"


@dataclass(frozen=True)
class BoxReport:
    """Say what the boxes of a source hold.

    Attributes:
        odd: Odd boxes: a box may be odd in two ways.
        num_odd: Boxes that are odd.
        num_boxes: All boxes.
        num_empty: Images without boxes.
        num_images: All images.
    """

    odd: tuple[OddBox, ...]
    num_odd: int
    num_boxes: int
    num_empty: int
    num_images: int

    @property
    def is_bad(self) -> bool:
        """Whether a box is odd."""
        return bool(self.odd)

    def lines(self) -> list[str]:
        """Return the report in lines."""
        lines: list[str] = []
        for kind, outcome in ODD_KINDS.items():
            lines += names_in(
                f"Boxes, {kind}, {outcome}", [str(box) for box in self.odd if box.kind == kind]
            )
        count = f"All {self.num_boxes} boxes are fine"
        if self.num_odd:
            count = f"{self.num_odd} of {self.num_boxes} boxes are odd"
        return [*lines, f"{count}; {self.num_empty} of {self.num_images} images have none."]


def open_boxes(
    boxes: str | os.PathLike[str], images: str, *, where: str = "check"
) -> tuple[FileList, Boxes]:
    """Read boxes by the reader for what a path leads to.

    Args:
        boxes: COCO's JSON file, a folder of Pascal VOC's XML files, or a folder of YOLO's texts.
        images: Folder of the images.
        where: Command that reads, for messages.

    Returns:
        The images, and the boxes of each. Class 0 is the background.

    Raises:
        OSError: A file or folder is missing, or cannot be read.
        ValueError: Boxes are malformed, or of classes that are not listed; the reader names them.
    """
    path = Path(boxes).expanduser()
    if not path.is_dir():
        return read_coco_boxes(path, images)
    is_voc = bool(names_below(where, "--boxes", str(path), (".xml",)))
    return (read_voc_boxes if is_voc else read_yolo_boxes)(path, images)


def check_boxes(
    images: FileList,
    boxes: Boxes,
    *,
    names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> BoxReport:
    """List boxes without area, more than a pixel beyond their images, or of classes out of range.

    Args:
        images: The images. An image without a readable header is not compared.
        boxes: The boxes of each, as `open_boxes` returns them.
        names: Names of the classes, without the background. Boxes of named classes are compared by
            their names, others by their indices. None takes all.
        num_classes: Number of classes, without the background. None takes all.
    """
    remarks = _remarks_on_classes(boxes, names, num_classes)
    odd: list[OddBox] = []
    num_odd = 0
    for index in range(len(images)):
        corners, labels = (boxes[index][name] for name in ("boxes", "labels"))
        if not len(corners):
            continue
        path = images.path(index)
        kinds, size = _kinds_of(corners, path)
        image = "" if size is None else f"image {size[1]} x {size[0]}"
        for kind, row, label in zip(kinds, corners.tolist(), labels.tolist(), strict=True):
            remark = remarks.get(label)
            if kind:
                odd.append(OddBox(kind, path, tuple(row), image))
            if remark is not None:
                odd.append(OddBox(_OF_CLASS, path, tuple(row), remark))
            num_odd += bool(kind) or remark is not None
    num_empty = int((boxes.counts == 0).sum())
    return BoxReport(tuple(odd), num_odd, int(boxes.counts.sum()), num_empty, len(images))


def _kinds_of(corners: np.ndarray, path: str) -> tuple[list[str], tuple[int, int] | None]:
    """Return how each box of an image is odd, "" where it is not, and the size of the image."""
    try:
        size = upright_size(path)
    except OSError:  # which the check of the image names
        size = None
    kinds = np.full(len(corners), "", dtype=object)
    if size is not None:
        border = np.array(size[::-1])
        beyond = (corners[:, :2] < -_TOLERANCE) | (corners[:, 2:] > border + _TOLERANCE)
        kinds[beyond.any(axis=1)] = "partly outside the image"
        outside = (corners[:, 2:] <= 0) | (corners[:, :2] >= border)
        kinds[outside.any(axis=1)] = "outside the image"
    kinds[(corners[:, 2:] <= corners[:, :2]).any(axis=1)] = "no area"
    return kinds.tolist(), size


def _remarks_on_classes(
    boxes: Boxes, names: Sequence[str] | None, num_classes: int | None
) -> dict[int, str]:
    """Return what is wrong with classes, by label. Labels in range are missing."""
    remarks: dict[int, str] = {}
    most = num_classes if names is None else len(names)
    labels = np.unique(np.concatenate([boxes[index]["labels"] for index in range(len(boxes))]))
    for label in labels.tolist():
        index = label - 1  # 0 is the background
        name = None if boxes.names is None else boxes.names[label]
        if names is not None and name is not None:
            if name not in names:
                remarks[label] = f"class {name!r}, which is none of the {len(names)} names"
        elif most is not None and index >= most:
            shown = index if name is None else f"{index}, {name!r}"
            remarks[label] = f"class {shown}, and there are {most}: 0 to {most - 1}"
    return remarks
