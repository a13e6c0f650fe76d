"""Which samples an epoch holds: repeated augmentation, and few samples of many crops each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from dali_cutmix import Shard
from harness.processes import stop


def choose_training(
    name: str,
    num_available: int,
    num_train: int | None,
    crops: int,
    *,
    batch_size: int,
    seed: int,
    kinds: tuple[str, str],
) -> list[int]:
    """Return the indices of a training's samples, each as often as an epoch crops it.

    Args:
        name: Name of the recipe.
        num_available: Samples that there are.
        num_train: Samples that the seed chooses; None takes all.
        crops: Crops of each sample in an epoch.
        batch_size: Samples per step over all processes: an epoch has at least one step.
        seed: Seed of the choice.
        kinds: What the message calls the samples, and the setting of ``crops``.
    """
    count = num_available if num_train is None else num_train
    samples, setting = kinds
    if count > num_available or count * crops < batch_size:
        stop(
            name,
            f"`num_train` must be at most {num_available}, the {samples} there are, and with "
            f"`{setting}` make a batch of {batch_size}, got {count}. Pass a smaller "
            f"`--batch-size`, or more `--{setting}`.",
        )
    chosen = np.random.default_rng(seed).permutation(num_available)[:count]
    return chosen.tolist() * crops


class RepeatedAugmentation(Sampler[int]):
    """Yield a permutation in which each index comes several times in a row, dealt out to shards.

    An epoch is as long as without repetition, so that an epoch shows one in ``repeats`` of the
    images. Neighbouring copies of an image go to different shards, as in torchvision's references.

    Args:
        num_samples: Number of samples in the data.
        repeats: Copies of each index, at least 1.
        seed: Seed of the permutations.
        shard: Part of the data that this process serves.

    Source:
        Hoffer et al. 2019, arXiv:1901.09335; Touvron et al. 2020 (DeiT), arXiv:2012.12877, whose
        sampler this follows in what an epoch holds.
    """

    def __init__(self, num_samples: int, repeats: int, seed: int, shard: Shard) -> None:
        self.num_samples = num_samples
        self.repeats = repeats
        self.seed = seed
        self.shard = shard
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_samples // self.shard.count)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_samples, generator=generator).repeat_interleave(
            self.repeats
        )
        length = len(self) * self.shard.count  # padded from the front where shards would differ
        padded = torch.cat([order, order[: max(0, length - len(order))]])[:length]
        return iter(padded[self.shard.index :: self.shard.count].tolist())
