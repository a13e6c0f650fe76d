"""`Masks`: the class of every pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from dali_cutmix.annotations.base import Shown


class Masks:
    """Hold a mask of class indices for each image: ``[B, height, width]`` int64 in a target.

    A mask has the size of its image, upright. Crop, flip and mix are those of the image. A mask is
    resized by the nearest pixel, as torch's ``mode="nearest-exact"``, and copied where images are
    mixed: class indices are never blended.

    Args:
        masks: A gray PNG for each image, by path; or arrays ``[height, width]`` of whole numbers.
        ignore: Class index of pixels beyond the image, such as padding: what a loss takes as
            ``ignore_index``.
    """

    needs_matrix: ClassVar[bool] = False
    takes_blends: ClassVar[bool] = False

    def __init__(self, masks: Any, ignore: int = 255) -> None:
        self.ignore = ignore
        self._masks: Any = masks
        is_path = isinstance(masks[0], (str, os.PathLike))
        #: What `stored` returns: bytes of a file, or pixels.
        self.kind = "encoded" if is_path else "pixels"
        self.num_bytes = 1 if is_path else max(1, np.asarray(masks[0]).dtype.itemsize)
        self.ignored = tuple(ignore.to_bytes(self.num_bytes, "little"))
        self._divisors = np.ones(len(masks), np.uint16)

    def __len__(self) -> int:
        return len(self._masks)

    def path(self, index: int) -> str:
        """Return where a mask is stored, as messages name the mask."""
        return str(self._masks[index]) if self.kind == "encoded" else f"masks[{index}]"

    def waits(self, _indices: Sequence[int]) -> bool:
        """Return whether `stored` waits for a disk, for these masks."""
        return self.kind == "encoded"

    def stored(self, index: int) -> np.ndarray:
        """Return the array that the graph is fed for a mask.

        Returns:
            The bytes of a gray PNG or PGM: ``[size]`` uint8; or the bytes of class indices, the low
            byte first: ``[height, width, num_bytes]`` uint8.

        Raises:
            OSError: The mask cannot be read.
        """
        if self.kind == "encoded":
            return np.fromfile(self._masks[index], np.uint8)
        mask = np.ascontiguousarray(self._masks[index])
        return mask[..., None].view(np.uint8)

    def divisors(self, indices: Sequence[int]) -> np.ndarray:
        """Return what DALI's decoder makes of a class index of 1, for masks: ``[n]`` uint16."""
        return self._divisors[indices]

    def fault(self, index: int, size: tuple[int, int]) -> str | None:
        """Return what is wrong with a mask; None where nothing is.

        Args:
            index: Index of the image.
            size: ``(height, width)`` of the image, upright, in pixels.
        """
        if self.kind == "pixels":
            height, width = self._masks[index].shape
        else:
            try:
                with Image.open(self._masks[index]) as mask:
                    mask.load()
                    width, height = mask.size
            except (OSError, SyntaxError, ValueError) as error:
                return str(error)
        if (height, width) != size:
            return f"{height} x {width} pixels, and its image has {size[0]} x {size[1]}"
        return None

    def target(self, shown: Shown, /) -> torch.Tensor:
        """Return class indices: ``[B, height, width]`` int64, on the loader's device."""
        assert shown.pixels is not None  # since the graph moves masks with the images
        classes = shown.pixels[..., 0].long()
        for number in range(1, self.num_bytes):
            classes |= shown.pixels[..., number].long() << 8 * number
        return classes
