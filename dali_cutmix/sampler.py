"""The order of samples in an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from dali_cutmix._checks import check_count
from dali_cutmix.shard import Shard


class EpochSampler(Sampler[int]):
    """A seeded full permutation per epoch, or the order as listed; one shard's part of it.

    Shuffled, shards stay in step: the permutation is repeated from its start until it divides, as
    torch's ``DistributedSampler`` does, and its order is the same as that sampler's with an equal
    seed, epoch, rank and world size. Unshuffled, every sample is served exactly once over all
    shards, so that shards may differ by one sample::

        5 samples, 2 shards        shard 0      shard 1
        shuffled [4 2 0 3 1]       4 0 1        2 3 4      (4 is repeated)
        as listed                  0 2 4        1 3

    Args:
        num_samples: Number of samples in the data.
        shuffle: Permute anew in each epoch.
        seed: Seed of the permutations.
        shard: This process's part.

    Attributes:
        epoch: The epoch that the next iteration serves.
    """

    def __init__(self, num_samples: int, *, shuffle: bool, seed: int, shard: Shard) -> None:
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.shard = shard
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        check_count("set_epoch", "epoch", epoch, at_least=0)
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return -(-self.num_samples // self.shard.count)
        return len(range(self.shard.index, self.num_samples, self.shard.count))

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())

    def order(self, epoch: int) -> np.ndarray:
        """Indices of this shard's samples in the order served: ``[len(self)]`` int64."""
        if not self.shuffle:
            return np.arange(self.shard.index, self.num_samples, self.shard.count)
        generator = torch.Generator("cpu").manual_seed(self.seed + epoch)
        order = torch.randperm(self.num_samples, generator=generator, device="cpu").numpy()
        return np.resize(order, len(self) * self.shard.count)[
            self.shard.index :: self.shard.count
        ].copy()
