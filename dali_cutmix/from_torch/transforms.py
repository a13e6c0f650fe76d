"""torchvision's transforms, v1 or v2, as the transform of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_cutmix.from_torch.colors import COLORS, commutes_with_crops, translate_color
from dali_cutmix.from_torch.comparison import are_equal, call, held
from dali_cutmix.from_torch.crops import Crops, Size, fallback_note
from dali_cutmix.from_torch.levels import NO_CHANGE, Levels
from dali_cutmix.from_torch.report import (
    NoCounterpartError,
    OutOfPlaceError,
    Translation,
    mode_of,
    named,
    torchvision_name,
    written,
)
from dali_cutmix.transforms.automatic import AutoAugment, RandAugment, TrivialAugment
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform

#: (height, width) of synthetic images: as ImageNet's, square, long, small and large.
SIZES = (
    *((375, 500), (500, 333), (300, 400), (224, 224), (512, 512), (90, 1000), (800, 100)),
    *((32, 32), (24, 17), (1, 1), (1300, 1700), (1700, 1300)),
)

_NO_OPERATOR = "the graph has no such operator. Remove it, or pass `transform=`."
_NOT_TORCHVISION = (
    "the graph runs torchvision's transforms only, and this class is another. Pass `transform=`."
)
_UNSEEN = (
    "from_torch cannot see what a function does. Remove it if it converts to RGB, as the graph "
    "does; else pass `transform=`."
)
_SAME_SIZE = f"{NO_CHANGE}: images have that size"

#: Names of the classes that leave an RGB image as it is.
_IDENTITIES = ("Identity", "RGB")


def translate_transform(
    transform: Any,
    size: Size | None,
    translation: Translation,
    kind: type[torch.Tensor] | None = None,
) -> tuple[TrainTransform | EvalTransform | None, torch.dtype]:
    """Translate a dataset's ``transform``.

    Args:
        transform: torchvision's transform, v1 or v2, a ``Compose`` of several, a preset of
            pretrained weights, or a function or object that calls one of these.
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.
        translation: Takes lines, notes and refusals.
        kind: Class of the tensors that ``transform`` is handed; None for Pillow images.

    Returns:
        The transform, None where a part was refused, and the dtype of its pixels.
    """
    walk = _Walk(size, translation, kind)
    num_refused = len(translation.refusals)
    if torchvision_name(transform) is None and (inner := _unwrapped(transform, size)) is not None:
        translation.became("transform", named(transform), f"the {named(inner)} inside")
        translation.note(
            f"{named(transform)} was compared with the {named(inner)} inside on "
            f"{1 if size else len(SIZES)} synthetic images only."
        )
        transform = inner
    for path, part in _each("transform", transform) if transform is not None else ():
        walk.take(path, part)
    translated = walk.finish(transform) if len(translation.refusals) == num_refused else None
    return translated, walk.levels.dtype


def _unwrapped(function: Any, size: Size | None) -> Any:
    """Return the torchvision transform that a user's function calls, if nothing else happens."""
    for transform in held(function, lambda part: torchvision_name(part) is not None):
        images = [_image(image_size) for image_size in ([size] if size else SIZES)]
        if _are_same(function, transform, images):
            return transform
    return None


def _are_same(function: Any, transform: Any, images: list[Image.Image]) -> bool:
    """Return whether both give equal tensors of most images, and fail on the others."""
    num_equal = 0
    for image in images:
        result, expected = (_outcome(callee, image) for callee in (function, transform))
        if result is None and expected is None:
            continue
        if result is None or expected is None:
            return False
        if result[1] != expected[1] or not are_equal(result[0], expected[0]):
            return False
        num_equal += 1
    return num_equal > len(images) // 2


def _outcome(function: Any, image: Image.Image) -> tuple[Any, Any] | None:
    """Return the result and the random states behind the call; None where the call fails."""
    try:
        return call(function, image.copy())
    except Exception:  # whatever the user's code raises
        return None


def _image(size: Size) -> Image.Image:
    """Return an RGB image without two equal pixels nearby."""
    levels = np.arange(size[0] * size[1] * 3, dtype=np.uint32) * 97 % 256
    return Image.fromarray(levels.astype(np.uint8).reshape(*size, 3))


def _each(path: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Yield each part that is not a container, with its path."""
    name = torchvision_name(part)
    if name == "Compose":
        prefix = "transform" if path == "transform" else f"{path}.transforms"
        for number, inner in enumerate(part.transforms):
            yield from _each(f"{prefix}[{number}]", inner)
    elif name == "Sequential":
        for number, inner in enumerate(part):
            yield from _each(f"{path}[{number}]", inner)
    else:
        yield path, part


class _Walk:
    """Go through a list, and know the image in front of each part."""

    def __init__(
        self, size: Size | None, translation: Translation, kind: type[torch.Tensor] | None
    ) -> None:
        self._translation = translation
        self._crops = Crops(size)
        self._is_lost = False  # whether a refused part may be why later parts are out of place
        self._colors: list[tuple[str, Any, Any]] = []  # path, torchvision's part, augmentation
        self.levels = levels = Levels(kind)
        self._handlers: dict[str, Callable[[Any], str]] = {
            **dict.fromkeys(_IDENTITIES, lambda _: NO_CHANGE),
            "RandomResizedCrop": self._random_resized_crop,
            "Resize": self._resize,
            "CenterCrop": self._center_crop,
            "RandomCrop": self._random_crop,
            "Pad": self._pad,
            "ToTensor": levels.to_tensor,
            "PILToTensor": levels.pil_to_tensor,
            "ToPureTensor": levels.to_pure,
            "ToImage": levels.to_image,
            "ToPILImage": levels.to_pil,
            "ToDtype": levels.to_dtype,
            "ConvertImageDtype": levels.to_dtype,
            "Normalize": levels.normalize,
            "ImageClassification": self._preset,
        }

    def take(self, path: str, part: Any) -> None:
        """Translate a part, or record why there is no counterpart."""
        name = torchvision_name(part)
        try:
            result = self._translate(path, part, name, 1.0)
        except (NoCounterpartError, ValueError) as error:
            if self._is_lost and isinstance(error, OutOfPlaceError):
                self._translation.num_parts += 1  # the refused part may be the cause
                return
            self._translation.refuse(path, part, error)
            self._is_lost |= name in (None, "Lambda") or name in self._handlers
        else:
            self._translation.became(path, part, result)

    def finish(self, transform: Any) -> TrainTransform | EvalTransform | None:
        """Return the transform that does all of the list; None, and a refusal, without one."""
        scaling = {}
        if not self.levels.are_uint8:
            scaling = {"mean": self.levels.mean, "std": self.levels.std}
        try:
            if not self.levels.is_tensor:
                raise NoCounterpartError(
                    "the list ends in Pillow images, which cannot make a batch. End with ToTensor."
                )
            augment = tuple(augmentation for _, _, augmentation in self._colors)
            translated = self._crops.transform(augment, scaling)
        except (NoCounterpartError, ValueError) as error:
            self._translation.refuse("transform", transform, error)
            return None
        if isinstance(translated, TrainTransform):
            self._translation.note("Random draws keep their distribution; the numbers are new.")
        else:
            self._translation.note("On the CPU, pixels differ from Pillow's by at most 1 of 255.")
        return translated

    def _translate(self, path: str, part: Any, name: str | None, prob: float) -> str:
        if name is None or name == "Lambda":
            is_function = name == "Lambda" or hasattr(part, "__code__")
            raise NoCounterpartError(_UNSEEN if is_function else _NOT_TORCHVISION)
        if name in COLORS:
            augmentation = translate_color(part, self.levels, prob, self._translation)
            if augmentation is None:
                return NO_CHANGE
            self._colors.append((path, part, augmentation))
            return f"augment: {written(augmentation)}"
        if name == "RandomApply":
            return self._random_apply(path, part, prob)
        if name == "RandomHorizontalFlip":
            self._check_no_shear()
            self._crops.flip(prob * part.p)
            return f"flip={written(prob * part.p)}"
        if name not in self._handlers or prob != 1:
            raise NoCounterpartError(_NO_OPERATOR)
        return self._handlers[name](part)

    def _random_apply(self, path: str, part: Any, prob: float) -> str:
        if len(part.transforms) != 1:
            raise NoCounterpartError(
                "the graph draws for each operator alone. Use one RandomApply per transform."
            )
        inner = part.transforms[0]
        name = torchvision_name(inner)
        if name in _IDENTITIES:
            return NO_CHANGE
        return self._translate(f"{path}.transforms[0]", inner, name, prob * part.p)

    def _preset(self, part: Any) -> str:
        """Take ``weights.transforms()`` of an image classifier."""
        sides = [*part.resize_size]
        self._check_resizing(part)
        self._crops.resize(sides[0] if len(sides) == 1 else (sides[0], sides[1]))
        self._crops.crop_center(_sides(part.crop_size))
        self.levels.to_float(part)
        self.levels.normalize(part)
        return "resize, center crop, float32, mean and std"

    def _random_resized_crop(self, part: Any) -> str:
        self._check_resizing(part)
        self._check_no_colors()
        size = _sides(part.size)
        self._crops.crop_area(size, part.scale, part.ratio)
        self._translation.note(fallback_note(part.scale, part.ratio))
        defaults = vars(TrainTransform())
        bounds = {"scale": tuple(map(float, part.scale)), "ratio": tuple(map(float, part.ratio))}
        text = [f"size={written(size[0] if size[0] == size[1] else size)}"]
        text += [f"{key}={_short(pair)}" for key, pair in bounds.items() if pair != defaults[key]]
        return f"TrainTransform({', '.join(text)})"

    def _resize(self, part: Any) -> str:
        if getattr(part, "max_size", None) is not None:
            raise NoCounterpartError(
                "the graph has no `max_size`. Use Resize(side) or Resize((h, w))."
            )
        sides = [part.size] if isinstance(part.size, int) else [int(side) for side in part.size]
        side_or_size: int | Size = sides[0] if len(sides) == 1 else (sides[0], sides[1])
        if self._crops.size is not None and self._crops.resized(side_or_size) == self._crops.size:
            return _SAME_SIZE
        self._check_resizing(part)
        self._check_no_colors()
        self._crops.resize(side_or_size)
        return f"resize={written(side_or_size)}"

    def _center_crop(self, part: Any) -> str:
        size = _sides(part.size)
        if self._crops.size == size:
            return _SAME_SIZE
        self._check_no_colors()
        self._crops.crop_center(size)
        return f"size={written(size)}"

    def _random_crop(self, part: Any) -> str:
        size, pad = _sides(part.size), self._padding(part)
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
            raise NoCounterpartError(f"the graph pads all sides equally, got padding={padding!r}.")
        if not any(sides) and not getattr(part, "pad_if_needed", False):
            return 0
        fill = [part.fill] if not isinstance(part.fill, (tuple, list)) else part.fill
        if part.padding_mode != "constant" or any(value not in (0, None) for value in fill):
            got = f"padding_mode={part.padding_mode!r}, fill={part.fill!r}"
            raise NoCounterpartError(f"the graph pads with black only, got {got}.")
        if any(self.levels.mean):
            raise NoCounterpartError(
                "padding behind Normalize is not black, and the graph pads with black only. Pad "
                "before Normalize."
            )
        return int(sides.pop())

    def _check_resizing(self, part: Any) -> None:
        if (mode := mode_of(part)) != "bilinear":
            raise NoCounterpartError(f"the graph resizes bilinearly, got interpolation={mode!r}.")
        if self.levels.is_tensor and not part.antialias:
            raise OutOfPlaceError(
                "the graph resizes with antialiasing. Pass `antialias=True`, or resize before the "
                "image becomes a tensor."
            )
        if not self.levels.are_uint8:
            self._translation.note("Resized pixels are rounded to levels of uint8.")

    def _check_no_shear(self) -> None:
        """Refuse flips behind a shear, which fixes one corner; all else commutes with flips."""
        for path, part, augmentation in self._colors:
            if isinstance(augmentation, (AutoAugment, RandAugment, TrivialAugment)):
                name = type(part).__name__
                raise NoCounterpartError(
                    f"the graph flips before {name} (at {path}), which gives other images where "
                    f"{name} shears. Move the flip before {name}."
                )

    def _check_no_colors(self) -> None:
        """Refuse crops and resizes behind an augmentation that does not commute with these."""
        for path, part, augmentation in self._colors:
            if not commutes_with_crops(augmentation):
                name = type(part).__name__
                raise NoCounterpartError(
                    f"the graph crops and resizes before {name} (at {path}), which gives other "
                    f"images. Move {name} to the end."
                )


def _short(numbers: Any) -> str:
    return f"({', '.join(f'{number:.4g}' for number in numbers)})"


def _sides(size: Any) -> Size:
    sides = [size] if isinstance(size, int) else [int(side) for side in size]
    return sides[0], sides[-1]
