"""Resize images with antialiasing, and mirror where asked for.

On a GPU DALI's kernels resize. To mirror, a kernel reads from right to left, which costs nothing.

On the CPU torch's kernels for bytes resize, called by a Python operator on a few threads. torch's
bilinear kernel takes a fifth of the time of DALI's, and resizing by DALI was half of all CPU work.
Pixels are bit-identical to torchvision's. DALI's differ from torchvision's by 1 of 255 inside, and
by up to some 15 in the outermost ring of pixels: where the filter reaches beyond the image, torch
leaves that part of the filter out and DALI repeats the edge. ``"lanczos"``, ``"nearest"``,
``"box"`` and ``"hamming"`` are Pillow's on the CPU. The last two need a CPU.

DALI runs the Python operators of a process one at a time. Two graphs decode at once, and resize in
turn, each on all of its threads. DALI holds the GIL while copying a resized batch, 150 KB per image
at 224 px.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import (
    FLOAT,
    FLOAT64,
    DataNode,
    constant,
    fn,
    math,
    merge,
    python_image,
    resize,
    split,
    types,
)
from dali_cutmix.core.threads import ThreadPool

#: Which pixels make a pixel, and how they are weighed, by torchvision's names. Kernels are
#: antialiased, with two exceptions. ``"nearest"`` is Pillow's, torchvision's ``"nearest-exact"``.
#: ``"bilinear-aliased"`` is torchvision's ``"bilinear"`` with ``antialias=False``.
#: ``"bicubic-pillow"`` has Pillow's pixels, where ``"bicubic"`` has those of torchvision's tensors.
Kernel = Literal[
    "nearest",
    "bilinear",
    "bicubic",
    "lanczos",
    "box",
    "hamming",
    "bilinear-aliased",
    "bicubic-pillow",
]

_DALI_KERNELS = {
    "nearest": types.DALIInterpType.INTERP_NN,
    "bilinear": types.DALIInterpType.INTERP_LINEAR,
    "bicubic": types.DALIInterpType.INTERP_CUBIC,
    "lanczos": types.DALIInterpType.INTERP_LANCZOS3,
    "bilinear-aliased": types.DALIInterpType.INTERP_LINEAR,
    "bicubic-pillow": types.DALIInterpType.INTERP_CUBIC,
}

#: Kernels that Pillow computes on the CPU. Some versions of torch lack them, or mean another kernel
#: by the name.
_PILLOW_KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "bicubic-pillow": Image.Resampling.BICUBIC,
}

#: Names of `Kernel`.
KERNELS: tuple[str, ...] = get_args(Kernel)

#: Parts per thread. Images differ in size, and with small parts threads finish together.
PARTS_PER_THREAD = 4

#: Bytes that are mirrored at a time. With 2**15 or more torch starts threads of its own.
MIRRORED_BYTES = 30_000

#: Long side over short side. Of an image beyond this ratio only the middle is resized.
MAX_ELONGATION = 8


class Resampler:
    """Resize the images of one graph.

    Each method takes a ``kernel``: a name for all samples, or whether each sample is resized by
    ``"bicubic"`` instead of ``"bilinear"``, a scalar bool per sample, CPU.

    Args:
        num_threads: CPU threads to resize on; None resizes on the GPU.
    """

    def __init__(self, num_threads: int | None) -> None:
        self._crew = ThreadPool(num_threads) if num_threads else None

    def resize(
        self,
        image: DataNode,
        size: tuple[int, int],
        mirrored: DataNode | None = None,
        kernel: Kernel | DataNode = "bilinear",
    ) -> DataNode:
        """Resize whole images to one size.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, on the device.
            size: ``(height, width)`` of the result, in pixels.
            mirrored: 1 to mirror left to right, else 0: scalar int32 per sample, CPU. None mirrors
                nothing.
            kernel: See the class.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, on the device.
        """
        if self._crew is not None:
            inputs = [image] if mirrored is None else [image, mirrored]
            return self._by_kernel(
                lambda name, pixels, turn=0: _resized(pixels, size, name, bool(turn)),
                kernel,
                inputs,
            )
        if mirrored is None:
            return _by_operator(image, kernel, size=list(size))
        start = mirrored * constant(np.array([0, 1], np.float32))
        return _by_operator(
            image, kernel, size=list(size), roi_start=start, roi_end=1.0 - start, roi_relative=True
        )

    def resize_each(
        self, image: DataNode, extent: DataNode, kernel: Kernel | DataNode = "bilinear"
    ) -> DataNode:
        """Resize each image to sides of its own.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, on the device.
            extent: Sides of the result in pixels, each at least 1: ``[2]`` int32 (y, x) per sample,
                CPU.
            kernel: See the class.

        Returns:
            ``[*extent, 3]`` uint8 RGB per sample, on the device.
        """
        if self._crew is not None:
            return self._by_kernel(
                lambda name, pixels, sides: _resized(pixels, (int(sides[0]), int(sides[1])), name),
                kernel,
                [image, extent],
            )
        return _by_operator(image, kernel, size=fn.cast(extent, dtype=FLOAT))

    def resize_centre(
        self,
        image: DataNode,
        short_side: int,
        size: tuple[int, int],
        kernel: Kernel | DataNode = "bilinear",
    ) -> DataNode:
        """Resize so that the short side has a length, then cut out the centre.

        On the CPU the result is that of torchvision's ``Resize`` and ``CenterCrop``; see the top of
        this module. Of an image longer than `MAX_ELONGATION` short sides only the middle is
        resized, which differs by rounding.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, on the device.
            short_side: Short side of the resized image, in pixels. The long side is truncated.
            size: ``(height, width)`` of the centre, in pixels, each at most ``short_side``.
            kernel: See the class.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, on the device.
        """
        if self._crew is not None:
            return self._by_kernel(
                lambda name, pixels: _centre(pixels, short_side, size, name), kernel, [image]
            )
        sides, resized = _sides(image, short_side)
        margin = resized - constant(np.array(size, np.float64))
        # Half to even: floor((margin + 1) / 2), minus 1 where margin is 1 above a multiple of 4.
        is_rounded_up = fn.cast(margin - 4 * math.floor(margin / 4) == 1, dtype=FLOAT64)
        start = math.floor((margin + 1) / 2) - is_rounded_up
        scale = sides / resized
        end = start + constant(np.array(size, np.float64))
        return _by_operator(
            image,
            kernel,
            size=list(size),
            roi_start=fn.cast(start * scale, dtype=FLOAT),
            roi_end=fn.cast(end * scale, dtype=FLOAT),
        )

    def resize_short(
        self, image: DataNode, short_side: int, kernel: Kernel | DataNode = "bilinear"
    ) -> DataNode:
        """Resize so that the short side has a length. Sizes of images may differ.

        On the CPU the result is that of torchvision's ``Resize``; see the top of this module.

        Args:
            image: ``[y, x, 3]`` uint8 RGB per sample, on the device.
            short_side: Short side of the resized image, in pixels. The long side is truncated.
            kernel: See the class.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, on the device.
        """
        if self._crew is not None:
            return self._by_kernel(
                lambda name, pixels: _with_short(pixels, short_side, name), kernel, [image]
            )
        _, resized = _sides(image, short_side)
        return _by_operator(image, kernel, size=fn.cast(resized, dtype=FLOAT))

    def close(self) -> None:
        """Stop the threads. Stop the graph before."""
        if self._crew is not None:
            self._crew.close()

    def _by_kernel(
        self,
        function: Callable[..., np.ndarray],
        kernel: Kernel | DataNode,
        inputs: list[DataNode],
    ) -> DataNode:
        """Call a function of a kernel's name and of one sample's inputs for each sample."""
        if isinstance(kernel, str):
            return self.on_threads(partial(function, kernel), inputs)
        return self.on_threads(
            lambda is_bicubic, *arrays: function("bicubic" if is_bicubic else "bilinear", *arrays),
            [kernel, *inputs],
        )

    @property
    def has_threads(self) -> bool:
        """Whether images are on the CPU, and threads at hand."""
        return self._crew is not None

    def on_threads(self, function: Callable[..., np.ndarray], inputs: list[DataNode]) -> DataNode:
        """Call a function for each sample, on all threads.

        Args:
            function: From one array for each input to an image ``[y, x, 3]`` uint8.
            inputs: Nodes, CPU.
        """
        crew = self._crew
        assert crew is not None

        def resize_batch(*columns: list[np.ndarray]) -> list[np.ndarray]:
            num_samples = len(columns[0])
            length = ceil(num_samples / (crew.num_threads * PARTS_PER_THREAD))

            def part(first: int) -> list[np.ndarray]:
                return list(map(function, *(column[first : first + length] for column in columns)))

            parts = crew.map(part, range(0, num_samples, length))
            return [image for images in parts for image in images]

        return python_image(resize_batch, *inputs)


def _by_operator(image: DataNode, kernel: Kernel | DataNode, **arguments: Any) -> DataNode:
    """Resize by DALI's operator; once for each kernel where samples differ in their kernels."""
    if isinstance(kernel, str):
        if kernel not in _DALI_KERNELS:
            rule = f"be one of {', '.join(map(repr, _DALI_KERNELS))} on a GPU"
            way_out = "DALI has no other kernels. Pass `device='cpu'`, or another kernel."
            refuse("DataLoader", "interpolation", rule, kernel, way_out)
        arguments["antialias"] = kernel != "bilinear-aliased"
        return resize(image, interp_type=_DALI_KERNELS[kernel], **arguments)
    bicubic, bilinear = split(image, kernel)
    numbers = {
        name: split(value, kernel) if isinstance(value, DataNode) else (value, value)
        for name, value in arguments.items()
    }
    return merge(
        _by_operator(bicubic, "bicubic", **{name: pair[0] for name, pair in numbers.items()}),
        _by_operator(bilinear, "bilinear", **{name: pair[1] for name, pair in numbers.items()}),
        kernel,
    )


def _sides(image: DataNode, short_side: int) -> tuple[DataNode, DataNode]:
    """Return the sides of each image before and after resizing its short side.

    Returns:
        Twice ``[2]`` float64 (y, x), in pixels, whole numbers, CPU.
    """
    sides = image.shape()[:2]
    # Reduced as integers: DALI reduces no float64.
    short = fn.cast(fn.reductions.min(sides), dtype=FLOAT64)
    sides = fn.cast(sides, dtype=FLOAT64)
    return sides, math.floor(short_side * sides / short)


def _centre(image: np.ndarray, short_side: int, size: tuple[int, int], kernel: str) -> np.ndarray:
    short = min(image.shape[:2])
    # A long image, resized as a whole, may not fit into memory. Both ends lose as much, so that the
    # centre stays where it is.
    y, x = (max(0, (side - MAX_ELONGATION * short) // 2) for side in image.shape[:2])
    image = np.ascontiguousarray(image[y : image.shape[0] - y, x : image.shape[1] - x])
    resized = _with_short(image, short_side, kernel)
    # Half to even, as torchvision rounds.
    top, left = (round((side - want) / 2) for side, want in zip(resized.shape, size, strict=False))
    return np.ascontiguousarray(resized[top : top + size[0], left : left + size[1]])


def _with_short(image: np.ndarray, short_side: int, kernel: str) -> np.ndarray:
    height, width, _ = image.shape
    short = min(height, width)
    size = int(short_side * height / short), int(short_side * width / short)
    return _resized(image, size, kernel)


def _resized(
    image: np.ndarray, size: tuple[int, int], kernel: str, mirrored: bool = False
) -> np.ndarray:
    if kernel in _PILLOW_KERNELS and image.shape[:2] != size:
        by_pillow = Image.fromarray(image).resize((size[1], size[0]), _PILLOW_KERNELS[kernel])
        image = np.array(by_pillow)  # a copy, since DALI takes no array that is read-only
    # In channels_last layout, which the kernel takes and returns without a copy.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    if image.shape[:2] != size:  # torch would copy an image of that size, on threads of its own
        mode, _, is_aliased = kernel.partition("-")
        pixels = interpolate(pixels, size=size, mode=mode, antialias=not is_aliased)
    return (_mirrored(pixels) if mirrored else pixels)[0].permute(1, 2, 0).numpy()


def _mirrored(pixels: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(pixels)
    num_rows = max(1, MIRRORED_BYTES // (3 * pixels.shape[3]))
    for first in range(0, pixels.shape[2], num_rows):
        result[:, :, first : first + num_rows] = pixels[:, :, first : first + num_rows].flip(3)
    return result
