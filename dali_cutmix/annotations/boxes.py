"""`Boxes`: rectangles around objects, which follow crop, flip and plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from dali_cutmix.annotations import visible
from dali_cutmix.annotations.base import Shown
from dali_cutmix.annotations.box_values import (
    Columns,
    check_corners,
    checked_field,
    checked_labels,
    of_flat,
    of_images,
)
from dali_cutmix.core.checks import check_prob, checked_indices, checked_names
from dali_cutmix.mixing.objects import clipped

#: Share of a box's area. Affine maps are float32, so that a complete box may lose so much.
_TOLERANCE = 1e-5


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
        self._keep(of_images(boxes, classes, fields), min_visible, names)

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
        new = cls.__new__(cls)
        new._keep(of_flat(boxes, classes, counts, fields), min_visible, names)
        return new

    def _keep(self, columns: Columns, min_visible: float, names: Sequence[str] | None) -> None:
        """Check and keep the boxes of all images."""
        check_prob("Boxes", min_visible, "min_visible")
        self.min_visible = float(min_visible)
        self.names = None if names is None else checked_names("Boxes", "names", names)
        self._starts = np.concatenate([[0], np.cumsum(columns.counts)])
        check_corners(columns.corners, self._name_of)
        self._boxes = columns.corners.astype(np.float32)
        self._labels = checked_labels(columns.labels, self.names, self._name_of)
        self._fields = {
            name: checked_field(name, column) for name, column in columns.fields.items()
        }

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
            indices: As of a source's ``take``: ``[n]``, each in [-N, N).
        """
        rows, counts = self._rows_of(checked_indices("Boxes", indices, len(self)))
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
        stored = self._boxes[rows].T.astype(np.float64)
        complete = inside = _mapped(stored, shown.matrix, sample)
        if shown.part is not None:
            inside = _mapped(clipped(stored, shown.part[sample]), shown.matrix, sample)
        parts = visible.start(sample, complete, inside, shown.size)
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
