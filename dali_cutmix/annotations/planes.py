"""From a mask's file to a file that DALI's decoder reads as class indices.

DALI 2.4.0 reads a gray PNG of any depth right, except that it scales 1, 2 and 4 bits to 8. Of a PNG
with a palette DALI makes the gray of the colors. So the header of such a PNG is patched to say
gray: pixels of both kinds are stored alike. Other files are decoded by Pillow, in a process of its
own, and handed on as PGMs.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Collection
from typing import NamedTuple, Protocol

import numpy as np

from dali_cutmix.sources.decoders import decoder_of_bytes
from dali_cutmix.sources.pillow import Decoded
from dali_cutmix.sources.upright import RefusedError

_PNG = b"\x89PNG\r\n\x1a\n"
_NPY = b"\x93NUMPY"

#: Colour types of PNG.
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA = 0, 2, 3, 4

#: Bytes of a PNG up to the end of its first chunk, the header.
_HEADER_BYTES = 33


class Decode(Protocol):
    """Decode a file by Pillow: `PillowProcesses.decode` with the most pixels chosen."""

    def __call__(self, encoded: np.ndarray, /, *, is_mask: bool) -> Decoded:
        """Return the file as a PNM."""


class Plane(NamedTuple):
    """Hold a mask as the graph is fed it.

    Attributes:
        stored: A gray PNG, or a binary PGM or PPM: ``[size]`` uint8; or the bytes of an array. May
            be a view: not to be written to.
        stored_one: What DALI's decoder makes of a class index of 1: above 1 where the file has
            fewer bits than the graph.
    """

    stored: np.ndarray
    stored_one: int


def depth_of(encoded: np.ndarray, decode: Decode) -> int:
    """Return the bits of a class index in a mask's file: 8, 16 or 32.

    Args:
        encoded: The file: ``[size]`` uint8.
        decode: Decodes files that are not plain PNGs.

    Raises:
        RefusedError: The file cannot be decoded.
    """
    start = encoded[:_HEADER_BYTES].tobytes()
    if start.startswith(_PNG) and len(start) == _HEADER_BYTES:
        return max(8, start[24])
    array = array_in(encoded)
    if array is not None:
        return bits_of(array.dtype)
    return 16 if _most_of_pgm(decode(encoded, is_mask=True).ppm) > 255 else 8


def bits_of(dtype: np.dtype) -> int:
    """Return the bits that class indices of a type of array are fed with: 8 or 16.

    Larger types are taken for 16 bits: few masks have more than 65,535 classes.
    """
    return 8 if dtype == np.bool_ or dtype.itemsize == 1 else 16


def plane_of(encoded: np.ndarray, bits: int, decode: Decode) -> Plane:
    """Return a mask's file as a gray PNG or a PGM.

    Args:
        encoded: The file: ``[size]`` uint8.
        bits: Bits of a class index in the graph, 8 or 16.
        decode: Decodes files that are not plain PNGs.

    Raises:
        RefusedError: The file cannot be decoded, or has class indices of more bits.
    """
    start = encoded[:_HEADER_BYTES].tobytes()
    if start.startswith(_PNG) and len(start) == _HEADER_BYTES:
        depth, color = start[24], start[25]
        is_plain = color in (_GRAY, _PALETTE) and depth in (1, 2, 4, 8, 16)
        if is_plain and decoder_of_bytes(encoded) == "dali":
            _check_depth(depth, bits)
            if color == _PALETTE:
                encoded = _as_gray(encoded, start)
            return Plane(encoded, (2**bits - 1) // (2**depth - 1))
        if depth > 8 and not is_plain:  # Pillow keeps the upper 8 bits
            raise RefusedError("unsupported", f"a PNG of {depth} bits with colors or alpha")
    pgm = decode(encoded, is_mask=True).ppm
    depth = 16 if _most_of_pgm(pgm) > 255 else 8
    _check_depth(depth, bits)
    return Plane(pgm, (2**bits - 1) // (2**depth - 1))


def color_plane_of(encoded: np.ndarray, decode: Decode) -> Plane:
    """Return a mask's file as an RGB image that DALI's decoder reads right.

    Raises:
        RefusedError: The file cannot be decoded, or may have blended colors.
    """
    start = encoded[:_HEADER_BYTES].tobytes()
    if start.startswith(_PNG) and len(start) == _HEADER_BYTES and start[24] <= 8:
        has_alpha = start[25] not in (_GRAY, _RGB, _PALETTE) or b"tRNS" in _chunks(encoded)
        if not has_alpha and decoder_of_bytes(encoded) == "dali":
            return Plane(encoded, 1)
    decoded = decode(encoded, is_mask=False)
    if decoded.format in ("JPEG", "MPO", "WEBP", "AVIF"):
        reason = f"{decoded.format} blends colors. Store the mask as PNG"
        raise RefusedError("unsupported", reason)
    return Plane(decoded.ppm, 1)


def array_in(encoded: np.ndarray) -> np.ndarray | None:
    """Return the array in a file that ``np.save`` wrote; None for other files.

    Raises:
        RefusedError: The file is damaged, or holds Python objects.
    """
    if encoded[: len(_NPY)].tobytes() != _NPY:
        return None
    # `np.load` takes a damaged header at its word, and asks for terabytes.
    file = io.BytesIO(encoded.data)
    try:
        version = np.lib.format.read_magic(file)
        read = getattr(np.lib.format, "read_array_header_{}_{}".format(*version))
        shape, is_fortran, dtype = read(file)
    except Exception as error:  # Python's own parser reads the header
        raise RefusedError("damaged", f"a broken header of an array: {error}") from None
    num_bytes, num_left = math.prod(shape) * dtype.itemsize, len(encoded) - file.tell()
    if dtype.hasobject or num_bytes != num_left:
        reason = f"an array {shape} of {dtype} in {num_left} bytes"
        raise RefusedError("damaged", reason)
    values = np.frombuffer(encoded.data, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if is_fortran else "C")


def pixels_of(
    indices: np.ndarray,
    bits: int,
    ignore: int,
    fill: int,
    *,
    most: int,
    listed: Collection[int] | None = None,
) -> np.ndarray:
    """Return class indices as bytes, the low byte first: ``[height, width, bits // 8]`` uint8.

    Args:
        indices: ``[height, width]`` of whole numbers or bool.
        bits: 8, 16 or 32.
        ignore: The index of pixels of no class; may be negative.
        fill: What is stored for such pixels.
        most: Most bits that `Masks` takes of this kind of mask, for messages.
        listed: Indices that have a class; others are of no class. None: all indices are classes.

    Raises:
        RefusedError: The array has another shape or type, or an index is out of range.
    """
    if indices.ndim != 2 or not indices.size or indices.dtype.kind not in "iub":
        reason = (
            f"shape {indices.shape} of {indices.dtype} is not a mask: [height, width] of integers"
        )
        raise RefusedError("unsupported", reason)
    if indices.dtype.itemsize * 8 > bits or indices.dtype.kind == "i":
        low, high = int(indices.min()), int(indices.max())
        if listed is not None and (low < 0 or high >= 2**bits):
            is_outside = (indices < 0) | (indices >= 2**bits)
            is_outside &= ~np.isin(indices, list(listed))
            indices = np.where(is_outside, fill, indices.astype(np.int64))
            low, high = int(indices.min()), int(indices.max())
        if low < 0 and ignore < 0:
            is_ignored = indices == ignore
            low = int(indices.min(initial=0, where=~is_ignored))
            indices = np.where(is_ignored, fill, indices)
        if low < 0:
            raise RefusedError("unsupported", f"a class index of {low} is negative")
        if high >= 2**bits:
            needed = 16 if high < 2**16 else 32
            way_out = f". Pass `bits={needed}`" if high < 2**32 else ""
            if needed > most and way_out:
                way_out = ". Masks in files have at most 16: pass arrays, with `bits=32`"
            raise RefusedError(
                "unsupported", f"a class index of {high} has over {bits} bits{way_out}"
            )
    values = np.ascontiguousarray(indices, f"<u{bits // 8}")
    return values.view(np.uint8).reshape(*values.shape, bits // 8)


def _check_depth(depth: int, bits: int) -> None:
    if depth > bits:
        reason = f"{depth} bits of a class index, and {bits} of other masks. Pass `bits={depth}`"
        raise RefusedError("unsupported", reason)


def _as_gray(encoded: np.ndarray, start: bytes) -> np.ndarray:
    """Return a palette's PNG as a gray PNG of its indices.

    Chunks of metadata, which may fit no gray image, are left out, but for EXIF: it may turn masks.
    """
    if zlib.crc32(start[12:29]) != int.from_bytes(start[29:33], "big"):
        raise RefusedError("damaged", "PNG with a wrong checksum of its header")
    header = start[12:25] + bytes([_GRAY]) + start[26:29]
    parts = [np.frombuffer(start[:12] + header + struct.pack(">I", zlib.crc32(header)), np.uint8)]
    chunks = _chunks(encoded)
    if b"eXIf" in chunks:
        at, end = chunks[b"eXIf"]
        parts.append(encoded[at:end])
    first, _ = chunks.get(b"IDAT", (len(encoded), 0))
    parts.append(encoded[first:])
    return np.concatenate(parts)


def _chunks(encoded: np.ndarray) -> dict[bytes, tuple[int, int]]:
    """Return start and end in bytes of the first chunk of each kind, up to the first of pixels."""
    chunks: dict[bytes, tuple[int, int]] = {}
    view, at = encoded.data, len(_PNG)
    while at + 8 <= len(view) and b"IDAT" not in chunks:
        size, kind = struct.unpack_from(">I4s", view, at)
        chunks.setdefault(kind, (at, at + 12 + size))
        at += 12 + size
    return chunks


def _most_of_pgm(pgm: np.ndarray) -> int:
    """Return the largest value of a binary PGM of `upright.as_pgm`, as its header says."""
    return int(pgm[:40].tobytes().split(b"\n", 3)[2])


def as_pgm(pixels: np.ndarray) -> np.ndarray:
    """Return class indices as a binary PGM: ``[size]`` uint8.

    Args:
        pixels: ``[height, width, bytes]`` uint8, of 1 or 2 bytes, the low byte first.
    """
    height, width, num_bytes = pixels.shape
    head = b"P5\n%d %d\n%d\n" % (width, height, 256**num_bytes - 1)
    return np.concatenate([np.frombuffer(head, np.uint8), pixels[..., ::-1].reshape(-1)])


def bare_png(encoded: np.ndarray) -> np.ndarray:
    """Return a PNG without what Pillow refuses and DALI passes over: metadata, but for EXIF.

    Args:
        encoded: A gray or RGB PNG, or one with a palette of colors: ``[size]`` uint8.

    Raises:
        RefusedError: The PNG has no end, or a chunk of its pixels is damaged.
    """
    is_palette = encoded[25] == _PALETTE
    needed = (b"IHDR", b"IDAT", b"IEND", *([b"PLTE"] if is_palette else []))
    view, at, kind = encoded.data, len(_PNG), b""
    parts = [view[:at]]
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", view, at) if at + 12 <= len(view) else (0, b"")
        end = at + 12 + size
        if not kind or end > len(view):
            raise RefusedError("cut short", "damaged or cut short")
        stored, right = view[end - 4 : end], zlib.crc32(view[at + 4 : end - 4]).to_bytes(4, "big")
        if kind in needed and kind != b"IEND" and stored != right:
            raise RefusedError("damaged", "damaged or cut short")
        if kind in needed or (kind == b"eXIf" and stored == right):
            parts += [view[at : end - 4], memoryview(right)]
        at = end
    return np.frombuffer(b"".join(parts), np.uint8)


def is_pnm(stored: np.ndarray) -> bool:
    """Return whether the file of a `Plane` is a PGM or PPM: else it is a PNG."""
    return stored[:1].tobytes() == b"P"


def of_pnm(pnm: np.ndarray, num_bytes: int) -> np.ndarray:
    """Return what a PGM or PPM of Pillow's processes holds: ``[height, width, num_bytes]`` uint8.

    Args:
        pnm: The file: ``[size]`` uint8.
        num_bytes: Bytes of a class index, 1 or 2, the low byte first in the result; or 3 of colors.
    """
    _, size, most, _ = pnm[:40].tobytes().split(b"\n", 3)
    width, height = map(int, size.split())
    num_stored = num_bytes if num_bytes == 3 else 1 + (int(most) > 255)
    pixels = pnm[len(pnm) - height * width * num_stored :].reshape(height, width, num_stored)
    if num_bytes == 3:
        return pixels
    wide = np.zeros((height, width, num_bytes), np.uint8)
    wide[..., :num_stored] = pixels[..., ::-1]
    return wide
