"""Crops, resizes and flips of a torchvision list, as one transform of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_cutmix.from_torch.report import NoCounterpartError
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform, Triple

Size = tuple[int, int]

#: Shapes that photographs have, width / height.
_SHAPES = {"1:1": 1.0, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9, "3:4": 3 / 4, "2:3": 2 / 3}

_ONE_CROP = (
    "the graph resizes and cuts an image once, and it was cut before. Leave one of the two out."
)


class Crops:
    """Takes what changes an image's size in the order of the list, and makes the transform of it.

    Args:
        size: ``(height, width)`` of the stored images, where all are known to have it.

    Attributes:
        size: ``(height, width)`` after what was taken so far; None while it is unknown.
    """

    def __init__(self, size: Size | None) -> None:
        self._source_size = self.size = size
        self._resize: int | Size | None = None
        self._pad = 0
        self._area: dict[str, Any] | None = None
        self._crop: Size | None = None
        self._centre: Size | None = None
        self._flip = 0.0

    @property
    def is_cut(self) -> bool:
        """Whether a crop was taken."""
        return any(cut is not None for cut in (self._area, self._crop, self._centre))

    def flip(self, prob: float) -> None:
        """``RandomHorizontalFlip``; it commutes with crops, and two of them make one."""
        self._flip = self._flip * (1 - prob) + prob * (1 - self._flip)

    def resized(self, side_or_size: int | Size) -> Size | None:
        """What a resize makes of the present size, where that can be known."""
        if not isinstance(side_or_size, int):
            return side_or_size
        return None if self.size is None else _scaled(self.size, side_or_size)

    def resize(self, side_or_size: int | Size) -> None:
        """``Resize`` of the short side, or to ``(height, width)``."""
        if self.is_cut:
            raise NoCounterpartError(_ONE_CROP)
        if self._resize is not None or self._pad:
            raise NoCounterpartError(
                "the graph resizes an image once, before it pads. Leave it out."
            )
        self._resize, self.size = side_or_size, self.resized(side_or_size)

    def cut_area(self, size: Size, scale: Any, ratio: Any) -> None:
        """``RandomResizedCrop``."""
        if self.is_cut:
            raise NoCounterpartError(_ONE_CROP)
        if self._resize is not None or self._pad:
            raise NoCounterpartError(
                "a random resized crop is cut from the stored image, and the list resizes or pads "
                "it before. Leave that out; the crop's share of the image stays the same."
            )
        self._area = {"scale": tuple(map(float, scale)), "ratio": tuple(map(float, ratio))}
        self.size = size

    def pad(self, pixels: int) -> None:
        """``Pad`` with black, or ``RandomCrop``'s ``padding``."""
        if self.is_cut:
            raise NoCounterpartError("the graph pads before it cuts. Move it before the crop.")
        self._pad += pixels
        if self.size is not None:
            self.size = self.size[0] + 2 * pixels, self.size[1] + 2 * pixels

    def cut_place(self, size: Size) -> None:
        """``RandomCrop`` of what was padded."""
        if self.is_cut:
            raise NoCounterpartError(_ONE_CROP)
        self._crop = self.size = size

    def cut_centre(self, size: Size) -> None:
        """``CenterCrop``."""
        if self.is_cut:
            raise NoCounterpartError(_ONE_CROP)
        if self._pad:
            raise NoCounterpartError(
                "the graph pads for random crops only. Use RandomCrop, or no Pad."
            )
        self._centre = self.size = size

    def transform(
        self, augment: tuple[Any, ...], scaling: dict[str, Triple]
    ) -> TrainTransform | EvalTransform:
        """The transform that does all of it.

        Args:
            augment: What changes colours, in order.
            scaling: ``mean`` and ``std``, or nothing.

        Raises:
            NoCounterpartError: There is none; the text is about the list as a whole.
            ValueError: An argument is outside its range.
        """
        drawn: dict[str, Any] = {
            **scaling,
            "flip": self._flip,
            **({"augment": augment} if augment else {}),
        }
        if self._area is not None:
            return TrainTransform(size=_side(self.size), **self._area, **drawn)
        if self._crop is not None:
            return self._placed(self._crop, drawn)
        if self._pad:
            raise NoCounterpartError(
                "Pad without RandomCrop: the graph pads for random crops only."
            )
        if self.size is None:
            raise NoCounterpartError(
                "images of several sizes stay so, of which no batch can be made. Add "
                "RandomResizedCrop, or Resize and CenterCrop."
            )
        if self._flip or augment:
            if self._centre is not None:
                what = "flips" if self._flip else "colours"
                raise NoCounterpartError(
                    f"CenterCrop with {what} has no counterpart: the graph cuts centres out for "
                    f"evaluation only, without {what}. Use RandomCrop or RandomResizedCrop instead "
                    "of CenterCrop, or pass `transform=`."
                )
            return self._placed(self.size, drawn)
        return self._evaluation(scaling)

    def _placed(self, size: Size, drawn: dict[str, Any]) -> TrainTransform:
        return TrainTransform(size=_side(size), pad=self._pad, resize=self._resize, **drawn)

    def _evaluation(self, scaling: dict[str, Triple]) -> EvalTransform:
        assert self.size is not None
        resize: Any = self._resize if self._resize is not None else self._source_size
        if resize is None:
            raise NoCounterpartError(
                "CenterCrop of images whose sizes are not known before they are read. Add Resize "
                "before it."
            )
        if self._centre is None and isinstance(resize, int) and self.size[0] != self.size[1]:
            resize = self.size
        return EvalTransform(resize=resize, size=_side(self.size), **scaling)


def _scaled(size: Size, side: int) -> Size:
    """Sides after a resize of the short one, the long one rounded down as torchvision does."""
    short = min(size)
    return int(side * size[0] / short), int(side * size[1] / short)


def on_long_images(scale: Any, ratio: Any) -> str:
    """What differs from ``RandomResizedCrop`` in a corner, and how often images come there.

    Args:
        scale: Smallest and largest share of an image's area.
        ratio: Smallest and largest width / height.
    """
    shares = {name: _share_without_crop(scale, ratio, one) for name, one in _SHAPES.items()}
    often = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items() if share >= 0.05)
    return (
        "An image in which ten draws find no crop is cut at a random place, where torchvision cuts "
        f"its centre{often and '; so are '}{often}."
    )


def _share_without_crop(scale: Any, ratio: Any, shape: float) -> float:
    """How many images of this width / height get no crop in ten draws, in [0, 1]."""
    middles = (np.arange(200) + 0.5) / 200
    area = shape * (scale[0] + (scale[1] - scale[0]) * middles)[:, None]
    aspect = np.exp(np.log(ratio[0]) + np.log(ratio[1] / ratio[0]) * middles)
    fits = (area * aspect <= shape**2) & (area / aspect <= 1)
    return float((1 - fits.mean()) ** 10)


def _side(size: Size | None) -> int | Size:
    assert size is not None
    return size[0] if size[0] == size[1] else size
