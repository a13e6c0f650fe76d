"""Write generated pictures of objects with two parts, and their boxes: something to localise.

    python pipelines/data/generate_parts.py --out parts

An object is a bar with a pattern at each end. Both patterns say the class; the first is bright,
and the second faint. A classifier that looks at the bright one alone is right, and finds a third of
the object. The pictures are generated, and what is learned of them says nothing about photographs.
The script writes

    parts/train/CLASS/NUMBER.png   100 images per class of 48 px, 8-bit gray
    parts/val/CLASS/NUMBER.png     100 others per class
    parts/train.json, parts/val.json   the box of each object, as COCO writes boxes

The folder appears when all files are written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from folders import COUNT, SEED, check_numbers, new_folder

NAME = "generate_parts"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Pixels: side of an image, side of a pattern, and side of a pattern's cell.
SIDE, PATTERN, CELL = 48, 12, 3
#: Least and most pixels of the bar between the patterns.
BAR = (6, 14)
#: Gray levels: most of the noise, of the bar, of the bright pattern and of the faint one.
NOISE, BAR_GRAY, BRIGHT, FAINT = 90, 130, 255, 170


@dataclass(frozen=True)
class Settings:
    """Hold what to write."""

    out: Path
    """New or empty folder for train/, val/ and the boxes."""

    num_classes: int = 8
    """Classes, at least 2 and at most 500, which have different patterns."""

    num_train: int = 100
    """Images of each class in train/."""

    num_val: int = 100
    """Images of each class in val/."""

    seed: int = 0
    """Of patterns, places and noise."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    check_numbers(NAME, settings, num_train=COUNT, num_val=COUNT, seed=SEED)
    check_numbers(NAME, settings, num_classes=(2, 500))
    rng = np.random.default_rng(settings.seed)
    patterns = draw_patterns(settings.num_classes, rng)
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        for part, count in {"train": settings.num_train, "val": settings.num_val}.items():
            write(complete, part, patterns, count, rng)
            CONSOLE.print(f"{out / part}: {count * len(patterns)} images")


def draw_patterns(num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw two patterns of each class: ``[num_classes, 2, 4, 4]`` bool, which cells are filled.

    Half of the cells are filled, so that no pattern is told by its mean. No two patterns are equal
    after quarter turns, since objects lie in all directions.
    """
    side = PATTERN // CELL
    filled = np.repeat([True, False], side**2 // 2)
    patterns: list[np.ndarray] = []
    turns_of_all: set[bytes] = set()
    while len(patterns) < 2 * num_classes:
        pattern = rng.permutation(filled).reshape(side, side)
        turns = {np.rot90(pattern, number).tobytes() for number in range(4)}
        if not turns & turns_of_all:
            patterns.append(pattern)
            turns_of_all |= turns
    return np.stack(patterns).reshape(num_classes, 2, side, side)


def drawn(pattern: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Draw an object of a class.

    Args:
        pattern: Which cells of the pattern at each end are filled: ``[2, 4, 4]`` bool.
        rng: Draws place, length, direction and noise.

    Returns:
        The picture, ``[48, 48]`` uint8, and the object's box (x, y, width, height) in pixels.
    """
    length = int(rng.integers(BAR[0], BAR[1] + 1))
    complete = np.zeros((PATTERN, 2 * PATTERN + length), np.uint8)
    complete[PATTERN // 3 : -(PATTERN // 3)] = BAR_GRAY
    cells = np.kron(pattern, np.ones((CELL, CELL), bool))
    complete[:, :PATTERN] = np.where(cells[0], BRIGHT, BAR_GRAY)
    complete[:, -PATTERN:] = np.where(cells[1], FAINT, BAR_GRAY)
    turned = np.rot90(complete, int(rng.integers(4)))
    pixels = rng.integers(0, NOISE + 1, (SIDE, SIDE)).astype(np.uint8)
    height, width = turned.shape
    top, left = (int(rng.integers(SIDE - side + 1)) for side in (height, width))
    region = pixels[top : top + height, left : left + width]
    region[turned > 0] = turned[turned > 0]
    return pixels, [left, top, width, height]


def write(
    folder: Path, part: str, patterns: np.ndarray, count: int, rng: np.random.Generator
) -> None:
    """Write the images of one part, and their boxes."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for index, pattern in enumerate(patterns):
        for _ in range(count):
            pixels, box = drawn(pattern, rng)
            number = len(images) + 1
            name = f"part_{index:02}/{number:05}.png"
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
            area = box[2] * box[3]
            entry = {"id": number, "image_id": number, "category_id": index + 1, "bbox": box}
            boxes.append(entry | {"area": area, "iscrowd": 0})
    categories = [{"id": i + 1, "name": f"part_{i:02}"} for i in range(len(patterns))]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / f"{part}.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
