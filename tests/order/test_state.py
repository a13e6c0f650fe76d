"""A run that goes on where it stood: bit-identical batches, or a refusal that says why not."""

from __future__ import annotations

import ast
import copy
import json
import math
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    MixUp,
    RandomChoice,
    Scheduled,
    Shard,
    TrainTransform,
)
from dali_cutmix.augmentations import RandomErasing

CROP = TrainTransform(size=(24, 16))


def train(root: Path, **settings: Any) -> DataLoader:
    defaults = {"batch_size": 4, "shuffle": True, "transform": CROP, "mix": CutMix(), "seed": 3}
    return DataLoader(root, **{**defaults, **settings})


def endless(loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from loader


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(state, allow_nan=False)))


@pytest.mark.parametrize(
    ("served", "drop_last"),
    [(0, True), (1, False), (5, True), (6, False), (9, True), (12, False), (14, True)],
)
def test_resumed_loader_serves_the_batches_it_would_have_served(
    photo_folder: Path, served: int, drop_last: bool
) -> None:
    """21 files in batches of 4: six batches an epoch, or five with drop_last."""
    expected = list(islice(endless(train(photo_folder, drop_last=drop_last)), 18))
    first = train(photo_folder, drop_last=drop_last, num_workers=2, prefetch=3)
    found = list(islice(endless(first), served))
    second = train(photo_folder, drop_last=drop_last, num_workers=1, prefetch=1)
    second.load_state_dict(through_json(first.state_dict()))
    assert_same(found + list(islice(endless(second), 18 - served)), expected)


@pytest.mark.gpu
def test_resumed_gpu_loader_serves_the_crops_and_mixes_it_would_have_served(
    photo_folder: Path,
) -> None:
    expected = list(train(photo_folder, device="cuda"))
    first = train(photo_folder, device="cuda")
    next(iter(first))
    second = train(photo_folder, device="cuda", num_workers=1, prefetch=1)
    second.load_state_dict(through_json(first.state_dict()))
    for (image, target), (wanted, wanted_target) in zip(second, expected[1:], strict=True):
        assert torch.equal(target, wanted_target)
        assert (image - wanted).abs().mean() < 0.05  # engines need not agree to the last level


@pytest.mark.parametrize("mix", [CutMix(), MixUp(), None], ids=repr)
def test_every_mix_goes_on_with_the_draws_it_would_have_made(photo_folder: Path, mix: Any) -> None:
    expected = list(train(photo_folder, mix=mix))
    first = train(photo_folder, mix=mix)
    next(iter(first))
    second = train(photo_folder, mix=mix)
    second.load_state_dict(first.state_dict())
    assert_same(list(second), expected[1:])


def test_prefetched_batches_count_as_undelivered(photo_folder: Path) -> None:
    loader = train(photo_folder, prefetch=4)
    epoch = iter(loader)
    for delivered in range(1, 6):
        next(epoch)
        assert loader.state_dict()["batch"] == delivered


def test_state_is_small_numbers_and_strings(photo_folder: Path) -> None:
    loader = train(photo_folder, on_error="replace")
    next(iter(loader))
    state = loader.state_dict()
    assert through_json(state) == state
    assert len(json.dumps(state)) < 1500


def test_state_before_the_first_batch_is_the_beginning(photo_folder: Path) -> None:
    loader = train(photo_folder)
    loader.set_epoch(7)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (7, 0)
    other = train(photo_folder)
    other.load_state_dict(state)
    assert_same(list(other), list(loader))


def test_state_after_the_last_batch_stands_at_the_end_and_after_the_epoch_at_the_next(
    photo_folder: Path,
) -> None:
    first = train(photo_folder)
    epoch = iter(first)
    for _ in range(len(first)):
        next(epoch)
    at_end = first.state_dict()
    assert (at_end["epoch"], at_end["batch"]) == (0, 6)
    with pytest.raises(StopIteration):
        next(epoch)
    after = first.state_dict()
    assert (after["epoch"], after["batch"]) == (1, 0)
    second = train(photo_folder)
    second.load_state_dict(at_end)
    assert list(second) == []
    assert_same(list(second), list(first))


def test_state_of_an_epoch_that_was_broken_off_is_in_its_middle_until_another_is_chosen(
    photo_folder: Path,
) -> None:
    loader = train(photo_folder)
    for number, _ in enumerate(loader):
        if number == 2:
            break
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, 3)
    loader.set_epoch(1)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)


def test_setting_the_states_own_epoch_keeps_the_place_and_another_drops_it(
    photo_folder: Path,
) -> None:
    first = train(photo_folder)
    first.set_epoch(2)
    expected = list(first)
    first.set_epoch(2)
    next(iter(first))
    state = first.state_dict()
    for choose in (DataLoader.set_epoch, lambda loader, epoch: loader.sampler.set_epoch(epoch)):
        second = train(photo_folder)
        second.load_state_dict(state)
        choose(second, 2)  # as training loops do before each epoch
        assert_same(list(second), expected[1:])
        second.load_state_dict(state)
        choose(second, 5)
        assert second.state_dict()["batch"] == 0
        assert len(list(second)) == 6
        choose(second, 2)
        assert_same(list(second), expected)
    third = train(photo_folder)
    third.load_state_dict(state)
    third.set_epoch(7)
    third.set_epoch(2)
    assert_same(list(third), expected)


def test_loading_again_takes_the_last_state_also_in_mid_epoch(photo_folder: Path) -> None:
    loader = train(photo_folder)
    epoch = iter(loader)
    expected = [next(epoch) for _ in range(2)]
    state = loader.state_dict()
    expected += list(epoch)
    epoch = iter(loader)
    next(epoch)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    assert_same(list(loader), expected[2:])


def test_state_can_be_taken_again_before_the_resumed_epoch_starts(photo_folder: Path) -> None:
    first = train(photo_folder)
    next(iter(first))
    state = first.state_dict()
    second = train(photo_folder)
    second.load_state_dict(state)
    assert second.state_dict() == state


def test_resume_keeps_the_length_of_the_whole_epoch(photo_folder: Path) -> None:
    first = train(photo_folder)
    next(iter(first))
    second = train(photo_folder)
    second.load_state_dict(first.state_dict())
    assert len(second) == 6
    assert len(list(second)) == 5


def test_numpys_numbers_leave_the_state_json_safe(photo_folder: Path) -> None:
    shard = Shard(np.int64(0), np.int64(2))  # type: ignore[arg-type]
    loader = train(photo_folder, seed=np.int64(3), shard=shard, batch_size=np.int32(4))
    assert through_json(loader.state_dict()) == loader.state_dict()


def test_a_state_may_hold_numpys_numbers(photo_folder: Path) -> None:
    first = train(photo_folder)
    batches = iter(first)
    next(batches)
    state = first.state_dict()
    of_numpy = {
        name: np.int64(value) if type(value) is int else value for name, value in state.items()
    }
    second = train(photo_folder)
    second.load_state_dict(of_numpy)
    assert second.state_dict() == through_json(second.state_dict()) == state
    assert_same(list(second), list(batches))


def test_a_batch_that_did_not_arrive_is_not_counted(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("of the device")

    loader = train(photo_folder)
    epoch = iter(loader)
    next(epoch)
    with monkeypatch.context() as patched:
        patched.setattr("dali_cutmix.serving.outputs.dense_target", fail)
        with pytest.raises(MemoryError):
            next(epoch)
    assert loader.state_dict()["batch"] == 1


def test_a_run_that_stopped_mixing_goes_on_without(photo_folder: Path) -> None:
    first = train(photo_folder)
    first.mixup_enabled = False
    expected = list(first)
    first.set_epoch(0)
    next(iter(first))
    second = train(photo_folder)
    second.load_state_dict(through_json(first.state_dict()))
    assert not second.mixup_enabled
    assert_same(list(second), expected[1:])
    # What counts is the epoch under way, not what was set for the next one.
    third = train(photo_folder)
    whole = list(third)
    third.set_epoch(0)
    next(iter(third))
    third.mixup_enabled = False
    fourth = train(photo_folder)
    fourth.load_state_dict(third.state_dict())
    assert_same(list(fourth), whole[1:])


@pytest.mark.parametrize("taken", ["open", "closed", "copy", "pickle", "resumed"])
def test_a_state_in_mid_epoch_holds_whether_the_epoch_and_whether_the_next_mixes(
    photo_folder: Path, taken: str
) -> None:
    epochs: dict[bool, list[Any]] = {}
    for mixes in (False, True):
        loader = train(photo_folder)
        loader.mixup_enabled = mixes
        epochs[mixes] = [list(loader), list(loader)]
    for mixes in (False, True):
        loader = train(photo_folder)
        loader.mixup_enabled = mixes
        epoch = iter(loader)
        next(epoch)
        loader.mixup_enabled = not mixes
        if taken == "closed":
            loader.close()
        elif taken == "resumed":
            state = loader.state_dict()
            loader = train(photo_folder)
            loader.load_state_dict(state)
        elif taken != "open":
            loader = copy.copy(loader) if taken == "copy" else pickle.loads(pickle.dumps(loader))
        resumed = train(photo_folder)
        resumed.load_state_dict(through_json(loader.state_dict()))
        assert resumed.mixup_enabled is not mixes
        assert_same(list(resumed), epochs[mixes][0][1:])
        assert_same(list(resumed), epochs[not mixes][1])


def test_a_state_of_a_run_without_a_mix_does_not_turn_one_off(photo_folder: Path) -> None:
    state = train(photo_folder, mix=None, target="dense").state_dict()
    loader = train(photo_folder)
    loader.load_state_dict(through_json(state), allow=("mix",))
    assert loader.mixup_enabled
    without = train(photo_folder, mix=None, target="dense")
    without.load_state_dict(train(photo_folder).state_dict(), allow=("mix",))
    assert not without.mixup_enabled


def test_loading_a_state_ends_the_iteration_under_way(photo_folder: Path) -> None:
    loader = train(photo_folder)
    state = loader.state_dict()
    epoch = iter(loader)
    next(epoch)
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match="was closed while this iteration was under way"):
        next(epoch)


def test_epoch_set_on_the_sampler_after_a_break_is_where_the_run_stands(
    photo_folder: Path,
) -> None:
    loader = train(photo_folder)
    next(iter(loader))
    loader.sampler.set_epoch(9)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (9, 0)


@pytest.mark.parametrize("made", ["copy", "pickle"])
def test_a_copy_goes_on_from_the_same_place(photo_folder: Path, made: str) -> None:
    first = train(photo_folder)
    next(iter(first))
    state = first.state_dict()
    loader = train(photo_folder)
    loader.load_state_dict(state)
    twin = copy.copy(loader) if made == "copy" else pickle.loads(pickle.dumps(loader))
    assert twin.state_dict() == state
    assert_same(list(twin), list(loader))


def numbers(loader: DataLoader) -> list[int]:
    return [n for image, _ in loader for n in (image[:, 0, 0, 0] // 10).tolist()]


@pytest.mark.parametrize("remainder", ["pad", "exact"])
def test_run_of_two_ranks_goes_on_with_three_and_serves_what_is_left_once(
    numbered_folder: Path, remainder: Any
) -> None:
    def ranks(world: int, batch_size: int) -> list[DataLoader]:
        return [
            DataLoader(
                numbered_folder,
                batch_size,
                shuffle=True,
                transform=EvalTransform(8, 8),
                dtype=torch.uint8,
                shard=Shard(rank, world),
                remainder=remainder,
            )
            for rank in range(world)
        ]

    before: list[int] = []
    two = ranks(2, 4)
    for loader in two:
        image, _ = next(iter(loader))
        before += (image[:, 0, 0, 0] // 10).tolist()
    assert two[0].state_dict() == two[1].state_dict()
    after = []
    for loader in ranks(3, 2):
        loader.load_state_dict(through_json(two[0].state_dict()))
        after.append(numbers(loader))
    served = [n for part in after for n in part]
    left = set(range(23)) - set(before)
    assert len(before) == 8
    assert set(served) >= left
    assert all(served.count(number) == 1 for number in left)
    assert len(served) == 15  # nothing to pad: 15 divide by 3
    # The epoch after it is an ordinary one.
    three = ranks(3, 2)
    three[0].load_state_dict(two[0].state_dict())
    list(three[0])
    fresh = ranks(3, 2)
    fresh[0].set_epoch(1)
    assert numbers(three[0]) == numbers(fresh[0])


def test_another_batch_size_goes_on_at_the_sample_where_the_state_stands(
    numbered_folder: Path,
) -> None:
    def make(batch_size: int) -> DataLoader:
        tiny = EvalTransform(8, 8)
        return DataLoader(numbered_folder, batch_size, transform=tiny, dtype=torch.uint8)

    first = make(4)
    epoch = iter(first)
    next(epoch), next(epoch)
    second = make(3)
    second.load_state_dict(first.state_dict())
    again = iter(second)
    image, _ = next(again)
    assert (image[:, 0, 0, 0] // 10).tolist() == [8, 9, 10]
    third = make(5)
    third.load_state_dict(second.state_dict())
    assert numbers(third) == list(range(11, 23))


def times(loader: DataLoader) -> Iterator[float]:
    """Yield t of each batch of `TELLING`."""
    return (float(plan.lam[0]) for _, _, plan in loader)


TELLING = Scheduled(CutMix(), num_epochs=2, lam=lambda t: t)


@pytest.mark.filterwarnings("ignore:load_state_dict. mix.schedules:RuntimeWarning")
def test_a_schedule_goes_on_where_a_state_stands_with_another_batch_size_and_other_ranks(
    numbered_folder: Path,
) -> None:
    def make(batch_size: int, shard: Shard = Shard(), **settings: Any) -> DataLoader:  # noqa: B008
        settings = {"mix": TELLING, "with_plan": True, "shard": shard, **settings}
        return DataLoader(numbered_folder, batch_size, transform=TrainTransform(8), **settings)

    first = make(4)
    first.set_epoch(1)
    served = times(first)
    assert [next(served) for _ in range(3)] == pytest.approx([(1 + n / 6) / 2 for n in range(3)])
    second = make(2)
    second.load_state_dict(first.state_dict())
    served = times(second)
    wanted = [(1 + 12 / 23 + 11 / 23 * n / 6) / 2 for n in range(6)]
    assert [next(served) for _ in range(2)] == pytest.approx(wanted[:2])
    same = make(2)
    same.load_state_dict(second.state_dict())
    assert list(times(same)) == pytest.approx(wanted[2:])
    for rank in range(2):
        third = make(3, Shard(rank, 2))
        third.load_state_dict(second.state_dict())
        wanted = [(1 + 16 / 23 + 7 / 23 * n / (2 - rank)) / 2 for n in range(2 - rank)]
        assert list(times(third)) == pytest.approx(wanted)
        assert max(wanted) < 1
    # Neither a sampler's length nor the rest of the data says how long an epoch is.
    loader = make(2, sampler=filter_of([3, 1, 2, 0, 5]), shard=None)
    assert list(times(loader)) == pytest.approx([0, 1 / 6, 2 / 6])


def filter_of(indices: list[int]) -> Any:
    """Return a sampler without a length."""

    class Unsized:
        def __iter__(self) -> Iterator[int]:
            return iter(indices)

    return Unsized()


REFUSED = "load_state_dict: the state belongs to another run: "
WAY_OUT = ". Make the loader as it was then, or start without the state."


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({"seed": 4}, "seed is 4 here and 3 in the state"),
        ({"shuffle": False, "remainder": "pad"}, "shuffle is False here and True in the state"),
        ({"remainder": "exact"}, "remainder is 'exact' here and 'pad' in the state"),
        (
            {"drop_last": True, "seed": 0},
            "seed is 0 here and 3 in the state; drop_last is True here and False in the state",
        ),
        (
            {"sampler": [1, 2, 3], "shuffle": False},
            "shuffle is False here and True in the state; sampler is 'list' here and None in the "
            "state; remainder is 'exact' here and 'pad' in the state",
        ),
    ],
)
def test_state_of_another_run_is_refused_with_what_differs(
    photo_folder: Path, settings: dict[str, Any], differs: str
) -> None:
    state = train(photo_folder).state_dict()
    loader = train(photo_folder, **settings)
    with pytest.raises(ValueError, match=f"^{re.escape(REFUSED + differs + WAY_OUT)}$"):
        loader.load_state_dict(state)


def test_state_of_other_data_is_refused(tmp_path: Path) -> None:
    def folder(name: str, files: list[str]) -> Path:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(tmp_path / name / file)
        return tmp_path / name

    files = ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]
    state = train(folder("here", files)).state_dict()
    train(folder("moved as a whole", files)).load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"other run: num_samples is 3 here and 4 in the state\. Make"
    ):
        train(folder("fewer", files[1:])).load_state_dict(state)
    match = r"run: data is '[0-9a-f]{16}' here and '[0-9a-f]{16}' in the state\. Make"
    with pytest.raises(ValueError, match=match):
        train(folder("renamed", [*files[:3], "b/5.png"])).load_state_dict(state)
    with pytest.raises(ValueError, match=match):
        train(folder("other class", [*files[:2], "a/3.png", "b/4.png"])).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": 2},
            "load_state_dict: the state has format 2 and this version of dali_cutmix reads 3: "
            "their meanings differ. Finish the run with the version that started the run.",
        ),
        (
            {"mix": 5},
            "load_state_dict: 'mix' in the state must be a description, got 5.",
        ),
        (
            {"batch": -1},
            "load_state_dict: 'batch' in the state must be a whole number from 0, got -1.",
        ),
        (
            {"epoch": None},
            "load_state_dict: 'epoch' in the state must be a whole number from 0, got None.",
        ),
    ],
)
def test_state_of_another_version_or_with_nonsense_is_refused(
    photo_folder: Path, change: dict[str, Any], message: str
) -> None:
    loader = train(photo_folder)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loader.load_state_dict({**loader.state_dict(), **change})


def test_something_else_than_a_state_is_refused(photo_folder: Path) -> None:
    loader = train(photo_folder)
    message = "load_state_dict: this is not a state of a DataLoader: {'epoch': 3}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loader.load_state_dict({"epoch": 3})
    state = loader.state_dict()
    del state["seed"], state["shuffle"]
    with pytest.raises(ValueError, match=r"^load_state_dict: the state lacks 'seed', 'shuffle'\.$"):
        loader.load_state_dict(state)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


BAD_PAIR = "'bad' in the state must hold pairs of an index below 21 and a reason, got "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 99, "epoch": 5}, "the state belongs to another run"),
        ({"epoch": 5, "bad": "zz"}, "'bad' in the state must be a list, got 'zz'."),
        ({"epoch": 5, "bad": [[21, "gone"]]}, f"{BAD_PAIR}[21, 'gone']."),
        ({"epoch": 5, "bad": [["1", "gone"]]}, f"{BAD_PAIR}['1', 'gone']."),
        ({"epoch": 5, "bad": [3]}, f"{BAD_PAIR}3."),
        ({"epoch": 5, "mixing": 1}, "'mixing' in the state must be True, False or None, got 1."),
        ({"epoch": 5, "mixup_enabled": "no"}, "'mixup_enabled' in the state must be True, Fal"),
        ({"epoch": 2**63 - 1}, f"'epoch' in the state must be at most {2**62}, got {2**63 - 1}."),
        ({"epoch": 10**5000}, f"'epoch' in the state must be at most {2**62}, got a value of type"),
        ({"batch": 2**63}, f"'batch' in the state must be below 2**63, got {2**63}."),
        ({"epoch": True}, "'epoch' in the state must be a whole number from 0, got True."),
        ({"epoch": math.nan}, "'epoch' in the state must be a whole number from 0, got nan."),
        ({"epoch": 5.0}, "'epoch' in the state must be a whole number from 0, got 5.0."),
        ({"batch": 7}, "'batch' in the state must be at most 6, the end of the epoch, got 7."),
        ({"batch": 1, "start_batch": 2}, "'start_batch' in the state must be at most the state's"),
        ({"start": 22}, "'start' in the state must be at most 21 samples, got 22."),
        ({"start": 21}, "'batch' in the state must be at most 0, the end of the epoch, got 2."),
        ({"order": "abc"}, "'order' in the state must be a whole number from 0, got 'abc'."),
        ({"batch_size": "4"}, "'batch_size' in the state must be a whole number from 1, got '4'."),
        ({"batch_size": 0}, "'batch_size' in the state must be a whole number from 1, got 0."),
        ({"num_shards": 0}, "'num_shards' in the state must be a whole number from 1, got 0."),
        ({"batch_size": 2**62}, f"'batch_size' in the state must be at most 65536, got {2**62}."),
        ({"num_shards": 2**62}, f"'num_shards' in the state must be at most 65536, got {2**62}."),
        (
            {"batch": 2**62, "start_batch": 2**62},
            f"'start_batch' in the state must be at most the state's 'start', 0, got {2**62}.",
        ),
        ({"num_samples": True}, "'num_samples' in the state must be a whole number from 1, got T"),
        ({"seed": [3]}, "'seed' in the state must be a whole number from 0, got [3]."),
        ({"shuffle": 1}, "'shuffle' in the state must be True or False, got 1."),
        ({"shuffle": "shard"}, "'shuffle' in the state must be True or False, got 'shard'."),
        ({"window": 0}, "'window' in the state must be a whole number from 1, got 0."),
        ({"dealt": 3}, "'dealt' in the state must hold pairs of ranks and samples, each at least"),
        ({"dealt": [[2, 0]]}, "'dealt' in the state must hold pairs of ranks and samples, each at"),
        ({"dealt": [[2, 8]]}, "'dealt' in the state must hold samples that sum to 0, got [[2, 8]]"),
        ({"drop_last": "no"}, "'drop_last' in the state must be True or False, got 'no'."),
        ({"data": 7}, "'data' in the state must be text, got 7."),
        ({"sampler": 7}, "'sampler' in the state must be text, got 7."),
        ({"remainder": None}, "'remainder' in the state must be text, got None."),
        ({"format": True}, "the state has format True and this version of dali_cutmix reads"),
        ({"format": 10**5000}, "the state has format a value of type int that is too large"),
        ({"transform": {3: 4}}, "'transform' in the state must be a description, got {3: 4}."),
        ({"mix": {"": {"values": 3}}}, "'mix' in the state must be a description, got"),
        ({"mix": {"": nested(5000)}}, "'mix' in the state must be a description, got"),
        ({"mix": {"": nested(50)}}, "'mix' in the state must be a description, got"),
        ({"bad": nested(5000)}, "'bad' in the state must hold pairs of an index below 21 and a re"),
        ({"bad": [[-1, "gone"]]}, f"{BAD_PAIR}[-1, 'gone']."),
        ({"bad": [[10**5000, "gone"]]}, f"{BAD_PAIR}a value of type list that is too large"),
    ],
)
def test_a_refused_state_leaves_the_loader_as_it_was(
    photo_folder: Path, change: dict[str, Any], message: str
) -> None:
    expected = list(train(photo_folder))
    loader = train(photo_folder, on_error="replace")
    epoch = iter(loader)
    found = [next(epoch), next(epoch)]
    before = loader.state_dict()
    with pytest.raises(ValueError, match=f"^load_state_dict: {re.escape(message)}"):
        loader.load_state_dict({**before, **change})
    assert loader.state_dict() == before
    assert_same(found + list(epoch), expected)


@pytest.mark.parametrize("name", ["data", "sampler", "remainder", "transform", "mix"])
def test_a_state_of_another_run_makes_a_short_message_that_a_terminal_can_show(
    photo_folder: Path, name: str
) -> None:
    loader = train(photo_folder)
    state = loader.state_dict()
    for text in ("\x1b[1m\n", "x" * 10**6):
        value = {**state[name], text: text} if name in ("transform", "mix") else text
        with pytest.raises(ValueError, match=r"^load_state_dict: the state") as caught:
            loader.load_state_dict({**state, name: value})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 5000


def test_the_state_behind_any_epoch_loads(photo_folder: Path) -> None:
    loader = train(photo_folder)
    loader.set_epoch(2**62 - 1)
    assert len(list(loader)) == 6
    state = through_json(loader.state_dict())
    train(photo_folder).load_state_dict(state)
    message = f"set_epoch: `epoch` must be below {2**62} to be served, got {2**62}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(loader)
    assert loader.state_dict() == state
    with pytest.raises(ValueError, match=rf"^set_epoch: `epoch` must be at most {2**62}, got"):
        loader.set_epoch(2**62 + 1)


def test_a_place_in_an_epoch_that_was_dealt_out_anew_is_taken_again(photo_folder: Path) -> None:
    """At the end of an epoch, where the last batch was short."""
    first = train(photo_folder)
    epoch = iter(first)
    for _ in range(6):
        next(epoch)
    second = train(photo_folder, batch_size=5)
    second.load_state_dict(first.state_dict())
    state = second.state_dict()
    third = train(photo_folder, batch_size=5)
    third.load_state_dict(state)
    assert list(third) == []
    assert len(list(third)) == 5


def refusal(differs: str, allow: str) -> str:
    way_out = f"{WAY_OUT} To change this on purpose, pass `allow={allow}`."
    return f"^{re.escape(REFUSED + differs + way_out)}$"


ERASE_LESS = TrainTransform(size=(24, 16), augment=[RandomErasing(prob=0.25)])


@pytest.mark.parametrize(
    ("before", "after", "differs", "allow"),
    [
        (
            {"mix": MixUp(0.2)},
            {"mix": MixUp()},
            "mix.alpha is 1.0 here and 0.2 in the state",
            "('mix',)",
        ),
        (
            {"mix": CutMix()},
            {"mix": MixUp(0.2)},
            "mix is 'MixUp' here and 'CutMix' in the state",
            "('mix',)",
        ),
        (
            {"mix": None, "target": "dense"},
            {"mix": CutMix()},
            "mix is 'CutMix' here and None in the state",
            "('mix',)",
        ),
        (
            {"mix": RandomChoice([CutMix(), MixUp(0.2)])},
            {"mix": RandomChoice([CutMix(sides=(0.2, 0.4)), MixUp()], weights=(1, 3))},
            "mix.mixes[0].sides is (0.2, 0.4) here and None in the state; mix.mixes[1].alpha is "
            "1.0 here and 0.2 in the state; mix.weights is (1, 3) here and None in the state",
            "('mix',)",
        ),
        (
            {"mix": RandomChoice([CutMix(), MixUp()])},
            {"mix": RandomChoice([CutMix()])},
            "mix.mixes is ('CutMix') here and ('CutMix', 'MixUp') in the state",
            "('mix',)",
        ),
        (
            {"transform": CROP},
            {"transform": EvalTransform(32, (24, 16))},
            "transform is 'EvalTransform' here and 'TrainTransform' in the state",
            "('transform',)",
        ),
        (
            {"transform": ERASE_LESS},
            {"transform": TrainTransform((32, 16), augment=[RandomErasing(0.5)]), "mix": MixUp()},
            "transform.size is (32, 16) here and (24, 16) in the state; transform.augment[0].prob "
            "is 0.5 here and 0.25 in the state; mix is 'MixUp' here and 'CutMix' in the state",
            "('transform', 'mix')",
        ),
        (
            {},
            {"drop_last": True},
            "drop_last is True here and False in the state",
            "('drop_last',)",
        ),
    ],
)
def test_a_state_of_another_transform_or_mix_is_refused_until_the_change_is_allowed(
    photo_folder: Path,
    before: dict[str, Any],
    after: dict[str, Any],
    differs: str,
    allow: str,
) -> None:
    first = train(photo_folder, **before)
    next(iter(first))
    state = through_json(first.state_dict())
    loader = train(photo_folder, **after)
    with pytest.raises(ValueError, match=refusal(differs, allow)):
        loader.load_state_dict(state)
    loader.load_state_dict(state, allow=ast.literal_eval(allow))
    expected = list(train(photo_folder, **after))
    assert_same(list(loader), expected[1:])


@pytest.mark.parametrize("allow", [("seed",), ("mix", "batch_size"), "mix"])
def test_only_settings_that_keep_the_order_may_be_allowed_to_differ(
    photo_folder: Path, allow: Any
) -> None:
    loader = train(photo_folder)
    message = (
        "load_state_dict: `allow` must hold names among 'transform', 'mix', 'drop_last', got "
        f"{allow!r}. Another batch size or number of ranks needs no leave; anything else changes "
        "the order of the samples, so that the rest of the epoch is unknown."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loader.load_state_dict(loader.state_dict(), allow=allow)


def test_a_field_that_the_state_lacks_counts_as_its_default(photo_folder: Path) -> None:
    state = train(photo_folder).state_dict()
    del state["mix"][".sides"]  # as if CutMix had gained the field since
    train(photo_folder).load_state_dict(state)
    message = "mix.sides is (0.2, 0.4) here and None in the state"
    with pytest.raises(ValueError, match=re.escape(message)):
        train(photo_folder, mix=CutMix(sides=(0.2, 0.4))).load_state_dict(state)


@dataclass(frozen=True)
class Fading:
    """CutMix with a setting that is a function of t, as schedules have."""

    fade: Callable[[float], float]

    def __getattr__(self, name: str) -> Any:
        return getattr(CutMix(), name)


def test_functions_are_compared_by_their_values_and_the_user_is_told(photo_folder: Path) -> None:
    state = through_json(train(photo_folder, mix=Fading(fade=lambda t: 1 - t)).state_dict())
    assert state["mix"][".fade"]["function"].endswith("<lambda>")
    told = (
        "load_state_dict: mix.fade is a function, which a state cannot hold; its values at 33 "
        "points of t agree."
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(told)}$") as warned:
        train(photo_folder, mix=Fading(fade=lambda s: -s + 1.0)).load_state_dict(state)
    assert warned[0].filename == __file__
    differs = "mix.fade is a function whose value at t=0.03125 is 0.9990234375 here and 0.96875 in"
    with pytest.raises(ValueError, match=re.escape(differs)):
        train(photo_folder, mix=Fading(fade=lambda t: 1 - t * t)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"mix\.fade is 0.5 here and a function in the state"):
        train(photo_folder, mix=Fading(fade=0.5)).load_state_dict(state)  # type: ignore[arg-type]
    failing = train(photo_folder, mix=Fading(fade=lambda t: [][int(t)]))
    with pytest.warns(RuntimeWarning, match="not a function of t: make sure that it is the same"):
        failing.load_state_dict(failing.state_dict())
    opaque = train(photo_folder, mix=Fading(fade=np.random.default_rng()))  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match=r"mix\.fade is an object \(Generator\) of which a"):
        opaque.load_state_dict(opaque.state_dict())


def test_a_schedule_is_named_by_its_setting(photo_folder: Path) -> None:
    def mix(slope: float) -> Scheduled:
        return Scheduled(CutMix(), 10, prob=lambda t: slope * t, max_kept=lambda t: 1 - t / 2)

    state = through_json(train(photo_folder, mix=mix(0.5)).state_dict())
    with pytest.warns(RuntimeWarning, match=r"mix\.schedules\.prob is a function, which a state"):
        train(photo_folder, mix=mix(0.5)).load_state_dict(state)
    differs = "run: mix.schedules.prob is a function whose value at t=0.03125 is 0.03125 here and"
    with pytest.raises(ValueError, match=re.escape(differs)):
        train(photo_folder, mix=mix(1.0)).load_state_dict(state)


class Users:
    """The user's mix: a plain class around CutMix."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(CutMix(), name)


def test_a_users_mix_is_described_by_its_class_and_its_public_attributes(
    photo_folder: Path,
) -> None:
    state = through_json(train(photo_folder, mix=Users(power=2, names=("a", "b"))).state_dict())
    told = (
        "load_state_dict: mix is an object (Users) of which a state cannot hold all attributes: "
        "make sure that they are the same."
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(told)}$"):
        train(photo_folder, mix=Users(power=2, names=["a", "b"])).load_state_dict(state)
    with pytest.raises(ValueError, match=r"mix\.power is 3 here and 2 in the state"):
        train(photo_folder, mix=Users(power=3, names=("a", "b"))).load_state_dict(state)
    hidden = Users(_noise=np.zeros(3), table=object())
    told = (
        f"{told} mix.table is an object (object) of which a state cannot "
        "hold all attributes: make sure that they are the same."
    )
    loader = train(photo_folder, mix=hidden)
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(told)}$"):
        loader.load_state_dict(through_json(loader.state_dict()))


class Slotted:
    """The user's mix with slots around CutMix."""

    __slots__ = ("_noise", "power")

    def __init__(self, power: int) -> None:
        self.power = power

    def __getattr__(self, name: str) -> Any:
        return getattr(CutMix(), name)


def test_slots_of_a_users_mix_are_among_its_attributes(photo_folder: Path) -> None:
    state = through_json(train(photo_folder, mix=Slotted(2)).state_dict())
    with pytest.raises(ValueError, match=r"mix\.power is 3 here and 2 in the state"):
        train(photo_folder, mix=Slotted(3)).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:load_state_dict. mix is an object:RuntimeWarning")
def test_counters_of_a_users_mix_do_not_make_another_run(photo_folder: Path) -> None:
    mix = Users(calls=0)
    loader = train(photo_folder, mix=mix)
    mix.calls = 7
    train(photo_folder, mix=Users(calls=0)).load_state_dict(loader.state_dict())


class Network:
    """A network that a user's mix holds. It counts how often it is called."""

    num_calls = 0

    @property
    def fingerprint(self) -> str:
        raise RuntimeError("not trained yet")

    def __call__(self, *_: Any) -> None:
        Network.num_calls += 1


@dataclass(frozen=True)
class Looking(CutMix):
    """A user's mix that holds a network."""

    network: Any = None


@pytest.mark.filterwarnings("ignore:load_state_dict. mix.network is:RuntimeWarning")
def test_a_network_that_a_mix_holds_is_not_called_where_nobody_asks_for_a_state(
    photo_folder: Path,
) -> None:
    loader = train(photo_folder, mix=Looking(network=Network()))
    assert Network.num_calls == 0
    state = loader.state_dict()
    train(photo_folder, mix=Looking(network=Network())).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:load_state_dict. mix is an object:RuntimeWarning")
def test_a_mix_that_holds_itself_is_served_and_resumed(photo_folder: Path) -> None:
    parent: dict[str, Any] = {}
    parent["child"] = [parent]
    loader = train(photo_folder, mix=Looking(network=parent))
    train(photo_folder, mix=Looking(network=parent)).load_state_dict(loader.state_dict())
