"""Shear, shift and turn images by one affine map for each sample.

Matrices are computed on the host. They map points of the result to points of the image, in pixels
from the top left corner, (x, y). The centre of the first pixel is at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dali_cutmix.core.dali import DataNode, fn, types
from dali_cutmix.core.frame import Frame
from dali_cutmix.transforms.warps import by_dali

#: Operations that move pixels. Levels are pixels per pixel, pixels, and degrees.
WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

#: How a pixel is computed from the pixels around a point.
Interpolation = Literal["nearest", "bilinear"]

_DALI_TYPES = {
    "nearest": types.DALIInterpType.INTERP_NN,
    "bilinear": types.DALIInterpType.INTERP_LINEAR,
}

#: Names of `Interpolation`.
INTERPOLATIONS = tuple(_DALI_TYPES)


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


def warp(
    image: DataNode,
    matrix: DataNode,
    interpolation: Interpolation = "nearest",
    fill: Sequence[int] = (0, 0, 0),
    frame: Frame | None = None,
) -> DataNode:
    """Move pixels by affine maps. Pixels from beyond the border have the colour ``fill``.

    Pixels equal those of torchvision's tensor back end, which takes in black or ``fill`` as well,
    but for these cases:

    - Turns with ``"nearest"`` differ at points as far from two pixels, where float32 decides. These
      are 2 of 100 points for 135 degrees, and below 1 of 1000 for other angles.
    - Shears and turns with ``"bilinear"`` differ by one level where a value is halfway between two
      levels, at up to 4 of 100 values.

    Args:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
        matrix: Maps of `matrices`: ``[2, 3]`` float32 per sample, CPU.
        interpolation: ``"nearest"`` takes the nearest pixel, ``"bilinear"`` the four around a
            point, weighted by distance.
        fill: Levels R, G, B.
        frame: Of these images; needed where ``fill`` is not black.

    Returns:
        ``[height, width, 3]`` uint8 per sample, on the device of ``image``.
    """
    is_sharp_gray = interpolation == "nearest" and len(set(fill)) == 1
    if any(fill) and not is_sharp_gray and frame is not None:
        return by_dali(image, matrix, interpolation, fill, frame)
    return fn.warp_affine(
        image,
        matrix=matrix,
        fill_value=fill[0],
        interp_type=_DALI_TYPES[interpolation],
        inverse_map=True,
    )
