"""Runs graph functions on batches given as arrays, on either back end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn, types

import reference
from dali_cutmix import MixPlan, Rect
from dali_cutmix.core.draws import Math
from dali_cutmix.core.frame import Frame, Sample, Structure, map_leaves
from dali_cutmix.core.graph_draws import GRAPH
from dali_cutmix.core.host_draws import HOST, HostDraws
from dali_cutmix.mixing.paste import without_empty

#: Where pixels are made: every test that makes some runs on both.
BACK_ENDS = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def full(*cases: Any) -> list[Any]:
    """Cases that only repeat a law with other settings: run by ``pytest -m full``."""
    return [pytest.param(case, marks=pytest.mark.full) for case in cases]


#: Where plans are drawn: in a ``"graph"``, or on the ``"host"`` as the loader does.
CARRIER = "graph"

FIELDS = ("own", "partner", "lam", "kept", "anchor", "extent")


def run(
    define: Callable[..., Sequence[Any]],
    batches: Sequence[Sequence[Any]],
    back_end: str = "cpu",
    seed: int = 1,
) -> list[tuple[np.ndarray, ...]]:
    """Feed each batch to the graph that ``define`` makes of its nodes.

    Args:
        define: Takes one CPU node per input, and returns a sequence of nodes.
        batches: Per batch the inputs, arrays with a batch axis in front; sizes may differ.
        back_end: ``"cpu"`` or ``"gpu"``: whether the graph has a device at all.
        seed: Of the pipeline.

    Returns:
        Per batch what ``define`` returned, arrays with a batch axis in front.
    """
    inputs = [[list(np.asarray(one)) for one in column] for column in zip(*batches, strict=True)]
    pipeline = _pipeline(max(map(len, inputs[0])), back_end, seed)
    with pipeline:
        nodes = [fn.external_source(source=one, cycle="quiet", batch=True) for one in inputs]
        pipeline.set_outputs(*define(*nodes))
    return [tuple(map(to_array, pipeline.run())) for _ in batches]


def run_on_both(
    define: Callable[..., Sequence[Any]], batches: Sequence[Sequence[Any]]
) -> list[tuple[np.ndarray, ...]]:
    """As `run` on the CPU, for arithmetic on either carrier, which has to agree to the bit."""
    by_nodes = run(define, batches)
    for batch, wanted in zip(batches, by_nodes, strict=True):
        for found, one in zip(define(*map(np.asarray, batch)), wanted, strict=True):
            assert found.dtype == one.dtype
            np.testing.assert_array_equal(found, one)
    return by_nodes


def draw(
    define: Callable[[], Any],
    batch_size: int,
    num_batches: int = 1,
    seed: int | None = 1,
    only: Sequence[str] = FIELDS,
) -> SimpleNamespace:
    """Draw the plan that ``define`` makes, for a few batches.

    Returns:
        The plan's fields as arrays ``[num_batches, batch_size, ...]``, None where the plan has
        None. What is not among ``only`` is not computed, which is faster.

    With ``CARRIER`` set to ``"host"`` the plan is drawn as the loader does.
    """
    if CARRIER == "host":
        return _draw_on_host(define, batch_size, num_batches, seed, only)
    pipeline = _pipeline(batch_size, "cpu", seed)
    with pipeline:
        nodes = {name: node for name, node in fields(define()).items() if name in only}
        pipeline.set_outputs(*nodes.values())
    runs = [tuple(map(to_array, pipeline.run())) for _ in range(num_batches)]
    drawn = {name: np.stack([one[i] for one in runs]) for i, name in enumerate(nodes)}
    return SimpleNamespace(**{name: drawn.get(name) for name in FIELDS})


def _draw_on_host(
    define: Callable[[], Any],
    batch_size: int,
    num_batches: int,
    graph_seed: int | None,
    only: Sequence[str],
) -> SimpleNamespace:
    drawn: list[dict[str, Any]] = []
    for number in range(num_batches):
        turns = itertools.count()

        def draws_of(
            where: str, seed: int | None, at: int = number, turns: Any = turns
        ) -> HostDraws:
            assert where.endswith("_plan")
            own = f"{graph_seed}/{next(turns)}" if seed is None else seed
            return HostDraws(batch_size, own, 0, at, 0)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dali_cutmix.core.graph_draws.GraphDraws.of", draws_of)
            drawn.append(fields(define()))
    for name, array in drawn[0].items():
        assert array.dtype == (np.float32 if name in ("lam", "kept") else np.int32), name
        assert array.shape[:1] == (batch_size,)
    stacked = {name: np.stack([one[name] for one in drawn]) for name in drawn[0] if name in only}
    return SimpleNamespace(**{name: stacked.get(name) for name in FIELDS})


def cuts(
    function: Callable[..., Any], lam: Any, place: Any, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Anchors and extents ``[n, 2]`` for ``n`` fractions and places: the candidates of a sample."""
    place = np.asarray(place, np.float32).reshape(-1, 2)
    lam = np.broadcast_to(np.asarray(lam, np.float32).reshape(-1, 1), (len(place), 1))

    def define(lam: Any, place: Any) -> Any:
        return function(lam, place, size, math_of(lam))

    ((anchor, extent),) = run_on_both(define, [([lam], [place])])
    return anchor[0], extent[0]


def math_of(value: Any) -> Math:
    """The arithmetic of what a function was given, nodes or arrays."""
    return HOST if isinstance(value, np.ndarray) else GRAPH


def plan_of(
    size: tuple[int, int], own: Any, partner: Any, kept: Any, anchor: Any, extent: Any
) -> MixPlan:
    """Return the plan of two regions, of nodes, that pastes the given cuts of the partner."""
    rect = Rect(
        fn.stack(types.Constant(np.zeros(2, np.int32)), anchor),
        fn.stack(types.Constant(np.array(size, np.int32)), extent),
    )
    weight = fn.stack(kept, 1.0 - kept)
    return MixPlan(fn.stack(own, partner), weight, size, taken=rect, put=rect, lam=kept)


def operated(mix: Any, plan: MixPlan, images: np.ndarray, back_end: str = "cpu") -> np.ndarray:
    """What a mix's operators make of images and of a plan of arrays or tensors."""
    plan = without_empty(map_leaves(np.asarray, plan)).for_operators()
    structure = Structure(plan)

    def define(image: Any, *leaves: Any) -> Any:
        # Copied, since an input of a graph cannot be its output.
        sample = Sample(on(back_end, fn.copy(image)))
        return [mix.operate(sample, structure.build(leaves), Frame(plan.size)).image]

    return run(define, [(images, *structure.leaves(plan))], back_end)[0][0]


def steps(plan: Any) -> list[reference.Step]:
    """The plans of one rectangle or blend each that a plan consists of, in order."""
    if hasattr(plan, "choice"):
        return steps(plan.plans[int(plan.choice[0])])
    if hasattr(plan, "plans"):
        return [step for part in plan.plans for step in steps(part)]
    taken, put = (
        None if rect is None else np.stack([rect.anchor, rect.extent], axis=2)
        for rect in (plan.taken, plan.put)
    )
    return [reference.Step(np.asarray(plan.source), np.asarray(plan.weight), taken, put)]


def fields(plan: Any) -> dict[str, Any]:
    """A plan's fields by name, without those that are None."""
    values = {name: getattr(plan, name) for name in FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def note_pipelines(monkeypatch: pytest.MonkeyPatch) -> list[Pipeline]:
    """A list that every pipeline of a loader is added to from now on."""
    pipelines: list[Pipeline] = []

    def make(**settings: Any) -> Pipeline:
        pipelines.append(Pipeline(**settings))
        return pipelines[-1]

    monkeypatch.setattr("dali_cutmix.serving.graph.Pipeline", make)
    return pipelines


def operators_of(pipeline: Pipeline) -> set[str]:
    """Names of the operators that DALI runs in a pipeline."""
    return {type(operator._op).__name__ for operator in pipeline._ops}


def soon(happens: Callable[[], bool]) -> bool:
    """Whether it happens within a few seconds: a thread that was joined ends a little later."""
    end = time.monotonic() + 5
    while not happens() and time.monotonic() < end:
        time.sleep(0.01)
    return happens()


def on(back_end: str, node: Any) -> Any:
    """A CPU node, moved to where the back end makes pixels."""
    return node.gpu() if back_end == "gpu" else node


def define_in_a_graph(define: Callable[[], Any]) -> None:
    """Define a graph and build nothing: enough for what is refused on the way."""
    with _pipeline(2, "cpu", 1):
        define()


def to_array(batch: Any) -> np.ndarray:
    """One of DALI's batches of equal shapes as an array of its own."""
    return np.array(batch.as_cpu().as_tensor())


def _pipeline(batch_size: int, back_end: str, seed: int | None) -> Pipeline:
    return Pipeline(
        batch_size=batch_size,
        num_threads=1,
        device_id=None if back_end == "cpu" else 0,
        seed=seed,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
