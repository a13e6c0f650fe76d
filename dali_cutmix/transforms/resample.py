"""Images of any size to one size: bilinear, antialiased, mirrored where asked for.

On a GPU DALI's kernel resizes, from right to left where it mirrors, which costs no pass of its own.

On the CPU torch's kernel for bytes does, called by a Python operator on a few threads: it takes a
fifth of the time of DALI's, which was half of all work there, and its pixels are torchvision's to
the bit. DALI's differ from them by 1 of 255 inside, and by up to some 15 in the outermost ring of
pixels: where the filter reaches beyond the image, torch leaves that part of it out and DALI repeats
the edge.

DALI runs Python operators one at a time in the process: two graphs decode at once, and resize in
turn, each with all of its threads. The GIL is held while DALI copies a resized batch, 150 KB per
image at 224 px.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from math import ceil

import numpy as np
import torch
from torch.nn.functional import interpolate

from dali_cutmix.core.dali import (
    FLOAT,
    FLOAT64,
    DataNode,
    fn,
    math,
    python_image,
    resize,
    take_operator_lock,
)
from dali_cutmix.core.threads import Crew

#: Parts per thread that a batch is cut into: images differ in size, and threads finish together.
PARTS_PER_THREAD = 4

#: Bytes that are mirrored at a time: with 2**15 or more torch starts threads of its own.
MIRRORED_BYTES = 30_000

#: An image that is longer than so many short sides is cut to its middle before `resize_centre`.
LONGEST = 8

#: How long a fork waits for a batch that is being resized.
FORK_PATIENCE_S = 5.0

#: Those on the CPU that are not closed.
_live: weakref.WeakSet[Resampler] = weakref.WeakSet()

OneImage = Callable[[np.ndarray, bool], np.ndarray]


class Resampler:
    """Resizes in one graph.

    Args:
        num_threads: CPU threads to resize with; None resizes on the GPU.
    """

    def __init__(self, num_threads: int | None) -> None:
        self._crew = Crew(num_threads) if num_threads else None
        self._is_used = False
        self._num_due = self._num_done = 0
        if num_threads:
            _live.add(self)

    @property
    def is_on_cpu(self) -> bool:
        """Whether images are resized on the CPU."""
        return self._crew is not None

    def expect(self) -> None:
        """Note that the graph was fed a batch, which will be resized if the graph resizes any."""
        self._num_due += self._is_used

    @property
    def is_busy(self) -> bool:
        """Whether a batch that was fed is still to be resized on the CPU."""
        return self._num_done < self._num_due

    def resize(
        self, image: DataNode, size: tuple[int, int], start: DataNode | None = None
    ) -> DataNode:
        """Resize whole images.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, on the device.
            size: ``(height, width)`` of the result, in pixels.
            start: The corner of the image that the result starts from: ``[2]`` float32 (y, x) per
                sample, CPU. (0, 0), or (0, 1) to mirror left to right. None mirrors none.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, on the device.
        """
        if self.is_on_cpu:
            return self._on_threads(lambda one, turn: _resized(one, size, turn), image, start)
        if start is None:
            return resize(image, size=list(size))
        turn = {"roi_start": start, "roi_end": 1.0 - start, "roi_relative": True}
        return resize(image, size=list(size), **turn)

    def resize_centre(self, image: DataNode, short_side: int, size: tuple[int, int]) -> DataNode:
        """Resize so that the short side has a length, and cut out the centre, on the CPU.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, CPU.
            short_side: Of the resized image, in pixels. The long side is rounded down.
            size: ``(height, width)`` of the centre, in pixels, none above ``short_side``.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, CPU: what torchvision's ``Resize`` and
            ``CenterCrop`` make, bit for bit; within rounding where an image is more than eight
            times as long as wide, of which only the middle is resized.
        """
        return self._on_threads(lambda one, _: _centre(one, short_side, size), image, None)

    def resize_short(self, image: DataNode, short_side: int) -> DataNode:
        """Resize so that the short side has a length. Sizes of images may differ.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, on the device.
            short_side: Of the resized image, in pixels. The long side is rounded down.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, on the device: what torchvision's
            ``Resize`` makes, bit for bit on the CPU.
        """
        if self.is_on_cpu:
            return self._on_threads(lambda one, _: _with_short(one, short_side), image, None)
        shape = fn.cast(image.shape()[:2], dtype=FLOAT64)
        sides = math.floor(short_side * shape / fn.reductions.min(shape))
        return resize(image, size=fn.cast(sides, dtype=FLOAT))

    def close(self) -> None:
        """Stop the threads. To be called when the graph has stopped."""
        _live.discard(self)
        if self._crew is not None:
            self._crew.close()

    def _on_threads(self, function: OneImage, image: DataNode, start: DataNode | None) -> DataNode:
        """Call a function for each image, as many at once as there are threads."""
        crew = self._crew
        assert crew is not None
        self._is_used = True

        def resize_batch(
            images: list[np.ndarray], starts: list[np.ndarray] | None = None
        ) -> list[np.ndarray]:
            none = [False] * len(images)
            mirrored = none if starts is None else [bool(one[1] > 0) for one in starts]
            length = ceil(len(images) / (crew.num_threads * PARTS_PER_THREAD))

            def part(first: int) -> list[np.ndarray]:
                last = first + length
                return list(map(function, images[first:last], mirrored[first:last]))

            try:
                return [
                    one for done in crew.map(part, range(0, len(images), length)) for one in done
                ]
            finally:
                self._num_done += 1

        return python_image(resize_batch, *([image] if start is None else [image, start]))


def _wait_until_idle() -> None:
    """Let Python operators finish before a fork.

    DALI runs them under a lock of the whole process. A child that is forked meanwhile inherits it
    locked, and every Python operator of the child's would wait for ever.
    """
    waited = list(_live)
    if not any(one._num_due for one in waited):
        return
    end = time.monotonic() + FORK_PATIENCE_S
    while any(one.is_busy for one in waited) and time.monotonic() < end:
        time.sleep(0.001)
    take_operator_lock()  # which is held a little longer than Python code runs


# In the child nothing works on what was inherited.
os.register_at_fork(before=_wait_until_idle, after_in_child=_live.clear)


def _centre(image: np.ndarray, short_side: int, size: tuple[int, int]) -> np.ndarray:
    short = min(image.shape[:2])
    # The middle is all that is looked at, and of a long image the whole may not fit into memory. As
    # much is cut from either end, so that the centre stays where it is.
    y, x = (max(0, (side - LONGEST * short) // 2) for side in image.shape[:2])
    image = np.ascontiguousarray(image[y : image.shape[0] - y, x : image.shape[1] - x])
    whole = _with_short(image, short_side)
    # Half to even, as torchvision rounds.
    top, left = (round((side - want) / 2) for side, want in zip(whole.shape, size, strict=False))
    return np.ascontiguousarray(whole[top : top + size[0], left : left + size[1]])


def _with_short(image: np.ndarray, short_side: int) -> np.ndarray:
    height, width, _ = image.shape
    short = min(height, width)
    sides = int(short_side * height / short), int(short_side * width / short)
    return _resized(image, sides, False)


def _resized(image: np.ndarray, size: tuple[int, int], mirrored: bool) -> np.ndarray:
    # Laid out as channels_last, which the kernel takes and gives without a copy.
    given = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    if image.shape[:2] == size:  # torch would copy it, on threads of its own
        made = given
    else:
        made = interpolate(given, size=size, mode="bilinear", antialias=True)
    return (_mirrored(made) if mirrored else made)[0].permute(1, 2, 0).numpy()


def _mirrored(image: torch.Tensor) -> torch.Tensor:
    made = torch.empty_like(image)
    rows = max(1, MIRRORED_BYTES // (3 * image.shape[3]))
    for first in range(0, image.shape[2], rows):
        made[:, :, first : first + rows] = image[:, :, first : first + rows].flip(3)
    return made
