"""`VideoReader`: the frames of clips out of video files, exact, from the key frame before."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from importlib import import_module
from typing import Any

import numpy as np

from dali_cutmix.core.reading import open_regular
from dali_cutmix.sources.video_files import (
    Converter,
    check_frame,
    damaged,
    errors_of_the_file,
    opened,
)
from dali_cutmix.sources.video_times import FrameTimes, decoded_times, packet_times

#: Frames. So many are decoded in vain before the next key frame is looked for: looking costs too.
_MOST_PASSED = 16

#: Key frames before the due one to which the file is wound, one try after another: containers such
#: as MPEG-TS wind to where a key frame is already past. None decodes from the first frame on.
_TRIES = (0, 1, None)

#: Frames whose times are kept: 16 bytes each.
_MOST_KEPT = 2**22

#: Returns the numbers of the frames of a clip, ``[T]`` int64, in any order.
Choose = Callable[[FrameTimes], np.ndarray]


class VideoReader:
    """Decode clips of video files. Thread-safe; a copy and a fork read on.

    The times of the frames of files that were read are kept, and no file is kept open.

    Args:
        short_side: Most pixels of the short side: larger frames are shrunk. None keeps the size.
    """

    def __init__(self, short_side: int | None = None) -> None:
        self._short_side = short_side
        # Without a lock, which a fork might inherit taken: single operations on a dictionary are
        # safe, and what is read twice is the same.
        self._kept: dict[str, FrameTimes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}

    def read(self, path: str, choose: Choose) -> np.ndarray:
        """Decode frames of a video, each once.

        Args:
            path: The file.
            choose: Called with the times of the frames.

        Returns:
            ``[T, height, width, 3]`` uint8 RGB, upright.

        Raises:
            OSError: The file cannot be read, is damaged, or has no such frames.
        """
        times = self._times(path)
        with errors_of_the_file(path):
            if times.stamps is not None:
                numbers = choose(times)
                for keys_before in _TRIES:
                    # Closed in any case: an error's traceback would keep the file open.
                    with (
                        suppress(_LostError),
                        closing(_at(path, times, numbers, keys_before)) as frames,
                    ):
                        return self._stacked(frames, numbers, path)
            # The packets do not tell which frames there are, as of pairs of fields.
            times = decoded_times(path, times.version)
            numbers = choose(times)
            with closing(_in_order(path, numbers)) as frames:
                return self._stacked(frames, numbers, path)

    def _times(self, path: str) -> FrameTimes:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
        version = status.st_size, status.st_mtime_ns
        times = self._kept.get(path)
        if times is None or times.version != version:
            with errors_of_the_file(path):
                times = packet_times(path, version)
            if sum(len(kept.times) for kept in tuple(self._kept.values())) > _MOST_KEPT:
                self._kept.clear()
            self._kept[path] = times
        return times

    def _stacked(
        self, frames: Iterator[tuple[int, Any]], numbers: np.ndarray, path: str
    ) -> np.ndarray:
        """Return the frames of these numbers as pixels; ``frames`` has each once, ascending."""
        pixels: dict[int, np.ndarray] = {}
        convert = Converter(self._short_side)
        for number, frame in frames:
            pixels[number] = convert(frame)
            first = next(iter(pixels.values()))
            if pixels[number].shape != first.shape:
                sizes = ["{} x {}".format(*image.shape) for image in (pixels[number], first)]
                raise damaged(f"a frame of {sizes[0]} pixels among frames of {sizes[1]}", path)
        return np.stack([pixels[number] for number in numbers.tolist()])


class _LostError(Exception):
    """Say that decoding did not yield the frames that the packets promise."""


def _at(
    path: str, times: FrameTimes, numbers: np.ndarray, keys_before: int | None
) -> Generator[tuple[int, Any], None, None]:
    """Yield the frames of these numbers, each once, ascending; check all frames between.

    Args:
        path: The file.
        times: Its times, with stamps.
        numbers: ``[n]`` int64.
        keys_before: See `_TRIES`.

    Raises:
        _LostError: Other frames come than the packets promise.
    """
    stamps = times.stamps
    assert stamps is not None
    seeks = keys_before is not None
    keys = times.keys if seeks else times.keys[:0]
    with opened(path) as (container, stream):
        decoded: Iterator[Any] = container.decode(stream)
        due = 0  # number of the frame that comes next
        for number in np.unique(numbers).tolist():
            before = keys[: np.searchsorted(keys, number, "right")]
            if len(before) and before[-1] > due and number - due > _MOST_PASSED:
                due = int(before[-1])
                wound_to = before[max(0, len(before) - 1 - (keys_before or 0))]
                container.seek(int(stamps[wound_to]), stream=stream)
                decoded = container.decode(stream)
            while due <= number:
                frame = _next(decoded, path, seeks=seeks)
                if seeks and frame.pts < stamps[due]:  # decoding began before the key frame
                    continue
                if frame.pts != stamps[due]:
                    raise _LostError
                due += 1
            yield number, frame


def _next(decoded: Iterator[Any], path: str, *, seeks: bool) -> Any:
    """Return the next frame. Behind a seek a fault may be one of the seek."""
    try:
        frame = next(decoded, None)
    except import_module("av").error.InvalidDataError:
        if not seeks:
            raise
        raise _LostError from None
    if frame is None or frame.pts is None or (seeks and frame.is_corrupt):
        raise _LostError
    check_frame(frame, path)
    return frame


def _in_order(path: str, numbers: np.ndarray) -> Generator[tuple[int, Any], None, None]:
    """Yield the frames of these numbers, each once, ascending; decode from the first frame on."""
    wanted = set(numbers.tolist())
    with opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            check_frame(frame, path)
            if number in wanted:
                yield number, frame
            if number >= max(wanted):
                return
    raise damaged("the file was changed while it was read", path)
