"""Accelerate takes the adapted loader, counts each sample once and keeps the position."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from trainer_runs import Downwards, alone, assert_same, make_train, make_val, one_layer

from dali_cutmix import BadFileError, Shard
from dali_cutmix.trainers import AccelerateLoader


@pytest.fixture
def accelerator() -> Iterator[Any]:
    accelerate = pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    from accelerate.state import AcceleratorState, GradientState

    yield accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_accelerate_prepares_the_loader_and_leaves_its_batches(
    photo_folder: Path, accelerator: Any
) -> None:
    adapted = AccelerateLoader(make_train(photo_folder))
    assert accelerator.prepare(adapted) is adapted
    assert len(adapted) == 6
    assert_same(list(adapted) + list(adapted), alone(make_train(photo_folder), 2))


def test_accelerate_steps_with_the_last_batch_of_an_epoch(
    photo_folder: Path, accelerator: Any
) -> None:
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    model = accelerator.prepare(one_layer())
    synced = []
    for _ in range(2):
        for _batch in train:
            with accelerator.accumulate(model):
                synced.append(accelerator.sync_gradients)
    assert synced == [False, False, False, True, False, True] * 2


@pytest.mark.parametrize("num_images", [8, 18])
def test_accelerate_gathers_each_sample_once(
    numbered_folder: Path, accelerator: Any, num_images: int
) -> None:
    some = Subset(ImageFolder(str(numbered_folder)), range(num_images))
    val = accelerator.prepare(AccelerateLoader(make_val(some)))
    labels = torch.cat([accelerator.gather_for_metrics(label) for _, label in val])
    assert labels.tolist() == [number // 8 for number in range(num_images)]


@pytest.mark.parametrize("served", [1, 5, 6])
def test_accelerate_keeps_the_position_in_its_state(
    photo_folder: Path, tmp_path: Path, accelerator: Any, served: int
) -> None:
    expected = alone(make_train(photo_folder), 2)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    for number, _ in enumerate(train, 1):
        if number == served:
            accelerator.save_state(str(tmp_path / "state"))
            break
    accelerator.free_memory()
    again = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    accelerator.load_state(str(tmp_path / "state"))
    assert again.state_dict()["epoch"] == served // 6
    batches = list(again)
    if served < 6:
        batches += list(again)
    assert_same(batches, expected[served:])


def test_accelerate_skips_batches_without_reading_them(
    photo_folder: Path, tmp_path: Path, accelerator: Any
) -> None:
    """The files of the batches that are skipped are spoiled."""
    loader = make_train(photo_folder)
    indices = [loader.batch_indices for _ in loader]
    expected = alone(make_train(photo_folder), 1)
    root = tmp_path / "photos"
    shutil.copytree(photo_folder, root)
    files = sorted(root.glob("*/*.jpg"))
    for index in itertools.chain.from_iterable(indices[:4]):
        files[index].write_text("spoiled")
    train = accelerator.prepare(AccelerateLoader(make_train(root)))
    assert_same(list(accelerator.skip_first_batches(train, 4)), expected[4:])
    with pytest.raises(BadFileError):
        next(iter(train))


@pytest.mark.parametrize(("served", "skipped"), [(3, 3), (3, 2), (2, 4)])
def test_accelerate_skips_no_batch_twice_after_its_state_was_loaded(
    photo_folder: Path, tmp_path: Path, accelerator: Any, served: int, skipped: int
) -> None:
    """Scripts load the state, and then skip as many batches as its checkpoint has steps."""
    expected = alone(make_train(photo_folder), 2)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    for _ in zip(range(served), train, strict=False):
        pass
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.free_memory()
    again = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    accelerator.load_state(str(tmp_path / "state"))
    rest = accelerator.skip_first_batches(again, skipped)
    assert_same(list(rest) + list(again), expected[max(served, skipped) :])


@pytest.mark.parametrize("served", [0, 2])
def test_accelerate_uses_an_epoch_up_by_skipping_all_of_it(
    photo_folder: Path, accelerator: Any, served: int
) -> None:
    first = make_train(photo_folder)
    state = first.state_dict()
    for _ in zip(range(served), first, strict=False):
        state = first.state_dict()
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    train.load_state_dict(state)
    assert list(accelerator.skip_first_batches(train, 6)) == []
    assert_same(list(train), alone(make_train(photo_folder), 2)[6:])


def test_accelerate_loader_after_a_break_begins_the_next_epoch(
    photo_folder: Path, accelerator: Any
) -> None:
    expected = alone(make_train(photo_folder), 2)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    next(iter(train))
    assert_same(list(train), expected[6:])


def test_state_of_other_ranks_ends_where_its_samples_end(
    photo_folder: Path, accelerator: Any
) -> None:
    """Two batches on each of two ranks leave 5 of 21 samples: two batches, and not four."""
    first = make_train(photo_folder, shard=Shard(0, 2))
    batches = iter(first)
    for _ in range(2):
        next(batches)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    train.load_state_dict(first.state_dict())
    left = make_train(photo_folder)
    left.load_state_dict(first.state_dict())
    ends = []
    for batch, expected in zip(train, left, strict=True):
        assert_same([batch], [expected])
        ends.append(train.end_of_dataloader)
    assert ends == [False, True]


def test_state_behind_the_last_batch_leaves_an_empty_rest(
    photo_folder: Path, accelerator: Any
) -> None:
    """The plain loader does not know yet that the epoch is over."""
    first = make_train(photo_folder)
    batches = iter(first)
    for _ in range(6):
        next(batches)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    train.load_state_dict(first.state_dict())
    assert list(train) == []
    assert not accelerator.gradient_state.in_dataloader
    assert_same(list(train), alone(make_train(photo_folder), 2)[6:])


def test_ranks_that_would_take_unequal_steps_are_refused(photo_folder: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    uneven = make_val(photo_folder, shard=Shard(0, 2))
    problem = (
        "AccelerateLoader: `remainder` of a loader on 2 ranks, which wait for each other, must be "
        "'pad' or 'drop', got 'exact'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        AccelerateLoader(uneven)


def test_sampler_without_a_length_is_refused(photo_folder: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    train = make_train(photo_folder, shuffle=False, sampler=Downwards())
    problem = (
        "AccelerateLoader: `sampler` of the loader must have a length, got Downwards. Give the "
        "class a `__len__`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        AccelerateLoader(train)
