"""Photos, folders of them, and what happens to tests that need a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_images

from dali_cutmix.core.dali import num_gpus


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen = num_gpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if min(seen):
        return
    reason = f"needs a GPU: DALI sees {seen[0]}, torch {seen[1]}"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Three real photographs: HWC uint8, 427 x 640, 427 x 640 and 600 x 512 pixels."""
    with get_sample_data("grace_hopper.jpg") as file:
        portrait = np.asarray(Image.open(file).convert("RGB"))
    return [*load_sample_images().images, portrait]


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory, photos: list[np.ndarray]) -> Path:
    """An ImageFolder root: 3 classes of 7 JPEGs cut from photographs, each of another size."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index, (name, photo) in enumerate(
        zip(("china", "flower", "portrait"), photos, strict=True)
    ):
        (root / name).mkdir()
        for number in range(7):
            height, width = rng.integers(200, 401, 2)
            top = rng.integers(0, photo.shape[0] - height + 1)
            left = rng.integers(0, photo.shape[1] - width + 1)
            piece = Image.fromarray(photo[top : top + height, left : left + width])
            piece.save(root / name / f"{number:02d}.jpg", quality=85 + index)
    return root


@pytest.fixture(scope="session")
def numbered_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder root whose 23 files tell their number: gray PNG level ``10 * number``.

    Classes a, b, c hold 8, 8 and 7 files; every file is 8 x 8 pixels.
    """
    root = tmp_path_factory.mktemp("numbered")
    for number in range(23):
        folder = root / "abc"[number // 8]
        folder.mkdir(exist_ok=True)
        level = np.full((8, 8, 3), 10 * number, np.uint8)
        Image.fromarray(level).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(autouse=True)
def _no_gpu_unless_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked ``gpu`` runs on the CPU also where there is a GPU."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("dali_cutmix.core.device.num_gpus", lambda: 0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that a test starts
