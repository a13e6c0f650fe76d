"""`Waits`: what is waited for is told from what is worked on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dali_cutmix.waits import Waits


class Slow:
    """Batches that take their time."""

    def __init__(self, seconds: list[float], batch: Any = None) -> None:
        self.seconds = seconds
        self.batch = (torch.zeros(5, 2), torch.zeros(5)) if batch is None else batch

    def __len__(self) -> int:
        return len(self.seconds)

    def __iter__(self) -> Iterator[Any]:
        for each in self.seconds:
            time.sleep(each)
            yield self.batch


def test_batches_come_through_as_they_are_and_as_many() -> None:
    loader = Slow([0.0] * 3)
    waits = Waits(loader)
    assert len(waits) == 3
    assert all(batch is loader.batch for batch in waits)
    assert len(list(waits)) == 3


def test_share_is_near_1_where_the_loader_takes_the_time_and_near_0_where_the_step_does() -> None:
    # A sleep lasts at least as long as asked for, and the rest of a step some microseconds: only a
    # machine that stands still for nine tenths of a step could move a share across these bounds.
    waiting = Waits(Slow([0.02] * 4))
    for _ in waiting:
        pass
    assert waiting.share > 0.5
    working = Waits(Slow([0.0] * 4))
    for _ in working:
        time.sleep(0.02)
    assert working.share < 0.5


def test_share_is_the_waiting_in_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock of: asked, got, ended; a batch of 5 each.
    ticks = iter([0.0, 1.0, 4.0, 10.0, 13.0, 14.0, 20.0])
    monkeypatch.setattr("dali_cutmix.waits.time.perf_counter", lambda: next(ticks))
    waits = Waits(Slow([0.0] * 2))
    for _ in waits:
        pass
    # Waiting 0-1 and 10-13, in steps 0-4 and 10-14: each batch is asked for by a mark of its own.
    assert waits.share == pytest.approx(4 / 8)
    assert waits.images_per_s == pytest.approx(10 / 8)


def test_window_forgets_the_first_steps() -> None:
    waits = Waits(Slow([0.1] + [0.0] * 4), window=2)
    for _ in waits:
        time.sleep(0.005)
    assert waits.share < 0.5
    everything = Waits(Slow([0.1] + [0.0] * 4), window=None)
    for _ in everything:
        time.sleep(0.005)
    assert everything.share > 0.5


def test_reset_forgets_all_and_nothing_is_known_before_the_first_step() -> None:
    waits = Waits(Slow([0.0] * 2))
    assert math.isnan(waits.share)
    assert math.isnan(waits.images_per_s)
    list(waits)
    assert waits.images_per_s > 0
    waits.reset()
    assert math.isnan(waits.share)


def test_reset_forgets_the_step_under_way_too() -> None:
    waits = Waits(Slow([0.0] * 3), window=None)
    for number, _ in enumerate(waits):
        if number == 1:
            waits.reset()
    rate = waits.images_per_s
    only_last = Waits(Slow([0.0]), window=None)
    list(only_last)
    assert rate > 0
    assert len(waits._steps) == len(only_last._steps) == 1


def test_a_step_that_is_left_by_break_counts() -> None:
    waits = Waits(Slow([0.0] * 3))
    for _ in waits:
        time.sleep(0.01)
        break
    assert 0 < waits.images_per_s <= 500


def test_time_between_two_epochs_counts_for_neither() -> None:
    waits = Waits(Slow([0.02] * 2), window=None)
    for _ in waits:
        pass
    time.sleep(0.3)  # a validation
    for _ in waits:
        pass
    assert waits.share > 0.5


@pytest.mark.parametrize(
    "batch", [torch.zeros(5, 2), {"image": torch.zeros(5)}, [{"image": torch.zeros(5)}]]
)
def test_images_are_counted_in_batches_of_any_form(batch: Any) -> None:
    waits = Waits(Slow([0.01], batch), window=None)
    list(waits)
    assert 5 / waits.images_per_s >= 0.01


def test_no_batch_is_held_while_the_next_is_waited_for() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1

        def __del__(self) -> None:
            Held.alive -= 1

        def __len__(self) -> int:
            return 1

    def batches() -> Iterator[Held]:
        for _ in range(3):
            most.append(Held.alive)
            yield Held()

    most: list[int] = []
    for batch in Waits(batches()):
        del batch
    assert most == [0, 0, 0]


def test_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Waits: `window` must be above 0, or None, got 0\.$"):
        Waits([], window=0)


@pytest.mark.gpu
def test_on_a_gpu_a_busy_stream_does_not_wait() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    big = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    working = Waits(Slow([0.0] * 20), device="cuda", window=None)
    for _ in working:
        for _ in range(20):
            big @ big
    torch.cuda.synchronize()
    assert working.share < 0.5
    waiting = Waits(Slow([0.05] * 5), device="cuda", window=None)
    for _ in waiting:
        big @ big
    torch.cuda.synchronize()
    assert waiting.share > 0.5
