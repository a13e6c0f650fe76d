"""Sizes of images by their headers, upright as the loader serves them."""

from __future__ import annotations

import io
import os
import struct
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image

from dali_cutmix.core.reading import open_regular
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.decoders import (
    HEAD_BYTES,
    ReadAt,
    format_of,
    is_bare_jpeg,
    is_jpeg_frame,
    jpeg_segments,
    reader_of,
)
from dali_cutmix.sources.upright import CLOSED

_ORIENTATION = 0x0112
#: Chunks of a PNG that may hold an orientation.
_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def upright_size(path: str | bytes) -> tuple[int, int] | None:
    """Return ``(height, width)`` of an image file in pixels, as EXIF or XMP turns the image.

    Reads the header of most files, and the whole file where a PNG has texts.

    Args:
        path: The file, of any format that a loader decodes.

    Returns:
        The size; None where no header is readable, so that no loader decodes the file.

    Raises:
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        head = os.pread(file.fileno(), HEAD_BYTES, 0)
        if _is_never_turned(head, lambda at, size: os.pread(file.fileno(), size, at)):
            return header_size(np.frombuffer(head, np.uint8))
        return _by_pillow(file)


def upright_size_of(encoded: np.ndarray) -> tuple[int, int] | None:
    """Return ``(height, width)`` of the bytes of an image file; see `upright_size`.

    Args:
        encoded: Bytes of the file: ``[size]`` uint8.
    """

    def read_at(at: int, size: int) -> bytes:
        return encoded[at : at + size].tobytes()

    if _is_never_turned(read_at(0, HEAD_BYTES), read_at):
        return header_size(encoded[:HEAD_BYTES])
    return _by_pillow(io.BytesIO(encoded.tobytes()))


def size_of(images: StoredImages, index: int) -> tuple[int, int] | None:
    """Return ``(height, width)`` of an image of a source, upright; see `upright_size`.

    Raises:
        OSError: The image cannot be read.
    """
    if images.kind == "pixels":
        height, width = images.stored(index).shape[:2]
        return height, width
    if images.kind == "path":
        return upright_size(images.path(index))
    return upright_size_of(images.encoded(index))


def header_size(encoded: np.ndarray) -> tuple[int, int] | None:
    """Return ``(height, width)`` in pixels by the header of a JPEG, PNG or WebP, not turned.

    None where the header is broken, or the file is of another format.

    Args:
        encoded: The file: ``[size]`` uint8.
    """
    start = encoded[:30].tobytes()
    name = format_of(start)
    if name == "JPEG":
        read_at = reader_of(encoded)
        for marker, offset, size in jpeg_segments(read_at):
            if is_jpeg_frame(marker) and size >= 6 and len(head := read_at(offset, 5)) == 5:
                height, width = struct.unpack(">xHH", head)
                return height, width
    elif name == "PNG" and start[12:16] == b"IHDR" and len(start) >= 24:
        width, height = struct.unpack_from(">II", start, 16)
        return height, width
    elif name == "WEBP" and len(start) == 30:
        return _webp_size(start)
    return None


def _is_never_turned(head: bytes, read_at: ReadAt) -> bool:
    """Return whether the head of a file holds its size, and the file holds no orientation."""
    match format_of(head[:24]):
        case "JPEG":
            return is_bare_jpeg(head)
        case "PNG":
            return not _has_metadata(read_at)
    return False


def _has_metadata(read_at: ReadAt) -> bool:
    at = 8
    while len(chunk := read_at(at, 8)) == 8 and chunk[4:] != b"IEND":
        if chunk[4:] in _METADATA:
            return True
        at += 12 + int.from_bytes(chunk[:4], "big")
    return False


def _by_pillow(file: BinaryIO) -> tuple[int, int] | None:
    Image.init()
    formats = [name for name in Image.ID if name not in CLOSED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=formats) as image:
                width, height = image.size
                # Pillow swaps the sides of a TIFF as it opens the file.
                is_tiff = image.format == "TIFF"
                is_turned = not is_tiff and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        except MemoryError:
            raise
        except Exception:  # Pillow raises nearly anything on a broken file
            return None
    return (width, height) if is_turned else (height, width)


def _webp_size(start: bytes) -> tuple[int, int] | None:
    chunk = start[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if chunk == b"VP8L" and start[20] == 0x2F:
        bits = int.from_bytes(start[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", start, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None
