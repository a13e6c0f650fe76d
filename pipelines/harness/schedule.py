"""What changes over a run: learning rate and image size; and which weights decay or are averaged.

Functions of the epoch alone, so that no checkpoint need hold a scheduler.
"""

from __future__ import annotations

import math

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def stepped(lr: float, epoch: int, milestones: tuple[int, ...]) -> float:
    """A learning rate that is divided by 10 before each of these epochs, counted from 0."""
    return float(lr * 0.1 ** sum(epoch >= start for start in milestones))


def cosine(lr: float, epoch: int, epochs: int, warmup: int = 0, start: float = 0.01) -> float:
    """A learning rate that rises in a line and falls in half a cosine to 0.

    Args:
        lr: The highest, reached in epoch ``warmup``.
        epoch: From 0.
        epochs: In the whole run.
        warmup: Epochs in which it rises.
        start: Share of ``lr`` in epoch 0, where there is a warmup.
    """
    if epoch < warmup:
        return lr * (start + (1 - start) * epoch / warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def size_of(epoch: int, sizes: tuple[int, ...], milestones: tuple[int, ...]) -> int:
    """Side of the training images in an epoch: the next of ``sizes`` from each milestone on."""
    return sizes[sum(epoch >= start for start in milestones)]


def decaying(model: nn.Module, weight_decay: float, norm_weight_decay: float | None) -> list[dict]:
    """Groups of parameters for an optimizer: those of normalisation decay by a rate of their own.

    Args:
        model: Its parameters.
        weight_decay: Of all others.
        norm_weight_decay: Of weights and biases of normalisation layers; None is no exception.
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
    """An exponential moving average of a model's weights and buffers.

    The decay is stated for one step of one sample and epoch, and rescaled to what a run has, as
    torchvision's references do, so that it need not be tuned with the batch size.

    Args:
        model: On its device.
        decay: Share of the average that stays at an update.
        batch_size: Samples per step over all processes.
        every: Steps from one update to the next.
        epochs: In the whole run.
    """
    alpha = min(1.0, (1 - decay) * batch_size * every / epochs)
    update = get_ema_multi_avg_fn(1 - alpha)
    device = next(model.parameters()).device  # also of its counter, which ranks may exchange
    return AveragedModel(model, device=device, multi_avg_fn=update, use_buffers=True)
