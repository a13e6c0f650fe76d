"""Who gets which sample, over any number of ranks, also when a run goes on with other ranks."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain, zip_longest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from dali_cutmix import EpochSampler, Shard
from dali_cutmix.order.progress import Progress

RUNS = settings(max_examples=60, deadline=None)
NUM_SAMPLES = st.integers(1, 60)
WORLDS = st.integers(1, 9)
SHUFFLES = st.sampled_from([True, False, "shards"])
REMAINDERS = st.sampled_from(["pad", "drop", "exact"])


def ragged(num_samples: int) -> list[int]:
    """Shard files of 1, 2, 3, 4, 1, 2, ... samples."""
    sizes = [1 + number % 4 for number in range(num_samples)]
    ends = [min(num_samples, end) for end in np.cumsum(sizes)]
    return np.diff(ends, prepend=0).tolist()


def samplers(num_samples: int, world: int, **settings: object) -> list[EpochSampler]:
    settings = {"shuffle": True, "seed": 0, **settings}
    if settings["shuffle"] == "shards":
        settings |= {"shard_sizes": ragged(num_samples), "window": 2}
    return [
        EpochSampler(num_samples, shard=Shard(rank, world), **settings) for rank in range(world)
    ]


@RUNS
@given(NUM_SAMPLES, WORLDS, st.booleans(), st.integers(0, 2**31), st.integers(0, 5))
def test_padded_order_is_that_of_torchs_distributed_sampler(
    num_samples: int, world: int, shuffle: bool, seed: int, epoch: int
) -> None:
    ours = samplers(num_samples, world, shuffle=shuffle, seed=seed, remainder="pad")
    for rank, sampler in enumerate(ours):
        reference = DistributedSampler(range(num_samples), world, rank, shuffle=shuffle, seed=seed)
        reference.set_epoch(epoch)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(reference)
        assert len(sampler) == len(reference)


@RUNS
@given(NUM_SAMPLES, WORLDS, st.booleans(), st.integers(0, 5))
def test_dropping_order_is_that_of_torchs_with_drop_last(
    num_samples: int, world: int, shuffle: bool, epoch: int
) -> None:
    ours = samplers(num_samples, world, shuffle=shuffle, remainder="drop")
    for rank, sampler in enumerate(ours):
        reference = DistributedSampler(
            range(num_samples), world, rank, shuffle=shuffle, drop_last=True
        )
        reference.set_epoch(epoch)
        sampler.set_epoch(epoch)
        if num_samples < world and not len(sampler):
            assert list(sampler) == []  # torch asserts here
            continue
        assert list(sampler) == list(reference)
        assert len(sampler) == len(reference)


@RUNS
@given(NUM_SAMPLES, WORLDS, SHUFFLES, st.integers(0, 5))
def test_exact_shards_serve_each_sample_once_and_differ_by_one_at_most(
    num_samples: int, world: int, shuffle: bool | str, epoch: int
) -> None:
    orders = [
        s.order(epoch) for s in samplers(num_samples, world, shuffle=shuffle, remainder="exact")
    ]
    assert sorted(chain(*orders)) == list(range(num_samples))
    assert max(map(len, orders)) - min(map(len, orders)) <= 1


def test_remainder_is_padded_when_shuffled_and_exact_when_not() -> None:
    assert EpochSampler(5, shuffle=True, seed=0, shard=Shard()).remainder == "pad"
    assert EpochSampler(5, shuffle=False, seed=0, shard=Shard()).remainder == "exact"


def test_unknown_remainder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^EpochSampler: `remainder` must be one of 'pad', "):
        EpochSampler(5, shuffle=True, seed=0, shard=Shard(), remainder="even")  # type: ignore[arg-type]


def loaders(
    num_samples: int, world: int, batch_size: int, *, shuffle: bool | str, remainder: str | None
) -> list[Progress]:
    """What of each rank's loader decides who serves what."""
    return [
        Progress.of("data", sampler, sampler, batch_size, drop_last=False)
        for sampler in samplers(num_samples, world, shuffle=shuffle, remainder=remainder)
    ]


def serve(ranks: list[Progress], batch_size: int, num_batches: int | None) -> list[list[int]]:
    """The samples of the next batches, by rank; None serves the rest of the epoch."""
    served = []
    for rank in ranks:
        position, left, _ = rank.begin()
        rank.begun(position)
        batches = [left[i : i + batch_size].tolist() for i in range(0, len(left), batch_size)]
        batches = batches[:num_batches]
        for _ in batches:
            rank.advance()
        if num_batches is None:
            rank.end()
        served.append(list(chain(*batches)))
    return served


@RUNS
@given(
    num_samples=NUM_SAMPLES,
    shuffle=SHUFFLES,
    remainder=REMAINDERS,
    legs=st.lists(st.tuples(WORLDS, st.integers(1, 7), st.integers(0, 4)), min_size=1, max_size=4),
    last=st.tuples(WORLDS, st.integers(1, 7)),
)
def test_a_run_resumed_with_other_ranks_serves_what_is_left_exactly_once(
    num_samples: int,
    shuffle: bool | str,
    remainder: str,
    legs: list[tuple[int, int, int]],
    last: tuple[int, int],
) -> None:
    state = None
    before: list[int] = []
    for world, batch_size, num_batches in legs:
        ranks = loaders(num_samples, world, batch_size, shuffle=shuffle, remainder=remainder)
        if state is not None:
            for rank in ranks:
                rank.resume(rank.position_of(json.loads(state)))
        # Ranks save after the same number of batches, as a training run does.
        fewest = min(len(rank.begin()[1]) for rank in ranks)
        before += chain(*serve(ranks, batch_size, min(num_batches, fewest // batch_size)))
        states = {json.dumps(rank.state()) for rank in ranks}
        assert len(states) == 1  # any rank's state serves all
        state = states.pop()
    world, batch_size = last
    ranks = loaders(num_samples, world, batch_size, shuffle=shuffle, remainder=remainder)
    for rank in ranks:
        rank.resume(rank.position_of(json.loads(state or "{}")))
    after = serve(ranks, batch_size, None)
    missing = sorted(set(range(num_samples)) - set(before))
    times = Counter(chain(*after))
    interleaved = [i for turn in zip_longest(*after) for i in turn if i is not None]
    if remainder == "exact":
        assert sorted(times.elements()) == missing
    elif remainder == "drop":
        assert set(times) <= set(missing)
        assert set(times.values()) <= {1}
        assert len(missing) - len(times) < world
    else:
        # Ranks stay in step by repeating what came before, and what is left comes once.
        assert len({len(part) for part in after}) == 1
        assert sorted(interleaved[: len(missing)]) == missing
        assert len(interleaved) - len(missing) < world
        if len(before) >= world and shuffle != "shards":
            assert all(times[index] == 1 for index in missing)


@RUNS
@given(
    num_samples=NUM_SAMPLES,
    world=WORLDS,
    batch_size=st.integers(1, 7),
    remainder=REMAINDERS,
    shuffle=SHUFFLES,
    stops=st.lists(st.integers(0, 4), max_size=4),
)
def test_a_run_resumed_with_the_same_ranks_serves_the_same_order(
    num_samples: int,
    world: int,
    batch_size: int,
    remainder: str,
    shuffle: bool | str,
    stops: list[int],
) -> None:
    def make() -> list[Progress]:
        return loaders(num_samples, world, batch_size, shuffle=shuffle, remainder=remainder)

    undisturbed = make()
    expected = [
        a + b
        for a, b in zip(
            serve(undisturbed, batch_size, None), serve(undisturbed, batch_size, None), strict=True
        )
    ]
    found: list[list[int]] = [[] for _ in range(world)]
    ranks = make()
    for stop in stops:
        for part, new in zip(found, serve(ranks, batch_size, stop), strict=True):
            part += new
        states = [json.loads(json.dumps(rank.state())) for rank in ranks]
        ranks = make()
        for rank, state in zip(ranks, states, strict=True):
            rank.resume(rank.position_of(state))
    for _ in range(2):
        for part, new in zip(found, serve(ranks, batch_size, None), strict=True):
            part += new
    assert found == expected


def test_global_random_state_is_left_alone_and_does_not_matter() -> None:
    sampler = EpochSampler(50, shuffle=True, seed=1, shard=Shard())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sampler.order(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    np.testing.assert_array_equal(sampler.order(0), first)
