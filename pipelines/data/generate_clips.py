"""Write generated videos whose class is a motion, as folders of frames.

    python pipelines/data/generate_clips.py silhouettes --out clips

`silhouettes` is the folder that prepare_silhouettes.py beside this file writes. Half of the videos
show an animal of it, and half a generated star. Without the folder all show stars. An object moves
right, down, turns clockwise or grows; or the same video runs backwards, which makes it move left or
up, turn counterclockwise or shrink. So no single frame tells a motion from its opposite. The object
moves a little in all other ways too. A smaller object moves by a motion of its own, in front of
clutter. The camera shakes, each frame is noisy, and brightness flickers.

All is generated, and what is learned of it says nothing about recordings. Videos of val/ show other
animals than those of train/, and stars with other numbers of corners. The script writes

    clips/train/CLASS/NUMBER/FRAME.jpg   24 videos per class of 24 frames of 48 px
    clips/val/CLASS/NUMBER/FRAME.jpg     20 others per class

The folder appears when all files are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw
from rich.console import Console

from folders import COUNT, SEED, check_numbers, new_folder, stop

NAME = "generate_clips"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Each motion, and what its video shows when played backwards.
OPPOSITES = {
    "right": "left",
    "down": "up",
    "clockwise": "counterclockwise",
    "growing": "shrinking",
}
#: Least and most change per frame: shares of the frame's side, degrees, logarithm of the size.
SPEEDS = {
    "right": (0.018, 0.028),
    "down": (0.018, 0.028),
    "clockwise": (5.0, 9.0),
    "growing": (0.028, 0.045),
}
#: Most speed of the other motions, as a share of the least speed that makes a class.
DRIFT = 0.3
#: Numbers of corners of the stars of each part.
CORNERS = {"train": (3, 5, 7), "val": (4, 6, 8)}
#: Shares of the frame's side: least and most size of the object, and of the one that distracts.
OBJECT, DISTRACTOR = (0.4, 0.6), (0.15, 0.22)
#: Lines of the clutter, of which a frame shows some.
NUM_LINES = 4
#: Gray levels: deviation of the noise, and of the brightness of frames.
NOISE, FLICKER = 10.0, 4.0
#: Deviation of the camera's place from frame to frame, as a share of the frame's side.
SHAKE = 0.006
#: Side of a drawn star in pixels.
STAR = 64


@dataclass(frozen=True)
class Settings:
    """Hold what to read and what to write."""

    out: Path
    """New or empty folder for train/ and val/."""

    silhouettes: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder with train/ and val/ of animals, as prepare_silhouettes.py writes it. None draws stars
    alone."""

    num_train: int = 24
    """Videos of each class in train/."""

    num_val: int = 20
    """Videos of each class in val/."""

    num_frames: int = 24
    """Frames of a video, at least 2."""

    side: int = 48
    """Side of a frame in pixels, at least 16."""

    seed: int = 0
    """Of shapes, places, speeds, clutter and noise."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    check_numbers(NAME, settings, num_train=COUNT, num_val=COUNT, seed=SEED)
    check_numbers(NAME, settings, num_frames=(2, 10**6), side=(16, 4096))
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        animals = {part: read_animals(settings.silhouettes, part) for part in CORNERS}
        for part, count in {"train": settings.num_train, "val": settings.num_val}.items():
            write(complete / part, part, animals[part], count, settings)
            CONSOLE.print(f"{out / part}: {2 * len(OPPOSITES) * count} videos")


def read_animals(silhouettes: Path | None, part: str) -> list[np.ndarray]:
    """Return the animals of a part, gray uint8 images; an empty list without a folder."""
    if silhouettes is None:
        return []
    paths = sorted((silhouettes / part).glob("*/*.png"))
    if not paths:
        stop(
            NAME,
            f"`silhouettes` must hold {part}/CLASS/NUMBER.png, as prepare_silhouettes.py writes "
            f"them, got {silhouettes}.",
        )
    animals = []
    for path in paths:
        try:
            animals.append(np.asarray(Image.open(path).convert("L")))
        except OSError as error:
            stop(NAME, f"{path} must be an image, and cannot be decoded: {error}.")
    return animals


def write(
    folder: Path, part: str, animals: Sequence[np.ndarray], count: int, settings: Settings
) -> None:
    """Write the videos of one part."""
    # Of each part, so that the number of videos in train/ changes none of val/.
    rng = np.random.default_rng([settings.seed, list(CORNERS).index(part)])
    for motion, opposite in OPPOSITES.items():
        for number in range(2 * count):
            shape = star(CORNERS[part], rng)
            if animals and number % 4 >= 2:
                shape = animals[int(rng.integers(len(animals)))]
            video = drawn(motion, shape, CORNERS[part], settings, rng)
            is_backwards = number % 2 == 1
            name = opposite if is_backwards else motion
            path = folder / name / f"{number // 2:04}"
            path.mkdir(parents=True)
            for at, frame in enumerate(video[::-1] if is_backwards else video):
                Image.fromarray(frame).save(path / f"{at:03}.jpg", quality=90)


def star(corners: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Draw a star with one of these numbers of corners: ``[64, 64]`` uint8."""
    number = int(rng.choice(np.array(corners)))
    angles = 2 * np.pi * (np.arange(2 * number) + rng.uniform(0, 0.6, 2 * number)) / (2 * number)
    # One corner is longer, so that a turn shows even of a regular star.
    radii = np.where(np.arange(2 * number) % 2, rng.uniform(0.2, 0.45), rng.uniform(0.6, 0.8))
    radii[0] = 1.0
    points = STAR / 2 * (1 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    image = Image.new("L", (STAR, STAR))
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(image)


def drawn(
    motion: str,
    shape: np.ndarray,
    corners: Sequence[int],
    settings: Settings,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw a video of a motion: ``[T, side, side, 3]`` uint8.

    Args:
        motion: A key of `OPPOSITES`.
        shape: The object, gray levels of which 0 is transparent: ``[h, w]`` uint8.
        corners: Numbers of corners of the stars that distract.
        settings: Number and side of the frames.
        rng: Draws everything else.
    """
    side, num_frames = settings.side, settings.num_frames
    other = str(rng.choice(list(OPPOSITES)))
    moving = [
        (star(corners, rng), path(other, DISTRACTOR, settings, rng), color(rng)),
        (shape, path(motion, OBJECT, settings, rng), color(rng)),
    ]
    shake = np.cumsum(rng.normal(0, SHAKE * side, (num_frames, 2)), axis=0)
    shake -= shake.mean(axis=0)
    background = clutter(side, rng)
    flicker = rng.normal(0, FLICKER, num_frames)
    frames = []
    for at in range(num_frames):
        frame = shifted(background, shake[at], side)
        for image, places, painted in moving:
            y, x, angle, size = places[at]
            covered = placed(image, y + shake[at, 0], x + shake[at, 1], angle, size, side)
            frame = frame * (1 - covered[..., None]) + painted * covered[..., None]
        frame = frame + flicker[at] + rng.normal(0, NOISE, frame.shape)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def path(
    motion: str, sizes: tuple[float, float], settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """Draw where an object is in each frame: ``[T, 4]``, of y, x, degrees, side in pixels."""
    speeds = {
        name: DRIFT * least * rng.uniform(-1, 1) for name, (least, _) in sorted(SPEEDS.items())
    }
    speeds[motion] = rng.uniform(*SPEEDS[motion])
    time = np.arange(settings.num_frames) - (settings.num_frames - 1) / 2
    y, x = rng.uniform(0.35, 0.65, 2)
    return np.stack(
        [
            settings.side * (y + speeds["down"] * time),
            settings.side * (x + speeds["right"] * time),
            rng.uniform(0, 360) + speeds["clockwise"] * time,
            settings.side * rng.uniform(*sizes) * np.exp(speeds["growing"] * time),
        ],
        axis=1,
    )


def placed(
    image: np.ndarray, y: float, x: float, angle: float, size: float, side: int
) -> np.ndarray:
    """Return how much of each pixel an object covers: ``[side, side]`` in [0, 1].

    Args:
        image: Gray levels of the object: ``[h, w]`` uint8.
        y: Row of its centre in pixels.
        x: Column of its centre in pixels.
        angle: Degrees by which the object is turned clockwise.
        size: Side of the turned image in pixels.
        side: Side of the frame in pixels.
    """
    height, width = image.shape
    scale = width / size
    turn = np.deg2rad(angle)
    # Pillow asks for the place in the image of each pixel of the frame; rows point downwards.
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    matrix = (
        *(cos, sin, width / 2 - cos * x - sin * y),
        *(-sin, cos, height / 2 + sin * x - cos * y),
    )
    shown = Image.fromarray(image).transform(
        (side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(shown) / 255.0


def color(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour whose channels are dark or bright: ``[3]`` in [0, 255]."""
    return np.where(rng.random(3) < 0.5, rng.uniform(0, 70, 3), rng.uniform(185, 255, 3))


def clutter(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a background, larger than a frame: smooth noise and lines, ``[2 * side, 2 * side, 3]``.

    Lines have the colours of objects.
    """
    coarse = rng.integers(80, 176, (max(4, side // 4), max(4, side // 4), 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((2 * side, 2 * side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(NUM_LINES):
        ends = [float(number) for number in rng.uniform(0, 2 * side, 4)]
        red, green, blue = color(rng).astype(int).tolist()
        draw.line(ends, fill=(red, green, blue), width=int(rng.integers(1, 3)))
    return np.asarray(image)


def shifted(background: np.ndarray, shake: np.ndarray, side: int) -> np.ndarray:
    """Return the part of a background that the camera sees: ``[side, side, 3]`` float64."""
    top, left = np.clip(np.rint(side / 2 - shake), 0, side).astype(int)
    return background[top : top + side, left : left + side].astype(np.float64)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
