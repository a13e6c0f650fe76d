"""torchvision's transforms, v1 or v2, as the transform of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from dali_cutmix.from_torch.colours import COLOURS, commutes_with_crops, translate_colour
from dali_cutmix.from_torch.crops import Crops, Size, on_long_images
from dali_cutmix.from_torch.levels import NO_CHANGE, Levels
from dali_cutmix.from_torch.proof import NUM_IMAGES, SIZES, held, same_on_images
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

_NO_OPERATOR = "the graph has no such operator. Leave it out, or pass `transform=`."
_OWN = "it is no transform of torchvision's, and the graph runs no other code. Pass `transform=`."
_UNSEEN = (
    "what a function does cannot be seen. Leave it out if it converts to RGB, as the graph does; "
    "else pass `transform=`."
)
_SAME_SIZE = f"{NO_CHANGE}: images have that size"

#: Classes that leave an RGB image what it is.
_SAME = ("Identity", "RGB")


def translate_transform(
    transform: Any, size: Size | None, into: Translation
) -> tuple[TrainTransform | EvalTransform | None, torch.dtype]:
    """Translate a dataset's ``transform``.

    Args:
        transform: A transform of torchvision's, v1 or v2, a ``Compose`` of some, or a preset of
            pretrained weights.
        size: ``(height, width)`` of the dataset's images, where all are known to have it.
        into: Where lines, notes and refusals go.

    Returns:
        The transform, None where something was refused, and the type of its pixels.
    """
    walk = _Walk(size, into)
    num_refused = len(into.refusals)
    if torchvision_name(transform) is None and (inside := _unwrapped(transform, size)) is not None:
        into.became("transform", named(transform), "what it holds, which made the same images")
        into.note(
            f"{named(transform)} was tried on {NUM_IMAGES} made-up images: no proof for others."
        )
        transform = inside
    for place, part in _each("transform", transform) if transform is not None else ():
        walk.take(place, part)
    made = walk.finish(transform) if len(into.refusals) == num_refused else None
    return made, walk.levels.dtype


def _unwrapped(function: Any, size: Size | None) -> Any:
    """The transform that a function or object of the user's holds and calls, and nothing else."""
    for one in held(function, lambda part: torchvision_name(part) is not None):
        if same_on_images(function, one, [size] if size else SIZES):
            return one
    return None


def _each(place: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Each part that is no container, with its place."""
    name = torchvision_name(part)
    if name == "Compose":
        inside = "transform" if place == "transform" else f"{place}.transforms"
        for number, one in enumerate(part.transforms):
            yield from _each(f"{inside}[{number}]", one)
    elif name == "Sequential":
        for number, one in enumerate(part):
            yield from _each(f"{place}[{number}]", one)
    else:
        yield place, part


class _Walk:
    """Goes through a list, and knows what the image is at each place."""

    def __init__(self, size: Size | None, into: Translation) -> None:
        self._into = into
        self._crops = Crops(size)
        self._is_lost = False  # whether what an image is here depends on a part that was refused
        self._colours: list[tuple[str, Any, Any]] = []  # place, torchvision's, the graph's
        self.levels = levels = Levels()
        self._takes: dict[str, Callable[[Any], str]] = {
            **dict.fromkeys(_SAME, lambda _: NO_CHANGE),
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

    def take(self, place: str, part: Any) -> None:
        """Translate one part, or note why not."""
        name = torchvision_name(part)
        try:
            became = self._translate(place, part, name, 1.0)
        except (NoCounterpartError, ValueError) as error:
            if self._is_lost and isinstance(error, OutOfPlaceError):
                self._into.num_parts += 1  # the part that was refused may be what is missing
                return
            self._into.refuse(place, part, error)
            self._is_lost |= name in (None, "Lambda") or name in self._takes
        else:
            self._into.became(place, part, became)

    def finish(self, transform: Any) -> TrainTransform | EvalTransform | None:
        """What all of it makes, or None and the reason noted."""
        levels = self.levels
        scaling = {} if levels.are_whole else {"mean": levels.mean, "std": levels.std}
        try:
            if not levels.is_tensor:
                raise NoCounterpartError(
                    "images stay Pillow's, of which torch makes no batch. End with ToTensor."
                )
            made = self._crops.transform(tuple(ours for _, _, ours in self._colours), scaling)
        except (NoCounterpartError, ValueError) as error:
            self._into.refuse("transform", transform, error)
            return None
        if isinstance(made, TrainTransform):
            self._into.note("What is drawn has the distribution it had; the draws are others.")
        else:
            self._into.note("On the CPU, pixels differ from Pillow's by at most 1 of 255.")
        return made

    def _translate(self, place: str, part: Any, name: str | None, prob: float) -> str:
        if name is None or name == "Lambda":
            is_function = name == "Lambda" or hasattr(part, "__code__")
            raise NoCounterpartError(_UNSEEN if is_function else _OWN)
        if name in COLOURS:
            ours = translate_colour(part, self.levels, prob, self._into)
            if ours is None:
                return NO_CHANGE
            self._colours.append((place, part, ours))
            return f"augment: {written(ours)}"
        if name == "RandomApply":
            return self._random_apply(place, part, prob)
        if name == "RandomHorizontalFlip":
            self._check_nothing_sheared()
            self._crops.flip(prob * part.p)
            return f"flip={written(prob * part.p)}"
        if name not in self._takes or prob != 1:
            raise NoCounterpartError(_NO_OPERATOR)
        return self._takes[name](part)

    def _random_apply(self, place: str, part: Any, prob: float) -> str:
        if len(part.transforms) != 1:
            raise NoCounterpartError(
                "the graph draws for each operator alone. Apply them one by one."
            )
        inner = part.transforms[0]
        name = torchvision_name(inner)
        if name in _SAME:
            return NO_CHANGE
        return self._translate(f"{place}.transforms[0]", inner, name, prob * part.p)

    def _preset(self, part: Any) -> str:
        """``weights.transforms()`` of an image classifier."""
        sides = [*part.resize_size]
        self._check_resizing(part)
        self._crops.resize(sides[0] if len(sides) == 1 else (sides[0], sides[1]))
        self._crops.cut_centre(_sides(part.crop_size))
        self.levels.to_float(part)
        self.levels.normalize(part)
        return "resize, centre, float32, mean and std"

    def _random_resized_crop(self, part: Any) -> str:
        self._check_resizing(part)
        self._check_no_colours()
        size = _sides(part.size)
        self._crops.cut_area(size, part.scale, part.ratio)
        self._into.note(on_long_images(part.scale, part.ratio))
        usual = TrainTransform()
        given = {"scale": tuple(map(float, part.scale)), "ratio": tuple(map(float, part.ratio))}
        text = [f"size={written(size[0] if size[0] == size[1] else size)}"]
        text += [f"{key}={_short(one)}" for key, one in given.items() if one != vars(usual)[key]]
        return f"TrainTransform({', '.join(text)})"

    def _resize(self, part: Any) -> str:
        if getattr(part, "max_size", None) is not None:
            raise NoCounterpartError(
                "the graph has no `max_size`. Use Resize(side) or Resize((h, w))."
            )
        sides = [part.size] if isinstance(part.size, int) else [int(side) for side in part.size]
        wanted: int | Size = sides[0] if len(sides) == 1 else (sides[0], sides[1])
        if self._crops.size is not None and self._crops.resized(wanted) == self._crops.size:
            return _SAME_SIZE
        self._check_resizing(part)
        self._check_no_colours()
        self._crops.resize(wanted)
        return f"resize={written(wanted)}"

    def _center_crop(self, part: Any) -> str:
        size = _sides(part.size)
        if self._crops.size == size:
            return _SAME_SIZE
        self._check_no_colours()
        self._crops.cut_centre(size)
        return f"size={written(size)}"

    def _random_crop(self, part: Any) -> str:
        size, pad, before = _sides(part.size), self._padding(part), self._crops.size
        if before == size and not pad:
            return _SAME_SIZE
        self._check_no_colours()
        if pad:
            self._crops.pad(pad)
        self._crops.cut_place(size)
        return f"size={written(size)}, pad={pad}"

    def _pad(self, part: Any) -> str:
        self._check_no_colours()
        self._crops.pad(pad := self._padding(part))
        return f"pad={pad}"

    def _padding(self, part: Any) -> int:
        given = part.padding or 0
        sides = {given} if isinstance(given, int) else set(given)
        if len(sides) > 1:
            raise NoCounterpartError(f"the graph pads all sides alike, got padding={given!r}.")
        if not any(sides) and not getattr(part, "pad_if_needed", False):
            return 0
        fill = [part.fill] if not isinstance(part.fill, (tuple, list)) else part.fill
        if part.padding_mode != "constant" or any(one not in (0, None) for one in fill):
            got = f"padding_mode={part.padding_mode!r}, fill={part.fill!r}"
            raise NoCounterpartError(f"the graph pads with black only, got {got}.")
        if any(self.levels.mean):
            raise NoCounterpartError(
                "what it pads with after Normalize is not black. Move it before."
            )
        return int(sides.pop())

    def _check_resizing(self, part: Any) -> None:
        if (way := mode_of(part)) != "bilinear":
            raise NoCounterpartError(f"the graph resizes bilinearly, got interpolation={way!r}.")
        if self.levels.is_tensor and not part.antialias:
            raise OutOfPlaceError(
                "the graph resizes with antialiasing. Pass `antialias=True`, or resize before the "
                "image becomes a tensor."
            )
        if not self.levels.are_whole:
            self._into.note("Resized pixels are rounded to levels of uint8.")

    def _check_nothing_sheared(self) -> None:
        """The graph flips first, which commutes with all but shears: they hold a corner fast."""
        for place, theirs, ours in self._colours:
            if isinstance(ours, (AutoAugment, RandAugment, TrivialAugment)):
                name = type(theirs).__name__
                raise NoCounterpartError(
                    f"it comes after {name} at {place}; the graph flips first, which gives other "
                    f"images where {name} shears. Move it before {name}."
                )

    def _check_no_colours(self) -> None:
        """Colours are changed after the crop; what commutes with it may stand before."""
        for place, colour, ours in self._colours:
            if not commutes_with_crops(ours):
                name = type(colour).__name__
                raise NoCounterpartError(
                    f"it comes after {name} at {place}; the graph crops and resizes first, which "
                    f"gives other images. Move {name} behind it."
                )


def _short(numbers: Any) -> str:
    return f"({', '.join(f'{one:.4g}' for one in numbers)})"


def _sides(size: Any) -> Size:
    sides = [size] if isinstance(size, int) else [int(side) for side in size]
    return sides[0], sides[-1]
