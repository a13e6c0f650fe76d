"""A small network for small images: four convolutions."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Classify small images by four convolutions, the mean over the image, and one linear layer.

    Args:
        width: Channels of the first convolution; the last has four times as many.
        num_classes: Number of logits.
        channels: Channels of the images.
    """

    def __init__(self, width: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        widths, strides = (channels, width, 2 * width, 4 * width, 4 * width), (1, 2, 2, 1)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1, bias=False),
                    nn.BatchNorm2d(widths[i + 1]),
                    nn.ReLU(),
                )
                for i, stride in enumerate(strides)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map ``[B, channels, height, width]`` to logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.classifier(self.pool(self.blocks(image)).flatten(1))
        return logits
