"""Whole shards of a bucket in a folder that processes share: by a server on loopback."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import multiprocessing
import os
import pickle
import re
import signal
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    DataLoader,
    EpochSampler,
    EvalTransform,
    MDSShards,
    ParquetShards,
    Shard,
    TarShards,
)
from dali_cutmix.sources import cache as cache_module
from dali_cutmix.sources import fetching
from dali_cutmix.sources.cache import NoRoomError, ShardCache

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from bucket_server import BucketServer, environment

from stored import Sample, mds, of_the_hub

NUM_SHARDS, PER_SHARD = 12, 10
URL = "s3://images/{0000..0011}.tar"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 10 images each, whose gray level is their number, with their indexes."""
    root = tmp_path_factory.mktemp("shards")
    for shard in range(NUM_SHARDS):
        with tarfile.open(root / f"{shard:04d}.tar", "w") as tar:
            for number in range(PER_SHARD * shard, PER_SHARD * (shard + 1)):
                png = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), 2 * number, np.uint8)).save(png, "PNG")
                for ending, content in (("png", png.getvalue()), ("cls", b"%d" % (number % 3))):
                    info = tarfile.TarInfo(f"{number:04d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    TarShards(root, progress=False)  # leaves the indexes
    return root


@pytest.fixture(autouse=True)
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with BucketServer(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in environment(server.port).items():
            monkeypatch.setenv(name, value)
        yield server
        server.shutdown()


@pytest.fixture
def local(folder: Path) -> TarShards:
    return TarShards(folder, progress=False)


def cached(tmp_path: Path, **settings: Any) -> TarShards:
    return TarShards(URL, progress=False, cache_dir=tmp_path / "cache", **settings)


def order_of(images: TarShards, epoch: int = 0, window: int = 3) -> np.ndarray:
    return EpochSampler(
        len(images),
        shuffle="shards",
        seed=0,
        shard=Shard(),
        shard_sizes=images.shard_sizes,
        window=window,
    ).order(epoch)


def read_epoch(images: TarShards, order: np.ndarray) -> list[bytes]:
    images.expect(order)
    return [images.stored(index).tobytes() for index in order.tolist()]


def gets(server: BucketServer) -> dict[str, int]:
    """Requests for shards so far, and not for their indexes."""
    return {
        key: count
        for (method, key), count in server.asked.items()
        if method == "GET" and key.endswith(".tar")
    }


def shards_in(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").iterdir() if ".shard" in p.name)


def bytes_in(tmp_path: Path) -> int:
    """Bytes of all shards, while no thread evicts or makes room."""
    sizes = {}
    with open(tmp_path / "cache/.dali-cutmix-cache.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in (tmp_path / "cache").glob("*.shard*"):
            with suppress(FileNotFoundError):  # a shard got its name meanwhile
                stat = path.stat()
                sizes[stat.st_ino] = stat.st_size
    return sum(sizes.values())


def test_an_epoch_fetches_each_shard_once_and_the_next_epoch_none(
    server: BucketServer, local: TarShards, tmp_path: Path
) -> None:
    images = cached(tmp_path)
    assert images.fingerprint == local.fingerprint
    server.asked.clear()
    for epoch in range(2):
        order = order_of(images, epoch)
        expected = [local.stored(index).tobytes() for index in order.tolist()]
        assert read_epoch(images, order) == expected
        assert gets(server) == {f"{n:04d}.tar": 1 for n in range(NUM_SHARDS)}
    assert len(shards_in(tmp_path)) == NUM_SHARDS
    assert images.downloads is not None
    assert images.downloads[:2] == (NUM_SHARDS, NUM_SHARDS)
    assert images.downloads.fetched_bytes == sum(
        (server.folder / f"{n:04d}.tar").stat().st_size for n in range(NUM_SHARDS)
    )
    assert local.downloads is None


@pytest.mark.parametrize("kind", ["hub", "mds"])
def test_shards_of_other_formats_are_fetched_whole_too(
    server: BucketServer, kind: str, tmp_path: Path
) -> None:
    samples = [Sample(f"{n}.jpg", bytes([n]) * (n + 9), n % 3) for n in range(20)]
    write, opener, ending = {
        "hub": (of_the_hub, ParquetShards, "*.parquet"),
        "mds": (mds, MDSShards, "*.mds"),
    }[kind]
    server.folder = tmp_path
    written = sorted(path.name for path in write(tmp_path, samples).glob(ending))
    url = f"s3://images/{kind}"
    shards = url if kind == "mds" else [f"{url}/{name}" for name in written]
    images = opener(shards, progress=False, cache_dir=tmp_path / "cache")
    server.asked.clear()
    for turn in range(2):
        images.expect(np.arange(20))
        assert [images.stored(n).tobytes() for n in range(20)] == [s.data for s in samples]
        assert images.downloads is not None
        assert images.downloads[:2] == (len(written), len(written))
        # Indexes were made of the shards in the cache, so that no shard is asked for again.
        assert not any("GET" in method for method, _ in server.asked), turn


def test_shards_are_fetched_in_the_order_of_use_and_few_ahead(
    server: BucketServer, tmp_path: Path
) -> None:
    images = cached(tmp_path)
    server.asked.clear()
    order = order_of(images, window=1)
    first_used = list(dict.fromkeys((order // PER_SHARD).tolist()))
    images.expect(order)
    images.stored(int(order[0]))
    fetched = images.downloads
    assert fetched is not None
    for index in order[1:11].tolist():
        images.stored(index)  # the second shard is in use, and the ninth beyond it may be asked for
    asked = [int(key[:4]) for key in gets(server)]
    assert set(asked) <= set(first_used[:11])
    assert set(first_used[:2]) <= set(asked)
    images.expect(np.zeros(0, np.int64))
    assert images.downloads is not None
    assert images.downloads[:2] == (0, 0)


def test_reads_that_nobody_announced_ask_the_bucket_for_ranges(
    local: TarShards, tmp_path: Path
) -> None:
    images = cached(tmp_path)
    assert [images.stored(i).tobytes() for i in (5, 117)] == [
        local.stored(i).tobytes() for i in (5, 117)
    ]
    assert shards_in(tmp_path) == []


def test_a_loader_serves_the_batches_of_local_shards_also_after_a_resume(
    folder: Path, tmp_path: Path
) -> None:
    def batches(source: Any) -> DataLoader:
        return DataLoader(
            source, 16, "shards", window=3, transform=EvalTransform(8, 8), dtype=torch.uint8
        )

    expected = [image for image, _ in batches(folder)]
    loader = batches(cached(tmp_path))
    epoch = iter(loader)
    found = [next(epoch)[0] for _ in range(3)]
    state = json.loads(json.dumps(loader.state_dict()))
    loader.close()
    again = batches(cached(tmp_path, cache_bytes=10**6))
    again.load_state_dict(state)
    found += [image for image, _ in again]
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_a_cache_smaller_than_the_window_warns_and_serves_every_image(
    server: BucketServer, local: TarShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "GIVE_UP_S", 0.1)
    size = max((server.folder / f"{n:04d}.tar").stat().st_size for n in range(NUM_SHARDS))
    images = cached(tmp_path, cache_bytes=2 * size)
    order = order_of(images, window=4)
    images.expect(order)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for index in order.tolist():
            assert images.stored(index).tobytes() == local.stored(index).tobytes()
            assert bytes_in(tmp_path) <= 2 * size
    (message,) = {str(warning.message) for warning in caught}
    assert message == (
        f"TarShards: the cache {tmp_path / 'cache'} has no room for another shard beside those in "
        f"use: cache_bytes={2 * size}. Images of shards outside the cache are read one by one, "
        "which is slow. Pass more `cache_bytes`, a smaller `window`, or another `cache_dir`."
    )


def test_a_cache_of_two_windows_fetches_each_shard_once_though_it_holds_a_part(
    server: BucketServer, local: TarShards, tmp_path: Path
) -> None:
    size = max((server.folder / f"{n:04d}.tar").stat().st_size for n in range(NUM_SHARDS))
    images = cached(tmp_path, cache_bytes=4 * size)
    server.asked.clear()
    order = order_of(images, window=2)
    assert read_epoch(images, order) == [local.stored(i).tobytes() for i in order.tolist()]
    assert gets(server) == {f"{n:04d}.tar": 1 for n in range(NUM_SHARDS)}
    assert len(shards_in(tmp_path)) <= 4


def test_a_full_disk_is_told_and_the_bucket_read_instead(
    local: TarShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching, "GIVE_UP_S", 0.1)
    images = cached(tmp_path)
    monkeypatch.setattr(cache_module.os, "posix_fallocate", full)
    order = order_of(images)[:15]
    with pytest.warns(RuntimeWarning, match=r"has no room for .* in use: the disk is full\. Ima"):
        assert read_epoch(images, order) == [local.stored(i).tobytes() for i in order.tolist()]
    assert shards_in(tmp_path) == []


def test_a_connection_that_ends_half_way_leaves_no_half_a_shard(
    server: BucketServer, local: TarShards, tmp_path: Path
) -> None:
    images = cached(tmp_path)
    server.num_cut.update({f"{n:04d}.tar": 1 for n in range(0, NUM_SHARDS, 2)})
    order = order_of(images)
    assert read_epoch(images, order) == [local.stored(i).tobytes() for i in order.tolist()]
    for path in (tmp_path / "cache").glob("*.shard"):
        assert path.read_bytes() == (server.folder / path.name[:8]).read_bytes()


def test_a_cached_shard_that_somebody_cut_off_is_fetched_again(tmp_path: Path) -> None:
    images = cached(tmp_path)
    order = order_of(images)
    expected = read_epoch(images, order)
    for path in (tmp_path / "cache").glob("*.shard"):
        os.truncate(path, 700)
    assert read_epoch(images, order) == expected
    images.expect(order)
    images.stored(int(order[0]))  # open from now on
    for path in (tmp_path / "cache").glob("*.shard"):
        os.truncate(path, 0)
    assert [images.stored(i).tobytes() for i in order.tolist()] == expected


def test_an_object_that_changed_is_another_shard(
    server: BucketServer, folder: Path, tmp_path: Path
) -> None:
    server.folder = tmp_path / "bucket"
    server.folder.mkdir()
    (server.folder / "0000.tar").write_bytes((folder / "0000.tar").read_bytes())

    def first() -> bytes:
        images = TarShards("s3://images/0000.tar", progress=False, cache_dir=tmp_path / "cache")
        images.expect(np.arange(PER_SHARD))
        return images.stored(0).tobytes()

    before = first()
    (server.folder / "0000.tar").write_bytes((folder / "0001.tar").read_bytes())
    assert first() != before
    assert len(shards_in(tmp_path)) == 2


def test_shards_without_an_index_are_scanned_in_the_cache_which_keeps_index_and_shard(
    server: BucketServer, folder: Path, tmp_path: Path
) -> None:
    server.folder = tmp_path / "bucket"
    server.folder.mkdir()
    for number in range(2):
        name = f"{number:04d}.tar"
        (server.folder / name).write_bytes((folder / name).read_bytes())
    settings = {"progress": False, "cache_dir": tmp_path / "cache"}
    for _ in range(2):
        images = TarShards("s3://images/{0000..0001}.tar", **settings)
        images.expect(np.arange(20))
        assert len({images.stored(index).tobytes() for index in range(20)}) == 20
        assert gets(server) == {"0000.tar": 1, "0001.tar": 1}
    assert len(list((tmp_path / "cache").glob("*.index.npz"))) == 2


def test_a_pickled_source_reads_through_the_cache_of_its_original(
    server: BucketServer, tmp_path: Path
) -> None:
    images = cached(tmp_path)
    order = order_of(images)
    expected = read_epoch(images, order)
    server.asked.clear()
    assert read_epoch(pickle.loads(pickle.dumps(images)), order) == expected
    assert gets(server) == {}


def test_a_selection_announces_the_images_it_selects(local: TarShards, tmp_path: Path) -> None:
    part = cached(tmp_path).take(np.arange(30, 50))
    part.expect(np.arange(20))
    assert [part.stored(i).tobytes() for i in range(20)] == [
        local.stored(i).tobytes() for i in range(30, 50)
    ]
    assert [name[:4] for name in shards_in(tmp_path)] == ["0003", "0004"]


def test_settings_of_a_cache_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^TarShards: `cache_bytes` must be left out without `c"):
        TarShards(URL, progress=False, cache_bytes=10**9)
    with pytest.raises(
        ValueError, match=r"^TarShards: `cache_bytes` must be at least the \d+ byte"
    ):
        cached(tmp_path, cache_bytes=1000)
    with pytest.raises(ValueError, match=r"^TarShards: `cache_bytes` must be a whole number of at"):
        cached(tmp_path, cache_bytes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file'$"):
        TarShards(URL, progress=False, cache_dir=tmp_path / "file")

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    message = (
        f"TarShards: `cache_dir` must have locks (No locks available), got {tmp_path / 'x'!r}. "
        "Take a folder on a disk of the machine."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TarShards(URL, progress=False, cache_dir=tmp_path / "x")


# The folder alone, filled without a server, by processes that wait, die and hold.


def filler(content: bytes, before_last: Callable[[], object] = lambda: None) -> Any:
    def fill(descriptor: int) -> None:
        os.pwrite(descriptor, content[:-1], 0)
        before_last()
        os.pwrite(descriptor, content[-1:], len(content) - 1)

    return fill


def never(_: int) -> None:
    raise AssertionError("fetched again")


def fetch(cache: ShardCache, content: bytes, fill: Any = None) -> Any:
    name = content[:1].decode()
    return cache.fetch(f"s3://b/{name}.tar", "", len(content), fill or filler(content))


def test_a_process_waits_for_the_process_that_fetches_and_takes_its_shard(tmp_path: Path) -> None:
    cache, content = ShardCache("x", tmp_path, None), b"a" * 1000
    is_under_way, may_end = FORK.Event(), FORK.Event()

    def wait() -> None:
        is_under_way.set()
        may_end.wait(60)

    other = FORK.Process(target=lambda: fetch(cache, content, filler(content, wait)))
    other.start()
    assert is_under_way.wait(60)
    assert cache.open("s3://b/a.tar", "", 1000) is None  # no name before all bytes
    threading.Timer(0.2, may_end.set).start()
    assert fetch(cache, content, never).read(0, 2000) == content
    other.join()


def test_a_killed_process_leaves_no_lock_and_the_next_fetches_all(tmp_path: Path) -> None:
    cache, content = ShardCache("x", tmp_path, 1500), b"a" * 1000
    is_under_way = FORK.Event()

    def hang() -> None:
        is_under_way.set()
        signal.pause()

    other = FORK.Process(target=lambda: fetch(cache, b"a" * 1000, filler(b"b" * 1000, hang)))
    other.start()
    assert is_under_way.wait(60)
    os.kill(other.pid or 0, signal.SIGKILL)
    other.join()
    assert [path.suffix for path in tmp_path.glob("a.tar*")] == [".part"]
    # The room of what is left is taken too, for the same shard and for others.
    assert fetch(cache, b"c" * 1400).read(0, 2000) == b"c" * 1400
    assert list(tmp_path.glob("*.part")) == []
    assert fetch(cache, content).read(0, 2000) == content


def test_a_shard_that_a_process_uses_is_not_evicted_and_others_are_oldest_first(
    tmp_path: Path,
) -> None:
    cache = ShardCache("x", tmp_path, 3000)
    is_open, may_end = FORK.Event(), FORK.Event()

    def hold() -> None:
        shard = fetch(cache, b"a" * 1000)
        is_open.set()
        may_end.wait(60)
        del shard

    other = FORK.Process(target=hold)
    other.start()
    assert is_open.wait(60)
    done, kept = fetch(cache, b"b" * 1000), fetch(cache, b"c" * 1000)
    os.utime(next(iter(tmp_path.glob("c.*"))), (10**9, 10**9))
    done.done()  # older than all that are not done with
    del done
    os.utime(next(iter(tmp_path.glob("a.*"))), (0, 0))
    del kept
    fetch(cache, b"d" * 1000)
    assert sorted(path.name[0] for path in tmp_path.glob("*.shard")) == ["a", "c", "d"]
    held = fetch(cache, b"d" * 1000, never), fetch(cache, b"e" * 1000)
    with pytest.raises(NoRoomError, match=r"no room .*: cache_bytes=3000"):
        fetch(cache, b"f" * 1000)
    assert sorted(path.name[0] for path in tmp_path.glob("*.shard*")) == ["a", "d", "e"]
    may_end.set()
    other.join()
    assert fetch(cache, b"f" * 1000) is not None
    del held


def test_a_fetch_that_fails_leaves_nothing_and_the_error(tmp_path: Path) -> None:
    cache = ShardCache("x", tmp_path, None)

    def fail() -> None:
        raise OSError(errno.EIO, "the server is away")

    for _ in range(2):
        with pytest.raises(OSError, match="the server is away"):
            fetch(cache, b"a" * 10, filler(b"a" * 10, fail))
        assert list(tmp_path.glob("a*")) == []
    assert fetch(cache, b"a" * 10).read(0, 20) == b"a" * 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_batch_that_waits_shows_how_far_the_shards_are_on_a_terminal(
    server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    for progress in (True, False):
        server.delay_s = 0.0
        sys.stderr.seek(0), sys.stderr.truncate()
        images = TarShards(URL, progress=progress, cache_dir=tmp_path / f"{progress}")
        server.delay_s = 0.3
        images.expect(order_of(images))
        images.stored(int(order_of(images)[0]))
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
        assert ("Fetching shards" in shown, "/12" in shown) == (progress, progress)


def test_a_cache_whose_disk_fails_leaves_images_to_the_bucket(
    local: TarShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = cached(tmp_path)
    order = order_of(images)
    expected = read_epoch(images, order)

    def broken(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    images.expect(order)
    images.stored(int(order[0]))
    monkeypatch.setattr(cache_module.CachedShard, "read", broken)
    assert [images.stored(index).tobytes() for index in order.tolist()] == expected
    assert expected == [local.stored(index).tobytes() for index in order.tolist()]


def test_a_shard_that_was_fetched_stays_until_it_is_open(tmp_path: Path) -> None:
    """Threads fetch shards for which there is hardly room, and let them go at once."""
    cache = ShardCache("TarShards", tmp_path, max_bytes=200)
    num_filled: list[int] = []

    def fetch(thread: int) -> None:
        for number in range(400):
            fills: list[int] = []

            def fill(descriptor: int, fills: list[int] = fills) -> None:
                fills.append(os.pwrite(descriptor, bytes(100), 0))

            with suppress(NoRoomError):
                cache.fetch(f"s3://b/{thread}-{number}.tar", "tag", 100, fill)
                num_filled.append(len(fills))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=fetch, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert num_filled
    assert set(num_filled) == {1}
