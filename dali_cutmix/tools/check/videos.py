"""What ``dali-cutmix check --clips`` finds of video files, each decoded from end to end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dali_cutmix.core.reading import patiently
from dali_cutmix.serving.settings import num_cpus
from dali_cutmix.sources.clips import Clips, Span
from dali_cutmix.sources.video_files import check_frame, errors_of_the_file, opened
from dali_cutmix.sources.video_times import packet_times
from dali_cutmix.tools.check.clips import ClipReport

_WHERE = "check"


@dataclass(frozen=True)
class _Decoded:
    """Say what was in a video file.

    Attributes:
        num_frames: Frames. 0 where the file is bad.
        bad: Why the file is bad, or None.
        odd: Which frames have other sizes, or None.
        short: Why the file is too short, or None.
    """

    num_frames: int = 0
    bad: str | None = None
    odd: str | None = None
    short: str | None = None


def check_videos(
    clips: Clips,
    *,
    num_threads: int | None,
    has_length: bool,
    on_progress: Callable[[int], None] | None = None,
) -> ClipReport:
    """Decode every video file from end to end, and compare its length with that of a sample.

    Args:
        clips: Video files, with ``short="refuse"``.
        num_threads: Videos at a time. None takes the CPUs of this process, at most 8.
        has_length: Whether clips have to be as long as a sample.
        on_progress: Called with the number of clips done.

    Raises:
        TroubleError: The machine or the storage is in trouble.
    """
    decoded: list[_Decoded] = []
    pool = ThreadPoolExecutor(num_threads or num_cpus(), thread_name_prefix="check")
    try:
        for each in pool.map(lambda index: _decoded(clips, index, has_length), range(len(clips))):
            decoded.append(each)
            if on_progress is not None:
                on_progress(len(decoded))
    finally:
        pool.shutdown(cancel_futures=True)

    def reasons(name: str) -> dict[int, str]:
        texts = {index: getattr(each, name) for index, each in enumerate(decoded)}
        return {index: f"{clips.path(index)}: {text}" for index, text in texts.items() if text}

    num_frames = np.array([each.num_frames for each in decoded], np.int64)
    return ClipReport(num_frames, reasons("bad"), reasons("odd"), reasons("short"))


def _decoded(clips: Clips, index: int, has_length: bool) -> _Decoded:
    """Decode a video file."""
    path = clips.path(index)
    try:
        sizes = patiently(lambda: _sizes_of_frames(path), _WHERE, f"decoding {path}")
    except OSError as error:
        return _Decoded(bad=_reason(error))
    num_frames = sum(sizes.values())
    if len(sizes) > 1:
        counts = [f"{count} of {width} x {height}" for (height, width), count in sizes.items()]
        return _Decoded(num_frames, odd=", ".join(counts))
    if has_length:
        try:
            # What a loader reads. The file is whole, so that no reason is left but its length.
            patiently(lambda: clips.stored(Span(index, None)), _WHERE, f"decoding {path}")
        except OSError as error:
            return _Decoded(num_frames, short=_reason(error).removeprefix("too short: "))
    return _Decoded(num_frames)


def _sizes_of_frames(path: str) -> dict[tuple[int, int], int]:
    """Decode a video file from end to end; return the number of frames of each size.

    Returns:
        Frames by their ``(height, width)`` in pixels, as stored.

    Raises:
        OSError: The file cannot be read, or is damaged.
    """
    sizes: dict[tuple[int, int], int] = {}
    with errors_of_the_file(path):
        packet_times(path, (0, 0))  # finds files that are truncated
        with opened(path) as (container, stream):
            for frame in container.decode(stream):
                check_frame(frame, path)
                size = frame.height, frame.width
                sizes[size] = sizes.get(size, 0) + 1
    return sizes


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
