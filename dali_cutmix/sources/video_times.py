"""When a video shows its frames: by its packets, or by decoding all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dali_cutmix.sources.video_files import check_frame, damaged, opened

#: Seconds by which a frame may be early where times are exact: numbers are rounded.
_EXACT_S = 1e-6

#: Share of its stated duration that a file may lack: the last frame's duration is a guess.
_MISSING_SHARE = 0.02

#: Bit of a VP8 frame's first byte: the frame is shown, and does not merely help to decode others.
_SHOWN = 0x10


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """Say when a video shows its frames, in the order in which they are shown.

    Attributes:
        times: Seconds from the first frame: ``[n]`` float64, ascending, from 0.
        end: Seconds from the first frame to the end of the last, which is taken to be shown as long
            as the frame before.
        tolerance: Seconds by which times may be wrong: containers round them.
        stamps: Times in the file's own units: ``[n]`` int64, ascending. None where only decoding
            from the first frame on tells which frames there are.
        keys: Numbers of the frames at which decoding may start: ``[k]`` int64, ascending.
        version: Size in bytes and time of change in nanoseconds of the file.
    """

    times: np.ndarray
    end: float
    tolerance: float
    stamps: np.ndarray | None
    keys: np.ndarray
    version: tuple[int, int]


def packet_times(path: str, version: tuple[int, int]) -> FrameTimes:
    """Return the times of a video's frames by its packets; nothing is decoded."""
    stamps: list[int | None] = []
    keys: list[int] = []
    ends = [0.0]
    with opened(path) as (container, stream):
        is_vp8 = stream.codec_context.codec.canonical_name == "vp8"
        for packet in container.demux():
            if not packet.size:
                continue
            # In a transport stream also a cut between recordings counts as corrupt.
            if packet.is_corrupt and container.format.name != "mpegts":
                raise damaged("truncated or damaged", path)
            if packet.pts is not None and packet.time_base is not None:
                ends.append(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index or packet.is_discard:
                continue
            if is_vp8 and not bytes(packet)[0] & _SHOWN:
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        time_base, duration = float(stream.time_base), (container.duration or 0) / 1e6
        states_duration = any(name in container.format.name for name in ("matroska", "mov"))
        rate = float(stream.average_rate or 25)
    if not stamps:
        raise damaged("no frames", path)
    if None in stamps or len(set(stamps)) < len(stamps):
        return decoded_times(path, version)
    shown = np.sort(np.array(stamps, np.int64))
    times = (shown - shown[0]) * time_base
    gaps = np.diff(times)
    # Other containers have no duration in their head, or guess the duration from what is there.
    slack = max(_MISSING_SHARE * duration, 2 * float(gaps.max(initial=1 / rate)))
    if states_duration and max(ends) < duration - slack:
        reason = f"truncated: the file ends after {max(ends):.3g} s of {duration:.3g} s"
        raise damaged(reason, path)
    at = np.searchsorted(shown, np.sort(np.array(keys, np.int64)))
    return FrameTimes(times, *_end(times, rate, time_base), shown, at, version)


def decoded_times(path: str, version: tuple[int, int]) -> FrameTimes:
    """Return the times of a video's frames by decoding all of them."""
    times: list[float] = []
    with opened(path) as (container, stream):
        rate = float(stream.average_rate or 25)
        for frame in container.decode(stream):
            check_frame(frame, path)
            now = frame.time if frame.time is not None else (times[-1] + 1 / rate if times else 0)
            times.append(max(float(now), times[-1]) if times else float(now))
        time_base = float(stream.time_base)
    if not times:
        raise damaged("no frames", path)
    array = np.array(times) - times[0]
    none = np.zeros(0, np.int64)
    return FrameTimes(array, *_end(array, rate, time_base), None, none, version)


def _end(times: np.ndarray, rate: float, time_base: float) -> tuple[float, float]:
    """Return when the last of some frames ends, and the tolerance, in seconds."""
    gaps = np.diff(times)
    length = float(gaps[-1]) if len(gaps) else 0.0
    gap = float(np.median(gaps)) if len(gaps) else 1 / rate
    return float(times[-1]) + (length or 1 / rate), tolerance_of(gap, time_base)


def tolerance_of(gap: float, time_base: float) -> float:
    """Return by how many seconds a container may have rounded the times of frames.

    Args:
        gap: Seconds from a frame to the next, usually.
        time_base: Seconds of the container's unit of time.
    """
    # A unit that is nearly a frame, as in AVI files, is the frame's exact duration or a part of it.
    return time_base if gap > 4 * time_base else _EXACT_S
