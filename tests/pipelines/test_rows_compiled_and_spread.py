"""Rows that mix features through torch.compile, and on two processes."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import cifar100_pyramidnet200 as cifar
from runs import PIPELINES, TORCHRUN, start

ROW = dataclasses.replace(cifar.PRESETS["feature_cutmix"], smoke=True, prob=1.0, workers=1)


@pytest.mark.slow
def test_compiled_row_trains_as_the_row_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DropBlock too, whose probability changes in each step.
    settings = dataclasses.replace(ROW, net="resnet", dropblock=0.1, epochs=1, max_steps=2)
    plain = cifar.main(dataclasses.replace(settings, out=tmp_path / "plain"))
    # Traced and differentiated by the compiler, without a C++ compiler.
    compiler: Any = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiler)
    compiled = cifar.main(dataclasses.replace(settings, compile=True, out=tmp_path / "compiled"))
    losses = [results["epochs"][0]["train_loss"] for results in (plain, compiled)]  # type: ignore[index]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


#: What each process of torchrun does: it trains, and keeps its weights and the layers it drew.
TRAINING = """
import dataclasses, sys, torch
sys.path.insert(0, {pipelines!r})
import cifar100_pyramidnet200 as cifar
from dali_cutmix import FeatureMix
from harness import training

drawn, layer_of, execute = [], FeatureMix.layer_of, training.Run.execute

def noted(self, epoch, batch):
    drawn.append(layer_of(self, epoch, batch))
    return drawn[-1]

def kept(self):
    results = execute(self)
    state = {{"model": self.training.model.state_dict(), "layers": drawn}}
    torch.save(state, {out!r} + f"/rank {{self.processes.rank}}.pt")
    return results

FeatureMix.layer_of, training.Run.execute = noted, kept
torch.set_num_threads(1)
preset = cifar.PRESETS["feature_cutmix"]
cifar.main(dataclasses.replace(preset, smoke=True, net="resnet", workers=1, max_steps=4))
"""


@pytest.mark.slow
def test_two_processes_mix_at_the_same_layers_and_end_with_equal_weights(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING.format(pipelines=str(PIPELINES), out=str(tmp_path)))
    start(*TORCHRUN, script)
    ranks = [torch.load(tmp_path / f"rank {rank}.pt", weights_only=True) for rank in range(2)]
    assert ranks[0]["layers"] == ranks[1]["layers"]
    assert len(set(ranks[0]["layers"])) > 1
    torch.testing.assert_close(ranks[0]["model"], ranks[1]["model"], rtol=0, atol=0)
