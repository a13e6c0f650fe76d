"""Decode an image file by Pillow: upright, RGB. Also the program of `pillow.PillowProcesses`.

A program of its own, which imports Pillow and nothing of the package: a process starts in a tenth
of a second, and a file that ends the process ends nothing else.
"""

from __future__ import annotations

import array
import io
import os
import re
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[:] = sys.argv[2:]  # the parent's, which may have found Pillow elsewhere

from PIL import Image, ImageChops, UnidentifiedImageError

#: What a process sends first, once it has imported Pillow.
READY = b"\1"
#: Size of the file in bytes, most pixels or 0, whether the file is a mask.
REQUEST = struct.Struct("<QQ?")
#: Whether the file was decoded, height and width in the file, its format, bytes that follow.
REPLY = struct.Struct("<?II16sQ")

#: Formats that stay closed, by Pillow's names: Pillow starts Ghostscript for PostScript, and asks
#: the system or other libraries for the rest.
CLOSED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")

_ORIENTATION = 0x0112
_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags of TIFF.
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284

#: First bytes of files by their format, by Pillow's names where Pillow has one: of at least 18.
BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "HEIF": rb"....ftyp(hei|mif1|msf1)",
    "AVIF": rb"....ftypavi",
    "JPEG XL": rb"....JXL |\xff\x0a",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
}
_UNSUPPORTED = ("HEIF", "AVIF", "JPEG XL", "PostScript")  # where Pillow opens no such file
# Formats that may blend neighbouring pixels, by Pillow's names, and such compressions of TIFF.
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
_LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")
_PNM_SIZE = re.compile(rb"P[25](?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)")
_POLL_S = 2.0


class RefusedError(Exception):
    """Say why a file is not decoded.

    Attributes:
        kind: ``"empty"``, ``"no image"``, ``"unsupported"``, ``"too large"``, ``"cut short"`` or
            ``"damaged"``.
        reason: The reason, in a line.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


class Upright(NamedTuple):
    """Hold a decoded image.

    Attributes:
        image: Of mode RGB, turned upright.
        size: ``(height, width)`` in pixels in the file, before turning.
        format: Format of the file, by Pillow's names.
    """

    image: Image.Image
    size: tuple[int, int]
    format: str


def too_large(height: int, width: int, max_pixels: int) -> str:
    """Return the reason why an image is refused for its size."""
    return f"{height} x {width} pixels are more than max_pixels={max_pixels}"


def decode(encoded: bytes, max_pixels: int | None) -> Upright:
    """Decode the first image of a file, as Pillow's ``convert("RGB")``, upright.

    Gray of more than 8 bits is scaled to 8, where ``convert`` clips. An alpha channel is dropped.
    The orientation is Pillow's: of EXIF, or else of XMP.

    Args:
        encoded: The file.
        max_pixels: Most pixels of an image, by its header. None decodes all.

    Raises:
        RefusedError: The file cannot be decoded.
        MemoryError: There is no memory for the image.
    """
    return _decode(encoded, max_pixels, _as_rgb)


def decode_mask(encoded: bytes, max_pixels: int | None) -> Upright:
    """Decode the first image of a mask's file, upright, to class indices as they are stored.

    A palette's index is the class, and so is a gray value of any depth. Three equal channels are
    one. A second channel, of alpha, is dropped.

    Args:
        encoded: The file.
        max_pixels: As of `decode`.

    Returns:
        An image of mode ``"L"``, or ``"I;16"`` where the file holds more than 8 bits.

    Raises:
        RefusedError: The file cannot be decoded, or holds no class indices.
        MemoryError: There is no memory for the image.
    """
    return _decode(encoded, max_pixels, lambda image: _as_indices(image, encoded))


def _decode(
    encoded: bytes, max_pixels: int | None, convert: Callable[[Image.Image], Image.Image]
) -> Upright:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(encoded)
        width, height = image.size
        if max_pixels is not None and height * width > max_pixels:
            raise RefusedError("too large", too_large(height, width, max_pixels))
        try:
            image.load()
            upright = _turn(convert(image), _method(image))
            return Upright(upright, (height, width), image.format or "")
        except (RefusedError, MemoryError):
            raise
        except Exception as error:  # Pillow raises nearly anything on a broken file
            raise RefusedError(*_refusal(error)) from None


def _open(encoded: bytes) -> Image.Image:
    Image.init()
    formats = [name for name in Image.ID if name not in CLOSED]
    try:
        return Image.open(io.BytesIO(encoded), formats=formats)
    except UnidentifiedImageError:
        raise RefusedError(*_unidentified(encoded)) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a broken file
        kind, reason = _unidentified(encoded)
        refusal = _refusal(error) if kind == "damaged" else (kind, reason)
        raise RefusedError(*refusal) from None


def _unidentified(encoded: bytes) -> tuple[str, str]:
    """Return kind and reason of a file of which Pillow reads no header."""
    for name, beginning in BEGINNINGS.items():
        if re.match(beginning, encoded, re.DOTALL):
            if name in _UNSUPPORTED:
                return "unsupported", f"{name} is not decoded"
            return "damaged", f"{name} with a broken header"
    start_of_jpeg = encoded.find(b"\xff\xd8\xff")
    hint = f"; a JPEG starts at byte {start_of_jpeg}" if start_of_jpeg > 0 else ""
    return "no image", f"not an image, or an unsupported format{hint}"


def _refusal(error: Exception) -> tuple[str, str]:
    text = str(error) or type(error).__name__
    words = text.lower()
    if "truncated" in words or isinstance(error, EOFError):
        return "cut short", text
    if isinstance(error, NotImplementedError) or "not supported" in words or "unsupported" in words:
        return "unsupported", text
    return "damaged", text


def _as_rgb(image: Image.Image) -> Image.Image:
    bits = 16
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
        if bits > 8 and len(image.getbands()) > 1 and tags.get(_PLANAR_CONFIGURATION) == 2:
            raise RefusedError("unsupported", f"planes of {bits} bits, which Pillow misreads")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        low, high = image.getextrema()
        if image.mode == "F" or low < 0 or high > 255:  # type: ignore[operator]
            kind = {"F": "floating point", "I": "32-bit whole numbers"}[image.mode]
            reason = f"pixels are {kind}, and nobody knows which is white"
            raise RefusedError("unsupported", reason)
    elif image.mode[0] == "I":
        white = 2**bits - 1
        image = image.convert("I").point(lambda value: value * (255 / white) + 0.5).convert("L")
    elif image.mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    return image.convert("RGB")


def _as_indices(image: Image.Image, encoded: bytes) -> Image.Image:
    compression = str(image.info.get("compression", "")) if image.format == "TIFF" else ""
    if image.format in _LOSSY or compression in _LOSSY_COMPRESSIONS:
        reason = f"{compression or image.format} blends class indices. Store the mask as PNG"
        raise RefusedError("unsupported", reason)
    if image.mode in ("P", "PA", "LA"):  # bytes of a palette's image are its indices
        indices = image.getchannel(0) if len(image.mode) > 1 else image
        return Image.frombytes("L", indices.size, indices.tobytes())
    if image.mode == "1":
        return image.convert("L").point(lambda value: value & 1)
    if image.mode == "L":
        step, most = _step(image, encoded)
        return image.point(lambda value: (value * most + 127) // 255 if most else value // step)
    if image.mode[0] == "I":
        return _as_deep(image, encoded)
    if image.mode in ("RGB", "RGBA"):
        red, *others = image.split()[:3]
        if any(ImageChops.difference(red, other).getbbox() for other in others):
            raise RefusedError("unsupported", "the mask has colors, and no class indices")
        return red
    raise RefusedError("unsupported", f"pixels of mode {image.mode} are no class indices")


def _as_deep(image: Image.Image, encoded: bytes) -> Image.Image:
    wide = image.convert("I")
    most = _most(encoded) if image.format == "PPM" else 0
    if most not in (0, 65535):  # Pillow has scaled the values
        wide = wide.point(lambda value: value * (most / 65535) + 0.5)
    low, high = wide.getextrema()
    if low < 0 or high > 65535:  # type: ignore[operator]
        raise RefusedError("unsupported", f"class indices from {low} to {high} are not 16 bits")
    return wide.convert("I;16")


def _step(image: Image.Image, encoded: bytes) -> tuple[int, int]:
    """Return by how much Pillow has scaled gray of few bits, or the largest value of a PNM."""
    if image.format == "PPM":
        most = _most(encoded)
        return 1, 0 if most == 255 else most
    bits = 8
    if image.format == "PNG" and encoded[25] == 0:
        bits = encoded[24]
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    return {2: 85, 4: 17}.get(bits, 1), 0


def _most(encoded: bytes) -> int:
    """Return the largest value of a PNM, as the header says; 0 where the header is odd."""
    match = _PNM_SIZE.match(encoded)
    return int(match[2]) if match else 0


def _method(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright, as `ImageOps.exif_transpose`: text turns nothing."""
    try:
        return _METHODS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF turns nothing
        return None


def _turn(image: Image.Image, method: Image.Transpose | None) -> Image.Image:
    return image if method is None else image.transpose(method)


def as_ppm(image: Image.Image) -> bytes:
    """Return an image of mode RGB as a binary PPM, which decoders only copy."""
    return b"P6\n%d %d\n255\n" % image.size + image.tobytes()


def as_pgm(image: Image.Image) -> bytes:
    """Return an image of mode L or I;16 as a binary PGM, which decoders only copy."""
    if image.mode == "L":
        return b"P5\n%d %d\n255\n" % image.size + image.tobytes()
    values = array.array("H", image.tobytes())  # the low byte first
    values.byteswap()
    return b"P5\n%d %d\n65535\n" % image.size + values.tobytes()


def main(channel: socket.socket) -> None:
    """Answer requests until the other side is closed, or the parent process has ended."""
    parent = os.getppid()
    channel.sendall(READY)
    Image.MAX_IMAGE_PIXELS = None  # the request says
    while head := _receive(channel, REQUEST.size, parent):
        num_bytes, max_pixels, is_mask = REQUEST.unpack(head)
        encoded = _receive(channel, num_bytes, parent)
        if len(encoded) < num_bytes:
            return
        try:
            decode_file, as_pnm = (decode_mask, as_pgm) if is_mask else (decode, as_ppm)
            image, size, name = decode_file(bytes(encoded), max_pixels or None)
            payload = as_pnm(image)
            reply = REPLY.pack(True, *size, name.encode(), len(payload))
        except RefusedError as error:
            payload = f"{error.kind}\0{error.reason}".encode()
            reply = REPLY.pack(False, 0, 0, b"", len(payload))
        except MemoryError:
            payload = b""
            reply = REPLY.pack(False, 0, 0, b"", 0)
        channel.sendall(reply + payload)


def _receive(channel: socket.socket, num_bytes: int, parent: int) -> bytearray:
    received = bytearray(num_bytes)
    view, at = memoryview(received), 0
    while at < num_bytes:
        # A fork of the parent may hold the other side open when the parent has been killed.
        while not select.select([channel], [], [], _POLL_S)[0]:
            if os.getppid() != parent:
                return bytearray()
        count = channel.recv_into(view[at:])
        if not count:
            return bytearray()
        at += count
    return received


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and closes the channel
    main(socket.socket(fileno=int(sys.argv[1])))
