"""One epoch of ``shuffle="shards"``: shards are dealt to ranks, samples permuted within windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dali_cutmix.core.draws import derive_seed
from dali_cutmix.order.keyed import hashed
from dali_cutmix.order.position import Dealings


class ShardedEpoch:
    """Say which samples each rank serves in an epoch, in what order; see `EpochSampler`.

    All shards stand in a row, in a permuted order. The row is cut into equal parts, a part for each
    rank, so that a shard at a cut belongs to two ranks. From the first shard of its part on, each
    rank permutes the samples of every ``window`` shards. What is left after a resume with other
    ranks is the ends of the parts, in a row that is cut anew. Nothing is permuted again.

    A rank's samples are computed without those of other ranks.

    Args:
        sizes: Samples of each shard, in the order of the data: ``[num_shards]`` int64.
        window: Shards whose samples are permuted together, at least 1.
        seed: The run's seed.
        epoch: Epoch, from 0.
    """

    def __init__(self, sizes: np.ndarray, window: int, seed: int, epoch: int) -> None:
        numbers = np.arange(len(sizes))
        order = np.argsort(hashed(numbers, derive_seed(seed, f"shards/{epoch}")), kind="stable")
        self._sizes = sizes[order]
        self._ends = np.cumsum(self._sizes)  # in the row
        self._first = (np.cumsum(sizes) - sizes)[order]  # index of each shard's first sample
        self._window = window
        self._key = derive_seed(seed, f"samples/{epoch}")

    def part(
        self, index: int, count: int, dealt: Dealings, begin: int = 0, end: int | None = None
    ) -> np.ndarray:
        """Return the samples of rank ``index`` of ``count``.

        Args:
            index: Number of the rank, from 0.
            count: Number of ranks.
            dealt: ``(ranks, samples served)`` of each dealing before. Ranks served in turn, a
                sample each, as far as they had some.
            begin: Samples of the rank to leave out at the beginning.
            end: Number of the rank's sample behind the last one returned; None for all.

        Returns:
            Indices in the data: ``[num_samples]`` int64.
        """
        left = self._num_left(dealt)
        start, stop = (_cut(left, number, count) for number in (index, index + 1))
        first, last = start + begin, stop if end is None else start + end
        if dealt:
            return self._rest(dealt, first, last)
        return self._permuted(start, stop, first, last)

    def _num_left(self, dealt: Dealings) -> int:
        return int(self._ends[-1]) - sum(served for _, served in dealt)

    def _rest(self, dealt: Dealings, begin: int, end: int) -> np.ndarray:
        """Return samples of the row of what a dealing left: the ends of its parts."""
        *earlier, (count, served) = dealt
        left = self._num_left(earlier)
        pieces, at = [np.zeros(0, np.int64)], 0
        for index in range(count):
            done = len(range(index, served, count))
            size = _cut(left, index + 1, count) - _cut(left, index, count) - done
            first, last = max(begin - at, 0), min(end - at, size)
            if first < last:
                pieces.append(self.part(index, count, earlier, done + first, done + last))
            at += size
        return np.concatenate(pieces)

    def _permuted(self, start: int, stop: int, begin: int, end: int) -> np.ndarray:
        """Return samples ``begin`` to ``end`` of the part from ``start`` to ``stop`` of the row."""
        first = int(np.searchsorted(self._ends, start, "right"))
        last = int(np.searchsorted(self._ends, stop, "left"))
        inner = self._ends[first + self._window - 1 : last : self._window]
        borders = [start, *inner.tolist(), stop]
        pieces = [np.zeros(0, np.int64)]
        for low, high in pairwise(borders):
            if low < end and begin < high:
                samples = self._row(low, high)
                samples = samples[np.argsort(hashed(samples, self._key), kind="stable")]
                pieces.append(samples[max(begin - low, 0) : end - low])
        return np.concatenate(pieces)

    def _row(self, start: int, stop: int) -> np.ndarray:
        """Return samples ``start`` to ``stop`` of the row of shards."""
        first = int(np.searchsorted(self._ends, start, "right"))
        last = int(np.searchsorted(self._ends, stop, "left")) + 1
        ends, sizes = self._ends[first:last], self._sizes[first:last]
        left_out = np.maximum(start - (ends - sizes), 0)
        counts = np.minimum(ends, stop) - (ends - sizes) - left_out
        before = np.cumsum(counts) - counts
        bases = self._first[first:last] + left_out - before
        return np.repeat(bases, counts) + np.arange(stop - start)


def _cut(total: int, index: int, count: int) -> int:
    """Return where part ``index`` of ``count`` begins. The first parts have a sample more."""
    return index * (total // count) + min(index, total % count)
