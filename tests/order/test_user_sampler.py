"""Samplers of one's own: what they yield is what is served."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from dali_cutmix import CutMix, DataLoader, EvalTransform, Shard, TrainTransform

TINY = EvalTransform(resize=8, size=8)


def numbered(root: Path, **settings: Any) -> DataLoader:
    return DataLoader(root, **{"transform": TINY, "dtype": torch.uint8, **settings})


def batches(loader: DataLoader) -> list[list[int]]:
    """The numbers that the images tell, batch by batch."""
    return [(image[:, 0, 0, 0] // 10).tolist() for image, _ in loader]


def served(loader: DataLoader) -> list[int]:
    return [number for batch in batches(loader) for number in batch]


class Repeated(Sampler[int]):
    """Four samples, three times each, as repeated augmentation has them; others each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[int]:
        return iter([(4 * self.epoch + i // 3) % 23 for i in range(12)])


def test_indices_are_served_in_the_order_given(numbered_folder: Path) -> None:
    order = [22, 0, 7, 7, 3]
    assert batches(numbered(numbered_folder, sampler=order, batch_size=2)) == [[22, 0], [7, 7], [3]]
    loader = numbered(numbered_folder, sampler=torch.tensor(order), batch_size=2, drop_last=True)
    assert batches(loader) == [[22, 0], [7, 7]]
    assert len(loader) == 2


def test_torchs_samplers_serve_what_they_stand_for(numbered_folder: Path) -> None:
    weights = [0.0] * 20 + [1.0] * 3
    weighted = served(numbered(numbered_folder, sampler=WeightedRandomSampler(weights, 50)))
    assert len(weighted) == 50
    assert set(weighted) == {20, 21, 22}
    subset = served(numbered(numbered_folder, sampler=SubsetRandomSampler([3, 5, 8, 13])))
    assert sorted(subset) == [3, 5, 8, 13]
    everything = served(numbered(numbered_folder, sampler=RandomSampler(range(23))))
    assert sorted(everything) == list(range(23))
    assert everything != list(range(23))


def test_samplers_that_draw_follow_the_loaders_seed_and_the_epoch(numbered_folder: Path) -> None:
    def epochs(seed: int) -> list[list[int]]:
        loader = numbered(numbered_folder, sampler=RandomSampler(range(23)), seed=seed)
        return [served(loader), served(loader)]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epochs(seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0] != first[1]
    torch.manual_seed(2)
    assert epochs(seed=0) == first
    assert epochs(seed=1) != first


def test_sampler_with_a_generator_of_its_own_uses_it(numbered_folder: Path) -> None:
    def order() -> RandomSampler:
        return RandomSampler(range(23), generator=torch.Generator().manual_seed(5))

    assert served(numbered(numbered_folder, sampler=order())) == list(order())


def test_samplers_epoch_is_set_by_the_loader_and_may_be_set_on_it(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, sampler=Repeated(), batch_size=3)
    assert batches(loader) == [[0] * 3, [1] * 3, [2] * 3, [3] * 3]
    assert served(loader)[0] == 4
    loader.set_epoch(4)
    assert served(loader)[0] == 16
    loader.sampler.set_epoch(2)  # as trainers do, which know the sampler only
    assert served(loader)[0] == 8
    assert served(loader)[0] == 12


@pytest.mark.parametrize("in_batches", [False, True])
def test_loaders_that_share_a_sampler_each_count_their_own_epochs(
    numbered_folder: Path, *, in_batches: bool
) -> None:
    def made(sampler: Any) -> DataLoader:
        if in_batches:
            batch_sampler = BatchSampler(sampler, 4, drop_last=False)
            return numbered(numbered_folder, batch_sampler=batch_sampler)
        return numbered(numbered_folder, sampler=sampler, batch_size=4)

    def shuffled() -> DistributedSampler[Any]:
        return DistributedSampler(range(23), num_replicas=1, rank=0, seed=4)

    alone = made(shuffled())
    epochs = [served(alone) for _ in range(6)]
    sampler = shuffled()
    first, second = made(sampler), made(sampler)
    assert [served(first) for _ in range(3)] == epochs[:3]
    assert served(second) == epochs[0]
    assert served(first) == epochs[3]
    late = made(sampler)
    assert [served(late) for _ in range(2)] == epochs[:2]
    # In the middle of an epoch, and in its state.
    batches_of_second = iter(second)
    next(batches_of_second)
    first.set_epoch(5)
    assert served(first) == epochs[5]
    state = second.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 1)
    resumed = made(sampler)
    resumed.load_state_dict(state)
    assert served(late) == epochs[2]
    assert served(resumed) == epochs[1][4:]
    # An epoch that the user sets on the sampler is every loader's.
    sampler.set_epoch(4)
    loaders = (first, second, late, resumed, made(sampler))
    assert [served(loader) for loader in loaders] == [epochs[4]] * 5
    assert [served(loader) for loader in loaders] == [epochs[5]] * 5


class Counting(Sampler[int]):
    """A sampler that chooses its next epoch behind its last index, as one of Accelerate does."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from [self.epoch] * 12
        self.set_epoch(self.epoch + 1)


def test_samplers_that_count_their_epochs_may_be_shared(numbered_folder: Path) -> None:
    sampler = Counting()
    first, second = (numbered(numbered_folder, sampler=sampler, batch_size=4) for _ in range(2))
    assert [served(loader)[0] for loader in (first, first, second, first)] == [0, 1, 0, 2]


class Growing(Sampler[int]):
    """A sampler around another, which serves more of it in each iteration, as curricula do."""

    def __init__(self, sampler: Sampler[int]) -> None:
        self.sampler = sampler
        self.num_iterations = 0

    def __iter__(self) -> Iterator[int]:
        self.num_iterations += 1
        indices = list(self.sampler)
        return iter(indices[: 6 * self.num_iterations])


class Permuted(Sampler[int]):
    """A sampler that draws from torch's global generator without an attribute for another."""

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(23).tolist())


class CountedBatches:
    """A batch sampler without the attribute `batch_size`, which counts its iterations."""

    num_iterations = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.num_iterations += 1
        return iter([[self.num_iterations] * 2, [self.num_iterations] * 2])


class BatchesOf:
    """A batch sampler without the attribute `batch_size`, around a sampler."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.sampler)
        return (indices[first : first + 3] for first in range(0, len(indices), 3))


def test_what_a_sampler_keeps_from_epoch_to_epoch_stays(numbered_folder: Path) -> None:
    growing = Growing(RandomSampler(range(23)))
    loader = numbered(numbered_folder, sampler=growing, batch_size=4)
    assert [len(served(loader)) for _ in range(4)] == [6, 12, 18, 23]
    assert growing.sampler.generator is None  # as it was
    counted = CountedBatches()
    assert served(numbered(numbered_folder, batch_sampler=counted)) == [1, 1, 1, 1]
    around = BatchesOf(Growing(list(range(23))))
    assert len(served(numbered(numbered_folder, batch_sampler=around))) == 6


def test_sampler_that_draws_from_the_global_generator_follows_the_loaders_seed(
    numbered_folder: Path,
) -> None:
    loader, other = (
        numbered(numbered_folder, sampler=Permuted(), batch_size=5, seed=3) for _ in range(2)
    )
    before = torch.get_rng_state()
    epochs = [served(loader) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert epochs[0] != epochs[1]
    torch.rand(7)
    assert served(other) == epochs[0]
    resumed = numbered(numbered_folder, sampler=Permuted(), batch_size=5, seed=3)
    resumed.load_state_dict(other.state_dict())
    assert served(resumed) == epochs[1]


def test_resume_between_epochs_tells_of_a_generator_that_starts_anew(numbered_folder: Path) -> None:
    def made() -> DataLoader:
        generator = torch.Generator().manual_seed(1)
        sampler = RandomSampler(range(23), generator=generator)
        return numbered(numbered_folder, sampler=sampler, batch_size=5)

    loader = made()
    loader.load_state_dict(loader.state_dict())  # nothing was drawn yet
    served(loader)
    with pytest.warns(RuntimeWarning) as told:
        made().load_state_dict(loader.state_dict())
    assert str(told[0].message) == (
        "load_state_dict: `sampler` (RandomSampler) draws from a generator of its own, whose state "
        "is not in the loader's. Epochs differ from those of an uninterrupted run, unless you set "
        "the generator's state. Make the sampler without `generator=`."
    )
    assert told[0].filename == __file__


def test_epoch_that_a_sampler_has_before_the_loader_is_made_is_served(
    numbered_folder: Path,
) -> None:
    sampler = DistributedSampler(range(23), num_replicas=2, rank=1, seed=4)
    sampler.set_epoch(5)
    expected = list(sampler)
    assert served(numbered(numbered_folder, sampler=sampler, batch_size=4)) == expected


@pytest.mark.parametrize("with_sampler", [False, True])
def test_next_epoch_set_on_the_sampler_after_a_break_is_in_the_state(
    numbered_folder: Path, *, with_sampler: bool
) -> None:
    def made() -> DataLoader:
        settings: dict[str, Any] = {"shuffle": True}
        if with_sampler:
            settings = {"sampler": DistributedSampler(range(23), num_replicas=1, rank=0)}
        return numbered(numbered_folder, batch_size=4, **settings)

    loader = made()
    for number, _ in enumerate(loader):
        if number == 1:
            break
    loader.sampler.set_epoch(1)
    resumed = made()
    resumed.load_state_dict(loader.state_dict())
    expected = served(loader)
    assert len(expected) == 23
    assert served(resumed) == expected


def test_type_errors_of_a_sampler_are_its_own(numbered_folder: Path) -> None:
    class Broken(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            yield 1
            raise TypeError("no index of mine")

    loader = numbered(numbered_folder, sampler=Broken(), batch_size=4)
    with pytest.raises(TypeError, match=r"^no index of mine$"):
        next(iter(loader))


def test_distributed_sampler_of_torchs_is_served_as_it_is(numbered_folder: Path) -> None:
    reference = DistributedSampler(range(23), 4, 1, shuffle=True, seed=3)
    loader = numbered(numbered_folder, sampler=DistributedSampler(range(23), 4, 1, seed=3))
    for epoch in (0, 2):
        reference.set_epoch(epoch)
        loader.set_epoch(epoch)
        assert served(loader) == list(reference)


def test_batches_are_served_as_the_batch_sampler_makes_them(numbered_folder: Path) -> None:
    made = [[1, 2, 3], [9, 8, 7], [4]]
    loader = numbered(numbered_folder, batch_sampler=made)
    assert batches(loader) == made
    assert (len(loader), loader.batch_size, loader.batch_sampler) == (3, 3, made)
    inside = DistributedSampler(range(23), 2, 0, seed=3)
    loader = numbered(numbered_folder, batch_sampler=BatchSampler(inside, 5, drop_last=True))
    assert loader.sampler is inside
    for epoch in (0, 1):
        inside.set_epoch(epoch)
        expected = list(inside)
        inside.set_epoch(0)
        loader.set_epoch(epoch)
        assert served(loader) == expected[:10]
    drawn = BatchSampler(RandomSampler(range(23)), 5, drop_last=False)
    loader = numbered(numbered_folder, batch_sampler=drawn)
    assert served(loader) != served(loader)


def test_partners_of_a_batch_samplers_batches_come_from_the_batch(numbered_folder: Path) -> None:
    crop = TrainTransform(size=8, scale=(1, 1))
    loader = DataLoader(
        numbered_folder,
        batch_sampler=[[0, 1, 2, 3], [8, 9, 10, 11]],
        transform=crop,
        mix=CutMix(),
        with_plan=True,
    )
    for image, target, plan in loader:
        assert image.shape[0] == plan.partner.shape[0] == 4
        assert target.sum(1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("kind", ["weighted", "repeated", "list", "batches"])
def test_run_with_a_sampler_goes_on_where_it_stood(numbered_folder: Path, kind: str) -> None:
    def make() -> DataLoader:
        orders: dict[str, dict[str, Any]] = {
            "weighted": {"sampler": WeightedRandomSampler([1.0] * 23, 17), "batch_size": 3},
            "repeated": {"sampler": Repeated(), "batch_size": 3},
            "list": {"sampler": list(range(10, 22)), "batch_size": 3},
            "batches": {"batch_sampler": BatchSampler(RandomSampler(range(23)), 3, False)},
        }
        crop = TrainTransform(size=8)
        return DataLoader(numbered_folder, transform=crop, mix=CutMix(), **orders[kind])

    whole = make()
    list(whole)
    expected = list(whole)
    first = make()
    list(first)
    epoch = iter(first)
    next(epoch), next(epoch)
    second = make()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    left = list(second)
    assert len(left) == len(expected) - 2
    for (image, target), (wanted, wanted_target) in zip(left, expected[2:], strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


def test_sampler_that_cannot_repeat_its_order_is_not_resumed(numbered_folder: Path) -> None:
    def make() -> DataLoader:
        generator = torch.Generator().manual_seed(torch.randint(10**6, ()).item())
        return numbered(numbered_folder, sampler=RandomSampler(range(23), generator=generator))

    first = make()
    next(iter(first))
    second = make()
    second.load_state_dict(first.state_dict())
    message = (
        "DataLoader: `sampler` (RandomSampler) serves another order in epoch 0 than when the "
        "state was taken, so that the rest of the epoch is unknown. Make the sampler without "
        "`generator=`, or give the sampler a `set_epoch` that decides its order."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        next(iter(second))


def test_sampler_that_draws_on_is_not_resumed_with_another_batch_size_either(
    numbered_folder: Path,
) -> None:
    def make(batch_size: int) -> DataLoader:
        generator = torch.Generator().manual_seed(5)
        order = RandomSampler(range(23), generator=generator)
        return numbered(numbered_folder, sampler=order, batch_size=batch_size)

    first = make(4)
    list(first)
    next(iter(first))
    second = make(3)
    second.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="serves another order in epoch 1"):
        next(iter(second))
    # In its first epoch its generator stands where it stood.
    first = make(4)
    epoch = iter(first)
    before = (next(epoch)[0][:, 0, 0, 0] // 10).tolist()
    second = make(3)
    second.load_state_dict(first.state_dict())
    assert sorted(before + served(second)) == list(range(23))


def test_torchs_batch_sampler_that_leaves_a_short_batch_out_goes_on_with_another_size(
    numbered_folder: Path,
) -> None:
    def make(batch_size: int) -> DataLoader:
        order = BatchSampler(RandomSampler(range(23)), batch_size, drop_last=True)
        return numbered(numbered_folder, batch_sampler=order)

    first = make(5)
    batches_of_five = iter(first)
    before = [(next(batches_of_five)[0][:, 0, 0, 0] // 10).tolist() for _ in range(2)]
    second = make(4)
    second.load_state_dict(first.state_dict())
    after = batches(second)
    assert [len(batch) for batch in after] == [4, 4, 4]
    assert [len(batch) for batch in batches(second)] == [4] * 5  # the next epoch
    served = [index for batch in before + after for index in batch]
    assert len(set(served)) == len(served) == 22
    third = make(5)
    third.load_state_dict(first.state_dict())
    assert batches(third) == [(image[:, 0, 0, 0] // 10).tolist() for image, _ in batches_of_five]


def test_a_batch_sampler_that_leaves_out_others_with_another_size_is_not_resumed_so(
    numbered_folder: Path,
) -> None:
    class Dropping(BatchSampler):
        """Leaves a short batch out, in a way of its own."""

    def make(batch_size: int) -> DataLoader:
        order = Dropping(RandomSampler(range(23)), batch_size, drop_last=True)
        return numbered(numbered_folder, batch_sampler=order)

    first = make(5)
    next(iter(first))
    second = make(6)
    second.load_state_dict(first.state_dict())
    message = (
        "so that the rest of the epoch is unknown. The state's batches have another size, with "
        "which the sampler may leave out other samples: take the state's size of batches. Make the "
        "sampler without `generator=`, or"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        next(iter(second))


def test_a_state_behind_the_end_of_a_samplers_epoch_is_refused(numbered_folder: Path) -> None:
    first = numbered(numbered_folder, sampler=list(range(10)), batch_size=4)
    next(iter(first))
    second = numbered(numbered_folder, sampler=list(range(10)), batch_size=4)
    second.load_state_dict({**first.state_dict(), "batch": 4})
    message = "'batch' in the state must be at most 3, the end of the epoch, got 4."
    with pytest.raises(ValueError, match=f"^load_state_dict: {re.escape(message)}$"):
        next(iter(second))


def test_a_state_that_starts_behind_a_samplers_indices_is_refused(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, sampler=list(range(10)), batch_size=4)
    loader.load_state_dict({**loader.state_dict(), "start": 2**62})
    message = (
        f"'start' in the state must be at most 10, the number of indices in the epoch, got {2**62}."
    )
    with pytest.raises(ValueError, match=f"^load_state_dict: {re.escape(message)}$"):
        next(iter(loader))


def test_epoch_set_on_the_sampler_inside_a_batch_sampler_counts(numbered_folder: Path) -> None:
    inside = DistributedSampler(range(23), 2, 0, seed=3)
    loader = numbered(numbered_folder, batch_sampler=BatchSampler(inside, 5, drop_last=False))
    inside.set_epoch(5)
    expected = list(inside)
    assert served(loader) == expected
    inside.set_epoch(6)
    expected = list(inside)
    inside.set_epoch(5)
    assert served(loader) == expected


def test_sampler_without_an_end_is_refused(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless:
        def __iter__(self) -> Iterator[int]:
            while True:
                yield 1

    class EndlessWithLength(Endless):
        def __len__(self) -> int:
            return 23

    monkeypatch.setattr("dali_cutmix.order.user_sampler.MAX_INDICES", 1000)
    message = (
        "DataLoader: `sampler` must have an end, got 'Endless with 1001 indices and more'. All "
        "indices of an epoch are drawn at its start."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        next(iter(numbered(numbered_folder, sampler=Endless())))
    for settings in (
        {"sampler": EndlessWithLength()},
        {"batch_sampler": BatchSampler(Endless(), 4, drop_last=False)},  # type: ignore[arg-type]
        {"batch_sampler": BatchSampler(EndlessWithLength(), 4, drop_last=False)},  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="must have an end, got"):
            next(iter(numbered(numbered_folder, **settings)))


ALONE = "Your sampler alone says which samples come, in this process too: leave"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sampler": [1], "shuffle": True},
            f"`shuffle` must be left out with `sampler`, got True. {ALONE} `shuffle` out.",
        ),
        (
            {"sampler": [1], "shard": Shard(0, 2)},
            f"`shard` must be left out with `sampler`, got Shard(index=0, count=2). {ALONE} "
            "`shard` out.",
        ),
        (
            {"sampler": [1], "remainder": "pad"},
            f"`remainder` must be left out with `sampler`, got 'pad'. {ALONE} `remainder` out.",
        ),
        (
            {"batch_sampler": [[1]], "batch_size": 2},
            f"`batch_size` must be left out with `batch_sampler`, got 2. {ALONE} `batch_size` out.",
        ),
        (
            {"batch_sampler": [[1]], "drop_last": True},
            "`drop_last` must be left out with `batch_sampler`, got True. "
            f"{ALONE} `drop_last` out.",
        ),
        (
            {"sampler": [1], "batch_sampler": [[1]]},
            "`sampler` must be left out with `batch_sampler`, got [1].",
        ),
        (
            {"batch_sampler": [[1]], "mix": CutMix()},
            "`batch_size` must be at least 2 with `mix`, got 1. Partners come from the same batch; "
            "`mix=None` mixes nothing.",
        ),
        ({"batch_sampler": [1, 2]}, "`batch_sampler` must yield lists of indices, got 1."),
        ({"batch_sampler": []}, "`batch_sampler` must yield lists of indices, got None."),
        (
            {"sampler": 3},
            "`sampler` must be iterable anew in each epoch, got 3. An iterator serves a "
            "single epoch: pass a list or a torch Sampler.",
        ),
        (
            {"remainder": "drop"},
            "`remainder` must go with drop_last=True, got 'drop'. It leaves samples out, as only "
            "`drop_last=True` allows.",
        ),
    ],
)
def test_orders_that_contradict_each_other_are_refused(
    numbered_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('DataLoader: ' + message)}$"):
        numbered(numbered_folder, **settings)


def test_an_iterator_that_can_be_used_once_is_refused(numbered_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"An iterator serves a single epoch: pass a list"):
        numbered(numbered_folder, sampler=iter([1, 2]))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"sampler": [0, 23]},
            ValueError,
            "`sampler` must yield indices from 0 to 22, the number of samples less one, got '23 at "
            "position 1'.",
        ),
        (
            {"sampler": [-1]},
            ValueError,
            "`sampler` must yield indices from 0 to 22, the number of samples less one, got '-1 at "
            "position 0'.",
        ),
        (
            {"sampler": [0.5]},
            TypeError,
            "`sampler` must yield indices: 'float' object cannot be interpreted as an integer.",
        ),
        (
            {"sampler": [False, True] * 11},
            ValueError,
            "`sampler` must yield indices, got False. `numpy.flatnonzero(mask)` makes indices of a "
            "mask of bools.",
        ),
        (
            {"batch_sampler": [torch.tensor([True, False])]},
            ValueError,
            "`batch_sampler` must yield indices, got tensor(True). `numpy.flatnonzero(mask)` makes "
            "indices of a mask of bools.",
        ),
        (
            {"batch_sampler": [[1, 2], [3], [4, 5]]},
            ValueError,
            "`batch_sampler` must yield batches of one size, here 2, except for the last, got '1 "
            "indices in batch 1'.",
        ),
        (
            {"batch_sampler": [[1, 2], [3, 4, 5]]},
            ValueError,
            "`batch_sampler` must yield batches of one size, here 2, except for the last, got '3 "
            "indices in batch 1'.",
        ),
    ],
)
def test_what_is_no_index_or_no_even_batch_is_refused_when_the_epoch_starts(
    numbered_folder: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape('DataLoader: ' + message)}$"):
        next(iter(numbered(numbered_folder, **settings)))


class Failing(Sampler[int]):
    """All indices; from the second epoch on one that is none."""

    def __len__(self) -> int:
        return 23

    def set_epoch(self, epoch: int) -> None:
        self.fails = epoch > 0

    def __iter__(self) -> Iterator[int]:
        return iter([99] if self.fails else range(23))


def test_an_iteration_that_cannot_start_leaves_the_iteration_under_way_its_place(
    numbered_folder: Path,
) -> None:
    loader = numbered(numbered_folder, sampler=Failing(), batch_size=4)
    epoch = iter(loader)
    next(epoch)
    with pytest.raises(ValueError, match="99 at position 0"):
        next(iter(loader))
    for batch in (2, 3, 4, 5, 6):
        next(epoch)
        state = loader.state_dict()
        assert (state["epoch"], state["batch"]) == (0, batch)


def test_length_of_a_sampler_without_one_is_torchs_error(numbered_folder: Path) -> None:
    class Endless:
        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

    loader = numbered(numbered_folder, sampler=Endless())
    assert served(loader) == [1, 2]
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        len(loader)
