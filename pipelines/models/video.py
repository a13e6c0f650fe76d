"""torchvision's 3-D ResNets, and narrow forms of the same networks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torchvision.models import video

#: Channels of the first layer of torchvision's networks.
FULL_WIDTH = 64

Arch = Literal["r3d_18", "mc3_18"]


def video_resnet(
    arch: Arch, num_classes: int, width: int = FULL_WIDTH, pretrained: bool = False
) -> nn.Module:
    """Return R3D-18 or MC3-18 for clips ``[B, 3, T, height, width]``.

    Args:
        arch: "r3d_18" convolves time and space in all layers, "mc3_18" time in the first two.
        num_classes: Logits per clip.
        width: Channels of the first layer, a multiple of 8 up to 64. All other layers are narrowed
            by the same factor.
        pretrained: Load torchvision's weights for Kinetics-400 into all layers but the last;
            torchvision downloads them. Needs the full width.
    """
    if not pretrained:
        if width == FULL_WIDTH:
            return getattr(video, arch)(num_classes=num_classes)
        with torch.device("meta"):  # every layer with weights is replaced
            model: nn.Module = getattr(video, arch)(num_classes=num_classes)
        _narrow(model, width)
        return model
    model = getattr(video, arch)(weights="KINETICS400_V1")
    features = model.fc.in_features
    model.fc = nn.Linear(features, num_classes)
    return model


def _narrow(module: nn.Module, width: int) -> None:
    """Replace layers by new ones with fewer channels, initialised as torchvision's are."""
    for name, layer in list(module.named_children()):
        replacement: nn.Module
        if isinstance(layer, nn.Conv3d):
            replacement = nn.Conv3d(
                # The first layer takes colours.
                layer.in_channels if layer.in_channels == 3 else _scaled(layer.in_channels, width),
                _scaled(layer.out_channels, width),
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm3d):
            replacement = nn.BatchNorm3d(_scaled(layer.num_features, width))
        elif isinstance(layer, nn.Linear):
            replacement = nn.Linear(_scaled(layer.in_features, width), layer.out_features)
            nn.init.normal_(replacement.weight, 0, 0.01)
            torch.nn.init.zeros_(replacement.bias)
        else:
            _narrow(layer, width)
            continue
        setattr(module, name, replacement)


def _scaled(channels: int, width: int) -> int:
    return channels * width // FULL_WIDTH
