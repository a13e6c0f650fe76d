"""Layers that disturb a network in training: ShakeDrop, stochastic depth and DropBlock.

They have no parameters and keep nothing in a checkpoint. All numbers are drawn on the device: the
host never waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Scaled(torch.autograd.Function):
    """Multiply a tensor by one factor, and its gradient by another factor."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, on_value: torch.Tensor, on_gradient: torch.Tensor
    ) -> Any:
        """Return ``x * on_value``; both factors broadcast to ``x`` and have its dtype."""
        ctx.save_for_backward(on_gradient)
        return x * on_value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return ``gradient * on_gradient``."""
        (on_gradient,) = ctx.saved_tensors
        return gradient * on_gradient, None, None


class ShakeDrop(nn.Module):
    """Multiply a residual branch by 1, or by one random number forward and another backward.

    In training a layer keeps a batch as it is (b = 1), or multiplies each sample by
    ``b + a - b a = a``, uniform in [-1, 1]. The sample's gradient is then multiplied by a number
    uniform in [0, 1]. In validation a layer multiplies by the mean of all that, which is ``prob``.
    Each process draws for its own part of a batch.

    Args:
        prob: Probability in [0, 1] that the branch stays as it is.

    Source:
        Yamada et al. 2018, arXiv:1802.02375. Samples share draws as in the code that the
        authors of CutMix name, github.com/owruby/shake-drop_pytorch.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        """Shake ``[B, C, height, width]``."""
        if not self.training:
            return residual * self.prob
        # The factor of `backward` too is drawn here, so that both passes share `stays`.
        device, shape = residual.device, (len(residual), 1, 1, 1)
        stays = torch.rand((), device=device) < self.prob
        on_value = torch.where(stays, 1.0, 2 * torch.rand(shape, device=device) - 1)
        on_gradient = torch.where(stays, 1.0, torch.rand(shape, device=device))
        kind = residual.dtype
        shaken: torch.Tensor = Scaled.apply(residual, on_value.to(kind), on_gradient.to(kind))
        return shaken

    def extra_repr(self) -> str:
        """Return the probability as text."""
        return f"prob={self.prob:.3f}"


class StochasticDepth(nn.Module):
    """Drop a residual branch for a whole batch, or keep the branch as it is.

    In validation the branch is multiplied by ``prob``. A dropped branch is computed all the same,
    so that the host need not know, and its batch norms note the batch. Each process draws for its
    own part of a batch.

    Args:
        prob: Probability in [0, 1] that the branch is kept.

    Source:
        Huang et al. 2016, arXiv:1603.09382, equations 2 and 5.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        """Drop or keep ``[B, C, height, width]``."""
        if not self.training:
            return residual * self.prob
        stays = torch.rand((), device=residual.device) < self.prob
        return residual * stays.to(residual.dtype)

    def extra_repr(self) -> str:
        """Return the probability as text."""
        return f"prob={self.prob:.3f}"


class DropBlock(nn.Module):
    """Set square blocks of each channel to 0, and rescale what is left.

    Each place at which a block fits begins a block with the probability

        gamma = prob * height * width / (block ** 2 * (height - block + 1) * (width - block + 1))

    which drops the share ``prob`` of the elements, less what blocks have in common. With a ``prob``
    of 10 % and blocks of 4, maps of 8 to 32 px lose 9.4 % to 9.5 %. What is left is multiplied by
    the number of elements over the number left, counted in the batch. In bfloat16 this factor is
    rounded, by .4 % at most. Nothing changes in validation.

    `set_progress` raises the probability over a run.

    Args:
        prob: Share to drop at the end of the schedule, in [0, 1).
        block: Side of a block. A block is never larger than the map.

    Source:
        Ghiasi et al. 2018, arXiv:1810.12890, algorithm 1 and equation 1; ``dropblock`` in
        ``models/official/resnet/resnet_model.py`` of github.com/tensorflow/tpu.
    """

    ramp: torch.Tensor

    def __init__(self, prob: float, block: int) -> None:
        super().__init__()
        self.prob, self.block = prob, block
        # A tensor: a number would make torch.compile compile anew at each step.
        self.register_buffer("ramp", torch.ones(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop blocks of ``[B, C, height, width]``."""
        if not self.training:
            return x
        (num, channels, *sides), dtype = x.shape, x.dtype
        block = [min(self.block, side) for side in sides]
        places = [side - length + 1 for side, length in zip(sides, block, strict=True)]
        gamma = self.prob * sides[0] * sides[1] / (block[0] * block[1] * places[0] * places[1])
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        # In the layout of the features: products of two layouts take longer.
        layout = torch.channels_last if is_last else torch.contiguous_format
        drawn = torch.empty((num, channels, *places), device=x.device, memory_format=layout)
        begins = drawn.uniform_() < gamma * self.ramp
        # An element is dropped if a block begins on it, or up to `block - 1` before it.
        before = [length - 1 for length in block]
        padded = F.pad(begins.to(dtype), (before[1], before[1], before[0], before[0]))
        stays = 1 - F.max_pool2d(padded, block, stride=1)
        # Summed in float32: bfloat16 has no whole numbers beyond 256.
        factor = stays.numel() / stays.sum(dtype=torch.float32).clamp(min=1)
        return x * stays * factor.to(dtype)

    def extra_repr(self) -> str:
        """Return share and side as text."""
        return f"prob={self.prob:.3f}, block={self.block}"


def set_progress(model: nn.Module, progress: float) -> None:
    """Let each `DropBlock` drop a share of its ``prob``: a line from nothing to all of ``prob``.

    Args:
        model: Model with any number of such layers, or none.
        progress: How far the run has come, in [0, 1].
    """
    for module in model.modules():
        if isinstance(module, DropBlock):
            module.ramp.fill_(progress)


@dataclass(frozen=True)
class Regularization:
    """Say what disturbs the blocks of a residual network.

    Attributes:
        shakedrop: Shake the branches: block l of L stays with probability ``1 - l / (2 L)``.
        stochastic_depth: Probability that the last branch is dropped. For block l of L the
            probability is multiplied by ``l / L``. 0 drops no branch.
        dropblock: Share that `DropBlock` drops in the last stage, at the end of the run. The stage
            before loses a quarter of that share. 0 drops nothing.
        block: Side of DropBlock's blocks.
    """

    shakedrop: bool = False
    stochastic_depth: float = 0.0
    dropblock: float = 0.0
    block: int = 7

    def of_branch(self, number: int, num_blocks: int) -> nn.Module:
        """Return what a branch passes before it is added; blocks count from 1."""
        depth = number / num_blocks
        layers: list[nn.Module] = []
        if self.stochastic_depth:
            layers.append(StochasticDepth(1 - depth * self.stochastic_depth))
        if self.shakedrop:
            layers.append(ShakeDrop(1 - depth / 2))
        return nn.Sequential(*layers) if len(layers) > 1 else (layers or [nn.Identity()])[0]

    def of_features(self, stage: int, num_stages: int) -> nn.Module:
        """Return what features of a stage pass behind each norm; stages count from 1."""
        before_last = num_stages - stage
        if not self.dropblock or before_last > 1:
            return nn.Identity()
        return DropBlock(self.dropblock / 4**before_last, self.block)


#: Of networks whose blocks nothing disturbs.
UNDISTURBED = Regularization()
