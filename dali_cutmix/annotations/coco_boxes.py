"""Boxes of COCO's JSON for detection."""

from __future__ import annotations

import os
from array import array
from typing import Any

import numpy as np

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.coco_file import CocoFile
from dali_cutmix.annotations.listing import existing_folder, without_classes
from dali_cutmix.core.checks import check_prob, refuse, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.files import FileList

_WHERE = "read_coco_boxes"


def read_coco_boxes(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    background: bool = True,
    empty: bool = True,
    min_visible: float = 0.3,
) -> tuple[FileList, Boxes]:
    """List images of a COCO file of instances, and the boxes of each.

    Classes follow the order of category ids, which have gaps: ``boxes.names`` lists them. The field
    ``iscrowd`` (int64, 0 or 1) travels along. Of 860,000 annotations with their polygons some 200
    MB are kept while the file is read.

    Args:
        annotations: The JSON file, such as ``instances_train2017.json``.
        images: Folder of the images.
        background: Class 0 is the background, as torchvision's detection models have it, and
            categories begin at 1. False begins at 0.
        empty: Keep images without annotations.
        min_visible: As of `Boxes`.

    Returns:
        The images in the file's order, and their boxes in pixels of the upright images. A box
        without area is never served.

    Raises:
        OSError: The file cannot be read, or the first image is missing.
        ValueError: The file is not COCO's JSON. The message names the annotation and its value.
    """
    check_prob(_WHERE, min_visible, "min_visible")
    folder = existing_folder(_WHERE, "images", images)
    file = _Detections(_WHERE, annotations)
    paths = [os.path.join(folder, name) for name, _, _ in file.images]
    corners, labels, is_crowd, counts = file.columns(int(background))
    if not empty:
        if not len(labels):
            got = f"no annotation in {file.path}"
            refuse(_WHERE, "empty", "be True where no image has an annotation", got)
        paths = [path for path, count in zip(paths, counts, strict=True) if count]
        counts = counts[counts > 0]
    if not os.path.exists(paths[0]):  # most likely a wrong folder
        message = f"must be the folder of the images that {file.path} names, but {paths[0]}"
        raise FileNotFoundError(printable(f"{_WHERE}: `images` {message} does not exist."))
    boxes = Boxes.from_flat(
        corners,
        labels,
        counts,
        min_visible=min_visible,
        fields={"iscrowd": is_crowd},
        names=["background"] * background + list(file.categories.values()),
    )
    return without_classes(paths, folder), boxes


class _Detections(CocoFile):
    """Keep box, category and crowd flag of every annotation, in flat arrays."""

    def __init__(self, where: str, path: str | os.PathLike[str]) -> None:
        self._boxes: array[float] = array("d")
        self._category_ids: array[int] = array("q")
        self._is_crowd: array[int] = array("b")
        super().__init__(where, path)

    def _keep(self, annotation: dict[str, Any]) -> None:
        try:
            self._category_ids.append(annotation["category_id"])
            self._is_crowd.append(annotation.get("iscrowd", 0))
            x, y, width, height = annotation["bbox"]
            self._boxes.extend((x, y, width, height))
        except (KeyError, TypeError, ValueError, OverflowError):
            self._id(annotation, "category_id", "annotations")
            is_crowd = annotation.get("iscrowd", 0)
            if isinstance(is_crowd, float) or is_crowd not in (0, 1):
                self._refuse_value("iscrowd", "whole numbers, 0 or 1,", is_crowd)
            self._refuse_value("bbox", "numbers x, y, width, height", annotation.get("bbox"))

    def columns(self, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what `Boxes.from_flat` takes, image after image.

        Args:
            first: Label of the first category.

        Returns:
            Boxes ``[M, 4]`` (x0, y0, x1, y1), labels ``[M]``, ``iscrowd`` ``[M]`` int64, and the
            number of boxes of each image, ``[N]``.
        """
        boxes = np.frombuffer(self._boxes, np.float64).reshape(-1, 4)
        is_crowd = np.frombuffer(self._is_crowd, np.int8)
        for name, rule, values, is_fine in (
            ("bbox", "finite numbers", boxes, np.isfinite(boxes).all(axis=1)),
            ("bbox", "sides of at least 0", boxes, (boxes[:, 2:] >= 0).all(axis=1)),
            ("iscrowd", "whole numbers, 0 or 1,", is_crowd, (is_crowd == 0) | (is_crowd == 1)),
        ):
            if not is_fine.all():
                index = int(is_fine.argmin())
                self._refuse_value(name, rule, values[index].tolist(), index)
        label_of = {number: label for label, number in enumerate(self.categories, first)}
        labels = np.array([label_of.get(number, -1) for number in self._category_ids], np.int64)
        if len(labels) and labels.min() < 0:
            index = int(labels.argmin())
            unknown = self._category_ids[index]
            self._refuse_value("category_id", "the id of a category", unknown, index)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        order = self._order
        counts = np.diff(self._first)
        return corners[order], labels[order], is_crowd[order].astype(np.int64), counts

    def _refuse_value(self, name: str, rule: str, got: object, index: int | None = None) -> None:
        index = len(self._boxes) // 4 if index is None else index
        self._refuse(f"have {rule} as annotations[{index}].{name}, got {shown(got, 200)}")
