"""A plan applied to pixels: paste, blend, erase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.dali import FLOAT, INT32, DataNode, fn, math
from dali_cutmix.core.math import alike, cast, column, scalar, stack
from dali_cutmix.mixing.plan import MixPlan


def paste(image: DataNode, plan: MixPlan) -> DataNode:
    """Fill each sample's cut with the same rectangle of its partner.

    The partner is as it was before mixing. Bytes are copied, never blended: outside the cut the
    result is the sample, inside the partner, bit for bit. Works alike on masks of class indices.

    Args:
        image: ``[height, width, channels]`` uint8 (or int16, int32, float32) per sample, of the
            plan's size, CPU or GPU.
        plan: From `cutmix_plan`.

    Returns:
        As ``image``.

    Raises:
        ValueError: The plan has no cut.
        RuntimeError: In the first batch, by DALI: an image is not of the plan's size.
    """
    _needs_cut("paste", plan)
    # An image of another size than the plan's has to fail: below it the first region reaches beyond
    # the image, above it beyond the output.
    whole = math.max(image.shape(dtype=INT32)[:2], alike(np.array(plan.size, np.int32), image))
    return paste_regions(image, **regions(plan, whole), output_size=list(plan.size))


def regions(plan: MixPlan, whole: Any = None) -> dict[str, Any]:
    """What a paste takes from where: the whole sample, and its cut from the partner.

    An empty cut names the sample itself as the source. DALI 2.4.0 pastes a region of no area right
    on the CPU; its GPU kernel opens such a region and never closes it, so that the region's source
    would show (read in ``paste_gpu.h`` and run on the host; not yet on a GPU).

    Args:
        plan: One with a cut, of nodes or arrays.
        whole: ``(height, width)`` of the sample, ``[2]`` int32; None takes the plan's.

    Returns:
        Arguments of ``fn.multi_paste``: ``in_ids`` ``[2]``, and ``in_anchors`` and ``shapes``
        ``[2, 2]``, (y, x) in pixels, int32 per sample.
    """
    area = scalar(column(plan.extent, 0) * column(plan.extent, 1))
    source = plan.own + (plan.partner - plan.own) * cast(area > 0, INT32)
    if whole is None:
        whole = alike(np.array(plan.size, np.int32), plan.extent)
    corner = alike(np.zeros(2, np.int32), plan.anchor)
    return {
        "in_ids": stack(plan.own, source),
        "in_anchors": stack(corner, plan.anchor),
        "shapes": stack(whole, plan.extent),
    }


def paste_regions(
    image: DataNode, *, in_ids: Any, in_anchors: Any, shapes: Any, **arguments: Any
) -> DataNode:
    """Make each image of `regions` of the batch's, which keep their places.

    Args:
        image: As `paste` takes it.
        in_ids: Which samples the regions are of.
        in_anchors: Their top left corners.
        shapes: Their sides.
        arguments: Further ones of ``fn.multi_paste``. It takes the images to be of one size.
    """
    return fn.multi_paste(
        image,
        in_ids=in_ids,
        in_anchors=in_anchors,
        shapes=shapes,
        out_anchors=in_anchors,
        **arguments,
    )


def blend(image: DataNode, plan: MixPlan) -> DataNode:
    """Weigh each sample with its partner, pixel by pixel: ``kept * own + (1 - kept) * partner``.

    Args:
        image: ``[height, width, channels]`` of any number type per sample, CPU or GPU.
        plan: From any plan function; only ``partner`` and ``kept`` are read.

    Returns:
        Shape and range of ``image``, float32 (unrounded, so that pixels keep the weights' ratio).
    """
    return blend_with(image, partner=plan.partner, kept=plan.kept)


def blend_with(image: DataNode, *, partner: DataNode, kept: DataNode) -> DataNode:
    """`blend` by the two of a plan's fields that it reads."""
    # Permuted before arithmetic makes it float32, four times the bytes.
    other = fn.permute_batch(image, indices=partner)
    return image * kept + other * (1.0 - kept)


def erase(image: DataNode, plan: MixPlan, *, fill: float | Sequence[float] = 0) -> DataNode:
    """Fill each sample's cut with one colour.

    Args:
        image: ``[height, width, channels]`` per sample, CPU or GPU.
        plan: From `cutout_plan` or `cutmix_plan`.
        fill: Value, or one value per channel, in the units of ``image``.

    Returns:
        As ``image``.

    Raises:
        ValueError: The plan has no cut.
    """
    _needs_cut("erase", plan)
    return erase_region(image, fill, **region(plan))


def region(plan: MixPlan) -> dict[str, Any]:
    """What is erased: ``anchor`` and ``shape``, ``[2]`` float32 (y, x) in pixels per sample."""
    return {"anchor": cast(plan.anchor, FLOAT), "shape": cast(plan.extent, FLOAT)}


def erase_region(
    image: DataNode, fill: float | Sequence[float], *, anchor: DataNode, shape: DataNode
) -> DataNode:
    """`erase` what `region` says."""
    return fn.erase(
        fn.reshape(image, layout="HWC"), anchor=anchor, shape=shape, axes=[0, 1], fill_value=fill
    )


def _needs_cut(where: str, plan: MixPlan) -> None:
    if plan.extent is None:
        raise ValueError(
            f"{where}: `plan` must have a cut, got one of mixup_plan. "
            "Apply it with `blend(image, plan)`."
        )
