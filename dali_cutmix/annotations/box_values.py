"""Arguments of `Boxes` as flat arrays, checked: every refusal names the image and the box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.sources.base import MAX_CLASSES

_TAKEN_NAMES = ("boxes", "labels", "visible")


class Columns(NamedTuple):
    """Hold the boxes of all images in a row, image after image.

    Attributes:
        corners: ``[M, 4]`` (x0, y0, x1, y1) in pixels, float64.
        labels: Class index of every box: ``[M]``.
        counts: Number of boxes of every image, which sum to ``M``: ``[N]`` int64.
        fields: Further values of every box, by name: ``[M]`` or ``[M, ...]``.
    """

    corners: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    fields: dict[str, np.ndarray]


def of_images(
    boxes: Sequence[Any], classes: Sequence[Any], fields: Mapping[str, Sequence[Any]] | None
) -> Columns:
    """Put the arguments of `Boxes` in a row.

    Raises:
        ValueError: A list is not as long as it has to be, or holds arrays of another shape.
    """
    _check_list("boxes", boxes)
    _check_fields("Boxes", fields)
    if not len(boxes):
        refuse("Boxes", "boxes", "hold the boxes of at least one image", boxes)
    corners, counts = _joined_boxes(boxes)
    labels = _joined("classes", classes, counts)
    values = {
        name: _joined(f"fields[{name!r}]", column, counts)
        for name, column in (fields or {}).items()
    }
    return Columns(corners, labels, counts, values)


def of_flat(boxes: Any, classes: Any, counts: Any, fields: Mapping[str, Any] | None) -> Columns:
    """Return the arguments of `Boxes.from_flat` as arrays.

    Raises:
        ValueError: An array has another shape than ``counts`` says.
    """
    where = "Boxes.from_flat"
    _check_fields(where, fields)
    counts = np.asarray(counts)
    is_fine = counts.ndim == 1 and counts.size > 0 and counts.dtype.kind in "iu"
    if not is_fine or counts.min() < 0:
        rule = "hold a whole number of at least 0 for each of at least one image"
        refuse(where, "counts", rule, counts)
    num_boxes = int(counts.sum())
    corners, labels = _numbers("boxes", boxes), np.asarray(classes)
    values = {name: np.asarray(column) for name, column in (fields or {}).items()}
    columns = {"boxes": corners, "classes": labels}
    columns |= {f"fields[{name!r}]": column for name, column in values.items()}
    for name, column in columns.items():
        shape = (num_boxes, 4) if name == "boxes" else (num_boxes, *column.shape[1:])
        if column.shape != shape:
            rule = f"be of shape {list(shape)}, as `counts` says"
            refuse(where, name, rule, list(column.shape))
    return Columns(corners, labels, counts.astype(np.int64), values)


def _check_list(name: str, value: object) -> None:
    if not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        refuse("Boxes", name, "be a list with an item for each image", value)


def _check_fields(where: str, fields: object) -> None:
    if fields is not None and not isinstance(fields, Mapping):
        way_out = "`fields={'iscrowd': [...]}` names the values of each box."
        refuse(where, "fields", "be a mapping from names to values", fields, way_out)


def _joined_boxes(boxes: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of all images, ``[M, 4]`` float64, and the number of each, ``[N]``."""
    arrays = []
    for image, value in enumerate(boxes):
        name = f"boxes[{image}]"
        array = _numbers(name, value)
        if array.size == 0:
            array = array.reshape(0, 4)
        if array.ndim != 2 or array.shape[1] != 4:
            way_out = "A single box goes into a list: [[x0, y0, x1, y1]]."
            refuse("Boxes", name, "be of shape [n, 4]", list(array.shape), way_out)
        form = getattr(value, "format", None)  # of torchvision's tv_tensors
        if form is not None and getattr(form, "name", form) != "XYXY":
            way_out = "Convert them: `torchvision.ops.box_convert(boxes, in_fmt, 'xyxy')`."
            refuse("Boxes", name, "be in the format XYXY", getattr(form, "name", form), way_out)
        arrays.append(array)
    return np.concatenate(arrays), np.fromiter(map(len, arrays), np.int64, len(arrays))


def _joined(name: str, column: Sequence[Any], counts: np.ndarray) -> np.ndarray:
    """Return the values of all boxes in a row: ``[M, ...]``."""
    _check_list(name, column)
    if len(column) != len(counts):
        rule = f"be as many as the {len(counts)} images of `boxes`"
        refuse("Boxes", name, rule, len(column))
    arrays = [np.asarray(value) for value in column]
    shapes: dict[tuple[int, ...], int] = {}
    for image, (array, count) in enumerate(zip(arrays, counts, strict=True)):
        if (array.shape or (-1,))[0] != count:
            rule = f"hold a value for each of the {count} boxes of boxes[{image}]"
            refuse("Boxes", f"{name}[{image}]", rule, column[image])
        if count:
            shapes.setdefault(array.shape[1:], image)
    if len(shapes) > 1:
        (shape, _), (other, image) = list(shapes.items())[:2]
        rule = f"have values of shape {list(shape)}, as the images before"
        refuse("Boxes", f"{name}[{image}]", rule, list(other))
    # Arrays of no boxes are left out: an empty list is float64.
    filled = [array for array in arrays if len(array)]
    return np.concatenate(filled) if filled else np.zeros(0, np.int64)


def _numbers(name: str, value: Any) -> np.ndarray:
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # NumPy has no such type
        value = value.float()
    with suppress(ValueError):  # rows of different lengths
        array = np.asarray(value)
        if array.dtype.kind in "fiu" or array.size == 0:
            return array.astype(np.float64)
    refuse("Boxes", name, "hold numbers, four for each box: x0, y0, x1, y1", value)


def check_corners(corners: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Refuse boxes that are not finite, or reversed."""
    is_finite = np.isfinite(corners).all(axis=1)
    if not is_finite.all():
        row = int(is_finite.argmin())
        refuse("Boxes", f"boxes{name_of(row)}", "be finite", corners[row].tolist())
    is_ordered = (corners[:, 2:] >= corners[:, :2]).all(axis=1)
    if not is_ordered.all():
        row = int(is_ordered.argmin())
        way_out = (
            "Boxes of (x, y, width, height) become corners by "
            "`torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')`."
        )
        rule = "be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1"
        refuse("Boxes", f"boxes{name_of(row)}", rule, corners[row].tolist(), way_out)


def checked_labels(
    labels: np.ndarray, names: Sequence[str] | None, name_of: Callable[[int], str]
) -> np.ndarray:
    """Return class indices as ``[M]`` int64. Refuse all else."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        way_out = "Names have to be mapped to 0, 1, 2, ... first."
        got = labels[:3].tolist()
        refuse("Boxes", "classes", "hold a whole number for each box", got, way_out)
    most = MAX_CLASSES if names is None else len(names)
    is_class = (labels >= 0) & (labels < most)
    if not is_class.all():
        row = int(is_class.argmin())
        what = f"below {most}" if names is None else f"below {most}, the number of `names`"
        rule = f"be a class index of at least 0 and {what}"
        way_out = "Ids have to be mapped to 0, 1, 2, ... first."
        refuse("Boxes", f"classes{name_of(row)}", rule, int(labels[row]), way_out)
    return labels.astype(np.int64)


def checked_field(name: str, column: np.ndarray) -> np.ndarray:
    """Return a field's values as int64, float32 or bool."""
    if name in _TAKEN_NAMES:
        rule = f"have other names than {', '.join(map(repr, _TAKEN_NAMES))}"
        refuse("Boxes", "fields", rule, name)
    if column.dtype.kind not in "biuf":
        way_out = "Map texts and objects to whole numbers, and look these up."
        got = column[:3].tolist()
        refuse("Boxes", f"fields[{name!r}]", "hold numbers or bools", got, way_out)
    kinds = {"b": np.bool_, "f": np.float32}
    return column.astype(kinds.get(column.dtype.kind, np.int64))
