"""Decide from the first bytes of an image file whether DALI decodes the file, or Pillow.

DALI 2.4.0 ends the process at some TIFF, BMP and JPEG 2000 files, and at JPEGs with two EXIF
segments. Other files come out with wrong pixels or unturned, without an error. So DALI gets only
files for which its pixels and its orientation equal Pillow's. `README.md` lists which these are.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from dali_cutmix.sources.upright import BEGINNINGS

Decoder = Literal["dali", "pillow"]

#: Return bytes of a file from an offset, as many as asked for; fewer where the file ends.
ReadAt = Callable[[int, int], bytes]

#: Endings of image files in shards, by Pillow's names of their formats.
ENDINGS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "GIF": "gif",
    "JPEG2000": "jp2",
    "ICO": "ico",
    "AVIF": "avif",
    "PCX": "pcx",
    "TGA": "tga",
    "SGI": "sgi",
    "PSD": "psd",
    "QOI": "qoi",
    "DDS": "dds",
}

#: Formats of which DALI decodes the plain files, and their first bytes.
_BEGINNINGS = [(name, re.compile(BEGINNINGS[name], re.DOTALL)) for name in ("JPEG", "PNG", "WEBP")]

_ORIENTATION = 0x0112  # tag of TIFF and EXIF

# Orientations that turn an image, as Pillow finds them in XMP.
_TURNED_BY_XMP = re.compile(rb'tiff:Orientation(="|>)[2-8]')
_XMP = b"http://ns.adobe.com/xap/1.0/\0"

_LOSSLESS = 0xC3  # marker of a JPEG's frame

# Bytes of fill in a row. A damaged file may hold millions, each of which is a step in Python.
_MOST_FILL = 64

# Bytes of an element, by TIFF's number of its type.
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)

# Keywords of text in which Pillow finds EXIF or XMP.
_PNG_METADATA = re.compile(
    rb"(?i)(exif|xmp|raw profile type (exif|app1|xmp)|xml:com\.adobe\.xmp)(\0|\Z)"
)

_MOST_METADATA = 1 << 24  # bytes; a broken size may be any

# Bits of a WebP's flags: animation, XMP, EXIF.
_WEBP_FLAGS = 0x02 | 0x04 | 0x08


def decoder_of(read_at: ReadAt, head: bytes = b"") -> Decoder:
    """Return the decoder of an image file. The same decoder reports damage.

    Args:
        read_at: Returns bytes of the file.
        head: First bytes of the file, where they are at hand.

    Raises:
        OSError: The file cannot be read.
    """
    start = head[:24] or read_at(0, 24)
    is_plain = False
    match format_of(start):
        case "JPEG":
            is_plain = is_bare_jpeg(head) or _is_plain_jpeg(read_at)
        case "PNG":
            is_plain = _is_plain_png(read_at)
        case "WEBP":
            is_plain = _is_plain_webp(start)
    return "dali" if is_plain else "pillow"


def decoder_of_bytes(encoded: np.ndarray) -> Decoder:
    """Return who decodes an image file: ``[size]`` uint8."""
    return decoder_of(reader_of(encoded))


def format_of(start: bytes) -> str | None:
    """Return ``"JPEG"``, ``"PNG"`` or ``"WEBP"`` by a file's first 12 bytes; None for others."""
    for name, beginning in _BEGINNINGS:
        if beginning.match(start):
            return name
    return None


def reader_of(encoded: np.ndarray) -> ReadAt:
    """Return a function that returns bytes of a file in memory: ``[size]`` uint8."""
    view = encoded.data
    return lambda at, size: bytes(view[at : at + size])


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
        for marker, offset, size in _segments(read_at):
            if _is_frame(marker) and size >= 6 and len(head := read_at(offset, 5)) == 5:
                height, width = struct.unpack(">xHH", head)
                return height, width
    elif name == "PNG" and start[12:16] == b"IHDR" and len(start) >= 24:
        width, height = struct.unpack_from(">II", start, 16)
        return height, width
    elif name == "WEBP" and len(start) == 30:
        return _webp_size(start)
    return None


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


def is_bare_jpeg(head: bytes) -> bool:
    """Return whether a JPEG's first bytes hold its segments and no EXIF, XMP or fourth component.

    The quick answer for most files: a folder of a million files is looked through.
    """
    at, last = 2, len(head) - 10
    while at < last and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xDA:
            return True
        is_harmless = (0xC0 <= marker <= 0xCF and marker != _LOSSLESS) or (
            0xDA < marker < 0xFF and marker not in (0xE1, 0xEE)
        )
        if not is_harmless or (_is_frame(marker) and head[at + 9] == 4):
            return False
        at += 2 + (head[at + 2] << 8 | head[at + 3])
    return False


def _is_plain_jpeg(read_at: ReadAt) -> bool:
    orientation: int | None = None  # by EXIF; 0 where EXIF names none
    is_turned_by_xmp = has_adobe = False
    marker = num_components = 0
    for marker, offset, size in _segments(read_at):
        if marker == 0xE1:
            start = read_at(offset, min(size, len(_XMP)))
            if start.startswith(b"Exif"):
                if orientation is not None or not start.startswith(b"Exif\0\0"):
                    return False
                orientation = _exif_orientation(read_at, offset + 6, size - 6)
                if orientation is None:
                    return False
            elif start == _XMP:
                is_turned_by_xmp |= bool(_TURNED_BY_XMP.search(read_at(offset, size)))
        elif marker == 0xEE:
            has_adobe |= read_at(offset, 5) == b"Adobe"
        elif marker == _LOSSLESS:  # DALI refuses gray
            return False
        elif _is_frame(marker) and size >= 6:
            num_components = int.from_bytes(read_at(offset + 5, 1), "big")
    if marker != 0xDA:  # what Pillow skips, such as stray bytes, may hide segments
        return False
    # DALI inverts CMYK though only Adobe's is inverted.
    return (bool(orientation) or not is_turned_by_xmp) and (num_components != 4 or has_adobe)


def _segments(read_at: ReadAt) -> list[tuple[int, int, int]]:
    """Return marker, offset and size in bytes of the segments of a JPEG up to its first scan.

    Segments after anything else than segments and a few fill bytes are left out.
    """
    segments: list[tuple[int, int, int]] = []
    at = 2
    num_fill = 0
    while num_fill <= _MOST_FILL:
        head = read_at(at, 4)
        if len(head) < 4 or head[0] != 0xFF:
            return segments
        marker, size = head[1], int.from_bytes(head[2:4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            num_fill += 1
            continue
        num_fill = 0
        if marker <= 0x01 or 0xD0 <= marker <= 0xD9 or size < 2:  # these have no length
            return segments
        segments.append((marker, at + 4, size - 2))
        if marker == 0xDA:
            return segments
        at += 2 + size
    return segments


def _is_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _exif_orientation(read_at: ReadAt, offset: int, size: int) -> int | None:
    """Return the orientation in EXIF data; 0 where no tag names one.

    None where decoders may read the data in different ways: a broken list of tags, an unusual type
    of the orientation, or two of them.
    """
    start = read_at(offset, 8) if size >= 8 else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(start[:4])
    if order is None:
        return None
    (first,) = struct.unpack(order + "I", start[4:])
    if first + 2 > size:
        return None
    (num_tags,) = struct.unpack(order + "H", read_at(offset + first, 2).ljust(2, b"\0"))
    tags = read_at(offset + first + 2, 12 * num_tags)
    if first + 2 + 12 * num_tags > size or len(tags) < 12 * num_tags:
        return None
    orientation = 0
    for tag, kind, count, value in struct.iter_unpack(order + "HHII", tags):
        num_bytes = count * _TYPE_BYTES[kind] if 0 < kind < len(_TYPE_BYTES) else size + 1
        if num_bytes > 4 and value + num_bytes > size:
            return None
        if tag == _ORIENTATION:
            if orientation or (kind, count) != (3, 1):
                return None
            orientation = value & 0xFFFF if order == "<" else value >> 16
            if not 1 <= orientation <= 8:
                return None
    return orientation


def _is_plain_png(read_at: ReadAt) -> bool:
    if read_at(12, 4) != b"IHDR":  # another chunk comes first in Apple's CgBI
        return False
    at, num_exif = 8, 0
    while True:
        head = read_at(at, 8)
        if len(head) < 8:
            return True  # truncated: DALI refuses it, and Pillow may not
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"acTL":  # an animation
            return False
        if kind == b"eXIf":
            num_exif += 1
            if (
                num_exif > 1
                or not _has_checksum(read_at, at, size)
                or _exif_orientation(read_at, at + 8, size) is None
            ):
                return False
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            name = _PNG_METADATA.match(read_at(at + 8, min(size, 80)))
            # An orientation in XMP can be seen only where the text is not compressed.
            if name is not None and (
                b"xml" not in name[0].lower()
                or kind == b"zTXt"
                or read_at(at + 8 + name.end(), 1) == b"\1"
                or not _has_checksum(read_at, at, size)
                or _TURNED_BY_XMP.search(read_at(at + 8, size))
            ):
                return False
        elif kind == b"IEND":
            return True
        at += 12 + size


def _has_checksum(read_at: ReadAt, offset: int, size: int) -> bool:
    """Return whether a chunk of ``size`` bytes has its checksum, and no unusual size.

    DALI turns no image by EXIF of a wrong checksum. Pillow refuses the file, or turns the image
    where the pixels come first.
    """
    chunk = read_at(offset + 4, size + 8) if size <= _MOST_METADATA else b""
    return len(chunk) == size + 8 and chunk[-4:] == zlib.crc32(chunk[:-4]).to_bytes(4, "big")


def _is_plain_webp(start: bytes) -> bool:
    chunk = start[12:16]
    if chunk == b"VP8X":
        return len(start) > 20 and not start[20] & _WEBP_FLAGS
    return chunk in (b"VP8 ", b"VP8L")
