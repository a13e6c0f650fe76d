"""The benchmark of recipes: digits, and what a model is measured by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchvision

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]

import recipes  # noqa: E402

from dali_cutmix import DataLoader, EvalTransform  # noqa: E402


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipes.write_digits(tmp_path_factory.mktemp("digits"), 32, 340)


def test_digits_are_dealt_out_by_class(digits: Path) -> None:
    for number in range(10):
        train, val = (sorted((digits / part / str(number)).iterdir()) for part in ("train", "val"))
        assert len(train) == recipes.PER_CLASS
        assert val
        assert max(path.name for path in train) < min(path.name for path in val)


def test_a_model_is_measured_by_what_it_says_of_whole_and_of_hidden_digits(
    digits: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None, num_classes=10)
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pt")
    found = recipes.evaluate(tmp_path / "checkpoint.pt", digits, 32, torch.device("cpu"))
    again = recipes.evaluate(tmp_path / "checkpoint.pt", digits, 32, torch.device("cpu"))
    assert found == again

    loader = DataLoader(digits / "val", 64, transform=EvalTransform(32, 32), device="cpu")
    with torch.no_grad():
        model.eval()
        pairs = [(model(image).softmax(1), label) for image, label in loader]
    probability = torch.cat([one for one, _ in pairs])
    label = torch.cat([one for _, one in pairs])
    confidence, chosen = probability.max(1)
    right = (chosen == label).double()
    assert found["top1"] == pytest.approx(100 * right.mean().item())
    bins = (confidence * 15).long().clamp(max=14)
    error = sum(
        abs((right[bins == one] - confidence[bins == one]).sum().item()) for one in range(15)
    )
    assert found["calibration_error"] == pytest.approx(error / len(label), abs=1e-4)
    assert 0 <= found["top1_hidden"] <= 100
