"""Where the objects of a batch are, and which cuts cover them.

Boxes are (x0, y0, x1, y1), corners exclusive, in pixels. The boxes of a batch follow each other,
sample after sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.checks import by_position, refuse
from dali_cutmix.mixing.cutmix import NUM_CANDIDATES

#: Pixels. A cut and a box that overlap by less only touch: maps of crops are float32.
TOUCHING = 1e-3


@dataclass(frozen=True, eq=False)
class Objects:
    """Hold the boxes of a batch, ``n`` in all.

    Attributes:
        sample: Sample of the batch that each box belongs to, ascending: ``[n]`` int64.
        label: Class index: ``[n]`` int64.
        low: Left and top of what steps have left of the box, in pixels of the images served; may
            lie outside: ``[n, 2]`` float64 (x, y).
        high: Right and bottom, exclusive: ``[n, 2]`` float64 (x, y).
        area: Area of the complete box there, in pixels: ``[n]`` float64.
    """

    sample: np.ndarray
    label: np.ndarray
    low: np.ndarray
    high: np.ndarray
    area: np.ndarray

    def visible(self, label: int, min_visible: float, size: tuple[int, int]) -> Objects:
        """Return the boxes of a class of which enough lies in the image, clipped by the image."""
        border = np.array(size[::-1], np.float64)
        low, high = self.low.clip(0, border), self.high.clip(0, border)
        inside = (high - low).prod(axis=1)
        # A tolerance for a box that is exactly so visible: maps of crops are float32.
        is_visible = (inside >= (min_visible - 1e-6) * self.area) & (inside > 0)
        is_visible &= self.label == label
        columns = (self.sample, self.label, low, high, self.area)
        return Objects(*(column[is_visible] for column in columns))


class ObjectTable:
    """Hold the boxes of every image of a source.

    Args:
        boxes: For each image a dictionary with ``boxes`` ``[n, 4]`` and ``labels`` ``[n]``.

    Attributes:
        starts: Where the boxes of each image start: ``[N + 1]`` int64.
        corners: ``[M, 4]`` float64 (x0, y0, x1, y1), in pixels of the upright stored image.
        labels: ``[M]`` int64; -1 where ``boxes`` has no labels.
        fingerprint: A hash of all of these.
    """

    def __init__(self, boxes: Sequence[Mapping[str, Any]]) -> None:
        if not hasattr(boxes, "__len__") or not hasattr(boxes, "__getitem__") or not len(boxes):
            refuse_boxes("boxes", "hold a dictionary of boxes for each image", boxes)
        boxes = by_position(boxes)
        corners, labels = zip(
            *(_of_image(boxes, image) for image in range(len(boxes))), strict=True
        )
        self.starts = np.cumsum([0, *map(len, corners)])
        self.corners = np.concatenate(corners)
        self.labels = np.concatenate(labels)
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.starts, self.corners, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.starts) - 1

    def __repr__(self) -> str:
        return f"boxes of {len(self)} images"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectTable) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def shown(self, index: np.ndarray, matrix: np.ndarray, part: np.ndarray) -> Objects:
        """Return where the boxes of a batch are behind crop and flip.

        Args:
            index: Index of each sample in the source: ``[B]`` int64.
            matrix: Maps stored images to those served: ``[B, 2, 3]`` float32; see `Sample`.
            part: What can be seen of stored images: ``[B, 2, 2]`` float32; see `Sample`.
        """
        first = self.starts[index]
        count = self.starts[index + 1] - first
        sample = np.repeat(np.arange(len(index)), count)
        row = np.arange(len(sample)) + np.repeat(first - np.cumsum(count) + count, count)
        map_ = matrix.astype(np.float64)[sample]

        def moved(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x0, y0, x1, y1 = corners
            points = np.stack([[x0, y0], [x1, y0], [x0, y1], [x1, y1]])  # [4, 2, n]
            ends = np.einsum("nij,pjn->pni", map_[:, :, :2], points) + map_[:, :, 2]
            return ends.min(axis=0), ends.max(axis=0)

        stored = self.corners[row].T
        first, last = moved(stored)
        inside = moved(clipped(stored, part[sample]))
        return Objects(sample, self.labels[row], *inside, (last - first).prod(axis=1))


def clipped(corners: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Clip boxes, each by a rectangle of its own.

    Args:
        corners: ``[4, n]`` (x0, y0, x1, y1).
        part: Upper left and lower right corner: ``[n, 2, 2]`` (x, y).

    Returns:
        As ``corners``; a point for each box outside its rectangle.
    """
    low = np.maximum(corners[:2], part[:, 0].T)
    high = np.minimum(corners[2:], part[:, 1].T)
    return np.concatenate([low, np.where((high > low).all(axis=0), high, low)])


def cuts_of(
    targets: Objects, num_samples: int, start: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the boxes of each sample as cuts, in a circle from a random one on.

    Args:
        targets: The boxes, clipped by the image.
        num_samples: Samples of the batch, ``B``.
        start: Which box comes first, as a share of a sample's boxes, in [0, 1]: ``[B]`` float32.
        size: ``(height, width)`` of every image, in pixels.

    Returns:
        Corners and sides in pixels, out to whole pixels, ``[B, k, 2]`` int32 (y, x) each, and
        whether there is such a cut, ``[B, k]`` bool: ``k`` is 64 at most.
    """
    count = np.bincount(targets.sample, minlength=num_samples)
    number = np.arange(len(targets.sample)) - (np.cumsum(count) - count)[targets.sample]
    count_each = count[targets.sample]
    first = np.minimum(np.floor(start[targets.sample] * count_each), count_each - 1).astype(int)
    turn = (number - first) % np.maximum(count_each, 1)
    is_listed = turn < NUM_CANDIDATES
    most = max(1, min(NUM_CANDIDATES, int(count.max())))
    anchor = np.zeros((num_samples, most, 2), np.int32)
    extent, exists = np.zeros_like(anchor), np.zeros((num_samples, most), bool)
    at = targets.sample[is_listed], turn[is_listed]
    # A rounding error beyond a pixel's edge would take a row more.
    low = np.floor(targets.low[is_listed] + TOUCHING).clip(0)
    high = np.minimum(np.ceil(targets.high[is_listed] - TOUCHING), size[::-1])
    anchor[at] = low[:, ::-1]
    extent[at] = (high - low).clip(0)[:, ::-1]
    exists[at] = (extent[at] > 0).all(axis=1)
    return anchor, extent, exists


def covers(anchor: np.ndarray, extent: np.ndarray, objects: Objects) -> np.ndarray:
    """Tell which cuts cover a box of their sample, if only in part.

    Args:
        anchor: Corners in pixels: ``[B, k, 2]`` int32 (y, x).
        extent: Sides in pixels: ``[B, k, 2]`` int32 (y, x).
        objects: The boxes of the batch.

    Returns:
        ``[B, k]`` bool.
    """
    low = anchor[objects.sample, :, ::-1]
    high = low + extent[objects.sample, :, ::-1]
    overlap = np.minimum(high, objects.high[:, None]) - np.maximum(low, objects.low[:, None])
    is_covered = (overlap > TOUCHING).all(axis=2)
    result = np.zeros(anchor.shape[:2], bool)
    np.logical_or.at(result, objects.sample, is_covered)
    return result


def refuse_boxes(name: str, rule: str, got: object) -> None:
    """Refuse boxes in the name of `GuidedCutMix`."""
    way_out = "Pass a `Boxes`, or a list of dictionaries of `boxes` [n, 4] and `labels` [n]."
    refuse("GuidedCutMix", name, rule, got, way_out)


def _of_image(boxes: Sequence[Any], image: int) -> tuple[np.ndarray, np.ndarray]:
    """Return corners ``[n, 4]`` float64 and labels ``[n]`` int64 of an image's boxes."""
    name, of_image = f"boxes[{image}]", boxes[image]
    if not isinstance(of_image, Mapping) or "boxes" not in of_image:
        refuse_boxes(name, "be a dictionary with `boxes`", of_image)
    corners = np.asarray(of_image["boxes"], np.float64)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        refuse_boxes(f"{name}['boxes']", "be of shape [n, 4]", list(corners.shape))
    is_fine = np.isfinite(corners).all() and (corners[:, 2:] >= corners[:, :2]).all()
    if not is_fine:
        rule = "be finite, with x0 <= x1 and y0 <= y1"
        refuse_boxes(f"{name}['boxes']", rule, corners.tolist())
    labels = np.asarray(of_image.get("labels", [-1] * len(corners))).reshape(-1)
    if len(labels) != len(corners):
        refuse_boxes(f"{name}['labels']", f"be {len(corners)} class indices", labels.tolist())
    return corners, labels.astype(np.int64)
