"""What users' functions do to the shape of an image: squares, sizes, and crops of diffusion models.

Each guess is a list of transforms. What torchvision has no transform for is a `Shape`, which holds
the step of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import v2  # type: ignore[import-untyped]
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from dali_cutmix.core.frame import Augmentation
from dali_cutmix.from_torch.report import Size, written
from dali_cutmix.transforms.adm import ADMCrop
from dali_cutmix.transforms.shapes import Position, SquareCrop, SquarePad
from dali_cutmix.transforms.sizing import Resize
from dali_cutmix.transforms.warps import colour_of

_KERNELS = ("bicubic", "bilinear", "lanczos", "nearest", "box", "hamming")

#: (height, width) of an image of which a square is padding for the most part.
LONG = 8, 64


class Shape:
    """Hold a step of the graph, and do the same to an image.

    Args:
        step: The step.
        function: Takes a Pillow image or a tensor, and returns the result.
    """

    def __init__(self, step: Augmentation, function: Callable[[Any], Any]) -> None:
        self.step = step
        self._function = function

    def __call__(self, image: Any) -> Any:
        """Return the result for an image."""
        return self._function(image)

    def __repr__(self) -> str:
        return written(self.step)


def guesses_of_shape(
    result: np.ndarray, of_long: np.ndarray | None, is_tensor: bool
) -> Iterator[list[Any]]:
    """Yield lists of transforms that a function of a Pillow image may be.

    Args:
        result: Of a function and an image of 40 x 50 pixels: ``[height, width, 3]`` uint8.
        of_long: Of the function and an image of the size `LONG`. None where the function fails.
        is_tensor: Whether the function takes a tensor, not a Pillow image.
    """
    height, width, _ = result.shape
    resizes = [_resize((height, width), name, is_tensor) for name in _KERNELS]
    squares = [] if of_long is None else list(_squares(of_long))
    if (height, width) in ((40, 40), (50, 50)):
        yield from ([square] for square in squares)
    yield from ([resize] for resize in resizes)
    if height == width:
        step = ADMCrop(height)
        yield [Shape(step, lambda image: Image.fromarray(step.crop(np.array(image))))]
        yield from ([square, resize] for square in squares for resize in resizes)


def _resize(size: Size, kernel: str, is_tensor: bool) -> Any:
    resize = v2.Resize(size, v2.InterpolationMode(kernel))
    if is_tensor or kernel != "bicubic":
        return resize
    # Pillow's bicubic pixels beside hard edges differ from those of tensors.
    return Shape(Resize(size, "bicubic-pillow"), resize)


def _squares(of_long: np.ndarray) -> Iterator[Shape]:
    """Yield transforms to a square, with the colours at the corners of a result."""
    yield from (_crop(SquareCrop(rounding)) for rounding in ("down", "even"))
    centred: tuple[Position, ...] = ("center", "equal")
    started: tuple[Position, ...] = ("start",)
    for corner, positions in ((of_long[0, 0], centred), (of_long[-1, -1], started)):
        levels = tuple(corner.tolist())
        fill = levels[0] if len(set(levels)) == 1 else levels
        for position in positions:
            yield _pad(SquarePad(fill, "constant", position))
            yield _pad(SquarePad(0, "edge", position))


def _crop(step: SquareCrop) -> Shape:
    def crop(image: Any) -> Any:
        start, extent = step.window(np.array(F.get_size(image)))
        return F.crop(image, *map(int, (*start, *extent)))

    return Shape(step, crop)


def _pad(step: SquarePad) -> Shape:
    def pad(image: Any) -> Any:
        sides = np.array(F.get_size(image))
        start, extent = step.window(sides)
        (top, left), (bottom, right) = (-start).tolist(), (start + extent - sides).tolist()
        border = [left, top, right, bottom]
        return F.pad(image, border, list(colour_of(step.fill)), step.padding_mode)

    return Shape(step, pad)
