"""A pool of threads: order, errors, ends."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from dali_cutmix.core.threads import NAME, ThreadPool
from graphs import soon


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == NAME}


def test_results_come_in_the_order_of_the_parts_whichever_is_done_first() -> None:
    def late(part: int) -> int:
        time.sleep((part * 7 % 5) / 200)
        return part * part

    with ThreadPool(4) as pool:
        for _ in range(3):
            assert pool.map(late, range(23)) == [part * part for part in range(23)]
        assert pool.map(late, []) == []


def test_parts_run_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=10)
    with ThreadPool(3) as pool:
        assert pool.map(lambda part: (together.wait(), part)[1], range(3)) == [0, 1, 2]


def test_an_error_of_a_part_is_raised_when_all_are_done_and_the_pool_works_on() -> None:
    done: list[int] = []

    def sometimes(part: int) -> int:
        if part == 1:
            raise ZeroDivisionError("part 1")
        time.sleep(0.01)
        done.append(part)
        return part

    with ThreadPool(2) as pool:
        with pytest.raises(ZeroDivisionError, match="part 1"):
            pool.map(sometimes, range(5))
        assert sorted(done) == [0, 2, 3, 4]
        assert pool.map(sometimes, [7, 8]) == [7, 8]


def test_threads_start_with_the_first_call_and_end_when_closed_or_collected() -> None:
    others = threads()  # of loaders that are not collected yet, which may end meanwhile
    pool = ThreadPool(3)
    assert threads() <= others
    for end in ("close", "close", "collect"):
        assert pool.map(lambda part: part, [1]) == [1]
        assert len(threads() - others) == 3
        if end == "close":
            pool.close()
    del pool
    gc.collect()
    assert soon(lambda: threads() <= others)


def test_closing_cancels_calls_that_have_not_begun() -> None:
    done: list[int] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def wait(part: int) -> None:
        has_begun.set()
        may_end.wait(10)
        done.append(part)

    pool = ThreadPool(1)
    futures = [pool.submit(wait, part) for part in range(5)]
    assert has_begun.wait(10)
    pool.close(wait=False)
    may_end.set()
    assert soon(lambda: done == [0])
    futures[0].result(10)
    assert all(future.cancelled() for future in futures[1:])
    assert pool.map(lambda part: part, [3]) == [3]
    assert done == [0]
    pool.close()
