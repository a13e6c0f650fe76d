"""Accuracy when a part of every image is hidden: the centre, or everything but the centre."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evaluation.predictions import Change, Images, hits_of_changes, line_of, means
from evaluation.result import Curve, Result
from evaluation.subject import Subject

#: Hidden shares of both sides of an image.
SIZES = tuple(eighths / 8 for eighths in range(8))


def measure_occlusion(
    subject: Subject, images: Images, *, sizes: Sequence[float] = SIZES
) -> Result:
    """Measure top-1 behind a hole of several sizes.

    Args:
        subject: The classifier.
        images: The images.
        sizes: Shares of the sides in [0, 1) that are hidden; 0 hides nothing.

    Returns:
        Numbers ``center_SIZE`` and ``border_SIZE``, and ``center`` and ``border``, their means over
        the sizes above 0.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, section 4.4, figure 4 (a).
    """
    changes: dict[str, Change] = {}
    for size in sizes:
        changes[f"center_{size:g}"] = lambda image, _, size=size: hide_center(image, size)
        changes[f"border_{size:g}"] = lambda image, _, size=size: hide_border(image, size)
    samples = hits_of_changes(subject, images, "occlusion", changes)
    hidden = [size for size in sizes if size > 0]
    series = {kind: line_of(samples, kind, sizes, hidden) for kind in ("center", "border")}
    return Result(
        "occlusion",
        "Occlusion",
        means(samples),
        samples,
        curves=(Curve("Top-1 behind a hole", "hidden share of the sides", "top-1", series),),
        notes=(
            "center hides a rectangle in the middle. border hides all but a rectangle in the "
            "middle. Hidden pixels have the mean colour of the normalization, which is 0 for the "
            "model.",
        ),
        settings={"sizes": list(sizes)},
    )


def hide_center(image: torch.Tensor, size: float) -> torch.Tensor:
    """Return images with 0 in the middle.

    Args:
        image: Normalized images, ``[B, C, height, width]``.
        size: Share of the height and of the width that is hidden, in [0, 1]. Sides are rounded to
            whole pixels.
    """
    rows, columns = _middle(image, size)
    image = image.clone()
    image[..., rows, columns] = 0
    return image


def hide_border(image: torch.Tensor, size: float) -> torch.Tensor:
    """Return images with 0 around the middle: `hide_center` of the other pixels.

    Args:
        image: Normalized images, ``[B, C, height, width]``.
        size: Share of the height and of the width that is hidden, in [0, 1].
    """
    rows, columns = _middle(image, 1 - size)
    hidden = torch.zeros_like(image)
    hidden[..., rows, columns] = image[..., rows, columns]
    return hidden


def _middle(image: torch.Tensor, size: float) -> tuple[slice, slice]:
    """Return rows and columns of the rectangle in the middle that has a share of both sides."""
    slices = []
    for side in image.shape[-2:]:
        extent = round(size * side)
        start = (side - extent) // 2
        slices.append(slice(start, start + extent))
    return slices[0], slices[1]
