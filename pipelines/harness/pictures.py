"""The folder of a run's pictures, and generated pictures for smoke runs."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from dali_cutmix import FileList, Shard
from harness.folders import named_folder
from harness.processes import stop
from harness.settings import DataSettings


def find_data(name: str, settings: DataSettings, temporary: Path, side: int = 100) -> Path:
    """Return the folder with train/ and val/; a smoke run without a folder generates pictures."""
    if settings.data is None and settings.smoke:
        make_pictures(temporary / "train", num_pictures(), side)
        make_pictures(temporary / "val", 9, side)  # two processes get 3 and 2 batches
        return temporary
    what = "with train/ and val/ in it"
    return named_folder(name, settings.data, what, "pictures", ("train", "val"))


def read_parts(name: str, data: Path) -> tuple[FileList, FileList]:
    """Return the images of train/ and val/ by class, or end the run with one sentence.

    Args:
        name: Name of the recipe.
        data: Folder with train/ and val/, each with the same class folders.
    """
    try:
        train, val = (FileList.from_folder(data / part) for part in ("train", "val"))
    except (OSError, ValueError) as error:
        stop(name, f"`data` cannot be read. {error}")
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))[:5]
        stop(name, f"train/ and val/ in {data} must hold the same class folders; odd are {odd}.")
    return train, val


def num_pictures() -> int:
    """Return the number of training pictures of a smoke run: three batches of 2 for each process.

    One picture less than three full batches, so that a picture comes twice or a batch is short.
    """
    return 6 * max(2, Shard.current().count) - 1


def make_pictures(folder: Path, count: int, side: int = 100, num_classes: int = 7) -> None:
    """Write images of stripes behind a disc, a folder per class: the class is the stripes' angle.

    Args:
        folder: New ImageFolder root.
        count: Number of images.
        side: Mean side of an image in pixels. From 64 px on, files are JPEG and sides differ by up
            to a fifth. Below, files are PNG and sides are equal.
        num_classes: Number of folders.
    """
    for name, label, data in _pictures(count, side, num_classes):
        path = folder / f"class_{label}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make_shards(folder: Path, count: int, side: int = 100, num_classes: int = 7) -> None:
    """Write the same images into two tar shards, as WebDataset does: ``.jpg`` and ``.cls`` each."""
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


def make_ellipses(folder: Path, count: int, side: int, seed: int) -> None:
    """Write images of bright ellipses on dark noise, and their masks of 0 and 1.

    Args:
        folder: Gets ``images`` and ``masks``, with gray PNGs of equal names.
        count: Number of images.
        side: Side of an image in pixels.
        seed: Of noise and ellipses.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((side, side))
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image = rng.normal(25, 3, (side, side))
        mask = np.zeros((side, side), np.uint8)
        for _ in range(8):
            (row, column), (along, across) = rng.uniform(0, side, 2), rng.uniform(6, 14, 2)
            inside = ((rows - row) / along) ** 2 + ((columns - column) / across) ** 2 < 1
            image[inside] = rng.uniform(70, 200)
            mask[inside] = 1
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(mask).save(folder / f"masks/{number}.png")


def make_balls(folder: Path, count: int, side: int, seed: int) -> None:
    """Write volumes of a bright ball in dark noise, and their masks of 0 and 1.

    Args:
        folder: Gets ``images`` and ``masks``, with .npy of uint8 of equal names.
        count: Number of volumes.
        side: Side of a volume in voxels.
        seed: Of noise and balls.
    """
    rng = np.random.default_rng(seed)
    axes = np.indices((side,) * 3)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        centre = rng.uniform(0.3 * side, 0.7 * side, (3, 1, 1, 1))
        ball = ((axes - centre) ** 2).sum(0) < (0.3 * side) ** 2
        voxels = rng.normal(60, 10, ball.shape) + 80 * ball
        np.save(folder / f"images/{number}.npy", voxels.clip(0, 255).astype(np.uint8))
        np.save(folder / f"masks/{number}.npy", ball.astype(np.uint8))


def _pictures(count: int, side: int, num_classes: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, class and bytes of each file."""
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
