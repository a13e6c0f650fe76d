"""Shards of buckets fetched into a cache ahead of their use, in the order in which they are due."""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from io import FileIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dali_cutmix.core.bars import COUNTS, NOTE, bar
from dali_cutmix.core.reading import patiently
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.bucket import NUM_REQUESTS
from dali_cutmix.sources.cache import CachedShard, NoRoomError, ShardCache

#: Bytes of a request. As many requests at a time hold 64 MB.
CHUNK = 4 << 20
#: Shards that are fetched at a time, and that are fetched ahead at least.
NUM_SHARDS = 8
#: Seconds after which a batch that waits for a shard shows how far the shards are.
PATIENCE_S = 1.0
#: Seconds between two looks for room, and seconds that a read waits for room.
LOOK_S, GIVE_UP_S = 0.2, 2.0
#: Shards that are kept open. Others are opened again at each read.
MOST_OPEN = 256


class Downloads(NamedTuple):
    """Tell how far an epoch's shards are.

    Args:
        shards: Shards that are there.
        num_shards: Shards that the epoch reads.
        fetched_bytes: Bytes fetched from the bucket since the source was made.
    """

    shards: int
    num_shards: int
    fetched_bytes: int


class Fetching:
    """Fetch shards ahead, and read what was fetched. Thread-safe; may be pickled.

    What is expected is fetched in the order of its first use: as many shards beyond those in use as
    are in use, and `NUM_SHARDS` at least. A shard is let go with its last expected read. A read
    waits for a shard that is being fetched, and for nothing else: without room for a shard, and
    without an expectation, the caller reads the bucket.

    Args:
        where: Name of the caller, for messages.
        cache: Where shards go.
        shards: URL, entity tag and bytes of each shard.
        request: Returns bytes of a shard from the bucket, by number, offset and size.
        shows: Show a bar on stderr, if it is a terminal, while a read waits.
    """

    def __init__(
        self,
        where: str,
        cache: ShardCache,
        shards: Sequence[tuple[str, str, int]],
        request: Callable[[int, int, int], np.ndarray],
        *,
        shows: bool,
    ) -> None:
        self._where = where
        self._cache = cache
        self._shards = shards
        self._request = request
        self._shows = shows
        self._has_warned = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._showing = threading.Lock()
        self._requests = ThreadPool(NUM_REQUESTS)
        self._fetches = ThreadPool(NUM_SHARDS)
        self._open: dict[int, CachedShard] = {}
        self._fetched_bytes = 0
        self._expect_nothing()

    def _expect_nothing(self) -> None:
        self._order: list[int] = []
        self._place: dict[int, int] = {}
        self._reads_left: dict[int, int] = {}
        self._futures: dict[int, Future[None]] = {}
        self._begun: set[int] = set()
        self._without_room: set[int] = set()
        self._num_started = self._num_due = self._num_done = 0

    @property
    def downloads(self) -> Downloads:
        """How far the shards of the epoch are."""
        with self._lock:
            there = sum(map(_is_there, self._futures.values()))
            return Downloads(self._num_done + there, len(self._order), self._fetched_bytes)

    def expect(self, numbers: np.ndarray) -> None:
        """Take the shard of each read to come, in order: ``[num_reads]`` int. Forget others."""
        shards, first, counts = np.unique(numbers, return_index=True, return_counts=True)
        order = np.argsort(first)
        with self._lock:
            for future in self._futures.values():
                future.cancel()
            self._expect_nothing()
            self._open.clear()
            self._room.notify_all()
            self._order = shards[order].tolist()
            self._place = {number: place for place, number in enumerate(self._order)}
            self._reads_left = dict(zip(shards.tolist(), counts.tolist(), strict=True))
            self._start()

    def read(self, number: int, offset: int, size: int) -> bytes | None:
        """Return bytes of a shard in the cache; None where the bucket has to be read.

        Waits where the shard is being fetched.
        """
        if self._process != os.getpid():  # a fork, without threads that fetch
            shard = self._open.get(number)
            return None if shard is None else shard.read(offset, size)
        with self._lock:
            future = self._due(number)
        if future is not None and not future.done():
            self._wait(future)
        data = self._read(number, offset, size)
        with self._lock:
            self._count(number)
        return data

    def scan(self, number: int) -> BinaryIO | None:
        """Fetch a shard and open it, to read it from its beginning; None without room."""
        try:
            self._fetch(number, {})
        except NoRoomError:
            return None
        shard = self._open.pop(number)
        file: Any = FileIO(shard.duplicate(), "rb")
        file.seek(0)
        return file

    def _due(self, number: int) -> Future[None] | None:
        """Note that a shard is read, and return its fetching; None if it is not expected."""
        place = self._place.get(number)
        if place is None or not self._reads_left[number]:
            return None
        if number not in self._begun:
            self._begun.add(number)
            self._num_due = max(self._num_due, place + 1)
            self._start()
        return self._futures.get(number)

    def _start(self) -> None:
        """Start to fetch what is due, and some more."""
        in_use = len(self._begun) - self._num_done
        ahead = max(NUM_SHARDS, in_use)
        last = max(self._num_due, len(self._begun) + ahead)
        fetch = partial(self._fetch, places=self._place)
        for number in self._order[self._num_started : last]:
            self._futures[number] = self._fetches.submit(fetch, number)
            self._without_room.add(number)
            self._num_started += 1

    def _count(self, number: int) -> None:
        """Count a read, and let go of a shard after its last read."""
        if not self._reads_left.get(number):
            return
        self._reads_left[number] -= 1
        if self._reads_left[number]:
            return
        self._num_done += 1
        self._futures.pop(number, None)
        shard = self._open.pop(number, None)
        if shard is not None:
            shard.done()
        self._room.notify_all()
        self._start()

    def _read(self, number: int, offset: int, size: int) -> bytes | None:
        """Return bytes of a shard in the cache; None where they cannot be had there."""
        try:
            shard = self._open.get(number)
            if shard is None:
                shard = self._cache.open(*self._shards[number])
                if shard is None:
                    return None
                self._keep(number, shard)
            data = shard.read(offset, size)
        except OSError:  # of the local disk, which is no fault of the image
            data = b""
        if len(data) == size:
            return data
        self._open.pop(number, None)  # somebody cut the file off
        return None

    def _keep(self, number: int, shard: CachedShard) -> None:
        self._open[number] = shard
        while len(self._open) > MOST_OPEN:
            with suppress(KeyError, RuntimeError, StopIteration):  # other threads drop some, too
                self._open.pop(next(iter(self._open)))

    def _fetch(self, number: int, places: dict[int, int]) -> None:
        """Fetch a shard and keep it open; return at once where it is in the cache.

        Without room, wait for the last read of another shard. Two processes could wait for each
        other: a shard whose reads are due is given up after a while.

        Args:
            number: Number of the shard.
            places: `_place` of the expectation that this belongs to; empty without one.
        """
        url, tag, size = self._shards[number]

        def fetched() -> CachedShard:
            fill, on_room = partial(self._fill, number), partial(self._leave_queue, number)
            return self._cache.fetch(url, tag, size, fill, on_room)

        give_up_at = math.inf
        try:
            while not places or self._wait_for_turn(number, places):
                try:
                    shard = patiently(fetched, self._where, f"fetching {url}")
                    if not places or places is self._place:
                        self._keep(number, shard)
                    return
                except NoRoomError as error:
                    if not places or time.monotonic() > give_up_at:
                        self._warn(error)
                        raise
                if number in self._begun:
                    give_up_at = min(give_up_at, time.monotonic() + GIVE_UP_S)
                with self._lock:
                    self._room.wait(LOOK_S)
        finally:
            self._leave_queue(number)

    def _wait_for_turn(self, number: int, places: dict[int, int]) -> bool:
        """Wait until the shards that are due before this one have room.

        Returns:
            Whether the expectation is still the present one.
        """
        with self._lock:
            while places is self._place and any(
                places[other] < places[number] for other in self._without_room
            ):
                self._room.wait()
            return places is self._place

    def _leave_queue(self, number: int) -> None:
        with self._lock:
            self._without_room.discard(number)
            self._room.notify_all()

    def _fill(self, number: int, descriptor: int) -> None:
        """Write a shard into the cache, by many requests at once."""
        size = self._shards[number][2]

        def copy(start: int) -> None:
            data = self._request(number, start, min(CHUNK, size - start)).data
            with self._lock:
                self._fetched_bytes += len(data)
            while data:
                written = os.pwrite(descriptor, data, start)
                data, start = data[written:], start + written

        self._requests.map(copy, range(0, size, CHUNK))

    def _warn(self, error: NoRoomError) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"{self._where}: the cache {self._cache.folder} has {error.strerror}. Images of shards "
            "outside the cache are read one by one, which is slow. Pass more `cache_bytes`, a "
            "smaller `window`, or another `cache_dir`.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _wait(self, future: Future[None]) -> None:
        """Wait for a shard, and show how far the shards are if that takes long."""
        wait([future], PATIENCE_S)
        if future.done() or not self._shows or not self._showing.acquire(blocking=False):
            wait([future])
            return
        try:
            with bar("Fetching shards", None, COUNTS, NOTE) as update:
                begin, before = time.monotonic(), self.downloads.fetched_bytes
                while not future.done():
                    shards, total, fetched_bytes = self.downloads
                    rate = (fetched_bytes - before) / max(time.monotonic() - begin, 0.1) / 1e6
                    update(completed=shards, total=total, note=f"{rate:.0f} MB/s")
                    wait([future], 0.2)
        finally:
            self._showing.release()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_where", "_cache", "_shards", "_request", "_shows", "_has_warned")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()


def _is_there(future: Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
