"""A classifier without its last layers: the encoder of another task."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from evaluation.cam import Cam
from models.trained import load_classifier

Triple = tuple[float, float, float]


class Backbone(nn.Module):
    """Return the last grid of features of a classifier: ``[B, num_channels, h, w]``.

    The pooling and the last layers of the classifier are left out, and have no weights here.

    Args:
        classifier: Network of convolutions from images ``[B, 3, height, width]`` to logits, which
            torch.fx can trace. Its modules are taken over, not copied.
        size: ``(height, width)`` of an image that the classifier takes, in pixels.
        mean: Mean of the classifier's normalisation, per channel, in [0, 1].
        std: Standard deviation of the normalisation, as ``mean``.

    Attributes:
        num_channels: Channels of the features.
    """

    def __init__(
        self, classifier: nn.Module, size: tuple[int, int], mean: Triple, std: Triple
    ) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        classifier.eval()  # a trial of one image must not change statistics
        layer = Cam(classifier, size).layer
        self.features = create_feature_extractor(classifier, {layer: "grid"})
        with torch.no_grad():
            self.num_channels = self(torch.zeros(1, 3, *size)).shape[1]
        self.train()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the features of normalised images ``[B, 3, height, width]``."""
        grid: torch.Tensor = self.features(image)["grid"]
        return grid


def load_backbone(recipe: str, backbone: str) -> Backbone:
    """Return the backbone of a classifier that was trained before, on the CPU.

    Args:
        recipe: Name of the recipe that asks, for messages.
        backbone: As in `load_classifier`.

    Raises:
        SystemExit: With a sentence: no checkpoint, or one of another kind than a classifier's.
    """
    subject = load_classifier(recipe, backbone)
    model, transform = subject.model.requires_grad_(True), subject.transform
    return Backbone(model, subject.size, transform.mean, transform.std)
