"""Repeated augmentation: the same image several times in a batch, each time cropped otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from dali_cutmix import Shard


class RepeatedAugmentation(Sampler[int]):
    """A permutation in which each index comes several times in a row, dealt out in turn to shards.

    An epoch is as long as without repetition, so that it shows one in ``repeats`` of the images.
    Copies of an image that come in a row go to different shards, as they do in torchvision's
    references.

    Args:
        num_samples: Number of samples in the data.
        repeats: How often each comes, at least 1.
        seed: Of the permutations.
        shard: This process's part.

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
        length = len(self) * self.shard.count  # padded from the front where shards do not come out
        whole = torch.cat([order, order[: max(0, length - len(order))]])[:length]
        return iter(whole[self.shard.index :: self.shard.count].tolist())
