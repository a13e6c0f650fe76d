"""Clips whose pixels name their clip, frame and place, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dali_cutmix import TrainTransform

SIZE = (12, 20)


def identified_frame(clip: int, frame: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return an image whose channels are clip, frame and place."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = clip, frame, places(size)
    return image


def places(size: tuple[int, int]) -> np.ndarray:
    """Return a byte for each pixel, which neighbours do not share."""
    rows, columns = np.indices(size)
    return ((7 * rows + 3 * columns) % 256).astype(np.uint8)


def write_clip(folder: Path, clip: int, num_frames: int, size: tuple[int, int] = SIZE) -> Path:
    """Write the frames of a clip as PNGs, ``0.png`` first."""
    folder.mkdir(parents=True)
    for frame in range(num_frames):
        Image.fromarray(identified_frame(clip, frame, size)).save(folder / f"{frame}.png")
    return folder


def write_clips(root: Path, lengths: list[int], size: tuple[int, int] = SIZE) -> list[Path]:
    """Write a clip of each length."""
    return [
        write_clip(root / f"clip{clip}", clip, length, size) for clip, length in enumerate(lengths)
    ]


def unchanged(size: tuple[int, int] = SIZE) -> TrainTransform:
    """Return a transform that leaves frames as they are."""
    return TrainTransform(size, pad=0, resize=size, flip=0, mean=(0, 0, 0), std=(1, 1, 1))


def frames_shown(image: torch.Tensor) -> list[list[int]]:
    """Return the number of the frame that each frame of unmixed clips shows."""
    return [[int(frame) for frame in clip[1, :, 0, 0]] for clip in image]
