"""Count the threads that may run, run functions in them, and let one at a time use an object."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import PurePosixPath
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

NAME = "dali_cutmix-pool"

S = TypeVar("S")
T = TypeVar("T")

Task = tuple[Future[Any], Callable[[], None]]


def usable_cpus(root: str = "/") -> int:
    """Return the number of CPUs that this process may use, at least 1.

    A container's quota is a share of time: threads beyond the quota stand still for the rest of
    each period. A quota of 2.5 CPUs counts as 2.

    Args:
        root: Folder that holds ``proc`` and the control groups.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


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


def _quotas(root: str) -> Iterator[float]:
    """Yield the quotas of this process's control groups, in CPUs, those of their parents too.

    Source:
        Linux, ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``) and
        ``Documentation/scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us``); ``cgroups(7)`` for the
        files in ``/proc``.
    """
    groups = dict(_groups(_read(root, "/proc/self/cgroup")))
    for line in _read(root, "/proc/self/mountinfo").split("\n"):
        before, _, after = line.partition(" - ")
        kind, options = after.split(" ")[:1], after.split(" ")[-1].split(",")
        controller = "" if kind == ["cgroup2"] else "cpu"
        if kind not in (["cgroup"], ["cgroup2"]) or controller not in groups:
            continue
        if kind == ["cgroup"] and "cpu" not in options:
            continue
        shown, mounted = before.split(" ")[3:5]
        group = PurePosixPath(groups[controller])
        # A container sees its own group mounted, and may read the path of another from /proc.
        inside = group.relative_to(shown) if group.is_relative_to(shown) else PurePosixPath()
        for level in (inside, *inside.parents):
            yield from _quota(root, f"{mounted}/{level}", is_unified=kind == ["cgroup2"])


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield controller and path of this process's groups; the unified group's name is empty."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpu" in controllers.split(","):
            yield "cpu", path
        elif not controllers:
            yield "", path


def _quota(root: str, group: str, *, is_unified: bool) -> Iterator[float]:
    """Yield the quota of one group, if the group has one."""
    if is_unified:
        numbers = _read(root, f"{group}/cpu.max").split()
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        numbers = [word for name in names for word in _read(root, f"{group}/{name}").split()]
    with suppress(ValueError):  # "max", or -1: no quota
        quota, period = map(int, numbers)
        if quota > 0 and period > 0:
            yield quota / period


def _read(root: str, path: str) -> str:
    """Return the text of a small file; nothing where there is no such file."""
    try:
        with open(os.path.join(root, path.lstrip("/")), "rb") as file:
            return os.fsdecode(file.read())  # names of mounts need not be UTF-8
    except (OSError, ValueError):  # a zero byte, which no path can hold
        return ""
