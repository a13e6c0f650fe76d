"""`Stored`: what a transform starts from, the stored images and what belongs to each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dali_cutmix.core.dali import DataNode, constant, fn
from dali_cutmix.core.frame import Sample
from dali_cutmix.transforms.decode import Encoded, EncodedMasks, Pixels
from dali_cutmix.transforms.moves import Area, mapped, resized_mask
from dali_cutmix.transforms.resample import Kernel, Resampler

_SAME = np.eye(2, 3, dtype=np.float32)


@dataclass(frozen=True)
class Stored:
    """Hold stored images and their masks, and make samples of them.

    Attributes:
        image: The images.
        masks: The masks, each of the image's size.
        has_matrix: Whether samples have a matrix; see `Sample`.
    """

    image: Encoded | Pixels
    masks: tuple[EncodedMasks | Pixels, ...] = ()
    has_matrix: bool = False

    def shape(self) -> DataNode:
        """Return the image's size: ``[3]`` int64 (y, x, channels) per sample, CPU."""
        return self.image.shape()

    def whole(self) -> Sample:
        """Return whole images, upright."""
        masks = tuple(mask.whole() for mask in self.masks)
        return Sample(self.image.whole(), masks, _same() if self.has_matrix else None)

    def window(self, anchor: DataNode, extent: DataNode) -> Sample:
        """Return one rectangle of each image, bit-identical to that part of the whole image.

        Args:
            anchor: Top left corner in pixels: ``[2]`` int32 (y, x) per sample, CPU.
            extent: Sides in pixels: ``[2]`` int32 (y, x) per sample, CPU.
        """
        masks = tuple(mask.window(anchor, extent) for mask in self.masks)
        matrix = None
        if self.has_matrix:
            matrix = mapped(_same(), Area(anchor, extent), Area((0, 0), extent))
        return Sample(self.image.window(anchor, extent), masks, matrix)

    def resized_window(
        self,
        anchor: DataNode,
        extent: DataNode,
        size: tuple[int, int],
        resampler: Resampler,
        kernel: Kernel | DataNode,
        mirrored: DataNode | None = None,
    ) -> Sample:
        """Return one rectangle of each image, resized to one size: `window` and `resized_sample`.

        Masks are cut out by their resizing, and the matrix is computed once, which is faster.

        Args:
            anchor: As of `window`.
            extent: As of `window`.
            size: ``(height, width)`` of the results, in pixels.
            resampler: Resizes the images.
            kernel: As of `Resampler.resize`.
            mirrored: 1 to mirror left to right, else 0: scalar int32 per sample, CPU.
        """
        image = resampler.resize(self.image.window(anchor, extent), size, mirrored, kernel)
        window = anchor, extent
        masks = tuple(resized_mask(mask.whole(), size, mirrored, window) for mask in self.masks)
        matrix = None
        if self.has_matrix:
            matrix = mapped(_same(), Area(anchor, extent), Area((0, 0), size, mirrored))
        return Sample(image, masks, matrix)


def _same() -> DataNode:
    # The layout of what DALI's operators on matrices return, which `merge` compares.
    return fn.reshape(constant(_SAME), layout="**")
