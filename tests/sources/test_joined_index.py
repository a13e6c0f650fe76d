"""The index of many images is a file that processes share. Here every index counts as such."""

from __future__ import annotations

import errno
import fcntl
import gc
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import stat
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_irregular_files import IRREGULAR
from test_tar import contents, expected, numbered, open_shards, sample, write_tar

from dali_cutmix import DataLoader, EvalTransform, MDSShards, ParquetShards, TarShards, TFRecords
from dali_cutmix.sources import joined_file, joined_index, shard_indexes
from dali_cutmix.sources.joined_file import JoinedIndex
from dali_cutmix.sources.shard_indexes import INDEX_VERSION, Index, ShardIndexes
from dali_cutmix.sources.shards import PackedImages
from records import write_records
from stored import Sample, mds, of_the_hub, parquet

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def every_index_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_index, "MOST_PRIVATE", 0)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 7 samples, without indexes."""
    for number in range(3):
        numbered(tmp_path / f"tars/{number:04d}.tar", range(7 * number, 7 * (number + 1)))
    return tmp_path / "tars"


def joined_in(folder: Path) -> Path:
    """Return the only file of a joined index in a folder."""
    (path,) = folder.glob("joined.*")
    assert re.fullmatch(r"joined\.[0-9a-f]{16}\.index", path.name)
    return path


def samples() -> list[Sample]:
    return [Sample(f"{n}.jpg", f"image {n} ".encode() * (n + 1), n % 3) for n in range(20)]


def tars(folder: Path) -> TarShards:
    return TarShards([numbered(folder / f"{n}.tar", range(5 * n, 5 * n + 5)) for n in range(3)])


def tfrecords(folder: Path) -> TFRecords:
    records = [{"image/encoded": s.data, "image/class/label": s.label + 1} for s in samples()]
    return TFRecords(write_records(folder / "a.tfrecord", records))


SOURCES: dict[str, Callable[[Path], PackedImages]] = {
    "tar": tars,
    "TFRecords": tfrecords,
    "MDS": lambda folder: MDSShards(mds(folder, samples())),
    "Parquet": lambda folder: ParquetShards(of_the_hub(folder, samples())),
    "Parquet of pages": lambda folder: ParquetShards(parquet(folder, samples())),
}


@contextmanager
def only_mapped() -> Iterator[None]:
    """Let every look at the index of a single shard fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardIndexes, "read", None)
        patch.setattr(ShardIndexes, "saved", None)
        yield


def described(images: PackedImages, root: Path) -> dict[str, Any]:
    """Return all that a source says of its images."""
    numbers = range(-len(images), len(images))
    return {
        "content": [images.stored(number).tobytes() for number in numbers],
        "paths": [images.path(number).replace(str(root), "") for number in numbers],
        "targets": images.targets.tolist(),
        "classes": list(images.classes),
        "num_classes": images.count_classes(None),
        "fingerprint": images.fingerprint,
        "shard_sizes": images.shard_sizes.tolist(),
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_a_mapped_index_says_what_one_in_memory_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(joined_index, "MOST_PRIVATE", 1 << 20)
        in_memory = described(SOURCES[kind](tmp_path / "a"), tmp_path / "a")
    assert not list(tmp_path.rglob("joined.*"))
    images = SOURCES[kind](tmp_path / "b")
    assert len(list(tmp_path.rglob("joined.*"))) == 1
    with only_mapped():
        for mapped in (images, pickle.loads(pickle.dumps(images))):
            assert described(mapped, tmp_path / "b") == in_memory
            assert not mapped.targets.flags.writeable


def test_the_file_is_written_once_and_mapped_from_then_on(shards: Path) -> None:
    open_shards(shards)
    file = joined_in(shards)
    written = file.stat()
    for path in shards.glob("*.npz"):
        path.unlink()
    with only_mapped():
        assert contents(open_shards(shards)) == expected(range(21))
        moved = shards.rename(shards.with_name("elsewhere"))
        assert contents(open_shards(moved)) == expected(range(21))
    assert joined_in(moved).stat() == written


def test_other_lists_of_shards_have_files_of_their_own(shards: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert contents(open_shards(shards)) == expected(range(21))
        turned = open_shards(f"{shards}/{{0002..0001}}.tar")
        assert contents(turned) == expected([*range(14, 21), *range(7, 14)])
    assert len(list(shards.glob("joined.*"))) == 2
    folder = tmp_path / "indexes"
    assert contents(open_shards(shards, index_dir=folder)) == expected(range(21))
    assert len(list(shards.glob("joined.*"))) == 2
    joined_in(folder)


def test_a_changed_shard_is_noticed_and_the_file_of_the_old_one_stays(shards: Path) -> None:
    """A process of another machine may have mapped the file, and is killed where it goes."""
    before = open_shards(shards)
    file = joined_in(shards)
    written = file.stat()
    path = shards / "0001.tar"
    replaced = [member for number in range(7, 14) for member in sample(number, 2)]
    size = path.stat().st_size
    write_tar(path, replaced)
    assert path.stat().st_size == size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = open_shards(shards)
    assert images.targets.tolist() == [n % 3 if n // 7 != 1 else 2 for n in range(21)]
    assert before.targets.tolist() == [n % 3 for n in range(21)]
    assert file.stat() == written
    assert len(list(shards.glob("joined.*"))) == 2


def flipped(content: bytes, at: int) -> bytes:
    """Return content with one bit of a byte changed."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


#: Bytes of the spans of 21 images, of their labels, and of the counts of 3 shards.
SPANS, LABELS, COUNTS = 21 * 24, 21 * 8, 3 * 8
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "the file ends too early"),
    "garbage": (lambda _: b"garbage" * 99, "the end is missing"),
    "of another format": (lambda content: content[:-1] + b"x", "the end is missing"),
    "truncated": (lambda content: content[:-1], "the end is missing"),
    "cut in its numbers": (lambda content: content[:300] + content[-350:], "the length is wrong"),
    "longer": (lambda content: content[:10] + content, "the length is wrong"),
    "of another description": (
        lambda content: content.replace(b'"num_images": 21', b'"num_images": 99'),
        "the description has another checksum",
    ),
    "of another count": (
        lambda content: flipped(content, SPANS + LABELS),
        "the counts have another checksum",
    ),
    "of another checksum": (
        lambda content: flipped(content, SPANS + LABELS + COUNTS),
        "the counts have another checksum",
    ),
    "of another span": (
        lambda content: flipped(content, 24),
        "images from number 0 on have another checksum",
    ),
    "of another label": (
        lambda content: flipped(content, SPANS),
        "images from number 0 on have another checksum",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew_with_a_warning(shards: Path, damage: str) -> None:
    open_shards(shards)
    path = joined_in(shards)
    content = path.read_bytes()
    change, reason = DAMAGE[damage]
    path.write_bytes(change(content))
    text = rf"TarShards: {path} is damaged, and is made anew: {reason}\."
    with pytest.warns(RuntimeWarning, match=f"^{text}$"):
        assert contents(open_shards(shards)) == expected(range(21))
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["span", "label"])
def test_damage_is_named_when_an_image_of_its_block_is_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """To check all of a large file takes too long, so that opening checks little."""
    monkeypatch.setattr(joined_file, "BLOCK", 4)
    open_shards(shards)
    path = joined_in(shards)
    at = 24 * 14 + 1 if kind == "span" else SPANS + 8 * 14
    path.write_bytes(flipped(path.read_bytes(), at))
    images = open_shards(shards)
    intact = [*range(12), *range(16, 21)]
    assert [images.stored(number).tobytes() for number in intact] == expected(intact)
    refused = (
        f"^{path} is damaged: images from number 12 on have another checksum. Delete the file, and "
        "resume from the last state: the file is made anew.$"
    )
    for number in (14, 12, -6):
        with pytest.raises(RuntimeError, match=refused):
            images.stored(number)
    path.unlink()
    assert contents(open_shards(shards)) == expected(range(21))


def test_a_loader_stops_at_damage_and_replaces_no_image(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_file, "BLOCK", 4)
    open_shards(shards)
    path = joined_in(shards)
    path.write_bytes(flipped(path.read_bytes(), SPANS + 8 * 14))
    images = open_shards(shards)
    transform = EvalTransform(8, 8)
    loader = DataLoader(
        images, batch_size=21, transform=transform, device="cpu", on_error="replace"
    )
    with pytest.raises(RuntimeError, match="is damaged: images from number 12 on"):
        next(iter(loader))


def test_an_image_of_a_page_looks_at_the_images_near_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of 6 images span blocks of 4, and are told from the page in front all the same."""
    monkeypatch.setattr(joined_file, "BLOCK", 4)
    many = [Sample(f"{n}.jpg", f"image {n}".encode(), n % 3) for n in range(60)]
    file = parquet(tmp_path, many, rows=6)
    images = ParquetShards(file)
    data = [sample.data for sample in many]
    assert [images.stored(number).tobytes() for number in range(60)] == data
    path = joined_in(tmp_path)
    path.write_bytes(flipped(path.read_bytes(), 24 * 13))
    images = ParquetShards(file)
    assert images.stored(59).tobytes() == data[59]


def not_shared(reason: str) -> str:
    return (
        "^TarShards: every process holds 0 MB or more, the index of 21 images, instead of sharing "
        rf"them, since {reason}\. Pass `index_dir=`, a local folder\.$"
    )


def test_where_no_file_can_be_written_the_index_is_in_memory(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # of root, all is true
    with pytest.warns(RuntimeWarning, match=not_shared(f"{shards} cannot be written")):
        images = open_shards(shards)
    assert not list(shards.glob("joined.*"))
    assert contents(pickle.loads(pickle.dumps(images))) == expected(range(21))


def test_on_a_full_disk_the_index_is_in_memory(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    reason = rf"{shards}/joined\.\w+\.index cannot be written \(No space left on device\)"
    with pytest.warns(RuntimeWarning, match=not_shared(reason)):
        assert contents(open_shards(shards)) == expected(range(21))
    assert sorted(path.suffix for path in shards.glob("[!.]*")) == [".npz"] * 3 + [".tar"] * 3
    assert not list(shards.glob(".*.part"))


def test_an_error_of_a_shard_is_raised_as_that(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is begun when the first shards are read. It could be written."""
    scan, failing = TarShards._scan, ["0002.tar"]

    def fail(self: TarShards, file: Any, size: int, shard: str) -> Any:
        if failing and shard.endswith(failing[0]):
            failing.clear()  # once, so that a second reading would go well
            raise OSError(errno.EUCLEAN, "bad sector")
        return scan(self, file, size, shard)

    monkeypatch.setattr(TarShards, "_scan", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match=r"bad sector$") as raised:
            open_shards(shards)
    assert raised.value.filename is None
    assert not list(shards.glob("joined.*"))


def test_an_index_in_memory_is_never_there_twice() -> None:
    def indexes() -> Iterator[Index]:
        for _ in range(200):
            yield Index(*np.ones((4, 1000), np.int64))

    tracemalloc.start()
    try:
        joined = JoinedIndex.of(indexes(), 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(joined) == 200_000
    assert peak < 1.3 * 200_000 * joined_file.PER_IMAGE


def test_a_slow_shard_holds_up_no_scan_of_the_next_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are looked at in blocks, here of two. All of the next block are scanned meanwhile."""
    monkeypatch.setattr(shard_indexes, "_AT_ONCE", 2)
    paths = [numbered(tmp_path / f"{n}.tar", [n]) for n in range(6)]
    scan, scanned = TarShards._scan, threading.Semaphore(0)

    def counted(self: TarShards, file: Any, size: int, shard: str) -> Any:
        if shard.endswith("/0.tar"):
            assert all(scanned.acquire(timeout=20) for _ in range(3))
        else:
            scanned.release()
        return scan(self, file, size, shard)

    monkeypatch.setattr(TarShards, "_scan", counted)
    assert contents(open_shards(paths)) == expected(range(6))


@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_regular_file_is_left_alone(shards: Path, kind: str) -> None:
    open_shards(shards)
    path = joined_in(shards)
    path.unlink()
    IRREGULAR[kind](path)
    before = path.lstat()
    with pytest.warns(RuntimeWarning, match="instead of sharing them"):
        assert contents(open_shards(shards)) == expected(range(21))
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_labels_that_are_refused_are_refused_again_by_the_file(tmp_path: Path) -> None:
    records = [{"image/encoded": b"image", "image/class/label": label} for label in (3, 0, 1)]
    path = write_records(tmp_path / "a.tfrecord", records)
    refused = (
        rf"^TFRecords: `first_label` must be at most every label, and {path}, record 1 has 0, got "
        r"1\. Pass `first_label=0`\.$"
    )
    tar = write_tar(tmp_path / "a.tar", [*sample(0), *sample(1, 999999999999)])
    for _ in range(2):
        with pytest.raises(ValueError, match=refused):
            TFRecords(path)
        with pytest.raises(ValueError, match=r"0001\.jpg` must be a class index below 16777216"):
            open_shards(tar)
        with pytest.raises(ValueError, match="record 0 is of class 3, got 2 names"):
            TFRecords(path, classes=["cat", "dog"], first_label=0)
    assert TFRecords(path, first_label=0).targets.tolist() == [3, 0, 1]


def test_a_pickle_holds_no_index_and_is_at_home_elsewhere(shards: Path) -> None:
    images = open_shards(shards)
    pickled = pickle.dumps(images)
    assert images.targets.tobytes() not in pickled
    with only_mapped(), ProcessPoolExecutor(1, FORK) as pool:
        assert pool.submit(contents, images).result() == expected(range(21))
    joined_in(shards).unlink()  # as on another machine
    assert contents(pickle.loads(pickled)) == expected(range(21))
    joined_in(shards)
    assert contents(images) == expected(range(21))  # what is mapped stays


@pytest.mark.parametrize("most_private", [0, 1 << 20], ids=["mapped", "in memory"])
def test_targets_that_replace_the_labels_count_everywhere(
    shards: Path, monkeypatch: pytest.MonkeyPatch, most_private: int
) -> None:
    monkeypatch.setattr(joined_index, "MOST_PRIVATE", most_private)
    images = open_shards(shards)
    as_indexed = images.fingerprint
    labels, groups = images.targets, np.array([4, 9, 0])
    images.targets = groups[labels]
    fingerprints = set()
    for relabelled in (images, pickle.loads(pickle.dumps(images))):
        assert relabelled.targets.tolist() == groups[np.arange(21) % 3].tolist()
        assert relabelled.samples[1] == (images.path(1), 9)
        assert contents(relabelled) == expected(range(21))
        assert relabelled.count_classes(None) == 10
        with pytest.raises(ValueError, match=r"c/0001\.jpg has 9, got 9\."):
            relabelled.count_classes(9)
        fingerprints.add(relabelled.fingerprint)
    assert len(fingerprints - {as_indexed}) == 1
    assert images.take(range(21)).targets.tolist() == images.targets.tolist()
    images.targets = labels
    assert (images.fingerprint, images.count_classes(None)) == (as_indexed, 3)
    assert pickle.loads(pickle.dumps(images)).fingerprint == as_indexed


def scan_and_tell(shards: Path, log: Path, start: Any) -> None:
    scan = TarShards._scan

    def told(self: TarShards, *arguments: Any) -> Any:
        with log.open("a") as file:
            file.write("scan\n")
        return scan(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TarShards, "_scan", told)
        start.wait()
        assert contents(open_shards(shards)) == expected(range(21))


def test_one_of_many_processes_scans_and_the_others_wait(shards: Path, tmp_path: Path) -> None:
    start, log = FORK.Barrier(4), tmp_path / "log"
    processes = [FORK.Process(target=scan_and_tell, args=(shards, log, start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "scan\n" * 3
    joined_in(shards)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, as a process that scans the shards there does."""
    with (folder / ".dali-cutmix-index.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_few_saved_indexes_are_read_without_the_lock(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_index, "MOST_PRIVATE", 1 << 20)
    open_shards(shards)
    with locked(shards):
        assert contents(open_shards(shards)) == expected(range(21))


def test_a_process_that_waits_says_so_and_then_reads_without_the_lock(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_index, "MOST_PRIVATE", 1 << 20)
    monkeypatch.setattr("dali_cutmix.core.locks.SILENT_S", 0.0)
    open_shards(shards)
    index = shards / "0001.tar.index.npz"
    away = index.rename(shards.parent / index.name)
    text = f"TarShards: waiting for another process, which indexes shards in {shards}."
    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with locked(shards):
            images = pool.submit(open_shards, shards)
            for _ in range(1000):
                if not told:
                    time.sleep(0.01)
            away.rename(index)  # as the other process makes it
            monkeypatch.setattr(ShardIndexes, "read", None)
        assert contents(images.result()) == expected(range(21))
    assert [str(warning.message) for warning in told] == [text]


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_the_lock_is_of_a_file_open_for_writing(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS locks nothing else for other machines: see flock(2)."""
    flock, paths = fcntl.flock, []

    def told(descriptor: int, operation: int) -> None:
        is_writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and is_writable:
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", told)
    open_shards(shards)
    assert f"{shards}/.dali-cutmix-index.lock" in paths


def test_a_file_that_another_process_wrote_meanwhile_is_kept(shards: Path) -> None:
    """As where the file system has no locks: processes of other machines have mapped the file."""
    write_index = joined_index.write_index
    kept: list[Any] = []

    def write_twice(*arguments: Any) -> Any:
        index = write_index(*arguments)
        if not kept:  # another process, which is faster
            kept.append(None)
            open_shards(shards)
            kept[:] = [joined_in(shards).stat()]
        return index

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined_index, "write_index", write_twice)
        patch.setattr(fcntl, "flock", no_locks)
        images = open_shards(shards)
    assert joined_in(shards).stat() == kept[0]
    assert not list(shards.glob(".*.part"))
    assert contents(images) == expected(range(21))


def test_a_process_that_is_killed_while_it_writes_leaves_nothing(shards: Path) -> None:
    def write_and_die() -> None:
        joined_file.fingerprint_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        open_shards(shards)

    process = FORK.Process(target=write_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(shards.glob("joined.*"))
    assert len(list(shards.glob(".*.part"))) == 1
    assert contents(open_shards(shards)) == expected(range(21))
    assert not list(shards.glob(".*.part"))


def private_bytes() -> int:
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"Private_Dirty: +(\d+)", text)[1])


def test_a_process_holds_little_of_an_index_of_many_images(tmp_path: Path) -> None:
    """The index of 1.2 million images has 38 MB. No shard is read: their indexes are generated."""
    for number in range(120):
        path = tmp_path / f"{number:04d}.tar"
        path.touch()
        os.truncate(path, 10_000 * 1024)
        offset = 512 + 1024 * np.arange(10_000)
        columns = {"offset": offset, "size": np.full(10_000, 500), "head": np.full(10_000, 512)}
        columns |= {"label": np.arange(10_000) % 1000, "marks": np.zeros(10_001, np.int64)}
        columns |= {
            "layout": "tar",
            "version": INDEX_VERSION,
            "shard_size": 10_000 * 1024,
            "shard_tag": "",
        }
        columns["shard_times"] = np.array([path.stat().st_mtime_ns, path.stat().st_ctime_ns])
        np.savez(f"{path}.index.npz", **columns)
    before = private_bytes()
    for _ in ("written", "mapped"):
        images = open_shards(tmp_path)
        assert images.targets.sum() == 120 * 10 * 999 * 500
        assert private_bytes() - before < 8e6
