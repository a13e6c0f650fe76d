"""Images of any source packed into WebDataset tar shards: verified, resumable, reproducible."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

from dali_cutmix.core.checks import check_count, is_whole, refuse
from dali_cutmix.order.sampler import EpochSampler
from dali_cutmix.order.shard import Shard
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.tar import TarShards
from dali_cutmix.tools.pack_shard import Packer, writing

_POLL_S = 0.1


@dataclass(frozen=True)
class Packed:
    """What `pack_images` made, or found made.

    Attributes:
        num_shards: Number of shards.
        num_images: Number of images in them.
        num_bytes: Size of the shards in bytes, without their indices.
        num_found: How many of the shards were there already.
    """

    num_shards: int
    num_images: int
    num_bytes: int
    num_found: int


def pack_images(
    images: StoredImages,
    out: str | os.PathLike[str],
    *,
    per_shard: int = 5000,
    resize: int | None = None,
    quality: int = 90,
    shuffle: bool = True,
    seed: int = 0,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Pack images into WebDataset shards ``000000.tar``, ``000001.tar``, ... in a folder.

    A sample is ``<position>_<class>_<name>.<ending>``, the image, and the same with ``.cls``, its
    class index as text; an image that lies in a shard already has its index for a name. Beside the
    shards lie their indices for `TarShards` (``000000.tar.index.npz``), the class names
    (``classes.txt``, one on each line) and the settings (``pack.json``). The same images, settings
    and versions of Pillow and torch give the same bytes in all of them but ``.tar.index.npz``,
    which holds the time of its shard.

    A shard is written under another name, read back, compared, and only then named as above: a
    shard with its name is whole. After a crash or a full disk, the same call goes on with what is
    missing. Of the shards that it finds, it compares the names of the members and the size, and not
    the pixels. Several workers, each at a shard of its own, are processes that import the calling
    script, which needs its ``if __name__ == "__main__":`` for that.

    Args:
        images: The data.
        out: Folder for the shards, made when missing.
        per_shard: Number of images in each shard but the last, at least 1.
        resize: None leaves the bytes of each image as they are. A number of pixels encodes every
            image anew: baseline JPEG, RGB, 4:2:0, upright, without metadata, and where its shorter
            side is longer than this, shrunk to it; the longer side in proportion, rounded.
        quality: Of JPEG, 1 to 100; without meaning unless ``resize`` is given.
        shuffle: Pack in a random order. Readers that go through shards in order would otherwise
            get batches of one class.
        seed: Of that order, at least 0.
        num_workers: Number of processes; None takes one for each CPU that this one may use.
        on_progress: Called with the number of images done and the number of all.

    Raises:
        ValueError: An argument is out of range, a class name holds a line break, or ``out`` holds
            anything but a part of the same pack.
        BadImageError: An image cannot be read, is none, or cannot be decoded (with ``resize``).
        OSError: A shard cannot be written or does not read back as it was written, or another
            process packs into ``out``.
    """
    check_count("pack", "per_shard", per_shard, at_least=1)
    check_count("pack", "resize", 1 if resize is None else resize, at_least=1)
    if not is_whole(quality) or not 1 <= quality <= 100:
        refuse("pack", "quality", "be a whole number in [1, 100]", quality)
    check_count("pack", "seed", seed, at_least=0)
    check_count("pack", "num_workers", 1 if num_workers is None else num_workers, at_least=1)
    if images.kind == "pixels":
        refuse("pack", "images", "be image files, encoded", images)
    num_classes = images.count_classes(None)
    classes = [*images.classes, *map(str, range(len(images.classes), num_classes))]
    for label in classes:
        if label.splitlines() not in ([], [label]):
            rule = "have no line breaks, since classes.txt holds one on each line"
            refuse("pack", "class names", rule, label)
    folder, root = Path(out), getattr(images, "root", None)
    if root is not None and folder.resolve().is_relative_to(Path(root).resolve()):
        refuse("pack", "out", f"lie outside of {root}, the folder that is packed", str(folder))
    names = "".join(f"{label}\n" for label in classes).encode("utf-8", "surrogateescape")
    num_shards = -(-len(images) // per_shard)
    manifest = {
        "format": "dali-cutmix pack 1",
        "fingerprint": images.fingerprint,
        "classes": blake2b(names, digest_size=8).hexdigest(),
        "num_images": len(images),
        "num_shards": num_shards,
        "per_shard": int(per_shard),
        "shuffle": bool(shuffle),
        "seed": int(seed) if shuffle else None,
        "resize": None if resize is None else int(resize),
        "quality": None if resize is None else int(quality),
    }
    order = EpochSampler(len(images), shuffle=shuffle, seed=seed, shard=Shard()).order(0)
    packer = Packer(images, order, folder, per_shard, resize, quality)
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), num_shards)
    with _claimed(folder, manifest):
        with writing(folder / "classes.txt"):
            (folder / "classes.txt").write_bytes(names)
        work = _pack_in_processes if num_workers > 1 else _pack_here
        made = work(packer, num_shards, num_workers, on_progress or (lambda *_: None))
        # Writes the index of each shard beside it, so that both can be uploaded.
        TarShards(folder, progress=False)
    num_found = sum(was_there for _, was_there in made)
    return Packed(num_shards, len(images), sum(size for size, _ in made), num_found)


@contextmanager
def _claimed(folder: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Hold a folder that is empty or the beginning of the same pack; no other process may."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pack.json"
    others = sorted(os.listdir(folder))
    if others and path.name not in others:
        rule = "be a new or empty folder, or the beginning of the same pack"
        refuse("pack", "out", rule, str(folder), f"It holds {others[0]!r}: choose another folder.")
    wanted = json.dumps(manifest, indent=1) + "\n"
    # Written in place and never replaced, since it is what the lock is held on.
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"pack: another process packs into {folder}. Wait for its end, or choose another "
                "folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        found = file.read()
        if not wanted.startswith(found):  # the beginning of it is left by a run that was killed
            _refuse_other_pack(folder, manifest, found)
        if found != wanted:
            with writing(path):
                file.seek(0)
                file.write(wanted)
                file.flush()
                os.fsync(file.fileno())
        yield


def _refuse_other_pack(folder: Path, manifest: dict[str, Any], text: str) -> None:
    found: Any = None
    with suppress(ValueError):
        found = json.loads(text)
    if not isinstance(found, dict) or "format" not in found:
        way_out = "Its pack.json is none that pack wrote: choose another folder."
        refuse("pack", "out", "be the beginning of the same pack", str(folder), way_out)
    differing = [
        f"{key} was {found.get(key)!r} and is now {value!r}"
        for key, value in manifest.items()
        if found.get(key) != value and key != "num_shards"
    ]
    raise ValueError(
        f"pack: {folder} holds a pack of other data or with other settings: "
        f"{', '.join(differing)}. Go on with the same, or choose another folder."
    )


def _pack_here(
    packer: Packer, num_shards: int, _: int, on_progress: Callable[[int, int], None]
) -> list[tuple[int, bool]]:
    done, total = count(1), len(packer.order)
    return [
        packer.pack(number, lambda: on_progress(next(done), total)) for number in range(num_shards)
    ]


def _pack_in_processes(
    packer: Packer, num_shards: int, num_workers: int, on_progress: Callable[[int, int], None]
) -> list[tuple[int, bool]]:
    # Not forked from this process, whose threads (of DALI and torch) would be missing in the copy.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, and not by each worker
    done, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(num_workers, context, _begin, (packer, done, stop)) as pool:
        futures = [pool.submit(_pack_one, number) for number in range(num_shards)]
        try:
            pending = set(futures)
            while pending:
                ended, pending = wait(pending, _POLL_S, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                on_progress(done.value, len(packer.order))
        except BrokenProcessPool:
            raise OSError(
                "pack: a worker process was killed, perhaps for want of memory. Finished shards "
                "are kept: run the same command again to go on, with fewer workers if need be."
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """Raised in a worker when another one has failed, or the user has had enough."""


_on_image: Callable[[], None]
_packer: Packer


def _begin(packer: Packer, done: Any, stop: Any) -> None:
    """Make a process a worker."""
    global _packer, _on_image

    def on_image() -> None:
        if stop.is_set():
            raise _StoppedError
        with done.get_lock():
            done.value += 1

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it is told, and stops
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _packer, _on_image = packer, on_image


def _end_with_parent() -> None:
    # A pool's workers would wait for ever for the next task of a process that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pack_one(number: int) -> tuple[int, bool]:
    return _packer.pack(number, _on_image)
