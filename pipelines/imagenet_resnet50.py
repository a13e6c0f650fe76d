"""ResNet-50 on ImageNet with CutMix: the paper's setting on this loader.

Expect: not yet run here. Published: 78.60 % top-1 with CutMix (21.40 % error), 76.32 % without
(23.68 % error), each the best of 300 epochs; Yun et al. 2019, arXiv:1905.04899, Table 3.

Run, where DIR holds train/ and val/, each with one folder of images per class:

    python pipelines/imagenet_resnet50.py --data DIR
    torchrun --nproc-per-node 8 pipelines/imagenet_resnet50.py --data DIR

The baseline is one flag away: --mix none. To go on after an interruption, add --resume auto.
To see every part work on pictures made up on the spot, in seconds, GPU or not:

    python pipelines/imagenet_resnet50.py --smoke

Follows: the paper's section 4.1 and the authors' code, github.com/clovaai/CutMix-PyTorch, train.py.
Random resized crop to 224 px and mirror, batch 256, 300 epochs, SGD with Nesterov momentum 0.9,
learning rate 0.1 divided by 10 at epochs 75, 150 and 225, weight decay 1e-4 on every parameter,
CutMix of alpha 1 in every batch, one cut per batch, partners by a random permutation. The model is
torchvision's, whose blocks and initialisation of convolutions are the authors'.

Differs: no colour jitter and no PCA lighting, which the authors' code has; bfloat16 autocast on a
GPU; several processes draw one cut each, where the authors' DataParallel drew one for the whole
batch. Every epoch's accuracy is kept, and the best one's is what the paper reports.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import nvidia.dali as dali
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    Shard,
    TrainTransform,
    mixed_cross_entropy,
)

NAME = "imagenet_resnet50"
CONSOLE = Console(highlight=False, soft_wrap=True)

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on."""

    data: Path | None = None
    """Folder with train/ and val/, each an ImageFolder root. With --smoke, None makes some up."""

    out: Path | None = None
    """Where checkpoint.pt and results.json go; on a disk that all processes see. None takes
    runs/imagenet_resnet50, or with --smoke a folder that is removed at the end."""

    resume: str | None = None
    """Checkpoint to go on from: a path, or "auto" for the output folder's, where there is one.
    None starts anew, and refuses to when the output folder holds a checkpoint."""

    smoke: bool = False
    """Shrink everything until a run takes seconds. Its numbers mean nothing."""

    mix: Literal["paper", "cutmix", "none"] = "paper"
    """One cut per batch as the authors; the library's default, one per sample; or the baseline."""

    alpha: float = 1.0
    """Both parameters of the Beta distribution of the kept fraction."""

    prob: float = 1.0
    """Probability that a batch ("paper") or a sample ("cutmix") is mixed."""

    epochs: int = 300
    """Passes over the training data."""

    batch_size: int = 256
    """Samples per step over all processes together."""

    lr: float = 0.1
    """Learning rate of the first epochs, for a batch of 256."""

    lr_milestones: tuple[int, ...] = (75, 150, 225)
    """Epochs, from 0, before which the learning rate is divided by 10."""

    momentum: float = 0.9
    """Nesterov momentum."""

    weight_decay: float = 1e-4
    """On every parameter, biases and normalisation included."""

    size: int = 224
    """Side of the images in pixels, in training and in validation."""

    resize: int = 256
    """Short side in validation before the centre is cut out, in pixels."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the forward pass. "auto" is bfloat16 autocast on a GPU and float32 on a CPU."""

    max_steps: int | None = None
    """Steps after which each pass over the data is cut short. None never does."""

    workers: int | None = None
    """CPU threads per loader and process. None takes one per CPU, at most 8."""

    seed: int = 0
    """Of initial weights, order, crops and mixing."""


# What a run may be resumed with another value of. The schedule does not depend on `epochs`.
FREE_TO_CHANGE = {"data", "out", "resume", "epochs", "workers"}


def shrink(settings: Settings) -> Settings:
    """Settings of the smoke run: the same run, small enough for two slow cores."""
    return dataclasses.replace(
        settings,
        epochs=min(settings.epochs, 2),
        lr=settings.lr / 64,
        lr_milestones=(1,),
        batch_size=min(settings.batch_size, 4),
        size=min(settings.size, 32),
        resize=min(settings.resize, 36),
        max_steps=3,
    )


def learning_rate(settings: Settings, epoch: int) -> float:
    """Learning rate of an epoch, from 0. It has no state, so no checkpoint need hold it."""
    return float(settings.lr * 0.1 ** sum(epoch >= start for start in settings.lr_milestones))


# ------------------------------------------------------------------------------------------- graph


def make_loaders(
    settings: Settings, data: Path, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """The training and the validation graph, each on this process's part of the data."""
    mixes = {
        "paper": CutMix.paper(alpha=settings.alpha, prob=settings.prob),
        "cutmix": CutMix(alpha=settings.alpha, prob=settings.prob),
        "none": None,
    }
    batch_size = split_batch(settings.batch_size, Shard.current().count)
    train = DataLoader(
        data / "train",
        batch_size,
        shuffle=True,
        transform=TrainTransform(settings.size),
        mix=mixes[settings.mix],
        target="pair",  # two classes and weights per sample: no rows of 1000 weights are made
        num_workers=settings.workers,
        channels_last=True,
        device=device,
        seed=settings.seed,
    )
    # Neither shuffled nor dropped: over all processes every sample comes exactly once.
    val = DataLoader(
        data / "val",
        batch_size,
        transform=EvalTransform(settings.resize, settings.size),
        num_workers=settings.workers,
        channels_last=True,
        device=device,
    )
    if val.dataset.classes != train.dataset.classes:
        odd = sorted(set(val.dataset.classes) ^ set(train.dataset.classes))[:5]
        stop(f"train/ and val/ in {data} must hold the same class folders, and differ in {odd}.")
    return train, val


def split_batch(batch_size: int, num_processes: int) -> int:
    """Samples per step of one process."""
    if batch_size % num_processes:
        whole = max(1, batch_size // num_processes) * num_processes
        stop(
            f"`batch_size` must divide by the number of processes, {num_processes}, got "
            f"{batch_size}. Pass `--batch-size {whole}`, or start another number of processes."
        )
    return batch_size // num_processes


# ------------------------------------------------------------------------------------------- model


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """An untrained ResNet-50, the same in every process."""
    torch.manual_seed(settings.seed)
    model = torchvision.models.resnet50(weights=None, num_classes=num_classes)
    return model.to(device=device, memory_format=torch.channels_last)


def autocast(settings: Settings, device: torch.device) -> torch.autocast:
    """The context of a forward pass."""
    enabled = settings.precision == "bf16" or (
        settings.precision == "auto" and device.type == "cuda"
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


# -------------------------------------------------------------------------------------------- loop


def train_epoch(
    settings: Settings,
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training data; with several processes ``model`` is the wrapped one.

    Returns:
        ``train_loss``, the mean against the mixed targets, and ``images_per_s``, both over all
        processes.
    """
    shard = Shard.current()
    model.train()
    loader.set_epoch(epoch)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, epoch)
    sums = torch.zeros(2, dtype=torch.float64, device=loader.device)
    seen, start_s = 0, time.perf_counter()
    num_steps = min(len(loader), settings.max_steps or len(loader))
    with progress_bar(f"epoch {epoch + 1}/{settings.epochs}", num_steps) as (bar, task):
        for image, target in islice(loader, num_steps):
            with autocast(settings, loader.device):
                loss = mixed_cross_entropy(model(image), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            # Summed on the device: reading the loss in every step would make the host wait for it.
            sums[0] += loss.detach() * len(image)
            sums[1] += len(image)
            seen += len(image) * shard.count
            rate = seen / (time.perf_counter() - start_s)
            bar.update(task, advance=1, rate=f"{rate:,.0f} images/s")
    if dist.is_initialized():
        dist.all_reduce(sums)
    loss_sum, count = sums.tolist()
    return {
        "train_loss": loss_sum / count,
        "images_per_s": count / (time.perf_counter() - start_s),
    }


@torch.no_grad()
def validate(settings: Settings, model: nn.Module, loader: DataLoader) -> dict[str, float]:
    """Loss and accuracy over every validation sample, counted once each over all processes.

    Parts differ by up to one sample, so by up to one batch: no step waits for another process, and
    ``model`` is the bare module, whose forward pass talks to nobody.

    Returns:
        ``val_loss``, ``top1`` and ``top5`` in percent, and ``num_val``, the samples counted.
    """
    model.eval()
    if dist.is_initialized():
        # Running statistics are each process's own since the last step; the first one's are saved.
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    sums = torch.zeros(4, dtype=torch.float64, device=loader.device)
    for image, label in islice(loader, settings.max_steps):
        with autocast(settings, loader.device):
            logits = model(image)
        logits = logits.float()
        hit = logits.topk(min(5, logits.shape[1])).indices == label[:, None]
        sums[0] += F.cross_entropy(logits, label, reduction="sum")
        sums[1] += hit[:, 0].sum()
        sums[2] += hit.sum()
        sums[3] += len(label)
    if dist.is_initialized():
        dist.all_reduce(sums)
    loss_sum, top1, top5, count = sums.tolist()
    return {
        "val_loss": loss_sum / count,
        "top1": 100 * top1 / count,
        "top5": 100 * top5 / count,
        "num_val": int(count),
    }


def run(settings: Settings) -> dict[str, Any]:
    """Train, validate and save, from the first epoch or the one after a checkpoint.

    Returns:
        What results.json holds.
    """
    if settings.smoke:
        settings = shrink(settings)
    # Each process makes its own pictures and, where no folder was named, throws its output away.
    with tempfile.TemporaryDirectory() as temporary, this_process() as device:
        data = find_data(settings, Path(temporary))
        out = settings.out or Path(temporary if settings.smoke else f"runs/{NAME}")
        checkpoint = find_checkpoint(settings, out)
        train, val = make_loaders(settings, data, device)
        model = make_model(settings, train.num_classes, device)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        )
        history: list[dict[str, float]] = []
        if checkpoint is not None:
            state = load_checkpoint(checkpoint, settings, train.dataset.classes)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            history = state["history"]
            say(f"Going on from {checkpoint}, after epoch {len(history)} of {settings.epochs}.")
        wrapped = model
        if dist.is_initialized():
            wrapped = nn.parallel.DistributedDataParallel(
                model, device_ids=[device] if device.type == "cuda" else None
            )
        for epoch in range(len(history), settings.epochs):
            row = {"epoch": epoch, "lr": learning_rate(settings, epoch)}
            row |= train_epoch(settings, wrapped, train, optimizer, epoch)
            if not math.isfinite(row["train_loss"]):
                stop(f"the training loss of epoch {epoch} is {row['train_loss']}. Lower `--lr`.")
            row |= validate(settings, model, val)
            history.append(row)
            if Shard.current().index == 0:
                save_checkpoint(
                    out / "checkpoint.pt",
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "history": history,  # a row per epoch: as many as are behind us
                        "settings": as_plain(settings),
                        "classes": train.dataset.classes,
                    },
                )
            say(
                f"epoch {epoch + 1}/{settings.epochs}  lr {row['lr']:g}  "
                f"loss {row['train_loss']:.4f}  top-1 {row['top1']:.2f} %  "
                f"top-5 {row['top5']:.2f} %  {row['images_per_s']:,.0f} images/s"
            )
        results = describe(settings, device, history)
        if Shard.current().index == 0:
            out.mkdir(parents=True, exist_ok=True)
            (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        if settings.smoke:
            say("Smoke run finished: every part works. These numbers are not results.")
        train.close()
        val.close()
        return results


# ------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that ``path`` is whole at any time: the old one, then the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def find_checkpoint(settings: Settings, out: Path) -> Path | None:
    """The checkpoint to go on from, or None to start anew."""
    own = out / "checkpoint.pt"
    if settings.resume == "auto":
        return own if own.exists() else None
    if settings.resume is not None:
        if not Path(settings.resume).is_file():
            stop(f"`resume` must be a checkpoint or 'auto', got {settings.resume!r}.")
        return Path(settings.resume)
    if own.exists():
        stop(f"{out} holds a checkpoint. Pass `--resume auto` to go on, or another `--out`.")
    return None


def load_checkpoint(path: Path, settings: Settings, classes: list[str]) -> dict[str, Any]:
    """Read a checkpoint, and refuse one of another run."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in as_plain(settings).items():
        saved = state["settings"].get(name)
        if name not in FREE_TO_CHANGE and value != saved:
            stop(
                f"`{name}` must be {saved!r} to go on from {path}, got {value!r}. "
                "Pass that value, or start anew with another `--out`."
            )
    if state["classes"] != classes:
        stop(f"{path} was trained on other classes than those of `data`.")
    return state


# -------------------------------------------------------------------------- processes, words, smoke


@contextmanager
def this_process() -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; gives this one's device."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def stop(problem: str) -> NoReturn:
    """End the run with one sentence instead of a traceback."""
    raise SystemExit(f"{NAME}: {problem}")


def say(line: str) -> None:
    """Print a line, once for all processes."""
    if Shard.current().index == 0:
        CONSOLE.print(line, markup=False)


@contextmanager
def progress_bar(title: str, num_steps: int) -> Iterator[tuple[Progress, Any]]:
    """A bar on the first process's terminal, gone when the epoch is; a file or a pipe gets none."""
    hidden = Shard.current().index > 0 or not CONSOLE.is_terminal
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
    with Progress(*columns, console=CONSOLE, transient=True, disable=hidden) as bar:
        yield bar, bar.add_task(title, total=num_steps, rate="")


def as_plain(settings: Settings) -> dict[str, Any]:
    """Settings in types that a checkpoint and JSON take."""
    plain = dataclasses.asdict(settings)
    return {name: str(v) if isinstance(v, Path) else v for name, v in plain.items()}


def describe(
    settings: Settings, device: torch.device, history: list[dict[str, float]]
) -> dict[str, Any]:
    """What results.json holds: enough to render a table, and to tell a smoke run from a result."""
    gpu = device.type == "cuda"
    return {
        "recipe": NAME,
        "smoke": settings.smoke,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": torch.cuda.get_device_name(device) if gpu else platform.processor() or "CPU",
        "num_processes": Shard.current().count,
        "versions": {
            "dali-cutmix": version("dali-cutmix"),
            "dali": dali.__version__,
            "torch": torch.__version__,
        },
        "settings": as_plain(settings),
        "best_top1": max((row["top1"] for row in history), default=None),
        "epochs": history,
    }


def find_data(settings: Settings, temporary: Path) -> Path:
    """The folder with train/ and val/; in a smoke run without one, pictures made up on the spot."""
    if settings.data is None and settings.smoke:
        make_pictures(temporary / "train", 11)
        make_pictures(temporary / "val", 9)  # of two processes one has 3 batches, the other 2
        return temporary
    data = settings.data
    if data is None or not all((data / part).is_dir() for part in ("train", "val")):
        stop(
            f"`data` must be a folder with train/ and val/ in it, got {data}. "
            "Pass `--data DIR`, or `--smoke` alone to try the recipe on made-up pictures."
        )
    return data


def make_pictures(folder: Path, num_pictures: int, num_classes: int = 7) -> None:
    """JPEG files of stripes behind a disc, a folder per class: the class is the stripes' angle."""
    for index in range(num_pictures):
        rng = np.random.default_rng(index)
        label = index % num_classes
        height, width = rng.integers(80, 120, size=2)
        y, x = np.mgrid[:height, :width] / 100
        angle = math.pi * label / num_classes
        wave = np.sin(40 * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 6))
        image = 128 + 60 * wave[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 8, 3)
        cy, cx = rng.uniform(0.2, 0.6, 2)
        image[(y - cy) ** 2 + (x - cx) ** 2 < 0.03] = rng.uniform(0, 255, 3)
        path = folder / f"class_{label}" / f"{index:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=90)


if __name__ == "__main__":
    run(tyro.cli(Settings, description=__doc__))
