"""Decode an image file by Pillow: upright, RGB. Also the program of `pillow.PillowProcesses`.

A program of its own, which imports Pillow and nothing of the package: a process starts in a tenth
of a second, and a file that ends the process ends nothing else.
"""

from __future__ import annotations

import io
import os
import re
import select
import signal
import socket
import struct
import sys
import warnings
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[:] = sys.argv[2:]  # the parent's, which may have found Pillow elsewhere

from PIL import Image, UnidentifiedImageError

#: What a process sends first, once it has imported Pillow.
READY = b"\1"
#: Size of the file in bytes, most pixels or 0.
REQUEST = struct.Struct("<QQ")
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(encoded)
        width, height = image.size
        if max_pixels is not None and height * width > max_pixels:
            raise RefusedError("too large", too_large(height, width, max_pixels))
        try:
            image.load()
            upright = _turn(_as_rgb(image), _method(image))
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


def main(channel: socket.socket) -> None:
    """Answer requests until the other side is closed, or the parent process has ended."""
    parent = os.getppid()
    channel.sendall(READY)
    Image.MAX_IMAGE_PIXELS = None  # the request says
    while head := _receive(channel, REQUEST.size, parent):
        num_bytes, max_pixels = REQUEST.unpack(head)
        encoded = _receive(channel, num_bytes, parent)
        if len(encoded) < num_bytes:
            return
        try:
            image, size, name = decode(bytes(encoded), max_pixels or None)
            payload = as_ppm(image)
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
