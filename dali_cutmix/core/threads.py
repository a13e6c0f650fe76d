"""Threads that work off a batch, for Python operators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

NAME = "dali_cutmix-crew"


class Crew:
    """A few threads that call a function for each part of a batch, and wait for the next.

    Unlike those of ``concurrent.futures`` they go on when the main thread has ended and others,
    which iterate a loader, have not. They begin with the first batch.

    Args:
        num_threads: Number of threads, at least 1.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def map(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """What the function makes of each part, in their order.

        Raises:
            Exception: What the function raised, of one part.
        """
        if not self._threads:
            self._threads = [
                threading.Thread(target=_work, args=(self._tasks,), name=NAME, daemon=True)
                for _ in range(self.num_threads)
            ]
            for thread in self._threads:
                thread.start()
        made: list[Any] = [None] * len(parts)
        failed: list[BaseException] = []
        done: SimpleQueue[None] = SimpleQueue()

        def task(index: int) -> Callable[[], None]:
            def run() -> None:
                try:
                    made[index] = function(parts[index])
                except BaseException as error:
                    failed.append(error)
                finally:
                    done.put(None)

            return run

        for index in range(len(parts)):
            self._tasks.put(task(index))
        for _ in parts:
            done.get()
        if failed:
            raise failed[0]
        return made

    def close(self) -> None:
        """End the threads and wait for them."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()


def _work(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()


def is_a_graphs_thread() -> bool:
    """Whether this code runs on a thread of a crew or of DALI's, which a graph waits for."""
    thread = threading.current_thread()
    # Threads that Python did not start, such as DALI's, appear as dummies.
    return thread.name == NAME or isinstance(thread, threading._DummyThread)
