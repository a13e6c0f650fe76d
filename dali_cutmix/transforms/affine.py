"""Shears, shifts and turns: one affine map for each sample.

Matrices are made on the host. They map places of the result to places of the image, in pixels from
the top left corner, x first, where the centre of the first pixel is at one half.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from dali_cutmix.core.dali import DataNode, fn, types

#: What a level is of each: share, pixels, or degrees.
WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

#: How a pixel is made of those around its place.
Interpolation = Literal["nearest", "bilinear"]

_DALI_TYPES = {
    "nearest": types.DALIInterpType.INTERP_NN,
    "bilinear": types.DALIInterpType.INTERP_LINEAR,
}

#: Names of `Interpolation`.
INTERPOLATIONS = tuple(_DALI_TYPES)


def matrices(name: str, level: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The maps of one operation.

    Args:
        name: Of `WARPS`. Shears keep the top left corner, and a turn the centre.
        level: Pixels to the side per pixel for shears, pixels for shifts, which are cut to whole
            ones, and degrees against the clock for turns: ``[B]`` float64.
        size: ``(height, width)`` in pixels.

    Returns:
        ``[B, 2, 3]`` float32.

    Source:
        torchvision 0.29, ``v2.functional.affine`` and ``rotate`` as its automatic augmentations
        call them.
    """
    found = np.zeros((len(level), 2, 3))
    found[:, 0, 0] = found[:, 1, 1] = 1
    if name == "ShearX":
        found[:, 0, 1] = level
    elif name == "ShearY":
        found[:, 1, 0] = level
    elif name == "TranslateX":
        found[:, 0, 2] = -np.trunc(level)
    elif name == "TranslateY":
        found[:, 1, 2] = -np.trunc(level)
    else:
        centre = np.array([size[1], size[0]]) / 2
        cosine, sine = np.cos(np.radians(level)), np.sin(np.radians(level))
        found[:, :, :2] = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
        found[:, :, 2] = centre - found[:, :, :2] @ centre
    return found.astype(np.float32)


def shift(image: DataNode, matrix: DataNode) -> DataNode:
    """Move images by whole pixels, where every interpolation gives the same; see `warp`."""
    return warp(image, matrix)


def warp(image: DataNode, matrix: DataNode, interpolation: Interpolation = "nearest") -> DataNode:
    """Move pixels; places without one become black.

    The pixels are those of torchvision's tensor back end, which take in black from beyond the
    border as well, but for these. Of the nearest pixel, turns differ at places that are as far from
    two pixels, where float32 decides: at 2 of 100 for 135 degrees, below 1 of 1000 for others. Of
    four pixels, shears and turns differ by one level where it is halfway between two: at up to 4 of
    100 values. Shifts are the same.

    Args:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
        matrix: Of `matrices`: ``[2, 3]`` float32 per sample, CPU.
        interpolation: The nearest pixel, or the four around a place weighed by their distances.

    Returns:
        As ``image``.
    """
    return fn.warp_affine(
        image,
        matrix=matrix,
        fill_value=0,
        interp_type=_DALI_TYPES[interpolation],
        inverse_map=True,
    )
