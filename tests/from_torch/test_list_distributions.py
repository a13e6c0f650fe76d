"""Public training lists serve images of the torch loader's own distribution."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from public_lists import TRAINING, PublicList
from torch_loaders import MEAN, STD, cifar, silently

pytestmark = pytest.mark.slow

#: Of every kind: crop and flip, padded crop, turn, jitter with gray and blur, policies, erasing.
KINDS = (
    "weiaicunzai/pytorch-cifar100",
    "facebookresearch/moco v2, each view",
    "huggingface/pytorch-image-models, ResNet-50 A2",
    "huggingface/pytorch-image-models, constant erasing",
    "pytorch/vision references/classification, newest recipe",
    "skin lesions, ISIC scripts",
)
ENTRIES = {entry.repository: entry for entry in TRAINING}

#: Draws of one image by each loader.
NUM_DRAWS = 120

#: A statistic of equal pixels may differ by rounding: a level of 255.
ROUNDING = 1 / 255


class TwoCrops:
    """Two views by one list, as of MoCo's script."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> list[Any]:
        return [self.transform(image), self.transform(image)]


def statistics(image: torch.Tensor) -> dict[str, np.ndarray]:
    """Numbers that tell colors, contrast, mirroring, places, blur and filled parts: ``[B]`` each.

    Args:
        image: ``[B, 3, height, width]``, normalized. Of large images every second pixel is read.
    """
    image = image[..., ::2, ::2] if image.shape[-1] > 100 else image
    image = image * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    gray = image.mean(1)
    height, width = gray.shape[1:]
    half = gray[:, : height // 2], gray[:, height // 2 :]
    sides = gray[:, :, : width // 2], gray[:, :, width // 2 :]
    steps = (gray[:, :, 1:] - gray[:, :, :-1]).abs()
    numbers = {
        "red": image[:, 0].mean((1, 2)),
        "green": image[:, 1].mean((1, 2)),
        "blue": image[:, 2].mean((1, 2)),
        "deviation": image.flatten(1).std(1),
        "left and right": sides[0].mean((1, 2)) - sides[1].mean((1, 2)),
        "top and bottom": half[0].mean((1, 2)) - half[1].mean((1, 2)),
        "corner": gray[:, :2, :2].mean((1, 2)),
        "other corner": gray[:, -2:, -2:].mean((1, 2)),
        "middle": gray[:, height // 2, width // 2],
        "color": (image[:, 0] - image[:, 2]).abs().mean((1, 2)),
        "steps": 4 * steps.mean((1, 2)),
        "flat": (steps < 0.5 / 255).double().mean((1, 2)) / 10,
    }
    return {name: values.double().numpy() for name, values in numbers.items()}


def distance(sample: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov's and Smirnov's distance of two samples whose numbers may err by `ROUNDING`."""
    shares = []
    for first, second in ((sample, other), (other, sample)):
        first, second = np.sort(first), np.sort(second)
        below = np.searchsorted(first, first, "right") / len(first)
        shares.append(below - np.searchsorted(second, first + ROUNDING, "right") / len(second))
    return float(max(share.max() for share in shares))


def draws(loader: Any) -> torch.Tensor:
    """All images of an epoch: ``[N, 3, height, width]``, of all views one behind another."""
    batches = [image if isinstance(image, list) else [image] for image, _ in loader]
    return torch.cat([torch.cat(views) for views in zip(*batches, strict=True)])


def loader_of(entry: PublicList, transform: Any, photos: Path) -> TorchLoader[Any]:
    """A torch loader that draws one image many times."""
    data = cifar(transform) if entry.data == "arrays" else ImageFolder(photos, transform)
    if entry.data == "arrays":
        rows, columns = np.mgrid[:32, :32]
        data.data[0] = np.stack([5 * rows + 40, 6 * columns + 20, 3 * rows + 2 * columns], 2)
    return TorchLoader(Subset(data, [0] * NUM_DRAWS), batch_size=40)


def check(reference: TorchLoader[Any], num_views: int) -> None:
    """Compare all statistics of each view, and of the difference between the views."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    mine, others = draws(silently(reference, device="cpu", seed=2)), draws(reference)
    assert (mine.shape, mine.dtype) == (others.shape, others.dtype)
    compared: dict[str, list[np.ndarray]] = {}
    for images in (mine, others):
        views = [statistics(view) for view in images.chunk(num_views)]
        for number, numbers in enumerate(views):
            for name, values in numbers.items():
                compared.setdefault(f"{name} of view {number}", []).append(values)
        difference = views[0]["green"] - views[-1]["green"]  # 0 where there is one view
        compared.setdefault("difference of views", []).append(difference)
    # A right loader exceeds the limit in one of the statistics for one seed in a thousand.
    limit = math.sqrt(math.log(2 * len(compared) / 0.001) / NUM_DRAWS)
    distances = {name: distance(*samples) for name, samples in compared.items()}
    assert max(distances.values()) < limit, distances


@pytest.mark.parametrize("repository", KINDS)
def test_list_serves_the_torch_loaders_distribution(photo_folder: Path, repository: str) -> None:
    entry = ENTRIES[repository]
    check(loader_of(entry, entry.transform(), photo_folder), 1)


def test_two_views_have_the_torch_loaders_distribution_and_draws_of_their_own(
    photo_folder: Path,
) -> None:
    entry = ENTRIES["facebookresearch/moco v2, each view"]
    check(loader_of(entry, TwoCrops(entry.transform()), photo_folder), 2)
