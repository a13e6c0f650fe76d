"""Synthetic images of many kinds of content, on which a user's function has to show what it does.

A function may depend on content: autocontrast leaves an image of all levels as it is, and a crop of
black borders an image without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dali_cutmix.from_torch.crops import Size


def pattern(size: Size) -> np.ndarray:
    """Return an RGB image without two equal pixels nearby: ``[height, width, 3]`` uint8."""
    levels = np.arange(size[0] * size[1] * 3, dtype=np.uint32) * 97 % 256
    return levels.astype(np.uint8).reshape(*size, 3)


def noise(size: Size, number: int = 0) -> np.ndarray:
    """Return an RGB image without two equal parts: ``[height, width, 3]`` uint8.

    Args:
        size: ``(height, width)`` in pixels.
        number: Another one makes another image.
    """
    mixed = (np.arange(size[0] * size[1] * 3, dtype=np.uint32) + number) * np.uint32(2654435761)
    return (mixed >> 24).astype(np.uint8).reshape(*size, 3)


def contents(size: Size) -> Iterator[np.ndarray]:
    """Yield an RGB image of each kind: ``[height, width, 3]`` uint8."""
    for kind in KINDS:
        yield kind(noise(size))


def _gradient(pixels: np.ndarray) -> np.ndarray:
    height, width, _ = pixels.shape
    rows, columns = np.linspace(0, 100, height), np.linspace(20, 130, width)
    return (rows[:, None, None] + columns[:, None] + np.array([0, 10, 20])).astype(np.uint8)


def _framed(pixels: np.ndarray, level: int) -> np.ndarray:
    """Return pixels with a border of one level, a quarter of each side wide."""
    framed = np.full_like(pixels, level)
    top, left = pixels.shape[0] // 4, pixels.shape[1] // 4
    window = np.s_[top : pixels.shape[0] - top, left : pixels.shape[1] - left]
    framed[window] = pixels[window] // 2 + 64
    return framed


#: Each makes pixels of a kind of noise.
KINDS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda pixels: pixels,
    np.zeros_like,  # black
    lambda pixels: np.full_like(pixels, 255),  # white
    lambda pixels: pixels // 8,  # dark
    lambda pixels: 255 - pixels // 8,  # bright
    lambda pixels: pixels // 2,
    lambda pixels: 255 - pixels // 2,
    lambda pixels: pixels // 8 + 112,  # of low contrast
    lambda pixels: pixels[..., :1].repeat(3, axis=2),  # gray
    _gradient,
    lambda pixels: _framed(pixels, 0),
    lambda pixels: _framed(pixels, 255),
    lambda pixels: pixels // 64 * 64,  # of four levels
    lambda pixels: pixels // 128 * 255,  # of two levels
    lambda pixels: pixels // np.array([1, 2, 4], np.uint8),  # red
    lambda pixels: pixels // np.array([4, 2, 1], np.uint8),  # blue
)
