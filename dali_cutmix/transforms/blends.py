"""Blend images with gray or smooth ones of their own on a GPU, by one chain for all samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.dali import DataNode, merge, split
from dali_cutmix.core.frame import Frame
from dali_cutmix.transforms.color_ops import blend_all, gray_channels, inner, smooth


@dataclass(frozen=True)
class BlendPlan:
    """Say how each sample is blended with another image of its own, for `blend_all`.

    Attributes:
        is_smooth: Whether the other image is the smooth one, and not the gray one: scalar bool per
            sample.
        matrix: Map of both images to levels: ``[3, 6]`` float32 per sample.
        rest: Share of the other image's mean level: scalar float32 per sample.
    """

    is_smooth: Any
    matrix: Any
    rest: Any


def plan_blends(factor: np.ndarray, is_chosen: Mapping[str, np.ndarray]) -> BlendPlan:
    """Return how samples are blended.

    Args:
        factor: Share of the image itself: ``[B]`` float32.
        is_chosen: Whether a sample takes an operation, by the operation's name: ``[B]`` bool each.
    """
    nowhere = np.zeros(len(factor), bool)
    is_color, is_contrast, is_sharpness = (
        is_chosen.get(name, nowhere) for name in ("Color", "Contrast", "Sharpness")
    )
    rest = 1 - factor
    shares = np.stack([factor, np.where(is_color | is_sharpness, rest, 0)], axis=1)
    return BlendPlan(
        is_sharpness,
        np.einsum("bk,ij->bikj", shares, np.eye(3, dtype=np.float32)).reshape(-1, 3, 6),
        np.where(is_contrast, rest, np.float32(0)),
    )


def blended(image: DataNode, plan: BlendPlan, frame: Frame) -> DataNode:
    """Blend every sample by one chain of operators. A sample without a factor keeps its pixels.

    A GPU runs this chain. The CPU runs an operator for each name, which takes less time there.

    Args:
        image: ``[height, width, 3]`` uint8 per sample.
        plan: The plan of `plan_blends`, with nodes on the CPU as leaves.
        frame: Of these images, which have one size.
    """
    part, others = split(image, plan.is_smooth)
    if min(frame.size) > 2:  # else there is nothing inside of the outermost ring
        kernel, corner = (split(node, plan.is_smooth)[0] for node in inner(image, frame))
        part = smooth(part, kernel, corner, frame.size)
    other = merge(part, gray_channels(others), plan.is_smooth)
    return blend_all(image, other, plan.matrix, plan.rest)
