"""Synthetic images of many kinds of content, on which a user's function has to show what it does.

A function may depend on content: autocontrast leaves an image of all levels as it is, and a crop of
black borders an image without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import numpy as np
import torch

from dali_cutmix.from_torch.report import Size


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

#: Kinds of which batches are made: what a collate function may tell apart.
_KINDS_OF_BATCHES = (0, 1, 2, 7, 9, 10, 13)

#: Orders of the labels of four samples.
_ORDERS = ((0, 1, 2, 3), (3, 2, 1, 0), (0, 0, 0, 0), (2, 0, 3, 1), (0, 0, 1, 1), (0, 1, 0, 1))

#: Numbers in a batch of which images have the transform's size, and not (8, 8).
_MAX_NUMBERS = 2**24

#: Labels that batches show at most, spread over the classes.
_MAX_LABELS = 2**14

#: Batches that show all labels, unless the loader's batches are so large that fewer do.
_MAX_BATCHES = 64


def batches(
    size: Size, num_channels: int, classes: Sequence[int], batch_sizes: Sequence[int]
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Yield synthetic batches: images ``[B, channels, height, width]`` uint8, and B labels.

    Labels fall, rise, are equal, unordered, or equal in pairs. Batches of four samples come first,
    and batches that show each class twice last.

    Args:
        size: ``(height, width)`` of an image, in pixels.
        num_channels: 1 or 3.
        classes: The class indices that labels have, rising, at least one.
        batch_sizes: Numbers of samples that the loader's batches have.
    """
    num_classes = len(classes)
    falling = [classes[-1 - number % num_classes] for number in range(4)]
    shape = (4, num_channels, *size)
    levels = torch.arange(torch.Size(shape).numel(), dtype=torch.int32).mul_(97).remainder_(256)
    yield levels.reshape(shape).to(torch.uint8), falling
    # Of some kinds all samples are equal, so that noise shows each order too.
    ordered = [*zip(_KINDS_OF_BATCHES, cycle(_ORDERS)), *((0, order) for order in _ORDERS[1:])]
    for number, (kind, order) in enumerate(ordered):
        images = [KINDS[kind](noise(size, 4 * number + n)) for n in range(4)]
        yield _stacked(images, num_channels), [falling[n] for n in order]
    for num_samples in batch_sizes:
        is_small = num_samples * num_channels * size[0] * size[1] <= _MAX_NUMBERS
        images = [noise(size if is_small else (8, 8), number) for number in range(num_samples)]
        labels = [
            classes[(7 * number + number // 5) % num_classes] for number in range(num_samples)
        ]
        yield _stacked(images, num_channels), labels
    yield from _of_all_classes(num_channels, classes, max(batch_sizes, default=4))


def _of_all_classes(
    num_channels: int, classes: Sequence[int], batch_size: int
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Yield batches in which neighbours have equal labels, then different ones, of all classes."""
    shown = np.asarray(classes)[:: -(-len(classes) // _MAX_LABELS)].repeat(2)
    num_samples = max(batch_size, -(-len(shown) // _MAX_BATCHES))
    num_batches = -(-len(shown) // num_samples)
    images = _stacked([noise((8, 8), number) for number in range(num_samples)], num_channels)
    for labels in np.resize(shown, (num_batches, num_samples)).tolist():
        yield images, labels


def _stacked(images: Sequence[np.ndarray], num_channels: int) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(images)[..., :num_channels])
    return pixels.permute(0, 3, 1, 2).contiguous()
