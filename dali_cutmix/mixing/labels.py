"""Labels of mixed samples: each source's class, weighed by what the pixels show.

The loader weighs labels on the host. `mixed_target` is the small Python operator for graphs that
users write: DALI runs Python operators one at a time in the process, so this operator is called
once per batch and handles a few numbers per sample. `dense_target` and `mixed_cross_entropy` come
after the graph, in torch.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dali_cutmix.core.checks import (
    Told,
    check_choice,
    check_count,
    check_prob,
    is_whole,
    refuse,
)
from dali_cutmix.core.dali import DataNode, python_node
from dali_cutmix.mixing.plan import MixPlan, check_nodes


class MixedTarget(NamedTuple):
    """Classes and their weights per sample: the small form of a mixed target.

    In a graph the fields are nodes, with the shapes below. A loader with ``target="pair"`` gives
    tensors with a batch axis in front.

    Attributes:
        label: Class of each source, the sample's own first: ``[k]`` int64. Classes may repeat.
        weight: Weight of each, in [0, 1], summing to 1: ``[k]`` float32.
    """

    label: Any
    weight: Any


def mixed_target(label: DataNode, plan: MixPlan) -> MixedTarget:
    """Weigh the class of each source of a sample by what the pixels show.

    A pure function of labels and plan, which draws nothing and keeps nothing.

    Args:
        label: Class index: an integer per sample, scalar or ``[1]``, CPU.
        plan: From any plan function, with ``k`` regions.

    Returns:
        ``label`` ``[k]`` int64 and ``weight`` ``[k]`` float32 per sample, CPU. `dense_target` turns
        a batch of them into rows on the device.
    """
    check_nodes("mixed_target", plan)
    return MixedTarget(python_node(_labels_of_sources, label, plan.source), plan.weight)


def _labels_of_sources(label: list[np.ndarray], source: list[np.ndarray]) -> list[np.ndarray]:
    for value in label:
        if value.size != 1 or not np.issubdtype(value.dtype, np.integer):
            raise ValueError(
                "mixed_target: `label` must be one class index per sample, got "
                f"{value.dtype} of shape {value.shape}. Class weights are made by dense_target, "
                "later."
            )
    labels = np.array(label, np.int64).reshape(-1)
    # DALI takes a list of arrays per sample, not one array for the batch.
    return list(labels[np.array(source)])


def pair_labels(label: np.ndarray, plan: MixPlan) -> MixedTarget:
    """Weigh the class of each source of a sample, on the host; see `mixed_target`.

    Args:
        label: Class index of each sample: ``[B]`` int64.
        plan: A plan of arrays.

    Returns:
        ``label`` ``[B, k]`` int64 and ``weight`` ``[B, k]`` float32, a copy.
    """
    return MixedTarget(label[plan.source], plan.weight.copy())


def unmixed_target(label: torch.Tensor, num_sources: int = 2) -> MixedTarget:
    """Write class indices in the form of a mixed target, all weight on the first class.

    Args:
        label: ``[B]`` int64.
        num_sources: Classes per sample, ``k``.

    Returns:
        ``label`` ``[B, k]`` int64, the class repeated, and ``weight`` ``[B, k]`` float32.
    """
    weight = torch.zeros((len(label), num_sources), dtype=torch.float32, device=label.device)
    weight[:, 0] = 1
    return MixedTarget(label[:, None].repeat(1, num_sources), weight)


def dense_target(target: MixedTarget, num_classes: int) -> torch.Tensor:
    """Expand a mixed target into a row of class weights per sample, on its device.

    Weights of equal classes add up.

    Args:
        target: ``label`` ``[B, k]`` int64 and ``weight`` ``[B, k]`` float32.
        num_classes: Number of columns, above every label.

    Returns:
        ``[B, num_classes]`` float32, rows summing to 1.

    Raises:
        ValueError: ``target`` is not a `MixedTarget` of such shapes, or on a CPU holds a label
            outside ``[0, num_classes)``. On a GPU torch stops at such a label.
    """
    where = "dense_target"
    if not isinstance(target, MixedTarget):
        way_out = "Class indices become rows by `torch.nn.functional.one_hot`."
        refuse(where, "target", "be a MixedTarget", type(target).__name__, way_out)
    check_count(where, "num_classes", num_classes, at_least=1)
    _check_pair(where, target)
    rows = target.weight.new_zeros((target.weight.shape[0], num_classes))
    try:
        return rows.scatter_add_(1, target.label, target.weight)
    except RuntimeError:
        _refuse_outside(where, target.label, num_classes)
        raise


def _check_class_weights(weight: object, num_classes: int) -> None:
    shape = tuple(getattr(weight, "shape", ()))
    if shape != (num_classes,):
        rule = f"be a tensor of the shape {(num_classes,)}"
        refuse("mixed_cross_entropy", "weight", rule, shape)


def mixed_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor | MixedTarget,
    label_smoothing: float = 0.0,
    *,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> torch.Tensor:
    """Return the cross entropy against any target that a loader gives.

    Arguments mean what they mean in ``torch.nn.functional.cross_entropy``. The loss of a sample
    with the pair form is ``sum(target.weight[i] * cross_entropy(logits, target.label[i]))``, as the
    papers write. That sum is torch's loss on the dense form, and needs no dense target. Smoothing
    applies to every sample, mixed or not, and commutes with mixing. Half precision ``logits`` are
    computed in float32.

    With class weights torch has two means, which differ where the classes of a batch differ:

    - Dense: the sum over the samples, divided by the number of samples.
    - Class indices: the sum, divided by the sum of the class weights of the labels.
    - Pair: torch's mean for class indices in each of the ``k`` columns, and the sum over the
      columns. With equal shares in all samples the result is
      ``share[0] * cross_entropy(logits, label[:, 0]) + share[1] * ...``.

    Args:
        logits: Unnormalised scores: ``[B, num_classes]`` float.
        target: Class weights ``[B, num_classes]`` float, class indices ``[B]`` int64, or a
            `MixedTarget` of ``k`` classes, ``label`` and ``weight`` ``[B, k]``. On the device of
            ``logits``.
        label_smoothing: Share of each target spread evenly over all classes, in [0, 1].
        weight: Factor of each class, ``[num_classes]`` float, on the device of ``logits``; None
            stands for 1.
        ignore_index: Class index that adds nothing to the loss, nor to the number that ``"mean"``
            divides by. Negative with a dense target, which has no indices.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``.

    Returns:
        Scalar; ``[B]`` with ``"none"``.

    Raises:
        ValueError: An argument outside its range, named with its value; a target of another batch
            or of other classes than ``logits``; or, on a CPU, a label that ``logits`` lack.
    """
    where, num_classes = "mixed_cross_entropy", logits.shape[:2][-1]
    check_prob(where, label_smoothing, "label_smoothing")
    check_choice(where, "reduction", reduction, ("mean", "sum", "none"))
    if not is_whole(ignore_index):
        refuse(where, "ignore_index", "be a whole number", ignore_index)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if weight is not None:
        _check_class_weights(weight, num_classes)
        weight = weight.to(logits.dtype)
    if not isinstance(target, MixedTarget):
        if not isinstance(target, torch.Tensor):
            way_out = "A label and a weight of your own go into `MixedTarget(label, weight)`."
            got = type(target).__name__
            refuse(where, "target", "be a tensor or a MixedTarget", got, way_out)
        if target.is_floating_point():
            _check_dense(logits, target, num_classes)
            target = target.to(logits.dtype)
            if ignore_index >= 0:
                refuse(where, "ignore_index", "be negative with a dense target", ignore_index)
        try:
            return F.cross_entropy(
                logits,
                target,
                weight,
                ignore_index=ignore_index,
                reduction=reduction,
                label_smoothing=label_smoothing,
            )
        except IndexError:
            _refuse_outside(where, target, num_classes, ignore_index)
            raise
    losses, factor = _pair_losses(logits, target, label_smoothing, weight, ignore_index)
    if reduction == "none":
        return losses.sum(dim=1)
    if reduction == "sum":
        return losses.sum()
    total = factor.sum(dim=0)
    # torch's mean over no weight is NaN also where smoothing adds to the sum.
    return (losses.sum(dim=0) / total.where(total != 0, math.nan)).sum()


def _pair_losses(
    logits: torch.Tensor,
    target: MixedTarget,
    label_smoothing: float,
    weight: torch.Tensor | None,
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each class of each sample, and the class weight: ``[B, k]`` float each."""
    # `gather` would take the first rows of a larger batch, and broadcasting fewer weights.
    _check_pair("mixed_cross_entropy", target)
    if logits.ndim != 2 or len(logits) != len(target.label):
        rule = f"be [{len(target.label)}, num_classes], as the target's samples are"
        refuse("mixed_cross_entropy", "logits", rule, list(logits.shape))
    counts = target.label != ignore_index
    label = target.label.where(counts, 0)
    log_prob = F.log_softmax(logits, dim=1)
    try:
        losses = -log_prob.gather(1, label)
    except RuntimeError:
        _refuse_outside("mixed_cross_entropy", label, logits.shape[1])
        raise
    factor = counts.to(logits.dtype) if weight is None else weight[label] * counts
    losses = losses * factor
    if label_smoothing:
        spread = log_prob.sum(dim=1) if weight is None else log_prob.mv(weight)
        share = label_smoothing / logits.shape[1]
        losses = (1 - label_smoothing) * losses - share * spread[:, None] * counts
    return losses * target.weight, factor


def _check_dense(logits: torch.Tensor, target: torch.Tensor, num_classes: int) -> None:
    """Refuse class weights that are not of the samples and classes of the logits."""
    if target.shape == logits.shape:
        return
    where, shape = "mixed_cross_entropy", list(logits.shape)
    if logits.ndim == target.ndim == 2 and len(logits) == len(target):
        rule = f"have {num_classes} classes, as `logits` have"
        way_out = f"Give the model {target.shape[1]} outputs"
        if target.shape[1] < num_classes:
            way_out += f", or the loader `num_classes={num_classes}`"
        refuse(where, "target", rule, target.shape[1], f"{way_out}.")
    got = Told(f"{list(target.shape)} of {target.dtype}")
    way_out = "Class indices are int64." if target.ndim < logits.ndim else ""
    refuse(where, "target", f"be class weights {shape}, as `logits` are", got, way_out)


def _refuse_outside(
    where: str, label: torch.Tensor, num_classes: int, ignore_index: int | None = None
) -> None:
    """Refuse a label without a class. Called after an error, and silent where all have one.

    Looked for then alone: on a GPU the host would wait, and a compiler knows no values.
    """
    is_outside = (label < 0) | (label >= num_classes)
    if ignore_index is not None:
        is_outside &= label != ignore_index
    if is_outside.any():
        got = Told(f"a label {int(label[is_outside][0])}")
        refuse(where, "target", f"hold labels in [0, {num_classes})", got)


def _check_pair(where: str, target: MixedTarget) -> None:
    """Refuse all but a label and a weight ``[B, k]``."""
    label, weight = (list(getattr(part, "shape", ())) for part in target)
    if len(label) != 2 or label != weight:
        refuse(where, "target", "hold `label` and `weight` [B, k]", Told(f"{label} and {weight}"))
