"""Small classifiers and images for the tests of evaluation. Height and width always differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from dali_cutmix import EvalTransform, ImageArrays
from evaluation.predictions import Images
from evaluation.subject import Subject

HEIGHT, WIDTH = 24, 32
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
CPU = torch.device("cpu")


class Function(nn.Module):
    """A classifier that is a function of its normalized images."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.function(image)


def subject_of(model: nn.Module, num_classes: int = 4, **changes: bool) -> Subject:
    """A classifier of whole images of 24 x 32 pixels."""
    size = (HEIGHT, WIDTH)
    transform = EvalTransform(size, size, MEAN, STD)
    classes = [f"class {index}" for index in range(num_classes)]
    return Subject("small", model.eval(), transform, classes, CPU, **changes)


def linear(num_classes: int = 4, seed: int = 0) -> nn.Module:
    """A linear classifier of random weights."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(3 * HEIGHT * WIDTH, num_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / 16)
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


def noise(count: int, num_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of random pixels, ``[count, 24, 32, 3]`` uint8, and random labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)
    label = rng.integers(0, num_classes, count)
    label[:num_classes] = np.arange(num_classes)[:count]
    return pixels, label


def images_of(pixels: np.ndarray, label: np.ndarray, batch_size: int = 5) -> Images:
    """The images of an evaluation, by default with a short last batch."""
    return Images(ImageArrays(pixels, label), batch_size, num_workers=1)


def normalized(pixels: np.ndarray) -> torch.Tensor:
    """The model's input of such images, by the textbook: [N, 3, 24, 32] float32."""
    array = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).float()
