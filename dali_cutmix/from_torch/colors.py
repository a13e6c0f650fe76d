"""torchvision's colors, erasing and automatic augmentations, as augmentations of a graph."""

from __future__ import annotations

from typing import Any

from dali_cutmix.from_torch import timm
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.report import (
    NoCounterpartError,
    NotFixedError,
    OutOfPlaceError,
    Translation,
    mode_of,
    transform_name,
)
from dali_cutmix.transforms.affine import INTERPOLATIONS
from dali_cutmix.transforms.augmix import AugMix
from dali_cutmix.transforms.automatic import AutoAugment, RandAugment, TrivialAugment
from dali_cutmix.transforms.chain import RandomApply, RandomChoice
from dali_cutmix.transforms.color import (
    ColorJitter,
    Grayscale,
    PermuteChannels,
    RandomChannelPermutation,
)
from dali_cutmix.transforms.erasing import RandomErasing
from dali_cutmix.transforms.warps import colour_of

_AUTOMATIC = ("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide")
_TIMM = {
    "timm.RandAugment": timm.rand_augment,
    "timm.AutoAugment": timm.auto_augment,
    "timm.AugMixAugment": timm.augmix,
}
_ERASING = ("RandomErasing", "timm.RandomErasing")

#: Names of the classes that `translate_color` takes.
COLORS = (
    *("ColorJitter", "Grayscale", "RandomGrayscale"),
    *("RandomChannelPermutation", "RandomPhotometricDistort", "ChannelOrder"),
    *(*_ERASING, *_AUTOMATIC, *_TIMM),
)


def translate_color(part: Any, levels: Levels, prob: float, translation: Translation) -> Any:
    """Translate an object of the classes in `COLORS`.

    Args:
        part: torchvision's transform.
        levels: What pixel numbers mean in front of ``part``.
        prob: Probability of ``RandomApply`` around ``part``, multiplied with its own.
        translation: Takes notes.

    Returns:
        An object of `dali_cutmix.augmentations`; None where ``part`` changes nothing.

    Raises:
        NoCounterpartError: The graph has no such augmentation, or not in this place.
    """
    name = transform_name(part)
    if name in _ERASING:
        return _erasing(part, levels, prob, translation)
    if name == "ChannelOrder":
        return PermuteChannels(part.permutation)
    if not levels.are_plain or (name in (*_AUTOMATIC, *_TIMM) and not levels.are_uint8):
        raise OutOfPlaceError(
            "the graph changes colors of uint8 levels. Move "
            f"{type(part).__name__} before ToTensor, ToDtype and Normalize."
        )
    if not levels.are_uint8:
        translation.note("Colors are rounded to levels of uint8 after each change.")
    if name in ("Grayscale", "RandomGrayscale"):
        if prob != 1:
            check_channels(part, levels)
        if not levels.is_tensor:
            translation.note("Gray levels differ from Pillow's by at most 1 of 255.")
        return Grayscale(prob * getattr(part, "p", 1.0)) if levels.num_channels == 3 else None
    if prob != 1:
        raise NotFixedError
    if name == "ColorJitter":
        return _jitter(part, levels, translation)
    if name == "RandomPhotometricDistort":
        return _photometric_distortion(part, levels)
    if name in _TIMM:
        return _TIMM[name](part)
    if name == "RandomChannelPermutation":
        return RandomChannelPermutation() if levels.num_channels == 3 else None
    augmentation = _automatic(part, name, levels)
    # torchvision's AugMix makes tensors of Pillow images.
    if name != "AugMix" and not levels.is_tensor:
        _note_border(augmentation, translation)
    return augmentation


def check_channels(part: Any, levels: Levels) -> None:
    """Refuse a part that gives some images of a batch another number of channels."""
    num_channels = getattr(part, "num_output_channels", levels.num_channels)
    if num_channels != levels.num_channels:
        raise NoCounterpartError(
            "images of a batch have equally many channels. Take Grayscale out of RandomApply, or "
            f"pass `num_output_channels={levels.num_channels}`."
        )


def commutes_with_crops(augmentation: Any) -> bool:
    """Return whether an augmentation gives the same before a crop and a resize, up to rounding."""
    return isinstance(augmentation, (Grayscale, PermuteChannels, RandomChannelPermutation))


def makes_noise(part: Any) -> bool:
    """Return whether a part erases by normal noise, of deviation 1 in the numbers there."""
    if transform_name(part) == "timm.RandomErasing":
        return part.mode in ("rand", "pixel")
    return transform_name(part) == "RandomErasing" and part.value in (None, "random")


def _photometric_distortion(part: Any, levels: Levels) -> RandomApply:
    def by_chance(augmentation: Any) -> RandomApply:
        return RandomApply([augmentation], float(part.p))

    def jitter(name: str) -> RandomApply:
        low, high = getattr(part, name)
        return by_chance(ColorJitter(**{name: (float(low), float(high))}))

    contrast, others = jitter("contrast"), [jitter("saturation"), jitter("hue")]
    orders = [RandomApply(order, 1.0) for order in ([contrast, *others], [*others, contrast])]
    steps: list[Any] = [jitter("brightness"), RandomChoice(orders)]
    if levels.num_channels == 3:
        steps.append(by_chance(RandomChannelPermutation()))
    return RandomApply(steps, 1.0)


def _jitter(part: Any, levels: Levels, translation: Translation) -> ColorJitter | None:
    names = ("brightness", "contrast", "saturation", "hue")
    if part.hue is not None and not levels.is_tensor:
        translation.note("Turned hues differ from Pillow's by up to 15 of 255 in a few pixels.")
    ranges = {key: tuple(bounds) for key in names if (bounds := getattr(part, key)) is not None}
    return ColorJitter(**ranges) if ranges else None


def _note_border(augmentation: Any, translation: Translation) -> None:
    if augmentation.interpolation == "bilinear":
        border = "`fill`" if any(colour_of(augmentation.fill)) else "black"
        translation.note(
            f"Sheared and rotated images fade to {border} over one pixel, as torchvision's tensors "
            "do and Pillow images do not."
        )


def _automatic(part: Any, name: str | None, levels: Levels) -> Any:
    fill = _fill(part, levels)
    mode: Any = mode_of(part)
    if mode not in INTERPOLATIONS:
        raise NoCounterpartError(
            "the graph rotates and shears to the nearest pixel or bilinearly, got interpolation="
            f"{mode!r}. Pass `interpolation=InterpolationMode.BILINEAR`."
        )
    if name == "AugMix":
        depth = part.chain_depth if part.chain_depth > 0 else -1
        numbers = part.severity, part.mixture_width, depth, float(part.alpha)
        return AugMix(*numbers, bool(part.all_ops), mode, fill)
    if name == "AutoAugment":
        return AutoAugment(part.policy.value, mode, fill)
    if name == "RandAugment":
        return RandAugment(part.num_ops, part.magnitude, part.num_magnitude_bins, mode, fill)
    return TrivialAugment(part.num_magnitude_bins, mode, fill)


def _fill(part: Any, levels: Levels) -> Any:
    """Return the level, or levels, of pixels from outside the image."""
    fill = levels.for_kind(part.fill)
    numbers = fill if isinstance(fill, (tuple, list)) else [fill or 0]
    color = tuple(round(float(number)) for number in numbers)
    if len(color) not in (1, 3) or not all(0 <= level <= 255 for level in color):
        raise NoCounterpartError(f"no color of 8 bits is fill={part.fill!r}.")
    return color[0] if len(set(color)) == 1 else color


def _erasing(part: Any, levels: Levels, prob: float, translation: Translation) -> Any:
    is_timms = transform_name(part) == "timm.RandomErasing"
    if makes_noise(part) and levels.are_uint8:
        raise OutOfPlaceError("noise needs floats. Move RandomErasing behind Normalize.")
    if makes_noise(part):
        pairs = list(zip(levels.mean, levels.std, strict=True))
        low = min(-mean / std for mean, std in pairs)
        high = max((1 - mean) / std for mean, std in pairs)
        translation.note(
            "Noise is clipped to colors in [0, 255], which are numbers from "
            f"{low:.2f} to {high:.2f} here."
        )
    if makes_noise(part) and not is_timms:
        return RandomErasing(prob * part.p, tuple(part.scale), tuple(part.ratio), mode="pixel")
    color = levels.color_of(0 if is_timms else part.value, translation, "value")
    if is_timms:
        return timm.erasing(part, color, prob)
    return RandomErasing(
        prob=prob * part.p, scale=tuple(part.scale), ratio=tuple(part.ratio), value=color
    )
