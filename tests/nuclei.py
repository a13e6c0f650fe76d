"""A wheel like stardist's with generated ellipses in place of the micrograph: not real data."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def generated_nuclei(size: tuple[int, int], num_nuclei: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright ellipses on dark noise, ``[H, W]`` uint16, and their numbers, ``[H, W]`` uint16."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices(size)
    instances = np.zeros(size, np.uint16)
    image = rng.normal(25, 3, size)
    for number in range(1, num_nuclei + 1):
        row, column = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        across, along = rng.uniform(6, 9), rng.uniform(9, 14)
        inside = ((rows - row) / across) ** 2 + ((columns - column) / along) ** 2 < 1
        instances[inside & (instances == 0)] = number
        image[inside] = rng.uniform(70, 200)
    return image.clip(0, 235).astype(np.uint16), instances


def write_wheel(path: Path, image: np.ndarray, instances: np.ndarray) -> Path:
    """Write the two TIFFs where stardist's wheel has them."""
    with zipfile.ZipFile(path, "w") as wheel:
        for name, array in (("img2d", image), ("mask2d", instances)):
            file = io.BytesIO()
            Image.fromarray(array).save(file, "tiff")
            wheel.writestr(f"stardist/data/images/{name}.tif", file.getvalue())
    return path
