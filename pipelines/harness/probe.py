"""Linear probes: what a logistic regression reads out of the features of an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: Mean and spread of each feature, ``[num_features]`` each.
Scale = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def features_of(encoder: nn.Module, loader: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features ``[N, num_features]`` and classes ``[N]`` of all images of a loader.

    The encoder is left in evaluation mode.
    """
    encoder.eval()
    features, labels = zip(*((encoder(image), label) for image, label in loader), strict=True)
    return torch.cat(features), torch.cat(labels)


def scale_of(features: torch.Tensor) -> Scale:
    """Return mean and spread of features ``[N, num_features]``; a spread is never 0."""
    return features.mean(0), features.std(0).clamp(min=1e-6)


def fit_probe(
    classifier: nn.Linear,
    features: torch.Tensor,
    label: torch.Tensor,
    decay: float,
    scale: Scale | None = None,
) -> None:
    """Train a linear layer as a logistic regression, from zeros, until the loss stays.

    Args:
        classifier: Layer from features to logits, which is changed.
        features: ``[N, num_features]``.
        label: Class of each row: ``[N]`` int64.
        decay: Factor of the squared weights in the loss, where features have mean 0 and spread 1.
        scale: Mean and spread of the features. None takes those of ``features``, which have to be
            many.
    """
    # The classifier's weights take mean and spread up afterwards.
    mean, spread = scale_of(features) if scale is None else scale
    features = (features - mean) / spread
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(
        classifier.parameters(), max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(features), label)
        loss = loss + decay * classifier.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        classifier.weight /= spread
        classifier.bias -= classifier.weight @ mean


@torch.no_grad()
def top1_of(classifier: nn.Linear, features: torch.Tensor, label: torch.Tensor) -> float:
    """Return the share of rows whose class the layer finds, in [0, 1]."""
    return (classifier(features).argmax(1) == label).double().mean().item()
