"""PyramidNet of bottleneck blocks for images of 32 px."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.regularization import UNDISTURBED, Regularization


class Block(nn.Module):
    """Add a bottleneck between batch norms to the input, which gains channels of zeros.

    Args:
        width_in: Channels of the input.
        width: Channels of the bottleneck; the output has four times as many.
        stride: 1, or 2 to halve the image's sides.
        drop: Layer behind each norm that follows a convolution; it has no parameters.
        end: Layer that the branch passes before it is added.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        stride: int,
        *,
        drop: nn.Module | None = None,
        end: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width_out = 4 * width
        self.drop = nn.Identity() if drop is None else drop
        self.end = nn.Identity() if end is None else end
        self.residual = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.Sequential(nn.ReLU(inplace=True), self.drop),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.Sequential(nn.ReLU(inplace=True), self.drop),
            nn.Conv2d(width, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)
        self.num_new = width_out - width_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, width_in, height, width]`` to ``[B, 4 * width, height / stride, ...]``."""
        known = F.pad(self.shortcut(x), (0, 0, 0, 0, 0, self.num_new))
        return known + self.end(self.drop(self.residual(x)))


class PyramidNet(nn.Module):
    """Classify 32 px by an additive PyramidNet: bottleneck blocks of rising width.

    Args:
        depth: Layers: 2 more than a multiple of 9, which are three stages of blocks of three.
        widening: Channels that the bottlenecks gain over all blocks, from 16.
        num_classes: Number of logits.
        regularization: What disturbs the blocks. DropBlock stands behind the norms of a branch,
            and never on shortcuts: with a shortcut in each of 22 blocks, 10 % each would leave a
            tenth of the first block's output.

    Source:
        Han et al. 2017, arXiv:1610.02915; ``pyramidnet.py`` of github.com/clovaai/CutMix-PyTorch.
    """

    def __init__(
        self,
        depth: int,
        widening: int,
        num_classes: int,
        regularization: Regularization = UNDISTURBED,
    ) -> None:
        super().__init__()
        per_stage = (depth - 2) // 9
        num_blocks = 3 * per_stage
        width_in = 16
        self.first = nn.Sequential(
            nn.Conv2d(3, width_in, 3, padding=1, bias=False), nn.BatchNorm2d(width_in)
        )
        blocks = []
        for number in range(1, num_blocks + 1):
            stage = 1 + (number - 1) // per_stage
            width = round(16 + widening * number / num_blocks)
            block = Block(
                width_in,
                width,
                stride=2 if number in (per_stage + 1, 2 * per_stage + 1) else 1,
                drop=regularization.of_features(stage, 3),
                end=regularization.of_branch(number, num_blocks),
            )
            blocks.append(block)
            width_in = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(
            nn.BatchNorm2d(width_in), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the modules that end a part: the first convolution, then each stage."""
        per_stage = len(self.blocks) // 3
        return ("first", *(f"blocks.{stage * per_stage - 1}" for stage in (1, 2, 3)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 3, 32, 32]`` to logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.classifier(self.last(self.blocks(self.first(image))))
        return logits
