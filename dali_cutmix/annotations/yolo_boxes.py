"""Boxes of YOLO's texts: a class and shares of the image's sides on each line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.listing import existing_folder, names_below, without_classes
from dali_cutmix.core.checks import check_prob, checked_names, refuse, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text
from dali_cutmix.sources.base import IMAGE_ENDINGS
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.sizes import upright_size

_WHERE = "read_yolo_boxes"

#: Share of a side. Tools round, and write 1.0001.
_TOLERANCE = 0.01

#: Rows (class, x0, y0, x1, y1) of an image without boxes.
_NO_ROWS = np.zeros((0, 5))


def read_yolo_boxes(
    labels: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    background: bool = True,
    min_visible: float = 0.3,
) -> tuple[FileList, Boxes]:
    """List a folder of images, and the boxes of each in YOLO's texts.

    A line is ``class x y width height``: a class index from 0, the centre and the sides as shares
    of the image's sides. A line ``class x0 y0 x1 y1 x2 y2 ...`` of a polygon becomes the rectangle
    around the polygon.

    Lines of poses, ``class x y width height`` and keypoints, are not read. With two numbers for
    each keypoint they look like polygons, and become wrong boxes: keep the first five numbers of
    each line. With three, an odd number of keypoints or a visibility of 2 is refused.

    The size of each image with boxes is read from the image's header, upright as EXIF turns the
    image.

    Args:
        labels: Folder of texts. ``labels/a/1.txt`` belongs to ``images/a/1.jpg``. An image without
            a text, or with an empty text, has no boxes.
        images: Folder of images, at any depth. Files and folders whose names begin with a dot are
            left out.
        classes: Names of the classes, in the order of their indices. None where they are unknown.
        background: Class 0 is the background, as torchvision's detection models have it, and the
            texts' classes begin at 1. False keeps the texts' numbers.
        min_visible: As of `Boxes`.

    Returns:
        The images, in the order of their paths, and their boxes in pixels. An image without a
        readable header, which no loader decodes, has no boxes, and a warning names the image.

    Raises:
        OSError: A folder does not exist, or a file cannot be read.
        ValueError: A line is odd, a class is outside ``classes``, or no image has a text: the file,
            the line and the value are named.
    """
    check_prob(_WHERE, min_visible, "min_visible")
    folder = existing_folder(_WHERE, "labels", labels)
    image_folder = existing_folder(_WHERE, "images", images)
    image_names = names_below(_WHERE, "images", image_folder, IMAGE_ENDINGS)
    texts = names_below(_WHERE, "labels", folder, (".txt",))
    if not image_names.keys() & texts.keys():
        example = next(iter(image_names.values()), "no image")
        rule = "hold a .txt for an image of `images`, by the same name"
        refuse(_WHERE, "labels", rule, f"none in {folder} ({len(texts)} texts) for {example}")
    rows: list[np.ndarray] = []
    unreadable: list[str] = []
    paths = [os.path.join(image_folder, name) for name in image_names.values()]
    for stem, path in zip(image_names, paths, strict=True):
        of_image = _read(os.path.join(folder, texts[stem])) if stem in texts else _NO_ROWS
        if len(of_image):
            size = upright_size(path)
            if size is None:
                unreadable.append(path)
                of_image = _NO_ROWS
            else:
                of_image[:, 1:] *= np.array(size * 2)[::-1]
        rows.append(of_image)
    if unreadable:
        warnings.warn(_without_headers(unreadable, len(paths)), stacklevel=2)
    flat = np.concatenate(rows)
    names = None
    if classes is not None:
        _check_classes(classes, flat, paths, rows)
        names = ["background"] * background + list(classes)
    boxes = Boxes.from_flat(
        flat[:, 1:],
        flat[:, 0].astype(np.int64) + int(background),
        np.fromiter(map(len, rows), np.int64, len(rows)),
        min_visible=min_visible,
        names=names,
    )
    return without_classes(paths, image_folder), boxes


def _without_headers(unreadable: Sequence[str], num_images: int) -> str:
    return printable(
        f"{_WHERE}: {len(unreadable)} of {num_images} images have no readable header, as "
        f"{unreadable[0]}, and are listed without boxes. `dali-cutmix check` finds them."
    )


def _check_classes(
    classes: Sequence[str], flat: np.ndarray, paths: Sequence[str], rows: Sequence[np.ndarray]
) -> None:
    if not checked_names(_WHERE, "classes", classes):
        refuse(_WHERE, "classes", "be a list of at least one name", classes)
    if len(flat) and flat[:, 0].max() >= len(classes):
        worst = next(
            n for n, of_image in enumerate(rows) if (of_image[:, :1] >= len(classes)).any()
        )
        label = int(rows[worst][:, 0].max())
        rule = f"name every class, and the text of {paths[worst]} has class {label}"
        refuse(_WHERE, "classes", rule, list(classes))


def _read(path: str) -> np.ndarray:
    """Return class and corners x0, y0, x1, y1 of each line of a text: ``[n, 5]`` float64.

    Corners are shares of the image's sides.
    """
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        _refuse(path, 1, "be text in UTF-8", error.reason)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return np.array([_row(path, *line) for line in lines]).reshape(-1, 5)


def _row(path: str, number: int, line: str) -> list[float]:
    try:
        label, *values = map(float, line.split())
    except ValueError:
        _refuse(path, number, "hold numbers only", line)
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        rule = "be `class x y width height`, or `class` and at least three corners of a polygon"
        _refuse(path, number, rule, line)
    if not (0 <= label < 2**24 and label == int(label)):
        _refuse(path, number, "begin with a class index of at least 0", line)
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        _refuse(path, number, "hold shares of the image's sides, in [0, 1]", line)
    if is_polygon:
        return [label, min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
    x, y, width, height = values
    if width < 0 or height < 0:
        _refuse(path, number, "have a width and a height of at least 0", line)
    return [label, x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _refuse(path: str, number: int, rule: str, got: str) -> NoReturn:
    message = printable(f"{_WHERE}: line {number} of {path} must {rule}, got {shown(got, 200)}.")
    raise ValueError(f"{message} Mend the line, or remove it.") from None
