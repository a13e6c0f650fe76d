"""torchvision's colours, erasing and automatic augmentations, as those of a graph."""

from __future__ import annotations

from typing import Any

from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.report import (
    NoCounterpartError,
    OutOfPlaceError,
    Translation,
    mode_of,
    torchvision_name,
)
from dali_cutmix.transforms.affine import INTERPOLATIONS
from dali_cutmix.transforms.automatic import AutoAugment, RandAugment, TrivialAugment
from dali_cutmix.transforms.color import ColorJitter, Grayscale
from dali_cutmix.transforms.erasing import RandomErasing

_AUTOMATIC = ("AutoAugment", "RandAugment", "TrivialAugmentWide")

#: Classes that are translated here.
COLOURS = ("ColorJitter", "Grayscale", "RandomGrayscale", "RandomErasing", *_AUTOMATIC)


def translate_colour(part: Any, levels: Levels, prob: float, into: Translation) -> Any:
    """Translate one of `COLOURS`.

    Args:
        part: torchvision's.
        levels: What pixels are where it stands.
        prob: Probability that it is applied, beside its own.
        into: Where notes go.

    Returns:
        One of `dali_cutmix.augmentations`; None where it changes nothing.
    """
    name = torchvision_name(part)
    if name == "RandomErasing":
        return _erasing(part, levels, prob, into)
    if not levels.are_plain or (name in _AUTOMATIC and not levels.are_whole):
        raise OutOfPlaceError(
            "the graph changes colours of uint8 levels. Move it before ToTensor, ToDtype and "
            "Normalize."
        )
    if not levels.are_whole:
        into.note("Changed colours are rounded to levels of uint8.")
    if name in ("Grayscale", "RandomGrayscale"):
        if getattr(part, "num_output_channels", 3) != 3:
            raise NoCounterpartError("images have three channels. Pass `num_output_channels=3`.")
        return Grayscale(prob * getattr(part, "p", 1.0))
    if prob != 1:
        raise NoCounterpartError("the graph applies it to all images. Take it out of RandomApply.")
    if name == "ColorJitter":
        names = ("brightness", "contrast", "saturation", "hue")
        ranges = {key: tuple(given) for key in names if (given := getattr(part, key)) is not None}
        return ColorJitter(**ranges) if ranges else None
    augmentation = _automatic(part, name)
    if augmentation.interpolation == "bilinear" and not levels.is_tensor:
        into.note(
            "What is sheared or turned fades to black over a pixel, as tensors do; Pillow's images "
            "do not."
        )
    return augmentation


def commutes_with_crops(augmentation: Any) -> bool:
    """Whether it may as well stand before a crop and a resize, but for rounding."""
    return isinstance(augmentation, Grayscale)


def _automatic(part: Any, name: str | None) -> Any:
    fill = part.fill if isinstance(part.fill, (tuple, list)) else [part.fill]
    if any(one not in (0, None) for one in fill):
        raise NoCounterpartError(f"the graph fills with black, got fill={part.fill!r}.")
    way: Any = mode_of(part)
    if way not in INTERPOLATIONS:
        raise NoCounterpartError(
            "the graph turns and shears to the nearest pixel or bilinearly, got interpolation="
            f"{way!r}. Pass `interpolation=InterpolationMode.BILINEAR`."
        )
    if name == "AutoAugment":
        return AutoAugment(part.policy.value, way)
    if name == "RandAugment":
        return RandAugment(part.num_ops, part.magnitude, part.num_magnitude_bins, way)
    return TrivialAugment(part.num_magnitude_bins, way)


def _erasing(part: Any, levels: Levels, prob: float, into: Translation) -> Any:
    value = part.value
    if value is None or value == "random":
        raise NoCounterpartError("the graph erases with one colour. Pass `value=0`.")
    number = list(value) if isinstance(value, (tuple, list)) else [value]
    exact = levels.level_of([float(one) for one in (number * 3 if len(number) == 1 else number)])
    colour = tuple(round(one) for one in exact)
    if not all(0 <= one <= 255 for one in colour):
        raise NoCounterpartError(f"no colour of the graph becomes {value} here. Pass `value=0`.")
    if any(abs(a - b) > 1e-6 for a, b in zip(colour, exact, strict=True)):
        into.note(f"Erased pixels become {colour} of 255, which shows as {value} but for rounding.")
    return RandomErasing(
        prob=prob * part.p, scale=tuple(part.scale), ratio=tuple(part.ratio), value=colour
    )
