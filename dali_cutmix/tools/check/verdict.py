"""Tell from the bytes of one image file whether the file is good, or bad and how."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from dali_cutmix.tools.check.jpeg import Jpeg, decode_strictly, message_of

#: Kinds of bad files, in the order in which a report lists them.
BAD_KINDS = (
    "unreadable",
    "empty",
    "too large",
    "no image",
    "unsupported",
    "cut short",
    "damaged",
)


class Verdict(NamedTuple):
    """Say why a file is bad.

    Attributes:
        kind: One of `BAD_KINDS`.
        reason: Message of a decoder or of the system.
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class Look:
    """Hold the result of a strict decode.

    Attributes:
        size: ``(height, width)`` in pixels by the header. None where the header does not say.
        complaint: First warning or error of the strict decoder. None without any.
    """

    size: tuple[int, int] | None
    complaint: str | None


def look(encoded: np.ndarray) -> Look:
    """Decode a JPEG, PNG or WebP strictly: JPEGs by libjpeg-turbo, the others by Pillow.

    A file that Pillow does not know gets no complaint. DALI judges such files.

    Args:
        encoded: Bytes of the file: ``[size]`` uint8, at least 1.
    """
    data = encoded.tobytes()
    if data.startswith(b"\xff\xd8"):
        jpeg = Jpeg.of(data)
        return Look(jpeg.size, decode_strictly(data, jpeg))
    size: tuple[int, int] | None = None
    complaint: str | None = None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            size = image.height, image.width
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a broken file
        complaint = message_of(error) if size is not None else None
    return Look(size, complaint)


def verdict_of(encoded: np.ndarray, complaint: str | None, refusal: str | None) -> Verdict:
    """Return kind and reason of a bad JPEG, PNG or WebP that could be read.

    The kind of a JPEG, known by its first two bytes, is the first of these that holds:

    ============== ===========================================================================
    *unsupported*  The frame header names a coding or a depth that DALI does not decode.
    *cut short*    No end marker follows the pixels.
    *unsupported*  The strict decoder has no complaint.
    *damaged*      All else.
    ============== ===========================================================================

    The kind of any other file is the first of these that holds:

    ============== ===========================================================================
    *cut short*    The last chunk is missing (PNG), the file is shorter than its header says
                   (WebP), or Pillow calls the file truncated.
    *unsupported*  Pillow loads the file.
    *damaged*      All else.
    ============== ===========================================================================

    Args:
        encoded: Bytes of the file: ``[size]`` uint8, at least 1.
        complaint: Complaint of the strict decoder; see `Look`.
        refusal: Reason of DALI's refusal. None if DALI decoded the file.
    """
    data = encoded.tobytes()
    reason = complaint or refusal or ""
    if refusal is None:
        reason += "; DALI decodes it without a word"
    if data.startswith(b"\xff\xd8"):
        jpeg = Jpeg.of(data)
        if not jpeg.is_supported:
            return Verdict("unsupported", reason)
        if jpeg.is_cut_short(data):
            return Verdict("cut short", reason)
        return Verdict("unsupported" if complaint is None else "damaged", reason)
    is_short = "truncated" in reason.lower()
    if data.startswith(b"RIFF"):
        is_short |= int.from_bytes(data[4:8], "little") + 8 > len(data)
    else:
        is_short |= b"IEND" not in data[-64:]
    if is_short:
        return Verdict("cut short", reason)
    return Verdict("unsupported" if complaint is None and _verifies(data) else "damaged", reason)


def _verifies(data: bytes) -> bool:
    """Return whether Pillow opens a PNG or WebP, and finds no wrong checksum."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            image.verify()
    except Exception:  # Pillow raises nearly anything on a broken file
        return False
    return True
