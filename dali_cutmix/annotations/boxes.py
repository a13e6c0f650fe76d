"""`Boxes`: rectangles around objects, which follow crop, flip and plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import torch

from dali_cutmix.annotations import visible
from dali_cutmix.annotations.base import Shown
from dali_cutmix.core.checks import check_prob, checked_names, refuse
from dali_cutmix.sources.base import MAX_CLASSES

#: Share of a box's area. Affine maps are float32, so that a complete box may lose so much.
_TOLERANCE = 1e-5

_TAKEN_NAMES = ("boxes", "labels", "visible")


class Boxes:
    """Hold the boxes of every image, for ``DataLoader(target=Boxes(...))``.

    The loader yields a list of dicts, one for each image of a batch, as torchvision's detection
    models take it. Each dict has:

    - ``boxes``: ``[n, 4]`` float32 (x0, y0, x1, y1), in pixels of the image served, inside it.
    - ``labels``: ``[n]`` int64.
    - ``visible``: ``[n]`` float32, the share of the box that is visible, in (0, 1].
    - every field of ``fields``: ``[n]`` or ``[n, ...]``.

    An image without a visible box has arrays of the same types with ``n`` = 0.

    Boxes move as pixels do. Crops, flips and affine maps come first: a rotated box becomes the
    upright rectangle around its corners. What lies outside the image is clipped. Then the mix:
    boxes of the image lose what later regions cover, and boxes of partners come along, clipped and
    moved as their pixels. A box of which several pieces are left is the rectangle around the
    pieces.

    ``visible`` is the visible area divided by the area of the complete box, before crop and mix.
    Boxes below ``min_visible`` are dropped, and so are boxes without area. Three cases:

    - Erased pixels count as visible, as they keep their owner: `Cutout` and `RandomErasing` change
      no box.
    - Where a mix blends, as `MixUp` does, boxes of both images stay, and a pixel counts by the
      weight of its image. ultralytics, YOLOX and mmdetection keep both sets too. Faint boxes are
      dropped here.
    - Crowd and ignored boxes obey the same rules as others.

    Args:
        boxes: Boxes of every image: ``N`` arrays or lists, each ``[n, 4]`` (x0, y0, x1, y1) in
            pixels, corners exclusive: a box around the first pixel is (0, 0, 1, 1). Coordinates are
            those of the upright image, as EXIF or XMP turns it. Boxes may reach beyond the image. A
            box without area is never served.
        classes: Class index of every box, at least 0: ``N`` arrays or lists ``[n]``. torchvision's
            detection models take class 0 for the background.
        min_visible: Least visible share of a box that is served, in [0, 1]. 0 keeps every box with
            visible area.
        fields: Further values that travel along with boxes, by name, as ``{"iscrowd": [...]}``:
            ``N`` arrays or lists each, ``[n]`` or ``[n, ...]``. Whole numbers become int64, others
            float32, and bools stay.
        names: Names of the classes, in the order of their indices, for pictures and messages. None
            where classes have no names.

    Attributes:
        min_visible: As the argument.
        names: As the argument.

    Raises:
        ValueError: Counts differ, a box is NaN, infinite or reversed, a class is not an index, or
            another argument is outside its range. The message names the image.
    """

    needs_matrix: ClassVar[bool] = True
    takes_blends: ClassVar[bool] = True

    def __init__(
        self,
        boxes: Sequence[Any],
        classes: Sequence[Any],
        *,
        min_visible: float = 0.3,
        fields: Mapping[str, Sequence[Any]] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
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
        self._keep(corners, labels, counts, min_visible, values, names)

    @classmethod
    def from_flat(
        cls,
        boxes: np.ndarray,
        classes: np.ndarray,
        counts: np.ndarray,
        *,
        min_visible: float = 0.3,
        fields: Mapping[str, np.ndarray] | None = None,
        names: Sequence[str] | None = None,
    ) -> Boxes:
        """Hold boxes that lie in one array, image after image: quick for very many images.

        Args:
            boxes: Boxes of all images: ``[M, 4]`` (x0, y0, x1, y1) in pixels.
            classes: Class index of every box: ``[M]``.
            counts: Number of boxes of every image, which sum to ``M``: ``[N]``.
            min_visible: As of `Boxes`.
            fields: Further values of every box, by name: ``[M]`` or ``[M, ...]``.
            names: As of `Boxes`.
        """
        _check_fields("Boxes.from_flat", fields)
        counts = np.asarray(counts)
        is_fine = counts.ndim == 1 and counts.size > 0 and counts.dtype.kind in "iu"
        if not is_fine or counts.min() < 0:
            rule = "hold a whole number of at least 0 for each of at least one image"
            refuse("Boxes.from_flat", "counts", rule, counts)
        new = cls.__new__(cls)
        corners = _numbers("boxes", boxes)
        num_boxes = int(counts.sum())
        columns = {"boxes": corners, "classes": np.asarray(classes)}
        columns |= {f"fields[{name!r}]": np.asarray(v) for name, v in (fields or {}).items()}
        for name, column in columns.items():
            shape = (num_boxes, 4) if name == "boxes" else (num_boxes, *column.shape[1:])
            if column.shape != shape:
                rule = f"be of shape {list(shape)}, as `counts` says"
                refuse("Boxes.from_flat", name, rule, list(column.shape))
        values = {name: np.asarray(column) for name, column in (fields or {}).items()}
        new._keep(corners, columns["classes"], counts.astype(np.int64), min_visible, values, names)
        return new

    def _keep(
        self,
        corners: np.ndarray,
        labels: np.ndarray,
        counts: np.ndarray,
        min_visible: float,
        fields: Mapping[str, np.ndarray],
        names: Sequence[str] | None,
    ) -> None:
        """Check and keep boxes of all images in a row: ``[M, 4]``, ``[M]`` and ``[N]``."""
        check_prob("Boxes", min_visible, "min_visible")
        self.min_visible = float(min_visible)
        self.names = None if names is None else checked_names("Boxes", "names", names)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        _check_corners(corners, self._name_of)
        self._boxes = corners.astype(np.float32)
        self._labels = _checked_labels(labels, self.names, self._name_of)
        self._fields = {name: _checked_field(name, column) for name, column in fields.items()}

    def _name_of(self, row: int) -> str:
        """Return where messages say that a box is, as in ``[3][0]``: image and box."""
        image = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"[{image}][{row - int(self._starts[image])}]"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of boxes of every image, also of boxes without area: ``[N]`` int64."""
        return np.diff(self._starts)

    def __repr__(self) -> str:
        return f"Boxes({len(self)} images, {len(self._labels)} boxes)"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return boxes, labels and fields of an image as stored, in a dict as the loader's.

        Boxes are float32, in pixels of the upright image. Boxes without area are there too.
        """
        index = range(len(self))[index]
        rows = slice(self._starts[index], self._starts[index + 1])
        columns = {"boxes": self._boxes, "labels": self._labels, **self._fields}
        return {name: column[rows].copy() for name, column in columns.items()}

    def take(self, indices: Sequence[int] | np.ndarray) -> Boxes:
        """Return the boxes of the images of these indices, in this order.

        Args:
            indices: As of a source's ``take``: ``[n]``, each in [0, N).
        """
        rows, counts = self._rows_of(np.asarray(indices, np.int64).reshape(-1))
        return Boxes.from_flat(
            self._boxes[rows],
            self._labels[rows],
            counts,
            min_visible=self.min_visible,
            fields={name: column[rows] for name, column in self._fields.items()},
            names=self.names,
        )

    def target(self, shown: Shown) -> list[dict[str, torch.Tensor]]:
        """Return the boxes of a batch; see `Boxes`.

        Args:
            shown: What the host knows of the batch.

        Returns:
            A dict for each of ``B`` images. Its tensors are views of the batch's tensors.
        """
        rows, counts = self._rows_of(np.asarray(shown.indices))
        sample = np.repeat(np.arange(len(counts)), counts)
        corners = _mapped(self._boxes[rows].T.astype(np.float64), shown.matrix, sample)
        parts = visible.start(sample, corners, shown.size)
        if shown.plan is not None:
            parts = visible.follow(parts, shown.plan)
        corners, share = parts.summed()
        corners = corners.astype(np.float32)
        # Rounding to float32 may leave no area, which torchvision's models refuse.
        is_served = (corners[2] > corners[0]) & (corners[3] > corners[1])
        is_served &= share >= self.min_visible - _TOLERANCE
        served = np.flatnonzero(is_served)
        rows = rows[parts.showings.row[served]]
        columns = {
            "boxes": np.ascontiguousarray(corners.take(served, axis=1).T),
            "labels": self._labels[rows],
            "visible": share[served].astype(np.float32),
            **{name: column[rows] for name, column in self._fields.items()},
        }
        counts = np.bincount(parts.showings.sample[served], minlength=len(counts))
        lengths = counts.tolist()
        # One tensor for all images, as one copy to a GPU is faster than many.
        split = [torch.split(shown.tensor(column), lengths) for column in columns.values()]
        return [dict(zip(columns, values, strict=True)) for values in zip(*split, strict=True)]

    def _rows_of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of all boxes of images, in order, and the number of each: ``[n]``."""
        first = self._starts[images]
        counts = self._starts[images + 1] - first
        return visible.spread(first, counts)[1], counts


def _mapped(corners: np.ndarray, matrix: np.ndarray | None, sample: np.ndarray) -> np.ndarray:
    """Map boxes, ``[4, M]`` (x0, y0, x1, y1), by the affine map of each box's sample.

    Corners of a rectangle lie at its centre plus or minus half its sides, and so do their extremes
    behind an affine map, by absolute values.
    """
    if matrix is None:
        return corners
    maps = np.asarray(matrix, np.float64).reshape(-1, 6).T.take(sample, axis=1)
    x_by_x, x_by_y, x_shift, y_by_x, y_by_y, y_shift = maps
    x, y = (corners[:2] + corners[2:]) / 2
    half_x, half_y = (corners[2:] - corners[:2]) / 2
    centre = np.stack([x_by_x * x + x_by_y * y + x_shift, y_by_x * x + y_by_y * y + y_shift])
    half = np.stack(
        [
            abs(x_by_x) * half_x + abs(x_by_y) * half_y,
            abs(y_by_x) * half_x + abs(y_by_y) * half_y,
        ]
    )
    return np.concatenate([centre - half, centre + half])


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
    with suppress(ValueError):  # rows of different lengths
        array = np.asarray(value)
        if array.dtype.kind in "fiu" or array.size == 0:
            return array.astype(np.float64)
    refuse("Boxes", name, "hold numbers, four for each box: x0, y0, x1, y1", value)


def _check_corners(corners: np.ndarray, name_of: Callable[[int], str]) -> None:
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


def _checked_labels(
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


def _checked_field(name: str, column: np.ndarray) -> np.ndarray:
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
