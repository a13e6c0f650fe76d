"""Why a file cannot be decoded, in words: the graph's own errors seldom name the file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dali_cutmix.core.dali import DataNode, Pipeline, fn, shut_down
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.transforms import decode

#: What DALI says of a file that it cannot decode, and what that means. The numbers are
#: nvImageCodec's status, of which it prints no more.
_MEANINGS = {
    "nvImageCodec failure: '#3'": "damaged or cut short",
    "nvImageCodec failure: '#4'": "no image, or of a kind that is not supported",
    "nvImageCodec failure: '#17'": "of a kind that is not supported",
    "Failed to decode sample #0": "damaged or cut short",
}


class Diagnosis(NamedTuple):
    """What a look at some images gave, by index.

    Attributes:
        bad: Those that cannot be read or decoded, and why.
        trailing: Good JPEGs with something behind their end marker, so that they look cut short.
    """

    bad: dict[int, str]
    trailing: set[int]


def diagnose(
    images: StoredImages,
    indices: Iterable[int],
    *,
    num_threads: int,
    max_pixels: int | None = None,
    device_id: int | None = None,
) -> Diagnosis:
    """Find which of these images cannot be read or decoded.

    Args:
        images: The data.
        indices: Which of them.
        num_threads: CPU threads to decode with.
        max_pixels: Largest image taken, in pixels, as its header says; None takes all.
        device_id: The GPU to decode on; None is the CPU.
    """
    if images.kind == "pixels":
        return Diagnosis({}, set())
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
    undecodable = find_undecodable(
        list(found.values()), num_threads=num_threads, device_id=device_id, max_pixels=max_pixels
    )
    numbers = list(found)
    bad |= {numbers[position]: reason for position, reason in undecodable.items()}
    trailing = {index for index, data in found.items() if index not in bad and _looks_cut(data)}
    return Diagnosis(bad, trailing)


def _looks_cut(encoded: np.ndarray) -> bool:
    return encoded[:2].tobytes() == b"\xff\xd8" and encoded[-2:].tobytes() != b"\xff\xd9"


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
    return _too_large(*size, max_pixels)


def _too_large(height: int, width: int, max_pixels: int) -> str:
    return f"{height} x {width} pixels are more than max_pixels={max_pixels}"


def header_size(encoded: np.ndarray) -> tuple[int, int] | None:
    """``(height, width)`` in pixels as the header of an image file says, not turned upright.

    None when it is of no format that DALI decodes, or its header is broken.
    """
    start = encoded[:16].tobytes()
    Image.init()
    for name in decode.FORMATS:
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
    encoded: Sequence[np.ndarray],
    *,
    num_threads: int,
    device_id: int | None = None,
    max_pixels: int | None = None,
) -> dict[int, str]:
    """Which of these image files DALI refuses to decode, and why, by position.

    Each is decoded by itself: a batch that fails does not tell which of its images are at fault,
    and DALI 2.4.0 ends the process (SIGSEGV) at some broken headers when they are not alone.

    Args:
        encoded: Bytes of each file: ``[size]`` uint8, none empty.
        num_threads: Files decoded at a time on the CPU.
        device_id: The GPU to decode on; None is the CPU.
        max_pixels: Largest image taken, in pixels, as DALI reads its header; None takes all.
    """
    workers = min(num_threads, len(encoded)) if device_id is None else 1
    if not workers:
        return {}
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(
            lambda first: _refusals(encoded[first::workers], device_id, max_pixels), range(workers)
        )
        return {
            first + workers * place: reason
            for first, part in enumerate(parts)
            for place, reason in enumerate(part)
            if reason
        }


def _refusals(
    encoded: Sequence[np.ndarray], device_id: int | None, max_pixels: int | None
) -> list[str | None]:
    device = "cpu" if device_id is None else "gpu"
    peek = _Alone(decode.shape, None)
    whole = _Alone(lambda node: decode.whole(node, device), device_id)

    def refusal(data: np.ndarray) -> str | None:
        try:
            height, width, _ = peek(data).as_array()[0].tolist()
            if max_pixels is not None and height * width > max_pixels:
                return _too_large(height, width, max_pixels)
            whole(data)
        except RuntimeError as error:
            return reason_of(error)
        return None

    found = [refusal(data) for data in encoded]
    peek.close()
    whole.close()
    return found


class _Alone:
    """An operator applied to one file at a time, in a graph that is made anew after an error."""

    def __init__(self, operator: Callable[[DataNode], DataNode], device_id: int | None) -> None:
        self._operator = operator
        self._device_id = device_id
        self._data = np.zeros(0, np.uint8)
        self._pipeline: Pipeline | None = None

    def __call__(self, data: np.ndarray) -> Any:
        self._data = data
        if self._pipeline is None:
            self._pipeline = Pipeline(1, 1, self._device_id, prefetch_queue_depth=1)
            with self._pipeline:
                node = fn.external_source(source=lambda _: [self._data], batch=True)
                self._pipeline.set_outputs(self._operator(node))
        try:
            return self._pipeline.run()[0]
        except RuntimeError:
            self.close()
            raise

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            shut_down(pipeline)


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
