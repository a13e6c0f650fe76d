"""Lists in any order, as steps of the graph's `Compose`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dali_cutmix.core.frame import Augmentation, Frame, frames_of
from dali_cutmix.from_torch.colors import COLORS, check_channels, translate_color
from dali_cutmix.from_torch.levels import NO_CHANGE, Levels
from dali_cutmix.from_torch.published import published
from dali_cutmix.from_torch.replays import NUM_REPLAYS
from dali_cutmix.from_torch.report import (
    NO_OPERATOR,
    NoCounterpartError,
    OutOfPlaceError,
    Size,
    SizesVaryError,
    Translation,
    mode_of,
    named,
    transform_name,
    written,
)
from dali_cutmix.from_torch.resizing import kernel_of, resize_of, sides_of
from dali_cutmix.from_torch.scripts import own_class
from dali_cutmix.transforms import adjustments, chain, flips, shapes, sizing, warps
from dali_cutmix.transforms.erasing import EraseSquares, RandomErasing
from dali_cutmix.transforms.steps import Compose

#: Characters of the code of augmentations in a note; of longer code the classes are named.
_MAX_TEXT = 200

#: Ways out of parts whose removal would give images of another size, by name.
_REPLACEMENTS = dict.fromkeys(
    ("TenCrop", "FiveCrop"),
    "the graph has no such operator. Use CenterCrop(size), or pass `transform=Views([...])`.",
) | dict.fromkeys(
    (*("RandomZoomOut", "RandomIoUCrop", "RandomShortestSize", "RandomResize", "ScaleJitter"),),
    "the graph has no such operator. Pass `transform=`.",
)


class Steps:
    """Take the parts of a list in turn, as steps.

    Args:
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.
        levels: What pixel numbers mean in front of the next part; the caller keeps it up to date.

    Attributes:
        notes: Takes notes on the parts taken.
    """

    def __init__(self, size: Size | None, levels: Levels) -> None:
        self.notes = Translation()
        self._source_size = size
        self._levels = levels
        self._steps: list[Augmentation] = []  # without the parts that change nothing
        self._is_nested = False
        self._handlers: dict[str, Callable[[Any], Augmentation]] = {
            **dict.fromkeys(COLORS, self._color),
            "Resize": self._resize,
            "CenterCrop": self._center_crop,
            "Pad": self._pad,
            "RandomCrop": self._random_crop,
            "RandomResizedCrop": self._random_resized_crop,
            "timm.RandomResizedCropAndInterpolation": self._random_resized_crop,
            "timm.ResizeKeepRatio": self._resize_keep_ratio,
            "timm.CenterCropOrPad": lambda part: self._crop_or_pad(sizing.CenterCrop, part),
            "timm.RandomCropOrPad": lambda part: self._crop_or_pad(
                partial(sizing.RandomCrop, padding=None), part
            ),
            "timm.TrimBorder": lambda part: shapes.TrimBorder(int(part.border_size)),
            "RandomHorizontalFlip": lambda part: flips.RandomHorizontalFlip(part.p),
            "RandomVerticalFlip": lambda part: flips.RandomVerticalFlip(part.p),
            "RandomRotation": self._rotation,
            "RandomAffine": self._affine,
            "RandomPerspective": self._perspective,
            "GaussianBlur": self._blur,
            "RandomInvert": self._adjustment,
            "RandomSolarize": self._adjustment,
            "RandomPosterize": self._adjustment,
            "RandomAdjustSharpness": self._adjustment,
            "RandomAutocontrast": self._adjustment,
            "RandomEqualize": self._adjustment,
            "Shape": lambda part: part.step,
            "RandomApply": self._nest,
            "RandomChoice": self._nest,
            "RandomOrder": self._nest,
        }

    def take(self, part: Any) -> str:
        """Take a part, and return what the part became.

        Raises:
            NoCounterpartError: The graph has no such step.
            ValueError: An argument is outside its range.
        """
        steps = self._steps_of(part)
        self._steps += steps
        return "; ".join(map(written, steps)) if steps else NO_CHANGE

    def transform(self, scaling: dict[str, Any]) -> Compose:
        """Make the transform of all steps.

        Args:
            scaling: ``mean`` and ``std``; empty where pixels stay levels of uint8.

        Raises:
            SizesVaryError: Images have different sizes at the end, or where a step needs one.
            ValueError: An argument is outside its range.
        """
        frames = frames_of(self._steps, chain.ANY_SIZE)
        steps = list(self._steps)
        for step, frame in zip(steps, frames, strict=False):
            if not frame.varies or getattr(step, "takes_any_size", False):
                continue
            if self._source_size is None:
                name = type(step).__name__
                raise SizesVaryError(
                    f"{name} takes images of one size in the graph. Put the crop before {name}."
                )
            frames[-1] = chain.ANY_SIZE
        if frames[-1].varies and self._source_size is not None:
            # Changes nothing, and says which size stored images have.
            steps.insert(0, sizing.CenterCrop(_side(self._source_size)))
            frames = frames_of(steps, chain.ANY_SIZE)
        if frames[-1].varies:
            raise SizesVaryError(
                "images keep different sizes, and cannot make a batch. Add RandomResizedCrop, or "
                "Resize and CenterCrop."
            )
        return Compose(steps, **scaling)

    def _steps_of(self, part: Any) -> list[Augmentation]:
        name = transform_name(part)
        if name in ("Identity", "RGB"):
            return []
        if name in ("Compose", "Sequential"):
            parts = part.transforms if name == "Compose" else part
            return [step for inner in parts for step in self._steps_of(inner)]
        # A Lambda only calls its function, unless the Lambda is of some types.
        is_call = name == "Lambda" and getattr(part, "types", (object,)) == (object,)
        function = part.lambd if is_call else part
        is_known = transform_name(function) is not None
        augmentations = None if is_known else published(function, self._levels)
        if augmentations is not None:
            return self._noted(function, augmentations)
        if name not in self._handlers:
            reason = own_class(part) if name is None else _REPLACEMENTS.get(name)
            raise NoCounterpartError(reason or NO_OPERATOR)
        step = self._handlers[name](part)
        return [] if step is None else [step]

    def _noted(self, part: Any, augmentations: list[Augmentation]) -> list[Augmentation]:
        """Note what was recognised by replaying, and what differs."""
        text = "; ".join(map(written, augmentations)) or "no change"
        if len(text) > _MAX_TEXT:
            text = " and ".join(type(each).__name__ for each in augmentations)
        self.notes.note(
            f"{named(part)} was compared with {text} from {NUM_REPLAYS} random states only."
        )
        for each in augmentations:
            if isinstance(each, adjustments.Lighting):
                self.notes.note(
                    "Colors of Lighting are rounded to levels, and clipped to [0, 255]."
                )
            elif isinstance(each, (EraseSquares, RandomErasing)):
                self.notes.note(f"Erased pixels become {each.value} of 255, rounded to levels.")
        return augmentations

    def _nest(self, part: Any) -> Augmentation:
        """Translate ``RandomApply``, ``RandomChoice`` or ``RandomOrder``."""
        name = transform_name(part)
        nested = []
        is_nested, self._is_nested = self._is_nested, True
        try:
            for inner in part.transforms:
                try:
                    nested.append(self._steps_of(inner))
                except NoCounterpartError as error:
                    raise type(error)(f"{type(inner).__name__} inside: {error}") from None
        finally:
            self._is_nested = is_nested
        if name == "RandomApply":
            return chain.RandomApply([step for steps in nested for step in steps], part.p)
        each = [steps[0] if len(steps) == 1 else chain.RandomApply(steps, 1.0) for steps in nested]
        if name == "RandomOrder":
            return chain.RandomOrder(each)
        is_uniform = part.p is None or max(part.p) - min(part.p) < 1e-9
        return chain.RandomChoice(each, None if is_uniform else tuple(map(float, part.p)))

    def _color(self, part: Any) -> Any:
        if self._is_nested:
            check_channels(part, self._levels)
        return translate_color(part, self._levels, 1.0, self.notes)

    def _resize(self, part: Any) -> Augmentation:
        max_size = getattr(part, "max_size", None)
        if max_size is not None and part.size is None:
            raise NoCounterpartError("the graph resizes by the short side. Pass Resize(side).")
        size = resize_of(part)
        if isinstance(size, int) and self._is_square:
            size = size, size  # says that all images have this size
        return sizing.Resize(size, self._kernel(part), max_size)

    @property
    def _is_square(self) -> bool:
        """Whether images in front of the next part are squares, of any sizes."""
        changing = [step for step in self._steps if hasattr(step, "size_behind")]
        return bool(changing) and isinstance(changing[-1], (shapes.SquareCrop, shapes.SquarePad))

    def _perspective(self, part: Any) -> Augmentation:
        scale, kernel = float(part.distortion_scale), self._warp_kernel(part)
        return warps.RandomPerspective(scale, float(part.p), kernel, self._fill(part))

    def _random_resized_crop(self, part: Any) -> Augmentation:
        size, kernel = _side(sides_of(part.size)), self._kernel(part)
        return sizing.RandomResizedCrop(size, _floats(part.scale), _floats(part.ratio), kernel)

    def _center_crop(self, part: Any) -> Augmentation:
        size = sides_of(part.size)
        is_plain = not any(self._levels.mean) or self._have_at_least(size)
        # Beyond the border torchvision pads with the number 0, which is the mean behind Normalize.
        return sizing.CenterCrop(_side(size), 0 if is_plain else self._level(0))

    def _have_at_least(self, size: Size) -> bool:
        """Return whether all images in front of the next part are known to be as large."""
        last = self._steps[-1] if self._steps else None
        if isinstance(last, sizing.Resize) and isinstance(last.size, int):
            return last.max_size is None and last.size >= max(size)
        first = Frame(self._source_size) if self._source_size else chain.ANY_SIZE
        frame = frames_of(self._steps, first)[-1]
        return not frame.varies and frame.size[0] >= size[0] and frame.size[1] >= size[1]

    def _random_crop(self, part: Any) -> Augmentation:
        size, padding = _side(sides_of(part.size)), _padding(part.padding)
        return sizing.RandomCrop(size, padding, *self._border(part, part.padding))

    def _resize_keep_ratio(self, part: Any) -> Augmentation:
        if part.random_scale_prob and not part.random_scale_area:
            raise NoCounterpartError(
                "the graph draws the area of a scale. Pass `random_scale_area=True`."
            )
        return shapes.ResizeKeepRatio(
            _side(sides_of(part.size)),
            float(part.longest),
            self._kernel(part),
            float(part.random_scale_prob),
            _floats(part.random_scale_range),
            float(part.random_aspect_prob),
            _floats(part.random_aspect_range),
        )

    def _crop_or_pad(self, crop: Callable[..., Augmentation], part: Any) -> Augmentation:
        fill, mode = self._border(part, True)
        return crop(_side(sides_of(part.size)), fill=fill, padding_mode=mode)

    def _pad(self, part: Any) -> Augmentation:
        return sizing.Pad(_padding(part.padding) or 0, *self._border(part, part.padding))

    def _border(self, part: Any, padding: Any) -> tuple[Any, Any]:
        is_needed = bool(padding) or getattr(part, "pad_if_needed", False)
        if part.padding_mode != "constant" or not is_needed:
            return 0, part.padding_mode
        return self._fill(part), "constant"

    def _rotation(self, part: Any) -> Augmentation:
        center = None if part.center is None else tuple(part.center)
        degrees, kernel = _floats(part.degrees), self._warp_kernel(part)
        return warps.RandomRotation(degrees, kernel, center, self._fill(part), bool(part.expand))

    def _affine(self, part: Any) -> Augmentation:
        center = None if part.center is None else tuple(part.center)
        return warps.RandomAffine(
            _floats(part.degrees),
            _floats(part.translate),
            _floats(part.scale),
            _floats(part.shear),
            self._warp_kernel(part),
            self._fill(part),
            center,
        )

    def _blur(self, part: Any) -> Augmentation:
        self._note_rounding()
        return adjustments.GaussianBlur(tuple(part.kernel_size), _floats(part.sigma))

    def _adjustment(self, part: Any) -> Augmentation:
        name, levels = type(part).__name__, self._levels
        if not levels.are_plain or (
            name in ("RandomPosterize", "RandomEqualize") and not levels.are_uint8
        ):
            raise OutOfPlaceError(
                f"the graph changes colors of uint8 levels. Move {name} before ToTensor, ToDtype "
                "and Normalize."
            )
        self._note_rounding()
        if name == "RandomSolarize":
            threshold = part.threshold if levels.are_uint8 else part.threshold * 255
            return adjustments.RandomSolarize(float(threshold), part.p)
        if name == "RandomPosterize":
            return adjustments.RandomPosterize(part.bits, part.p)
        if name == "RandomAdjustSharpness":
            return adjustments.RandomAdjustSharpness(float(part.sharpness_factor), part.p)
        augmentation: Augmentation = getattr(adjustments, name)(part.p)
        return augmentation

    def _kernel(self, part: Any) -> Any:
        kernel = kernel_of(part, self._levels)
        self._note_rounding()
        return kernel

    def _warp_kernel(self, part: Any) -> Any:
        mode = mode_of(part)
        if mode not in warps.WARP_KERNELS:
            raise NoCounterpartError(
                "the graph turns images to the nearest pixel, bilinearly or bicubically, got "
                f"interpolation={mode!r}."
            )
        self._note_rounding()
        return mode

    def _note_rounding(self) -> None:
        if not self._levels.are_uint8:
            self.notes.note("Pixels are rounded to levels of uint8 after each step.")

    def _fill(self, part: Any) -> Any:
        """Return the level, or levels, of pixels from outside the image."""
        return self._level(self._levels.for_kind(part.fill))

    def _level(self, fill: Any) -> Any:
        """Return the level, or levels, that show as a number, or numbers, here."""
        color = self._levels.color_of(fill, self.notes)
        return color[0] if len(set(color)) == 1 else color


def _floats(bounds: Any) -> Any:
    return None if bounds is None else tuple(map(float, bounds))


def _side(size: Size) -> int | Size:
    return size[0] if size[0] == size[1] else size


def _padding(padding: Any) -> Any:
    """Return torchvision's ``padding`` in its shortest form; None for no padding."""
    if padding is None or isinstance(padding, int):
        return padding or None
    sides = [int(side) for side in padding]
    if len(set(sides)) == 1:
        return sides[0] or None
    return tuple(sides)
