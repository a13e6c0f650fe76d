"""Give each sample one of the operations that the automatic augmentations choose from.

The host chooses. The graph splits the batch by kinds of operations, so that each operator sees only
the samples that need the operator. Splitting moves no pixel, and a sample that takes no operation
stays as it is.

On a GPU, operations of few operators run on all samples instead: see `_operate_on_all`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from dali_cutmix.core.dali import FLOAT, DataNode, fn, math, merge, split
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.transforms.affine import WARPS, Interpolation, matrices
from dali_cutmix.transforms.blends import BlendPlan, blended, plan_blends
from dali_cutmix.transforms.color_ops import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    ring,
    ring_of_each,
)
from dali_cutmix.transforms.moves import follow_warp
from dali_cutmix.transforms.tables import (
    autocontrast,
    change_levels,
    equalize,
    posterize_code,
    solarize_code,
)
from dali_cutmix.transforms.warps import by_dali, colour_of


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

#: Operations that change a level by a fixed rule, whatever the other pixels are.
_LEVELS = ("Posterize", "Solarize", "Invert")

#: Every kind. `OperationPlan.kind` is an index of this list.
_KINDS = (
    Kind(("Identity",), lambda image: image),
    Kind(("ShearX", "ShearY", "Rotate"), by_dali, ("matrix",)),
    Kind(("TranslateX", "TranslateY"), by_dali, ("matrix",)),
    Kind(("Brightness",), adjust_brightness, ("factor",)),
    Kind(("Color",), adjust_saturation, ("factor",)),
    Kind(("Contrast",), adjust_contrast, ("factor",)),
    Kind(("Sharpness",), adjust_sharpness, ("factor",)),
    Kind(_LEVELS, change_levels, ("code",)),
    Kind(("Equalize",), equalize),
    # Last, so that one turn can do it for the next turn too: see `operate_in_turn`.
    Kind(("AutoContrast",), autocontrast),
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
        code: What `change_levels` does to levels: scalar uint16 per sample.
        blend: What a GPU reads in the place of ``factor``; None where no operation has a factor.
    """

    kind: Any
    matrix: Any = None
    pivot: Any = None
    share: Any = None
    factor: Any = None
    code: Any = None
    blend: BlendPlan | None = None


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
        blend = plan_blends(numbers["factor"], is_chosen)
    if "code" in fields:
        is_solarize, is_invert, is_posterize = (
            is_chosen.get(name, nowhere) for name in ("Solarize", "Invert", "Posterize")
        )
        threshold = np.where(is_solarize, np.ceil((255 * level).astype(np.float32)), 256)
        threshold = np.where(is_invert, 0, threshold)
        bits = np.where(is_posterize, np.trunc(level), 8)
        numbers["code"] = np.where(is_posterize, posterize_code(bits), solarize_code(threshold))
    return OperationPlan(kind, **numbers, blend=blend)


def operate(
    sample: Sample,
    names: Sequence[str],
    plan: OperationPlan,
    frame: Frame,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0,
    is_stretched: DataNode | None = None,
) -> Sample:
    """Apply one operation to each sample.

    Args:
        sample: The samples.
        names: Operations to choose from, as `plan_operations` took them.
        plan: The plan of `plan_operations`, with nodes on the CPU as leaves.
        frame: Of these samples.
        interpolation: How shears and turns make a pixel; see `by_dali`.
        fill: Level, or levels R, G, B, of pixels from outside.
        is_stretched: Whether a sample takes ``"AutoContrast"`` behind its operation: scalar bool
            per sample, CPU. None: no sample.
    """
    image = sample.image
    if plan.share is not None:
        plan = replace(plan, matrix=_matrix_of_each(image, plan))
    left = [name for name in names if name != "Identity"]
    if image.device == "gpu":
        image, left = _operate_on_all(image, left, plan, frame, interpolation, fill)
    for index in sorted({_INDEX[name] for name in left}):
        kind = _KINDS[index]
        is_chosen = plan.kind == index
        if kind.operate is autocontrast and is_stretched is not None:
            is_chosen = is_chosen | is_stretched
        numbers = {field: getattr(plan, field) for field in kind.fields}
        function = kind.operate
        if function is adjust_sharpness:
            numbers |= ring_of_each(image, frame) if frame.varies else ring(image, frame)
        elif "matrix" in kind.fields:
            # All interpolations of a shift by whole pixels are equal.
            by_name = interpolation if "Rotate" in kind.names else "nearest"
            inside = frame.within(is_chosen)
            function = partial(by_dali, kernel=by_name, fill=colour_of(fill), frame=inside)
        part, others = split(image, is_chosen)
        part = function(part, **{name: split(node, is_chosen)[0] for name, node in numbers.items()})
        image = merge(part, others, is_chosen)
    is_followed = sample.masks or sample.matrix is not None
    if plan.matrix is None or not is_followed:
        return replace(sample, image=image)
    return follow_warp(sample, image, plan.matrix, frame)


def operate_in_turn(
    sample: Sample,
    names: Sequence[str],
    plans: Sequence[OperationPlan],
    frame: Frame,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0,
) -> Sample:
    """Apply one operation of each plan, in turn.

    The last two turns share one autocontrast, behind the other operations of the first of both. No
    pixel differs: what a sample takes stays in order, and to stretch levels again changes nothing.

    Args:
        sample, names, frame, interpolation, fill: As of `operate`.
        plans: As of `operate`, for each turn.
    """
    settings = frame, interpolation, fill
    is_stretched = None
    for number, plan in enumerate(plans):
        if number == len(plans) - 2:
            is_stretched = plans[-1].kind == _INDEX["AutoContrast"]
        elif is_stretched is not None:
            names = [name for name in names if name != "AutoContrast"]
        sample = operate(sample, names, plan, *settings, is_stretched)
    return sample


def _operate_on_all(
    image: DataNode,
    names: Sequence[str],
    plan: OperationPlan,
    frame: Frame,
    interpolation: Interpolation,
    fill: float | Sequence[float],
) -> tuple[DataNode, list[str]]:
    """Apply operations of few operators on a GPU, with neutral numbers for other samples.

    To split a batch takes the host longer than to start an operator for all samples. The GPU does
    more work instead. Autocontrast and equalize are most of the launches, and stay apart.

    Returns:
        The images, and the names of the operations that are left.
    """
    done: set[str] = set()
    if plan.matrix is not None:
        image = by_dali(image, plan.matrix, interpolation, colour_of(fill), frame)
        done.update(WARPS)
    if plan.blend is not None and not frame.varies:
        image = blended(image, plan.blend, frame)
        done.update(_BLENDS)
    if plan.code is not None:
        image = change_levels(image, plan.code)
        done.update(_LEVELS)
    return image, [name for name in names if name not in done]


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
