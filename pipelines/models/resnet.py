"""ResNet of bottlenecks: for images of 32 px, and torchvision's for ImageNet.

Without regularisation, these are torchvision's blocks, with the same names of parameters, so that
checkpoints fit into torchvision's models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision.models.resnet as resnet
from torch import nn

from models.regularization import UNDISTURBED, Regularization

#: Blocks in each of the four stages, and groups and width per group of the 3 x 3 convolutions.
ARCHS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "resnet50": ((3, 4, 6, 3), 1, 64),
    "resnet101": ((3, 4, 23, 3), 1, 64),
    "resnext101_32x4d": ((3, 4, 23, 3), 32, 4),
}

#: Modules of torchvision's networks that end a part: the first convolution, then each stage.
IMAGENET_LAYERS = ("bn1", "layer1", "layer2", "layer3", "layer4")


class Bottleneck(resnet.Bottleneck):
    """torchvision's bottleneck, with a place for DropBlock and a place at the end of the branch.

    ``drop`` stands behind each norm, shortcut included, as in the code of DropBlock's authors;
    ``end`` before the sum. Neither has parameters.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drop: nn.Module = nn.Identity()
        self.end: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, height, width]`` to the block's output."""
        branch = self.drop(self.relu(self.bn1(self.conv1(x))))
        branch = self.drop(self.relu(self.bn2(self.conv2(branch))))
        branch = self.end(self.drop(self.bn3(self.conv3(branch))))
        shortcut = x if self.downsample is None else self.downsample(x)
        added: torch.Tensor = self.relu(branch + self.drop(shortcut))
        return added


def imagenet_resnet(
    arch: str,
    num_classes: int,
    regularization: Regularization = UNDISTURBED,
    narrow: bool = False,
) -> resnet.ResNet:
    """Return an untrained network of torchvision: ``"resnet50"`` or another of `ARCHS`.

    Args:
        arch: Name in `ARCHS`.
        num_classes: Number of logits.
        regularization: What disturbs the blocks.
        narrow: Give the 3 x 3 convolutions a sixteenth of their channels, or a quarter where they
            have groups: the same layers with a third of the parameters or fewer, for smoke runs.

    Source:
        He et al. 2015, arXiv:1512.03385; Xie et al. 2016, arXiv:1611.05431. torchvision has no
        ResNeXt-101 of 32 groups of 4 channels; the class is its own.
    """
    num_blocks, groups, width_per_group = ARCHS[arch]
    if narrow:
        width_per_group = max(1, width_per_group // 16)
    model = resnet.ResNet(
        Bottleneck,
        list(num_blocks),
        num_classes=num_classes,
        groups=groups,
        width_per_group=width_per_group,
    )
    _disturb([model.layer1, model.layer2, model.layer3, model.layer4], regularization)
    return model


class CifarResNet(nn.Module):
    """Classify 32 px by a ResNet of bottlenecks in three stages of 16, 32 and 64 channels.

    Args:
        depth: Layers: 2 more than a multiple of 9, which are three stages of blocks of three.
        num_classes: Number of logits.
        regularization: What disturbs the blocks.

    Source:
        He et al. 2015, arXiv:1512.03385; ``resnet.py`` of github.com/clovaai/CutMix-PyTorch.
    """

    #: Names of the modules that end a part: the first convolution, then each stage.
    layers = ("bn1", "layer1", "layer2", "layer3")

    def __init__(
        self, depth: int, num_classes: int, regularization: Regularization = UNDISTURBED
    ) -> None:
        super().__init__()
        per_stage = (depth - 2) // 9
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, per_stage, stride=1)
        self.layer2 = _stage(64, 32, per_stage, stride=2)
        self.layer3 = _stage(128, 64, per_stage, stride=2)
        self.last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        _disturb([self.layer1, self.layer2, self.layer3], regularization)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 3, 32, 32]`` to logits ``[B, num_classes]``."""
        features = self.bn1(self.conv1(image)).relu()
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: torch.Tensor = self.classifier(self.last(features))
        return logits


def _stage(width_in: int, width: int, num_blocks: int, stride: int) -> nn.Sequential:
    """Return blocks of which the first may halve the image, and projects its shortcut."""
    width_out = 4 * width
    projection = nn.Sequential(
        nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
    )
    first = Bottleneck(width_in, width, stride, projection)
    return nn.Sequential(first, *(Bottleneck(width_out, width) for _ in range(num_blocks - 1)))


def _disturb(stages: Sequence[nn.Sequential], regularization: Regularization) -> None:
    num_blocks, number = sum(map(len, stages)), 0
    for stage, blocks in enumerate(stages, start=1):
        for block in blocks:
            number += 1
            block.drop = regularization.of_features(stage, len(stages))
            block.end = regularization.of_branch(number, num_blocks)
