"""Recipes of tasks in two processes: equal weights, and the numbers that one process measures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import training
from runs import PIPELINES, TORCHRUN, recipe, start

#: One recipe of each measure but transfer.py's: detectors share theirs, and so do classifiers.
NAMES = [
    "captions",
    "clip_contrastive",
    "detection_ssd",
    "scenes",
    "segmentation_deeplab",
    "video_r3d",
    "volumes_unet3d",
]
#: What depends on which images share a batch, as the recipe says.
OF_BATCHES = {"blind_bleu4"}
#: What each process of torchrun does: it trains each recipe, and keeps the weights.
TRAINING = """
import contextlib, dataclasses, importlib, pathlib, sys, torch
sys.path.insert(0, {pipelines!r})
from harness import seeds, training
from harness.processes import joined

execute = training.Run.execute

def kept(self):
    results = execute(self)
    path = f"{out}/{{self.training.name}}_{{self.processes.rank}}.pt"
    torch.save(self.training.model.state_dict(), path)
    return results

training.Run.execute = kept
torch.set_num_threads(1)
few = dict(smoke=True, seeds=1, workers=1, epochs=1, max_steps=100)
with joined("all") as processes:  # once: starting a second group takes long
    seeds.joined = lambda name: contextlib.nullcontext(processes)
    for name in {names!r}:
        recipe = importlib.import_module(name)
        settings = next(iter(recipe.PRESETS.values()))
        out = pathlib.Path({out!r}, name)
        recipe.main(dataclasses.replace(settings, **few, out=out))
"""


def measured_alone(
    name: str, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, out: Path
) -> dict[str, float]:
    """Return what a single process measures of a recipe's network with given weights."""
    rows = []

    def only_measure(self: Any) -> dict[str, Any]:
        self.training.model.load_state_dict(weights)
        autocast = torch.autocast("cpu", enabled=False)
        val = self.training.val
        row = self.training.measure(self.training.model, val, self.processes, autocast, None)
        rows.append(row)
        loaders: Sequence[Any] = (self.training.train(0), val, *self.training.tests)
        for loader in loaders:
            loader.close()
        return {"epochs": [row]}

    monkeypatch.setattr(training.Run, "execute", only_measure)
    module = recipe(name)
    settings = next(iter(module.PRESETS.values()))
    few = {"smoke": True, "seeds": 1, "workers": 1, "epochs": 1, "max_steps": 100, "out": out}
    module.main(dataclasses.replace(settings, **few))
    return rows[0]


@pytest.mark.slow
def test_two_processes_end_with_equal_weights_and_measure_what_one_process_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING.format(pipelines=str(PIPELINES), out=str(tmp_path), names=NAMES))
    start(*TORCHRUN, script)
    for name in NAMES:
        one, other = (
            torch.load(tmp_path / f"{name}_{rank}.pt", weights_only=True) for rank in range(2)
        )
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        results = json.loads((tmp_path / name / "0/results.json").read_text())
        assert results["num_processes"] == 2
        found = results["epochs"][-1]
        alone = measured_alone(name, one, monkeypatch, tmp_path / "alone" / name)
        for number in alone.keys() - OF_BATCHES:
            assert found[number] == pytest.approx(alone[number], rel=1e-5), (name, number)
