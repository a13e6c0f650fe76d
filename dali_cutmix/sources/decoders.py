"""Hand out images as DALI decodes them: `Decodable`, and who decodes a file by its first bytes.

DALI 2.4.0 ends the process at some TIFF, BMP and JPEG 2000 files, and at JPEGs with two EXIF
segments. Other files come out with wrong pixels or unturned, without an error. So DALI gets only
files for which its pixels and its orientation equal Pillow's. `README.md` lists which these are.

The module is long since each format hides its orientation in places of its own.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dali_cutmix.core.reading import NOTHING, open_descriptor
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.pillow import Decoded, PillowProcesses
from dali_cutmix.sources.upright import BEGINNINGS, RefusedError

Decoder = Literal["dali", "pillow"]

#: Return bytes of a file from an offset, as many as asked for; fewer where the file ends.
ReadAt = Callable[[int, int], bytes]

#: Bytes. Headers of most files are shorter, and are read at once.
HEAD_BYTES = 4096

#: Of the module, since a loader with a lock of its own could not be pickled.
_MAKING_PROCESSES = threading.Lock()

#: Values of the array that remembers who decodes an image.
_UNKNOWN, _DALI, _PILLOW = 0, 1, 2

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


class Decodable:
    """Hand out images as the graph is fed them: as stored where DALI decodes them, else as a PPM.

    Who decodes an image is looked up once, from the first bytes of its file. Processes of Pillow
    start with the first file that needs one. Thread-safe.

    Args:
        images: The data.
        max_pixels: Most pixels of an image that Pillow decodes. None decodes all.
        num_processes: Most processes of Pillow at a time, at least 1.

    Attributes:
        kind: Of the data; see `StoredImages`.
        refused: Reasons by index of images that Pillow refused when they were read last.
    """

    def __init__(self, images: StoredImages, max_pixels: int | None, num_processes: int) -> None:
        self.kind = images.kind
        self.refused: dict[int, str] = {}
        self._images = images
        self._max_pixels = max_pixels
        self._num_processes = num_processes
        self._pillow: PillowProcesses | None = None
        self._decoders = np.full(len(images), _UNKNOWN, np.uint8)

    def waits(self, indices: Sequence[int]) -> bool:
        """Return whether `stored` waits for a disk, a network or a process, for these images."""
        is_known = self.kind == "pixels" or bool((self._decoders[indices] == _DALI).all())
        return self._images.reads or not is_known

    def stored(self, index: int) -> np.ndarray:
        """Return what the graph is fed for an image.

        Returns:
            As `StoredImages.stored` where DALI decodes the image. Else a binary PPM file:
            ``[size]`` uint8, of size 0 where Pillow refuses the image.

        Raises:
            OSError: The image cannot be read.
        """
        if self.kind == "pixels":
            return self._images.stored(index)
        decoder = self._decoders[index]
        if decoder == _DALI and self.kind == "path":
            return self._images.stored(index)
        encoded: np.ndarray | None = None
        if self.kind == "path":
            if decoder == _UNKNOWN:
                decoder = self._remember(index, _decoder_of_file(self._images.stored(index)))
        else:
            encoded = self._images.stored(index)
            if decoder == _UNKNOWN:
                decoder = self._remember(index, decoder_of_bytes(encoded))
        if decoder == _DALI:
            return self._images.stored(index) if encoded is None else encoded
        try:
            image = self.decode(self._images.encoded(index) if encoded is None else encoded)
        except RefusedError as error:
            self._decoders[index] = _UNKNOWN  # the file may be mended
            self.refused[index] = error.reason
            return NOTHING
        self.refused.pop(index, None)
        return image.ppm

    def are_paths(self, indices: Sequence[int]) -> np.ndarray:
        """Return whether `stored` returns the path of a file for images: ``[n]`` bool."""
        return np.asarray(self._decoders[indices] != _PILLOW) & (self.kind == "path")

    def decode(self, encoded: np.ndarray) -> Decoded:
        """Decode a file by Pillow; see `PillowProcesses.decode`."""
        with _MAKING_PROCESSES:
            if self._pillow is None:
                self._pillow = PillowProcesses(self._num_processes)
        return self._pillow.decode(encoded, self._max_pixels)

    def forget(self, indices: Sequence[int]) -> None:
        """Look again who decodes these images: their files may have changed."""
        self._decoders[indices] = _UNKNOWN

    def close(self) -> None:
        """End the processes of Pillow."""
        if self._pillow is not None:
            self._pillow.close()

    def _remember(self, index: int, decoder: Decoder) -> int:
        self._decoders[index] = _PILLOW if decoder == "pillow" else _DALI
        return int(self._decoders[index])


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
        if not is_harmless or (is_jpeg_frame(marker) and head[at + 9] == 4):
            return False
        at += 2 + (head[at + 2] << 8 | head[at + 3])
    return False


def jpeg_segments(read_at: ReadAt) -> list[tuple[int, int, int]]:
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


def is_jpeg_frame(marker: int) -> bool:
    """Return whether a segment of a JPEG, by its marker, is the header of a frame."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _decoder_of_file(path: np.ndarray) -> Decoder:
    # Without a buffered file, whose making takes longer than all the rest.
    file = open_descriptor(path.tobytes())
    try:
        head = os.pread(file, HEAD_BYTES, 0)

        def read_at(at: int, size: int) -> bytes:
            if at + size <= len(head):
                return head[at : at + size]
            return os.pread(file, size, at)

        return decoder_of(read_at, head)
    finally:
        os.close(file)


def _is_plain_jpeg(read_at: ReadAt) -> bool:
    orientation: int | None = None  # by EXIF; 0 where EXIF names none
    is_turned_by_xmp = has_adobe = False
    marker = num_components = 0
    for marker, offset, size in jpeg_segments(read_at):
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
        elif is_jpeg_frame(marker) and size >= 6:
            num_components = int.from_bytes(read_at(offset + 5, 1), "big")
    if marker != 0xDA:  # what Pillow skips, such as stray bytes, may hide segments
        return False
    # DALI inverts CMYK though only Adobe's is inverted.
    return (bool(orientation) or not is_turned_by_xmp) and (num_components != 4 or has_adobe)


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
