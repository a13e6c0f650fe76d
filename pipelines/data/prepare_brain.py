"""Cut the averaged brain of nilearn's wheel into small volumes, with masks of its tissues.

    pip download --no-deps nilearn
    python pipelines/data/prepare_brain.py nilearn-*.whl --out brain

The wheel of nilearn (BSD-3-Clause) holds the ICBM 152 template of 2009, release a, of Fonov et al.
2011 (NeuroImage 54, doi:10.1016/j.neuroimage.2010.07.033): ONE averaged brain in voxels of 1 mm,
with maps of the probability of gray and of white matter. The template is copyright (C) 1993-2004
Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University,
who permit to copy, change and distribute the template where this notice stands. You download the
wheel; this script downloads nothing, and nilearn need not be installed. nibabel has to be. The
script writes

    brain/train/images/Z_Y_X.npy   18 volumes [48, 48, 48] uint8 of two slabs
    brain/train/masks/Z_Y_X.npy    0 other, 1 gray matter, 2 white matter: the likeliest of the maps
    brain/val/...                  9 volumes of the slab between, 8 mm away from both

where Z_Y_X is a volume's first voxel in the template. What the numbers of such data can say:

- Labels come from maps that were made from images like this one, and nobody drew them.
- All volumes are of one brain. The template's left half mirrors its right half exactly, so slabs
  are cut from front to back, and volumes on the left show what those on the right show.
- The average of 152 people has no noise. Two thresholds on gray levels find both tissues with a
  mean Dice coefficient of 0.960 in val/. `--noise` adds generated noise, after which two thresholds
  reach 0.665: a voxel alone says little. The script prints this number.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from folders import SEED, check_numbers, new_folder, stop, wheel_root

NAME = "prepare_brain"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Where the wheel holds the template and the maps: (x, y, z) uint8 of equal size.
FOLDER = "nilearn/datasets/data/"
IMAGE, *MAPS = (
    f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")
)
#: Voxels: side of a volume, and between a slab of training and one of validation.
SIDE, GAP = 48, 8
#: Voxels: first corners along z and x, and first rows of the slabs.
CORNERS_Z, CORNERS_X = (5, 53, 101), (26, 74, 122)
VAL_Y = 93
SLABS = {"train": (VAL_Y - SIDE - GAP, VAL_Y + SIDE + GAP), "val": (VAL_Y,)}
#: Voxels of the template, (z, y, x).
SHAPE = (189, 233, 197)


@dataclass(frozen=True)
class Settings:
    """Hold what to read and what to write."""

    wheel: Annotated[Path, tyro.conf.Positional]
    """The file nilearn-....whl, or a folder of installed packages that holds nilearn."""

    out: Path
    """New or empty folder for train/ and val/."""

    noise: float = 40.0
    """Standard deviation of the noise that is added, in gray levels of 255. 0 adds none."""

    format: Literal["npy", "nii.gz"] = "npy"
    """Ending and kind of the files written."""

    seed: int = 0
    """Of the noise."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    check_numbers(NAME, settings, noise=(0, 255), seed=SEED)
    counts = {}
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        image, mask = read(settings.wheel)
        image = with_noise(image, settings.noise, settings.seed)
        for part, rows in SLABS.items():
            corners = list(product(CORNERS_Z, rows, CORNERS_X))
            counts[part] = np.zeros((3, 256), np.int64)
            for corner in corners:
                window = tuple(slice(first, first + SIDE) for first in corner)
                name = "_".join(f"{first:03}" for first in corner)
                for kind, voxels in (("images", image[window]), ("masks", mask[window])):
                    write(complete / part / kind / f"{name}.{settings.format}", voxels)
                counts[part] += levels_by_class(image[window], mask[window])
            CONSOLE.print(
                f"{out / part}: {len(corners)} volumes of {SIDE} x {SIDE} x {SIDE} voxels"
            )
    dice = dice_of_thresholds(counts["val"], best_thresholds(counts["train"]))
    CONSOLE.print(f"Two thresholds, chosen on train/, reach a mean Dice of {dice:.3f} on val/.")


def read(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the template and its classes: ``[z, y, x]`` uint8 each."""
    root = wheel_root(NAME, wheel, "nilearn")
    arrays = []
    for name in (IMAGE, *MAPS):
        path = root.joinpath(FOLDER + name)
        if not path.is_file():
            stop(
                NAME,
                f"`wheel` must hold {FOLDER + name}, and {wheel} does not. nilearn 0.14.1 does.",
            )
        arrays.append(array_of(name, path.read_bytes()))
    image, gray, white = arrays
    # The likeliest of three: what is neither gray nor white has the rest of the probability.
    other = (255 - gray.astype(np.int64) - white).clip(min=0)
    return image, np.stack([other, gray, white]).argmax(0).astype(np.uint8)


def array_of(name: str, data: bytes) -> np.ndarray:
    """Return the voxels of a .nii.gz file: ``[z, y, x]`` uint8."""
    nibabel = import_nibabel()
    try:
        stored = nibabel.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj
        voxels = np.asarray(stored).transpose(2, 1, 0)
    except Exception as error:  # gzip's, zlib's, and several of nibabel's
        stop(NAME, f"{name} must be a volume of NIfTI, gzipped, and is damaged: {error}.")
    if voxels.shape != SHAPE or voxels.dtype != np.uint8:
        stop(
            NAME,
            f"{name} must hold {SHAPE} voxels (z, y, x) of uint8, got {voxels.shape} of "
            f"{voxels.dtype}. nilearn 0.14.1 has such volumes.",
        )
    return voxels


def with_noise(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Add normal noise to gray levels, and clip to [0, 255]: uint8."""
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    levels: np.ndarray = (image + noise).round().clip(0, 255).astype(np.uint8)
    return levels


def write(path: Path, voxels: np.ndarray) -> None:
    """Write a volume ``[z, y, x]``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".npy"):
        np.save(path, np.ascontiguousarray(voxels))
    else:
        nibabel = import_nibabel()
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.eye(4)), path)


def import_nibabel() -> Any:
    """Return nibabel, or end the run with one sentence."""
    try:
        return import_module("nibabel")
    except ImportError:
        stop(NAME, "NIfTI files need nibabel: `pip install -e '.[volumes]'` in the checkout.")


def levels_by_class(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Count the voxels of each class and gray level: ``[3, 256]`` int64."""
    pairs = mask.astype(np.int64) * 256 + image
    return np.bincount(pairs.ravel(), minlength=3 * 256).reshape(3, 256)


def best_thresholds(counts: np.ndarray) -> tuple[int, int]:
    """Return the first gray levels of gray and of white matter that suit the counts best."""
    pairs = [(low, high) for low in range(1, 255, 2) for high in range(low + 2, 256, 2)]
    return max(pairs, key=lambda pair: dice_of_thresholds(counts, pair))


def dice_of_thresholds(counts: np.ndarray, thresholds: tuple[int, int]) -> float:
    """Return the Dice coefficient of two thresholds, mean of gray and white matter."""
    low, high = thresholds
    total = 0.0
    for index, levels in ((1, slice(low, high)), (2, slice(high, None))):
        hits = counts[index, levels].sum()
        total += 2 * hits / max(1, counts[index].sum() + counts[:, levels].sum())
    return total / 2


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
