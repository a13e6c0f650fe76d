"""Random numbers of a batch: one named stream per draw, in a graph or on the host.

A stream's numbers are derived from its name, so that adding a draw shifts no other. There are two
kinds. `GraphDraws` makes DALI's random operators, each with a seed of its own, for graphs that
other people write. What those draw depends on every batch drawn before, those prefetched and thrown
away included.

`HostDraws` is what the loader uses: its numbers are a hash of (seed, stream, epoch, batch, shard).
A batch is then a pure function of those five: it does not depend on what ran before, on threads, or
on the prefetch depth.

The crop alone is drawn in the loader's graph, where an image's size is known. The host feeds that
operator the state of its generator, through DALI's argument ``_random_state``, which its dynamic
mode uses for every random operator (2.0 and later). It is not documented; ``test_draws.py`` holds
what is relied on here.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import INT32, Pipeline, fn

STATE_WORDS = 7  # 28 bytes, of which DALI's Philox takes 25: key, counter, phase

_names_in_use: weakref.WeakKeyDictionary[Pipeline, set[tuple[int, str]]] = (
    weakref.WeakKeyDictionary()
)


class Draws(Protocol):
    """Where the numbers of a plan come from; each stream's name is used once.

    Shapes are those of one sample; arrays have the batch axis in front.
    """

    def uniform(self, name: str, shape: Sequence[int]) -> Any:
        """Uniform numbers in [0, 1), float32; one in 30 million is rounded up to 1 on the host."""

    def beta(self, name: str, alpha: float, shape: Sequence[int]) -> Any:
        """Numbers from Beta(alpha, alpha), in [0, 1], float32."""

    def chance(self, name: str, prob: float) -> Any:
        """1 with this probability, else 0: int32, scalar (``[B, 1]`` on the host)."""

    def permutation(self, name: str, *, cycle: bool) -> Any:
        """A random permutation of the batch, or one that is a single cycle: scalar int32
        (``[B, 1]`` on the host).
        """

    def under(self, prefix: str) -> Draws:
        """The same, for a part that names its streams itself: their names start with ``prefix``."""


class GraphDraws:
    """Draws by DALI's operators, on the CPU.

    Args:
        seed: Base of the operators' seeds.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @classmethod
    def of(cls, where: str, seed: int | None) -> GraphDraws:
        """The draws of one graph function, from an integer or the graph's own seed."""
        if seed is None:
            return cls._of_graph(where)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            refuse(where, "seed", "be a whole number of at least 0, or None", seed)
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
    """

    def __init__(self, num_samples: int, seed: int, epoch: int, batch: int, shard: int) -> None:
        self._num_samples = num_samples
        self._place = f"{epoch}/{batch}/{shard}"
        self._seed = seed
        self._prefix = ""
        self._names: set[str] = set()

    def uniform(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """See `Draws`."""
        return self._generator(name).random_sample(self._shape(shape)).astype(np.float32)

    def beta(self, name: str, alpha: float, shape: Sequence[int]) -> np.ndarray:
        """See `Draws`."""
        return self._generator(name).beta(alpha, alpha, self._shape(shape)).astype(np.float32)

    def chance(self, name: str, prob: float) -> np.ndarray:
        """See `Draws`."""
        drawn = self._generator(name).random_sample((self._num_samples, 1))
        return (drawn < prob).astype(np.int32)

    def permutation(self, name: str, *, cycle: bool) -> np.ndarray:
        """See `Draws`."""
        order = self._generator(name).permutation(self._num_samples).astype(np.int32)
        if not cycle:
            return order[:, None]
        # A random order, walked in a circle: every cycle through the batch is equally likely.
        partner = np.empty_like(order)
        partner[order] = np.roll(order, -1)
        return partner[:, None]

    def state(self, name: str) -> np.ndarray:
        """The state of a generator of DALI's, equal for all samples: ``[B, 7]`` uint32."""
        words = np.frombuffer(self._digest(name), np.uint32)
        return np.tile(words, (self._num_samples, 1))

    def under(self, prefix: str) -> HostDraws:
        """See `Draws`."""
        part = copy.copy(self)  # of the same names, none of which is used twice
        part._prefix = self._prefix + prefix
        return part

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (self._num_samples, *shape)

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


def under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose names start with this, without it."""
    return {
        name.removeprefix(prefix): one for name, one in named.items() if name.startswith(prefix)
    }


def derive_seed(seed: int, name: str) -> int:
    """A seed for one operator, in [0, 2**62): a hash of the base seed and the stream's name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def _take(seed: int, where: str) -> bool:
    """Note that ``where`` draws from ``seed`` in this graph; False when it did before."""
    pipeline = Pipeline.current()
    if pipeline is None:
        return True
    taken = _names_in_use.setdefault(pipeline, set())
    if (seed, where) in taken:
        return False
    taken.add((seed, where))
    return True
