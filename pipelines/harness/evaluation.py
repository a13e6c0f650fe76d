"""Loss and accuracy over every validation sample, counted once each over all processes."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from dali_cutmix import DataLoader
from harness.processes import Processes


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None = None,
) -> dict[str, float]:
    """Validate a model on the samples of all processes.

    The processes' parts differ by up to one sample, so by up to one batch. Therefore no step waits
    for another process, and ``model`` is not wrapped for distributed training.

    Args:
        model: Model on the processes' device.
        loader: Loader of this process's part, unshuffled and exact.
        processes: Processes that validate. A process that was asked to stop ends at once, since a
            checkpoint exists.
        autocast: Context of a forward pass.
        max_batches: Validation ends after so many batches; None takes all.

    Returns:
        ``val_loss``, ``top1`` and ``top5`` in percent, and ``num_val``, the samples counted.
    """
    was_training = model.training
    model.eval()
    hits = {
        f"top{k}": MulticlassAccuracy(
            loader.num_classes,
            top_k=min(k, loader.num_classes),
            average="micro",
            validate_args=False,  # validation of arguments waits for the GPU at each batch
        ).to(processes.device)
        for k in (1, 5)
    }
    mean, count = MeanMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
    mean, count = mean.set_dtype(torch.float64), count.set_dtype(torch.float64)
    mean, count = mean.to(processes.device), count.to(processes.device)
    for image, label in islice(loader, max_batches):
        processes.leave_if_asked()
        with autocast:
            logits = model(image)
        logits = logits.float()
        for metric in hits.values():
            metric.update(logits, label)
        mean.update(F.cross_entropy(logits, label, reduction="none").double())
        count.update(len(label))
    model.train(was_training)
    # `compute` adds up the sums of all processes.
    row: dict[str, Any] = {"val_loss": mean.compute().item()}
    row |= {name: 100 * metric.compute().item() for name, metric in hits.items()}
    return {**row, "num_val": int(count.compute().item())}
