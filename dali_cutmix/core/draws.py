"""Random numbers of a batch: one named stream per draw, in a graph or on the host.

A stream's numbers are derived from its name, so that adding a draw shifts no other. There are two
kinds:

- `GraphDraws` makes DALI's random operators, each with a seed of its own, for graphs that users
  write. Their numbers depend on every batch drawn before, discarded batches included.
- `HostDraws` is what the loader uses. Its numbers are a hash of (seed, stream, epoch, batch,
  shard), so that a batch is a pure function of these five: what ran before, threads and the
  prefetch depth change nothing.

Only the crop is drawn in the loader's graph, where an image's size is known. The host feeds that
operator the state of its generator, through DALI's argument ``_random_state``, which its dynamic
mode uses for every random operator (2.0 and later). The argument is not documented;
``test_draws.py`` holds what is relied on here.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import INT32, Pipeline, fn
from dali_cutmix.core.math import GRAPH, HOST, Math, first_smallest

STATE_WORDS = 7  # 28 bytes, of which DALI's Philox takes 25: key, counter, phase

_names_in_use: weakref.WeakKeyDictionary[Pipeline, set[tuple[int, str]]] = (
    weakref.WeakKeyDictionary()
)


#: A function of draws and a shape. For ``[n]`` it draws ``n`` candidates, ``[n, k]``; for ``[]``
#: one, ``[k]``.
DrawEach = Callable[["Draws", Sequence[int]], tuple[Any, ...]]


class Draws(Protocol):
    """Where the numbers of a plan come from. Each stream's name is used once.

    Shapes are those of one sample. Arrays have the batch axis in front.

    Attributes:
        math: Arithmetic on what is drawn.
        num_samples: Samples in the batch; 0 in a graph, which does not know.
        labels: Class of each sample: ``[B]`` int64. None where that is not known.
        listed: Index in the source of each sample as listed, also where a bad image is replaced:
            ``[B]`` int64. None where that is not known.
    """

    math: Math
    num_samples: int
    labels: np.ndarray | None
    listed: np.ndarray | None

    def uniform(self, name: str, shape: Sequence[int]) -> Any:
        """Draw uniform numbers in [0, 1), float32. One in 30 million is 1 on the host."""

    def beta(self, name: str, alpha: float, shape: Sequence[int]) -> Any:
        """Draw numbers from Beta(alpha, alpha), in [0, 1], float32."""

    def chance(self, name: str, prob: float) -> Any:
        """Draw 1 with this probability, else 0: int32, scalar (``[B, 1]`` on the host)."""

    def permutation(self, name: str, *, cycle: bool) -> Any:
        """Draw a permutation of the batch, or one that is a single cycle.

        Scalar int32 (``[B, 1]`` on the host).
        """

    def under(self, prefix: str) -> Draws:
        """Return the same draws for a part that names its streams itself, behind ``prefix``."""

    def first_best(
        self, num: int, draw: DrawEach, distance: Callable[[tuple[Any, ...]], Any]
    ) -> tuple[Any, ...]:
        """Draw candidates for each sample, and return the first of the nearest.

        Args:
            num: Candidates of a sample, at least 2.
            draw: Draws the values of candidates.
            distance: How far candidates are from what is wanted, at least 0: ``[n, 1]`` or
                ``[1]``.

        Returns:
            The values of each sample's candidate, ``[k]`` each.
        """

    def progress(self, num_epochs: int) -> float:
        """Return how far a run of ``num_epochs`` epochs has come, ``t`` in [0, 1).

        ``t = (epoch + batch / num_batches) / num_epochs``. Epochs beyond the last keep the ``t`` of
        the last epoch's batches.

        Raises:
            ValueError: The epoch, or the number of batches in it, is not known here.
        """


class GraphDraws:
    """Draws by DALI's operators, on the CPU.

    Args:
        seed: Base of the operators' seeds.
    """

    math: Math = GRAPH
    num_samples: int = 0
    labels: np.ndarray | None = None
    listed: np.ndarray | None = None

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @classmethod
    def of(cls, where: str, seed: int | None) -> GraphDraws:
        """Return the draws of one graph function, from an integer or the graph's own seed."""
        is_whole = isinstance(seed, int) and not isinstance(seed, bool)
        if seed is not None and not (is_whole and seed >= 0):
            refuse(where, "seed", "be a whole number of at least 0, or None", seed)
        if Pipeline.current() is None:
            raise RuntimeError(
                f"{where}: must be called where a graph is defined, such as in a function under "
                "`@pipeline_def`. Without a graph, draw by `draw_plan`."
            )
        if seed is None:
            return cls._of_graph(where)
        if not _take(seed, where):
            refuse(
                where,
                "seed",
                "differ from those of the graph's other draws of this kind",
                seed,
                "Two operators given equal seeds draw equal numbers: pass another one.",
            )
        return cls(seed)

    @classmethod
    def _of_graph(cls, where: str) -> GraphDraws:
        pipeline = Pipeline.current()
        graph_seed = getattr(pipeline, "seed", None)
        if graph_seed is None or graph_seed < 0:
            return cls(secrets.randbits(62))  # as DALI's own operators do in a graph without a seed
        turn = 0
        while not _take(derive_seed(graph_seed, f"{where}/{turn}"), where):
            turn += 1
        return cls(derive_seed(graph_seed, f"{where}/{turn}"))

    def uniform(self, name: str, shape: Sequence[int]) -> Any:
        """See `Draws`."""
        return fn.random.uniform(range=[0.0, 1.0], shape=list(shape), seed=self._of(name))

    def beta(self, name: str, alpha: float, shape: Sequence[int]) -> Any:
        """See `Draws`."""
        return fn.random.beta(alpha=alpha, beta=alpha, shape=list(shape), seed=self._of(name))

    def chance(self, name: str, prob: float) -> Any:
        """See `Draws`."""
        return fn.random.coin_flip(probability=prob, dtype=INT32, seed=self._of(name))

    def permutation(self, name: str, *, cycle: bool) -> Any:
        """See `Draws`."""
        return fn.batch_permutation(no_fixed_points=cycle, seed=self._of(name))

    def under(self, prefix: str) -> GraphDraws:
        """See `Draws`."""
        return GraphDraws(self._of(prefix))

    def first_best(
        self, num: int, draw: DrawEach, distance: Callable[[tuple[Any, ...]], Any]
    ) -> tuple[Any, ...]:
        """See `Draws`. All candidates are drawn, since a graph makes no loops."""
        values = draw(self, [num])
        index = first_smallest(distance(values), num, self.math)
        return tuple(self.math.row(value, index) for value in values)

    def key(self, name: str) -> Any:
        """Draw the seed of a `HostDraws` for a Python operator: scalar int32 of at least 0."""
        return fn.random.uniform(range=[0, 2**31 - 1], dtype=INT32, shape=[], seed=self._of(name))

    def progress(self, num_epochs: int) -> float:
        """See `Draws`."""
        raise ValueError(
            f"Scheduled: a graph of your own does not know its epoch, so that num_epochs="
            f"{num_epochs} says nothing there. Give the schedule to `DataLoader(mix=...)`."
        )

    def _of(self, name: str) -> int:
        return derive_seed(self._seed, name)


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


def derive_seed(seed: int, name: str) -> int:
    """Derive a seed in [0, 2**62): a hash of the base seed and the stream's name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def _take(seed: int, where: str) -> bool:
    """Note that ``where`` draws from ``seed`` in this graph. Return False when it did before."""
    pipeline = Pipeline.current()
    if pipeline is None:
        return True
    taken = _names_in_use.setdefault(pipeline, set())
    if (seed, where) in taken:
        return False
    taken.add((seed, where))
    return True
