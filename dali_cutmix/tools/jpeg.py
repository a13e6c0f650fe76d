"""JPEG files by their markers, and a decoder that does not pass over what is wrong in them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

# An eighth of the size and in gray: the same stream is read, with the same warnings.
_SHRUNK = {"colorspace": "GRAY", "fastdct": True, "min_height": 1, "min_width": 1, "min_factor": 8}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LEFT_OVER = re.compile(r"extraneous bytes before marker 0xd9")
_HARMLESS = re.compile(r"unknown JFIF revision|Adobe color transform|Invalid SOS parameters")


@dataclass(frozen=True)
class Jpeg:
    """What the markers of a JPEG file say.

    Attributes:
        frame: Number of the frame's kind: 0 baseline, 2 progressive, 9 and 10 the like with
            arithmetic coding; None where the header ends before it, as do the three below.
        precision: Bits per channel.
        size: ``(height, width)`` in pixels, not turned upright.
        num_channels: 1 gray, 3 colour, 4 CMYK.
        scan: Where the pixels of the first scan begin, in bytes; None where none does.
        end: Where the file ends by its end marker, in bytes; None where there is none.
    """

    frame: int | None = None
    precision: int | None = None
    size: tuple[int, int] | None = None
    num_channels: int | None = None
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
            if marker in (0x01, 0xD8):  # these stand alone
                continue
            length = int.from_bytes(data[at : at + 2], "big")
            body = data[at + 2 : at + min(length, 8)]
            at += length
            if at > len(data) or length < 2:
                break
            is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
            if is_frame and not frame and scan is None and len(body) == 6:
                size = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
                frame = {"frame": marker - 0xC0, "precision": body[0]}
                frame |= {"size": size, "num_channels": body[5]}
            elif marker == 0xDA and scan is None:
                scan = at
        return cls(**frame, scan=scan, end=end)

    def is_cut_short(self, data: bytes) -> bool:
        """Whether no end marker follows the pixels; that of a thumbnail in the header is none."""
        if self.scan is None:
            return not data.endswith(b"\xff\xd9")
        return data.find(b"\xff\xd9", self.scan) < 0

    @property
    def is_supported(self) -> bool:
        """Whether DALI decodes frames of this kind on the CPU: no 12 bits, and not hierarchical."""
        return self.frame is None or (self.precision == 8 and self.frame in (0, 1, 2, 3, 9, 10))


def decode_strictly(data: bytes, jpeg: Jpeg) -> tuple[str | None, tuple[str, ...]]:
    """Decode a JPEG file so that each warning of libjpeg-turbo counts.

    DALI and Pillow pass over nearly all of them and deliver wrong pixels. Four do not touch
    pixels: zeros between the pixels and the end marker ("trailing bytes"), and an unknown JFIF
    revision, an unknown Adobe transform or wrong parameters of a sequential scan ("unusual
    header"). Pillow, which warns of less, stands in where simplejpeg does not know the chroma
    layout.

    Returns:
        The first warning or error, None where there is none; and what is odd but harmless.
    """
    complaint = _complaint(data, jpeg)
    odd: tuple[str, ...] = ()
    # The first warning hides those that follow: look again without its cause.
    while complaint is not None and len(odd) < 2:
        padding = _padding(data, jpeg, complaint)
        kind = "trailing bytes" if padding else "unusual header"
        if kind in odd or not (padding or _HARMLESS.search(complaint)):
            break
        data = _without_padding(data, jpeg, padding) if padding else _with_plain_header(data, jpeg)
        jpeg = Jpeg.of(data)
        odd += (kind,)
        complaint = _complaint(data, jpeg)
    return complaint, odd


def _complaint(data: bytes, jpeg: Jpeg) -> str | None:
    try:
        # A lossless frame cannot be decoded smaller.
        simplejpeg.decode_jpeg(data, strict=True, **({} if jpeg.frame == 3 else _SHRUNK))
        return None
    except ValueError as error:
        if "subsampling level" not in str(error):
            return str(error)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
        # Pillow reads no further than it needs.
        return "Premature end of JPEG file" if jpeg.end is None else None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a broken file
        return "broken header" if "cannot identify" in str(error) else said(error)


def _padding(data: bytes, jpeg: Jpeg, complaint: str) -> int:
    """Number of zeros before the end marker, if the complaint may be of them.

    If they stand for blanked pixels, or more than they is left over, the file complains without
    them as well.
    """
    if jpeg.end is None or not _LEFT_OVER.search(complaint):
        return 0
    before = data[: jpeg.end - 2]
    return len(before) - len(before.rstrip(b"\0"))


def _without_padding(data: bytes, jpeg: Jpeg, padding: int) -> bytes:
    end = jpeg.end or len(data)
    return data[: end - 2 - padding] + data[end - 2 :]


def _with_plain_header(data: bytes, jpeg: Jpeg) -> bytes:
    """The same picture without application segments, and the parameters of its scan set right."""
    scan = jpeg.scan or len(data)
    kept, at = bytearray(b"\xff\xd8"), 2
    while at < scan and data[at : at + 1] == b"\xff":
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not 0xE0 <= data[at + 1] <= 0xEF:
            kept += data[at : at + length]
        at += length
    if jpeg.frame in (0, 1, 9):
        kept[-3:] = b"\0\x3f\0"
    return bytes(kept) + data[scan:]


def said(error: Exception) -> str:
    """What an error says, or its name where it says nothing."""
    return str(error) or type(error).__name__
