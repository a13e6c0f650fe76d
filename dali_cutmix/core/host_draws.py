"""Draws and arithmetic on the host, by NumPy: what the loader uses.

Numbers are a hash of (seed, stream, epoch, batch, shard). So a batch is a pure function of these
five: what ran before, threads and the prefetch depth change nothing.

In a graph each step of the arithmetic is an operator, which costs a batch of 256 some 0.2 ms of a
CPU thread. A plan takes dozens. So the loader computes on arrays.

Only the crop is drawn in the loader's graph, where an image's size is known. The host feeds that
operator the state of its generator, through DALI's argument ``_random_state``. DALI's dynamic mode
uses the argument for every random operator (2.0 and later). The argument is not documented;
``test_draws.py`` holds what is relied on here.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dali_cutmix.core.dali import FLOAT, FLOAT64, INT32
from dali_cutmix.core.draws import DrawEach, Draws, Math, first_smallest

STATE_WORDS = 7  # 28 bytes, of which DALI's Philox takes 25: key, counter, phase

_NUMPY_TYPES = {INT32: np.int32, FLOAT: np.float32, FLOAT64: np.float64}


class HostMath:
    """`Math` on NumPy arrays with a batch axis in front."""

    floor = staticmethod(np.floor)
    sqrt = staticmethod(np.sqrt)
    log = staticmethod(np.log)
    cos = staticmethod(np.cos)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)

    def cast(self, value: Any, dtype: Any) -> Any:
        """See `Math`."""
        return value.astype(_NUMPY_TYPES[dtype])

    def constant(self, numbers: np.ndarray) -> Any:
        """See `Math`."""
        return numbers

    def column(self, value: Any, index: int) -> Any:
        """See `Math`."""
        return value[..., index : index + 1]

    def smallest_row(self, value: Any) -> Any:
        """See `Math`."""
        return value.min(axis=-2, keepdims=True)

    def largest(self, value: Any) -> Any:
        """See `Math`."""
        return value.max(axis=(-2, -1))

    def row(self, value: Any, index: Any) -> Any:
        """See `Math`."""
        return value[np.arange(len(value)), index]

    def join(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return np.concatenate([value.reshape(-1, 1) for value in values], axis=1)

    def stack(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return np.stack(np.broadcast_arrays(*values), axis=1)

    def scalar(self, value: Any) -> Any:
        """See `Math`."""
        return value.reshape(-1)

    def of_sample(self, value: Any, sample: Any) -> Any:
        """See `Math`."""
        return value[sample.reshape(-1)]

    def positions(self, function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
        """See `Math`."""
        indices = np.arange(len(value), dtype=np.int32)[:, None]
        return indices, function(value if value.shape == indices.shape else indices)


HOST: Math = HostMath()


class HostDraws:
    """Draws on the host, by NumPy, for one batch of a run.

    The generators are NumPy's legacy ones, whose numbers never change (NEP 19).

    Args:
        num_samples: Samples in the batch.
        seed: The run's seed.
        epoch: Epoch, from 0.
        batch: Number of the batch within its epoch, from 0.
        shard: Index of this process's part of the data: ranks must not draw alike.
        in_epoch: Share of the epoch that lies before the batch, in [0, 1); None where that is not
            known.
        indices: Index in the source of each sample, ``[B]`` int64; None without a source.
        labels: Class of each sample: ``[B]`` int64. None where that is not known.
        listed: As of `Draws`.

    Attributes:
        num_samples, epoch, batch, indices, labels, listed: As given.
    """

    math: Math = HOST

    def __init__(
        self,
        num_samples: int,
        seed: int,
        epoch: int,
        batch: int,
        shard: int,
        in_epoch: float | None = None,
        indices: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        listed: np.ndarray | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.indices = indices
        self.labels = labels
        self.listed = listed
        self.epoch = epoch
        self.batch = batch
        self._in_epoch = in_epoch
        self._place = f"{epoch}/{batch}/{shard}"
        self._seed = seed
        self._prefix = ""
        self._names: set[str] = set()

    def uniform(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """See `Draws`."""
        return self._generator(name).random_sample(self._shape(shape)).astype(np.float32)

    def beta(self, name: str, alpha: float, shape: Sequence[int]) -> np.ndarray:
        """See `Draws`."""
        drawn = self._generator(name).beta(alpha, alpha, self._shape(shape))
        with np.errstate(under="ignore"):  # which a user may have made an error
            return drawn.astype(np.float32)

    def chance(self, name: str, prob: float) -> np.ndarray:
        """See `Draws`."""
        drawn = self._generator(name).random_sample((self.num_samples, 1))
        return (drawn < prob).astype(np.int32)

    def permutation(self, name: str, *, cycle: bool) -> np.ndarray:
        """See `Draws`."""
        order = self._generator(name).permutation(self.num_samples).astype(np.int32)
        if not cycle:
            return order[:, None]
        # A random order, walked in a circle: every cycle through the batch is equally likely.
        partner = np.empty_like(order)
        partner[order] = np.roll(order, -1)
        return partner[:, None]

    def state(self, name: str) -> np.ndarray:
        """Return the state of a DALI generator, equal for all samples: ``[B, 7]`` uint32."""
        words = np.frombuffer(self._digest(name), np.uint32)
        return np.tile(words, (self.num_samples, 1))

    def under(self, prefix: str) -> HostDraws:
        """See `Draws`."""
        part = copy.copy(self)  # of the same names, none of which is used twice
        part._prefix = self._prefix + prefix
        return part

    def first_best(
        self, num: int, draw: DrawEach, distance: Callable[[tuple[Any, ...]], Any]
    ) -> tuple[Any, ...]:
        """See `Draws`. A sample draws 1, then 7, then all others, until one is at distance 0."""
        values = draw(self, [])
        drawn = 1
        while drawn < num and (far := np.flatnonzero(distance(values) > 0)).size:
            count = min(7 * drawn, num - drawn)
            part = self.under(f"again/{drawn}/")
            part.num_samples = len(far)
            candidates = tuple(
                np.concatenate([value[far, None], others], axis=1)
                for value, others in zip(values, draw(part, [count]), strict=True)
            )
            index = first_smallest(distance(candidates), 1 + count, self.math)
            for value, rows in zip(values, candidates, strict=True):
                value[far] = self.math.row(rows, index)
            drawn += count
        return values

    def progress(self, num_epochs: int) -> float:
        """See `Draws`."""
        epoch = min(self.epoch, num_epochs - 1)
        if self._in_epoch is None and self.batch:
            raise ValueError(
                "Scheduled: how much of the epoch lies before batch "
                f"{self.batch} is not known here. Pass `num_batches=` to `draw_plan`."
            )
        return (epoch + (self._in_epoch or 0.0)) / num_epochs

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (self.num_samples, *shape)

    def _digest(self, name: str) -> bytes:
        name = self._prefix + name
        if name in self._names:
            raise ValueError(f"HostDraws: the stream {name!r} is taken: a draw needs its own name.")
        self._names.add(name)
        whole = f"{self._seed}/{name}/{self._place}"
        return hashlib.blake2b(whole.encode(), digest_size=4 * STATE_WORDS).digest()

    def _generator(self, name: str) -> np.random.RandomState:
        key = np.frombuffer(self._digest(name)[:16], np.uint64)
        return np.random.RandomState(np.random.Philox(key=key))


def normal(draws: Draws, name: str, shape: Sequence[int]) -> np.ndarray:
    """Draw normal numbers of mean 0 and deviation 1 on the host, float64, within 5.4 of 0."""
    share = np.clip(draws.uniform(name, shape).astype(np.float64), 2**-25, 1 - 2**-25)
    return torch.special.ndtri(torch.from_numpy(share)).numpy()


def below(share: np.ndarray, num: int) -> np.ndarray:
    """Turn uniform numbers in [0, 1] into whole numbers from 0, below ``num``, int64."""
    # A uniform number is rounded up to 1 once in 30 million.
    return np.minimum((share * num).astype(np.int64), num - 1)


def key(draws: Draws, name: str) -> np.ndarray:
    """Draw a key of `random_words` for each sample: ``[B, 4]`` uint32."""
    return np.ldexp(draws.uniform(name, [4]), 24).astype(np.uint32)


def dirichlet(draws: Draws, name: str, alpha: float, num: int) -> np.ndarray:
    """Draw shares that sum to 1 from a symmetric Dirichlet distribution, on the host.

    Args:
        draws: The batch's draws on the host, of B samples.
        name: Name of the stream: equal names draw equal shares.
        alpha: Parameter of each share, above 0. Below 1 a few shares take most, and large values
            make all shares nearly equal.
        num: Number of shares of a sample, at least 1.

    Returns:
        Shares in [0, 1]: ``[B, num]`` float64.
    """
    keys = key(draws, name)
    generator = np.random.RandomState(np.random.Philox(key=keys[0].view(np.uint64)))
    # Above 0: of a small alpha all may vanish.
    parts = np.maximum(generator.standard_gamma(alpha, (len(keys), num)), 1e-300)
    shares: np.ndarray = parts / parts.sum(axis=1, keepdims=True)
    return shares


def random_words(key: np.ndarray, num: int) -> np.ndarray:
    """Return uniform numbers that are a function of a key: ``[num]`` uint16."""
    generator = np.random.RandomState(np.random.Philox(key=key.view(np.uint64)))
    return np.frombuffer(generator.bytes(2 * num), np.uint16)
