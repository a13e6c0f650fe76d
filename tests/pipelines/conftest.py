"""Fixtures of the tests of recipes and of evaluations."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide GPUs from what must come out bit-identical."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
