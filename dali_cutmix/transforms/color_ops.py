"""Change the colours of pixels in the graph.

Every function takes and returns ``[height, width, 3]`` uint8 RGB per sample, on the CPU or a GPU,
and takes numbers per sample on the CPU. The arithmetic is that of torchvision's tensor back end,
which truncates results to whole levels. A neutral number returns the image bit-identical.

A function may see only some of a batch's samples. So it must not create constant arrays, of which
DALI makes one for each sample of the whole batch; see `ring`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dali_cutmix.core.dali import (
    FLOAT,
    INT32,
    UINT8,
    DataNode,
    fn,
    math,
    types,
)
from dali_cutmix.core.frame import Frame

#: Shares of R, G and B in a gray level. Source: torchvision, ITU-R BT.601 to four digits.
_GRAY = (0.2989, 0.587, 0.114)

#: Levels that are added so that rounding to the nearest truncates. Below a half, so that a whole
#: number stays the same number in float32.
TRUNCATE = -0.4999

#: Weights of a 3 x 3 mean, five times as much for the centre. Source: Pillow's ``SMOOTH``.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13

#: Factor of a level on its way through torchvision's [0, 1] and back to bytes, when hue turns.
_TO_LEVELS = 255.999 / 255


#: Levels as `TRUNCATE`, where sums are rounded to a thousandth of a level.
_TRUNCATE_HUE = -0.499


def gray_level(image: DataNode) -> DataNode:
    """Return the gray level of each pixel, truncated: ``[height, width, 1]`` uint8."""
    return fn.coord_transform(image, M=list(_GRAY), T=[TRUNCATE], dtype=UINT8)


def grayscale(image: DataNode) -> DataNode:
    """Return the image without its colours.

    As torchvision's ``rgb_to_grayscale`` to three channels, bit-identical on the CPU.
    """
    return fn.color_space_conversion(
        gray_level(image),
        image_type=types.DALIImageType.GRAY,
        output_type=types.DALIImageType.RGB,
    )


def permute_channels(image: DataNode, order: DataNode) -> DataNode:
    """Put the channels in another order: torchvision's ``permute_channels``, bit-identical.

    Args:
        image: ``[y, x, 3]`` uint8.
        order: Channel of the image that is first, second and third: ``[3]`` int32.
    """
    first_second_third = (fn.slice(order, start=[i], shape=[1], axes=[0]) for i in range(3))
    channels = [fn.slice(image, start=index, shape=[1], axes=[2]) for index in first_second_third]
    return fn.cat(*channels, axis=2)


def adjust_brightness(image: DataNode, factor: DataNode) -> DataNode:
    """Multiply all levels by a factor: torchvision's ``adjust_brightness``, within one level.

    Args:
        image: ``[height, width, 3]`` uint8.
        factor: At least 0; 1 changes nothing. Scalar float32.
    """
    return fn.brightness_contrast(image, brightness=factor, brightness_shift=TRUNCATE / 255)


def adjust_contrast(image: DataNode, factor: DataNode) -> DataNode:
    """Blend each image with its mean gray level: ``adjust_contrast``, within one level.

    Args:
        image: ``[height, width, 3]`` uint8.
        factor: Share of the image itself, at least 0; 1 changes nothing. Scalar float32.
    """
    mean = fn.reductions.mean(gray_level(image), axes=[0, 1], keep_dims=True, dtype=FLOAT)
    if image.device == "gpu":  # arguments of operators are on the CPU, and the mean is not
        return _blend(image, factor, mean)
    shift = (mean * (1.0 - factor) + TRUNCATE) / 255.0
    return fn.brightness_contrast(image, brightness=factor, brightness_shift=shift)


def adjust_saturation(image: DataNode, factor: DataNode) -> DataNode:
    """Blend each pixel with its gray level: ``adjust_saturation``, within one level.

    Args:
        image: ``[height, width, 3]`` uint8.
        factor: Share of the image itself, at least 0; 1 changes nothing. Scalar float32. Above 2
            one pixel of 1000 differs by more, where float32 truncates the gray level differently.
    """
    return _blend(image, factor, gray_level(image))


def _blend(image: DataNode, factor: DataNode, other: DataNode) -> DataNode:
    return fn.cast(image * factor + (other * (1.0 - factor) + TRUNCATE), dtype=UINT8)


def adjust_hue(image: DataNode, turn: DataNode) -> DataNode:
    """Turn the circle of hues: torchvision's ``adjust_hue``, within one level.

    Args:
        image: ``[height, width, 3]`` uint8.
        turn: Share of the circle, in [-0.5, 0.5]; 0 changes nothing. Scalar float32.
    """
    red, green, blue = (fn.slice(image, start=[i], shape=[1], axes=[2]) for i in range(3))
    high = math.max(math.max(red, green), blue)
    chroma = high - math.min(math.min(red, green), blue)
    is_red = red == high
    is_green = (green == high) & (is_red ^ True)
    is_blue = (is_red | is_green) ^ True
    red, green, blue = (fn.cast(channel, dtype=FLOAT) for channel in (red, green, blue))
    # Gray pixels have no hue. Their chroma is 0, whatever the divisor.
    slope = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
    sixth = slope / math.max(chroma, 1.0) + (is_green * 2.0 + is_blue * 4.0)
    # From -1 to 5 before and after the turn. Sixths are counted once, for all channels.
    sixth = sixth + ((turn < 0.0) + turn) * 6.0
    sixth = sixth - (sixth >= 5.0) * 6.0
    # Each channel is a trapezoid of the hue, a third of the circle from the next.
    distance = math.abs(fn.coord_transform(sixth, M=[1.0, 1.0, 1.0], T=[0.0, -2.0, -4.0]))
    share = math.clamp(math.min(distance - 1.0, 5.0 - distance), 0.0, 1.0)
    return fn.cast((high * _TO_LEVELS + TRUNCATE) - (chroma * _TO_LEVELS) * share, dtype=UINT8)


def saturate_by_matrix(image: DataNode, matrix: DataNode) -> DataNode:
    """Do as `adjust_saturation`, by two operators, which are slower on the CPU.

    Args:
        image: ``[height, width, 3]`` uint8.
        matrix: Of `saturation_matrix`.
    """
    beside_gray = fn.coord_transform(image, M=[*np.eye(3).ravel(), *_GRAY], T=TRUNCATE, dtype=UINT8)
    return fn.coord_transform(beside_gray, M=matrix, T=TRUNCATE, dtype=UINT8)


def saturation_matrix(factor: np.ndarray) -> np.ndarray:
    """Return maps of (R, G, B, gray) to (R, G, B): ``[B, 3, 4]`` float32.

    Args:
        factor: As in `adjust_saturation`: ``[B]`` float32.
    """
    own = factor[:, None, None] * np.eye(3, dtype=np.float32)
    gray = np.broadcast_to((1 - factor)[:, None, None], (len(factor), 3, 1))
    return np.concatenate([own, gray], axis=2)


def contrast_by_shift(image: DataNode, factor: DataNode, rest: DataNode) -> DataNode:
    """Do as `adjust_contrast`, by six operators that read no number from a GPU.

    Args:
        image: ``[height, width, 3]`` uint8.
        factor: As in `adjust_contrast`. Scalar float32.
        rest: ``1 - factor``. Scalar float32.
    """
    mean = fn.reductions.mean(gray_level(image), axes=[0, 1], keep_dims=True, dtype=FLOAT)
    own = fn.brightness_contrast(image, brightness=factor, brightness_shift=TRUNCATE, dtype=FLOAT)
    return fn.cast(own + mean * rest, dtype=UINT8)


def turn_hue_by_matrix(image: DataNode, matrix: DataNode) -> DataNode:
    """Do as `adjust_hue`, by five operators, which are slower on the CPU.

    A turned channel is a linear function of the channels, of the highest and of the lowest, as long
    as the function lies between these two. `hue_matrix` holds that function.

    Args:
        image: ``[height, width, 3]`` uint8.
        matrix: Of `hue_matrix`.
    """
    high = fn.reductions.max(image, axes=[2], keep_dims=True)
    low = fn.reductions.min(image, axes=[2], keep_dims=True)
    channels = fn.cat(image, high, low, axis=2)
    turned = fn.coord_transform(channels, M=matrix, T=_TRUNCATE_HUE, dtype=UINT8)
    return math.clamp(turned, low, high)


def hue_matrix(turn: np.ndarray) -> np.ndarray:
    """Return maps of (R, G, B, highest, lowest) to (R, G, B): ``[B, 3, 5]`` float32.

    A turn by a third of the circle permutes the channels. The rest of a turn, by ``s`` sixths in
    [0, 1], makes of red ``R - G - (1 - 2s) B + (1 - s) (highest + lowest)``, limited to between
    lowest and highest, and so on round the circle. A turn back exchanges G and B.

    Args:
        turn: As in `adjust_hue`: ``[B]`` float32.
    """
    sixths = 6 * turn.astype(np.float64)
    thirds = np.rint(sixths / 2)
    rest = sixths - 2 * thirds
    num = np.arange(len(turn))
    matrix = np.zeros((len(turn), 3, 5))
    for channel in range(3):
        # Which channels the thirds of a turn have put here, and before and behind here.
        here, after, before = ((channel + step - thirds.astype(int)) % 3 for step in (0, 1, 2))
        is_back = rest < 0
        matrix[num, channel, here] = 1
        matrix[num, channel, np.where(is_back, before, after)] = -1
        matrix[num, channel, np.where(is_back, after, before)] = 2 * np.abs(rest) - 1
        matrix[:, channel, 3:] = 1 - np.abs(rest)[:, None]
    return (_TO_LEVELS * matrix).astype(np.float32)


def blend_all(image: DataNode, other: DataNode, matrix: DataNode, rest: DataNode) -> DataNode:
    """Blend each image with another one of its own, and with that one's mean levels.

    Args:
        image: ``[height, width, 3]`` uint8.
        other: As ``image``.
        matrix: Map of ``image`` and ``other`` to levels: ``[3, 6]`` float32, CPU.
        rest: Share of the mean levels of ``other``, one for each channel. Scalar float32, CPU.
    """
    mean = fn.reductions.mean(other, axes=[0, 1], keep_dims=True, dtype=FLOAT)
    both = fn.cat(image, other, axis=2)
    own = fn.coord_transform(both, M=matrix, T=TRUNCATE, dtype=FLOAT)
    return fn.cast(own + mean * rest, dtype=UINT8)


def gray_channels(image: DataNode) -> DataNode:
    """Return the image without its colours, by one operator that is slower on the CPU."""
    return fn.coord_transform(image, M=list(_GRAY * 3), T=TRUNCATE, dtype=UINT8)


def smooth(image: DataNode, kernel: DataNode, corner: DataNode, size: tuple[int, int]) -> DataNode:
    """Blur all but the outermost ring of pixels, as `adjust_sharpness` does.

    Args:
        image: ``[height, width, 3]`` uint8, of at least 3 x 3 pixels.
        kernel: Weights of the blur, from `ring`.
        corner: Where image and blurred pixels lie, (0, 0) and (1, 1): ``[2, 2]`` int32, CPU.
        size: ``(height, width)`` of all images, in pixels.
    """
    blurred = fn.filter(image, kernel, mode="valid")
    return fn.multi_paste(image, blurred, out_anchors=corner, output_size=list(size))


def adjust_sharpness(
    image: DataNode, factor: DataNode, kernel: DataNode, inside: DataNode
) -> DataNode:
    """Blend each image with its blurred self, but for the outermost ring of pixels.

    torchvision's ``adjust_sharpness``, within one level.

    Args:
        image: ``[height, width, 3]`` uint8.
        factor: Share of the image itself: 0 blurs, 1 changes nothing, above 1 sharpens. Scalar
            float32.
        kernel: Weights of the blur, from `ring`.
        inside: 1 inside the ring and 0 in the ring, from `ring`.
    """
    other = inside * (1.0 - factor)
    blurred = fn.filter(image, kernel)
    return fn.cast(image * (1.0 - other) + (blurred * other + TRUNCATE), dtype=UINT8)


def ring(image: DataNode, frame: Frame) -> dict[str, DataNode]:
    """Return the arguments of `adjust_sharpness` that are equal for all images of a size.

    The caller splits these nodes as the images are split.

    Args:
        image: ``[height, width, 3]`` uint8, which has the device.
        frame: Of these images.
    """
    inside = np.zeros((*frame.size, 1), np.float32)
    inside[1:-1, 1:-1] = 1
    return {
        "kernel": frame.constant(_SMOOTH, image),
        "inside": frame.constant(inside, image),
    }


def inner(image: DataNode, frame: Frame) -> tuple[DataNode, DataNode]:
    """Return the arguments of `smooth` that are equal for all images of a size: kernel, corner.

    Args:
        image: ``[height, width, 3]`` uint8, which has the device.
        frame: Of these images.
    """
    corner = np.array([[0, 0], [1, 1]], np.int32)
    return frame.constant(_SMOOTH, image), frame.constant(corner)


def ring_of_each(image: DataNode, frame: Frame) -> dict[str, DataNode]:
    """Return the arguments of `adjust_sharpness` for images whose sizes may differ.

    Args:
        image: ``[y, x, 3]`` uint8.
        frame: Of these images.
    """
    sides = image.shape()[:2]
    inner = fn.cast(math.max(sides - 2, 0), dtype=INT32)
    gray = fn.slice(image, start=[0], shape=[1], axes=[2])
    inner_gray = fn.slice(gray, start=math.min(inner, 1), shape=inner, axes=[0, 1])
    rim = fn.slice(
        inner_gray ^ inner_gray,
        start=[-1, -1],
        shape=fn.cast(sides, dtype=INT32),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=1,
    )
    return {"kernel": frame.constant(_SMOOTH, image), "inside": 1.0 - rim}


def solarize_add(image: DataNode, added: DataNode) -> DataNode:
    """Add levels to all levels below 128, up to 255; bit-identical to timm's ``solarize_add``.

    Args:
        image: ``[y, x, 3]`` uint8.
        added: Levels in [0, 128]. Scalar int32.
    """
    return fn.cast(math.min(image + (image < 128) * added, 255), dtype=UINT8)


def gaussian_blur(image: DataNode, sigma: DataNode, kernel_size: Sequence[int]) -> DataNode:
    """Blur: torchvision's ``gaussian_blur``, within one level.

    Args:
        image: ``[y, x, 3]`` uint8.
        sigma: Standard deviation in pixels, above 0. Scalar float32.
        kernel_size: Sides of the kernel ``(x, y)`` in pixels, odd.
    """
    window = [kernel_size[1], kernel_size[0]]
    return fn.gaussian_blur(image, sigma=sigma, window_size=window)
