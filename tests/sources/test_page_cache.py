"""Decompressed pages that a process keeps: each is made once while it is in use, in few bytes."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dali_cutmix import DataLoader, EvalTransform, FileList, ParquetShards
from dali_cutmix.sources import parquet
from dali_cutmix.sources.page_cache import PageCache
from stored import Sample
from stored import parquet as written

DATA = [np.random.default_rng(n).bytes(700) for n in range(240)]
SAMPLES = [Sample(f"{n}.jpg", data, n % 3) for n, data in enumerate(DATA)]
ROWS = 12  # images of a row group: a page and a dictionary, or a page alone


class Blob(NamedTuple):
    """A page of so many bytes."""

    num_bytes: int


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decompressed, in order."""
    calls: list[str] = []
    for name in ("read_rows", "read_dictionary"):
        read = getattr(parquet, name)

        def counted(*arguments: Any, name: str = name, read: Any = read) -> Any:
            calls.append(name)
            return read(*arguments)

        monkeypatch.setattr(parquet, name, counted)
    return calls


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_images_in_order_decompress_each_page_once(
    tmp_path: Path, made: list[str], use_dictionary: bool
) -> None:
    path = written(tmp_path, SAMPLES, ROWS, use_dictionary=use_dictionary)
    # Bytes of two row groups, of which the threads of a loader use several at once.
    images = ParquetShards(path, progress=False, page_bytes=2 * ROWS * 800)
    assert [images.stored(n).tobytes() for n in range(240)] == DATA
    assert len(made) == (2 if use_dictionary else 1) * 240 // ROWS


def test_a_loader_with_windows_of_shards_decompresses_each_page_once(
    tmp_path: Path, made: list[str], photo_folder: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    samples = [Sample(p, Path(p).read_bytes(), label) for p, label in files.samples[:12]]
    paths = [written(tmp_path / f"{n}", samples, 4) for n in range(4)]
    images = ParquetShards(paths, progress=False)
    loader = DataLoader(images, 4, "shards", window=2, transform=EvalTransform(8, 8))
    assert sum(len(image) for image, _ in loader) == 48
    assert sorted(made) == ["read_dictionary"] * 12 + ["read_rows"] * 12


def test_few_bytes_are_kept_and_any_order_reads_the_same(tmp_path: Path) -> None:
    images = ParquetShards(written(tmp_path, SAMPLES, ROWS), progress=False, page_bytes=30_000)
    order = np.random.default_rng(0).permutation(240).tolist()
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(lambda index: images.stored(index).tobytes(), order)
        assert list(read) == [DATA[index] for index in order]


class Tracked:
    """A page of so many bytes that tells how many bytes of pages are in memory."""

    in_memory: weakref.WeakSet[Tracked]

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.in_memory.add(self)


def test_threads_leave_no_more_than_the_bytes_of_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracked, "in_memory", weakref.WeakSet(), raising=False)
    cache = PageCache[Tracked](1000)
    rng = np.random.default_rng(0)
    draws = zip(
        rng.integers(0, 60, 2000).tolist(), rng.integers(0, 100, 2000).tolist(), strict=True
    )

    def use_page(draw: tuple[int, int]) -> None:
        key, size = draw
        cache.get(key, lambda: Tracked(size))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use_page, draws))
    gc.collect()
    assert 900 < sum(page.num_bytes for page in Tracked.in_memory) <= 1000


def test_an_image_does_not_hold_its_page_in_memory(tmp_path: Path) -> None:
    images = ParquetShards(written(tmp_path, SAMPLES, ROWS), progress=False)
    image = images.stored(3)
    while image.base is not None and isinstance(image.base, np.ndarray):
        image = image.base
    assert image.base is None


def test_the_pages_used_last_are_kept() -> None:
    cache, made = PageCache[Blob](100), []

    def get(key: str, size: int = 40) -> None:
        cache.get(key, lambda: made.append(key) or Blob(size))

    for key in "abacab":
        get(key)
    assert made == list("abcb")  # `c` took the place of `b`, since `a` was used later
    made.clear()
    for key in "xyxyxy":
        get(key, 1000)  # a page and its dictionary, each too large
    assert made == list("xy")
    get("z")
    get("y", 1000)
    assert made == list("xyz")


def test_threads_that_want_a_page_wait_for_the_thread_that_makes_it() -> None:
    cache, made = PageCache[Blob](100), []
    begun, end = threading.Event(), threading.Event()

    def make() -> Blob:
        made.append(threading.get_ident())
        begun.set()
        assert end.wait(10)
        return Blob(1)

    with ThreadPoolExecutor(4) as pool:
        pages = [pool.submit(cache.get, "a", make) for _ in range(4)]
        assert begun.wait(10)
        assert cache.get("b", lambda: Blob(2)) == Blob(2)  # nobody waits for another page
        end.set()
        assert [page.result(10) for page in pages] == [Blob(1)] * 4
    assert len(made) == 1


def test_a_page_that_cannot_be_made_is_an_error_and_is_made_anew() -> None:
    cache = PageCache[Blob](100)

    def fail() -> Blob:
        raise OSError("a stale handle")

    for _ in range(2):
        with pytest.raises(OSError, match="a stale handle"):
            cache.get("a", fail)
    assert cache.get("a", lambda: Blob(7)) == Blob(7)


class Interrupted(BaseException):
    """As Python interrupts a thread, and no error that a thread expects."""


@pytest.mark.parametrize("error", [Interrupted, OSError])
def test_a_thread_that_waits_in_vain_makes_the_page_itself(error: type[BaseException]) -> None:
    cache, waiting = PageCache[Blob](100), threading.Event()
    begun, end = threading.Event(), threading.Event()

    def fail() -> Blob:
        begun.set()
        assert end.wait(10)
        raise error

    def wait(make: Callable[[], Blob]) -> Blob:
        waiting.set()
        return cache.get("a", make)

    def fail_too() -> Blob:
        raise RuntimeError("an error of this thread")

    with ThreadPoolExecutor(3) as pool:
        failing = pool.submit(cache.get, "a", fail)
        assert begun.wait(10)
        good, bad = pool.submit(wait, lambda: Blob(5)), pool.submit(wait, fail_too)
        assert waiting.wait(10)
        end.set()
        assert failing.exception(10).__class__ is error
        assert good.result(10) == Blob(5)
        # Or this thread came later, and has the page of the other one.
        assert isinstance(bad.exception(10), RuntimeError) or bad.result() == Blob(5)
    assert cache.get("a", lambda: Blob(7)) in (Blob(7), Blob(5))


class Slow:
    """A page whose size is asked for at length: a cache has its lock meanwhile."""

    def __init__(self) -> None:
        self.asked, self.told = threading.Event(), threading.Event()

    @property
    def num_bytes(self) -> int:
        self.asked.set()
        assert self.told.wait(60)
        return 1


def test_a_cache_is_empty_after_a_pickle_and_in_a_fork() -> None:
    cache, slow = PageCache[Any](100), Slow()
    cache.get("a", lambda: Blob(1))
    assert pickle.loads(pickle.dumps(cache)).get("a", lambda: Blob(2)) == Blob(2)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(cache.get, "slow", lambda: slow)
        assert slow.asked.wait(10)
        process = multiprocessing.get_context("fork").Process(target=use, args=[cache])
        process.start()
        process.join(20)
        process.kill()
        process.join()
        slow.told.set()
        assert process.exitcode == 0
        assert asking.result(10) is slow
    assert cache.get("a", lambda: Blob(3)) == Blob(1)


def use(cache: PageCache[Blob]) -> None:
    assert cache.get("a", lambda: Blob(2)) == Blob(2)
