"""Lists in the order that `TrainTransform` and `EvalTransform` have: one crop, flip, colors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dali_cutmix.from_torch.colors import COLORS, commutes_with_crops, translate_color
from dali_cutmix.from_torch.crops import Crops, often_lacks_crops
from dali_cutmix.from_torch.levels import NO_CHANGE, Levels
from dali_cutmix.from_torch.report import (
    NotFixedError,
    Size,
    Translation,
    transform_name,
    written,
)
from dali_cutmix.from_torch.resizing import kernel_of, resize_of, sides_of
from dali_cutmix.transforms.augmix import AugMix, TimmAugMix
from dali_cutmix.transforms.automatic import AutoAugment, RandAugment, TrivialAugment
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform
from dali_cutmix.transforms.timm import TimmAutoAugment, TimmRandAugment

SHEARING = (
    *(AugMix, AutoAugment, RandAugment, TrivialAugment),
    *(TimmAugMix, TimmAutoAugment, TimmRandAugment),
)
_SAME_SIZE = f"{NO_CHANGE}: images have that size"

_FALLBACK = (
    "Where ten draws find no crop, the graph crops at a random place, torchvision the center."
)


class Fixed:
    """Take the parts of a list in turn, as settings of one transform.

    Args:
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.
        levels: What pixel numbers mean in front of the next part; the caller keeps it up to date.

    Attributes:
        notes: Takes notes on the parts taken.
    """

    def __init__(self, size: Size | None, levels: Levels) -> None:
        self.notes = Translation()
        self._levels = levels
        self._crops = Crops(size)
        self._colors: list[Any] = []  # augmentations
        self._handlers: dict[str, Callable[[Any], str]] = {
            "RandomResizedCrop": self._random_resized_crop,
            "timm.RandomResizedCropAndInterpolation": self._random_resized_crop,
            "Resize": self._resize,
            "CenterCrop": self._center_crop,
            "RandomCrop": self._random_crop,
            "Pad": self._pad,
        }

    def take(self, part: Any, prob: float = 1.0) -> str:
        """Take a part that is applied with a probability, and return what the part became.

        Raises:
            NoCounterpartError: The part has no place behind the parts before.
            ValueError: An argument is outside its range.
        """
        name = transform_name(part)
        if name in COLORS:
            augmentation = translate_color(part, self._levels, prob, self.notes)
            if augmentation is None:
                return NO_CHANGE
            self._colors.append(augmentation)
            return f"augment: {written(augmentation)}"
        if name == "RandomApply":
            if len(part.transforms) != 1:  # each augmentation draws for itself
                raise NotFixedError
            return self.take(part.transforms[0], prob * part.p)
        if name == "RandomHorizontalFlip":
            self._check_no_shear()
            self._crops.flip(prob * part.p)
            return f"flip={written(prob * part.p)}"
        if name not in self._handlers or prob != 1:
            raise NotFixedError
        return self._handlers[name](part)

    def transform(self, scaling: dict[str, Any]) -> TrainTransform | EvalTransform:
        """Make the transform that does all parts; see `Crops.transform`."""
        return self._crops.transform(tuple(self._colors), scaling)

    def _random_resized_crop(self, part: Any) -> str:
        kernel = self._kernel(part)
        self._check_no_colors()
        size = sides_of(part.size)
        if often_lacks_crops(part.scale, part.ratio, self._crops.size):
            raise NotFixedError
        self._crops.crop_area(size, part.scale, part.ratio, kernel)
        self.notes.note(_FALLBACK)
        defaults = vars(TrainTransform())
        bounds = {"scale": tuple(map(float, part.scale)), "ratio": tuple(map(float, part.ratio))}
        text = [f"size={written(size[0] if size[0] == size[1] else size)}"]
        text += [f"{key}={_short(pair)}" for key, pair in bounds.items() if pair != defaults[key]]
        return f"TrainTransform({', '.join(text)}{_by(kernel)})"

    def _resize(self, part: Any) -> str:
        if getattr(part, "max_size", None) is not None:
            raise NotFixedError
        side_or_size = resize_of(part)
        if self._crops.size is not None and self._crops.resized(side_or_size) == self._crops.size:
            return _SAME_SIZE
        kernel = self._kernel(part)
        self._check_no_colors()
        self._crops.resize(side_or_size, kernel)
        return f"resize={written(side_or_size)}{_by(kernel)}"

    def _center_crop(self, part: Any) -> str:
        size = sides_of(part.size)
        if self._crops.size == size:
            return _SAME_SIZE
        self._check_no_colors()
        self._crops.crop_center(size)
        return f"size={written(size)}"

    def _random_crop(self, part: Any) -> str:
        size, pad = sides_of(part.size), self._padding(part)
        if self._crops.size == size and not pad:
            return _SAME_SIZE
        self._check_no_colors()
        if pad:
            self._crops.pad(pad)
        self._crops.crop_anywhere(size)
        return f"size={written(size)}, pad={pad}"

    def _pad(self, part: Any) -> str:
        self._check_no_colors()
        self._crops.pad(pad := self._padding(part))
        return f"pad={pad}"

    def _padding(self, part: Any) -> int:
        padding = part.padding or 0
        sides = {padding} if isinstance(padding, int) else set(padding)
        if len(sides) > 1:
            raise NotFixedError
        if not any(sides) and not getattr(part, "pad_if_needed", False):
            return 0
        fill = [part.fill] if not isinstance(part.fill, (tuple, list)) else part.fill
        is_black = all(value in (0, None) for value in fill) and not any(self._levels.mean)
        if part.padding_mode != "constant" or not is_black:
            raise NotFixedError
        return int(sides.pop())

    def _kernel(self, part: Any) -> str:
        kernel = kernel_of(part, self._levels)
        if not self._levels.are_uint8:
            self.notes.note("Resized pixels are rounded to levels of uint8.")
        return kernel

    def _check_no_shear(self) -> None:
        """Refuse flips behind a shear, which fixes one corner; all else commutes with flips."""
        if any(isinstance(augmentation, SHEARING) for augmentation in self._colors):
            raise NotFixedError

    def _check_no_colors(self) -> None:
        """Refuse crops and resizes behind an augmentation that does not commute with these."""
        if not all(map(commutes_with_crops, self._colors)):
            raise NotFixedError


def _short(numbers: Any) -> str:
    return f"({', '.join(f'{number:.4g}' for number in numbers)})"


def _by(kernel: str) -> str:
    return "" if kernel == "bilinear" else f", interpolation={kernel!r}"
