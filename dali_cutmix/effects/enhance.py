"""What changes the colours of an image's pixels and leaves them where they are, in the graph.

Everything takes and gives ``[height, width, 3]`` uint8 RGB per sample, on the CPU or a GPU, and
numbers per sample on the CPU. The arithmetic is that of torchvision's tensor back end, which cuts
results off at whole levels. A neutral number gives back the image bit for bit.

Samples come parted by what is done to them. No array is made here, of which there would be as many
as samples in the whole batch.
"""

from __future__ import annotations

import numpy as np

from dali_cutmix._dali import (
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
_CUT = -0.4999

#: A 3 x 3 mean that weighs the centre five times. Source: Pillow's ``SMOOTH``.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13

#: A whole byte, by which to invert.
_WHOLE = types.Constant(255, dtype=UINT8)

#: Levels of a pixel that hue is shifted of, after torchvision's conversion of [0, 1] to bytes.
_TO_LEVELS = 255.999 / 255


def gray_level(image: DataNode) -> DataNode:
    """The gray level of each pixel, cut off: ``[height, width, 1]`` uint8."""
    return fn.coord_transform(image, M=list(_GRAY), T=[_CUT], dtype=UINT8)


def gray(image: DataNode) -> DataNode:
    """The image without its colours: torchvision's ``rgb_to_grayscale``, bit for bit on the CPU."""
    return fn.color_space_conversion(
        gray_level(image),
        image_type=types.DALIImageType.GRAY,
        output_type=types.DALIImageType.RGB,
    )


def blend_colours(
    image: DataNode,
    factor: DataNode,
    own_gray: DataNode | None = None,
    mean_gray: DataNode | None = None,
) -> DataNode:
    """Weigh each image with black, with its gray, or with the mean of its gray.

    ``image * factor + gray * own_gray + mean * mean_gray``, clipped: torchvision's
    ``adjust_brightness``, ``adjust_saturation`` and ``adjust_contrast``, within one level.

    Args:
        image: See above.
        factor: At least 0. Scalar float32.
        own_gray: ``1 - factor`` for saturation, else 0. Scalar float32; None for 0.
        mean_gray: ``1 - factor`` for contrast, else 0. Scalar float32; None for 0.
    """
    other: DataNode | float = _CUT
    if own_gray is not None or mean_gray is not None:
        level = gray_level(image)
        if mean_gray is not None:
            mean = fn.reductions.mean(level, axes=[0, 1], keep_dims=True, dtype=FLOAT)
            other = mean * mean_gray + other
        if own_gray is not None:
            other = level * own_gray + other
    return fn.cast(image * factor + other, dtype=UINT8)


def shift_hue(image: DataNode, turn: DataNode) -> DataNode:
    """Turn the circle of hues: torchvision's ``adjust_hue``, within one level.

    Args:
        image: See above.
        turn: Share of the circle, in [-0.5, 0.5]. Scalar float32. 0 changes nothing.
    """
    high = fn.reductions.max(image, axes=[2], keep_dims=True)
    low = fn.reductions.min(image, axes=[2], keep_dims=True)
    red, green, blue = (
        fn.cast(fn.slice(image, start=[i], shape=[1], axes=[2]), dtype=FLOAT) for i in range(3)
    )
    high = fn.cast(high, dtype=FLOAT)
    chroma = high - low
    is_red = red == high
    is_green = (green == high) & (is_red ^ True)
    is_blue = (is_red | is_green) ^ True
    # Gray pixels have no hue: whatever is divided by, their chroma is 0.
    slope = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
    sixth = slope / math.max(chroma, 1.0) + (is_green * 2.0 + is_blue * 4.0) + turn * 6.0
    # Each channel is a trapezoid of the hue, a third of the circle from the next.
    place = fn.coord_transform(sixth, M=[1.0, 1.0, 1.0], T=[5.0, 3.0, 1.0])
    place = place - 6.0 * math.floor(place / 6.0)
    share = math.clamp(math.min(place, 4.0 - place), 0.0, 1.0)
    return fn.cast((high - chroma * share) * _TO_LEVELS + _CUT, dtype=UINT8)


def flip_bits(image: DataNode, threshold: DataNode, mask: DataNode) -> DataNode:
    """Invert the levels from a threshold on, and keep some bits: exactly torchvision's.

    ``solarize``, ``invert`` (with a threshold of 0) and ``posterize`` (with one of 256).

    Args:
        image: See above.
        threshold: Level in [0, 256] from which on a value is inverted. Scalar int32.
        mask: Bits that are kept. Scalar uint8; 255 keeps all.
    """
    return (image ^ ((image >= threshold) * _WHOLE)) & mask


def sharpen(image: DataNode, sharpness: DataNode, kernel: DataNode, inside: DataNode) -> DataNode:
    """Weigh each image with its blurred self, but for the outermost ring of pixels.

    torchvision's ``adjust_sharpness``, within one level.

    Args:
        image: See above.
        sharpness: 0 blurs, 1 changes nothing, above 1 sharpens. Scalar float32.
        kernel: Of `ring`.
        inside: Of `ring`.
    """
    other = inside * (1.0 - sharpness)
    blurred = fn.filter(image, kernel)
    return fn.cast(image * (1.0 - other) + (blurred * other + _CUT), dtype=UINT8)


def ring(image: DataNode, size: tuple[int, int]) -> dict[str, DataNode]:
    """What `sharpen` takes that is the same for all images of ``size`` ``(height, width)``.

    Nodes, on the device of ``image``: they have to be parted where the batch is.
    """
    inside = np.zeros((*size, 1), np.float32)
    inside[1:-1, 1:-1] = 1
    return {"kernel": constant(_SMOOTH, image), "inside": constant(inside, image)}


def stretch(image: DataNode) -> DataNode:
    """Spread each channel over all levels: exactly torchvision's ``autocontrast`` on the CPU."""
    low = fn.cast(fn.reductions.min(image, axes=[0, 1], keep_dims=True), dtype=FLOAT)
    high = fn.cast(fn.reductions.max(image, axes=[0, 1], keep_dims=True), dtype=FLOAT)
    flat = high == low
    low = low * (flat ^ True)
    step = (high - low * (flat ^ True)) * np.float32(1 / 255) * (flat ^ True) + flat
    # Not `_CUT`: where the quotient is whole but for its rounding, both cut off alike.
    return fn.cast(math.floor((image - low) / step), dtype=UINT8)


def equalize(image: DataNode) -> DataNode:
    """Use all levels equally often, per channel: torchvision's ``equalize``, within two levels.

    A level becomes the number of pixels below it, over a step. DALI's operator counts those below
    or at it, of the inverted image here, and over a step that is not a whole number of pixels;
    that count is then cut to Pillow's steps, which matters in small images.
    """
    below = fn.equalize(image ^ _WHOLE) ^ _WHOLE
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
