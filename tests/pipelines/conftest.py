"""Fixtures of the tests of recipes and of evaluations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute by one thread: many that share few cores make small tensors slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide GPUs from what must come out bit-identical."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
