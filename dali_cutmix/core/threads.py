"""The package's thread pool, and a lock that lets one thread at a time use an object."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

NAME = "dali_cutmix-pool"

S = TypeVar("S")
T = TypeVar("T")

Task = tuple[Future[Any], Callable[[], None]]


class ThreadPool:
    """Call functions in a few threads, which start with the first call.

    The threads of ``concurrent.futures`` refuse work once the main thread has ended. These do not:
    another thread may keep iterating a loader. A context manager closes the pool.

    Args:
        num_threads: Number of threads, at least 1.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, function: Callable[[S], T], argument: S) -> Future[T]:
        """Call a function in one of the threads, and return the future result."""
        if not self._threads:
            self._tasks = SimpleQueue()  # not the queue of closed threads, which may still read it
            self._threads = [
                threading.Thread(target=_work, args=(self._tasks,), name=NAME, daemon=True)
                for _ in range(self.num_threads)
            ]
            for thread in self._threads:
                thread.start()
        future: Future[T] = Future()

        def task() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(argument))
                except BaseException as error:
                    future.set_exception(error)

        self._tasks.put((future, task))
        return future

    def map(self, function: Callable[[S], T], parts: Sequence[S]) -> list[T]:
        """Call a function for each part, and return the results in the order of the parts.

        Raises:
            Exception: The function's error for the first part that failed, once all are done.
        """
        futures = [self.submit(function, part) for part in parts]
        for future in futures:
            future.exception()  # waits
        return [future.result() for future in futures]

    def close(self, *, wait: bool = True) -> None:
        """Cancel the calls that have not begun and end the threads.

        Args:
            wait: Return when the threads have ended.
        """
        threads, self._threads = self._threads, []
        with suppress(Empty):
            while threads and (task := self._tasks.get_nowait()):
                task[0].cancel()
        for _ in threads:
            self._tasks.put(None)
        for thread in threads if wait else ():
            thread.join()

    def __del__(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Turn:
    """Let one thread at a time use an object, as a reentrant lock does.

    In a forked process, and after pickling, the object is free: the thread that used the object is
    not there.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()

    def take(self, *, wait: bool = True) -> bool:
        """Wait for the turn. Without ``wait``, return whether the turn was free."""
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]
        return self._lock.acquire(blocking=wait)

    def leave(self) -> None:
        """Let another thread have the turn."""
        if self._process == os.getpid():
            self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return type(self), ()


def _work(tasks: SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        task[1]()
        del task  # while this thread waits, the arguments and the result belong to others
