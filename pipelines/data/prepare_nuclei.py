"""Cut the micrograph of stardist's wheel into small images with masks, instances and boxes.

    pip download --no-deps stardist
    python pipelines/data/prepare_nuclei.py stardist-*.whl --out nuclei

The wheel of stardist (BSD-3-Clause, https://github.com/stardist/stardist) holds one fluorescence
micrograph of 512 x 512 pixels with 125 nuclei outlined by hand, from the Data Science Bowl of 2018
(Caicedo et al. 2019, Nature Methods 16, doi:10.1038/s41592-019-0612-7). You download the wheel;
this script downloads nothing, and stardist need not be installed. The script writes

    nuclei/train/images/Y_X.png      35 overlapping tiles of 128 px, 8-bit gray
    nuclei/train/masks/Y_X.png       0 background, 1 nucleus: for segmentation
    nuclei/train/instances/Y_X.png   0 background, then a number per nucleus: 16-bit gray
    nuclei/train/coco.json           boxes of the nuclei as COCO writes them: for detection
    nuclei/val/...                   4 tiles that share no pixel with train/

where Y and X are the tile's upper left corner in the micrograph. A nucleus that a tile cuts
gets the box of its part inside, if that part has 30 pixels at least. One micrograph is enough to
see a loss fall, and is no benchmark. The folder appears when all files are written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from folders import new_folder, stop, wheel_root

NAME = "prepare_nuclei"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Where the wheel holds pixels and instances: 16-bit gray TIFFs of equal size.
IMAGE, INSTANCES = "stardist/data/images/img2d.tif", "stardist/data/images/mask2d.tif"
#: Pixels: side of a tile, and steps between corners of tiles.
SIDE, TRAIN_STEP = 128, 64
#: Pixels of a nucleus's part inside a tile; a smaller part gets no box.
LEAST_PART = 30


@dataclass(frozen=True)
class Settings:
    """Hold what to read and what to write."""

    wheel: Annotated[Path, tyro.conf.Positional]
    """The file stardist-....whl, or a folder of installed packages that holds stardist."""

    out: Path
    """New or empty folder for train/ and val/."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        image, instances = read(settings.wheel)
        # The last quarter of the columns validates: no tile of it overlaps one of training.
        split = image.shape[1] - SIDE
        parts = {"train": (slice(0, split), TRAIN_STEP), "val": (slice(split, None), SIDE)}
        for part, (columns, step) in parts.items():
            tiles = corners(image[:, columns].shape, step)
            left = columns.start
            corner_list = [(top, left + column) for top, column in tiles]
            num_boxes = write(complete / part, image, instances, corner_list)
            CONSOLE.print(f"{out / part}: {len(corner_list)} tiles with {num_boxes} boxes")


def read(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the micrograph, ``[H, W]`` uint8, and its instances, ``[H, W]`` uint16."""
    root = wheel_root(NAME, wheel, "stardist")
    arrays = []
    for name in (IMAGE, INSTANCES):
        path = root.joinpath(name)
        if not path.is_file():
            stop(NAME, f"`wheel` must hold {name}, and {wheel} does not. stardist 0.9.2 does.")
        with Image.open(io.BytesIO(path.read_bytes())) as stored:
            arrays.append(np.asarray(stored).astype(np.uint16))
    image, instances = arrays
    if image.shape != instances.shape or min(image.shape) < 2 * SIDE:
        stop(
            NAME,
            f"{IMAGE} and {INSTANCES} must be of one size, {2 * SIDE} px at least, got "
            f"{image.shape} and {instances.shape}.",
        )
    return (image.astype(np.float64) * (255 / max(1, image.max()))).round().astype(np.uint8), (
        instances
    )


def corners(size: tuple[int, ...], step: int) -> list[tuple[int, int]]:
    """Return the upper left corners (y, x) of all tiles that fit, ``step`` pixels apart."""
    return [
        (top, left)
        for top in range(0, size[0] - SIDE + 1, step)
        for left in range(0, size[1] - SIDE + 1, step)
    ]


def boxes_of(instances: np.ndarray) -> Iterator[tuple[int, list[int], int]]:
    """Yield number, box and pixels of every part: the box as COCO's x, y, width, height."""
    for number in np.unique(instances[instances > 0]).tolist():
        rows, columns = np.nonzero(instances == number)
        if len(rows) >= LEAST_PART:
            left, top = int(columns.min()), int(rows.min())
            size = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
            yield number, [left, top, *size], len(rows)


def write(
    folder: Path, image: np.ndarray, instances: np.ndarray, tiles: list[tuple[int, int]]
) -> int:
    """Write the tiles of one part with their annotations; return the number of boxes."""
    for name in ("images", "masks", "instances"):
        (folder / name).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for top, left in tiles:
        region = slice(top, top + SIDE), slice(left, left + SIDE)
        name, numbers = f"{top:03}_{left:03}.png", instances[region]
        Image.fromarray(image[region]).save(folder / "images" / name)
        Image.fromarray((numbers > 0).astype(np.uint8)).save(folder / "masks" / name)
        Image.fromarray(numbers).save(folder / "instances" / name)
        entry = {"id": len(images) + 1, "file_name": name, "height": SIDE, "width": SIDE}
        images.append(entry)
        for _, box, num_pixels in boxes_of(numbers):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry["id"],
                    "category_id": 1,
                    "bbox": box,
                    "area": num_pixels,
                    "iscrowd": 0,
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nucleus"}],
    }
    (folder / "coco.json").write_text(json.dumps(content) + "\n")
    return len(annotations)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
