"""Samplers, generators and ranks of a torch loader give the same order of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)
from torch.utils.data import DataLoader as TorchLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dali_cutmix import (
    Shard,
)
from torch_loaders import (
    RAW,
    labels,
    notes,
    over,
    refusal,
    silently,
)


def resized(loader: TorchLoader[Any]) -> TorchLoader[Any]:
    """The same loader with a resize to the files' size, which is unknown otherwise."""
    loader.dataset.transform = v2.Compose([v2.Resize((8, 8)), *RAW])
    return loader


@pytest.mark.parametrize(
    ("drop_last", "leaves_out", "shuffle", "rank"),
    [
        (False, False, True, 0),
        (True, True, False, 3),
        (True, False, True, 3),
        (False, True, True, 0),
    ],
)
def test_ranks_get_what_distributed_sampler_gave_them(
    numbered_folder: Path, drop_last: bool, leaves_out: bool, shuffle: bool, rank: int
) -> None:
    data = ImageFolder(str(numbered_folder), v2.Compose(RAW))
    sampler = DistributedSampler(data, 4, rank, shuffle, seed=5, drop_last=leaves_out)
    sampler.set_epoch(2)
    reference = TorchLoader(data, 2, sampler=sampler, drop_last=drop_last)
    loader = silently(resized(reference))
    assert (loader.sampler is sampler) == (leaves_out and not drop_last)
    assert len(loader) == len(reference)
    for epoch in (2, 7):
        sampler.set_epoch(epoch)
        expected = [image[:, 0, 0, 0].tolist() for image, _ in reference]
        if epoch != 2:  # the first is the epoch that the sampler stood at
            loader.set_epoch(epoch)
        assert [image[:, 0, 0, 0].tolist() for image, _ in loader] == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_that_seed_their_loaders_apart_get_each_sample_once(
    numbered_folder: Path, shuffle: bool
) -> None:
    """A loader's generator has no say in the order of torch's DistributedSampler."""
    served = []
    for rank in range(2):
        data = ImageFolder(str(numbered_folder), v2.Compose(RAW))
        sampler = DistributedSampler(data, 2, rank, shuffle, seed=5)
        generator = torch.Generator().manual_seed(100 + rank)
        reference = resized(TorchLoader(data, 2, sampler=sampler, generator=generator))
        loader = silently(reference)
        assert loader.seed == 5
        batches = [image[:, 0, 0, 0].tolist() for image, _ in loader]
        assert batches == [image[:, 0, 0, 0].tolist() for image, _ in reference]
        served += [level for batch in batches for level in batch]
        assert silently(reference, seed=7).seed == 7
    assert len(served) == 24
    assert len(set(served)) == 23


def test_shuffled_loader_shuffles_by_its_generators_seed(numbered_folder: Path) -> None:
    parts = [v2.Resize((8, 8)), *RAW]

    def order(loader: Any) -> list[int]:
        return [int(level) // 10 for image, _ in loader for level in image[:, 0, 0, 0]]

    seeded = torch.Generator().manual_seed(11)
    loader = silently(over(numbered_folder, parts, shuffle=True, generator=seeded))
    assert (loader.seed, loader.sampler.shuffle) == (11, True)
    assert sorted(order(loader)) == list(range(23))
    assert order(loader) != order(loader)
    assert silently(over(numbered_folder, parts, generator=seeded)).seed == 11
    unseeded = silently(over(numbered_folder, parts, shuffle=True))
    assert unseeded.seed == 0
    assert silently(over(numbered_folder, parts, shuffle=True), seed=4).seed == 4


def test_other_samplers_are_kept(numbered_folder: Path) -> None:
    parts = [v2.Resize((8, 8)), *RAW]
    weighted = WeightedRandomSampler([0.0] * 20 + [1.0] * 3, 50)
    loader = silently(over(numbered_folder, parts, sampler=weighted))
    assert loader.sampler is weighted
    assert {label for batch in labels(loader) for label in batch} == {2}
    few = RandomSampler(range(23), num_samples=6)
    assert len(silently(over(numbered_folder, parts, sampler=few))) == 2
    batches = BatchSampler([3, 9, 20, 1, 2], 2, drop_last=False)
    reference = over(numbered_folder, parts, batch_size=1, batch_sampler=batches)
    assert labels(silently(reference)) == labels(reference) == [[0, 1], [2, 0], [0]]
    loader = silently(over(numbered_folder, parts, sampler=weighted), shuffle=True)
    assert (
        sorted(label for batch in labels(loader) for label in batch) == [0] * 8 + [1] * 8 + [2] * 7
    )


def test_every_process_serves_all_samples_without_a_distributed_sampler(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    reference = over(numbered_folder, [v2.Resize((8, 8)), *RAW])
    assert labels(silently(reference)) == labels(reference)
    assert notes(reference, "processes") == [
        "Each of 2 processes serves all samples, as before, but with equal draws. Pass "
        "`shard=Shard.current()`, or give the torch loader a DistributedSampler."
    ]
    assert len(silently(reference, shard=Shard.current())) == 3


@pytest.mark.parametrize(
    "sampler",
    [SequentialSampler(range(10)), RandomSampler(range(40)), DistributedSampler(range(10), 1, 0)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_sampler_of_other_data_is_refused(numbered_folder: Path, sampler: Any) -> None:
    parts = [v2.Resize((8, 8)), *RAW]
    num = 40 if isinstance(sampler, RandomSampler) else 10
    reason = (
        f"the sampler orders {num} samples, and the dataset has 23. Build the sampler from the "
        "dataset, or pass `sampler=`, such as a list of indices."
    )
    name = type(sampler).__name__
    assert refusal(over(numbered_folder, parts, sampler=sampler)).splitlines()[1:] == [
        f"  - `{name}` at sampler: {reason}"
    ]
    batches = BatchSampler(sampler, 2, drop_last=False)
    reference = over(numbered_folder, parts, batch_size=1, batch_sampler=batches)
    assert refusal(reference).splitlines()[1:] == [
        f"  - `{name}` at batch_sampler.sampler: {reason}"
    ]
    assert len(silently(reference, batch_sampler=[[0, 1], [2]])) == 2


def test_report_says_what_a_sampler_object_cannot_do(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [v2.Resize((8, 8)), *RAW]
    weights = [1.0] * 23

    def of(sampler: Any, about: str = "Sampler") -> list[str]:
        return notes(over(numbered_folder, parts, sampler=sampler), about)

    seeded = WeightedRandomSampler(weights, 8, generator=torch.Generator().manual_seed(1))
    assert of(WeightedRandomSampler(weights, 8)) == []
    no_state = (
        "A run cannot resume in mid-epoch: WeightedRandomSampler draws from its own generator. "
        "Build the sampler without `generator=`, and pass `seed=`."
    )
    assert of(seeded) == [no_state]
    batches = over(
        numbered_folder, parts, batch_size=1, batch_sampler=BatchSampler(seeded, 2, False)
    )
    assert notes(batches, "Sampler") == [no_state]
    assert of(DistributedSampler(range(23), 2, 0)) == [
        "Epochs follow one another. To choose an epoch, call `set_epoch` of the loader; the "
        "DistributedSampler's has no effect."
    ]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert of(WeightedRandomSampler(weights, 8)) == [
        "Each of 2 processes gets the same samples from WeightedRandomSampler, unless the sampler "
        "knows its rank or `seed` differs."
    ]
    assert of(DistributedSampler(range(23), 2, 0, drop_last=True), "Each of") == []
