"""What the user's mix, transform or annotation raises or returns is told as what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn

from dali_cutmix import (
    Compose,
    CutMix,
    DataLoader,
    EvalTransform,
    MixUp,
    Notes,
    TrainTransform,
)
from dali_cutmix.augmentations import Resize

TINY = EvalTransform(resize=8, size=8)


class FailsInBatch(CutMix):
    """A mix whose third batch fails."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        super().__init__()
        object.__setattr__(self, "error", error)

    def draw(self, draws: Any, frame: Any) -> Any:
        if draws.batch == 3:
            raise self.error()
        return super().draw(draws, frame)


class EndsEarly(Notes[Any]):
    """An annotation that takes a target from an iterator that has none left."""

    def target(self, shown: Any) -> Any:
        return next(iter(())) if 12 in shown.indices else super().target(shown)


@pytest.mark.parametrize(
    "settings",
    [{"mix": FailsInBatch(StopIteration)}, {"target": EndsEarly(list(range(23)))}],
    ids=["mix", "annotation"],
)
def test_stop_iteration_of_the_users_code_is_an_error_and_not_the_epochs_end(
    numbered_folder: Path, settings: dict[str, Any]
) -> None:
    loader = DataLoader(numbered_folder, 4, transform=TINY, **settings)
    batches: list[Any] = []
    with pytest.raises(RuntimeError, match=r"raised StopIteration, which would have ended"):
        batches.extend(loader)
    assert len(batches) == 3


@pytest.mark.filterwarnings("ignore:.*replaced")
@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_error_of_a_later_batch_waits_for_its_turn_also_when_a_file_is_replaced(
    photo_folder: Path, tmp_path: Path, prefetch: int
) -> None:
    photos = sorted(photo_folder.rglob("*.jpg"))
    names = [tmp_path / f"{number:02}.jpg" for number in range(20)]
    for name, photo in zip(names, photos * 20, strict=False):
        name.write_bytes(photo.read_bytes())
    half = names[5].read_bytes()  # in the second batch, which is decoded before anybody knows
    names[5].write_bytes(half[: len(half) // 2])
    loader = DataLoader(
        [(name, 0) for name in names],
        4,
        transform=TINY,
        mix=FailsInBatch(KeyError),
        num_classes=2,
        on_error="replace",
        prefetch=prefetch,
        device="cpu",
    )
    batches: list[Any] = []
    with pytest.raises(KeyError):
        batches.extend(loader)
    assert len(batches) == 3
    assert len(loader.bad_files) == 1


class Draws:
    """An augmentation that changes nothing and draws an array of a given shape."""

    def __init__(self, shape: Callable[[int], tuple[int, ...]]) -> None:
        self.shape = shape

    def draw(self, draws: Any, _frame: Any) -> Any:
        return np.zeros(self.shape(draws.num_samples), np.float32)

    def operate(self, sample: Any, _plan: Any, _frame: Any) -> Any:
        return sample


@pytest.mark.parametrize("shape", [(), (7,), (1, 4)])
def test_draws_without_a_sample_for_each_image_are_refused_at_once(
    numbered_folder: Path, shape: tuple[int, ...]
) -> None:
    transform = Compose([Resize((8, 8)), Draws(lambda _: shape)])
    message = f"must be an array with a batch axis of 4 in front, got shape {list(shape)}."
    with pytest.raises(ValueError, match=f"^draw: .* {re.escape(message)}$"):
        DataLoader(numbered_folder, 4, transform=transform)


def test_draws_that_lose_their_batch_axis_later_are_no_fault_of_an_image(
    numbered_folder: Path,
) -> None:
    transform = Compose([Resize((8, 8)), Draws(lambda num: (num if num == 4 else 4,))])
    loader = DataLoader(numbered_folder, 4, transform=transform, on_error="replace")
    with pytest.raises(ValueError, match=r"batch axis of 3 in front, got shape \[4\]\.$"):
        list(loader)  # of 23 images
    assert not loader.bad_files


class Raises:
    """An augmentation whose operator fails at every image."""

    def draw(self, draws: Any, _frame: Any) -> Any:
        return np.zeros(draws.num_samples, np.float32)

    def operate(self, sample: Any, _plan: Any, _frame: Any) -> Any:
        def fail(_: Any) -> Any:
            raise KeyError("an operator of mine")

        return sample.change(lambda node: fn.python_function(node, function=fail))


def test_an_operator_that_fails_at_every_image_is_no_fault_of_the_images(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    transform = Compose([Resize((8, 8)), Raises()])
    loader = DataLoader(
        numbered_folder, 4, transform=transform, on_error="replace", device="cpu", prefetch=1
    )
    with pytest.raises(RuntimeError, match="at each of its 4 images alone, though all of them dec"):
        next(iter(loader))
    assert not loader.bad_files


class Constant:
    """An augmentation whose tree holds a number that equals nothing, itself included."""

    def draw(self, draws: Any, _frame: Any) -> Any:
        return np.zeros(draws.num_samples, np.float32), float("nan")

    def operate(self, sample: Any, _plan: Any, _frame: Any) -> Any:
        return sample


def test_a_constant_that_is_not_a_number_is_the_same_in_each_batch(numbered_folder: Path) -> None:
    loader = DataLoader(numbered_folder, 4, transform=Compose([Resize((8, 8)), Constant()]))
    assert len(list(loader)) == 6


def test_numbers_that_vanish_are_no_error_where_the_user_made_them_one(
    numbered_folder: Path,
) -> None:
    loader = DataLoader(numbered_folder, 4, transform=TINY, mix=MixUp(0.01))
    with np.errstate(all="raise"):
        for _ in range(4):
            assert len(list(loader)) == 6


def test_parts_of_a_target_share_no_memory(numbered_folder: Path) -> None:
    target: Any = {"one": "label", "other": "label"}
    _, parts = next(
        iter(DataLoader(numbered_folder, 4, transform=TrainTransform(8), target=target))
    )
    expected = parts["other"].clone()
    parts["one"] += 1
    torch.testing.assert_close(parts["other"], expected)
