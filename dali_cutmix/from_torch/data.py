"""What a torch dataset serves: the source of a loader, and the transform of its images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from dali_cutmix.from_torch.report import NoCounterpartError, Size
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.sizes import size_of


class RefusedPartError(NoCounterpartError):
    """Say that a part of a dataset has no counterpart.

    Args:
        path: Place of the part, such as ``dataset.dataset``.
        part: The part, or the name to show.
        reason: Why, and the way out.
        is_users: Whether the part is a dataset whose code from_torch cannot see.
    """

    def __init__(self, path: str, part: Any, reason: str, is_users: bool = False) -> None:
        super().__init__(reason)
        self.path, self.part, self.is_users = path, part, is_users


@dataclass(frozen=True)
class Data:
    """Hold what a torch dataset serves.

    Attributes:
        source: The images and classes, as `DataLoader` takes them.
        transform: The transform of the images, or None.
        path: Place of the transform, such as ``dataset.dataset.transform``.
        with_transform: Takes a transform. Returns a copy of the dataset with that transform.
        code: Code of the source, for the report.
        notes: Sentences about differences.
        kind: Class of the tensors that the transform is handed; None for Pillow images.
        num_channels: Channels of the images that the transform is handed: 3, or 1 for gray images.
        slots: Place and transform of each attribute that ``with_transform`` replaces. Empty if
            ``transform`` is the only one.
    """

    source: Any
    transform: Any
    path: str
    with_transform: Callable[[Any], Any]
    code: str = "dataset"
    notes: tuple[str, ...] = ()
    kind: type[torch.Tensor] | None = None
    num_channels: int = 3
    slots: tuple[tuple[str, Any], ...] = ()

    @property
    def size(self) -> Size | None:
        """``(height, width)`` of all images where these are arrays of one shape, else None."""
        stored = _innermost(self.source)
        if isinstance(stored, ImageArrays):
            shapes = {stored.stored(index).shape for index in range(len(stored))}
            return (*shapes.pop()[:2],) if len(shapes) == 1 else None
        pixels = getattr(stored, "data", None)
        return pixels.shape[1:3] if isinstance(pixels, np.ndarray) and pixels.ndim == 4 else None

    @property
    def classes(self) -> list[int] | None:
        """The class indices that samples have, rising; None where unknown.

        A source at a path stays closed: opening may list a bucket, or read all shards.
        """
        if self.source is None or isinstance(self.source, (str, os.PathLike)):
            return None
        return [int(label) for label in np.unique(open_source(self.source).targets)]


@dataclass(frozen=True)
class Calls:
    """Hold the transforms that a dataset calls on each image, for a view each.

    Attributes:
        transforms: The transforms, in the order of the views.
        paths: Place of each, such as ``dataset.transform``.
    """

    transforms: tuple[Any, ...]
    paths: tuple[str, ...]


def relabeled(images: StoredImages, targets: np.ndarray) -> StoredImages:
    """Return the same images with other classes.

    Args:
        images: The images.
        targets: Class index of every image, each at least 0: ``[len(images)]``.
    """
    if np.array_equal(targets, images.targets):
        return images
    stored = [images.stored(index) for index in range(len(images))]
    if images.kind == "path":
        root = getattr(images, "root", None)
        classes = [str(number) for number in range(int(targets.max()) + 1)]
        return FileList([each.tobytes() for each in stored], targets, classes, root)
    return ImageArrays(stored, targets)


def common_size(source: Any) -> Size | None:
    """Return ``(height, width)`` of all images, read from headers; None where sizes differ.

    The header of each file is read once. The first hundred are spread over the list, and reading
    ends at the second size.
    """
    images = open_source(source)
    indices = list(range(len(images)))
    if images.kind == "path":
        indices = list({images.path(index): index for index in indices}.values())
    stride = max(1, len(indices) // 100)
    common = None
    for index in (index for start in range(stride) for index in indices[start::stride]):
        try:
            size = size_of(images, index)
        except OSError:  # the loader names the file when its turn comes
            return None
        if size is None or size != (common := common or size):
            return None
    return common


def _innermost(source: Any) -> Any:
    """Return the list of images inside all Subsets."""
    while isinstance(source, Subset):
        source = source.dataset
    return source
