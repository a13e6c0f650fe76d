"""Read the markers of JPEG files, and decode JPEG files so that warnings count."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

# At an eighth of the size and in gray, the decoder reads the same stream with the same warnings.
_SHRUNK = {"colorspace": "GRAY", "fastdct": True, "min_height": 1, "min_width": 1, "min_factor": 8}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_WITHOUT_LENGTH = (0x01, 0xD8)  # markers
_LEFT_OVER = re.compile(r"extraneous bytes before marker 0xd9")
_HARMLESS = re.compile(
    "unknown JFIF revision|Adobe color transform|Invalid SOS parameters|extraneous bytes before"
)

# What simplejpeg says of layouts of chroma, and of gray lossless files, that it does not decode.
_UNKNOWN = re.compile("subsampling level|Unsupported color conversion")


@dataclass(frozen=True)
class Jpeg:
    """Hold what the markers of a JPEG file say.

    ``frame``, ``precision`` and ``size`` are None where the header ends before the frame.

    Attributes:
        frame: Kind of coding: 0 baseline, 2 progressive; 9 and 10 the same with arithmetic coding.
        precision: Bits per channel.
        size: ``(height, width)`` in pixels, before EXIF orientation.
        scan: Offset in bytes of the first scan's pixels. None without a scan.
        end: Offset in bytes behind the end marker. None without an end marker.
    """

    frame: int | None = None
    precision: int | None = None
    size: tuple[int, int] | None = None
    scan: int | None = None
    end: int | None = None

    @classmethod
    def of(cls, data: bytes) -> Jpeg:
        """Walk over the markers of a file that starts as a JPEG, without decoding."""
        frame: dict[str, Any] = {}
        scan = end = None
        at = 2
        while (match := _NEXT_MARKER.search(data, at)) is not None:
            marker, at = data[match.start() + 1], match.end()
            if marker == 0xD9:
                end = at
                break
            if marker in _WITHOUT_LENGTH:
                continue
            length = int.from_bytes(data[at : at + 2], "big")
            body = data[at + 2 : at + min(length, 8)]
            at += length
            if at > len(data) or length < 2:
                break
            is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
            if is_frame and not frame and scan is None and len(body) == 6:
                size = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
                frame = {"frame": marker - 0xC0, "precision": body[0], "size": size}
            elif marker == 0xDA and scan is None:
                scan = at
        return cls(**frame, scan=scan, end=end)

    def is_cut_short(self, data: bytes) -> bool:
        """Tell whether no end marker follows the pixels.

        The end marker of a thumbnail in the header does not count.
        """
        if self.scan is None:
            return not data.endswith(b"\xff\xd9")
        return data.find(b"\xff\xd9", self.scan) < 0

    @property
    def is_supported(self) -> bool:
        """Whether DALI decodes such frames on the CPU: 8 bits, and not hierarchical."""
        return self.frame is None or (self.precision == 8 and self.frame in (0, 1, 2, 3, 9, 10))


def decode_strictly(data: bytes, jpeg: Jpeg) -> str | None:
    """Decode a JPEG file so that each warning of libjpeg-turbo counts.

    DALI and Pillow ignore nearly all warnings and deliver wrong pixels. Five warnings do not
    concern pixels and do not count: zeros between the pixels and the end marker, stray bytes
    between the segments before the pixels, an unknown JFIF revision, an unknown Adobe transform,
    and wrong parameters of a sequential scan.

    Pillow, which warns of less, decodes files whose chroma layout simplejpeg does not know, and
    lossless gray files.

    Returns:
        The first warning or error. None without any.
    """
    complaint = _complaint(data, jpeg)
    causes: set[str] = set()
    # The first warning hides later ones: decode again without its harmless cause.
    while complaint is not None and len(causes) < 2:
        padding = _padding(data, jpeg, complaint)
        cause = "padding" if padding else "header"
        if cause in causes or not (padding or _HARMLESS.search(complaint)):
            break
        data = _without_padding(data, jpeg, padding) if padding else _with_plain_header(data, jpeg)
        jpeg = Jpeg.of(data)
        causes.add(cause)
        complaint = _complaint(data, jpeg)
    return complaint


def _complaint(data: bytes, jpeg: Jpeg) -> str | None:
    try:
        # A lossless frame cannot be decoded smaller.
        simplejpeg.decode_jpeg(data, strict=True, **({} if jpeg.frame == 3 else _SHRUNK))
        return None
    except ValueError as error:
        if not _UNKNOWN.search(str(error)):
            return str(error)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
        # Pillow reads no further than it needs.
        return "Premature end of JPEG file" if jpeg.end is None else None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a broken file
        return "broken header" if "cannot identify" in str(error) else message_of(error)


def _padding(data: bytes, jpeg: Jpeg, complaint: str) -> int:
    """Return the number of zeros before the end marker, if the complaint may be about them.

    Zeros that stand for blanked pixels, and other bytes beside them, bring a complaint again once
    the zeros are removed.
    """
    if jpeg.end is None or not _LEFT_OVER.search(complaint):
        return 0
    body = data[: jpeg.end - 2]
    return len(body) - len(body.rstrip(b"\0"))


def _without_padding(data: bytes, jpeg: Jpeg, padding: int) -> bytes:
    end = jpeg.end or len(data)
    return data[: end - 2 - padding] + data[end - 2 :]


def _with_plain_header(data: bytes, jpeg: Jpeg) -> bytes:
    """Return the file without application segments and stray bytes before its pixels.

    Parameters of the scan are corrected.
    """
    scan = jpeg.scan or len(data)
    header, at = bytearray(b"\xff\xd8"), 2
    while at < scan and (match := _NEXT_MARKER.search(data, at, scan)) is not None:
        marker, at = data[match.start() + 1], match.end()
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if not 0xE0 <= marker <= 0xEF:
            header += bytes([0xFF, marker]) + data[at : at + length]
        at += length
    if jpeg.frame in (0, 1, 9):
        header[-3:] = b"\0\x3f\0"
    return bytes(header) + data[scan:]


def message_of(error: Exception) -> str:
    """Return the message of an error, or its class name where the message is empty."""
    return str(error) or type(error).__name__
