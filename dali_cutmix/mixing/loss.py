"""Mixed targets in PyTorch: dense rows, and a cross entropy that does not need them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dali_cutmix.core.checks import check_prob
from dali_cutmix.mixing.labels import MixedTarget


def dense_target(target: MixedTarget, num_classes: int) -> torch.Tensor:
    """Expand a mixed target into one row of class weights per sample, on its device.

    Where both classes are the same their weights add up.

    Args:
        target: ``label`` ``[B, 2]`` int64 and ``weight`` ``[B, 2]`` float32.
        num_classes: Number of columns, above every label.

    Returns:
        ``[B, num_classes]`` float32, rows summing to 1.
    """
    rows = target.weight.new_zeros((target.weight.shape[0], num_classes))
    return rows.scatter_add_(1, target.label, target.weight)


def own_target(label: torch.Tensor) -> MixedTarget:
    """Class indices ``[B]`` int64 in the form of a mixed target: all weight on the own class."""
    weight = torch.zeros((len(label), 2), dtype=torch.float32, device=label.device)
    weight[:, 0] = 1
    return MixedTarget(label[:, None].repeat(1, 2), weight)


def mixed_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor | MixedTarget, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross entropy against any target a loader yields, averaged over the batch.

    Equals ``torch.nn.functional.cross_entropy`` on the dense form. With the pair form no dense
    target is made. Smoothing applies to every sample, mixed or not, and commutes with mixing.
    Computed in float32 when ``logits`` are in half precision.

    Args:
        logits: Unnormalised scores: ``[B, num_classes]`` float.
        target: Class weights ``[B, num_classes]`` float, class indices ``[B]`` int64, or a
            `MixedTarget`, on the device of ``logits``.
        label_smoothing: Share of each target spread evenly over all classes, in [0, 1].

    Returns:
        Scalar.
    """
    check_prob("mixed_cross_entropy", label_smoothing, "label_smoothing")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if not isinstance(target, MixedTarget):
        if target.is_floating_point():
            target = target.to(logits.dtype)
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    log_prob = F.log_softmax(logits, dim=1)
    loss = -(log_prob.gather(1, target.label) * target.weight).sum(dim=1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing / logits.shape[1] * log_prob.sum(
            dim=1
        )
    return loss.mean()
