"""The random numbers of one graph: one named stream per random operator.

DALI's random operators are stateful: what they draw depends on every batch drawn before, those
prefetched and thrown away included, and two operators given equal seeds draw equal numbers. A
stream here is named, and its numbers are derived from its name, so that adding an operator shifts
no other.

There are two kinds. ``Draws(seed)`` gives each operator a seed of its own, for graphs that other
people write. ``Draws(state=...)`` is what the loader uses: for every batch the host feeds the state
of each generator, a hash of (seed, stream, epoch, batch, shard). A batch is then a pure function of
those five: it does not depend on what ran before, on threads, or on the prefetch depth.

Fed states go through DALI's argument ``_random_state``, which its dynamic mode uses for every
random operator (2.0 and later). It is not documented; ``test_draws.py`` holds what is relied on
here.
"""

from __future__ import annotations

import hashlib
import secrets
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from dali_cutmix._checks import refuse
from dali_cutmix._dali import DataNode, Pipeline

STATE_WORDS = 7  # 28 bytes, of which DALI's Philox takes 25: key, counter, phase

_names_in_use: weakref.WeakKeyDictionary[Pipeline, set[tuple[int, str]]] = (
    weakref.WeakKeyDictionary()
)


class Draws:
    """Hands every random operator of a graph its own stream; call it with the stream's name.

    Args:
        seed: Base seed of a seeded source. Ignored when ``state`` is given.
        state: Makes the node of the generators' states: ``[num_streams, 7]`` uint32 per sample,
            CPU, equal for all samples of a batch, in the order in which streams are asked for.
            Called when the first one is, so that a graph that draws nothing is fed nothing.

    Calling ``draws(name)`` returns the keyword argument that the operator takes: ``seed`` or
    ``_random_state``. A name can be asked for once.
    """

    def __init__(self, seed: int = 0, state: Callable[[], DataNode] | None = None) -> None:
        self._seed = seed
        self._make_state = state
        self._state: DataNode | None = None
        self.names: list[str] = []

    @classmethod
    def of(cls, where: str, seed: int | Draws | None) -> Draws:
        """A source for one graph function: as given, or made of an integer or the graph's seed."""
        if isinstance(seed, Draws):
            return seed
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
    def _of_graph(cls, where: str) -> Draws:
        pipeline = Pipeline.current()
        graph_seed = getattr(pipeline, "seed", None)
        if graph_seed is None or graph_seed < 0:
            return cls(secrets.randbits(62))  # as DALI's own operators do in a graph without a seed
        turn = 0
        while not _take(derive_seed(graph_seed, f"{where}/{turn}"), where):
            turn += 1
        return cls(derive_seed(graph_seed, f"{where}/{turn}"))

    def __call__(self, name: str) -> dict[str, Any]:
        """The keyword argument that gives an operator the stream of this name."""
        if name in self.names:
            raise ValueError(
                f"Draws: the stream {name!r} is taken: an operator needs its own name."
            )
        self.names.append(name)
        if self._make_state is None:
            return {"seed": derive_seed(self._seed, name)}
        if self._state is None:
            self._state = self._make_state()
        return {"_random_state": self._state[len(self.names) - 1]}

    def states(self, seed: int, epoch: int, batch: int, shard: int) -> np.ndarray:
        """The states to feed for one batch: ``[num_streams, 7]`` uint32.

        Args:
            seed: The run's seed.
            epoch: Epoch, from 0.
            batch: Number of the batch within its epoch, from 0.
            shard: Index of this process's part of the data: ranks must not draw alike.
        """
        digests = (
            hashlib.blake2b(
                f"{seed}/{name}/{epoch}/{batch}/{shard}".encode(), digest_size=4 * STATE_WORDS
            ).digest()
            for name in self.names
        )
        return np.frombuffer(b"".join(digests), np.uint32).reshape(-1, STATE_WORDS)


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
