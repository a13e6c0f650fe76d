"""Why a file cannot be decoded, in words: the graph's own errors seldom name the file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from dali_cutmix import decode
from dali_cutmix._dali import Pipeline, fn
from dali_cutmix.storage.stored import StoredImages

#: What DALI says of a file that it cannot decode, and what that means. The numbers are
#: nvImageCodec's status, of which it prints no more.
_MEANINGS = {
    "nvImageCodec failure: '#3'": "damaged or cut short",
    "nvImageCodec failure: '#4'": "no image, or of a kind that is not supported",
    "nvImageCodec failure: '#17'": "of a kind that is not supported",
    "Failed to decode sample #0": "damaged or cut short",
}

#: DALI 2.4.0 ends the process (SIGSEGV) when a CPU decoder meets a header that it cannot read in a
#: batch of 32 or more.
MAX_BATCH = 31

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000")


def find_bad(
    images: StoredImages,
    indices: Iterable[int],
    *,
    num_threads: int,
    max_pixels: int | None = None,
    device_id: int | None = None,
) -> dict[int, str]:
    """Which of these images cannot be read or decoded, and why.

    Args:
        images: The data.
        indices: Which of them.
        num_threads: CPU threads to decode with.
        max_pixels: Largest image taken, in pixels, as its header says; None takes all.
        device_id: The GPU to decode on; None is the CPU.
    """
    if images.kind == "pixels":
        return {}
    bad: dict[int, str] = {}
    found: dict[int, np.ndarray] = {}
    for index in dict.fromkeys(map(int, indices)):
        try:
            encoded = images.encoded(index)
        except OSError as error:
            bad[index] = error.strerror or str(error)
            continue
        reason = why_refused(encoded, max_pixels)
        if reason:
            bad[index] = reason
        else:
            found[index] = encoded
    kept = list(found)
    undecodable = find_undecodable(
        list(found.values()), num_threads=num_threads, device_id=device_id
    )
    return bad | {kept[position]: reason for position, reason in undecodable.items()}


def why_refused(encoded: np.ndarray, max_pixels: int | None) -> str | None:
    """What can be said against an image file without decoding it; None when nothing can.

    Args:
        encoded: Bytes of the file: ``[size]`` uint8.
        max_pixels: Largest image taken, in pixels; None takes all.
    """
    if not encoded.size:
        return "the file is empty"
    if max_pixels is None:
        return None
    size = header_size(encoded)
    if size is None or size[0] * size[1] <= max_pixels:
        return None
    return f"{size[0]} x {size[1]} pixels are more than max_pixels={max_pixels}"


def header_size(encoded: np.ndarray) -> tuple[int, int] | None:
    """``(height, width)`` in pixels as the header of an image file says, not turned upright.

    None when it is of no format that DALI decodes, or its header is broken.
    """
    start = encoded[:16].tobytes()
    Image.init()
    for name in _FORMATS:
        # Not through Image.open, which refuses large images itself, or warns of them.
        make, is_meant = Image.OPEN[name]
        if is_meant is not None and is_meant(start):
            try:
                with make(io.BytesIO(encoded.tobytes()), "") as image:
                    return image.height, image.width
            except Exception:  # Pillow raises nearly anything on a broken header
                return None
    return None


def find_undecodable(
    encoded: Sequence[np.ndarray], *, num_threads: int, device_id: int | None = None
) -> dict[int, str]:
    """Which of these image files DALI refuses to decode, and why, by position.

    A batch that fails does not tell which of its images are at fault: it is halved until each
    stands alone, which takes about as long as decoding it twice for one bad file.

    Args:
        encoded: Bytes of each file: ``[size]`` uint8, none empty.
        num_threads: CPU threads to decode with.
        device_id: The GPU to decode on; None is the CPU.
    """
    found: dict[int, str] = {}
    for start in range(0, len(encoded), MAX_BATCH):
        part = encoded[start : start + MAX_BATCH]
        for position, reason in _undecodable(part, num_threads, device_id).items():
            found[start + position] = reason
    return found


def _undecodable(
    encoded: Sequence[np.ndarray], num_threads: int, device_id: int | None
) -> dict[int, str]:
    pipeline = Pipeline(
        batch_size=len(encoded),
        num_threads=num_threads,
        device_id=device_id,
        prefetch_queue_depth=1,
    )
    with pipeline:
        node = fn.external_source(source=lambda _: list(encoded), batch=True)
        pipeline.set_outputs(decode.whole(node, "cpu" if device_id is None else "gpu"))
    try:
        pipeline.run()
        return {}
    except RuntimeError as error:
        if len(encoded) == 1:
            return {0: reason_of(error)}
    finally:
        pipeline._shutdown()
    half = len(encoded) // 2
    first, second = (
        _undecodable(part, num_threads, device_id) for part in (encoded[:half], encoded[half:])
    )
    return first | {half + position: reason for position, reason in second.items()}


def reason_of(error: RuntimeError) -> str:
    """The line of DALI's message that says what happened, in words."""
    text = str(error).split("encountered:", 1)[-1]
    lines = (re.sub(r"^\[[^]]*\]\s*", "", line).strip() for line in text.splitlines())
    said = [
        line
        for line in lines
        if line and not line.startswith(("Critical error", "C++ context", "Current pipeline"))
    ]
    line = (said[0] if said else str(error)).rstrip(" :")
    return f"{_MEANINGS[line]} ({line})" if line in _MEANINGS else line
