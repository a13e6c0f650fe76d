"""Video files whose frames have gray levels of their own, made by PyAV, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

av: Any = pytest.importorskip("av")

SIZE = (24, 40)

#: Gray levels from a frame to the next.
STEP = 8

_OPTIONS = {
    "libx264": {"crf": "10", "preset": "ultrafast", "bf": "2"},
    "libx265": {"x265-params": "log-level=none:crf=10", "preset": "ultrafast"},
    "libvpx": {"cpu-used": "8", "crf": "6", "b": "1M", "auto-alt-ref": "1"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "crf": "10"},
    "mpeg4": {"qscale": "2"},
}


def write_video(
    path: Path,
    num_frames: int,
    codec: str = "libx264",
    *,
    size: tuple[int, int] = SIZE,
    rate: int = 25,
    stamps_ms: Sequence[int] | None = None,
    gop: int = 6,
    brightness: int = 0,
    rotation: int = 0,
) -> Path:
    """Write a video whose frame ``i`` is gray of the level ``brightness + STEP * i``, but a corner.

    Args:
        path: The file; its ending chooses the container.
        num_frames: Frames.
        codec: Encoder, by FFmpeg's name.
        size: ``(height, width)`` in pixels.
        rate: Frames per second.
        stamps_ms: Time of each frame in milliseconds, where the rate varies.
        gop: Frames from a key frame to the next.
        brightness: Level of the first frame.
        rotation: Degrees counterclockwise by which a player turns the frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if stamps_ms else rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.options = _OPTIONS[codec]
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(gray(number, size, brightness), format="rgb24")
            frame.pts = stamps_ms[number] if stamps_ms else number
            frame.time_base = Fraction(1, 1000 if stamps_ms else rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def remux(video: Path, change: Callable[[int, bytes], list[bytes]]) -> None:
    """Write the packets of a video anew.

    Args:
        video: The file.
        change: Returns the packets to write for a packet and its number. A second one is written
            half a frame after the first.
    """
    source = video.with_name(f"source-{video.name}")
    video.rename(source)
    with av.open(str(source)) as container, av.open(str(video), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            for turn, data in enumerate(change(number, bytes(packet))):
                changed = av.Packet(data)
                stamp = packet.pts + turn * packets[1].pts // 2
                changed.pts = changed.dts = stamp
                changed.time_base, changed.stream = packet.time_base, copy
                changed.is_keyframe = packet.is_keyframe and not turn
                out.mux(changed)
    source.unlink()


def gray(number: int, size: tuple[int, int], brightness: int = 0) -> np.ndarray:
    """Return the pixels of a frame before encoding; the top left corner is white."""
    pixels = np.full((*size, 3), (brightness + STEP * number) % 256, np.uint8)
    pixels[: size[0] // 3, : size[1] // 4] = 255
    return pixels


def decoded(path: Path) -> list[np.ndarray]:
    """Return all frames of a video as PyAV decodes them in a row."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_image()) for frame in container.decode(video=0)]


def write_frames(folder: Path, video: Path) -> Path:
    """Write all frames of a video as PNGs."""
    folder.mkdir(parents=True)
    for number, pixels in enumerate(decoded(video)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def frame_numbers(image: torch.Tensor, brightness: int = 0) -> list[list[int]]:
    """Return which frame of its video each frame of unmixed clips shows, by its gray level."""
    levels = image[:, :, :, -6:, -6:].float().mean((1, 3, 4))
    return ((levels - brightness) / STEP).round().long().tolist()
