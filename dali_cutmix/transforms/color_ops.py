"""What changes the colours of an image's pixels and leaves them where they are, in the graph.

Everything takes and gives ``[height, width, 3]`` uint8 RGB per sample, on the CPU or a GPU, and
numbers per sample on the CPU. The arithmetic is that of torchvision's tensor back end, which cuts
results off at whole levels. A neutral number gives back the image bit for bit.

Samples come parted by what is done to them. No array is made here, of which there would be as many
as samples in the whole batch.
"""

from __future__ import annotations

import numpy as np

from dali_cutmix.core.dali import (
    FLOAT,
    INT32,
    UINT8,
    DataNode,
    constant,
    fn,
    math,
    types,
)

#: Shares of R, G and B in a gray level. Source: torchvision, ITU-R BT.601 to four digits.
_GRAY = (0.2989, 0.587, 0.114)

#: Added before rounding to the nearest it cuts off instead. Less than a half, so that what float32
#: makes of a whole number stays that number.
_TRUNCATE = -0.4999

#: A 3 x 3 mean that weighs the centre five times. Source: Pillow's ``SMOOTH``.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13

#: A whole byte, by which to invert.
_INVERT = types.Constant(255, dtype=UINT8)

#: Levels of a pixel that hue is shifted of, after torchvision's conversion of [0, 1] to bytes.
_TO_LEVELS = 255.999 / 255


def gray_level(image: DataNode) -> DataNode:
    """The gray level of each pixel, cut off: ``[height, width, 1]`` uint8."""
    return fn.coord_transform(image, M=list(_GRAY), T=[_TRUNCATE], dtype=UINT8)


def grayscale(image: DataNode) -> DataNode:
    """The image without its colours: torchvision's ``rgb_to_grayscale``, bit for bit on the CPU."""
    return fn.color_space_conversion(
        gray_level(image),
        image_type=types.DALIImageType.GRAY,
        output_type=types.DALIImageType.RGB,
    )


def adjust_brightness(image: DataNode, factor: DataNode) -> DataNode:
    """Multiply: torchvision's ``adjust_brightness``, within one level.

    Args:
        image: See above.
        factor: At least 0. Scalar float32.
    """
    return fn.brightness_contrast(image, brightness=factor, brightness_shift=_TRUNCATE / 255)


def adjust_contrast(image: DataNode, factor: DataNode) -> DataNode:
    """Weigh each image with the mean of its gray: ``adjust_contrast``, within one level.

    Args:
        image: See above.
        factor: At least 0, the share of the image itself. Scalar float32.
    """
    mean = fn.reductions.mean(gray_level(image), axes=[0, 1], keep_dims=True, dtype=FLOAT)
    if image.device == "gpu":  # arguments of operators are on the CPU, and the mean is not
        return _weigh(image, factor, mean)
    shift = (mean * (1.0 - factor) + _TRUNCATE) / 255.0
    return fn.brightness_contrast(image, brightness=factor, brightness_shift=shift)


def adjust_saturation(image: DataNode, factor: DataNode) -> DataNode:
    """Weigh each pixel with its gray: torchvision's ``adjust_saturation``, within one level.

    Args:
        image: See above.
        factor: At least 0, the share of the image itself. Scalar float32. Above 2 a gray that
            float32 cuts off otherwise, at one pixel of 1000, makes more of a difference.
    """
    return _weigh(image, factor, gray_level(image))


def _weigh(image: DataNode, factor: DataNode, other: DataNode) -> DataNode:
    return fn.cast(image * factor + (other * (1.0 - factor) + _TRUNCATE), dtype=UINT8)


def adjust_hue(image: DataNode, turn: DataNode) -> DataNode:
    """Turn the circle of hues: torchvision's ``adjust_hue``, within one level.

    Args:
        image: See above.
        turn: Share of the circle, in [-0.5, 0.5]. Scalar float32. 0 changes nothing.
    """
    red, green, blue = (fn.slice(image, start=[i], shape=[1], axes=[2]) for i in range(3))
    high = math.max(math.max(red, green), blue)
    chroma = high - math.min(math.min(red, green), blue)
    is_red = red == high
    is_green = (green == high) & (is_red ^ True)
    is_blue = (is_red | is_green) ^ True
    red, green, blue = (fn.cast(one, dtype=FLOAT) for one in (red, green, blue))
    # Gray pixels have no hue: whatever is divided by, their chroma is 0.
    slope = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
    sixth = slope / math.max(chroma, 1.0) + (is_green * 2.0 + is_blue * 4.0)
    # From -1 to 5 before it is turned, and after. Sixths are counted once, for all channels.
    sixth = sixth + ((turn < 0.0) + turn) * 6.0
    sixth = sixth - (sixth >= 5.0) * 6.0
    # Each channel is a trapezoid of the hue, a third of the circle from the next.
    place = math.abs(fn.coord_transform(sixth, M=[1.0, 1.0, 1.0], T=[0.0, -2.0, -4.0]))
    share = math.clamp(math.min(place - 1.0, 5.0 - place), 0.0, 1.0)
    return fn.cast((high * _TO_LEVELS + _TRUNCATE) - (chroma * _TO_LEVELS) * share, dtype=UINT8)


def solarize_and_posterize(image: DataNode, threshold: DataNode, mask: DataNode) -> DataNode:
    """Invert the levels from a threshold on, and keep some bits: exactly torchvision's.

    ``solarize``, ``invert`` (with a threshold of 0) and ``posterize`` (with one of 256).

    Args:
        image: See above.
        threshold: Level in [0, 256] from which on a value is inverted. Scalar int32.
        mask: Bits that are kept. Scalar uint8; 255 keeps all.
    """
    return (image ^ ((image >= threshold) * _INVERT)) & mask


def adjust_sharpness(
    image: DataNode, factor: DataNode, kernel: DataNode, inside: DataNode
) -> DataNode:
    """Weigh each image with its blurred self, but for the outermost ring of pixels.

    torchvision's ``adjust_sharpness``, within one level.

    Args:
        image: See above.
        factor: 0 blurs, 1 changes nothing, above 1 sharpens. Scalar float32.
        kernel: Of `ring`.
        inside: Of `ring`.
    """
    other = inside * (1.0 - factor)
    blurred = fn.filter(image, kernel)
    return fn.cast(image * (1.0 - other) + (blurred * other + _TRUNCATE), dtype=UINT8)


def ring(image: DataNode, size: tuple[int, int]) -> dict[str, DataNode]:
    """Return the arguments of `adjust_sharpness` that are equal for all images of ``size``.

    Nodes, on the device of ``image``: they have to be parted where the batch is.
    """
    inside = np.zeros((*size, 1), np.float32)
    inside[1:-1, 1:-1] = 1
    return {"kernel": constant(_SMOOTH, image), "inside": constant(inside, image)}


def autocontrast(image: DataNode) -> DataNode:
    """Spread each channel over all levels: exactly torchvision's ``autocontrast`` on the CPU."""
    low = fn.cast(fn.reductions.min(image, axes=[0, 1], keep_dims=True), dtype=FLOAT)
    high = fn.cast(fn.reductions.max(image, axes=[0, 1], keep_dims=True), dtype=FLOAT)
    flat = high == low
    low = low * (flat ^ True)
    step = (high - low * (flat ^ True)) * np.float32(1 / 255) * (flat ^ True) + flat
    # Not `_TRUNCATE`: where the quotient is whole but for its rounding, both cut off alike.
    return fn.cast(math.floor((image - low) / step), dtype=UINT8)


def equalize(image: DataNode) -> DataNode:
    """Use all levels equally often, per channel: torchvision's ``equalize``, within two levels.

    A level becomes the number of pixels below it, over a step. DALI's operator counts those below
    or at it, of the inverted image here, and over a step that is not a whole number of pixels;
    that count is then cut to Pillow's steps, which matters in small images.
    """
    below = fn.equalize(image ^ _INVERT) ^ _INVERT
    top = fn.reductions.max(image, axes=[0, 1], keep_dims=True)
    others = fn.reductions.sum(fn.cast(image != top, dtype=INT32), axes=[0, 1], keep_dims=True)
    step = others // 255
    is_spread = step > 0
    # Where a step is no pixel, the image stays.
    step = fn.cast(math.max(step, 1), dtype=FLOAT)
    count = below * (fn.cast(others, dtype=FLOAT) / 255.0)
    half = math.floor(step / 2.0)
    spread = fn.cast(math.floor((count + half) / step), dtype=UINT8)
    return spread * is_spread + image * (is_spread ^ True)
