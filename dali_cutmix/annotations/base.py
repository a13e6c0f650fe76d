"""`Annotation`: what belongs to each image of a source, and becomes a loader's target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from dali_cutmix.mixing.plan import MixPlan


@dataclass(frozen=True, eq=False)
class Shown:
    """Say what the images of a batch show.

    Attributes:
        indices: Index in the source of each image; bad images replaced: ``[B]`` int64.
        size: ``(height, width)`` of every image, in pixels.
        plan: The mix: arrays with a batch axis. None where nothing was mixed.
        matrix: Maps a point of each stored image, upright, to the image as it was before mixing:
            ``[B, 2, 3]`` float32, for columns (x, y, 1) in pixels. Pixel ``i`` spans
            ``[i, i + 1]``. None where no annotation of the loader has ``needs_matrix``.
        pixels: For `Masks` what came out of the graph: ``[B, height, width, bytes]`` uint8, on the
            loader's device. Where every stored byte is a class index, the indices themselves:
            ``[B, height, width, 1]`` int64. None for other annotations.
        tensor: Makes a tensor on the loader's device of an array.
        part: Rectangle of each stored image that the image before mixing can still show: upper left
            and lower right corner, ``[B, 2, 2]`` float32 (x, y), in pixels of the stored image.
            What a step has cropped away lies outside, also where a later step pads. None where
            ``matrix`` is None.
    """

    indices: np.ndarray
    size: tuple[int, int]
    plan: MixPlan | None = None
    matrix: np.ndarray | None = None
    pixels: torch.Tensor | None = None
    tensor: Callable[[np.ndarray], torch.Tensor] = torch.from_numpy
    part: np.ndarray | None = None


@runtime_checkable
class Annotation(Protocol):
    """Make a part of a loader's target from what belongs to the images. No base class is needed."""

    @property
    def needs_matrix(self) -> bool:
        """Whether `target` reads ``shown.matrix`` or ``shown.part``."""

    @property
    def takes_blends(self) -> bool:
        """Whether `target` is defined for a mix that blends images, such as `MixUp`."""

    def __len__(self) -> int:
        """Return the number of images that the annotation belongs to."""

    def target(self, shown: Shown, /) -> Any:
        """Return what belongs to the images of a batch.

        Args:
            shown: What the images show.

        Returns:
            Tensors that ``shown.tensor`` made, or views of such tensors, in lists, tuples and
            dictionaries. Other objects are handed on as they are.
        """
