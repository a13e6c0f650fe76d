"""Draws and arithmetic in a graph that a user writes, by DALI's operators.

Each random operator has a seed of its own. Its numbers depend on every batch drawn before,
discarded batches included.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import INT32, Pipeline, constant, fn, math, python_pair
from dali_cutmix.core.draws import DrawEach, Math, derive_seed, first_smallest

_names_in_use: weakref.WeakKeyDictionary[Pipeline, set[tuple[int, str]]] = (
    weakref.WeakKeyDictionary()
)


class GraphMath:
    """`Math` on nodes of a graph, by DALI's operators, on the CPU."""

    floor = staticmethod(math.floor)
    sqrt = staticmethod(math.sqrt)
    log = staticmethod(math.log)
    cos = staticmethod(math.cos)
    minimum = staticmethod(math.min)
    maximum = staticmethod(math.max)

    def cast(self, value: Any, dtype: Any) -> Any:
        """See `Math`."""
        return fn.cast(value, dtype=dtype)

    def constant(self, numbers: np.ndarray) -> Any:
        """See `Math`."""
        return constant(numbers)

    def column(self, value: Any, index: int) -> Any:
        """See `Math`."""
        return fn.slice(value, start=[index], shape=[1], axes=[-1])

    def smallest_row(self, value: Any) -> Any:
        """See `Math`."""
        return fn.reductions.min(value, axes=[0], keep_dims=True)

    def largest(self, value: Any) -> Any:
        """See `Math`."""
        return fn.reductions.max(value)

    def row(self, value: Any, index: Any) -> Any:
        """See `Math`."""
        return value[index]

    def join(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return fn.stack(*[self.scalar(value) for value in values])

    def stack(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return fn.stack(*values)

    def scalar(self, value: Any) -> Any:
        """See `Math`."""
        return fn.reshape(value, shape=[])

    def of_sample(self, value: Any, sample: Any) -> Any:
        """See `Math`."""
        return fn.permute_batch(value, indices=sample)

    def positions(self, function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
        """See `Math`."""

        def of_lists(values: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
            indices = np.arange(len(values), dtype=np.int32)[:, None]
            is_scalar = values[0].ndim == 0
            results = function(np.array(values, np.int32)[:, None] if is_scalar else indices)
            return _scalars(indices), _scalars(results)

        return python_pair(of_lists, value)


GRAPH: Math = GraphMath()


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


def _scalars(numbers: np.ndarray) -> list[np.ndarray]:
    # DALI takes one array per sample, of no dimensions here, and no NumPy scalars.
    return [np.asarray(number, np.int32) for number in numbers.reshape(-1)]


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
