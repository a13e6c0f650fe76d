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

#: Pages that are kept whatever their size: an image needs a page and the page's dictionary.
_KEPT = 2


class PageCache(Generic[P]):
    """Keep the pages that were used last. Threads may share a cache.

    A page that several threads ask for at once is made by the first of them. A cache is empty after
    pickling, and in a forked process.

    Args:
        most_bytes: Bytes of the pages that are kept. The two pages used last are kept in any case.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept = _Kept()

    def get(self, key: Hashable, make: Callable[[], P]) -> P:
        """Return a page, and make the page where it is not kept.

        Raises:
            Exception: Of ``make``, in all threads that wait for the page. Nothing is kept then.
        """
        kept = self._kept
        if kept.process != os.getpid():  # a fork, in which a thread may have left the lock locked
            kept = self._kept = _Kept()
        with kept.lock:
            is_new = key not in kept.pages
            page = Future() if is_new else kept.pages.pop(key)
            kept.pages[key] = page  # at the end: used last
        if not is_new:
            return page.result()
        try:
            page.set_result(make())
        except BaseException as error:
            with kept.lock:
                kept.pages.pop(key, None)
            page.set_exception(error)
            raise
        with kept.lock:
            kept.num_bytes += page.result().num_bytes
            kept.drop(self.most_bytes)
        return page.result()

    def __reduce__(self) -> tuple[type[PageCache[P]], tuple[int]]:
        return type(self), (self.most_bytes,)


class _Kept:
    """Hold the pages of one process, the page used last at the end."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.pages: dict[Hashable, Future[Any]] = {}
        self.num_bytes = 0

    def drop(self, most_bytes: int) -> None:
        """Drop the pages that were used longest ago, but none that is being made."""
        made = [key for key, page in self.pages.items() if page.done()]
        for key in made[:-_KEPT]:
            if self.num_bytes <= most_bytes:
                return
            self.num_bytes -= self.pages.pop(key).result().num_bytes
