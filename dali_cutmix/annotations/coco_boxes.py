"""Boxes of COCO's JSON for detection."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.json_lists import items
from dali_cutmix.annotations.listing import existing_folder, without_classes
from dali_cutmix.core.checks import check_prob, local_path, shown
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
    ``iscrowd`` (int64, 0 or 1) travels along. 860,000 boxes with their polygons take seconds and
    some 100 MB.

    Args:
        annotations: The JSON file, such as ``instances_train2017.json``.
        images: Folder of the images.
        background: Class 0 is the background, as torchvision's detection models have it, and
            categories begin at 1. False begins at 0.
        empty: Keep images without annotations.
        min_visible: As of `Boxes`.

    Returns:
        The images in the file's order, and their boxes in pixels of the upright images. Boxes are
        in the file's order too. A box without area is never served.

    Raises:
        OSError: The file cannot be read, or the first image is missing.
        ValueError: The file is no JSON of COCO: the odd annotation and its value are named.
    """
    check_prob(_WHERE, min_visible, "min_visible")
    path = local_path(_WHERE, "annotations", annotations)
    folder = existing_folder(_WHERE, "images", images)
    content = _Content(path)
    for key, index, item in items(_WHERE, path):
        if key == "annotations":
            content.annotation(item)
        elif key == "images":
            content.image(f"{key}[{index}]", item)
        elif key == "categories":
            content.category(f"{key}[{index}]", item)
    return content.listed(folder, background, empty, min_visible)


@dataclass
class _Content:
    """Gather what boxes need of a file: flat arrays, in the order of its lists.

    Attributes:
        path: The file.
        names: File name by image id.
        categories: Name by category id.
        image_ids: Of every annotation.
        category_ids: Of every annotation.
        is_crowd: Of every annotation.
        boxes: x, y, width and height of every annotation, in a row.
    """

    path: str
    names: dict[int, str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    category_ids: array[int] = field(default_factory=lambda: array("q"))
    is_crowd: array[int] = field(default_factory=lambda: array("b"))
    boxes: array[float] = field(default_factory=lambda: array("d"))

    def image(self, name: str, item: Any) -> None:
        """Keep an item of ``images``."""
        number, file_name = self._id(name, item, "id"), item.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            self._refuse(f"{name}.file_name", "be the name of a file", file_name)
        if number in self.names:
            self._refuse(f"{name}.id", "come once", number)
        self.names[number] = file_name

    def category(self, name: str, item: Any) -> None:
        """Keep an item of ``categories``."""
        number = self._id(name, item, "id")
        if number in self.categories:
            self._refuse(f"{name}.id", "come once", number)
        self.categories[number] = str(item.get("name", number))

    def annotation(self, item: Any) -> None:
        """Keep an item of ``annotations``: there are a million."""
        try:
            self.image_ids.append(item["image_id"])
            self.category_ids.append(item["category_id"])
            self.is_crowd.append(item.get("iscrowd", 0))
            x, y, width, height = item["bbox"]
            self.boxes.extend((x, y, width, height))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            self._refuse_annotation(item)

    def _refuse_annotation(self, item: Any) -> NoReturn:
        """Say which value of the last annotation is odd."""
        name = f"annotations[{len(self.boxes) // 4}]"
        for key in ("image_id", "category_id"):
            self._id(name, item, key)
        if item.get("iscrowd", 0) not in (0, 1):
            self._refuse(f"{name}.iscrowd", "be 0 or 1", item["iscrowd"])
        self._refuse(f"{name}.bbox", "be four numbers: x, y, width, height", item.get("bbox"))

    def _checked(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x, y, width and height, ``[M, 4]`` float64, and ``iscrowd``, ``[M]`` int8."""
        boxes = np.frombuffer(self.boxes, np.float64).reshape(-1, 4)
        is_crowd = np.frombuffer(self.is_crowd, np.int8)
        for name, rule, values, is_fine in (
            ("bbox", "be finite", boxes, np.isfinite(boxes).all(axis=1)),
            ("bbox", "have no negative side", boxes, (boxes[:, 2:] >= 0).all(axis=1)),
            ("iscrowd", "be 0 or 1", is_crowd, (is_crowd == 0) | (is_crowd == 1)),
        ):
            if not is_fine.all():
                index = int(is_fine.argmin())
                self._refuse(f"annotations[{index}].{name}", rule, values[index].tolist())
        return boxes, is_crowd

    def listed(
        self, folder: str, background: bool, empty: bool, min_visible: float
    ) -> tuple[FileList, Boxes]:
        """Return the images and their boxes; see `read_coco_boxes`."""
        for name, values in (("images", self.names), ("categories", self.categories)):
            if not values:
                self._refuse(name, "be a list of at least one object", [])
        image = self._positions("image_id", self.image_ids, list(self.names))
        ids = sorted(self.categories)
        label = self._positions("category_id", self.category_ids, ids) + int(background)
        counts = np.bincount(image, minlength=len(self.names))
        paths = [os.path.join(folder, name) for name in self.names.values()]
        if not empty:
            paths = [path for path, count in zip(paths, counts, strict=True) if count]
            counts = counts[counts > 0]
        if not paths:
            self._refuse("annotations", "hold at least one object where empty=False", [])
        if not os.path.exists(paths[0]):  # most likely a wrong folder
            message = (
                f"{_WHERE}: `images` must be the folder of the images that {self.path} names, but "
                f"{paths[0]} does not exist."
            )
            raise FileNotFoundError(printable(message))
        corners, is_crowd = self._checked()
        corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
        order = np.argsort(image, kind="stable")
        names = ["background"] * background + [self.categories[number] for number in ids]
        boxes = Boxes.from_flat(
            corners[order],
            label[order],
            counts,
            min_visible=min_visible,
            fields={"iscrowd": is_crowd[order]},
            names=names,
        )
        return without_classes(paths, folder), boxes

    def _positions(self, key: str, ids: array[int], known: list[int]) -> np.ndarray:
        """Return the position of each id among the known ids: ``[M]`` int64."""
        of_id = {number: position for position, number in enumerate(known)}
        positions = np.fromiter((of_id.get(number, -1) for number in ids), np.int64, len(ids))
        if len(positions) and positions.min() < 0:
            index = int(positions.argmin())
            of = "an image" if key == "image_id" else "a category"
            self._refuse(f"annotations[{index}].{key}", f"be the id of {of}", ids[index])
        return positions

    def _id(self, name: str, item: Any, key: str) -> int:
        if not isinstance(item, dict):
            self._refuse(name, "be an object", item)
        number = item.get(key)
        if type(number) is not int or not 0 <= number < 2**63:  # JSON's true is a bool
            self._refuse(f"{name}.{key}", "be a whole number of at least 0", number)
        return number

    def _refuse(self, name: str, rule: str, got: object) -> NoReturn:
        way_out = "Mend the file, or remove the object."
        raise ValueError(
            printable(f"{_WHERE}: `{name}` in {self.path} must {rule}, got {shown(got, 200)}. ")
            + way_out
        )
