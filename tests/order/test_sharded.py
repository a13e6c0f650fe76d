"""`shuffle="shards"`: who reads which shard files when; and permutations that need no array."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_cutmix import DataLoader, EpochSampler, EvalTransform, FileList, Shard, TarShards
from dali_cutmix.order import sampler as sampler_module
from dali_cutmix.order.keyed import KeyedPermutation

RUNS = settings(max_examples=60, deadline=None)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=20)
WORLDS = st.integers(1, 5)
WINDOWS = st.integers(1, 6)


def deal(
    sizes: list[int], world: int, window: int, *, epoch: int = 0, seed: int = 0, **rest: Any
) -> list[list[int]]:
    """The samples of each rank in an epoch, each once."""
    return [
        EpochSampler(
            sum(sizes),
            shuffle="shards",
            seed=seed,
            shard=Shard(rank, world),
            remainder="exact",
            shard_sizes=sizes,
            window=window,
        )
        .order(epoch, **rest)
        .tolist()
        for rank in range(world)
    ]


def files_of(samples: list[int], sizes: list[int]) -> list[int]:
    return np.repeat(np.arange(len(sizes)), sizes)[samples].tolist()


def most_open(files: list[int]) -> int:
    """Most files between their first and their last use at a time."""
    last = {file: place for place, file in enumerate(files)}
    seen: set[int] = set()
    most = 0
    for place, file in enumerate(files):
        seen.add(file)
        most = max(most, sum(last[other] >= place for other in seen))
    return most


@RUNS
@given(SIZES, WORLDS, WINDOWS, st.integers(0, 3))
def test_a_rank_reads_at_most_a_window_of_files_at_a_time_and_shares_only_those_at_its_ends(
    sizes: list[int], world: int, window: int, epoch: int
) -> None:
    parts = [files_of(part, sizes) for part in deal(sizes, world, window, epoch=epoch)]
    assert all(most_open(part) <= window for part in parts)
    readers = Counter(chain.from_iterable(map(set, parts)))
    assert sum(readers.values()) <= len(sizes) + world - 1  # a cut shares one file at most
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


@RUNS
@given(SIZES, WINDOWS, WORLDS, WORLDS, st.data())
def test_after_a_resume_a_rank_still_reads_few_files_of_its_own(
    sizes: list[int], window: int, before: int, after: int, data: Any
) -> None:
    served = data.draw(st.integers(0, sum(sizes) // before)) * before
    was = deal(sizes, before, window)
    left = [part[served // before :] for part in was]
    dealt = [(before, served)] if served else ()
    parts = deal(sizes, after, window, start=served, dealt=dealt)
    if served:  # the ends of the parts in a row, cut anew
        assert list(chain(*parts)) == list(chain(*left))
    readers = Counter(chain.from_iterable(set(files_of(part, sizes)) for part in parts))
    # What one rank read, or two at a cut, is parted at each cut among `window` files at most.
    assert sum(readers.values()) <= len(sizes) + before - 1 + (after - 1) * max(window, 1) * 2


def test_a_rank_that_would_be_short_repeats_its_own_first_sample() -> None:
    sizes = [3, 3, 3, 2]
    exact = deal(sizes, 4, 2)
    for rank in range(4):
        padded = EpochSampler(
            11, shuffle="shards", seed=0, shard=Shard(rank, 4), shard_sizes=sizes, window=2
        )
        extra = [] if rank < 3 else [exact[3][0]]
        assert list(padded) == exact[rank] + extra
        assert len(padded) == 3


def test_every_place_of_a_window_is_equally_likely_for_each_of_its_samples() -> None:
    """Of 6 samples in 3 files, one window: each place has 1/6 of 3,000 epochs, within 5 sigma."""
    places = np.zeros((6, 6), int)
    for epoch in range(3000):
        (part,) = deal([2, 2, 2], 1, 3, epoch=epoch)
        places[part, np.arange(6)] += 1
    assert abs(places - 500).max() < 5 * np.sqrt(3000 * (1 / 6) * (5 / 6))


def test_every_rank_is_equally_likely_to_get_a_file() -> None:
    first = np.zeros(4, int)
    for epoch in range(2000):
        for file in set(files_of(deal([2] * 4, 2, 1, epoch=epoch)[0], [2] * 4)):
            first[file] += 1
    assert abs(first - 1000).max() < 5 * np.sqrt(2000 / 4)


def test_seeds_and_epochs_have_orders_of_their_own_and_ranks_share_the_order_of_files() -> None:
    sizes = [4] * 30
    orders = {tuple(deal(sizes, 1, 3, epoch=e, seed=s)[0]) for e in range(3) for s in range(3)}
    assert len(orders) == 9
    row = [file for file, _ in pairwise([*files_of(deal(sizes, 1, 1)[0], sizes), -1])][::4]
    parts = [files_of(part, sizes)[::4] for part in deal(sizes, 3, 1)]
    assert list(chain(*parts)) == row


def test_the_drawing_of_the_docstring_is_what_is_served() -> None:
    text = EpochSampler.__doc__ or ""
    (row,) = re.findall(r"files permuted +(.+)", text)
    dealt = re.findall(r"dealt to ranks +rank 0: (.+?)  +rank 1: (.+)", text)[0]
    windows = re.findall(r"windows +rank 0: (.+?)  +rank 1: (.+)", text)[0]
    served = re.findall(r"served rank (\d) +(.+)", text)
    parts = deal([4] * 6, 2, 2)
    assert [
        " ".join("abcdef"[sample // 4] + str(sample % 4) for sample in part) for part in parts
    ] == [line for _, line in served]
    assert " ".join(dealt) == row
    for rank, part in enumerate(parts):
        of_windows = [sorted(set(files_of(part[at : at + 8], [4] * 6))) for at in (0, 8)]
        named = [sorted("ABCDEF".index(name) for name in w.split()) for w in
                 re.findall(r"\{(.+?)\}", windows[rank])]  # fmt: skip
        assert named == of_windows


@RUNS
@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_a_keyed_permutation_has_every_number_once(size: int, seed: int) -> None:
    assert sorted(KeyedPermutation(size, seed)(np.arange(size))) == list(range(size))


def test_a_keyed_permutation_says_what_stands_at_a_place_of_any_size_without_the_rest() -> None:
    permutation = KeyedPermutation(2**50 + 3, 0)
    numbers = permutation(np.array([0, 1, 2**50 + 2]))
    assert len(set(numbers.tolist())) == 3
    assert (numbers >= 0).all()
    assert (numbers < 2**50 + 3).all()
    assert permutation(np.array([1])) == numbers[1]


def test_numbers_of_a_keyed_permutation_are_equally_likely_at_every_place() -> None:
    """Of 7 numbers, 4,000 seeds: each place has 1/7 of each number, and each pair of neighbours."""
    orders = np.array([KeyedPermutation(7, seed)(np.arange(7)) for seed in range(4000)])
    for place in range(7):
        counts = np.bincount(orders[:, place], minlength=7)
        assert abs(counts - 4000 / 7).max() < 5 * np.sqrt(4000 * (1 / 7) * (6 / 7))
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % 7).ravel(), minlength=7)
    assert steps[0] == 0
    assert abs(steps[1:] - 4000).max() < 5 * np.sqrt(24000 * (1 / 6) * (5 / 6))


def test_large_data_are_permuted_by_key_and_dealt_out_as_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def orders(world: int, epoch: int = 0, start: int = 0) -> list[list[int]]:
        return [
            EpochSampler(
                50, shuffle=True, seed=1, shard=Shard(rank, world), remainder="exact"
            ).order(epoch, start).tolist()
            for rank in range(world)
        ]  # fmt: skip

    torchs = orders(1)[0]
    monkeypatch.setattr(sampler_module, "MOST_OF_TORCH", 49)
    whole = orders(1)[0]
    assert whole != torchs
    assert sorted(whole) == list(range(50))
    assert list(orders(3)) == [whole[rank::3] for rank in range(3)]
    assert orders(2, start=10) == [whole[10::2], whole[11::2]]
    assert len({tuple(orders(1, epoch)[0]) for epoch in range(4)}) == 4


@pytest.fixture
def shards(numbered_folder: Path, tmp_path: Path) -> Path:
    """Shards of 5, 5, 5, 5 and 3 images of `numbered_folder`."""
    listed = list(FileList.from_folder(numbered_folder).samples)
    for number in range(5):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for place, (path, label) in enumerate(listed[5 * number : 5 * number + 5]):
                (tmp_path / "cls").write_text(str(label))
                tar.add(path, f"{place}.png")
                tar.add(tmp_path / "cls", f"{place}.cls")
    return tmp_path


def load(source: Any, batch_size: int = 4, **settings: Any) -> DataLoader:
    defaults = {"shuffle": "shards", "window": 2, "transform": EvalTransform(8, 8)}
    return DataLoader(source, batch_size, dtype=torch.uint8, **{**defaults, **settings})


def numbers(batches: Any) -> list[int]:
    return [n for image, _ in batches for n in (image[:, 0, 0, 0] // 10).tolist()]


def test_a_loader_serves_windows_of_shards_and_resumes_in_mid_epoch(shards: Path) -> None:
    expected = EpochSampler(
        23, shuffle="shards", seed=0, shard=Shard(), shard_sizes=[5, 5, 5, 5, 3], window=2
    )
    loader = load(shards)
    assert (loader.shuffle, loader.window) == ("shards", 2)
    assert numbers(loader) == expected.order(0).tolist()
    epoch = iter(loader)
    begun = numbers([next(epoch), next(epoch)])
    again = load(shards, num_workers=1)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert begun + numbers(again) == expected.order(1).tolist()


def test_a_run_resumed_twice_with_other_ranks_serves_each_sample_once(shards: Path) -> None:
    served: list[int] = []
    state = None
    for world, num_batches in ((2, 1), (3, 1), (2, None)):
        ranks = [load(shards, 2, shard=Shard(n, world), remainder="exact") for n in range(world)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(json.loads(json.dumps(state)))
            epoch = iter(rank)
            served += numbers(epoch if num_batches is None else [next(epoch)])
        state = ranks[0].state_dict()
        assert all(rank.state_dict() == state for rank in ranks) or num_batches is None
    assert sorted(served) == list(range(23))


def test_selected_images_keep_their_shards_where_they_keep_their_order(shards: Path) -> None:
    images = TarShards(shards, progress=False)
    assert images.shard_sizes.tolist() == [5, 5, 5, 5, 3]
    sizes = images.take([0, 4, 5, 9, 22]).shard_sizes
    assert sizes is not None
    assert sizes.tolist() == [2, 2, 0, 0, 1]
    assert sorted(numbers(load(images.take([0, 4, 5, 9, 22])))) == [0, 4, 5, 9, 22]
    assert images.take([4, 0]).shard_sizes is None
    assert images.take([4, 4]).shard_sizes is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shuffle": "shard"}, "DataLoader: `shuffle` must be one of True, False, 'shards', got "),
        ({"window": 0}, "DataLoader: `window` must be a whole number of at least 1, got 0."),
        (
            {"shuffle": True},
            "DataLoader: `window` must be left out without shuffle='shards', got 2.",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    shards: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load(shards, **settings)


def test_images_outside_of_shards_are_refused(numbered_folder: Path, shards: Path) -> None:
    message = (
        "DataLoader: `shuffle` must be True or False where images do not lie in shards, one shard "
        "after the other, got 'shards'. `dali-cutmix pack` writes shards."
    )
    for source in (numbered_folder, TarShards(shards).take([3, 2])):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            load(source)
    with pytest.raises(ValueError, match=r"^EpochSampler: `shard_sizes` must be the samples of ea"):
        EpochSampler(5, shuffle="shards", seed=0, shard=Shard(), shard_sizes=[2, 2])


def test_a_state_belongs_to_its_window(shards: Path) -> None:
    state = load(shards).state_dict()
    with pytest.raises(ValueError, match=r"window is 3 here and 2 in the state"):
        load(shards, window=3).load_state_dict(state)
    with pytest.raises(ValueError, match=r"shuffle is True here and 'shards' in the state"):
        load(shards, shuffle=True, window=None).load_state_dict(state)


def test_a_state_from_before_there_were_windows_loads(shards: Path) -> None:
    loader = load(shards, shuffle=True, window=None)
    epoch = iter(loader)
    begun = numbers([next(epoch)])
    state = loader.state_dict()
    del state["window"], state["dealt"]
    again = load(shards, shuffle=True, window=None)
    again.load_state_dict(state)
    assert sorted(begun + numbers(again)) == list(range(23))
