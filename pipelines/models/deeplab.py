"""DeepLab v3 for images of about 100 px: torchvision's, on a narrow backbone."""

from __future__ import annotations

from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabV3
from torchvision.ops import Conv2dNormActivation

#: Rates of dilation of the ASPP, in cells of the features.
RATES = (3, 6, 9)


def make_narrow(num_classes: int, width: int = 16) -> DeepLabV3:
    """Return torchvision's DeepLabV3 behind five convolutions, whose output stride is 4.

    Args:
        num_classes: Number of logits of each pixel.
        width: Channels of the first convolution; the features have four times as many.
    """
    channels = (3, width, 2 * width, 2 * width, 4 * width, 4 * width)
    strides, dilations = (2, 2, 1, 1, 1), (1, 1, 1, 2, 4)
    layers = [
        Conv2dNormActivation(channels[i], channels[i + 1], 3, stride, dilation=dilation)
        for i, (stride, dilation) in enumerate(zip(strides, dilations, strict=True))
    ]
    backbone = IntermediateLayerGetter(nn.Sequential(*layers), {"4": "out"})
    features = channels[-1]
    head = nn.Sequential(
        ASPP(features, RATES, features),
        Conv2dNormActivation(features, features, 3),
        nn.Conv2d(features, num_classes, 1),
    )
    return DeepLabV3(backbone, head)
