"""Recipes under torchrun, one after the other in one process group: to make a group takes long.

``two_ranks.py OUT NAME...``: each rank trains each recipe on generated data, and writes to OUT the
weights and the layers that were drawn for mixing. Where OUT holds ``data/``, the ranks train on
these images too, until rank 1 is told to stop, and write their exit codes.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dali_cutmix import FeatureMix
from harness.monitor import Monitor
from harness.processes import joined
from harness.training import Run
from runs import recipe

IMAGENET, CIFAR = "imagenet_resnet50", "cifar100_pyramidnet200"


def short(module: ModuleType, name: str, out: Path) -> Any:
    """Return the settings of a smoke run of two epochs, or of one where a task is learnt."""
    presets = module.PRESETS
    if name == IMAGENET:
        return module.Settings(smoke=True, out=out)
    if name == CIFAR:
        row = presets["feature_cutmix"]
        return dataclasses.replace(row, smoke=True, net="resnet", workers=1, max_steps=4, out=out)
    few = {"smoke": True, "seeds": 1, "workers": 1, "epochs": 1, "max_steps": 100, "out": out}
    return dataclasses.replace(next(iter(presets.values())), **few)


def train(out: Path, names: list[str]) -> None:
    """Train recipes, and keep what they end with."""
    drawn: list[int] = []
    layer_of, execute = FeatureMix.layer_of, Run.execute

    def noted(self: FeatureMix, epoch: int, batch: int) -> int:
        drawn.append(layer_of(self, epoch, batch))
        return drawn[-1]

    def kept(self: Run) -> Any:
        results = execute(self)
        end = {"model": self.training.model.state_dict(), "layers": drawn}
        torch.save(end, out / f"{self.training.name}_{self.processes.rank}.pt")
        return results

    FeatureMix.layer_of, Run.execute = noted, kept  # type: ignore[method-assign]
    for name in names:
        module = recipe(name)
        module.main(short(module, name, out / name))


def stop_rank_1(out: Path, rank: int) -> None:
    """Train on the images of OUT; rank 1 is told to stop after its second step."""
    step, made = Monitor.step, []

    def told(self: Monitor, *arguments: Any) -> None:
        step(self, *arguments)
        made.append(arguments)
        if (rank, len(made)) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    Monitor.step = told  # type: ignore[method-assign]
    module = recipe(IMAGENET)
    settings = short(module, IMAGENET, out / "stopped")
    try:
        module.main(dataclasses.replace(settings, data=out / "data", max_steps=100))
    except SystemExit as stopped:
        (out / f"exit code {rank}").write_text(str(stopped.code))


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, *asked = sys.argv[1:]
    with joined("two_ranks") as processes:
        train(Path(root), asked)
        if Path(root, "data").exists():
            stop_rank_1(Path(root), processes.rank)
