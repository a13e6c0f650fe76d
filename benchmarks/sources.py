"""The same pictures in other files: shrunk as `pack --resize` does, or tiled into larger images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dali_cutmix.tools.bench.machine import usable_cpus

QUALITY = 90
TILE = (375, 500)  # (height, width) in pixels
#: Tiles on a side of an image, and number of files, by name.
MOSAICS = {"500 x 375": (1, 512), "1,000 x 750": (2, 256), "2,000 x 1,500": (4, 128)}
SHORT_SIDE = 256
STORED, SHRUNK = "as stored", f"{SHORT_SIDE} px short side"


def jpeg_folder(text: str) -> Path:
    """Return a folder of JPEGs, as the ``type`` of an argument of a command line.

    Raises:
        ArgumentTypeError: There is no JPEG.
    """
    root = Path(text)
    if next(root.rglob("*.jpg"), None) is None:
        raise argparse.ArgumentTypeError(f"{root} has no .jpg file. images.py writes some.")
    return root


def write_sources(data: Path, out: Path) -> dict[str, Path]:
    """Write the pictures in other sizes, in the same classes.

    The larger ones are mosaics of the pictures at their own scale, and not enlargements, which
    would have fewer bytes per pixel than photographs of that size.

    Args:
        data: ImageFolder root.
        out: Folder to fill, with one ImageFolder root for each size.

    Returns:
        The roots by name, smaller images first; ``data`` itself is ``"as stored"``.

    Raises:
        FileNotFoundError: ``data`` has no JPEG.
    """
    paths = sorted(data.rglob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"{data} has no .jpg file. `images.py {data}` writes some.")
    roots = {SHRUNK: out / "256", STORED: data}
    with ProcessPoolExecutor(usable_cpus()) as pool:
        written = pool.map(partial(_shrink, roots[SHRUNK]), paths, chunksize=16)
        list(written)  # raises the errors of processes
        for name, (num_tiles, most) in MOSAICS.items():
            roots[name] = out / f"{num_tiles}x"
            wanted = range(min(most, len(paths)))
            list(pool.map(partial(_tile, roots[name], num_tiles, paths), wanted, chunksize=4))
    return roots


def describe_files(root: Path, most: int = 500) -> dict[str, float]:
    """Return means over at most ``most`` files of a folder, in equal strides.

    Returns:
        ``num_files``; ``bytes`` and ``pixels`` per file.
    """
    paths = sorted(root.rglob("*.jpg"))
    looked_at = paths[:: max(1, len(paths) // most)]
    sizes = [Image.open(path).size for path in looked_at]
    return {
        "num_files": len(paths),
        "bytes": float(np.mean([path.stat().st_size for path in looked_at])),
        "pixels": float(np.mean([width * height for width, height in sizes])),
    }


def _shrink(root: Path, path: Path) -> None:
    picture = Image.open(path).convert("RGB")
    scale = SHORT_SIDE / min(picture.size)
    if scale < 1:
        width, height = (round(scale * side) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    _save(picture, root / path.parent.name / path.name)


def _tile(root: Path, num_tiles: int, paths: Sequence[Path], number: int) -> None:
    height, width = TILE
    mosaic = Image.new("RGB", (width * num_tiles, height * num_tiles))
    for tile in range(num_tiles**2):
        picture: Any = Image.open(paths[(number + 97 * tile) % len(paths)]).convert("RGB")
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        mosaic.paste(picture, (tile % num_tiles * width, tile // num_tiles * height))
    _save(mosaic, root / paths[number].parent.name / f"{number:06d}.jpg")


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", quality=QUALITY, subsampling="4:2:0")
