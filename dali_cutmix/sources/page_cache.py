"""Pages of Parquet files, decompressed, that a process keeps for the images to come."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar


class Page(Protocol):
    """What is kept: an object that knows its size."""

    @property
    def num_bytes(self) -> int:
        """Bytes of memory."""


P = TypeVar("P", bound=Page)

#: Pages that stay whatever their size: an image needs a page and the page's dictionary.
_FEWEST = 2


class PageCache(Generic[P]):
    """Keep the pages that were used last. Threads may share a cache.

    A page that several threads ask for at once is made by the first of them. A cache is empty after
    pickling, and in a forked process.

    Args:
        most_bytes: Bytes of the pages that stay. The two pages used last stay in any case. Pages
            that are being made are not counted: each thread may make one.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._pages = _Pages()

    def get(self, key: Hashable, make: Callable[[], P]) -> P:
        """Return a page, and make the page where it is missing.

        Where another thread fails to make the page, each thread that waited for it makes the page
        itself. So an interrupt of one thread stops no other thread.

        Raises:
            Exception: Of this thread's ``make``. The cache stays without the page then.
        """
        pages = self._pages
        if pages.process != os.getpid():  # a fork, in which a thread may have left the lock locked
            pages = self._pages = _Pages()
        with pages.lock:
            is_new = key not in pages.futures
            future = Future() if is_new else pages.futures.pop(key)
            pages.futures[key] = future  # at the end: used last
        if not is_new:
            return future.result() if future.exception() is None else make()
        try:
            future.set_result(make())
        except BaseException as error:
            with pages.lock:
                pages.futures.pop(key, None)
            future.set_exception(error)
            raise
        with pages.lock:
            pages.num_bytes += future.result().num_bytes
            pages.drop(self.most_bytes)
        return future.result()

    def __reduce__(self) -> tuple[type[PageCache[P]], tuple[int]]:
        return type(self), (self.most_bytes,)


class _Pages:
    """Hold the pages of one process, the page used last at the end."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.futures: dict[Hashable, Future[Any]] = {}
        self.num_bytes = 0

    def drop(self, most_bytes: int) -> None:
        """Drop the pages that were used longest ago, but none that is being made."""
        finished = [key for key, future in self.futures.items() if future.done()]
        for key in finished[:-_FEWEST]:
            if self.num_bytes <= most_bytes:
                return
            self.num_bytes -= self.futures.pop(key).result().num_bytes
