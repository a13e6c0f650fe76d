"""Several threads and one loader: an epoch is whole, or its iteration says who ended it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dali_cutmix import DataLoader, EvalTransform
from stripes import Stripes

TINY = EvalTransform(8, 8)
ENDED = (
    "DataLoader: the loader was {} while this iteration was under way. One iteration runs at a "
    "time; make a second DataLoader to have two."
)


def load(source: Path, **settings: Any) -> DataLoader:
    return DataLoader(source, 4, transform=TINY, device="cpu", num_workers=2, **settings)


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let Python change threads as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("frequent_switches")
def test_threads_that_iterate_one_loader_get_whole_epochs_or_the_documented_error(
    numbered_folder: Path,
) -> None:
    loader = load(numbered_folder, shuffle=True)
    outcomes: list[Any] = []
    start = threading.Barrier(3)

    def iterate(_: int) -> None:
        for _ in range(12):
            start.wait()
            served: list[int] = []
            try:
                for image, _ in loader:
                    served += (image[:, 0, 0, 0] * 1e4).int().tolist()
            except Exception as error:
                outcomes.append(error)
            else:
                outcomes.append(served)

    in_threads(3, iterate)
    assert len(outcomes) == 36
    whole = [outcome for outcome in outcomes if isinstance(outcome, list)]
    assert len(whole) >= 12  # of each round the last to take over, at least
    for served in whole:
        assert len(served) == len(set(served)) == 23
    for error in outcomes:
        if not isinstance(error, list):
            assert type(error).__mro__[1] is RuntimeError
            assert str(error) == ENDED.format("iterated anew")
    assert len(list(loader)) == 6


@pytest.mark.usefixtures("frequent_switches")
def test_threads_that_share_one_iteration_get_each_batch_once(numbered_folder: Path) -> None:
    loader = load(numbered_folder)
    for epoch in range(6):
        batches, sizes = iter(loader), list[int]()

        def take(_: int, batches: Iterator[Any] = batches, sizes: list[int] = sizes) -> None:
            sizes.extend(len(image) for image, _ in batches)

        in_threads(3, take)
        assert sorted(sizes) == [3, 4, 4, 4, 4, 4]
        assert loader.sampler.epoch == epoch + 1


def test_an_iteration_that_lost_its_turn_says_so_again_and_does_not_move_the_other(
    numbered_folder: Path,
) -> None:
    loader = load(numbered_folder)
    lost = iter(loader)
    next(lost)
    batches = iter(loader)
    next(batches)
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            next(lost)
        assert str(caught.value) == ENDED.format("iterated anew")
    assert loader.state_dict()["batch"] == 1
    assert len(list(batches)) == 5


def test_a_loader_closed_while_another_thread_takes_a_batch_ends_that_iteration(
    numbered_folder: Path,
) -> None:
    inside, closed = threading.Event(), threading.Event()

    class Waiting(Stripes):
        def draw(self, draws: Any, frame: Any) -> Any:
            if (draws.epoch, draws.batch) == (0, 2):
                inside.set()
                closed.wait()
            return super().draw(draws, frame)

    loader = load(numbered_folder, mix=Waiting(), prefetch=2)
    errors: list[Exception] = []

    def iterate(_: int) -> None:
        try:
            list(loader)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=iterate, args=(0,))
    thread.start()
    inside.wait()
    loader.close()
    closed.set()
    thread.join()
    assert [str(error) for error in errors] == [ENDED.format("closed")]
    assert len(list(loader)) == 6
