"""A plan applied to pixels by DALI's operators: paste, blend, erase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import (
    FLOAT,
    INT32,
    UINT8,
    DataNode,
    fn,
    math,
    python_nodes,
    resize,
    types,
)
from dali_cutmix.core.frame import Sample
from dali_cutmix.mixing.cells import runs
from dali_cutmix.mixing.plan import MixPlan, Rect, check_nodes


def paste(image: DataNode, plan: MixPlan, *, nearest: bool = False) -> DataNode:
    """Fill each region of each sample from the region's source.

    The sources are as they were before mixing. Bytes are copied and never blended: every pixel of
    the result is bit for bit a pixel of its source, unless the plan resizes.

    Args:
        image: ``[height, width, channels]`` uint8 (or int16, int32, float32) per sample, of the
            plan's size, CPU or GPU.
        plan: A plan of nodes with rectangles or cells, from `cutmix_plan` or `mix_plan`.
        nearest: Take the nearest pixel where the plan resizes. Masks of class indices need it: else
            pixels are interpolated, and a class between two classes is wrong.

    Returns:
        Shape, type and device of ``image``.

    Raises:
        ValueError: The plan blends or erases.
        RuntimeError: In the first batch, by DALI: an image is not of the plan's size.
    """
    check_nodes("paste", plan)
    if plan.owner is None and plan.put is None:
        _refuse_kind("paste", "have rectangles", "one that blends", "blend(image, plan)")
    if plan.owner is None and plan.taken is None:
        _refuse_kind("paste", "read pixels", "one that erases", "erase(image, plan)")
    image = of_size(image, plan.size)
    if plan.owner is not None:
        return paste_cells(Sample(image), plan).image
    if plan.resizes:
        return paste_regions(image, plan, resize_nearest if nearest else None)
    return paste_regions(image, without_empty(plan))


def of_size(image: DataNode, size: tuple[int, int]) -> DataNode:
    """Return an image as it is. In the first batch DALI fails where the image has another size.

    No pixel is copied. The shape asked for equals the image's where the size is right, and has
    more pixels where the size is wrong, so that `fn.reshape` fails.

    Args:
        image: ``[height, width, channels]`` of any number type per sample, CPU or GPU.
        size: ``(height, width)`` that it should have, in pixels.
    """
    # By numbers of Python: a constant node has the samples of a complete batch, and a mix in
    # `RandomChoice` gets all of them or none.
    shape = image.shape(dtype=INT32)
    sides = [shape[axis] + math.abs(shape[axis] - due) for axis, due in enumerate(size)]
    return fn.reshape(image, shape=fn.stack(*sides, shape[2]))


def paste_regions(
    image: DataNode,
    plan: MixPlan,
    resize_each: Callable[[DataNode, DataNode], DataNode] | None = None,
) -> DataNode:
    """Paste as `paste` does, without a look at the sizes of images and at empty regions.

    Args:
        image: As `paste` takes it.
        plan: A plan whose empty regions show the sample itself, as `without_empty` makes it.
        resize_each: How to resize, where the plan does; see `Frame.resize`.
    """
    taken, put = plan.taken, plan.put
    if taken is None or put is None:
        kind = "one that blends" if put is None else "one that erases"
        refuse("paste", "plan", "read pixels and have rectangles", kind)
    if plan.resizes:
        partner = fn.permute_batch(image, indices=plan.source[1])
        resized = (resize_each or resize_by_operator)(partner, put.extent[1])
        return fn.multi_paste(image, resized, out_anchors=put.anchor, output_size=list(plan.size))
    return fn.multi_paste(
        image,
        in_ids=plan.source,
        in_anchors=taken.anchor,
        shapes=taken.extent,
        out_anchors=put.anchor,
        output_size=list(plan.size),
    )


def paste_cells(sample: Sample, plan: MixPlan) -> Sample:
    """Fill the cells of each region of each sample from the region's source.

    On the CPU runs of cells become rectangles. A batch of 64 images of 224 px took 6 ms so for the
    areas of `FMix`, 28 ms by arithmetic, and 4 ms for CutMix. On a GPU DALI would sweep hundreds of
    rectangles on the host, and arithmetic selects there.

    Args:
        sample: ``[height, width, channels]`` of the plan's size and any number type, CPU or GPU.
        plan: A plan of nodes with `MixPlan.owner`.
    """
    if sample.image.device != "cpu":
        shown = [_shown(plan, region) for region in range(plan.num_regions)]
        return sample.change(partial(_selected, plan=plan, shown=shown))
    source, anchor, extent = python_nodes(
        partial(runs, cell=plan.cell, size=plan.size), 3, plan.source, plan.owner
    )
    rect = Rect(anchor, extent)
    rectangles = replace(plan, source=source, taken=rect, put=rect, owner=None)
    return sample.change(partial(paste_regions, plan=rectangles))


def _shown(plan: MixPlan, region: int) -> DataNode:
    """Return 1 where a region owns a pixel, else 0: ``[height, width, 1]`` uint8, GPU."""
    grid = [-(-side // step) for side, step in zip(plan.size, plan.cell, strict=True)]
    is_shown = fn.cast(plan.owner.gpu() == region, dtype=UINT8)
    # By a whole factor, where no centre of a pixel lies between two cells.
    enlarged = resize(
        fn.reshape(is_shown, shape=[*grid, 1], layout="HWC"),
        size=[count * step for count, step in zip(grid, plan.cell, strict=True)],
        interp_type=types.DALIInterpType.INTERP_NN,
    )
    return fn.slice(enlarged, start=[0, 0], shape=list(plan.size), axes=[0, 1])


def _selected(image: DataNode, plan: MixPlan, shown: Sequence[DataNode]) -> DataNode:
    selected = image * shown[0]
    for region in range(1, len(shown)):
        partner = fn.permute_batch(image, indices=plan.source[region])
        selected = selected + partner * shown[region]
    return selected


def without_empty(plan: MixPlan) -> MixPlan:
    """Name the sample itself as the source of empty regions, in a plan of nodes or arrays.

    DALI 2.4.0 pastes a region of no area right on the CPU. Its GPU kernel opens such a region and
    never closes it, so that the region's source would show (read in ``paste_gpu.h`` and run on the
    host; not yet on a GPU). With the sample itself as the source the kernel shows what was there.
    """
    if (parts := getattr(plan, "plans", None)) is not None:
        plans: Any = tuple(map(without_empty, parts))
        return replace(plan, plans=plans)  # type: ignore[call-arg]
    if plan.taken is None or plan.put is None or plan.resizes:
        return plan
    source, extent = plan.source, plan.put.extent
    if isinstance(source, np.ndarray):
        source = np.where(extent.min(axis=-1) > 0, source, source[:, :1])
    else:
        is_shown = fn.cast(fn.reductions.min(extent, axes=[1]) > 0, dtype=INT32)
        sample = fn.slice(source, start=[0], shape=[1], axes=[0])
        source = sample + (source - sample) * is_shown
    return replace(plan, source=source)


def resize_nearest(mask: DataNode, extent: DataNode) -> DataNode:
    """Resize each mask by the nearest pixel to sides of its own: ``[2]`` int32 (y, x), CPU."""
    nearest = types.DALIInterpType.INTERP_NN
    mask = fn.reshape(mask, layout="HWC")
    return resize(mask, size=fn.cast(extent, dtype=FLOAT), interp_type=nearest)


def resize_by_operator(image: DataNode, extent: DataNode) -> DataNode:
    """Resize each image by DALI's operator to sides of its own: ``[2]`` int32 (y, x), CPU."""
    return resize(fn.reshape(image, layout="HWC"), size=fn.cast(extent, dtype=FLOAT))


def blend(image: DataNode, plan: MixPlan) -> DataNode:
    """Weigh each sample with its sources, pixel by pixel: the sum of ``weight * source``.

    Args:
        image: ``[height, width, channels]`` of any number type per sample, of the plan's size, CPU
            or GPU.
        plan: A plan of nodes that blends, from `mixup_plan` or `mix_plan`; or one of two regions
            from `cutmix_plan`, whose rectangles are not looked at. Only ``source`` and ``weight``
            are read.

    Returns:
        Shape and range of ``image``, float32 (unrounded, so that pixels keep the weights' ratio).

    Raises:
        ValueError: The plan has more than two rectangles.
        RuntimeError: In the first batch, by DALI: an image is not of the plan's size.
    """
    check_nodes("blend", plan)
    if not plan.blends and plan.num_regions > 2:
        way_out = "Apply it with `paste(image, plan)`."
        refuse("blend", "plan", "blend", f"one of {plan.num_regions} rectangles", way_out)
    return blend_sources(of_size(image, plan.size), plan)


def blend_sources(image: DataNode, plan: MixPlan) -> DataNode:
    """Blend as `blend` does, without a look at the sizes of images."""
    blended = image * plan.weight[0]
    for region in range(1, plan.num_regions or 2):
        # Permuted before arithmetic makes it float32, four times the bytes.
        partner = fn.permute_batch(image, indices=plan.source[region])
        blended = blended + partner * plan.weight[region]
    return blended


def erase(
    image: DataNode, plan: MixPlan, *, fill: float | Sequence[float] | None = None
) -> DataNode:
    """Fill each sample's cut with one colour.

    Args:
        image: ``[height, width, channels]`` per sample, of the plan's size, CPU or GPU.
        plan: A plan of nodes with rectangles, from `cutout_plan` or `cutmix_plan`.
        fill: Value, or one value per channel, in the units of ``image``. None takes the plan's
            colour, and 0 where the plan has none.

    Returns:
        Shape, type and device of ``image``.

    Raises:
        ValueError: The plan has no rectangles.
        RuntimeError: In the first batch, by DALI: an image is not of the plan's size.
    """
    check_nodes("erase", plan)
    if plan.owner is not None:
        _refuse_kind("erase", "have rectangles", "one of cells", "paste(image, plan)")
    if plan.put is None:
        _refuse_kind("erase", "have rectangles", "one that blends", "blend(image, plan)")
    if plan.num_regions > 2:
        rule = "have one rectangle besides the image"
        refuse("erase", "plan", rule, f"one of {plan.num_regions} regions")
    if fill is None:
        fill = 0 if plan.fill is None else plan.fill
    return erase_cut(of_size(image, plan.size), plan, fill)


def erase_cut(image: DataNode, plan: MixPlan, fill: float | Sequence[float]) -> DataNode:
    """Erase as `erase` does, without a look at the sizes of images."""
    put = plan.put
    assert put is not None  # as `erase` checks, and `Cutout` draws
    return fn.erase(
        fn.reshape(image, layout="HWC"),
        anchor=fn.cast(put.anchor[-1], dtype=FLOAT),
        shape=fn.cast(put.extent[-1], dtype=FLOAT),
        axes=[0, 1],
        fill_value=fill,
    )


def _refuse_kind(where: str, must: str, got: str, way_out: str) -> NoReturn:
    raise ValueError(f"{where}: `plan` must {must}, got {got}. Apply it with `{way_out}`.")
