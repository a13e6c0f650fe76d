"""Affine maps that shear, shift and turn images, one for each sample.

Matrices are computed on the host, and `by_dali` moves the pixels. A matrix maps points of the
result to points of the image, in pixels from the top left corner, (x, y). The centre of the first
pixel is at (0.5, 0.5).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

#: Operations that move pixels. Levels are pixels per pixel, pixels, and degrees.
WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

#: How a pixel is computed from the pixels around a point.
Interpolation = Literal["nearest", "bilinear"]

#: Names of `Interpolation`.
INTERPOLATIONS = get_args(Interpolation)


def matrices(name: str, level: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the maps of one operation.

    Args:
        name: A name of `WARPS`. Shears keep the top left corner, and a turn keeps the centre.
        level: How far: ``[B]`` float64. Pixels to the side per pixel for shears, pixels for shifts
            (truncated), degrees counterclockwise for turns.
        size: ``(height, width)`` in pixels.

    Returns:
        ``[B, 2, 3]`` float32.

    Source:
        torchvision 0.29, ``v2.functional.affine`` and ``rotate`` as its automatic augmentations
        call them.
    """
    maps = np.zeros((len(level), 2, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = 1
    if name == "ShearX":
        maps[:, 0, 1] = level
    elif name == "ShearY":
        maps[:, 1, 0] = level
    elif name == "TranslateX":
        maps[:, 0, 2] = -np.trunc(level)
    elif name == "TranslateY":
        maps[:, 1, 2] = -np.trunc(level)
    else:
        centre = np.array([size[1], size[0]]) / 2
        cosine, sine = np.cos(np.radians(level)), np.sin(np.radians(level))
        maps[:, :, :2] = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
        maps[:, :, 2] = centre - maps[:, :, :2] @ centre
    return maps.astype(np.float32)
