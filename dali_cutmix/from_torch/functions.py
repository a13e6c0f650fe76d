"""What a user's function does to one image, as torchvision's transforms.

A function is called on synthetic images of many sizes and kinds of content, and recognised if every
result is that of the transforms. Random states behind the call have to be those of the transforms
too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors  # type: ignore[import-untyped]
from torchvision.transforms import v2  # type: ignore[import-untyped]

from dali_cutmix.from_torch.comparison import GENERATORS, call, held
from dali_cutmix.from_torch.contents import KINDS, contents, pattern
from dali_cutmix.from_torch.crops import Size
from dali_cutmix.from_torch.report import transform_name

#: (height, width) of synthetic images: as ImageNet's, square, long, small and large.
SIZES = (
    *((375, 500), (500, 333), (300, 400), (224, 224), (512, 512), (90, 1000), (800, 100)),
    *((32, 32), (24, 17), (1, 1), (1300, 1700), (1700, 1300)),
)

#: Of `contents`: all kinds are tried in one size.
NUM_KINDS = len(KINDS)

_PADDING_MODES = ("constant", "reflect", "edge", "symmetric")


def wrapped_transform(function: Any, size: Size | None) -> Any:
    """Return the transform that a function of a Pillow image holds, and only calls; else None.

    Args:
        function: The user's function or object.
        size: ``(height, width)`` of all images; None where sizes differ or are unknown.
    """
    for transform in held(function, lambda part: transform_name(part) not in (None, "Lambda")):
        if _are_same(function, transform, size, None, torch.uint8):
            return transform
    return None


def seen_transforms(
    function: Any, size: Size | None, kind: type[torch.Tensor] | None, dtype: torch.dtype
) -> list[Any] | None:
    """Return transforms that do what a function does; None where its results are others.

    Recognised is a function that changes nothing, that pads all sides equally, or that converts to
    a tensor, or scales and shifts the numbers of each channel.

    Args:
        function: The user's function or object.
        size: ``(height, width)`` in front of the function; None where sizes differ.
        kind: Class of the tensors in front of the function; None for Pillow images.
        dtype: Type of the numbers in front of the function.
    """
    if held(function, lambda part: isinstance(part, GENERATORS)):
        return None  # the function may change nothing now, and something later
    for transforms in _guesses(function, kind, dtype):
        if _are_same(function, _in_turn(transforms), size, kind, dtype):
            return transforms
    return None


def _guesses(
    function: Any, kind: type[torch.Tensor] | None, dtype: torch.dtype
) -> Iterator[list[Any]]:
    """Yield lists of transforms that a function may be."""
    yield []
    image = _in_class(pattern((40, 50)), kind, dtype)
    result = _outcome(function, image)
    if result is None:
        return
    height, width = _size(result[0])
    margin = (height - 40) // 2
    if margin > 0 and (height, width) == (40 + 2 * margin, 50 + 2 * margin):
        yield from ([v2.Pad(margin, padding_mode=mode)] for mode in _PADDING_MODES)
    conversion: list[Any] = [] if kind else [v2.PILToTensor()]
    if conversion:
        yield conversion
    linear = _normalization(function, kind, dtype)
    if linear is not None:
        yield [*conversion, *linear]


def _normalization(
    function: Any, kind: type[torch.Tensor] | None, dtype: torch.dtype
) -> list[Any] | None:
    """Return what changes black and white as a function does; None where that is not possible."""
    high = 255 if dtype == torch.uint8 else 1
    ends: list[torch.Tensor] = []
    for level in (0, 255):
        flat = _in_class(np.full((8, 8, 3), level, np.uint8), kind, dtype)
        result = _outcome(function, flat)
        numbers = None if result is None else result[0]
        if not isinstance(numbers, torch.Tensor) or not numbers.is_floating_point():
            return None
        if numbers.shape != (3, 8, 8):
            return None
        ends.append(numbers[:, 0, 0])
    scale, shift = (ends[1].double() - ends[0].double()) / high, ends[0].double()
    if scale.min() <= 0:
        return None
    is_scaled = dtype == torch.uint8 and torch.allclose(scale * 255, torch.ones_like(scale))
    scale = scale * 255 if is_scaled else scale
    transforms = []
    if ends[0].dtype != dtype:
        transforms.append(v2.ToDtype(ends[0].dtype, scale=is_scaled))
    mean, std = ([_short(number) for number in numbers] for numbers in (-shift / scale, 1 / scale))
    if (mean, std) != ([0] * 3, [1] * 3):
        transforms.append(v2.Normalize(mean, std))
    return transforms


def _short(number: torch.Tensor) -> float:
    """Return a number without the last digits, in which float32 errs."""
    return float(f"{float(number):.6g}") + 0.0  # not -0


def _in_turn(transforms: list[Any]) -> Callable[[Any], Any]:
    def apply(image: Any) -> Any:
        for transform in transforms:
            image = transform(image)
        return image

    return apply


def _are_same(
    function: Any,
    expected: Any,
    size: Size | None,
    kind: type[torch.Tensor] | None,
    dtype: torch.dtype,
) -> bool:
    """Return whether both give equal results, but for sizes on which both fail.

    Both may fail on less than half of the sizes, and on no kind of content.
    """
    sizes = [size] if size else SIZES
    equal_sizes: list[Size] = []
    for each in sizes:
        is_same = _is_same(function, expected, _in_class(pattern(each), kind, dtype))
        if is_same is False:
            return False
        if is_same:
            equal_sizes.append(each)
    if len(equal_sizes) <= len(sizes) // 2:
        return False
    images = (_in_class(pixels, kind, dtype) for pixels in contents(equal_sizes[0]))
    return all(_is_same(function, expected, image) for image in images)


def _is_same(function: Any, expected: Any, image: Any) -> bool | None:
    """Return whether both give equal results and random states; None where both fail."""
    result, wanted = (_outcome(callee, image) for callee in (function, expected))
    if result is None and wanted is None:
        return None
    if result is None or wanted is None:
        return False
    return bool(result[1] == wanted[1]) and _are_equal(result[0], wanted[0])


def _are_equal(result: Any, expected: Any) -> bool:
    """Return whether two images are the same, of one kind; floats up to rounding."""
    if isinstance(result, torch.Tensor) != isinstance(expected, torch.Tensor):
        return False
    pixels, expected_pixels = _as_tensor(result), _as_tensor(expected)
    if pixels is None or expected_pixels is None or pixels.dtype != expected_pixels.dtype:
        return False
    if pixels.shape != expected_pixels.shape:
        return False
    if not pixels.is_floating_point():
        return torch.equal(pixels, expected_pixels)
    return torch.allclose(pixels, expected_pixels, rtol=1e-5, atol=1e-5)


def _as_tensor(image: Any) -> torch.Tensor | None:
    """Return an RGB image as a tensor, ``[3, height, width]``, or None."""
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) if image.mode == "RGB" else None
    if isinstance(image, np.ndarray):  # with channels last, as all take arrays that take images
        is_image = image.ndim == 3 and image.dtype == np.uint8
        return torch.from_numpy(image.copy()).permute(2, 0, 1) if is_image else None
    return image if isinstance(image, torch.Tensor) else None


def _size(image: Any) -> tuple[int, int]:
    pixels = _as_tensor(image)
    return (0, 0) if pixels is None or pixels.ndim != 3 else (pixels.shape[1], pixels.shape[2])


def _outcome(function: Any, image: Any) -> tuple[Any, Any] | None:
    """Return the result and the random states behind the call; None where the call fails."""
    try:
        return call(function, image.copy() if isinstance(image, Image.Image) else image.clone())
    except Exception:  # whatever the user's code raises
        return None


def _in_class(pixels: np.ndarray, kind: type[torch.Tensor] | None, dtype: torch.dtype) -> Any:
    if kind is None:
        return Image.fromarray(pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    if dtype != torch.uint8:
        tensor = (tensor / 255).to(dtype)
    return tv_tensors.Image(tensor) if kind is tv_tensors.Image else tensor
