"""Boxes of Pascal VOC's XML files, which labelImg, CVAT and others write too."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn
from xml.etree import ElementTree

import numpy as np

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.listing import (
    existing_file,
    existing_folder,
    names_below,
    without_classes,
)
from dali_cutmix.core.checks import check_choice, check_prob, checked_names, refuse, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_regular, read_text
from dali_cutmix.sources.base import IMAGE_ENDINGS
from dali_cutmix.sources.files import FileList

#: Classes of Pascal VOC, 2007 to 2012.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

_WHERE = "read_voc_boxes"
_SIDES = ("xmin", "ymin", "xmax", "ymax")

#: The encoding that an XML file says.
_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""")

#: Class and corners of an object, and whether it is difficult.
_Object = tuple[str, tuple[float, ...], int]


def read_voc_boxes(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    image_set: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    background: bool = True,
    first_pixel: Literal[0, 1] = 1,
    min_visible: float = 0.3,
) -> tuple[FileList, Boxes]:
    """List images of Pascal VOC's XML files, and the boxes of each.

    The field ``difficult`` (int64, 0 or 1) travels along, 0 where a file has none.

    Args:
        annotations: Folder of XML files, at any depth, as ``"VOC2012/Annotations"``. A file without
            objects is an image without boxes. Files and folders whose names begin with a dot are
            left out.
        images: Folder of the images, as ``"VOC2012/JPEGImages"``. An image has the name that its
            XML file says, or else the name of the XML file.
        image_set: A text with the name of an XML file on each line, without ``.xml``, as
            ``"VOC2012/ImageSets/Main/train.txt"``. What follows a blank is ignored. None takes all
            XML files, in the order of their names.
        classes: Names of the classes, in the order of their indices. None takes Pascal VOC's 20 if
            they cover all objects, and else the names of all objects, sorted: a validation set
            needs those of the training set then.
        background: Class 0 is the background, as torchvision's detection models have it, and
            ``classes`` begin at 1. False begins at 0.
        first_pixel: Number of the first pixel of a row: 1 in Pascal VOC, whose boxes contain pixels
            ``xmin`` to ``xmax``; 0 where a tool writes corners that count from 0.
        min_visible: As of `Boxes`.

    Returns:
        The images, and their boxes in pixels of the upright images.

    Raises:
        OSError: A folder or a file does not exist, or cannot be read.
        ValueError: A file is not XML of Pascal VOC, has a class that is not listed, or names the
            image of another file: the file and the value are named.
    """
    check_prob(_WHERE, min_visible, "min_visible")
    check_choice(_WHERE, "first_pixel", first_pixel, (0, 1))
    folder = existing_folder(_WHERE, "annotations", annotations)
    image_folder = existing_folder(_WHERE, "images", images)
    files = [os.path.join(folder, name) for name in _names(folder, image_set)]
    images_below = names_below(_WHERE, "images", image_folder, IMAGE_ENDINGS)
    every_name = set(images_below.values())
    paths: list[str] = []
    objects: list[_Object] = []
    listed_by: dict[str, str] = {}
    counts: list[int] = []
    for path in files:
        file = _File(path)
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        name = file.image_name(stem, images_below, every_name)
        file.check_other(name, listed_by.setdefault(name, path))
        paths.append(os.path.join(image_folder, name))
        of_image = [file.object_of(number, first_pixel) for number in range(len(file.objects))]
        objects += of_image
        counts.append(len(of_image))
    listed = _classes({name for name, _, _ in objects}, classes)
    index = {name: number for number, name in enumerate(listed, int(background))}
    for number, (name, _, _) in enumerate(objects):
        if name not in index:
            file_number = int(np.searchsorted(np.cumsum(counts), number, side="right"))
            rule = f"name the class of every object, and {files[file_number]} has {name!r}"
            refuse(_WHERE, "classes", rule, list(listed))
    boxes = Boxes.from_flat(
        np.array([corners for _, corners, _ in objects], np.float64).reshape(-1, 4),
        np.array([index[name] for name, _, _ in objects], np.int64),
        np.array(counts),
        min_visible=min_visible,
        fields={"difficult": np.array([difficult for _, _, difficult in objects], np.int64)},
        names=["background"] * background + list(listed),
    )
    return without_classes(paths, image_folder), boxes


def _names(folder: str, image_set: str | os.PathLike[str] | None) -> list[str]:
    """List XML files by their paths below the folder."""
    if image_set is None:
        names = list(names_below(_WHERE, "annotations", folder, (".xml",)).values())
        if not names:
            raise FileNotFoundError(
                f"{_WHERE}: `annotations` must hold XML files, and {folder!r} holds none."
            )
        return names
    path = existing_file(_WHERE, "image_set", image_set)
    lines = read_text(path, "surrogateescape").splitlines()  # names of files need not be UTF-8
    names = [f"{line.split()[0]}.xml" for line in lines if line.strip()]
    if not names:
        refuse(_WHERE, "image_set", "name at least one file", f"an empty list, {path}")
    return names


def _classes(names: Iterable[str], classes: Sequence[str] | None) -> Sequence[str]:
    if classes is not None:
        listed = checked_names(_WHERE, "classes", classes)
        if not listed or len(set(listed)) < len(listed):
            refuse(_WHERE, "classes", "be a list of different names", listed)
        return listed
    names = set(names)
    return VOC_CLASSES if names <= set(VOC_CLASSES) else sorted(names)


class _File:
    """Read an XML file.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not XML, or not an annotation of Pascal VOC.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._root = self._parsed(read_regular(path).tobytes())
        if self._root.tag != "annotation":
            self._refuse("", "begin with <annotation>", f"<{self._root.tag}>")
        self.objects = self._root.findall("object")

    def image_name(self, stem: str, below: dict[str, str], every_name: set[str]) -> str:
        """Return the path of the image below the folder of images.

        Args:
            stem: Path of the XML file below its folder, without ending.
            below: Paths of images by the same paths without ending.
            every_name: Paths of images.
        """
        named = os.path.join(os.path.dirname(stem), (self._root.findtext("filename") or "").strip())
        name = named if named in every_name else below.get(stem)
        if name is None:
            rule = f"name an image of `images`, or have the name of an image, as {stem}.jpg"
            self._refuse("filename", rule, named)
        return name

    def check_other(self, image: str, listed_by: str) -> None:
        """Refuse an image that an XML file before lists: copies of a file often name its image."""
        if listed_by != self._path:
            self._refuse("filename", f"name another image than {listed_by}", image)

    def object_of(self, number: int, first_pixel: int) -> _Object:
        """Return class, corners and difficulty of an object."""
        node, where = self.objects[number], f"object[{number}]"
        name = (node.findtext("name") or "").strip()
        if not name:
            self._refuse(f"{where}.name", "be the name of a class", node.findtext("name"))
        corners = []
        for side in _SIDES:
            text = node.findtext(f"bndbox/{side}")
            corners.append(self._number(f"{where}.bndbox.{side}", text))
        x0, y0, x1, y1 = corners
        if x1 < x0 or y1 < y0:
            rule = "have xmin <= xmax and ymin <= ymax"
            self._refuse(f"{where}.bndbox", rule, corners)
        difficult = self._number(f"{where}.difficult", node.findtext("difficult") or "0")
        return name, (x0 - first_pixel, y0 - first_pixel, x1, y1), int(difficult != 0)

    def _parsed(self, data: bytes) -> ElementTree.Element:
        rule = "be XML"
        try:
            return ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            self._refuse("", rule, str(error))
        except (ValueError, LookupError) as error:  # expat knows UTF and encodings of one byte
            declared = _ENCODING.match(data)
            if declared is None:
                self._refuse("", rule, str(error))
        encoding = declared[1].decode()
        try:
            return ElementTree.fromstring(data.decode(encoding))
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            self._refuse(
                "", f"{rule} in the encoding {encoding}, as its first line says", str(error)
            )

    def _number(self, name: str, text: str | None) -> float:
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self._refuse(name, "be a finite number", text)
        return value

    def _refuse(self, name: str, rule: str, got: Any) -> NoReturn:
        subject = f"`{name}` in {self._path}" if name else self._path
        message = printable(f"{_WHERE}: {subject} must {rule}, got {shown(got, 200)}.")
        raise ValueError(f"{message} Mend the file, or leave it out by `image_set`.") from None
