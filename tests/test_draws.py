"""The random numbers of a graph: what is relied on in DALI, and that streams keep apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn
from scipy.stats import kstest

from dali_cutmix import cutmix_plan, cutout_plan, mixup_plan
from dali_cutmix.draws import Draws, derive_seed

BATCH = 256


def run_fed(
    define: Callable[[Draws], Any], states: list[np.ndarray], sizes: list[int]
) -> list[Any]:
    """Outputs of a graph fed the given states, one after another."""
    pipeline = Pipeline(batch_size=BATCH, num_threads=2, device_id=None)
    with pipeline:
        feed = [np.repeat(s[None], n, axis=0) for s, n in zip(states, sizes, strict=True)]
        draws = Draws(state=lambda: fn.external_source(source=feed, batch=True, cycle=False))
        pipeline.set_outputs(*define(draws))
    return [[np.array(out.as_array()) for out in pipeline.run()] for _ in states]


def every_operator(draws: Draws) -> list[Any]:
    """One of each random operator the library uses."""
    shape = fn.external_source(source=lambda _: np.tile([60, 80, 3], (BATCH, 1)), batch=True)
    return [
        fn.random.uniform(range=[0.0, 1.0], shape=[2], **draws("uniform")),
        fn.random.beta(alpha=0.7, beta=0.7, **draws("beta")),
        fn.random.coin_flip(probability=0.4, **draws("coin")),
        fn.batch_permutation(no_fixed_points=True, **draws("permutation")),
        *fn.random_crop_generator(shape, **draws("crop")),
    ]


def states_of(epoch: int, batch: int, seed: int = 0, shard: int = 0) -> np.ndarray:
    draws = Draws()
    draws.names = ["uniform", "beta", "coin", "permutation", "crop"]
    return draws.states(seed, epoch, batch, shard)


def test_a_fed_state_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    wanted, other = states_of(3, 5), states_of(0, 0)
    full = [BATCH] * 3
    first = run_fed(every_operator, [wanted, other, wanted], full)
    second = run_fed(every_operator, [other, wanted, wanted], full)
    for a, b, c in zip(first[0], first[2], second[1], strict=True):
        assert (a == b).all()
        assert (a == c).all()
    assert all((a != b).any() for a, b in zip(first[0], first[1], strict=True))


def test_seed_epoch_batch_and_shard_each_change_every_stream() -> None:
    reference = states_of(1, 2, 3, 4)
    for changed in [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)]:
        assert (states_of(*changed) != reference).any(axis=1).all()
    assert reference.shape == (5, 7)
    assert len({row.tobytes() for row in reference}) == 5


def test_a_stream_depends_on_its_name_and_not_on_its_neighbours() -> None:
    few, many = Draws(), Draws()
    few.names, many.names = ["b"], ["a", "b", "c"]
    assert (few.states(1, 2, 3, 4)[0] == many.states(1, 2, 3, 4)[1]).all()


def test_samples_of_one_fed_state_draw_independently_and_uniformly() -> None:
    states = [states_of(epoch, 0) for epoch in range(20)]
    batches = run_fed(every_operator, states, [BATCH] * 20)
    uniform = np.concatenate([batch[0] for batch in batches])
    # Fixed seeds: at this threshold right numbers fail for one seed in 1000.
    assert kstest(uniform.ravel(), "uniform").pvalue > 0.001
    # A correlation of n independent pairs has the standard error 1 / sqrt(n): four of them.
    bound = 4 / np.sqrt(len(uniform))
    assert abs(np.corrcoef(uniform[:, 0], uniform[:, 1])[0, 1]) < bound
    assert abs(np.corrcoef(uniform[:-1, 0], uniform[1:, 0])[0, 1]) < bound
    beta = np.concatenate([batch[1] for batch in batches])
    assert kstest(beta, "beta", args=(0.7, 0.7)).pvalue > 0.001


def test_a_short_batch_draws_too() -> None:
    def define(draws: Draws) -> list[Any]:
        return [fn.random.uniform(range=[0.0, 1.0], **draws("uniform"))]

    (whole,), (short,) = run_fed(define, [states_of(0, 0)[:1]] * 2, [BATCH, 3])
    assert (short == whole[:3]).all()


def test_a_stream_can_be_asked_for_once() -> None:
    draws = Draws(3)
    draws("a")
    with pytest.raises(ValueError, match=r"^Draws: the stream 'a' is taken: an operator"):
        draws("a")


def test_derived_seeds_differ_and_fit_dali() -> None:
    seeds = {derive_seed(seed, name) for seed in range(100) for name in ("a", "b", "c")}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**62 for seed in seeds)


def graph_numbers(define: Callable[[], list[Any]], seed: int | None) -> list[np.ndarray]:
    pipeline = Pipeline(batch_size=8, num_threads=1, device_id=None, seed=seed)
    with pipeline:
        pipeline.set_outputs(*define())
    return [np.array(out.as_array()) for out in pipeline.run()]


def test_plans_of_one_graph_draw_apart_and_follow_the_graphs_seed() -> None:
    def define() -> list[Any]:
        plans = [cutmix_plan((64, 64)), cutmix_plan((64, 64)), mixup_plan((64, 64))]
        return [plan.lam for plan in plans]

    first, again, other = (graph_numbers(define, seed) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not any((a == b).any() for a, b in zip(first, other, strict=True))
    assert not (first[0] == first[1]).any()
    assert not (first[0] == first[2]).any()


def test_plans_of_a_graph_without_a_seed_differ_from_run_to_run() -> None:
    first, second = (graph_numbers(lambda: [mixup_plan((8, 8)).lam], None) for _ in range(2))
    assert not (first[0] == second[0]).any()


def test_one_seed_for_two_plans_of_a_kind_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        graph_numbers(lambda: [cutout_plan((8, 8), side=2, seed=1).kept for _ in range(2)], 0)
    assert str(caught.value) == (
        "cutout_plan: `seed` must differ from those of the graph's other draws of this kind, got "
        "1. Two operators given equal seeds draw equal numbers: pass another one."
    )


def test_one_seed_serves_plans_of_two_kinds() -> None:
    def define() -> list[Any]:
        return [mixup_plan((8, 8), seed=1).lam, cutmix_plan((8, 8), seed=1).lam]

    mixup, cutmix = graph_numbers(define, 0)
    assert not (mixup == cutmix).any()


def test_bad_seed_is_refused() -> None:
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match="`seed` must be a whole number of"):
            cutmix_plan((8, 8), seed=seed)  # type: ignore[arg-type]
