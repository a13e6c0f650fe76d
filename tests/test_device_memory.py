"""The limit on a GPU's memory. Without a GPU the driver's figures are given by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform, Tuning
from dali_cutmix.device_memory import DeviceMemory, least_bytes
from dali_cutmix.graph import GraphSettings


def settings(**changed: Any) -> GraphSettings:
    given: dict[str, Any] = {
        "batch_size": 256,
        "device_id": 0,
        "tuning": Tuning(num_threads=8, prefetch=2),
        "transform": TrainTransform(224),
        "mix": CutMix(),
        "dtype": "float32",
        "layout": "CHW",
        "with_plan": False,
        "kind": "path",
        "max_pixels": None,
    }
    return GraphSettings(**(given | changed))


def test_least_memory_counts_finished_batches_and_those_in_work() -> None:
    pixels = 256 * 3 * 224 * 224
    assert least_bytes(settings()) == pixels * (3 * 4 + 2)
    assert least_bytes(settings(mix=None)) == pixels * (3 * 4 + 1)
    assert least_bytes(settings(dtype="float16")) == pixels * (3 * 2 + 2)
    assert least_bytes(settings(dtype="uint8")) == pixels * (3 * 1 + 2)
    deeper = settings(tuning=Tuning(num_threads=8, prefetch=5))
    assert least_bytes(deeper) == pixels * (6 * 4 + 2)
    assert least_bytes(settings(transform=EvalTransform(64, 32), mix=None)) == 256 * 3 * 32**2 * 13


def test_a_limit_below_what_batches_take_is_refused_at_once() -> None:
    least = least_bytes(settings())
    DeviceMemory(least, settings())
    message = (
        f"DataLoader: `max_device_memory` must be at least {least} bytes for batches of 256 with "
        f"prefetch=2, got {least - 1}. Smaller batches, dtype=torch.float16 or prefetch=1 take "
        "less."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DeviceMemory(least - 1, settings())


def test_what_was_taken_with_the_first_batch_is_held_to_the_limit_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = iter([20 * 2**30, 17 * 2**30, 20 * 2**30, 15 * 2**30, 0])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(free), 80 * 2**30))
    memory = DeviceMemory(4 * 2**30, settings())
    memory.begin()
    memory.check()  # 3 GiB
    memory.check()  # asks no more
    memory.begin()
    with pytest.raises(
        RuntimeError, match=r"took 5368709120 bytes .* max_device_memory=4294967296"
    ):
        memory.check()


def test_the_cpu_has_no_limit(numbered_folder: Any) -> None:
    loader = DataLoader(
        numbered_folder, 4, transform=EvalTransform(8, 8), device="cpu", max_device_memory=1
    )
    assert len(list(loader)) == 6


@pytest.mark.gpu
def test_a_graph_on_a_gpu_is_held_to_its_limit(photo_folder: Any) -> None:
    def first(limit: int) -> None:
        with DataLoader(
            photo_folder, 16, transform=TrainTransform(224), max_device_memory=limit
        ) as loader:
            next(iter(loader))

    first(2**34)
    with pytest.raises(RuntimeError, match="bytes of the GPU's memory with its first batch"):
        first(16 * 3 * 224 * 224 * 14)
