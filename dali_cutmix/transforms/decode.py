"""Decode encoded bytes into HWC uint8 RGB, upright.

The graph sees plain JPEG, PNG and WebP files, and images that Pillow has decoded, as PPM files:
`dali_cutmix.sources.decodable` keeps other files away from DALI's decoders.

- Gray, palette, CMYK and alpha become three channels.
- EXIF orientation is applied. Pillow and torchvision's ``ImageFolder`` leave the orientation out.

On the CPU pixels equal Pillow's, except for gray of 16 bits, which is scaled to 8 bits here and
clipped by Pillow. On a GPU pixels differ by small amounts, and among the GPU's engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dali_cutmix.core.dali import INT32, UINT16, DataNode, fn, math, merge, split


class Encoded:
    """Decode the image files of a graph, as far as pixels are asked for.

    Args:
        encoded: Bytes of an image file: ``[size]`` uint8 per sample, CPU.
        device: ``"cpu"``, or ``"gpu"`` for decoding on the GPU's engines.
        max_pixels: Most pixels of an image, at most 2**31 - 1. An image whose header says more
            fails the batch instead of being decoded. None decodes all.
        trusted: Whether a file is known to be complete, though bytes follow its end marker: scalar
            boolean per sample, CPU. None trusts no file.
        in_part: Decode only the rectangle that is asked for. On a GPU that fails on ordinary files
            with some versions of the decoder, and can end the process (nvImageCodec 0.9, issue 55).
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
        self._whole: DataNode | None = None

    def shape(self) -> DataNode:
        """Return the decoded size, from the header: ``[3]`` int64 (y, x, channels), CPU."""
        return self._shape

    def whole(self) -> DataNode:
        """Return the whole image: ``[height, width, 3]`` uint8 RGB per sample, on the device.

        However often whole images are asked for, the graph decodes them once.
        """
        if self._whole is None:
            self._whole = whole(self._encoded, self._device, **self._hints)
        return self._whole

    def window(self, anchor: DataNode, extent: DataNode) -> DataNode:
        """Return one rectangle of each image, bit-identical to that part of the whole image.

        Args:
            anchor: Top left corner in pixels: ``[2]`` int32 (y, x) per sample, CPU.
            extent: Sides in pixels: ``[2]`` int32 (y, x) per sample, CPU.

        Returns:
            ``[extent y, extent x, 3]`` uint8 RGB per sample, on the device.
        """
        if self._in_part:
            # Decoding ends with the last row of the rectangle. A file that is truncated below that
            # row would be served now, and fail in another epoch.
            is_complete = _ends_well(self._encoded)
            if self._trusted is not None:
                is_complete = is_complete | self._trusted
            encoded = _only(self._encoded, is_complete)
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
    """Hold images that are decoded already, with the methods of `Encoded`.

    Args:
        pixels: ``[height, width, 3]`` uint8 RGB per sample, CPU.
        device: ``"cpu"``, or ``"gpu"`` to copy the pixels to the GPU.
    """

    def __init__(self, pixels: DataNode, device: str) -> None:
        self._shape = pixels.shape()
        self._pixels = pixels.gpu() if device == "gpu" else pixels

    def shape(self) -> DataNode:
        """Return the image's size: ``[3]`` int64 (y, x, channels), CPU."""
        return self._shape

    def whole(self) -> DataNode:
        """Return the whole image: ``[height, width, 3]`` uint8 RGB per sample, on the device."""
        return self._pixels

    def window(self, anchor: DataNode, extent: DataNode) -> DataNode:
        """Return one rectangle of each image; see `Encoded.window`."""
        return fn.slice(self._pixels, start=anchor, shape=extent, axes=[0, 1])


def shape(encoded: DataNode) -> DataNode:
    """Return the decoded size, from the header: ``[3]`` int64 (y, x, channels), CPU."""
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


def _without_huge(encoded: DataNode, shape: DataNode, max_pixels: int | None) -> DataNode:
    """Fail the batch at an image that is too large, or has no pixels by its header.

    Decoding waits for the header also without a limit: a header that cannot be read fails the batch
    before the decoder; see `_only`.
    """
    num_pixels = shape[0] * shape[1]  # 0 or less in some headers: DALI reads a PNG's as signed
    if max_pixels is None:
        return _only(encoded, num_pixels > 0)
    most = min(max_pixels, 2**31 - 1)  # DALI has no larger constants
    return _only(encoded, num_pixels == math.clamp(num_pixels, 1, most))


def _ends_well(encoded: DataNode) -> DataNode:
    """Return whether a file is not a JPEG, or ends with a JPEG's end marker: scalar boolean."""
    size = encoded.shape(dtype=INT32)
    first = fn.slice(encoded, start=[0], shape=[2], axes=[0])
    last = fn.slice(encoded, start=size - 2, shape=[2], axes=[0])
    return (_as_number(first) != 0xD8FF) | (_as_number(last) == 0xD9FF)


def _as_number(pair: DataNode) -> DataNode:
    """Return two bytes as one number, the low byte first: scalar uint16."""
    return fn.reinterpret(pair, dtype=UINT16, shape=[])


def _only(encoded: DataNode, wanted: DataNode) -> DataNode:
    """Return the files, and fail the batch where a file is not wanted.

    The batch fails before the decoder, which gets no such file: DALI 2.4.0 reads headers in several
    threads, and may end the process at a file without a header, such as a file of no bytes.
    """
    # Splitting and merging moves no bytes, unlike a slice of each file. No file is so long.
    kept, others = split(encoded, wanted)
    return merge(kept, fn.slice(others, start=[0], shape=[2**31 - 1], axes=[0]), wanted)
