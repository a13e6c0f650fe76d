"""Make an ImageFolder of JPEGs like ImageNet's: the same files from the same seed, in seconds.

    python benchmarks/images.py imagenet-like --num-files 2000
    python benchmarks/images.py imagenet-like --num-files 2000 --num-names 10000

With --num-names files get further names, which are hard links: longer epochs that take no disk. The
start is a large part of a short epoch. Loaders with a format of their own write every name.

The cost of decoding a photograph depends on its bytes per pixel and on how they are spread. So the
pictures are "dead leaves": shaded discs, strips and boxes of every size
that hide one another. Such pictures have the edges and the spectrum of photographs (amplitude falls
as 1/f). Each leaf has a texture of 1/f, the lens is a little soft, and the sensor has noise. White
noise can have as many bytes, but spreads the bytes over all coefficients of all blocks, as no
photograph does.

Every file is a window of one of a few large canvases, mirrored or not, with its own exposure,
colour cast, noise and quality. Sizes in pixels follow ImageNet's: mostly 500 on the long side, some
smaller, some up to 1,600. All files are baseline, 4:2:0.

Source: Lee, Mumford and Huang 2001, "Occlusion models for natural images", IJCV 41, for the leaves.
ImageNet's training set: 1,281,167 files of 110 KB and about 0.55 bytes per pixel on average.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from flags import at_least, count, positive
from PIL import Image

from dali_cutmix.tools.bench.machine import usable_cpus

CANVAS = 1400
MOST_CANVASES = 48
#: (height, width) in pixels and frequency in percent; other sides are drawn between 120 and 500.
SIZES = {
    (375, 500): 48,
    (333, 500): 14,
    (500, 375): 10,
    (500, 333): 5,
    (500, 500): 3,
    (480, 640): 3,
    (600, 800): 2,
    (768, 1024): 1.2,
    (1200, 1600): 0.6,
}


def write_images(
    root: Path,
    num_files: int = 2000,
    *,
    num_classes: int = 10,
    seed: int = 0,
    scale: float = 1.0,
    num_processes: int | None = None,
) -> list[Path]:
    """Write ``root/<class>/<number>.jpg``, over files that exist.

    Args:
        root: Folder to fill; made where it is missing.
        num_files: How many, dealt out to the classes in turn.
        num_classes: Folders ``class00``, ``class01``, ...
        seed: Of everything. The same arguments write the same bytes (with one version of Pillow
            and NumPy), on any number of processes.
        scale: Of both sides of every image: 2.0 makes most of them 1000 x 750 pixels.
        num_processes: None takes one per CPU that this process may use.

    Returns:
        The paths, sorted.

    Raises:
        ValueError: A count below 1 or a scale that is not above 0.
    """
    if min(num_files, num_classes) < 1 or not scale > 0:
        raise ValueError(
            "write_images: `num_files` and `num_classes` must be at least 1 and `scale` above 0, "
            f"got {num_files}, {num_classes} and {scale}."
        )
    num_canvases = min(MOST_CANVASES, max(2, num_files // 16))
    num_processes = num_processes or usable_cpus()
    for label in range(num_classes):
        (root / f"class{label:02d}").mkdir(parents=True, exist_ok=True)
    paths = [root / f"class{n % num_classes:02d}" / f"{n:06d}.jpg" for n in range(num_files)]
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(num_processes) as pool,
    ):
        # `list` raises the errors of processes here.
        list(pool.map(partial(_save_canvas, folder, seed), range(num_canvases)))
        write = partial(_write_one, folder, num_canvases, seed, scale)
        list(pool.map(write, range(num_files), paths, chunksize=16))
    return sorted(paths)


def paint(rng: np.random.Generator, side: int = CANVAS) -> np.ndarray:
    """Paint a picture of dead leaves: ``[side, side, 3]`` uint8."""
    texture = _texture(rng, side)
    palette = np.clip(
        rng.normal(0.45, 0.22, (6, 1)) + rng.normal(0, 0.07, (6, 3)), 0.02, 0.98
    )  # colours of nature differ mostly in lightness
    roughness = rng.uniform(0.4, 1.6)
    smallest = 10 ** rng.uniform(0.7, 1.6)
    canvas = (palette[0] + 0.05 * roughness * texture).astype(np.float32)
    # Radii fall off as r^-3 between the smallest and a third of the side: no size is preferred.
    num_leaves = int(2.2 * (side / smallest) ** 2 / math.log(side / 3 / smallest) / 4)
    spread = rng.random(num_leaves)
    inverse = smallest**-2 - spread * (smallest**-2 - (side / 3) ** -2)
    for radius in inverse**-0.5:
        _paint_leaf(canvas, texture, palette, roughness, radius, rng)
    padded = np.pad(canvas, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    soft = 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    sharp = rng.uniform(0.2, 0.8)
    return (255 * np.clip(sharp * canvas + (1 - sharp) * soft, 0, 1)).astype(np.uint8)


def _paint_leaf(
    canvas: np.ndarray,
    texture: np.ndarray,
    palette: np.ndarray,
    roughness: float,
    radius: float,
    rng: np.random.Generator,
) -> None:
    """Paint one leaf over a canvas: a disc, a strip or a box, shaded and textured."""
    side = len(canvas)
    cy, cx = rng.integers(0, side, 2)
    reach = min(side, int(radius) + 1)
    top, left = max(0, cy - reach), max(0, cx - reach)
    window = canvas[top : cy + reach + 1, left : cx + reach + 1]
    height, width = window.shape[:2]
    y = (np.arange(height, dtype=np.float32) + top - cy)[:, None] / radius
    x = (np.arange(width, dtype=np.float32) + left - cx)[None] / radius
    angle, squeeze, kind = rng.uniform(0, math.pi), rng.uniform(0.25, 1), rng.random()
    along = x * math.cos(angle) + y * math.sin(angle)
    across = (y * math.cos(angle) - x * math.sin(angle)) / squeeze
    inside = along**2 + across**2 < 1 if kind < 0.7 else np.maximum(abs(along), abs(across)) < 0.7
    shade = rng.normal(0, 0.12) * along + rng.normal(0, 0.12) * across
    colour = palette[rng.integers(len(palette))] + rng.normal(0, 0.06, 3)
    dy, dx = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    grain = texture[dy : dy + height, dx : dx + width] * (roughness * rng.uniform(0, 0.12))
    leaf = (colour + shade[..., None] + grain).astype(np.float32)
    np.copyto(window, leaf, where=inside[..., None])


def link_names(paths: list[Path], num_names: int) -> int:
    """Give files further names in their folders, in turn, so that there are ``num_names`` names.

    Further names of an earlier call are removed first.

    Args:
        paths: Files of one disk.
        num_names: Names that there are at the end.

    Returns:
        The number of names that were added.

    Raises:
        ValueError: There are more files than names.
    """
    added = num_names - len(paths)
    if added < 0:
        raise ValueError(f"`num_names` must be at least {len(paths)}, the files, got {num_names}.")
    for path in paths:
        for earlier in path.parent.glob(f"{path.stem}_*{path.suffix}"):
            earlier.unlink()
    for number in range(added):
        turn, position = divmod(number, len(paths))
        path = paths[position]
        os.link(path, path.with_name(f"{path.stem}_{turn + 1}{path.suffix}"))
    return added


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw noise of amplitude 1/f, ``[side, side, 3]`` float32 of unit spread, mostly gray."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / 64)  # nothing larger than 64 pixels
    layers = []
    for _ in range(2):
        spectrum = np.fft.rfft2(rng.standard_normal((side, side), np.float32)) * fall
        layer = np.fft.irfft2(spectrum, (side, side))
        layers.append(layer / layer.std())
    tint = rng.normal(0, 0.25, 3)
    return np.stack([layers[0] + amount * layers[1] for amount in tint], -1).astype(np.float32)


def _save_canvas(folder: str, seed: int, number: int) -> None:
    np.save(_canvas_path(folder, number), paint(np.random.default_rng([seed, 0, number])))


def _canvas_path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:03d}.npy")


@cache
def _canvas(folder: str, number: int) -> np.ndarray:
    # A memory map: all processes share one copy.
    return np.load(_canvas_path(folder, number), mmap_mode="r")


def _write_one(
    folder: str, num_canvases: int, seed: int, scale: float, number: int, path: Path
) -> None:
    """Write one file: a window of a canvas with its own exposure, colours, noise and quality."""
    rng = np.random.default_rng([seed, 1, number])
    height, width = (max(8, round(scale * side)) for side in _draw_size(rng))
    canvas = _canvas(folder, int(rng.integers(num_canvases)))
    top, left = rng.integers(0, max(1, CANVAS - height)), rng.integers(0, max(1, CANVAS - width))
    rows, columns = _mirrored(top, height), _mirrored(left, width)
    if rng.random() < 0.5:
        columns = columns[::-1]
    window = canvas[rows[:, None], columns]
    exposure, cast = rng.uniform(0.7, 1.25), rng.normal(1, 0.06, 3)
    levels = np.arange(256)[:, None] / 255
    curve = 255 * np.clip(exposure * cast * levels, 0, 1) ** rng.uniform(0.8, 1.25)
    picture = np.stack([curve[:, c].astype(np.float32)[window[..., c]] for c in range(3)], -1)
    noise = rng.standard_normal((height, width, 1), np.float32)
    picture += np.float32(rng.gamma(2, 2.0)) * noise
    quality = int(rng.choice([75, 85, 90, 94, 97], p=[0.05, 0.1, 0.2, 0.3, 0.35]))
    pixels = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", quality=quality, subsampling="4:2:0")


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw ``(height, width)`` of one image in pixels."""
    quantile = rng.uniform(0, 100)
    for size, share in SIZES.items():
        quantile -= share
        if quantile < 0:
            return size
    height, width = rng.integers(120, 501, 2)
    return int(height), int(width)


def _mirrored(begin: int, count: int) -> np.ndarray:
    """Return indices from ``begin`` on that turn back at the canvas's edges."""
    index = np.arange(begin, begin + count) % (2 * CANVAS)
    return np.where(index < CANVAS, index, 2 * CANVAS - 1 - index)


def main() -> None:
    """Write the files and print their number and sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to fill")
    parser.add_argument("--num-files", type=count, default=2000)
    parser.add_argument("--num-names", type=count, help="names of the files, by hard links")
    parser.add_argument("--num-classes", type=count, default=10)
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--scale", type=positive, default=1.0, help="of both sides")
    args = parser.parse_args()
    begin = time.perf_counter()
    paths = write_images(
        args.root,
        args.num_files,
        num_classes=args.num_classes,
        seed=args.seed,
        scale=args.scale,
    )
    seconds = time.perf_counter() - begin
    added = 0 if args.num_names is None else link_names(paths, args.num_names)
    sizes = np.array([path.stat().st_size for path in paths])
    pixels = np.array([math.prod(Image.open(path).size) for path in paths])
    print(
        f"{len(paths):,} files in {seconds:.1f} s: {sizes.mean() / 1000:.0f} KB on average "
        f"(median {np.median(sizes) / 1000:.0f}, tenth {np.quantile(sizes, 0.1) / 1000:.0f}, "
        f"nine tenths {np.quantile(sizes, 0.9) / 1000:.0f}), {pixels.mean():,.0f} pixels, "
        f"{sizes.sum() / pixels.sum():.2f} bytes per pixel; {added:,} further names"
    )


if __name__ == "__main__":
    main()
