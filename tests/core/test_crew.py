"""Threads that work off a batch: order, errors, ends."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from dali_cutmix.core.threads import NAME, Crew, is_a_graphs_thread
from graphs import soon


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == NAME]


def test_results_come_in_the_order_of_the_parts_whoever_is_done_first() -> None:
    crew = Crew(4)

    def late(part: int) -> int:
        time.sleep((part * 7 % 5) / 200)
        return part * part

    for _ in range(3):
        assert crew.map(late, range(23)) == [part * part for part in range(23)]
    assert crew.map(late, []) == []
    crew.close()


def test_parts_are_worked_off_at_once() -> None:
    crew = Crew(3)
    together = threading.Barrier(3, timeout=10)
    assert crew.map(lambda part: (together.wait(), part)[1], range(3)) == [0, 1, 2]
    crew.close()


def test_an_error_of_one_part_is_raised_when_all_are_done_and_the_crew_goes_on() -> None:
    crew = Crew(2)
    done: list[int] = []

    def sometimes(part: int) -> int:
        if part == 1:
            raise ZeroDivisionError("part 1")
        time.sleep(0.01)
        done.append(part)
        return part

    with pytest.raises(ZeroDivisionError, match="part 1"):
        crew.map(sometimes, range(5))
    assert sorted(done) == [0, 2, 3, 4]
    assert crew.map(sometimes, [7, 8]) == [7, 8]
    crew.close()


def test_threads_begin_with_the_first_batch_and_end_when_closed() -> None:
    before = len(names())
    crew = Crew(3)
    assert len(names()) == before
    crew.map(lambda part: part, [1])
    assert len(names()) == before + 3
    crew.close()
    assert soon(lambda: len(names()) == before)
    crew.close()


def test_a_crew_knows_its_own_threads() -> None:
    crew = Crew(1)
    found: list[Any] = crew.map(lambda _: is_a_graphs_thread(), [0])
    assert found == [True]
    assert not is_a_graphs_thread()
    crew.close()
