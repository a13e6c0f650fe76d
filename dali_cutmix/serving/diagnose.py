"""`diagnose`: which files of a failed batch cannot be decoded, and why; DALI seldom names them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dali_cutmix.annotations.masks import Masks
from dali_cutmix.core.dali import DataNode, Pipeline, fn, shut_down
from dali_cutmix.core.reading import AwayError, patiently, why_unreadable
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.serving.batches import Batches
from dali_cutmix.serving.graph import Graph
from dali_cutmix.sources.base import WHERE, StoredImages, read_patiently
from dali_cutmix.sources.decoders import Decodable, decoder_of_bytes
from dali_cutmix.sources.sizes import header_size
from dali_cutmix.sources.upright import RefusedError, too_large
from dali_cutmix.transforms import decode

#: DALI's words for a file alone in its batch. The number says nothing, and no message shows it.
_UNDECODED = "Failed to decode sample #0"

#: DALI's words for a file that cannot be decoded, and their meaning. The numbers are a status of
#: nvImageCodec. Of 17, "unsupported", it speaks where the chunks of a PNG or WebP end too early:
#: what it does not support is sorted out before, by `Decodable`.
_MEANINGS = {
    "nvImageCodec failure: '#3'": "damaged or cut short",
    "nvImageCodec failure: '#4'": "not an image, or an unsupported format",
    "nvImageCodec failure: '#17'": "damaged or cut short",
    _UNDECODED: "damaged or cut short",
}

#: DALI's and nvImageCodec's words for memory that cannot be had, for a file that could be read and
#: cannot be opened, and for one that is written while it is read.
_TROUBLE = (
    "bad_alloc",
    "nvImageCodec failure: '#5'",
    "Could not open file",
    "read_nbytes == file_size",
)


class Diagnosis(NamedTuple):
    """Findings about the images of a batch, by index.

    Attributes:
        bad: Images that cannot be read or decoded, and why.
        trailing: Good JPEGs with something behind their end marker, so that they look truncated.
    """

    bad: dict[int, str]
    trailing: set[int]


def diagnose(
    images: StoredImages,
    indices: Iterable[int],
    decodable: Decodable,
    *,
    num_threads: int,
    max_pixels: int | None = None,
    device_id: int | None = None,
) -> Diagnosis:
    """Find which of these images cannot be read or decoded.

    Args:
        images: The data.
        indices: Indices of the images to look at.
        decodable: The same images; decodes what DALI does not.
        num_threads: CPU threads to decode on.
        max_pixels: Largest image taken, in pixels, as its header says; None takes all.
        device_id: The GPU to decode on; None is the CPU.

    Raises:
        TroubleError: The machine or the storage is in trouble, so that an image cannot be read.
        OSError: The machine is in trouble, so that nothing can be said of the images.
    """
    if images.kind == "pixels":
        return Diagnosis({}, set())
    bad: dict[int, str] = {}
    readable: dict[int, np.ndarray] = {}
    for index in dict.fromkeys(map(int, indices)):
        try:
            encoded = read_patiently(images, index, WHERE)
        except OSError as error:
            bad[index] = why_unreadable(error)
            continue
        reason = why_refused(encoded, max_pixels)
        if reason:
            bad[index] = reason
        elif decoder_of_bytes(encoded) == "dali":
            readable[index] = encoded
        else:
            try:
                decodable.decode(encoded)
            except RefusedError as error:
                bad[index] = error.reason
    undecodable = find_undecodable(
        list(readable.values()),
        num_threads=num_threads,
        device_id=device_id,
        max_pixels=max_pixels,
    )
    order = list(readable)
    bad |= {order[position]: reason for position, reason in undecodable.items()}
    if bad:
        check_descriptors()
    trailing = {
        index for index, data in readable.items() if index not in bad and _looks_truncated(data)
    }
    return Diagnosis(bad, trailing)


def diagnose_sizes(
    files: StoredImages, parts: Sequence[int], decodable: Decodable, depth: int
) -> dict[int, str]:
    """Find which frames have another size than the first frame of their clip.

    Args:
        files: The frames of all clips.
        parts: Indices of good frames, clip by clip.
        decodable: The same frames.
        depth: Frames of a clip.

    Returns:
        Reason by index of the frame.

    Raises:
        TroubleError: The machine or the storage is in trouble.
    """
    bad: dict[int, str] = {}
    peek = _Alone(decode.shape, None)
    sizes: dict[int, tuple[int, ...]] = {}
    for position, index in enumerate(parts):
        if index not in sizes:
            sizes[index] = _size_of_image(files, index, decodable, peek)
        first = sizes[parts[position - position % depth]]
        if sizes[index] != first:
            own = "{} x {} pixels".format(*sizes[index])
            bad[index] = f"{own}, and the first frame of the clip has {first[0]} x {first[1]}"
    peek.close()
    return bad


def diagnose_masks(
    images: StoredImages, masks: Sequence[Masks], indices: Iterable[int], decodable: Decodable
) -> dict[int, str]:
    """Find which masks cannot be read or decoded, or are of another size than their images.

    Args:
        images: The data.
        masks: The masks of the data.
        indices: Indices of good images.
        decodable: The same images; decodes what DALI does not.

    Returns:
        Reason by index of the image, with the mask's path.

    Raises:
        TroubleError: The machine or the storage is in trouble.
        OSError: The machine is in trouble, so that nothing can be said of the masks.
    """
    bad: dict[int, str] = {}
    peek, decode_all = (
        _Alone(decode.shape, None),
        _Alone(lambda node: decode.whole(node, "cpu"), None),
    )
    for index in dict.fromkeys(map(int, indices)):
        size = _size_of_image(images, index, decodable, peek)
        for each in masks:
            reason = _fault_of_mask(each, index, size, peek, decode_all)
            if reason is not None:
                bad.setdefault(index, f"its mask {each.path(index)}: {reason}")
    peek.close()
    decode_all.close()
    if bad:
        check_descriptors()
    return bad


def _size_of_image(
    images: StoredImages, index: int, decodable: Decodable, peek: _Alone
) -> tuple[int, ...]:
    """Return ``(height, width)`` in pixels of a good image, upright."""
    if images.kind == "pixels":
        return images.stored(index).shape[:2]
    encoded = read_patiently(images, index, WHERE)
    if decoder_of_bytes(encoded) != "dali":
        encoded = decodable.decode(encoded).ppm
    return tuple(peek(encoded).as_array()[0][:2].tolist())


def _fault_of_mask(
    masks: Masks, index: int, size: tuple[int, ...], peek: _Alone, decode_all: _Alone
) -> str | None:
    """Return what is wrong with the mask of an image of a size; None where nothing is."""
    try:
        reason = patiently(lambda: masks.fault(index), WHERE, f"reading {masks.path(index)}")
        stored = masks.stored(index)
    except OSError as error:
        if isinstance(error, AwayError):
            raise
        return why_unreadable(error)
    if reason is not None:
        return reason
    try:
        is_encoded = masks.kind == "encoded"
        shape = peek(stored).as_array()[0].tolist() if is_encoded else stored.shape
        if tuple(shape[:2]) != size:
            mask_size, image_size = (" x ".join(map(str, sides)) for sides in (shape[:2], size))
            return f"{mask_size} pixels, and its image has {image_size}"
        if is_encoded:
            decode_all(stored)
    except RuntimeError as error:
        return _reason_against_file(error)
    return None


def check_descriptors() -> None:
    """Raise an ``OSError`` without descriptors to spare: decoders may need some, and not say so."""
    os.close(os.open(os.devnull, os.O_RDONLY))


def find_failing(batches: Batches, number: int, *, decodes_in_part: bool) -> dict[int, str]:
    """Find which images of a batch stop the loader's own graph, one image at a time.

    A file may decode, and fail later in the graph: DALI 2.4.0 cuts no window out of images of more
    than some 40,000 rows or columns.

    Args:
        batches: The batches, without a mix: an image alone has no partner. In the epoch of the
            batch.
        number: Number of the batch.
        decodes_in_part: See `Graph`.

    Returns:
        Reason by index.

    Raises:
        OSError: The machine is in trouble, so that nothing can be said of the images.
    """
    fed, batch = batches.draw(number)
    if any(not stored.size for stored in fed[0]):  # though each could be read by `diagnose`
        raise AwayError("files of the batch cannot be read")
    bad: dict[int, str] = {}
    graph: Graph | None = None
    for position, index in enumerate(batch.indices):
        if graph is None:
            graph = Graph(batches, 1, 1, decodes_in_part=decodes_in_part)
        try:
            graph.run(batches.alone(fed, position))
            graph.images()
        except RuntimeError as error:  # the graph runs no batch after an error
            bad[index] = _reason_against_file(error)
            graph.close()
            graph = None
    if graph is not None:
        graph.close()
    if bad:
        check_descriptors()
    return bad


def _reason_against_file(error: RuntimeError) -> str:
    """Return why DALI refuses a file that could be read; raise `AwayError` where it is trouble."""
    reason = reason_of(error)
    if is_trouble(error):
        raise AwayError(reason) from error
    return reason


def is_trouble(error: RuntimeError) -> bool:
    """Return whether DALI's error is trouble of the machine or the storage."""
    return any(words in str(error) for words in _TROUBLE)


def _looks_truncated(encoded: np.ndarray) -> bool:
    return encoded[:2].tobytes() == b"\xff\xd8" and encoded[-2:].tobytes() != b"\xff\xd9"


def why_refused(encoded: np.ndarray, max_pixels: int | None) -> str | None:
    """Return why an image file is refused before decoding; None where nothing speaks against it.

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
    return too_large(*size, max_pixels)


def find_undecodable(
    encoded: Sequence[np.ndarray],
    *,
    num_threads: int,
    device_id: int | None = None,
    max_pixels: int | None = None,
) -> dict[int, str]:
    """Return which image files DALI refuses to decode, and why, by position.

    Each file is decoded alone. A batch that fails does not tell which of its images are at fault,
    and DALI 2.4.0 ends the process (SIGSEGV) at some broken headers in company.

    Args:
        encoded: Bytes of each file: ``[size]`` uint8, none empty.
        num_threads: Files decoded at a time on the CPU.
        device_id: The GPU to decode on; None is the CPU.
        max_pixels: Largest image taken, in pixels, as DALI reads its header; None takes all.
    """
    workers = min(num_threads, len(encoded)) if device_id is None else 1
    if not workers:
        return {}
    parts = [encoded[first::workers] for first in range(workers)]
    with ThreadPool(workers) as pool:
        reasons = pool.map(lambda part: _refusals(part, device_id, max_pixels), parts)
    return {
        first + workers * position: reason
        for first, part_reasons in enumerate(reasons)
        for position, reason in enumerate(part_reasons)
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
            if height <= 0 or width <= 0:  # DALI reads widths of PNGs as signed
                return f"broken header: {height} x {width} pixels"
            if max_pixels is not None and height * width > max_pixels:
                return too_large(height, width, max_pixels)
            whole(data)
        except RuntimeError as error:
            return _reason_against_file(error)
        return None

    reasons = [refusal(data) for data in encoded]
    peek.close()
    whole.close()
    return reasons


class _Alone:
    """Apply an operator to one file at a time, in a graph that is built anew after an error."""

    def __init__(self, operator: Callable[[DataNode], DataNode], device_id: int | None) -> None:
        self._operator = operator
        self._device_id = device_id
        self._pipeline: Pipeline | None = None

    def __call__(self, data: np.ndarray) -> Any:
        if self._pipeline is None:
            self._pipeline = self._build()
        try:
            return self._pipeline.run(encoded=[data])[0]
        except RuntimeError:
            self.close()
            raise

    def _build(self) -> Pipeline:
        pipeline = Pipeline(1, 1, self._device_id, prefetch_queue_depth=1)
        with pipeline:
            pipeline.set_outputs(self._operator(fn.external_source(name="encoded")))
        try:
            pipeline.build()
        except RuntimeError as error:  # the machine's fault, since no file was seen
            raise AwayError(reason_of(error)) from error
        return pipeline

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            shut_down(pipeline)


def reason_of(error: RuntimeError) -> str:
    """Return the line of DALI's message that says what happened, in words."""
    text = str(error).split("encountered:", 1)[-1]
    lines = (re.sub(r"^\[[^]]*\]\s*", "", line).strip() for line in text.splitlines())
    telling = [
        line
        for line in lines
        if line and not line.startswith(("Critical error", "C++ context", "Current pipeline"))
    ]
    line = (telling[0] if telling else str(error)).rstrip(" :")
    if line == _UNDECODED:
        return _MEANINGS[line]
    return f"{_MEANINGS[line]} ({line})" if line in _MEANINGS else line
