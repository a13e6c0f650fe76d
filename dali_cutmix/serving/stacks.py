"""Clips and volumes, whose frames or slices are the samples of a loader's graph.

A batch of B stacks is a graph's batch of ``B * depth`` images. Whatever a transform draws for a
stack is repeated for its images, and a mix draws one plan for a stack.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dali_cutmix.annotations.masks import Masks
from dali_cutmix.annotations.volume_masks import VolumeMasks
from dali_cutmix.core.checks import refuse
from dali_cutmix.core.frame import Stack, map_leaves
from dali_cutmix.core.reading import patiently, why_unreadable
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.serving.settings import WHERE, LoaderSettings
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.stacks import Stacks
from dali_cutmix.sources.volumes import Volumes


def check_stacks(settings: LoaderSettings, images: StoredImages) -> None:
    """Refuse settings that do not go with clips, with volumes, or with images.

    Raises:
        ValueError: The argument, and the way out.
    """
    if not isinstance(images, Stacks):
        for view in settings.views:
            if hasattr(view, "windows"):
                way_out = "Pass a TrainTransform or an EvalTransform, or `Volumes([...])`."
                refuse(WHERE, "transform", "make images of images", view, way_out)
        if any(isinstance(annotation, VolumeMasks) for annotation in settings.annotations):
            way_out = "Masks of images are `Masks`."
            refuse(WHERE, "target", "be defined for images", "VolumeMasks", way_out)
        return
    for view in settings.views:
        images.check(view)
    for annotation in settings.annotations:
        if isinstance(images, Volumes) and isinstance(annotation, VolumeMasks):
            annotation.check(images.shapes, images.path)
        elif settings.is_moved(annotation):
            way_out = "Masks of volumes are `VolumeMasks`." if isinstance(images, Volumes) else ""
            rule = f"be defined for {type(images).__name__}"
            refuse(WHERE, "target", rule, type(annotation).__name__, way_out)
    if isinstance(images, Volumes):
        _check_volumes(settings, images)
    else:
        settings.check_memory(images.depth(settings.transform))


def _check_volumes(settings: LoaderSettings, volumes: Volumes) -> None:
    if not settings.takes_volumes:
        rule = "be a VolumeTransform with Volumes"
        refuse(WHERE, "transform", rule, settings.transform, "Views of volumes are not made.")
    if settings.dtype == torch.uint8 and volumes.dtype != np.uint8:
        way_out = "`dtype=None` yields the type of the volumes."
        refuse(WHERE, "dtype", f"hold voxels of {volumes.dtype}", settings.dtype, way_out)


def check_plan_of_volumes(mix: Any, plan: MixPlan) -> None:
    """Refuse a mix that resizes or erases: its operators are those of RGB images."""
    for part in (plan, *(getattr(plan, "plans", None) or ())):
        if part is not plan:
            check_plan_of_volumes(mix, part)
        elif part.resizes or part.fill is not None:
            way_out = "`ClipCutMix('cuboid')` mixes volumes."
            refuse(WHERE, "mix", "copy or blend voxels with Volumes", mix, way_out)


def of_frames(drawn: Any, num_stacks: int, depth: int) -> tuple[Any, Stack]:
    """Repeat what transforms drew for stacks for their images.

    Args:
        drawn: What transforms drew: a tree of arrays ``[B, ...]``.
        num_stacks: Stacks in the batch, B.
        depth: Images of a stack.

    Returns:
        The tree for ``B * depth`` images, and the `Stack`.
    """
    return map_leaves(lambda leaf: leaf.repeat(depth, axis=0), drawn), Stack.of(num_stacks, depth)


def alone(fed: Sequence[Any], position: int, depth: int) -> list[Any]:
    """Return the part of what a graph is fed that belongs to one stack of a batch.

    Args:
        fed: As `Batches.draw` returns it without a mix; the last two arrays are those of `Stack`.
        position: Which stack of the batch.
        depth: Images of a stack.
    """
    part = [arrays[position * depth : (position + 1) * depth] for arrays in fed[:-2]]
    stack = Stack.of(1, depth)
    return [*part, stack.first, stack.clip]


def slices_of(windows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the slices of windows, or the frames of clips, in a row: ``[h, w, C]`` each."""
    return [part for window in windows for part in window]


def faults(
    images: StoredImages | Masks,
    indices: Sequence[int],
    items: Sequence[Any],
    arrays: list[np.ndarray],
) -> dict[Any, str]:
    """Read parts that could not be read once more; return why the others stay unread.

    Args:
        images: Read a window of a volume or of its mask, or a span of a video.
        indices: Index of each stack of the batch.
        items: The parts, each of a stack of its own.
        arrays: What was read of each; an empty array where reading failed. Changed.

    Returns:
        Reason by part, with the mask's path for a mask.

    Raises:
        TroubleError: The machine or the storage is in trouble.
    """
    bad: dict[Any, str] = {}
    for position, (index, item) in enumerate(zip(indices, items, strict=True)):
        if arrays[position].size:
            continue
        name = images.path(index)
        try:
            arrays[position] = patiently(partial(images.stored, item), WHERE, f"reading {name}")
        except OSError as error:
            reason = why_unreadable(error)
            bad[item] = f"its mask {name}: {reason}" if isinstance(images, Masks) else reason
    return bad


def of_stacks(
    bad: dict[Any, str], items: Sequence[Hashable], indices: Sequence[int], files: StoredImages
) -> dict[int, str]:
    """Return why each stack is bad. The reason names the frame's path.

    Args:
        bad: Reason by part.
        items: Parts of a batch, the same number for each stack.
        indices: Index of each stack of the batch.
        files: The source whose indices the parts are.
    """
    num_parts = len(items) // len(indices)
    reasons: dict[int, str] = {}
    for position, item in enumerate(items):
        if item in bad:
            name = f"{files.path(item)}: " if isinstance(item, int) else ""
            reasons.setdefault(indices[position // num_parts], name + bad[item])
    return reasons


def stacked(images: torch.Tensor, depth: int, *, channels_last: bool) -> torch.Tensor:
    """Put the images of each stack together.

    Args:
        images: ``[B * depth, channels, height, width]``.
        depth: Images of a stack.
        channels_last: Keep the memory order of images whose channels come last.

    Returns:
        ``[B, channels, depth, height, width]``, in the order of ``torch.channels_last_3d`` or
        contiguous.
    """
    stack = images.reshape(-1, depth, *images.shape[1:]).transpose(1, 2)
    return stack if channels_last else stack.contiguous()
