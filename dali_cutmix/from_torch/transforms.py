"""torchvision's transforms, v1 or v2, and timm's, as the transform of a graph.

A list becomes a `TrainTransform` or an `EvalTransform` where these do the same, which `Fixed`
tells, and else a `Compose` of steps, which `Steps` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision import transforms as v1  # type: ignore[import-untyped]
from torchvision.transforms import v2  # type: ignore[import-untyped]

from dali_cutmix.core.frame import DrawsNothing, Frame, frames_of
from dali_cutmix.from_torch.colors import makes_noise
from dali_cutmix.from_torch.fixed import Fixed
from dali_cutmix.from_torch.functions import (
    NUM_KINDS,
    SIZES,
    seen_transforms,
    wrapped_transform,
)
from dali_cutmix.from_torch.levels import NO_CHANGE, Levels
from dali_cutmix.from_torch.report import (
    NoCounterpartError,
    OutOfPlaceError,
    Size,
    SizesVaryError,
    Translation,
    named,
    transform_name,
)
from dali_cutmix.from_torch.scripts import own_class
from dali_cutmix.from_torch.steps import Steps
from dali_cutmix.transforms.adm import ADMCrop
from dali_cutmix.transforms.chain import ANY_SIZE
from dali_cutmix.transforms.color import Grayscale
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform
from dali_cutmix.transforms.shapes import ResizeKeepRatio
from dali_cutmix.transforms.sizing import CenterCrop, Resize

_NOT_TORCHVISION = (
    "the graph runs transforms of torchvision and timm only, and this class is another. Pass "
    "`transform=`."
)
_UNSEEN = "from_torch cannot see what the function does. Remove it, or pass `transform=`."


def translate_transform(
    transform: Any,
    size: Size | None,
    translation: Translation,
    kind: type[torch.Tensor] | None = None,
    may_end_in_pillow: bool = False,
    behind: Sequence[Any] = (),
    num_channels: int = 3,
) -> tuple[Any, torch.dtype]:
    """Translate a dataset's ``transform``.

    Args:
        transform: torchvision's transform, v1 or v2, a ``Compose`` of several, a preset of
            pretrained weights, or a function or object that calls one of these.
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.
        translation: Takes lines, notes and refusals.
        kind: Class of the tensors that ``transform`` is handed; None for Pillow images.
        may_end_in_pillow: Whether a user's function makes a batch of what ``transform`` returns.
        behind: Transforms of the loader, applied to batches of uint8.
        num_channels: Channels of the images that ``transform`` is handed: 3, or 1.

    Returns:
        The transform, None where a part was refused, and the dtype of its pixels.
    """
    walk = _Walk(size, Levels(kind, num_channels))
    if transform is not None:
        walk.take("transform", transform)
    if may_end_in_pillow and not walk.levels.is_tensor:
        walk.levels.pil_to_tensor(None)
    for part in behind:
        walk.take("loader", part)
    return walk.finish(transform, translation), walk.levels.dtype


@dataclass
class _Record:
    """Say what became of a part.

    Attributes:
        path: Place of the part.
        part: The part, or the text to show.
        fixed: Translation of the part into a `TrainTransform` or `EvalTransform`, or the refusal,
            which is not shown.
        step: Translation of the part into a `Compose`, or the refusal.
    """

    path: str
    part: Any
    fixed: str | Exception
    step: str | Exception


class _Walk:
    """Go through a list, and know the image in front of each part."""

    def __init__(self, size: Size | None, levels: Levels) -> None:
        self.levels = levels
        self._size = size
        self._fixed = Fixed(size, levels)
        self._steps = Steps(size, levels)
        self._records: list[_Record] = []
        self._resizes_pillow = False
        self._resizes_as_v2 = True  # or resizes no tensor of uint8
        self._notes: list[str] = []
        self._noise: list[tuple[Any, Any]] = []  # mean and std where noise is erased with
        self._conversions: dict[str, Callable[[Any], str]] = {
            "Identity": lambda _: NO_CHANGE,
            "RGB": lambda _: levels.to_channels(3),
            "ToTensor": levels.to_tensor,
            "PILToTensor": levels.pil_to_tensor,
            "ToPureTensor": levels.to_pure,
            "ToImage": levels.to_image,
            "ToPILImage": levels.to_pil,
            "ToDtype": levels.to_dtype,
            "ConvertImageDtype": levels.to_dtype,
            "Normalize": levels.normalize,
            "timm.MaybeToTensor": levels.to_tensor,
            "timm.MaybePILToTensor": levels.pil_to_tensor,
            "timm.ToNumpy": levels.pil_to_tensor,
            "timm.ToTensor": levels.to_unscaled,
        }

    def take(self, path: str, part: Any) -> None:
        """Translate a part and all parts inside, or keep why there is no counterpart."""
        if (inner := _inner(path, part)) is not None:
            for each in inner:
                self.take(*each)
            return
        name = transform_name(part)
        if name in (None, "Lambda") and self._take_function(path, part):
            return
        if name is None or name == "Lambda":
            is_function = name == "Lambda" or hasattr(part, "__code__")
            reason = _UNSEEN if is_function else own_class(part) or _NOT_TORCHVISION
            error = NoCounterpartError(reason)
            step = _attempt(lambda: self._steps.take(part))
            is_seen = isinstance(step, str)
            self._records.append(_Record(path, part, error, step if is_seen else error))
            return
        if (convert := self._conversions.get(name)) is not None:
            result = _attempt(lambda: convert(part))
            self._records.append(_Record(path, part, result, result))
            return
        if name == "Resize":
            is_of_v2 = ".v2." in type(part).__module__
            self._resizes_pillow |= not self.levels.is_tensor
            self._resizes_as_v2 &= is_of_v2 and self.levels.are_uint8
        if makes_noise(part):
            self._noise.append((self.levels.mean, self.levels.std))
        fixed = _attempt(lambda: self._fixed.take(part))
        step = _attempt(lambda: self._steps.take(part))
        self._records.append(_Record(path, part, fixed, step))
        if name == "Grayscale":
            self.levels.to_channels(part.num_output_channels)
        elif name == "ChannelOrder":
            self.levels.permute(part.permutation)

    def finish(self, transform: Any, translation: Translation) -> Any:
        """Return the transform that does all of the list; None, and refusals, without one."""
        scaling = self.levels.scaling
        fits = not any(isinstance(record.fixed, Exception) for record in self._records)
        can_step = not any(isinstance(record.step, Exception) for record in self._records)
        error: str | Exception | None = None
        if any(scale != (self.levels.mean, self.levels.std) for scale in self._noise):
            fits = can_step = False
            reason = "noise is of deviation 1 at the end. Move RandomErasing behind Normalize."
            translation.refuse("transform", transform, reason)
        if not self.levels.is_tensor:
            error = "the list ends in Pillow images, which cannot make a batch. End with ToTensor."
        elif fits:
            translated = _attempt(lambda: self._fixed.transform(scaling))
            if not isinstance(translated, Exception):
                return self._accept(translated, "fixed", self._fixed.notes, translation)
        if can_step and self.levels.is_tensor:
            translated = _attempt(lambda: self._steps.transform(scaling))
            if not isinstance(translated, Exception):
                return self._accept(translated, "step", self._steps.notes, translation)
            translation.lacks_size |= isinstance(translated, SizesVaryError)
            error = translated
        self._refuse(translation)
        if can_step and error is not None:
            translation.refuse("transform", transform, error)
        return None

    def _accept(
        self, translated: Any, way: str, notes: Translation, translation: Translation
    ) -> Any:
        for record in self._records:
            translation.became(record.path, record.part, str(getattr(record, way)))
        on_pixels = _notes_on_pixels(
            translated, self._size, of_pillow=self._resizes_pillow, as_v2=self._resizes_as_v2
        )
        for sentence in [*self._notes, *notes.notes, *on_pixels]:
            translation.note(sentence)
        return translated

    def _refuse(self, translation: Translation) -> None:
        """Record the parts without a counterpart, unless a part before may be the cause."""
        is_lost = False
        for record in self._records:
            error = record.step
            may_follow = is_lost and isinstance(error, OutOfPlaceError)
            if not isinstance(error, Exception) or may_follow:
                translation.num_parts += 1
            else:
                translation.refuse(record.path, record.part, error)
                name = transform_name(record.part)
                is_lost |= name in (None, "Lambda") or name in self._conversions

    def _take_function(self, path: str, function: Any) -> bool:
        """Take what a user's function does, or return False where that cannot be seen."""
        levels = self.levels
        num_images = (1 if self._size else len(SIZES)) + NUM_KINDS
        count = f"{num_images} synthetic images only"
        inner = None if levels.is_tensor else wrapped_transform(function, self._size, levels)
        if inner is not None:
            text = f"the {named(inner)} inside"
            self._records.append(_Record(path, named(function), text, text))
            self._notes.append(f"{named(function)} was compared with {text} on {count}.")
            self.take(path, inner)
            return True
        transforms = seen_transforms(function, self._size, levels)
        if transforms is None:
            return False
        parts = [getattr(each, "step", each) for each in transforms]
        names = " and ".join(type(each).__name__ for each in parts) or "no change"
        self._notes.append(f"{named(function)} was compared with {names} on {count}.")
        text = f"what {names} does" if transforms else NO_CHANGE
        self._records.append(_Record(path, function, text, text))
        for each in transforms:
            self.take(path, each)
        return True


def _notes_on_pixels(
    transform: Any, size: Size | None, *, of_pillow: bool, as_v2: bool
) -> list[str]:
    """Return the sentences on how pixels differ from the torch loader's.

    Args:
        transform: The translation.
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.
        of_pillow: Whether the torch loader resizes Pillow images.
        as_v2: Whether v2 resizes each tensor, of uint8. v1 and floats round otherwise.
    """
    steps = _fixed_steps(transform)
    if steps is None:
        return ["Random draws keep their distribution; the numbers are new."]
    frames = frames_of(steps, Frame(size) if size else ANY_SIZE)
    resizes = [
        step.interpolation
        for step, before, behind in zip(steps, frames, frames[1:], strict=False)
        if isinstance(step, (Resize, ResizeKeepRatio)) and (before.varies or before != behind)
    ]
    if not of_pillow:
        return [_note_on_tensors(resizes, as_v2)] if resizes else []
    if "bicubic" in resizes:
        return [
            "On the CPU, pixels differ from Pillow's by at most 2 of 255, and by up to 12 in a few "
            "pixels beside hard edges."
        ]
    if "bilinear" in resizes:
        return ["On the CPU, pixels differ from Pillow's by at most 2 of 255."]
    return ["On the CPU, pixels are Pillow's."]


def _note_on_tensors(kernels: Sequence[str], as_v2: bool) -> str:
    if "nearest" in kernels:
        return (
            "On the CPU, resized pixels are Pillow's nearest, of which torchvision's are the "
            "neighbours in places."
        )
    if as_v2 and "bilinear-aliased" not in kernels:
        return "On the CPU, pixels equal those of torchvision's tensors."
    if "bicubic" in kernels:
        return (
            "On the CPU, pixels differ from those of torchvision's tensors by a few of 255, and by "
            "up to 24 beside hard edges. Those of v2 are equal."
        )
    return "On the CPU, pixels differ from those of torchvision's tensors by at most 1 of 255."


def _fixed_steps(transform: Any) -> list[Any] | None:
    """Return the steps of a transform that draws nothing, else None."""
    if isinstance(transform, TrainTransform):
        is_whole = transform.pad == 0 and transform.resize == transform.output_size
        if transform.flip or not is_whole or not all(map(_is_fixed, transform.augment)):
            return None
        return [Resize(transform.output_size, transform.interpolation), *transform.augment]
    if isinstance(transform, EvalTransform):
        return [Resize(transform.resize, transform.interpolation), CenterCrop(transform.size)]
    return list(transform.transforms) if all(map(_is_fixed, transform.transforms)) else None


def _is_fixed(step: Any) -> bool:
    """Return whether a step draws nothing."""
    if isinstance(step, ResizeKeepRatio):
        return not step.scale_prob and not step.aspect_prob
    if isinstance(step, ADMCrop):
        return step.scale is None
    if isinstance(step, Grayscale):
        return step.prob == 1
    return isinstance(step, (DrawsNothing, Resize))


def _attempt(function: Callable[[], Any]) -> Any:
    """Return a result, or the refusal."""
    try:
        return function()
    except (NoCounterpartError, ValueError) as error:
        return error


def _inner(path: str, part: Any) -> Iterator[tuple[str, Any]] | None:
    """Yield the parts of a container, with their paths; None where ``part`` is not a container."""
    name = transform_name(part)
    if name == "Compose":
        prefix = "transform" if path == "transform" else f"{path}.transforms"
        return ((f"{prefix}[{number}]", each) for number, each in enumerate(part.transforms))
    if name == "Sequential" or isinstance(part, (list, nn.ModuleList)):
        return ((f"{path}[{number}]", each) for number, each in enumerate(part))
    if name == "ImageClassification":  # a preset of weights
        resize = v1.Resize(  # which is what a preset calls
            part.resize_size, interpolation=part.interpolation, antialias=part.antialias
        )
        parts = [resize, v2.CenterCrop(part.crop_size), v2.PILToTensor()]
        parts += [v2.ConvertImageDtype(torch.float32), v2.Normalize(part.mean, part.std)]
        return ((path, each) for each in parts)
    return None
