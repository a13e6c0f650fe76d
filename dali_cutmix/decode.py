"""Encoded bytes to HWC uint8 RGB, upright.

JPEG, PNG, BMP, WebP, TIFF and PNM, whatever the file's name; gray, palette, CMYK and alpha become
three channels; EXIF orientation is applied, which Pillow and torchvision's ``ImageFolder`` leave
out.

On the CPU the pixels equal Pillow's, except for 16-bit files, which are scaled to 8 bits here and
clipped there. On a GPU they differ by small amounts, and among its engines. DALI 2.4.0 refuses a
WebP file with an EXIF orientation.
"""

from __future__ import annotations

from dali_cutmix._dali import DataNode, fn


def shape(encoded: DataNode) -> DataNode:
    """Size of the decoded image, from its header: ``[3]`` int64 (y, x, channels), CPU."""
    return fn.peek_image_shape(encoded)


def whole(encoded: DataNode, device: str) -> DataNode:
    """Decode whole images.

    Args:
        encoded: Bytes of an image file: ``[size]`` uint8 per sample, CPU.
        device: ``"cpu"``, or ``"gpu"`` for decoding on the GPU's engines.

    Returns:
        ``[height, width, 3]`` uint8 RGB per sample, on ``device``.
    """
    return fn.decoders.image(encoded, device=_backend(device))


def window(encoded: DataNode, anchor: DataNode, extent: DataNode, device: str) -> DataNode:
    """Decode one rectangle of each image, bit-identical to the same rectangle of the whole.

    The CPU decodes that rectangle alone. A GPU decodes the whole and cuts it out, since decoding a
    region fails there on ordinary files and can end the process (nvImageCodec 0.9, its issue 55).

    Args:
        encoded: Bytes of an image file: ``[size]`` uint8 per sample, CPU.
        anchor: Top left corner in pixels: ``[2]`` int32 (y, x) per sample, CPU.
        extent: Sides in pixels: ``[2]`` int32 (y, x) per sample, CPU.
        device: ``"cpu"`` or ``"gpu"``.

    Returns:
        ``[extent y, extent x, 3]`` uint8 RGB per sample, on ``device``.
    """
    if device == "cpu":
        return fn.decoders.image_slice(encoded, start=anchor, shape=extent, axes=[0, 1])
    return fn.slice(whole(encoded, device), start=anchor, shape=extent, axes=[0, 1])


def _backend(device: str) -> str:
    return "mixed" if device == "gpu" else "cpu"
