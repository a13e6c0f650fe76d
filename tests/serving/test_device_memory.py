"""The limit on a GPU's memory. Without a GPU the driver's figures are given by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform, Tuning
from dali_cutmix.serving.device_memory import DeviceMemory, least_bytes
from dali_cutmix.serving.graph import GraphSettings


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
        "num_batches": 100,
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
        f"prefetch=2, got {least - 1}. Smaller batches, a smaller dtype or a smaller prefetch take "
        "less."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DeviceMemory(least - 1, settings())


def test_what_a_graph_takes_beside_torch_is_held_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gib = 2**30
    free, reserved = iter([20, 17, 12, 11]), iter([1, 1, 6, 6])  # at first 3 GiB, then 5 of torch's
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(free) * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: next(reserved) * gib)
    memory = DeviceMemory(int(3.5 * gib), settings())
    memory.begin()
    memory.check()
    memory.check()
    message = (
        r"took 4294967296 bytes .* with its first 3 batches, more than max_device_memory=37580"
    )
    with pytest.raises(RuntimeError, match=message):
        memory.check()


def test_memory_is_looked_at_for_the_first_batches_of_a_graph_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: asked.append(1) or (0, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    memory = DeviceMemory(2**40, settings())
    for _ in range(2):
        memory.begin()
        for _ in range(40):
            memory.check()
    assert len(asked) == 2 * 17


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
    with pytest.raises(RuntimeError, match="bytes of the GPU's memory with its first 1 batches"):
        first(16 * 3 * 224 * 224 * 14)
