"""Crops, resizes and flips of a torchvision list, as one transform of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_cutmix.from_torch.report import NotFixedError, Size
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform

#: Width / height of photographs.
_SHAPES = 1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3


class Crops:
    """Take what changes an image's size, in the order of the list, and make one transform.

    Args:
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.

    Attributes:
        size: ``(height, width)`` behind the parts taken so far; None while unknown.
    """

    def __init__(self, size: Size | None) -> None:
        self._source_size = self.size = size
        self._resize: int | Size | None = None
        self._pad = 0
        self._area: dict[str, Any] | None = None
        self._crop: Size | None = None
        self._center: Size | None = None
        self._kernel = "bilinear"
        self._flip = 0.0

    @property
    def _is_cropped(self) -> bool:
        """Whether a crop was taken."""
        return any(crop is not None for crop in (self._area, self._crop, self._center))

    @property
    def _is_begun(self) -> bool:
        """Whether a resize, padding or crop was taken."""
        return self._is_cropped or self._resize is not None or bool(self._pad)

    def flip(self, prob: float) -> None:
        """Take ``RandomHorizontalFlip``. Flips commute with crops, and two compose into one."""
        self._flip = self._flip * (1 - prob) + prob * (1 - self._flip)

    def resized(self, side_or_size: int | Size) -> Size | None:
        """Return ``(height, width)`` behind a resize; None where the present size is unknown."""
        if not isinstance(side_or_size, int):
            return side_or_size
        return None if self.size is None else _scaled(self.size, side_or_size)

    def resize(self, side_or_size: int | Size, kernel: str = "bilinear") -> None:
        """Take ``Resize`` of the short side, or to ``(height, width)``, by a kernel's name."""
        if self._is_begun:
            raise NotFixedError
        self._resize, self.size = side_or_size, self.resized(side_or_size)
        self._kernel = kernel

    def crop_area(self, size: Size, scale: Any, ratio: Any, kernel: str = "bilinear") -> None:
        """Take ``RandomResizedCrop`` with a kernel's name."""
        if self._is_begun:
            raise NotFixedError
        self._area = {"scale": tuple(map(float, scale)), "ratio": tuple(map(float, ratio))}
        self._kernel, self.size = kernel, size

    def pad(self, pixels: int) -> None:
        """Take ``Pad`` with black, or the ``padding`` of ``RandomCrop``."""
        if self._is_cropped:
            raise NotFixedError
        self._pad += pixels
        if self.size is not None:
            self.size = self.size[0] + 2 * pixels, self.size[1] + 2 * pixels

    def crop_anywhere(self, size: Size) -> None:
        """Take ``RandomCrop``."""
        if self._is_cropped:
            raise NotFixedError
        self._crop = self.size = size

    def crop_center(self, size: Size) -> None:
        """Take ``CenterCrop``."""
        if self._is_cropped or self._pad:  # padding is for random crops
            raise NotFixedError
        self._center = self.size = size

    def transform(
        self, augment: tuple[Any, ...], scaling: dict[str, Any]
    ) -> TrainTransform | EvalTransform:
        """Make the transform that does all of the list.

        Args:
            augment: Augmentations, in order.
            scaling: ``mean`` and ``std``; empty where pixels stay levels of uint8.

        Raises:
            NotFixedError: Neither transform does all of the list.
            ValueError: An argument is outside its range.
        """
        if self._kernel != "bilinear":
            scaling = {**scaling, "interpolation": self._kernel}
        settings: dict[str, Any] = {**scaling, "flip": self._flip}
        if augment:
            settings["augment"] = augment
        if self._area is not None:
            return TrainTransform(size=_side(self.size), **self._area, **settings)
        if self._crop is not None:
            return self._train(self._crop, settings)
        if self._pad or self.size is None:
            raise NotFixedError
        if not self._flip and not augment:
            return self._evaluation(scaling)
        if self._center is not None:
            raise NotFixedError
        return self._train(self.size, settings)

    def _train(self, size: Size, settings: dict[str, Any]) -> TrainTransform:
        return TrainTransform(size=_side(size), pad=self._pad, resize=self._resize, **settings)

    def _evaluation(self, scaling: dict[str, Any]) -> EvalTransform:
        assert self.size is not None
        resize: Any = self._resize if self._resize is not None else self._source_size
        if resize is None:
            raise NotFixedError
        if self._center is None and isinstance(resize, int) and self.size[0] != self.size[1]:
            resize = self.size
        return EvalTransform(resize=resize, size=_side(self.size), **scaling)


def _scaled(size: Size, side: int) -> Size:
    """Return the size after a resize of the short side; the long side is rounded down.

    Source:
        ``torchvision.transforms.functional.resize``.
    """
    short = min(size)
    return int(side * size[0] / short), int(side * size[1] / short)


def often_lacks_crops(scale: Any, ratio: Any, size: Size | None) -> bool:
    """Return whether ten draws of ``RandomResizedCrop`` find no crop of more than 5 % of images.

    `TrainTransform` then crops at a random place, where torchvision crops the center.

    Args:
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height.
        size: ``(height, width)`` of all images; None: that of photographs.
    """
    shapes = _SHAPES if size is None else (size[1] / size[0],)
    return any(_share_without_crop(scale, ratio, shape) > 0.05 for shape in shapes)


def _share_without_crop(scale: Any, ratio: Any, shape: float) -> float:
    """Return the share of images of width / height ``shape`` without a crop after ten draws."""
    middles = (np.arange(200) + 0.5) / 200
    area = shape * (scale[0] + (scale[1] - scale[0]) * middles)[:, None]
    aspect = np.exp(np.log(ratio[0]) + np.log(ratio[1] / ratio[0]) * middles)
    fits = (area * aspect <= shape**2) & (area / aspect <= 1)
    return float((1 - fits.mean()) ** 10)


def _side(size: Size | None) -> int | Size:
    assert size is not None
    return size[0] if size[0] == size[1] else size
