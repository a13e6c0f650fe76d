"""Learning rate and image size by epoch, weight decay by layer, and averaged weights.

Schedules depend on the epoch alone, so that checkpoints need not hold a scheduler.
"""

from __future__ import annotations

import math

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def stepped(lr: float, epoch: int, milestones: tuple[int, ...]) -> float:
    """Return a learning rate that is divided by 10 before each milestone, an epoch from 0."""
    return float(lr * 0.1 ** sum(epoch >= start for start in milestones))


def cosine(lr: float, epoch: int, epochs: int, warmup: int = 0, start: float = 0.01) -> float:
    """Return a learning rate that rises linearly and falls along half a cosine to 0.

    Args:
        lr: Highest learning rate, reached in epoch ``warmup``.
        epoch: Epoch, from 0.
        epochs: Epochs of the run.
        warmup: Epochs in which the learning rate rises.
        start: Share of ``lr`` in epoch 0 of a warmup.
    """
    if epoch < warmup:
        return lr * (start + (1 - start) * epoch / warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def polynomial(lr: float, epoch: int, epochs: int) -> float:
    """Return a learning rate that falls to 0 by the power 0.9, as usual in segmentation.

    Args:
        lr: Learning rate in epoch 0.
        epoch: Epoch, from 0.
        epochs: Epochs of the run.
    """
    return float(lr * (1 - epoch / epochs) ** 0.9)


def size_of(epoch: int, sizes: tuple[int, ...], milestones: tuple[int, ...]) -> int:
    """Return the side of the training images in pixels: each milestone starts the next size."""
    return sizes[sum(epoch >= start for start in milestones)]


def decaying(model: nn.Module, weight_decay: float, norm_weight_decay: float | None) -> list[dict]:
    """Return parameter groups for an optimizer, with another weight decay for normalisation.

    Args:
        model: Model whose parameters are grouped.
        weight_decay: Decay of all other parameters.
        norm_weight_decay: Decay of weights and biases of normalisation layers; None takes
            ``weight_decay``.
    """
    if norm_weight_decay is None:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    of_norms = [
        p for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)
    ]
    known = set(map(id, of_norms))
    others = [p for p in model.parameters() if id(p) not in known]
    return [
        {"params": of_norms, "weight_decay": norm_weight_decay},
        {"params": others, "weight_decay": weight_decay},
    ]


def averaged(
    model: nn.Module, decay: float, *, batch_size: int, every: int, epochs: int
) -> AveragedModel:
    """Return an exponential moving average of a model's weights and buffers.

    The decay is stated for a step of one sample in a run of one epoch, and rescaled to the run, as
    in torchvision's references. So the decay need not be tuned with the batch size.

    Args:
        model: Model on its device.
        decay: Share of the average that an update keeps.
        batch_size: Samples per step over all processes.
        every: Steps from one update to the next.
        epochs: Epochs of the run.
    """
    alpha = min(1.0, (1 - decay) * batch_size * every / epochs)
    update = get_ema_multi_avg_fn(1 - alpha)
    device = next(model.parameters()).device  # the counter too, which ranks may exchange
    return AveragedModel(model, device=device, multi_avg_fn=update, use_buffers=True)
