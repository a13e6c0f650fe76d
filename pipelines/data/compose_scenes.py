"""Compose scenes of coloured animals that cover each other, from folders of silhouettes.

    python pipelines/data/prepare_silhouettes.py animal_shape_mnist-*.whl --out silhouettes
    python pipelines/data/compose_scenes.py silhouettes --out scenes

The scenes are composed: what is learned of them says nothing about photographs. One to four animals
of different sizes stand before a gradient with smooth noise, and later animals cover earlier ones.
Scenes of train/ show animals of the silhouettes' train/ alone, scenes of val/ those of val/. The
script writes

    scenes/train/images/00000.png    400 scenes of 96 x 96 px, RGB
    scenes/train/masks/00000.png     the class of each pixel, from 1 on; 0 is background
    scenes/train/coco.json           boxes around the visible parts, as COCO writes boxes
    scenes/train/captions.csv        the columns path, below images/, and caption
    scenes/val/...                   the same of 200 scenes
    scenes/words.txt                 every word that a caption may have, one a line
    scenes/single/CLASS/00000.png    scenes of one animal of train/, 60 of each class
    scenes/occluded/LEVEL/CLASS/00000.png and scenes/occluded/LEVEL/coco.json
                                     scenes of one animal of val/, 40 of each class

LEVEL is 00, 25, 50 and 75: about that percentage of the animal is covered by patches of another
background. Files of one name show the same scene at every level: the patches grow.

Annotations have further keys: `visible`, the visible share of the animal's pixels; `full_bbox`, the
box of the complete animal; `colour`. They stand from the back to the front. In train/ and val/ at
least 25 % of each animal is visible: a scene that shows less of an animal is drawn again, so
`iscrowd` is always 0. Under occluded/75 about 25 % is visible.

A caption names one animal, or the two with the most visible pixels: "a red cat left of a blue dog",
or "above", by the centres of their boxes; then "and one more animal", or "two". No two animals of
a scene have the same colour and class. The third animal is clearly smaller, and one direction is
clearly longer: scenes without a clear caption are drawn again.

A scene depends on the seed and on its number alone: fewer scenes are the first of more. The folder
appears when all files are written.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from folders import COUNT, SEED, check_numbers, new_folder, stop

NAME = "compose_scenes"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Red, green and blue, far from the muted backgrounds and from each other.
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 80, 225),
    "yellow": (235, 215, 50),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
}
#: Words of a caption beside colours and classes.
GRAMMAR = ("a", "left", "of", "above", "and", "one", "two", "more", "animal", "animals")
#: Gray level of a silhouette from which a pixel belongs to the animal.
LEAST_GRAY = 64
#: Most animals of a scene.
MOST_ANIMALS = 4
#: Longer side of an animal, as shares of the scene's side: among others, and alone.
SHARES, SHARES_ALONE = (0.25, 0.6), (0.6, 0.9)
#: Visible share of an animal below which a scene is drawn again.
LEAST_VISIBLE = 0.25
#: Pixels of the third animal as a share of those of the second, at most.
MOST_THIRD = 0.8
#: Shares of the scene's side: distance of two centres along the direction that a caption tells, and
#: by how much that distance is longer than the other.
LEAST_DISTANCE, LEAST_LEAD = 0.125, 0.0625
#: Percentages of the main animal that are covered.
LEVELS = (0, 25, 50, 75)
#: Drawings of a scene before the silhouettes are blamed.
MOST_TRIES = 1000


@dataclass(frozen=True)
class Settings:
    """Hold what to read and what to write."""

    silhouettes: Annotated[Path, tyro.conf.Positional]
    """What prepare_silhouettes.py wrote: train/ and val/, each with one folder of PNG files per
    class."""

    out: Path
    """New or empty folder for the scenes."""

    size: int = 96
    """Side of a scene in pixels, at least 48."""

    num_train: int = 400
    """Scenes in train/."""

    num_val: int = 200
    """Scenes in val/."""

    num_single: int = 60
    """Scenes of each class in single/."""

    num_occluded: int = 40
    """Scenes of each class under each level of occluded/."""

    seed: int = 0
    """Of everything that is drawn."""


@dataclass(frozen=True)
class Animal:
    """Hold one animal of a scene: the class's index, the colour's name, gray levels, a mask.

    `gray` is ``[size, size]`` float in [0, 1], and `mask` ``[size, size]`` bool, of the complete
    animal.
    """

    index: int
    colour: str
    gray: np.ndarray
    mask: np.ndarray


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    counts = dict.fromkeys(("num_train", "num_val", "num_single", "num_occluded"), COUNT)
    check_numbers(NAME, settings, **counts, size=(48, 4096), seed=SEED)
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        names, shapes = read(settings.silhouettes)
        for part, count in (("train", settings.num_train), ("val", settings.num_val)):
            write_part(complete / part, names, shapes[part], count, settings)
            CONSOLE.print(f"{out / part}: {count} scenes")
        (complete / "words.txt").write_text("\n".join(vocabulary(names)) + "\n")
        write_single(complete / "single", names, shapes["train"], settings)
        CONSOLE.print(f"{out / 'single'}: {settings.num_single} scenes of {len(names)} classes")
        write_occluded(complete / "occluded", names, shapes["val"], settings)
        for level in LEVELS:
            folder = out / "occluded" / f"{level:02}"
            CONSOLE.print(f"{folder}: {settings.num_occluded} scenes of {len(names)} classes")


# ------------------------------------------------------------------------------------- silhouettes


def read(silhouettes: Path) -> tuple[list[str], dict[str, list[list[np.ndarray]]]]:
    """Return names of classes, and of each part and class the animals, ``[h, w]`` uint8."""
    names: list[str] = []
    shapes: dict[str, list[list[np.ndarray]]] = {}
    for part in ("train", "val"):
        folder = silhouettes / part
        if not folder.is_dir():
            stop(
                NAME,
                "`silhouettes` must hold train/ and val/, as data/prepare_silhouettes.py writes "
                f"them, and {silhouettes} lacks {part}/.",
            )
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        if not classes or (names and [path.name for path in classes] != names):
            stop(NAME, f"{folder} must hold a folder for each class, the same in train/ and val/.")
        names = [path.name for path in classes]
        for name in names:
            if not re.fullmatch("[a-z]+", name) or name in {*GRAMMAR, *COLOURS}:
                stop(
                    NAME,
                    f"{folder / name} must be named by a noun in small letters, since captions "
                    "name it. Rename the folder.",
                )
        shapes[part] = [[shape(path) for path in files(folder)] for folder in classes]
    return names, shapes


def files(folder: Path) -> list[Path]:
    """Return the images of a class."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        stop(NAME, f"{folder} must hold PNG files, and holds none.")
    return paths


def shape(path: Path) -> np.ndarray:
    """Return the part of a silhouette that shows the animal, ``[h, w]`` uint8."""
    try:
        with Image.open(path) as stored:
            pixels = np.asarray(stored.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        stop(NAME, f"{path} must be an image: {error}.")
    rows, columns = np.nonzero(pixels >= LEAST_GRAY)
    if not rows.size:
        stop(NAME, f"{path} must show an animal, and no pixel has the gray level {LEAST_GRAY}.")
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


# ---------------------------------------------------------------------------------------- drawing


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a gradient of two muted colours with smooth noise, ``[size, size, 3]`` float."""
    gray = rng.uniform(60, 190, (2, 1))
    start, end = gray + rng.uniform(-18, 18, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    along = 0.5 + (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)
    cells = rng.integers(0, 64, (size // 6 + 1,) * 2).astype(np.uint8)
    noise = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
    pixels = start + (end - start) * along[..., None] + np.asarray(noise, float)[..., None] - 32
    return np.clip(pixels, 40, 210)


def draw_animal(
    index: int,
    colour: str,
    shapes: Sequence[np.ndarray],
    shares: tuple[float, float],
    size: int,
    rng: np.random.Generator,
) -> Animal:
    """Return an animal of a class, of a drawn size and somewhere inside the scene."""
    animal = shapes[int(rng.integers(len(shapes)))]
    if rng.integers(2):
        animal = animal[:, ::-1]
    scale = rng.uniform(*shares) * size / max(animal.shape)
    height, width = (max(1, round(side * scale)) for side in animal.shape)
    resized = Image.fromarray(animal).resize((width, height), Image.Resampling.BICUBIC)
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    gray = np.zeros((size, size))
    gray[top : top + height, left : left + width] = np.asarray(resized) / 255
    return Animal(index, colour, gray, gray >= LEAST_GRAY / 255)


def visible_masks(animals: Sequence[Animal], size: int) -> list[np.ndarray]:
    """Return the visible pixels of each animal, ``[size, size]`` bool: later ones cover."""
    owner = np.zeros((size, size), int)
    for number, animal in enumerate(animals, 1):
        owner[animal.mask] = number
    return [owner == number for number in range(1, len(animals) + 1)]


def box_of(mask: np.ndarray) -> list[int]:
    """Return the box of the pixels of a mask, as COCO's x, y, width, height."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def painted(pixels: np.ndarray, animals: Sequence[Animal]) -> np.ndarray:
    """Return a background with animals on it, ``[size, size, 3]`` uint8."""
    pixels = pixels.copy()
    for animal in animals:
        shade = 0.4 + 0.6 * animal.gray[animal.mask][:, None]
        pixels[animal.mask] = shade * np.array(COLOURS[animal.colour])
    return np.rint(pixels).astype(np.uint8)


def draw_scene(
    names: Sequence[str],
    shapes: Sequence[Sequence[np.ndarray]],
    size: int,
    rng: np.random.Generator,
) -> tuple[list[Animal], str]:
    """Return the animals of a scene, from back to front, and the scene's caption."""
    count = 1 + int(rng.integers(MOST_ANIMALS))
    kinds = [(index, colour) for index in range(len(shapes)) for colour in COLOURS]
    chosen = [kinds[number] for number in rng.permutation(len(kinds))[:count]]
    for _ in range(MOST_TRIES):
        animals = [
            draw_animal(index, colour, shapes[index], SHARES, size, rng) for index, colour in chosen
        ]
        masks = visible_masks(animals, size)
        if all(
            mask.sum() >= LEAST_VISIBLE * animal.mask.sum()
            for mask, animal in zip(masks, animals, strict=True)
        ):
            caption = caption_of(names, animals, masks)
            if caption is not None:
                return animals, caption
    stop(
        NAME,
        f"`silhouettes` must allow a clear scene of {count} animals, and none of {MOST_TRIES} "
        "drawings is one. Give more silhouettes, of other sizes.",
    )


# --------------------------------------------------------------------------------------- captions


def vocabulary(names: Sequence[str]) -> list[str]:
    """Return every word that a caption may have, in the order of the alphabet."""
    return sorted({*GRAMMAR, *COLOURS, *names})


def caption_of(
    names: Sequence[str], animals: Sequence[Animal], masks: Sequence[np.ndarray]
) -> str | None:
    """Return the caption of a scene by its visible pixels; None where no caption is clear.

    Args:
        names: Names of the classes.
        animals: Animals of the scene.
        masks: Visible pixels of each animal, ``[size, size]`` bool.
    """
    things = [f"a {animal.colour} {names[animal.index]}" for animal in animals]
    if len(animals) == 1:
        return things[0]
    pixels = [int(mask.sum()) for mask in masks]
    order = sorted(range(len(animals)), key=lambda number: -pixels[number])
    if len(animals) > 2 and pixels[order[2]] > MOST_THIRD * pixels[order[1]]:
        return None
    size = len(masks[0])
    boxes = [box_of(masks[number]) for number in order[:2]]
    (x, y), (other_x, other_y) = ((b[0] + b[2] / 2, b[1] + b[3] / 2) for b in boxes)
    across, down = other_x - x, other_y - y
    far, near = max(abs(across), abs(down)), min(abs(across), abs(down))
    if far < LEAST_DISTANCE * size or far - near < LEAST_LEAD * size:
        return None
    relation, ahead = ("left of", across) if abs(across) > abs(down) else ("above", down)
    first, second = order[:2] if ahead > 0 else order[1::-1]
    more = ("", " and one more animal", " and two more animals")[len(animals) - 2]
    return f"{things[first]} {relation} {things[second]}{more}"


# ---------------------------------------------------------------------------------------- writing


class Annotations:
    """Gather what COCO's file of one folder holds."""

    def __init__(self, names: Sequence[str]) -> None:
        self.images: list[dict[str, Any]] = []
        self.boxes: list[dict[str, Any]] = []
        self.categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]

    def add(self, name: str, animals: Sequence[Animal], masks: Sequence[np.ndarray]) -> None:
        """Add an image and its animals, of which `masks` are the visible pixels."""
        height, width = masks[0].shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        for animal, mask in zip(animals, masks, strict=True):
            area = int(mask.sum())
            self.boxes.append(
                {
                    "id": len(self.boxes) + 1,
                    "image_id": number,
                    "category_id": animal.index + 1,
                    "bbox": box_of(mask),
                    "area": area,
                    "iscrowd": 0,
                    "visible": round(area / int(animal.mask.sum()), 4),
                    "full_bbox": box_of(animal.mask),
                    "colour": animal.colour,
                }
            )

    def write(self, path: Path) -> None:
        """Write the file."""
        content = {
            "images": self.images,
            "annotations": self.boxes,
            "categories": self.categories,
        }
        path.write_text(json.dumps(content) + "\n")


def write_part(
    folder: Path,
    names: Sequence[str],
    shapes: Sequence[Sequence[np.ndarray]],
    count: int,
    settings: Settings,
) -> None:
    """Write train/ or val/: scenes, masks, boxes and captions."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    annotations, captions = Annotations(names), []
    for number in range(count):
        rng = generator(settings.seed, folder.name, number)
        pixels = background(settings.size, rng)
        animals, caption = draw_scene(names, shapes, settings.size, rng)
        masks = visible_masks(animals, settings.size)
        classes = np.zeros((settings.size, settings.size), np.uint8)
        for animal, mask in zip(animals, masks, strict=True):
            classes[mask] = animal.index + 1
        name = f"{number:05}.png"
        save(painted(pixels, animals), folder / "images" / name)
        save(classes, folder / "masks" / name)
        annotations.add(name, animals, masks)
        captions.append((name, caption))
    annotations.write(folder / "coco.json")
    with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "caption"), *captions])


def scenes_of_one(
    kind: str,
    shapes: Sequence[Sequence[np.ndarray]],
    count: int,
    settings: Settings,
) -> Iterator[tuple[int, int, np.ndarray, Animal, np.random.Generator]]:
    """Yield scenes of one animal: class, number, background, animal, and what draws further."""
    for index in range(len(shapes)):
        for number in range(count):
            rng = generator(settings.seed, kind, index, number)
            pixels = background(settings.size, rng)
            colour = list(COLOURS)[rng.integers(len(COLOURS))]
            animal = draw_animal(index, colour, shapes[index], SHARES_ALONE, settings.size, rng)
            yield index, number, pixels, animal, rng


def write_single(
    folder: Path,
    names: Sequence[str],
    shapes: Sequence[Sequence[np.ndarray]],
    settings: Settings,
) -> None:
    """Write single/: scenes of one animal that nothing covers."""
    for index, number, pixels, animal, _ in scenes_of_one(
        folder.name, shapes, settings.num_single, settings
    ):
        save(painted(pixels, [animal]), folder / names[index] / f"{number:05}.png")


def write_occluded(
    folder: Path,
    names: Sequence[str],
    shapes: Sequence[Sequence[np.ndarray]],
    settings: Settings,
) -> None:
    """Write occluded/: each scene once at every level."""
    annotations = {level: Annotations(names) for level in LEVELS}
    for index, number, pixels, animal, rng in scenes_of_one(
        folder.name, shapes, settings.num_occluded, settings
    ):
        cover = np.rint(background(settings.size, rng)).astype(np.uint8)
        distance = patches(animal.mask, rng)
        for level in LEVELS:
            # So many of the animal's pixels lie nearer to a patch's centre than the others.
            limit = np.quantile(distance[animal.mask], level / 100) if level else -1.0
            covered = distance <= limit
            image = np.where(covered[..., None], cover, painted(pixels, [animal]))
            name = f"{names[index]}/{number:05}.png"
            save(image, folder / f"{level:02}" / name)
            annotations[level].add(name, [animal], [animal.mask & ~covered])
    for level in LEVELS:
        annotations[level].write(folder / f"{level:02}" / "coco.json")


def patches(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return at which scale of the patches each pixel is covered, ``[size, size]`` float.

    Two to four patches have their centres on the animal. Each is a turned rectangle or an ellipse.
    """
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: len(mask), : len(mask)].astype(float)
    scales = []
    for _ in range(rng.integers(2, 5)):
        at = rng.integers(len(rows))
        angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0)
        down, right = y - rows[at], x - columns[at]
        along = np.abs(np.cos(angle) * right + np.sin(angle) * down) * aspect
        aside = np.abs(np.cos(angle) * down - np.sin(angle) * right) / aspect
        is_round = rng.integers(2)
        scales.append(np.hypot(along, aside) if is_round else np.maximum(along, aside))
    return np.minimum.reduce(scales)


def generator(seed: int, kind: str, *numbers: int) -> np.random.Generator:
    """Return what draws one scene, by the seed, the folder's name and the scene's numbers."""
    return np.random.default_rng([seed, *kind.encode(), *numbers])


def save(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG file, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
