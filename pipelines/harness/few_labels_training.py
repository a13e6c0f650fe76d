"""The loop of recipes with few labels: a step takes images with labels and images without.

A recipe says how the loss of both is made. `run` trains, averages the weights, validates, and
writes the results. Runs are short and stay in one process: a run is not resumed.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dali_cutmix import DataLoader
from harness.checkpoints import check_out, save_checkpoint, write_json
from harness.few_labels import FewLabelsSettings
from harness.processes import SMOKE_FINISHED, Processes, joined, refuse_several
from harness.results import RESULTS, describe
from harness.schedule import cosine
from harness.validation import validate

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Position:
    """Hold where a step stands in its run.

    Attributes:
        epoch: Epoch, from 0.
        batch: Number of the step within the epoch, from 0.
        progress: Share of the run that is behind, in [0, 1).
    """

    epoch: int
    batch: int
    progress: float


#: Function from a batch of the labelled loader, a batch of the unlabelled loader, or None in the
#: baseline, and the step's position, to scalars. "loss" is minimised; all are reported.
Loss = Callable[[Any, Any, Position], dict[str, torch.Tensor]]


@dataclass
class Learning:
    """Hold what a recipe trains, how and on what.

    Attributes:
        settings: Settings of the run.
        model: Network on the processes' device.
        labelled: Loader of images and labels. Every batch is full.
        unlabelled: Loader whose length is the number of steps of an epoch. Every batch is full.
        val: Loader of all images of val/.
        loss: Loss of a step.
        is_supervised: Whether the run is the baseline, which reads no unlabelled image. The
            baseline takes as many steps.
    """

    settings: FewLabelsSettings
    model: nn.Module
    labelled: DataLoader
    unlabelled: DataLoader
    val: DataLoader
    loss: Loss
    is_supervised: bool


def run(
    name: str, settings: FewLabelsSettings, make: Callable[[Processes, Path], Learning]
) -> dict[str, Any]:
    """Train, validate, and write checkpoint.pt and results.json at the end.

    Args:
        name: Name of the recipe.
        settings: Settings of the run.
        make: Function from the process, and a folder that is removed at the end, to a `Learning`.

    Returns:
        The content of results.json.
    """
    refuse_several(name)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(joined(name))
        out = settings.out or (temporary if settings.smoke else Path("runs", name))
        check_out(name, out)
        if (out / CHECKPOINT).exists():
            processes.stop(f"{out} holds a checkpoint. Pass another `--out`.")
        learning = make(processes, temporary)
        for loader in (learning.labelled, learning.unlabelled, learning.val):
            stack.callback(loader.close)
        network, history = train(learning, processes)
        num_unlabelled = 0 if learning.is_supervised else len(learning.unlabelled.dataset)
        results = describe(name, settings, processes.device) | {
            "num_labelled": len(learning.labelled.dataset),
            "num_unlabelled": num_unlabelled,
            "last_top1": history[-1]["top1"],
            "epochs": history,
        }
        state = {
            "model": network.state_dict(),
            "recipe": name,
            "settings": results["settings"],
            "classes": learning.val.dataset.classes,
            "transform": asdict(learning.val.transform),
            "history": history,
        }
        save_checkpoint(out / CHECKPOINT, state)
        write_json(out / RESULTS, results)
        if settings.smoke:
            processes.say(SMOKE_FINISHED)
    return results


def train(learning: Learning, processes: Processes) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Return the network of averaged weights, and a row of each epoch."""
    settings, model = learning.settings, learning.model
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, weight_decay=settings.weight_decay
    )
    update = get_ema_multi_avg_fn(settings.average_decay)
    average = AveragedModel(model, processes.device, multi_avg_fn=update, use_buffers=True)
    autocast = torch.autocast(processes.device.type, enabled=False)
    batches = batches_of(learning)
    history = []
    for epoch in range(settings.epochs):
        start_s = time.perf_counter()
        lr = cosine(settings.lr, epoch, settings.epochs)
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr
        row: dict[str, Any] = {"epoch": epoch, "lr": lr}
        row |= train_epoch(learning, epoch, batches, optimizer, average)
        if not math.isfinite(row["train_loss"]):
            processes.stop(
                f"the loss of epoch {epoch + 1} is {row['train_loss']}. Pass a lower `--lr`."
            )
        line = f"epoch {epoch + 1}/{settings.epochs}  loss {row['train_loss']:.4f}"
        if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
            row |= validate(average.module, learning.val, processes, autocast)
            line += f"  top-1 {row['top1']:.2f} %"
        row["seconds"] = time.perf_counter() - start_s
        history.append(row)
        processes.say(f"{line}  {row['seconds']:.1f} s")
    return average.module, history


def train_epoch(
    learning: Learning,
    epoch: int,
    batches: Iterator[tuple[Any, Any]],
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
) -> dict[str, float]:
    """Take the steps of an epoch; return the mean of each scalar of the loss."""
    learning.model.train()
    num_steps = len(learning.unlabelled)
    sums: dict[str, torch.Tensor] = {}
    for step in range(num_steps):
        progress = (epoch + step / num_steps) / learning.settings.epochs
        scalars = learning.loss(*next(batches), Position(epoch, step, progress))
        optimizer.zero_grad(set_to_none=True)
        scalars["loss"].backward()
        optimizer.step()
        average.update_parameters(learning.model)
        # Summed on the device: reading the loss in every step would make the host wait.
        for name, scalar in scalars.items():
            sums[name] = sums.get(name, 0) + scalar.detach()
    return {f"train_{name}": (total / num_steps).item() for name, total in sums.items()}


def batches_of(learning: Learning) -> Iterator[tuple[Any, Any]]:
    """Yield a labelled and an unlabelled batch for each step, without end; None in the baseline."""
    unlabelled = repeat(None) if learning.is_supervised else passes(learning.unlabelled)
    yield from zip(passes(learning.labelled), unlabelled, strict=False)


def passes(loader: DataLoader) -> Iterator[Any]:
    """Yield the batches of a loader, epoch after epoch, without end."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1
