"""What peers offer: the oracles see what is wrong, and the table says what was run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _in_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS / "others")
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def offers() -> ModuleType:
    return importlib.import_module("offers")


def rolled(images: np.ndarray, *, to: int = 20) -> np.ndarray:
    """The images with the next sample's pixels in the columns before ``to``."""
    mixed = images.copy()
    mixed[..., :to] = np.roll(images, 1, axis=0)[..., :to]
    return mixed


def test_a_mask_of_another_owner_than_the_pixel_is_wrong(offers: ModuleType) -> None:
    images = offers.owned_images()
    mixed = rolled(images)
    assert offers.judge_masks(mixed, mixed[:, 0]).verdict == "yes"
    assert offers.judge_masks(mixed, images[:, 0]).verdict == "wrong"
    assert offers.judge_masks(images, images[:, 0]).said == "nothing was mixed"
    assert "shape" in offers.judge_masks(mixed, mixed).said


def test_a_weight_that_is_not_the_share_of_pixels_is_wrong(offers: ModuleType) -> None:
    def mix(images: np.ndarray, rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        return rolled(images, to=12), (1 - share) * rows + share * np.roll(rows, 1, axis=0)

    images, rows = offers.owned_images(), offers.class_rows()
    exact = offers.judge_rows(lambda *arrays: mix(*arrays, 12 / 48), rows, images)
    off = offers.judge_rows(lambda *arrays: mix(*arrays, 0.3), rows, images)
    unmixed = offers.judge_rows(lambda *arrays: arrays, rows, images)
    assert exact.verdict == "yes"
    assert off == ("wrong", "weights differ from the shares of pixels by up to 0.05")
    assert unmixed == ("wrong", "nothing was mixed")


def test_a_box_without_a_visible_pixel_a_missing_box_and_a_larger_box_are_wrong(
    offers: ModuleType,
) -> None:
    stored = np.array([[[0, 0, 10, 10], [20, 0, 30, 10]], [[0, 0, 10, 10], [20, 0, 30, 10]]])
    owners = np.zeros((32, 48), int)
    owners[:, 15:] = 1
    right = stored[0, 0], stored[1, 1]
    assert offers.judge_boxes(owners, right, [0, 11], stored) == ""
    assert "missing" in offers.judge_boxes(owners, right[:1], [0], stored)
    stayed = offers.judge_boxes(owners, [*right, stored[0, 1]], [0, 11, 1], stored)
    assert stayed == "a box stayed of which no pixel is visible"
    larger = offers.judge_boxes(owners, [right[0] + [0, 0, 2, 0], right[1]], [0, 11], stored)
    assert larger == "a box is larger than the stored one"
    assert "twice" in offers.judge_boxes(owners, [*right, right[0]], [0, 11, 0], stored)


def test_an_error_of_a_library_is_its_answer(offers: ModuleType) -> None:
    def fail() -> Any:
        raise ValueError("no\n masks.")

    assert offers.attempt(fail) == ("refused", "ValueError: no masks")


@pytest.mark.parametrize("peer", ["torchvision", "kornia"])
def test_peers_that_are_installed_answer_every_row(peer: str, offers: ModuleType) -> None:
    if peer == "kornia":
        pytest.importorskip("kornia")
    command = [sys.executable, "-W", "ignore", BENCHMARKS / "others" / f"offers_{peer}.py"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    report = json.loads(done.stdout)
    assert list(report["rows"]) == list(offers.ROWS)
    verdicts = {row: outcome["verdict"] for row, outcome in report["rows"].items()}
    assert verdicts["classes"] == "yes"
    assert verdicts["masks"] == verdicts["boxes"] == "refused"


def test_the_table_has_ours_first_and_a_note_for_every_reason() -> None:
    def peer(**verdicts: tuple[str, str]) -> dict[str, Any]:
        rows = {
            row: dict(zip(("verdict", "said"), pair, strict=True)) for row, pair in verdicts.items()
        }
        return {"versions": {"package": "1.2"}, "note": "", "rows": rows}

    result = {
        "date": "2026-01-02",
        "file": "a.json",
        "read": ["Another was read."],
        "peers": {
            "other": peer(masks=("refused", "ValueError: no"), boxes=("no", "no such name")),
            "dali_cutmix": peer(masks=("yes", ""), boxes=("wrong", "off by 1")),
        },
    }
    lines = importlib.import_module("peer_table").peer_table(result)
    assert lines[0] == "| offered | **dali_cutmix** | other |"
    assert lines[2:4] == ["| masks | yes | raises [1] |", "| boxes | **wrong** [2] | - |"]
    notes = {"1. other: ValueError: no.", "2. dali_cutmix: off by 1.", "- Another was read."}
    assert notes <= set(lines)


def test_the_page_of_the_annotations_shows_what_the_results_say() -> None:
    render = importlib.import_module("render")
    for path, text in render.pages_of(render.page_of()).items():
        assert path.read_text() == text, path
