"""Write the animal silhouettes of the wheel of animal-shape-mnist as folders, with their boxes.

    pip download --no-deps animal-shape-mnist
    python pipelines/data/prepare_silhouettes.py animal_shape_mnist-*.whl --out silhouettes

The wheel (Sina Mohammadi, MIT license) holds 10,000 gray images of 28 x 28 pixels: the outlines of
ten animals. You download the wheel; this script downloads nothing,
and the package need not be installed. The script writes

    silhouettes/train/CLASS/NUMBER.png   100 images per class, 8-bit gray
    silhouettes/val/CLASS/NUMBER.png     200 others per class
    silhouettes/val.json                 the box of each animal of val/, as COCO writes boxes
    silhouettes/train.json               the same of train/

Equal images are written once. `--canvas 48` puts each animal somewhere on a larger canvas of
smooth noise, so that there is something to localise; this composes images, and what is learned of
them says nothing about photographs. The folder appears when all files are written.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from folders import COUNT, SEED, check_numbers, new_folder, stop, wheel_root

NAME = "prepare_silhouettes"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Where the wheel holds pixels, ``[N, 28, 28]`` uint8, and classes, ``[N]``.
FOLDER = "animal_shape_mnist/data/Animal Shape/"
IMAGES, CLASSES = "animal_data_version_3.gz", "animal_label_version_3.gz"
#: The classes in the order of their indices, as the wheel's description lists them.
NAMES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
#: All that a pickle of an array names. Other names of NumPy's lead to functions that run commands.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
#: Side of a stored image in pixels.
SIDE = 28
#: Gray level from which a pixel belongs to the animal.
LEAST_GRAY = 64


@dataclass(frozen=True)
class Settings:
    """Hold what to read and what to write."""

    wheel: Annotated[Path, tyro.conf.Positional]
    """The file animal_shape_mnist-....whl, or a folder of installed packages that holds it."""

    out: Path
    """New or empty folder for train/, val/ and the boxes."""

    num_train: int = 100
    """Images of each class in train/."""

    num_val: int = 200
    """Images of each class in val/."""

    canvas: int = SIDE
    """Side of the images written, in pixels, at least 28. A larger canvas is filled with noise."""

    seed: int = 0
    """Of the choice of images, of their places and of the noise."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    check_numbers(NAME, settings, num_train=COUNT, num_val=COUNT, seed=SEED)
    check_numbers(NAME, settings, canvas=(SIDE, 4096))
    rng = np.random.default_rng(settings.seed + 1)
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        images, classes = read(settings.wheel)
        parts = split(classes, settings)
        for part, chosen in parts.items():
            write(complete, part, images[chosen], classes[chosen], settings.canvas, rng)
            CONSOLE.print(f"{out / part}: {len(chosen)} images of {len(NAMES)} classes")


def read(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the different images, ``[N, 28, 28]`` uint8, and their classes, ``[N]`` int64.

    Images without a pixel of `LEAST_GRAY` show no animal, and are left out.
    """
    root = wheel_root(NAME, wheel, "animal-shape-mnist")
    arrays = []
    for name in (IMAGES, CLASSES):
        path = root.joinpath(FOLDER + name)
        if not path.is_file():
            stop(
                NAME,
                f"`wheel` must hold {FOLDER + name}, and {wheel} does not. Release 0.39 of "
                "animal-shape-mnist does.",
            )
        stored = io.BytesIO(gzip.decompress(path.read_bytes()))
        try:
            arrays.append(np.asarray(ArraysOnly(stored).load()))
        except pickle.UnpicklingError as error:
            stop(NAME, f"{name} must hold an array: {error}.")
    images, classes = arrays
    if images.dtype != np.uint8 or images.shape != (len(classes), SIDE, SIDE):
        stop(
            NAME,
            f"{IMAGES} must hold [N, {SIDE}, {SIDE}] uint8, got {images.shape} {images.dtype}.",
        )
    # Some images are there several times; a copy in both parts would be a leak.
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    first.sort()
    first = first[(images[first] >= LEAST_GRAY).any(axis=(1, 2))]
    return images[first], classes[first].astype(np.int64)


class ArraysOnly(pickle.Unpickler):
    """Read a pickle of arrays, and refuse any other object."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function that arrays are made of."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it also holds {module}.{name}")
        return super().find_class(module, name)


def split(classes: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """Return which images belong to each part, by its name: indices ``[n]``, class after class."""
    rng = np.random.default_rng(settings.seed)
    wanted = settings.num_train + settings.num_val
    train, val = [], []
    for index, name in enumerate(NAMES):
        chosen = rng.permutation(np.flatnonzero(classes == index))
        if len(chosen) < wanted:
            stop(
                NAME,
                f"`num_train` and `num_val` must together be at most {len(chosen)}, as many as "
                f"there are of {name}, got {settings.num_train} and {settings.num_val}.",
            )
        train.append(chosen[: settings.num_train])
        val.append(chosen[settings.num_train : wanted])
    return {"train": np.concatenate(train), "val": np.concatenate(val)}


def write(
    folder: Path,
    part: str,
    images: np.ndarray,
    classes: np.ndarray,
    canvas: int,
    rng: np.random.Generator,
) -> None:
    """Write the images of one part, and their boxes."""
    entries: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, (image, index) in enumerate(zip(images, classes.tolist(), strict=True)):
        pixels, (left, top) = placed(image, canvas, rng)
        name = f"{NAMES[index]}/{number:05}.png"
        path = folder / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows, columns = np.nonzero(image >= LEAST_GRAY)
        x, y = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
        entries.append({"id": number + 1, "file_name": name, "height": canvas, "width": canvas})
        boxes.append(
            {
                "id": number + 1,
                "image_id": number + 1,
                "category_id": index + 1,
                "bbox": [left + x, top + y, width, height],
                "area": len(rows),
                "iscrowd": 0,
            }
        )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)]
    content = {"images": entries, "annotations": boxes, "categories": categories}
    (folder / f"{part}.json").write_text(json.dumps(content) + "\n")


def placed(
    image: np.ndarray, canvas: int, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an image on a canvas, ``[canvas, canvas]`` uint8, and its corner (x, y)."""
    if canvas == SIDE:
        return image, (0, 0)
    coarse = rng.integers(0, 160, (canvas // 6 + 1,) * 2).astype(np.uint8)
    noise = Image.fromarray(coarse).resize((canvas, canvas), Image.Resampling.BICUBIC)
    pixels = np.asarray(noise).copy()
    left, top = rng.integers(0, canvas - SIDE + 1, 2).tolist()
    region = pixels[top : top + SIDE, left : left + SIDE]
    # The animal covers the noise by its gray, since borders are antialiased.
    share = image / 255.0
    region[:] = np.rint(region * (1 - share) + 255 * share).astype(np.uint8)
    return pixels, (left, top)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
