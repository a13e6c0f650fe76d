"""Video files: opened and converted by PyAV, which is imported with the first of them.

Whatever PyAV says of a file comes out as an ``OSError``, as of any file that cannot be read.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.reading import is_of_machine

#: Endings of video files.
ENDINGS = (
    *(".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ts"),
    *(".mts", ".m2ts", ".3gp", ".ogv"),
)


class Converter:
    """Convert decoded frames to upright RGB.

    Args:
        short_side: As of `VideoReader`.
    """

    def __init__(self, short_side: int | None = None) -> None:
        self._short_side = short_side
        # For all frames: what a frame prepares for itself alone costs more than the conversion.
        self._reformatter = import_module("av.video.reformatter").VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        """Return a frame of PyAV: ``[height, width, 3]`` uint8 RGB, contiguous."""
        settings: dict[str, Any] = {"format": "rgb24", "threads": 1}
        short_side = min(frame.width, frame.height)
        if self._short_side is not None and short_side > self._short_side:
            scale = self._short_side / short_side
            settings["width"] = max(1, round(frame.width * scale))
            settings["height"] = max(1, round(frame.height * scale))
            settings["interpolation"] = "AREA"
        pixels = self._reformatter.reformat(frame, **settings).to_ndarray()
        return np.ascontiguousarray(_upright(pixels, frame))


def import_av(where: str) -> Any:
    """Return the module of PyAV.

    Args:
        where: Name of the caller, for messages.

    Raises:
        ImportError: PyAV is missing.
    """
    return import_extra(where, "av", extra="video")


@contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a video file: the container and its video stream, decoded by one thread.

    Raises:
        ValueError: The file has no video.
        FFmpegError: PyAV's, where the file is not a video.
    """
    # A name with a colon is no protocol, and no playlist leads to a network.
    options = {"protocol_whitelist": "file"}
    with import_module("av").open(f"file:{path}", container_options=options) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ValueError("no video stream")
        stream.codec_context.thread_count = 1  # several videos are decoded at a time
        yield container, stream


def check_frame(frame: Any, path: str) -> None:
    """Refuse a frame that the decoder calls corrupt.

    Raises:
        OSError: The frame is damaged.
    """
    if frame.is_corrupt:
        raise damaged(f"the frame at {frame.time:.3g} s is damaged", path)


def damaged(reason: str, path: str) -> OSError:
    """Return an error that makes the file bad."""
    return OSError(errno.EIO, reason, path)


@contextmanager
def errors_of_the_file(path: str) -> Iterator[None]:
    """Raise what PyAV says of a file as an ``OSError``, and trouble of the machine as it is."""
    try:
        yield
    except (import_module("av").error.FFmpegError, ValueError, IndexError, EOFError) as error:
        if is_of_machine(error) or isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OSError(errno.EIO, f"damaged, or not a video: {reason}", path) from None


def _upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Return a view of a frame as its display matrix turns and mirrors the frame.

    Turns by other angles than multiples of 90 degrees are rounded to the nearest multiple.
    """
    kinds = import_module("av.sidedata.sidedata").Type
    matrix = frame.side_data.get(kinds.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    # A point (x, y) is shown at (a x + c y, b x + d y), in a system whose y points down.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if abs(b) > abs(a):
        pixels, flips = pixels.swapaxes(0, 1), (b < 0, c < 0)
    else:
        flips = d < 0, a < 0
    axes: Sequence[int] = [axis for axis, flip in enumerate(flips) if flip]
    return np.flip(pixels, tuple(axes)) if axes else pixels
