"""Loaders and models that a trainer runs with, and the batches to expect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform


class Downwards:
    """A sampler without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(20, -1, -1))


def make_train(root: Path, **settings: Any) -> DataLoader:
    """Serve 21 files in batches of 4: six steps an epoch."""
    defaults = {"batch_size": 4, "shuffle": True, "mix": CutMix(), "seed": 3, "num_workers": 1}
    return DataLoader(root, transform=TrainTransform(size=16), **{**defaults, **settings})


def make_val(source: Any, **settings: Any) -> DataLoader:
    defaults = {"batch_size": 4, "num_workers": 1}
    transform = EvalTransform(resize=20, size=16)
    return DataLoader(source, transform=transform, **{**defaults, **settings})


def alone(loader: DataLoader, num_epochs: int) -> list[Any]:
    """Return the loader's batches without any trainer."""
    return [batch for _ in range(num_epochs) for batch in loader]


def assert_same(batches: Any, expected: Any) -> None:
    parts, expected_parts = ([list(batch) for batch in each] for each in (batches, expected))
    torch.testing.assert_close(parts, expected_parts, rtol=0, atol=0)


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def one_layer() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
