"""The limit on a GPU's memory, refused before anything is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform, Views

PIXELS = 256 * 3 * 224 * 224


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    monkeypatch.setattr("dali_cutmix.serving.settings.choose_device", lambda _: device)


def loader_of(root: Path, limit: int, **settings: Any) -> DataLoader:
    settings = {"transform": TrainTransform(224), "mix": CutMix(), "prefetch": 2, **settings}
    return DataLoader(root, 256, max_device_memory=limit, **settings)


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({}, PIXELS * (3 * 4 + 2)),
        ({"mix": None}, PIXELS * (3 * 4 + 1)),
        ({"dtype": torch.float16}, PIXELS * (3 * 2 + 2)),
        ({"dtype": torch.bfloat16}, PIXELS * (3 * 4 + 2)),
        ({"dtype": torch.uint8}, PIXELS * (3 * 1 + 2)),
        ({"prefetch": 5}, PIXELS * (6 * 4 + 2)),
        ({"transform": EvalTransform(64, 32), "mix": None}, 256 * 3 * 32**2 * 13),
        (
            {"transform": Views([EvalTransform(64, 32), EvalTransform(8, 8)]), "mix": None},
            256 * 3 * (32**2 + 8**2) * 13,
        ),
    ],
)
def test_a_limit_below_finished_batches_and_those_in_work_is_refused(
    numbered_folder: Path, settings: dict[str, Any], least: int
) -> None:
    loader_of(numbered_folder, least, **settings)
    prefetch = settings.get("prefetch", 2)
    message = (
        f"DataLoader: `max_device_memory` must be at least {least} bytes for batches of 256 with "
        f"prefetch={prefetch}, got {least - 1}. Smaller batches, a smaller dtype or a smaller "
        "prefetch take less."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loader_of(numbered_folder, least - 1, **settings)


def test_the_cpu_has_no_limit(numbered_folder: Path) -> None:
    loader = loader_of(numbered_folder, 1, transform=EvalTransform(8, 8), mix=None, device="cpu")
    assert len(list(loader)) == 1
