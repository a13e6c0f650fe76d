"""The command ``dali-cutmix pack``: images of any source as verified shards, tar or Parquet.

Longer than other commands, since a pack also claims its folder and runs worker processes. One
shard is the business of `pack_shard`.
"""

from __future__ import annotations

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
from typing import Annotated, Any

import typer
from rich.console import Console

from dali_cutmix.core.checks import check_choice, refuse, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.threads import usable_cpus
from dali_cutmix.core.writing import replacing
from dali_cutmix.order.sampler import EpochSampler, Shard
from dali_cutmix.sources.base import Numbers, StoredImages
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.parquet import ParquetShards
from dali_cutmix.sources.tar import TarShards
from dali_cutmix.tools.claim import locked, rewrite
from dali_cutmix.tools.console import (
    FirstLabel,
    errors_as_one_sentence,
    expanded,
    image_progress,
    print_path,
    print_text,
    tidy_when_terminated,
)
from dali_cutmix.tools.pack_parquet import import_pyarrow
from dali_cutmix.tools.pack_shard import Packer, class_names, writing

_POLL_S = 0.1


def pack(
    data: Annotated[
        str,
        typer.Argument(
            help="Folder with one subfolder per class, list file, shards, or report of `check`.",
            metavar="DATA",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="OUT")],
    per_shard: Annotated[int, typer.Option(min=1, help="Images in each shard.")] = 5000,
    resize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Shrink the shorter side of every image to at most this many pixels, and encode "
            "the image again as a JPEG.",
            show_default="leave the files as they are",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="JPEG quality, with --resize.", show_default="90"),
    ] = None,
    shuffle: Annotated[bool, typer.Option(help="Pack in a random order, or as listed.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random order.")] = 0,
    num_workers: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="one for each CPU")
    ] = None,
    format: Annotated[
        str, typer.Option(help="tar for WebDataset, or parquet for Hugging Face's datasets.")
    ] = "tar",
    first_label: FirstLabel = None,
) -> None:
    """Pack images into shards, for disks and buckets that are slow on small files.

    Every shard is read back and compared before it gets its name. An interrupted run continues
    when you run the same command again.
    """
    if quality is not None and resize is None:
        rule = "has no meaning without --resize, which leaves the files as they are: leave it out."
        raise typer.BadParameter(rule, param_hint="--quality")
    out = expanded(out)
    with tidy_when_terminated(), _interruption_as_one_sentence(), errors_as_one_sentence():
        images = open_source(data, first_label=first_label)
        with image_progress("Packing", len(images)) as on_progress:
            packed = pack_images(
                images,
                out,
                per_shard=per_shard,
                resize=resize,
                quality=90 if quality is None else quality,
                shuffle=shuffle,
                seed=seed,
                num_workers=num_workers,
                format=format,
                on_progress=on_progress,
            )
    console = Console()
    print_text(console, packed.summary)
    print_path(console, out)
    print_text(console, f'Load it with DataLoader("{printable(str(out))}", ...)')


@contextmanager
def _interruption_as_one_sentence() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        message = "Interrupted: finished shards are kept. Run the same command again to continue."
        print_text(Console(stderr=True), message)
        raise typer.Exit(130) from None  # the shells' convention: 128 and the number of SIGINT


@dataclass(frozen=True)
class Packed:
    """Say what `pack_images` left in its folder.

    Attributes:
        num_shards: Number of shards.
        num_images: Number of images in them.
        num_bytes: Size of the shards in bytes, without their indices.
        num_present: How many of the shards were there before.
    """

    num_shards: int
    num_images: int
    num_bytes: int
    num_present: int

    @property
    def summary(self) -> str:
        """One sentence with all the counts."""
        images = "1 image" if self.num_images == 1 else f"{self.num_images} images"
        shards = "1 shard" if self.num_shards == 1 else f"{self.num_shards} shards"
        present = f", {self.num_present} of them there already" if self.num_present else ""
        return f"Packed {images} into {shards} of {self.num_bytes / 1e6:.1f} MB in all{present}."


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
    format: str = "tar",
    on_progress: Callable[[int], None] = lambda _: None,
) -> Packed:
    """Pack images into WebDataset shards ``000000.tar``, ``000001.tar``, ... in a folder.

    With ``format="parquet"`` shards are Parquet files ``000000.parquet``, ... in the layout of
    Hugging Face's hub: ``image`` of ``bytes`` and ``path``, uncompressed, and ``label``.

    A sample is two members of a shard. ``<position>_<class>_<name>.<ending>`` is the image, and
    the same with ``.cls`` its class index as text. An image that already lies in a shard has its
    index for a name. The folder also gets:

    - ``000000.tar.index.npz``, the index of a shard for `TarShards`;
    - ``classes.txt``, the class names, one on each line; none for more than 65,536 mere numbers;
    - ``pack.json``, the settings.

    The same images, settings and versions of Pillow and torch give the same bytes in every file
    but ``.tar.index.npz``, which holds the time of its shard.

    A shard is written under another name, read back, compared, and then renamed, so that a shard
    with its name is complete. After a crash or a full disk, the same call continues with missing
    shards. Of shards that exist, size and names of members are compared, and pixels are not.

    Several workers are processes that import the calling script. The script needs its
    ``if __name__ == "__main__":`` for that.

    Args:
        images: The data.
        out: Folder for the shards, made when missing.
        per_shard: Number of images in each shard but the last, at least 1.
        resize: Longest shorter side in pixels. None keeps the bytes of each image. A number
            encodes every image again as a baseline JPEG: RGB, 4:2:0, upright, without metadata.
            Longer shorter sides are shrunk to it, longer sides in proportion, rounded.
        quality: JPEG quality in [1, 100]. Has no meaning unless ``resize`` is given.
        shuffle: Pack in a random order. In listed order, readers that go through shards
            sequentially would get batches of one class.
        seed: Seed of that order, at least 0.
        num_workers: Number of processes. None takes one for each CPU that this process may use.
        format: ``"tar"``, or ``"parquet"``, which needs pyarrow.
        on_progress: Called with the number of images done, up to all.

    Raises:
        ImportError: pyarrow is missing, and ``format`` is ``"parquet"``.
        ValueError: Unknown ``format``, pixels as ``images``, a class name with a line break, or
            ``out`` holds anything but a part of the same pack.
        BadImageError: An image cannot be read, is not an image, or cannot be decoded (with
            ``resize``).
        OSError: A shard cannot be written or does not read back as it was written, or another
            process packs into ``out``.
    """
    check_choice("pack", "format", format, ("tar", "parquet"))
    if format == "parquet":
        import_pyarrow()
    if images.kind == "pixels":
        refuse("pack", "images", "be image files, encoded", images)
    class_lines = _class_lines(images)
    folder, root = Path(out), getattr(images, "root", None)
    if root is not None and folder.resolve().is_relative_to(Path(root).resolve()):
        refuse("pack", "out", f"lie outside of {root}, the folder that is packed", str(folder))
    num_shards = -(-len(images) // per_shard)
    manifest = {
        "format": "dali-cutmix pack 1",
        "fingerprint": images.fingerprint,
        "classes": blake2b(class_lines, digest_size=8).hexdigest(),
        "num_images": len(images),
        "num_shards": num_shards,
        "per_shard": per_shard,
        "shuffle": shuffle,
        "seed": seed if shuffle else None,
        "resize": resize,
        "quality": None if resize is None else quality,
    }
    if format != "tar":
        manifest["shards"] = format
    order = EpochSampler(len(images), shuffle=shuffle, seed=seed, shard=Shard()).order(0)
    packer = Packer(images, order, folder, per_shard, resize, quality, format)
    num_workers = min(num_workers or usable_cpus(), num_shards)
    with _claimed(folder, manifest):
        if class_lines:
            with writing(folder / "classes.txt"), replacing(folder / "classes.txt") as file:
                file.write(class_lines)
        pack_all = _pack_in_processes if num_workers > 1 else _pack_here
        shards = pack_all(packer, num_shards, num_workers, on_progress)
        # Writes the index of each shard beside the shard, so that both can be uploaded.
        (TarShards if format == "tar" else ParquetShards)(folder, progress=False)
    num_present = sum(was_present for _, was_present in shards)
    return Packed(num_shards, len(images), sum(size for size, _ in shards), num_present)


def _class_lines(images: StoredImages) -> bytes:
    """Return the content of ``classes.txt``.

    Empty where no class has a name and there are very many: `TarShards` counts them by itself.
    """
    if isinstance(images.classes, Numbers):
        return b""
    names = class_names(images)
    for name in names:
        if name.splitlines() not in ([], [name]):
            rule = "have no line breaks, since classes.txt holds one on each line"
            refuse("pack", "class names", rule, name)
    return "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")


@contextmanager
def _claimed(folder: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Hold a folder that is empty or the beginning of the same pack, against other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pack.json"
    names = sorted(os.listdir(folder))
    if names and path.name not in names:
        rule = "be a new or empty folder, or the beginning of the same pack"
        refuse("pack", "out", rule, str(folder), f"It holds {names[0]!r}: choose another folder.")
    text = json.dumps(manifest, indent=1) + "\n"
    with locked(path, "pack", "packs into") as file:
        former_text = file.read()
        if not text.startswith(former_text):  # a run that was killed leaves the beginning
            _refuse_other_pack(folder, manifest, former_text)
        if former_text != text:
            with writing(path):
                rewrite(file, text)
        yield


def _refuse_other_pack(folder: Path, manifest: dict[str, Any], former_text: str) -> None:
    former: Any = None
    with suppress(ValueError, RecursionError):
        former = json.loads(former_text)
    if not isinstance(former, dict) or "format" not in former:
        way_out = "Its pack.json was not written by pack: choose another folder."
        refuse("pack", "out", "be the beginning of the same pack", str(folder), way_out)
    differences = [
        f"{key} was {shown(former.get(key), 80)} and is now {manifest.get(key)!r}"
        for key in (*manifest, *(former.keys() & {"shards"} - manifest.keys()))
        if former.get(key) != manifest.get(key) and key != "num_shards"
    ]
    raise ValueError(
        f"pack: {folder} holds a pack of other data or with other settings: "
        f"{', '.join(differences)}. Continue with the same, or choose another folder."
    )


def _pack_here(
    packer: Packer, num_shards: int, _: int, on_progress: Callable[[int], None]
) -> list[tuple[int, bool]]:
    """Pack in this process; see `_pack_in_processes`."""
    num_done = count(1)

    def on_image() -> None:
        on_progress(next(num_done))

    return [packer.pack(number, on_image) for number in range(num_shards)]


def _pack_in_processes(
    packer: Packer, num_shards: int, num_workers: int, on_progress: Callable[[int], None]
) -> list[tuple[int, bool]]:
    """Return for every shard its size in bytes, and whether the shard was there before."""
    # Not forked from this process: threads of DALI and torch would be missing in the copy.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, instead of by each worker
    num_done, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(num_workers, context, _begin, (packer, num_done, stop)) as pool:
        try:
            with _undisturbed_start():
                futures = [pool.submit(_pack_shard, number) for number in range(num_shards)]
            pending = set(futures)
            while pending:
                ended, pending = wait(pending, _POLL_S, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                on_progress(num_done.value)
        except BrokenProcessPool:
            raise OSError(
                "pack: a worker process was killed, perhaps for lack of memory. Finished shards "
                "are kept: run the same command again to continue, with fewer workers if need be."
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


@contextmanager
def _undisturbed_start() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while worker processes start.

    The pool does not wait for workers whose start was interrupted: they would outlive this process,
    and end with a traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler there
        yield
        return
    held: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    # Workers inherit this, and ignore Ctrl-C before they have a handler.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if held:
        signal.raise_signal(held[0])


class _StoppedError(Exception):
    """Raised in a worker when another worker has failed, or the user has interrupted the pack."""


_on_image: Callable[[], None]
_packer: Packer


def _begin(packer: Packer, num_done: Any, stop: Any) -> None:
    """Make a process a worker."""
    global _packer, _on_image

    def on_image() -> None:
        if stop.is_set():
            raise _StoppedError
        with num_done.get_lock():
            num_done.value += 1

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and stops the workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _packer, _on_image = packer, on_image


def _end_with_parent() -> None:
    # Workers of a killed process would otherwise wait for a task that never comes.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pack_shard(number: int) -> tuple[int, bool]:
    return _packer.pack(number, _on_image)
