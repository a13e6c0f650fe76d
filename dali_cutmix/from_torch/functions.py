"""What a user's function does to one image, as torchvision's transforms.

A function is called on synthetic images of many sizes and kinds of content, and recognised if every
result is that of the transforms. Random states behind the call have to be those of the transforms
too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2  # type: ignore[import-untyped]

from dali_cutmix.from_torch.comparison import GENERATORS, call, held, remembers
from dali_cutmix.from_torch.contents import KINDS, contents, pattern
from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.report import Size, transform_name
from dali_cutmix.from_torch.shapes import LONG, guesses_of_shape

#: (height, width) of synthetic images: as ImageNet's, square, long, small, and large at the end, as
#: most guesses fail before.
SIZES = (
    *((375, 500), (500, 333), (300, 400), (224, 224), (512, 512), (90, 1000), (800, 100)),
    *((32, 32), (24, 17), (1, 1), (8, 4200), (4200, 8), (1300, 1700), (2200, 2100)),
)

#: Of `contents`: all kinds are tried in one size.
NUM_KINDS = len(KINDS)

_PADDING_MODES = ("constant", "reflect", "edge", "symmetric")


def wrapped_transform(function: Any, size: Size | None, levels: Levels) -> Any:
    """Return the transform that a function of a Pillow image holds, and only calls; else None.

    Args:
        function: The user's function or object.
        size: ``(height, width)`` of all images; None where sizes differ or are unknown.
        levels: What pixel numbers mean in front of the function.
    """
    for transform in held(function, lambda part: transform_name(part) not in (None, "Lambda")):
        if _are_same(function, transform, size, levels):
            return transform
    return None


def seen_transforms(function: Any, size: Size | None, levels: Levels) -> list[Any] | None:
    """Return transforms that do what a function does; None where its results are others.

    Recognised is a function that changes nothing, that pads all sides equally, that pads or crops
    to a square, resizes, or crops as diffusion models do, that converts to a tensor, to gray or
    from gray to RGB, or that reorders channels, and scales and shifts numbers.

    Args:
        function: The user's function or object.
        size: ``(height, width)`` in front of the function; None where sizes differ.
        levels: What pixel numbers mean in front of the function.
    """
    if held(function, lambda part: isinstance(part, GENERATORS)):
        return None  # the function may change nothing now, and something later
    for transforms in _guesses(function, levels):
        if _are_same(function, _in_turn(transforms), size, levels):
            return transforms
    return None


@dataclass(frozen=True)
class ChannelOrder:
    """Put the channels of an RGB image in another order.

    Attributes:
        permutation: Channel of the image that is first, second and third.
    """

    permutation: tuple[int, int, int]

    def __call__(self, image: Any) -> Any:
        """Return the image, of the same class."""
        order = list(self.permutation)
        if isinstance(image, Image.Image):
            return Image.fromarray(np.array(image)[..., order])
        return image[order]


def _guesses(function: Any, levels: Levels) -> Iterator[list[Any]]:
    """Yield lists of transforms that a function may be."""
    yield []
    image = levels.image_of(pattern((40, 50)))
    result = _outcome(function, image)
    if result is None:
        return
    height, width = _size(result[0])
    margin = (height - 40) // 2
    if margin > 0 and (height, width) == (40 + 2 * margin, 50 + 2 * margin):
        yield from ([v2.Pad(margin, padding_mode=mode)] for mode in _PADDING_MODES)
    if levels.are_uint8:
        yield from _shapes(function, image, result[0], levels)
    expansion: list[Any] = []
    if levels.num_channels == 1 and _num_channels(result[0]) == 3:
        expansion = [v2.RGB()]
        yield expansion
    if levels.num_channels == 3 and _num_channels(result[0]) == 1:
        yield [v2.Grayscale(1)]
    conversion: list[Any] = [] if levels.is_tensor else [v2.PILToTensor()]
    if conversion:
        yield [*expansion, *conversion]
    linear = _linear_map(function, levels)
    if linear is not None:
        permutation, scale, shift, dtype = linear
        is_rgb = levels.num_channels == 3 and permutation != (0, 1, 2)
        order = [ChannelOrder(permutation)] if is_rgb else []
        if order:
            yield [*expansion, *order]
        if dtype.is_floating_point and scale.min() > 0:
            cast, normalization = _normalization(scale, shift, dtype, levels)
            yield [*expansion, *conversion, *order, *cast]
            yield [*expansion, *conversion, *order, *cast, normalization]


def _linear_map(
    function: Any, levels: Levels
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.dtype] | None:
    """Return how a function makes each channel of one channel; None where that is not possible.

    Returns:
        Channel of the image for each channel of the result, the factor and the summand of its
        numbers, ``[channels]`` float64, and the type of the result.
    """
    colors = [[0, 0, 0], *([255 * (each == channel) for each in range(3)] for channel in range(3))]
    if levels.num_channels == 1:
        colors = [[0, 0, 0], [255, 255, 255]]
    before, behind = [], []
    dtype = torch.uint8
    for color in colors:
        flat = levels.image_of(np.full((8, 8, 3), color, np.uint8))
        outcome = _outcome(function, flat)
        numbers = None if outcome is None else _as_tensor(outcome[0])
        if numbers is None or numbers.shape not in ((3, 8, 8), (1, 8, 8)):
            return None
        pixels = _as_tensor(flat)
        assert pixels is not None
        before.append(pixels[:, 0, 0].double())
        behind.append(numbers[:, 0, 0].double())
        dtype = numbers.dtype
    if len({len(numbers) for numbers in behind}) > 1:
        return None
    full = torch.stack([(before[1 + i] - before[0])[i] for i in range(len(before) - 1)])
    # [channel of the result, channel of the image]
    matrix = torch.stack([each - behind[0] for each in behind[1:]], dim=1) / full
    is_source = matrix.abs() > 1e-6 * matrix.abs().max()
    permutation = tuple(int(channel) for channel in is_source.long().argmax(1))
    scale = matrix.gather(1, torch.tensor(permutation)[:, None])[:, 0]
    if not bool((is_source.sum(1) == 1).all()) or not bool(scale.isfinite().all()):
        return None
    if levels.num_channels == 3 and sorted(permutation) != [0, 1, 2]:
        return None
    if levels.num_channels == 1 and scale.max() - scale.min() > 1e-6 * scale.abs().max():
        return None  # three channels that differ
    return permutation, scale, behind[0] - scale * before[0][list(permutation)], dtype


def _shapes(function: Any, image: Any, result: Any, levels: Levels) -> Iterator[list[Any]]:
    """Yield lists of transforms of an image's shape that do the same to one image."""
    pixels = _as_tensor(result)
    is_other = isinstance(result, torch.Tensor) != levels.is_tensor
    if pixels is None or pixels.ndim != 3 or pixels.shape[0] != 3 or is_other:
        return
    of_long = _outcome(function, levels.image_of(pattern(LONG)))
    long_pixels = None if of_long is None else _as_tensor(of_long[0])
    corners = None if long_pixels is None else long_pixels.permute(1, 2, 0).numpy()
    for transforms in guesses_of_shape(pixels.permute(1, 2, 0).numpy(), corners, levels.is_tensor):
        expected = _outcome(_in_turn(transforms), image)
        if expected is not None and are_same_image(result, expected[0]):
            yield transforms


def _normalization(
    scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype, levels: Levels
) -> tuple[list[Any], Any]:
    """Return what changes the type, and what scales and shifts numbers, ``[channels]`` float64."""
    error = 4 * torch.finfo(dtype).eps
    is_scaled = levels.are_uint8 and torch.allclose(scale * 255, torch.ones_like(scale), error)
    scale = scale * 255 if is_scaled else scale
    mean, std = ([_short(number) for number in numbers] for numbers in (-shift / scale, 1 / scale))
    if levels.num_channels == 1:
        mean, std = mean[:1], std[:1]
    cast = [] if dtype == levels.dtype else [v2.ToDtype(dtype, scale=is_scaled)]
    return cast, v2.Normalize(mean, std)


def _short(number: torch.Tensor) -> float:
    """Return a number, or its level, without the last digits, in which float32 errs."""
    exact = float(number)
    rounded = float(f"{exact:.6g}"), float(f"{255 * exact:.6g}") / 255
    return min(rounded, key=lambda each: abs(each - exact)) + 0.0  # not -0


def _in_turn(transforms: list[Any]) -> Callable[[Any], Any]:
    def apply(image: Any) -> Any:
        for transform in transforms:
            image = transform(image)
        return image

    return apply


def _are_same(function: Any, expected: Any, size: Size | None, levels: Levels) -> bool:
    """Return whether both give equal results, but for sizes on which both fail.

    A function that counts its calls is not the same. Both may fail on less than half of the sizes,
    and on no kind of content.
    """
    sizes = [size] if size else SIZES
    equal_sizes: list[Size] = []
    for each in sizes:
        is_same = _is_same(function, expected, levels.image_of(pattern(each)))
        if is_same is False:
            return False
        if is_same:
            equal_sizes.append(each)
    if len(equal_sizes) <= len(sizes) // 2:
        return False
    images = (levels.image_of(pixels) for pixels in contents(equal_sizes[0]))
    if not all(_is_same(function, expected, image) for image in images):
        return False
    image = levels.image_of(pattern(equal_sizes[0]))
    return not remembers(function, lambda: _outcome(function, image))


def _is_same(function: Any, expected: Any, image: Any) -> bool | None:
    """Return whether both give equal results and random states; None where both fail."""
    result, wanted = (_outcome(callee, image) for callee in (function, expected))
    if result is None and wanted is None:
        return None
    if result is None or wanted is None:
        return False
    return bool(result[1] == wanted[1]) and are_same_image(result[0], wanted[0])


def are_same_image(result: Any, expected: Any) -> bool:
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
    error = max(1e-5, 2 * torch.finfo(pixels.dtype).eps)
    largest = max(1.0, float(expected_pixels.abs().max()))
    return bool((pixels - expected_pixels).abs_().max() <= error * largest)  # faster than allclose


def _as_tensor(image: Any) -> torch.Tensor | None:
    """Return a gray or RGB image as a tensor, ``[channels, height, width]``, or None."""
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            return None
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if image.mode == "L" else pixels.permute(2, 0, 1)
    if isinstance(image, np.ndarray):  # with channels last, as all take arrays that take images
        is_image = image.ndim == 3 and image.dtype == np.uint8
        return torch.from_numpy(image.copy()).permute(2, 0, 1) if is_image else None
    return image if isinstance(image, torch.Tensor) else None


def _size(image: Any) -> tuple[int, int]:
    pixels = _as_tensor(image)
    return (0, 0) if pixels is None or pixels.ndim != 3 else (pixels.shape[1], pixels.shape[2])


def _num_channels(image: Any) -> int:
    pixels = _as_tensor(image)
    return 0 if pixels is None or pixels.ndim != 3 else pixels.shape[0]


def _outcome(function: Any, image: Any) -> tuple[Any, Any] | None:
    """Return the result and the random states behind the call; None where the call fails."""
    try:
        return call(function, image.copy() if isinstance(image, Image.Image) else image.clone())
    except Exception:  # whatever the user's code raises
        return None
