"""What one image file is, by its bytes: sound, odd but fine, or bad and how."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath

import numpy as np
from PIL import Image

from dali_cutmix.tools.jpeg import Jpeg, decode_strictly, said

#: Kinds of bad files, in the order in which they are told.
BAD_KINDS = (
    "unreadable",
    "empty",
    "too large",
    "no image",
    "unsupported",
    "cut short",
    "damaged",
)

#: Kinds of files that are odd but load as they should, in the order in which they are told.
ODD_KINDS = (
    "CMYK",
    "turned by EXIF",
    "progressive",
    "arithmetic coding",
    "format differs from name",
    "trailing bytes",
    "unusual header",
)

_DECODED = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")  # by DALI, on the CPU
_STARTS = {
    re.compile(rb"\x89PNG"): "PNG",
    re.compile(rb"RIFF....WEBP", re.DOTALL): "WEBP",
    re.compile(rb"II\*\0|MM\0\*"): "TIFF",
    re.compile(rb"GIF8"): "GIF",
    re.compile(rb"....ftyp(hei|mif1|msf1)", re.DOTALL): "HEIF",
    re.compile(rb"....ftypavi", re.DOTALL): "AVIF",
    re.compile(rb"....JXL |\xff\x0a", re.DOTALL): "JPEG XL",
}


@dataclass(frozen=True)
class Look:
    """What a look at one file gave.

    Attributes:
        size: ``(height, width)`` in pixels as the header says; None where it does not.
        complaint: What the strict decoder has against it; None when nothing.
        odd: Which of `ODD_KINDS` it is.
    """

    size: tuple[int, int] | None
    complaint: str | None
    odd: tuple[str, ...]


def look(encoded: np.ndarray, path: str) -> Look:
    """Decode an image file strictly, and say what is odd about it.

    A JPEG is decoded by libjpeg-turbo, every other format by Pillow. What Pillow does not know
    is left for DALI to judge.

    Args:
        encoded: Bytes of the file: ``[size]`` uint8, at least 1.
        path: Its name, for the format that its ending promises.
    """
    data = encoded.tobytes()
    if data.startswith(b"\xff\xd8"):
        jpeg = Jpeg.of(data)
        against, harmless = decode_strictly(data, jpeg)
        facts = {
            "CMYK": jpeg.num_channels == 4,
            "turned by EXIF": b"Exif\0" in data[: jpeg.scan] and _is_turned(data),
            "progressive": jpeg.frame in (2, 10),
            "arithmetic coding": jpeg.frame in (9, 10),
            "format differs from name": _promised(path) not in (None, "JPEG", "MPO"),
            "trailing bytes": jpeg.end not in (None, len(data)) or "trailing bytes" in harmless,
            "unusual header": "unusual header" in harmless,
        }
        return Look(jpeg.size, against, tuple(kind for kind in facts if facts[kind]))
    size: tuple[int, int] | None = None
    complaint: str | None = None
    odd: tuple[str, ...] = ()
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.height, image.width
            facts = {
                "turned by EXIF": image.getexif().get(0x0112, 1) in range(2, 9),
                "format differs from name": _promised(path) not in (None, image.format),
            }
            odd = tuple(kind for kind in facts if facts[kind])
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a broken file
        complaint = said(error) if size is not None else None
    return Look(size, complaint, odd)


def why_bad(encoded: np.ndarray, complaint: str | None, refusal: str | None) -> tuple[str, str]:
    """Kind and reason of a bad file that could be read and is not empty.

    The kind follows from facts. A JPEG, known by its first two bytes, is *unsupported* if its
    frame header names a kind of coding or a depth that DALI does not decode, *cut short* if no end
    marker follows its pixels, else *damaged*. Of other files, those that neither Pillow opens nor
    the first bytes tell are *no image*; those of a format that DALI does not decode are
    *unsupported*. What is left is *cut short* if its last chunk is missing (PNG), if it is shorter
    than it says (WebP) or if Pillow finds it truncated; *damaged* if Pillow complains of anything
    else; and *unsupported* if Pillow loads it.

    Args:
        encoded: Bytes of the file: ``[size]`` uint8, at least 1.
        complaint: Of the strict decoder; see `Look`.
        refusal: What DALI said; None if it took the file.
    """
    data = encoded.tobytes()
    reason = complaint or refusal or ""
    if refusal is None:
        reason += "; DALI decodes it without a word"
    if data.startswith(b"\xff\xd8"):
        jpeg = Jpeg.of(data)
        if not jpeg.is_supported:
            return "unsupported", reason
        if jpeg.is_cut_short(data):
            return "cut short", reason
        return "unsupported" if complaint is None else "damaged", reason
    format_, opens = _format_of(data)
    if format_ is None:
        start = data.find(b"\xff\xd8\xff")
        return "no image", reason + (f"; a JPEG starts at byte {start}" if start > 0 else "")
    if format_ not in _DECODED:
        return "unsupported", f"{format_} is not decoded by DALI"
    is_short = "truncated" in reason.lower()
    if format_ == "PNG":
        is_short |= b"IEND" not in data[-64:]
    elif format_ == "WEBP":
        is_short |= int.from_bytes(data[4:8], "little") + 8 > len(data)
    if is_short:
        return "cut short", reason
    sound = opens and complaint is None and not (format_ == "PNG" and _has_wrong_checksum(data))
    return "unsupported" if sound else "damaged", reason


def _format_of(data: bytes) -> tuple[str | None, bool]:
    """Format by Pillow's opinion, and if it opens the file; or else by the first bytes."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format, True
    except Exception:  # Pillow raises nearly anything on a broken header
        return next((kind for start, kind in _STARTS.items() if start.match(data)), None), False


def _has_wrong_checksum(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except Exception:
        return True
    return False


def _is_turned(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:
        return False


def _promised(path: str) -> str | None:
    """Pillow's name of the format that the ending of a name stands for."""
    return _formats().get(PurePath(path).suffix.lower())


@cache
def _formats() -> dict[str, str]:
    return Image.registered_extensions()
