"""Write handwritten digits as a folder of JPEG files: the demo's data, without a download.

The digits come with scikit-learn: 1797 scans of 8 x 8 pixels in 17 grays, the UCI set "Optical
Recognition of Handwritten Digits".
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
from PIL import Image

#: Pixels: side of the files. Each scanned pixel becomes 4 x 4 by bicubic interpolation.
SIDE = 32
#: JPEG quality of the files.
QUALITY = 95

#: Share of full level: mean and standard deviation of the files' pixels, for each of R, G, B.
MEAN = 0.31
STD = 0.35


def write_digits(root: Path, *, per_class: int, seed: int) -> tuple[Path, Path]:
    """Write ``root/train/<digit>/<number>.jpg`` and ``root/val/<digit>/<number>.jpg``.

    Files are 32 x 32 gray JPEGs. Writing again with the same arguments changes nothing.

    Args:
        root: Folder of the data, made when missing.
        per_class: Digits of each class that go to ``train``, drawn at random. The other digits
            go to ``val``.
        seed: Seed of that draw, at least 0.

    Returns:
        The folders ``train`` and ``val``.

    Raises:
        ImportError: scikit-learn is missing.
    """
    digits = importlib.import_module("sklearn.datasets").load_digits()
    generator = np.random.default_rng(seed)
    train: set[int] = set()
    for digit in range(10):
        members = np.flatnonzero(digits.target == digit)
        train.update(generator.permutation(members)[:per_class].tolist())
    for number, (scan, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / ("train" if number in train else "val") / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        gray = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
        large = gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        large.save(folder / f"{number:04d}.jpg", quality=QUALITY)
    return root / "train", root / "val"
