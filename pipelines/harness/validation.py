"""Loss and accuracy over every validation sample, counted once each over all processes."""

from __future__ import annotations

from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

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
    # Losses, labels that rank first, labels among the first five, and samples, each added up in
    # float64. No batch waits for the GPU.
    sums = torch.zeros(4, dtype=torch.float64, device=processes.device)
    for image, label in islice(loader, max_batches):
        processes.leave_if_asked()
        with autocast:
            logits = model(image)
        logits = logits.float()
        hits = logits.topk(min(5, loader.num_classes)).indices == label[:, None]
        losses = F.cross_entropy(logits, label, reduction="none")
        counted = [losses.double().sum(), hits[:, 0].sum(), hits.sum()]
        sums[:3] += torch.stack([count.double() for count in counted])
        sums[3] += len(label)
    model.train(was_training)
    sums = processes.gather(sums).sum(0)
    loss, top1, top5, _ = (sums / sums[3]).tolist()
    return {"val_loss": loss, "top1": 100 * top1, "top5": 100 * top5, "num_val": int(sums[3])}
