"""Read files, and decode encoded bytes into HWC uint8 RGB, upright.

The graph sees plain JPEG, PNG and WebP files, and images that Pillow has decoded, as PPM files:
`dali_cutmix.sources.decoders` keeps other files away from DALI's decoders.

Four classes have the methods `shape`, `whole` and `window`: `Encoded`, `Pixels` and `EncodedMasks`
for one kind of stored pixels each, and `Stored` for images with their masks and their matrix.

- Gray, palette, CMYK and alpha become three channels.
- EXIF orientation is applied. Pillow and torchvision's ``ImageFolder`` leave the orientation out.

On the CPU pixels equal Pillow's, except for gray of 16 bits, which is scaled to 8 bits here and
clipped by Pillow. On a GPU pixels differ by small amounts, and among the GPU's engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.dali import (
    FLOAT,
    INT32,
    UINT8,
    UINT16,
    DataNode,
    constant,
    fn,
    math,
    merge,
    split,
    types,
)
from dali_cutmix.core.frame import Sample
from dali_cutmix.transforms.moves import Area, mapped, resized_mask
from dali_cutmix.transforms.resample import Kernel, Resampler

_SAME = np.eye(2, 3, dtype=np.float32)


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
        sides: Size that an image must have: ``[2]`` (y, x) or more, int64, per sample, CPU. Another
            size fails the batch instead of being decoded. None takes any size.
    """

    def __init__(
        self,
        encoded: DataNode,
        device: str,
        max_pixels: int | None = None,
        trusted: DataNode | None = None,
        in_part: bool = False,
        hints: Mapping[str, Any] | None = None,
        sides: DataNode | None = None,
    ) -> None:
        self._device = device
        self._trusted = trusted
        self._in_part = in_part
        self._hints = dict(hints or {})
        self._shape = shape(encoded)
        self._encoded = _without_huge(encoded, self._shape, max_pixels)
        if sides is not None:
            self._encoded = _only(self._encoded, _are_equal(self._shape, sides))
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
    """Hold images or masks that are decoded already, with the methods of `Encoded`.

    Args:
        pixels: ``[height, width, 3]`` uint8 RGB per sample, CPU; or the bytes of a mask, as in
            `Sample`.
        device: ``"cpu"``, or ``"gpu"`` to copy the pixels to the GPU.
        sides: As of `Encoded`.
    """

    def __init__(self, pixels: DataNode, device: str, sides: DataNode | None = None) -> None:
        self._shape = pixels.shape()
        if sides is not None:
            pixels = fn.reshape(_only(pixels, _are_equal(self._shape, sides)), layout="HWC")
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


class EncodedMasks:
    """Decode masks of class indices, with the methods of `Encoded`.

    Args:
        encoded: Bytes of a gray PNG or PGM file, or of an RGB one: ``[size]`` uint8 per sample,
            CPU.
        divisor: DALI's decoder makes so much of a class index of 1: scalar uint16 per sample, CPU.
        num_bytes: Bytes of a class index, 1 or 2; or 3 of a color.
        device: As of `Encoded`.
        sides: As of `Encoded`.
        in_part: As of `Encoded`. A PNG is decoded to its end all the same, and less is copied.
    """

    def __init__(
        self,
        encoded: DataNode,
        divisor: DataNode,
        num_bytes: int,
        device: str,
        sides: DataNode,
        in_part: bool = False,
    ) -> None:
        dtype = UINT16 if num_bytes == 2 else UINT8
        kinds = types.DALIImageType
        hints = {"output_type": kinds.RGB if num_bytes == 3 else kinds.GRAY, "dtype": dtype}
        self._gray = Encoded(encoded, device, in_part=in_part, hints=hints, sides=sides)
        self._divisor = divisor
        self._divides_by = fn.cast(divisor, dtype=dtype)
        self._num_bytes, self._device = num_bytes, device

    def whole(self) -> DataNode:
        """Return the whole mask: ``[height, width, num_bytes]`` uint8 per sample, on the device."""
        return self._bytes(self._gray.whole())

    def window(self, anchor: DataNode, extent: DataNode) -> DataNode:
        """Return one rectangle of each mask; see `Encoded.window`."""
        return self._bytes(self._gray.window(anchor, extent))

    def _bytes(self, gray: DataNode) -> DataNode:
        # Most masks need no division, and splitting moves no pixel.
        is_scaled = self._divisor > 1
        scaled, indices = split(gray, is_scaled)
        divisor, _ = split(self._divides_by, is_scaled)
        divisor = divisor.gpu() if self._device == "gpu" else divisor
        indices = merge(scaled // divisor, indices, is_scaled)
        if self._num_bytes != 2:
            return indices
        return fn.reinterpret(indices, rel_shape=[1, 1, 2], dtype=UINT8, layout="HWC")


@dataclass(frozen=True)
class Stored:
    """Hold stored images and their masks, and make samples of them.

    Attributes:
        image: The images.
        masks: The masks, each of the image's size.
        has_matrix: Whether samples have a matrix and a part; see `Sample`.
    """

    image: Encoded | Pixels
    masks: tuple[EncodedMasks | Pixels, ...] = ()
    has_matrix: bool = False

    def shape(self) -> DataNode:
        """Return the image's size: ``[3]`` int64 (y, x, channels) per sample, CPU."""
        return self.image.shape()

    def whole(self) -> Sample:
        """Return whole images, upright."""
        masks = tuple(mask.whole() for mask in self.masks)
        if not self.has_matrix:
            return Sample(self.image.whole(), masks)
        return Sample(self.image.whole(), masks, _same(), self._all())

    def window(self, anchor: DataNode, extent: DataNode) -> Sample:
        """Return one rectangle of each image, bit-identical to that part of the whole image.

        Args:
            anchor: Top left corner in pixels: ``[2]`` int32 (y, x) per sample, CPU.
            extent: Sides in pixels: ``[2]`` int32 (y, x) per sample, CPU.
        """
        masks = tuple(mask.window(anchor, extent) for mask in self.masks)
        image = self.image.window(anchor, extent)
        if not self.has_matrix:
            return Sample(image, masks)
        areas = Area(anchor, extent), Area((0, 0), extent)
        return Sample(image, masks, *mapped(_same(), self._all(), *areas, extent))

    def resized_window(
        self,
        anchor: DataNode,
        extent: DataNode,
        size: tuple[int, int],
        resampler: Resampler,
        kernel: Kernel | DataNode,
        mirrored: DataNode | None = None,
    ) -> Sample:
        """Return one rectangle of each image, resized to one size: `window` and `resized_sample`.

        Masks are cut out by their resizing, and the matrix is computed once, which is faster.

        Args:
            anchor: As of `window`.
            extent: As of `window`.
            size: ``(height, width)`` of the results, in pixels.
            resampler: Resizes the images.
            kernel: As of `Resampler.resize`.
            mirrored: 1 to mirror left to right, else 0: scalar int32 per sample, CPU.
        """
        image = resampler.resize(self.image.window(anchor, extent), size, mirrored, kernel)
        window = anchor, extent
        masks = tuple(resized_mask(mask.whole(), size, mirrored, window) for mask in self.masks)
        if not self.has_matrix:
            return Sample(image, masks)
        areas = Area(anchor, extent), Area((0, 0), size, mirrored)
        return Sample(image, masks, *mapped(_same(), self._all(), *areas, size))

    def _all(self) -> DataNode:
        """Return the corners of each stored image; see `Sample`."""
        shape = self.shape()
        sides = fn.cast(fn.stack(shape[1], shape[0]), dtype=FLOAT)
        return fn.reshape(fn.stack(sides * 0.0, sides), layout="**")


def read(stored: DataNode, is_path: DataNode) -> DataNode:
    """Read the files whose paths the graph is fed.

    Args:
        stored: Path or bytes of a file: ``[length]`` uint8 per sample, CPU.
        is_path: Whether the path is fed: scalar boolean per sample, CPU.

    Returns:
        The file's bytes: ``[size]`` uint8 per sample, CPU.
    """
    path, encoded = split(stored, is_path)
    # Reading is twice as fast as mapping for files in the page cache, and a file that is truncated
    # while it is mapped kills the process with SIGBUS.
    read_file: Any = fn.io.file.read  # type: ignore[attr-defined]  # missing from the stubs
    return merge(read_file(path, dont_use_mmap=True), encoded, is_path)


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


def _are_equal(shape: DataNode, sides: DataNode) -> DataNode:
    """Return whether two sizes (y, x, ...) are equal: scalar boolean per sample."""
    return (shape[0] == sides[0]) & (shape[1] == sides[1])


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


def _same() -> DataNode:
    # The layout of what DALI's operators on matrices return, which `merge` compares.
    return fn.reshape(constant(_SAME), layout="**")
