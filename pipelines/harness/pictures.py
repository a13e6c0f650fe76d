"""Where a run's pictures are, and pictures made up on the spot for smoke runs."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from dali_cutmix import Shard
from harness.processes import stop
from harness.settings import RunSettings


def find_data(name: str, settings: RunSettings, temporary: Path, side: int = 100) -> Path:
    """The folder with train/ and val/; in a smoke run without one, pictures made up on the spot."""
    if settings.data is None and settings.smoke:
        make_pictures(temporary / "train", num_pictures(), side)
        make_pictures(temporary / "val", 9, side)  # of two processes one has 3 batches, one has 2
        return temporary
    data = settings.data
    if data is None or not all((data / part).is_dir() for part in ("train", "val")):
        stop(
            name,
            f"`data` must be a folder with train/ and val/ in it, got {data}. "
            "Pass `--data DIR`, or `--smoke` alone to try the recipe on made-up pictures.",
        )
    return data


def num_pictures() -> int:
    """Pictures to train on in a smoke run: three batches for each process, of two samples or more.

    One less than would come out even, so that one comes twice, or a batch is short.
    """
    return 6 * max(2, Shard.current().count) - 1


def make_pictures(folder: Path, count: int, side: int = 100, num_classes: int = 7) -> None:
    """Image files of stripes behind a disc, a folder per class: the class is the stripes' angle.

    Args:
        folder: The ImageFolder root, which is made.
        count: How many.
        side: Of an image in pixels, on average; sides differ by up to a fifth from 64 px on, where
            files are JPEG, and are equal below, where they are PNG.
        num_classes: How many folders.
    """
    for name, label, data in _pictures(count, side, num_classes):
        path = folder / f"class_{label}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make_shards(folder: Path, count: int, side: int = 100, num_classes: int = 7) -> None:
    """The same in two tar shards, as WebDataset has them: ``.jpg`` and ``.cls`` for each."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        shards = [
            stack.enter_context(tarfile.open(folder / f"{number:04}.tar", "w"))
            for number in range(2)
        ]
        for index, (name, label, data) in enumerate(_pictures(count, side, num_classes)):
            label_name = f"{name.split('.')[0]}.cls"
            for member, content in ((name, data), (label_name, str(label).encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                shards[index % 2].addfile(info, io.BytesIO(content))


def _pictures(count: int, side: int, num_classes: int) -> Iterator[tuple[str, int, bytes]]:
    """Name, class and bytes of each file."""
    for index in range(count):
        rng = np.random.default_rng(index)
        label = index % num_classes
        spread = side // 5 if side >= 64 else 0
        height, width = rng.integers(side - spread, side + spread, size=2, endpoint=True)
        y, x = np.mgrid[:height, :width] / side
        angle = math.pi * label / num_classes
        wave = np.sin(40 * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 6))
        image = 128 + 60 * wave[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 8, 3)
        cy, cx = rng.uniform(0.2, 0.6, 2)
        image[(y - cy) ** 2 + (x - cx) ** 2 < 0.03] = rng.uniform(0, 255, 3)
        written = io.BytesIO()
        kind = "jpeg" if spread else "png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(written, kind, quality=90)
        yield f"{index:04}.{'jpg' if spread else 'png'}", label, written.getvalue()
