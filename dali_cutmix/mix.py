"""A plan applied to pixels: paste, blend, erase."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dali_cutmix._dali import FLOAT, INT32, DataNode, constant, fn, math
from dali_cutmix.plan import MixPlan


def paste(image: DataNode, plan: MixPlan) -> DataNode:
    """Fill each sample's cut with the same rectangle of its partner.

    The partner is as it was before mixing. Bytes are copied, never blended: outside the cut the
    result is the sample, inside the partner, bit for bit. Works alike on masks of class indices.

    An empty cut names the sample itself as the source. DALI 2.4.0 pastes a region of no area right
    on the CPU; its GPU kernel opens such a region and never closes it, so that the region's source
    would show (read in ``paste_gpu.h`` and run on the host; not yet on a GPU).

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
    pasted = fn.cast(plan.extent[0] * plan.extent[1] > 0, dtype=INT32)
    source = plan.own + (plan.partner - plan.own) * pasted
    corner = constant(np.zeros(2, np.int32))
    # An image of another size than the plan's has to fail: below it the first region reaches beyond
    # the image, above it beyond the output.
    whole = math.max(image.shape(dtype=INT32)[:2], constant(np.array(plan.size, np.int32)))
    anchors = fn.stack(corner, plan.anchor)
    return fn.multi_paste(
        image,
        in_ids=fn.stack(plan.own, source),
        in_anchors=anchors,
        shapes=fn.stack(whole, plan.extent),
        out_anchors=anchors,
        output_size=list(plan.size),
    )


def blend(image: DataNode, plan: MixPlan) -> DataNode:
    """Weigh each sample with its partner, pixel by pixel: ``kept * own + (1 - kept) * partner``.

    Args:
        image: ``[height, width, channels]`` of any number type per sample, CPU or GPU.
        plan: From any plan function; only ``partner`` and ``kept`` are read.

    Returns:
        Shape and range of ``image``, float32 (unrounded, so that pixels keep the weights' ratio).
    """
    # Permuted before arithmetic makes it float32, four times the bytes.
    partner = fn.permute_batch(image, indices=plan.partner)
    return image * plan.kept + partner * (1.0 - plan.kept)


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
    return fn.erase(
        fn.reshape(image, layout="HWC"),
        anchor=fn.cast(plan.anchor, dtype=FLOAT),
        shape=fn.cast(plan.extent, dtype=FLOAT),
        axes=[0, 1],
        fill_value=fill,
    )


def _needs_cut(where: str, plan: MixPlan) -> None:
    if plan.extent is None:
        raise ValueError(
            f"{where}: `plan` must have a cut, got one of mixup_plan. "
            "Apply it with `blend(image, plan)`."
        )
