"""What ``dali-cutmix check --boxes`` finds of boxes: those without area or outside their images."""

from __future__ import annotations

import os
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

#: Pixels. Tools round corners to whole pixels, counted from 0 or 1.
_TOLERANCE = 1.0

#: Kinds of odd boxes, and what a loader does with them.
ODD_KINDS = {
    "no area": "never served",
    "outside the image": "never served",
    "partly outside the image": "clipped",
}


@dataclass(frozen=True)
class OddBox:
    """Name a box that is not as it should be.

    Attributes:
        kind: One of `ODD_KINDS`.
        path: The image.
        corners: The box, (x0, y0, x1, y1) in pixels.
        size: ``(height, width)`` of the upright image, in pixels. None where unknown.
    """

    kind: str
    path: str
    corners: tuple[float, ...]
    size: tuple[int, int] | None

    def __str__(self) -> str:
        corners = ", ".join(format(corner, "g") for corner in self.corners)
        image = "" if self.size is None else f", image {self.size[1]} x {self.size[0]}"
        return f"{self.path}: box ({corners}){image}"


def open_boxes(boxes: str | os.PathLike[str], images: str) -> tuple[FileList, Boxes]:
    """Read boxes by the reader for what a path leads to.

    Args:
        boxes: COCO's JSON file, a folder of Pascal VOC's XML files, or a folder of YOLO's texts.
        images: Folder of the images.

    Raises:
        OSError: A file or folder is missing, or cannot be read.
        ValueError: Boxes are malformed, or of classes that are not listed; the reader names them.
    """
    path = Path(boxes).expanduser()
    if not path.is_dir():
        return read_coco_boxes(path, images)
    is_voc = bool(names_below("check", "--boxes", str(path), (".xml",)))
    return (read_voc_boxes if is_voc else read_yolo_boxes)(path, images)


def odd_boxes(images: FileList, boxes: Boxes) -> list[OddBox]:
    """List boxes without area, and boxes more than a pixel beyond their images.

    Args:
        images: The images. An image without a readable header is not compared.
        boxes: The boxes of each.
    """
    odd: list[OddBox] = []
    for index in range(len(images)):
        corners = boxes[index]["boxes"]
        if not len(corners):
            continue
        path = images.path(index)
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
        odd += [
            OddBox(kind, path, tuple(row), size)
            for kind, row in zip(kinds, corners.tolist(), strict=True)
            if kind
        ]
    return odd
