"""Encoded bytes to HWC uint8 RGB, upright.

JPEG, PNG, BMP, WebP, TIFF and PNM, whatever the file's name; gray, palette, CMYK and alpha become
three channels; EXIF orientation is applied, which Pillow and torchvision's ``ImageFolder`` leave
out.

On the CPU the pixels equal Pillow's, except for 16-bit files, which are scaled to 8 bits here and
clipped there. On a GPU they differ by small amounts, and among its engines. DALI 2.4.0 refuses
some WebP files that hold EXIF data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dali_cutmix.core.dali import INT32, UINT16, DataNode, fn, merge, split


class Encoded:
    """Image files in a graph, decoded as far as they are asked for.

    Args:
        encoded: Bytes of an image file: ``[size]`` uint8 per sample, CPU.
        device: ``"cpu"``, or ``"gpu"`` for decoding on the GPU's engines.
        max_pixels: An image with more pixels, as its header says, fails the batch instead of being
            decoded. None takes all.
        trusted: Whether an image is known to be whole though it does not look so: a scalar boolean
            per sample, CPU. None trusts none.
        in_part: Decode the rectangle that is asked for and no more. On a GPU that fails on ordinary
            files with some versions of the decoder, and can end the process (nvImageCodec 0.9, its
            issue 55).
        hints: Further arguments of the GPU's decoder.
    """

    def __init__(
        self,
        encoded: DataNode,
        device: str,
        max_pixels: int | None = None,
        trusted: DataNode | None = None,
        in_part: bool = False,
        hints: Mapping[str, Any] | None = None,
    ) -> None:
        self._device = device
        self._trusted = trusted
        self._in_part = in_part
        self._hints = dict(hints or {})
        self._shape = shape(encoded)
        self._encoded = _without_huge(encoded, self._shape, max_pixels)

    def shape(self) -> DataNode:
        """Size of the decoded image, from its header: ``[3]`` int64 (y, x, channels), CPU."""
        return self._shape

    def whole(self) -> DataNode:
        """The whole image: ``[height, width, 3]`` uint8 RGB per sample, on the device."""
        return whole(self._encoded, self._device, **self._hints)

    def window(self, anchor: DataNode, extent: DataNode) -> DataNode:
        """One rectangle of each image, bit-identical to the same rectangle of the whole.

        Args:
            anchor: Top left corner in pixels: ``[2]`` int32 (y, x) per sample, CPU.
            extent: Sides in pixels: ``[2]`` int32 (y, x) per sample, CPU.

        Returns:
            ``[extent y, extent x, 3]`` uint8 RGB per sample, on the device.
        """
        if self._in_part:
            # Decoding ends with the last row that is asked for: a file that is cut short below it
            # would be served, and fail in another epoch.
            whole = _ends_well(self._encoded)
            if self._trusted is not None:
                whole = whole | self._trusted
            encoded = _only(self._encoded, whole)
            return fn.decoders.image_slice(
                encoded,
                start=anchor,
                shape=extent,
                axes=[0, 1],
                device="mixed" if self._device == "gpu" else "cpu",
                **self._hints,
            )
        return fn.slice(self.whole(), start=anchor, shape=extent, axes=[0, 1])


class Pixels:
    """Images that are decoded already, with the methods of `Encoded`.

    Args:
        pixels: ``[height, width, 3]`` uint8 RGB per sample, CPU.
        device: ``"cpu"`` or ``"gpu"``: where they are to be.
    """

    def __init__(self, pixels: DataNode, device: str) -> None:
        self._shape = pixels.shape()
        self._pixels = pixels.gpu() if device == "gpu" else pixels

    def shape(self) -> DataNode:
        """Size of the image: ``[3]`` int64 (y, x, channels), CPU."""
        return self._shape

    def whole(self) -> DataNode:
        """The whole image: ``[height, width, 3]`` uint8 RGB per sample, on the device."""
        return self._pixels

    def window(self, anchor: DataNode, extent: DataNode) -> DataNode:
        """One rectangle of each image; arguments and result as those of `Encoded`."""
        return fn.slice(self._pixels, start=anchor, shape=extent, axes=[0, 1])


def shape(encoded: DataNode) -> DataNode:
    """Size of the decoded image, from its header: ``[3]`` int64 (y, x, channels), CPU."""
    return fn.peek_image_shape(encoded)


def whole(encoded: DataNode, device: str, **hints: Any) -> DataNode:
    """Decode whole images.

    Args:
        encoded: Bytes of an image file: ``[size]`` uint8 per sample, CPU.
        device: ``"cpu"``, or ``"gpu"`` for decoding on the GPU's engines.
        hints: Further arguments of the GPU's decoder.

    Returns:
        ``[height, width, 3]`` uint8 RGB per sample, on ``device``.
    """
    return fn.decoders.image(encoded, device="mixed" if device == "gpu" else "cpu", **hints)


def _without_huge(encoded: DataNode, size: DataNode, max_pixels: int | None) -> DataNode:
    """Take the bytes away from images that are too large, so that decoding them fails.

    Without a limit nothing is taken away, but decoding still waits for the header to be read: one
    that cannot be read fails the batch there, where the decoder may end the process (DALI 2.4.0, on
    the CPU, when the image is not alone in its batch).
    """
    return _only(encoded, size[0] >= 0 if max_pixels is None else size[0] * size[1] <= max_pixels)


def _ends_well(encoded: DataNode) -> DataNode:
    """Whether a file is no JPEG, or one that ends with its end marker: scalar boolean, CPU."""
    size = encoded.shape(dtype=INT32)
    first = fn.slice(encoded, start=[0], shape=[2], axes=[0])
    last = fn.slice(encoded, start=size - 2, shape=[2], axes=[0])
    return (_as_number(first) != 0xD8FF) | (_as_number(last) == 0xD9FF)


def _as_number(pair: DataNode) -> DataNode:
    """Two bytes as one number, the first being the low one: scalar uint16."""
    return fn.reinterpret(pair, dtype=UINT16, shape=[])


def _only(encoded: DataNode, wanted: DataNode) -> DataNode:
    """Take the bytes away from files that are not wanted."""
    # Parted and put together again, which moves no bytes, unlike a slice of each.
    kept, others = split(encoded, wanted)
    return merge(kept, fn.slice(others, start=[0], shape=[0], axes=[0]), wanted)
