"""Give each sample one of the operations that the automatic augmentations choose from.

The host chooses. The graph splits the batch by kinds of operations, so that each operator sees only
the samples that need the operator. Splitting moves no pixel, and a sample that takes no operation
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from dali_cutmix.core.dali import FLOAT, DataNode, fn, math, merge, split
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.transforms.affine import WARPS, Interpolation, matrices, warp
from dali_cutmix.transforms.color_ops import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    blend_all,
    gray_channels,
    inner,
    ring,
    ring_of_each,
    smooth,
    solarize_and_posterize,
)
from dali_cutmix.transforms.moves import follow_warp
from dali_cutmix.transforms.tables import autocontrast, equalize
from dali_cutmix.transforms.warps import colour_of


class Kind(NamedTuple):
    """Hold operations that are one operator with different numbers.

    Attributes:
        names: Names of the operations.
        operate: Makes images of images and, by keyword, of the fields of a plan.
        fields: Names of these fields of `OperationPlan`.
    """

    names: tuple[str, ...]
    operate: Callable[..., DataNode]
    fields: tuple[str, ...] = ()


#: Type and place of torch's numbers, whatever the process's defaults are.
_FLOATS: Any = {"dtype": torch.float32, "device": "cpu"}

#: Every kind. `OperationPlan.kind` is an index of this list.
_KINDS = (
    Kind(("Identity",), lambda image: image),
    Kind(("ShearX", "ShearY", "Rotate"), warp, ("matrix",)),
    Kind(("TranslateX", "TranslateY"), warp, ("matrix",)),
    Kind(("Brightness",), adjust_brightness, ("factor",)),
    Kind(("Color",), adjust_saturation, ("factor",)),
    Kind(("Contrast",), adjust_contrast, ("factor",)),
    Kind(("Sharpness",), adjust_sharpness, ("factor",)),
    Kind(("Posterize", "Solarize", "Invert"), solarize_and_posterize, ("threshold", "mask")),
    Kind(("AutoContrast",), autocontrast),
    Kind(("Equalize",), equalize),
)
_INDEX = {name: index for index, kind in enumerate(_KINDS) for name in kind.names}

#: Operations with a factor, which is 1 where nothing changes.
_BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")

#: Operations that TrivialAugment and RandAugment choose from, in torchvision's order.
OPERATIONS = (
    "Identity",
    *WARPS,
    *_BLENDS,
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)

#: Operations whose level is negated for half of the samples.
SIGNED = {*WARPS, *_BLENDS}


@dataclass(frozen=True)
class OperationPlan:
    """Say which operation each sample takes, and by which numbers.

    A field that no operation of the list needs is None. A sample that takes no operation of a
    field has the field's neutral number.

    Attributes:
        kind: Index of the kind; 0 for none: scalar int32 per sample.
        matrix: Affine map: ``[2, 3]`` float32 per sample. Where sizes of images vary, the map of an
            image without sides, to which `operate` adds the next two.
        pivot: Point that a turn keeps, as a share of both sides, where sizes vary: scalar float32
            per sample.
        share: Shift as a share of the sides, where sizes vary: ``[2]`` float32 (x, y) per sample.
        factor: Share of the image itself, at least 0: scalar float32 per sample.
        threshold: Level in [0, 256] from which on levels are inverted: scalar int32 per sample.
        mask: Bits of a level that are kept: scalar uint8 per sample.
        blend: What a GPU reads in the place of ``factor``; None where no operation has a factor.
    """

    kind: Any
    matrix: Any = None
    pivot: Any = None
    share: Any = None
    factor: Any = None
    threshold: Any = None
    mask: Any = None
    blend: BlendPlan | None = None


@dataclass(frozen=True)
class BlendPlan:
    """Say how each sample is blended with another image of its own, for `blend_all`.

    Attributes:
        is_blended: Whether a sample is blended at all: scalar bool per sample.
        is_gray: Whether the other image is the gray one: scalar bool per sample.
        is_smooth: Whether the other image is the smooth one: scalar bool per sample.
        matrix: Map of both images to levels: ``[3, 6]`` float32 per sample.
        rest: Share of the other image's mean level: scalar float32 per sample.
    """

    is_blended: Any
    is_gray: Any
    is_smooth: Any
    matrix: Any
    rest: Any


def levels(num_bins: int, size: tuple[int, int], *, wide: bool) -> dict[str, np.ndarray]:
    """Return how strong each operation is in each bin.

    Args:
        num_bins: Number of strengths, at least 2.
        size: ``(height, width)`` of the images, in pixels. ``(1, 1)`` where sizes vary: shifts are
            then shares of a side, unless ``wide``.
        wide: Take TrivialAugment's ranges instead of AutoAugment's and RandAugment's.

    Returns:
        ``[num_bins]`` float64 by name of operation; zeros for operations without a strength.

    Source:
        torchvision 0.29, ``v2.TrivialAugmentWide``, ``v2.RandAugment`` and ``v2.AutoAugment``.
    """
    height, width = size

    def between(first: float, last: float) -> np.ndarray:
        # torch's, whose last bits decide to which whole pixel or level a bin is truncated.
        return torch.linspace(first, last, num_bins, **_FLOATS).double().numpy()

    def up_to(most: float) -> np.ndarray:
        return between(0.0, most)

    colour = up_to(0.99 if wide else 0.9)
    shear = up_to(0.99 if wide else 0.3)
    bits = torch.arange(num_bins, **_FLOATS) / ((num_bins - 1) / (6 if wide else 4))
    strengths = {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": up_to(32.0 if wide else 150.0 / 331.0 * width),
        "TranslateY": up_to(32.0 if wide else 150.0 / 331.0 * height),
        "Rotate": up_to(135.0 if wide else 30.0),
        "Brightness": colour,
        "Color": colour,
        "Contrast": colour,
        "Sharpness": colour,
        "Posterize": (8 - bits).round().double().numpy(),
        "Solarize": between(1.0, 0.0),
    }
    zeros = np.zeros(num_bins)
    return {name: strengths.get(name, zeros) for name in _INDEX}


def plan_operations(
    names: Sequence[str],
    chosen: np.ndarray,
    level: np.ndarray,
    size: tuple[int, int] | None,
    *,
    wide: bool = False,
) -> OperationPlan:
    """Turn the choice of an operation for each sample into the operators' numbers.

    Args:
        names: Operations to choose from.
        chosen: Index in ``names`` of each sample's operation: ``[B]`` integers; -1 for none.
        level: How strong, with a sign: ``[B]`` float64, in units of `levels`.
        size: ``(height, width)`` of the images, in pixels; None where sizes vary.
        wide: Whether shifts are pixels where sizes vary, and not shares of a side.

    Returns:
        Arrays ``[B, ...]``, so that every batch of the same ``names`` has the same fields.
    """
    is_chosen = {name: chosen == index for index, name in enumerate(names)}
    nowhere = np.zeros(len(chosen), bool)
    kind = np.array([*(_INDEX[name] for name in names), 0], np.int32)[chosen]
    fields = {field for name in names for field in _KINDS[_INDEX[name]].fields}
    numbers: dict[str, np.ndarray] = {}
    blend = None
    if "matrix" in fields:
        sides = size or (0, 0)
        matrix = matrices("ShearX", np.zeros(len(chosen)), sides)
        for name in WARPS:
            is_warped = is_chosen.get(name, nowhere)[:, None, None]
            # A share of a side, below 1, is no pixel.
            matrix = np.where(is_warped, matrices(name, level, sides), matrix)
        numbers["matrix"] = matrix
        if size is None:
            numbers["pivot"] = np.where(is_chosen.get("Rotate", nowhere), 0.5, 0).astype(np.float32)
            is_shifted = [is_chosen.get(f"Translate{axis}", nowhere) for axis in "XY"]
            share = np.where(np.stack(is_shifted, axis=1), 0.0 if wide else level[:, None], 0.0)
            numbers["share"] = share.astype(np.float32)
    if "factor" in fields:
        is_blend = np.isin(kind, [_INDEX[name] for name in _BLENDS])
        numbers["factor"] = np.where(is_blend, 1 + level, 1.0).astype(np.float32)
        blend = _plan_blends(numbers["factor"], is_blend, is_chosen)
    if "threshold" in fields:
        is_solarize, is_invert, is_posterize = (
            is_chosen.get(name, nowhere) for name in ("Solarize", "Invert", "Posterize")
        )
        threshold = np.where(is_solarize, np.ceil((255 * level).astype(np.float32)), 256)
        numbers["threshold"] = np.where(is_invert, 0, threshold).astype(np.int32)
        dropped = np.where(is_posterize, 8 - np.trunc(level), 0).astype(np.int32)
        numbers["mask"] = (255 >> dropped << dropped).astype(np.uint8)
    return OperationPlan(kind, **numbers, blend=blend)


def _plan_blends(
    factor: np.ndarray, is_blended: np.ndarray, is_chosen: Mapping[str, np.ndarray]
) -> BlendPlan:
    """Return how samples are blended.

    Args:
        factor: Share of the image itself: ``[B]`` float32.
        is_blended: Whether a sample is blended at all: ``[B]`` bool.
        is_chosen: Whether a sample takes an operation, by the operation's name: ``[B]`` bool each.
    """
    nowhere = np.zeros(len(factor), bool)
    is_color, is_contrast, is_sharpness = (
        is_chosen.get(name, nowhere) for name in ("Color", "Contrast", "Sharpness")
    )
    rest = 1 - factor
    shares = np.stack([factor, np.where(is_color | is_sharpness, rest, 0)], axis=1)
    return BlendPlan(
        is_blended,
        is_color | is_contrast,
        is_sharpness,
        np.einsum("bk,ij->bikj", shares, np.eye(3, dtype=np.float32)).reshape(-1, 3, 6),
        np.where(is_contrast, rest, np.float32(0)),
    )


def operate(
    sample: Sample,
    names: Sequence[str],
    plan: OperationPlan,
    frame: Frame,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0,
) -> Sample:
    """Apply one operation to each sample.

    Args:
        sample: The samples.
        names: Operations to choose from, as `plan_operations` took them.
        plan: The plan of `plan_operations`, with nodes on the CPU as leaves.
        frame: Of these samples.
        interpolation: How shears and turns make a pixel; see `warp`.
        fill: Level, or levels R, G, B, of pixels from outside.
    """
    image = sample.image
    on_gpu = image.device == "gpu"
    if plan.share is not None:
        plan = replace(plan, matrix=_matrix_of_each(image, plan))
    kinds = {_INDEX[name] for name in names} - {0}
    if on_gpu and plan.matrix is not None:
        # All samples, those that do not move by a neutral map: to split a batch takes longer.
        image = warp(image, plan.matrix, interpolation, colour_of(fill), frame)
        kinds -= {_INDEX[name] for name in WARPS}
    if on_gpu and plan.blend is not None and not frame.varies:
        image = blended(image, plan.blend, frame)
        kinds -= {_INDEX[name] for name in _BLENDS}
    for index in sorted(kinds):
        kind = _KINDS[index]
        is_chosen = plan.kind == index
        numbers = {field: getattr(plan, field) for field in kind.fields}
        function = kind.operate
        if function is adjust_sharpness:
            numbers |= ring_of_each(image, frame) if frame.varies else ring(image, frame)
        elif "matrix" in kind.fields:
            # All interpolations of a shift by whole pixels are equal.
            by_name = interpolation if "Rotate" in kind.names else "nearest"
            inside = frame.within(is_chosen)
            function = partial(warp, interpolation=by_name, fill=colour_of(fill), frame=inside)
        part, others = split(image, is_chosen)
        part = function(part, **{name: split(node, is_chosen)[0] for name, node in numbers.items()})
        image = merge(part, others, is_chosen)
    is_followed = sample.masks or sample.matrix is not None
    if plan.matrix is None or not is_followed:
        return replace(sample, image=image)
    return follow_warp(sample, image, plan.matrix, frame)


def blended(image: DataNode, plan: BlendPlan, frame: Frame) -> DataNode:
    """Blend the samples that take a factor, whatever with, by one chain of operators.

    A GPU runs this chain. The CPU runs an operator for each name, which takes less time there.

    Args:
        image: ``[height, width, 3]`` uint8 per sample.
        plan: The plan of `plan_operations`.
        frame: Of these images, which have one size.
    """
    gray, others = split(image, plan.is_gray)
    other = merge(gray_channels(gray), others, plan.is_gray)
    if min(frame.size) > 2:  # else there is nothing inside of the outermost ring
        sharp, others = split(image, plan.is_smooth)
        kernel, corner = (split(node, plan.is_smooth)[0] for node in inner(image, frame))
        others = split(other, plan.is_smooth)[1]
        other = merge(smooth(sharp, kernel, corner, frame.size), others, plan.is_smooth)
    part, others = split(image, plan.is_blended)
    inputs = (split(node, plan.is_blended)[0] for node in (other, plan.matrix, plan.rest))
    return merge(blend_all(part, *inputs), others, plan.is_blended)


def _matrix_of_each(image: DataNode, plan: OperationPlan) -> DataNode:
    """Return the maps for images of different sizes, in pixels: ``[2, 3]`` float32 per sample."""
    shape = image.shape()
    sides = fn.cast(fn.stack(shape[1], shape[0]), dtype=FLOAT)
    linear = fn.slice(plan.matrix, start=[0], shape=[2], axes=[1])
    point = sides * plan.pivot
    shift = math.floor(math.abs(plan.share * sides)) * ((plan.share > 0.0) * 2.0 - 1.0)
    offset = point - fn.reductions.sum(linear * point, axes=[1]) - shift
    offset = fn.reshape(offset, shape=[2, 1]) + fn.slice(
        plan.matrix, start=[2], shape=[1], axes=[1]
    )
    return fn.cat(linear, offset, axis=1)
