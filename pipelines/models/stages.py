"""A classifier's feature maps, of which detectors look at several: one map of each resolution."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

#: Most channels of a map that is added behind the classifier's.
MOST_CHANNELS = 256


class Stages(nn.Module):
    """Return feature maps of doubling strides, by the names "0", "1" and so on, the finest first.

    Of each resolution the classifier's last map is taken, whatever layer puts out that map. Where
    the classifier ends before the coarsest stride, convolutions of stride 2 with batch norm follow.
    The classifier's pooling and last layer are left out, and have no weights here.

    Args:
        classifier: Network from images ``[B, 3, height, width]`` to logits, which torch.fx can
            trace. Its modules are taken over, not copied.
        size: Side of the images in pixels.
        strides: Strides of the finest and of the coarsest map: powers of two.

    Attributes:
        strides: Stride of each map.
        out_channels: Channels of each map.
    """

    def __init__(self, classifier: nn.Module, size: int, strides: tuple[int, int]) -> None:
        super().__init__()
        finest, coarsest = strides
        found = maps_of(classifier, size)
        last = max(stride for stride in found if stride <= coarsest)
        taken = sorted({stride for stride in found if finest <= stride <= last} | {last})
        names = {found[stride][0]: str(number) for number, stride in enumerate(taken)}
        self.classifier = create_feature_extractor(classifier, names)
        channels = [found[stride][1] for stride in taken]
        self.added = nn.ModuleList()
        while taken[-1] < coarsest:
            width = min(2 * channels[-1], MOST_CHANNELS)
            self.added.append(
                nn.Sequential(
                    nn.Conv2d(channels[-1], width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
            )
            taken.append(2 * taken[-1])
            channels.append(width)
        self._num_skipped = sum(stride < finest for stride in taken)
        self.strides = taken[self._num_skipped :]
        self.out_channels = channels[self._num_skipped :]

    def forward(self, image: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Return the maps of images ``[B, 3, size, size]``: ``[B, C, size / stride, ...]`` each."""
        maps = list(self.classifier(image).values())
        for layer in self.added:
            maps.append(layer(maps[-1]))
        shown = maps[self._num_skipped :]
        return OrderedDict((str(number), grid) for number, grid in enumerate(shown))


@torch.no_grad()
def maps_of(classifier: nn.Module, size: int) -> dict[int, tuple[str, int]]:
    """Return the name and the channels of the last layer of each stride.

    Layers inside a block that changes the resolution are left out: the block before is complete.

    Args:
        classifier: Network from images ``[B, 3, height, width]`` to logits.
        size: Side of an image in pixels.
    """
    modules = dict(classifier.named_modules())
    found: dict[str, tuple[int, int]] = {}  # stride and channels, in the order of the calls
    handles = []
    for name, module in modules.items():
        if name and not isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):

            def note(_module: Any, _inputs: Any, output: Any, name: str = name) -> None:
                if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] > 1:
                    # 300 px become 150, 75, 38, 19 and 10.
                    stride = 2 ** round(math.log2(size / output.shape[2]))
                    found.pop(name, None)
                    found[name] = (stride, output.shape[1])

            handles.append(module.register_forward_hook(note))
    was_training, weight = classifier.training, next(classifier.parameters())
    classifier.eval()(torch.zeros(1, 3, size, size, device=weight.device))
    classifier.train(was_training)
    for handle in handles:
        handle.remove()
    last: dict[int, tuple[str, int]] = {}
    for name, (stride, channels) in found.items():
        parts = name.split(".")
        blocks = [".".join(parts[:count]) for count in range(1, len(parts))]
        blocks = [block for block in blocks if not isinstance(modules[block], nn.Sequential)]
        if all(found[block][0] == stride for block in blocks if block in found):
            last[stride] = (name, channels)
    return last


def freeze_norms(model: nn.Module) -> None:
    """Replace batch norms by layers that keep their statistics and weights for good.

    Detectors have few images in a process's batch, whose statistics would be noise.
    """
    for name, module in model.named_children():
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
            state = module.state_dict()
            frozen.load_state_dict({key: state[key] for key in frozen.state_dict()})
            setattr(model, name, frozen.to(module.running_mean.device))
        else:
            freeze_norms(module)
