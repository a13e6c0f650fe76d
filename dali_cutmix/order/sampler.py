"""The order of samples in an epoch, and the part of it that each process serves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from dali_cutmix.core.checks import check_choice, check_count, refuse
from dali_cutmix.core.draws import derive_seed
from dali_cutmix.order.position import Dealings, check_epoch

Remainder = Literal["pad", "drop", "exact"]
Shuffle = bool | Literal["shards"]

#: Samples. Torch's permutation takes 134 MB of as many. ImageNet-21k has 14 million.
MOST_OF_TORCH = 2**24
#: Shards whose samples are permuted together.
WINDOW = 16

#: Launchers, and the environment variables of a process's number and the number of processes.
#: Slurm's count is the step's: a batch script that runs once, without `srun`, sees the job's count.
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI", "PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True)
class Shard:
    """Name part ``index`` of ``count`` equal parts of the data, which one process serves.

    Args:
        index: Number of this part, ``0 <= index < count``.
        count: Number of parts, at least 1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        check_count("Shard", "count", self.count, at_least=1)
        check_count("Shard", "index", self.index, at_least=0)
        if self.index >= self.count:
            refuse("Shard", "index", f"be below count={self.count}", self.index)
        # Sums of NumPy's narrow numbers overflow.
        object.__setattr__(self, "index", int(self.index))
        object.__setattr__(self, "count", int(self.count))

    @classmethod
    def current(cls) -> Shard:
        """Return this rank's part if ``torch.distributed`` is initialised, else `from_env`."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls.from_env()

    @classmethod
    def from_env(cls) -> Shard:
        """Return the part that the launcher's environment variables name; all data without any.

        The first pair that is set counts: torchrun's ``RANK`` and ``WORLD_SIZE``, Slurm's
        ``SLURM_PROCID`` and ``SLURM_STEP_NUM_TASKS`` (set by ``srun``), Open MPI's
        ``OMPI_COMM_WORLD_RANK`` and ``OMPI_COMM_WORLD_SIZE``, ``PMI_RANK`` and ``PMI_SIZE``.

        Raises:
            ValueError: A variable is not a whole number, or a pair contradicts itself.
        """
        for launcher, index_name, count_name in _LAUNCHERS:
            # A count alone is common: shells set WORLD_SIZE for a launcher to read.
            if index_name in os.environ and count_name in os.environ:
                index, count = (_number(launcher, name) for name in (index_name, count_name))
                if index >= count:
                    raise ValueError(
                        f"Shard: {launcher}'s {index_name}={index} must be below "
                        f"{count_name}={count}. Pass `shard=Shard(index, count)` to decide "
                        "yourself."
                    )
                return cls(index, count)
        return cls()


def _number(launcher: str, name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise ValueError(
            f"Shard: {launcher}'s environment variable {name} must be a whole number, got "
            f"{text!r}. Pass `shard=Shard(index, count)` to decide yourself."
        )
    return int(text)


class EpochSampler(Sampler[int]):
    """Yield one shard's part of a permutation, seeded per epoch, or of the order as listed.

    The order is that of torch's ``DistributedSampler`` with equal seed, epoch, rank and world size:
    shards take turns. Above 16,777,216 samples, a keyed permutation takes the place of torch's: it
    is as full, and a process computes its own part only.

    The two samplers differ in samples that cannot be dealt out evenly::

        5 samples, 2 shards            shard 0      shard 1
        shuffled, "pad"   [4 2 0 3 1]  4 0 1        2 3 4      (4 is repeated)
        as listed, "exact"             0 2 4        1 3
        as listed, "drop"              0 2          1 3        (4 is left out)

    With ``"exact"`` shards may differ by a step, so that no operation that waits for other ranks
    belongs in the loop. To evaluate, sum the counts of all ranks after the loop::

        count = torch.zeros(2, dtype=torch.int64)  # hits and samples, on the model's device
        for image, label in val:
            hits = model(image).argmax(1) == label
            count += torch.stack([hits.sum(), torch.tensor(len(label))])
        dist.all_reduce(count)
        accuracy = count[0] / count[1]  # over every sample exactly once

    ``shuffle="shards"`` is for data in shard files that are fetched whole, such as `TarShards` with
    a ``cache_dir``. Every sample is served once, and a rank reads few files at a time::

        files A to F of 4 samples, 2 ranks, window=2
        files permuted    A E F D B C
        dealt to ranks    rank 0: A E F       rank 1: D B C
        windows           rank 0: {A E} {F}   rank 1: {D B} {C}
        served rank 0     e3 a1 a0 a3 a2 e0 e2 e1 f2 f0 f3 f1
        served rank 1     d3 d1 b3 d0 b1 b2 b0 d2 c3 c0 c2 c1

    Ranks get equally many samples, so that a file may be cut between two neighbours. After a resume
    with other ranks, the ends of all parts are put in a row and dealt out anew, in their order.

    A window is less than a full shuffle: partners of a batch come from ``window`` files at a time.
    On a million samples sorted by class, in files of one class each, 91, 24, 6.3, 1.6 and 0.4 % of
    a batch's partners share a class with 1, 4, 16, 64 and 256 files; a full shuffle has 0.1 %.
    Neighbours of the list are served 0.07, 0.17, 0.56, 2.1 and 8.4 % of the epoch apart; a full
    shuffle has 33 %. In files that ``dali-cutmix pack`` filled in a random order, 0.1 % share a
    class with any window. ``benchmarks/windows.py`` measures that.

    Args:
        num_samples: Number of samples in the data.
        shuffle: Draw another permutation in each epoch, or, by ``"shards"``, permute shard files
            and the samples within windows of them; else keep the order as listed.
        seed: Seed of the permutations.
        shard: This process's part.
        remainder: ``"pad"`` repeats samples from the start of the order, so that all shards are
            equally long; ``"drop"`` leaves samples out for the same end; ``"exact"`` serves each
            sample once over all shards, which may differ by one sample. None takes ``"pad"`` with
            ``shuffle`` and ``"exact"`` without. With ``shuffle="shards"``, ``"pad"`` repeats the
            first sample of a rank that would be a sample short.
        shard_sizes: Samples of each shard file, in the order of the data: ``[num_shards]`` int64.
            Needed by ``shuffle="shards"`` alone.
        window: Shard files whose samples are permuted together, at least 1. None takes 16.

    Attributes:
        epoch: The epoch that the next iteration serves.
        is_chosen: Whether `set_epoch` chose the epoch, since an epoch began.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        shuffle: Shuffle,
        seed: int,
        shard: Shard,
        remainder: Remainder | None = None,
        shard_sizes: Sequence[int] | np.ndarray | None = None,
        window: int | None = None,
    ) -> None:
        check_choice("EpochSampler", "shuffle", shuffle, (True, False, "shards"))
        if remainder is not None:
            check_choice("EpochSampler", "remainder", remainder, ("pad", "drop", "exact"))
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.shard = shard
        self.remainder: Remainder = remainder or ("pad" if shuffle else "exact")
        self.window: int | None = None
        self.epoch, self.is_chosen = 0, False
        if shuffle == "shards":
            self._take_shards(shard_sizes, window)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        check_epoch(epoch)
        self.epoch, self.is_chosen = int(epoch), True

    def follow(self, epoch: int) -> None:
        """Let this epoch come next, unless `set_epoch` chooses another."""
        self.epoch, self.is_chosen = epoch, False

    def __len__(self) -> int:
        index, count = self.shard.index, self.shard.count
        if self.remainder == "exact":
            return len(range(index, self.num_samples, count))
        padded = count - 1 if self.remainder == "pad" else 0
        return (self.num_samples + padded) // count

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())

    def order(self, epoch: int, start: int = 0, dealt: Dealings = ()) -> np.ndarray:
        """Return the indices of this shard's samples in the order served.

        Args:
            epoch: Epoch, from 0.
            start: Number of samples of the epoch's order, over all shards, that were served before.
                The rest is dealt out anew.
            dealt: With ``shuffle="shards"``, who served them: ``(ranks, samples)`` of each dealing
                before, whose samples sum to ``start``.

        Returns:
            ``[len(self)]`` int64, fewer with ``start``.
        """
        index, count = self.shard.index, self.shard.count
        num_left = self.num_samples - start
        if self.shuffle == "shards":
            return self._order_of_shards(epoch, num_left, dealt)
        if self.remainder == "drop":
            num_left -= num_left % count
        elif self.remainder == "pad":
            # From the start of the epoch's order, even where only its end is left: the rest is
            # served once, and samples that were served before are repeated.
            num_left += -num_left % count
        positions = np.arange(start + index, start + num_left, count) % self.num_samples
        if not self.shuffle:
            return positions
        if self.num_samples > MOST_OF_TORCH:
            from dali_cutmix.order.keyed import KeyedPermutation

            seed = derive_seed(self.seed, f"epoch/{epoch}")
            return KeyedPermutation(self.num_samples, seed)(positions)
        generator = torch.Generator("cpu").manual_seed(self.seed + epoch)
        order = torch.randperm(self.num_samples, generator=generator, device="cpu").numpy()
        return np.asarray(order[positions])

    def _take_shards(self, sizes: Sequence[int] | np.ndarray | None, window: int | None) -> None:
        self.window = WINDOW if window is None else window
        check_count("EpochSampler", "window", self.window, at_least=1)
        self.window = int(self.window)
        self._shard_sizes = np.asarray([] if sizes is None else sizes, np.int64)
        if self._shard_sizes.sum() != self.num_samples or (self._shard_sizes < 0).any():
            rule = f"be the samples of each shard file, {self.num_samples} in all, for 'shards'"
            refuse("EpochSampler", "shard_sizes", rule, sizes)

    def _order_of_shards(self, epoch: int, num_left: int, dealt: Dealings) -> np.ndarray:
        # Imported here, since most runs have no shards.
        from dali_cutmix.order.sharded import ShardedEpoch

        index, count = self.shard.index, self.shard.count
        assert self.window is not None
        shards = ShardedEpoch(self._shard_sizes, self.window, self.seed, epoch)
        if self.remainder == "drop":
            return shards.part(index, count, dealt, end=num_left // count)
        order = shards.part(index, count, dealt)
        if self.remainder == "pad" and 0 < num_left % count <= index:  # a sample short
            whose = index if len(order) else index % num_left
            order = np.append(order, shards.part(whose, count, dealt, end=1))
        return order
