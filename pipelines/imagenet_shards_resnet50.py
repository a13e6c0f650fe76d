"""ResNet-50 on ImageNet in tar shards, on disks or in a bucket: the paper's setting.

A run resumes at any step, and replaces images that cannot be decoded by other images.

Expect: not yet run here. The images are those of imagenet_resnet50.py. Published: 78.60 % top-1
with CutMix, 76.32 % without, each the best of 300 epochs; Yun et al. 2019, arXiv:1905.04899,
Table 3.

Run, where DIR holds train/ and val/, each full of shards as `dali-cutmix pack` writes them, or of
WebDataset shards of .jpg and .cls. Shards may also be named, and may lie in a bucket:

    python pipelines/imagenet_shards_resnet50.py --data DIR
    python pipelines/imagenet_shards_resnet50.py --train s3://B/{0000..1023}.tar --val s3://B/val.tar
    torchrun --nproc-per-node 8 pipelines/imagenet_shards_resnet50.py --data DIR --resume auto

The baseline is one flag away: --mix none. To try every part on generated shards, in
seconds, with or without a GPU:

    python pipelines/imagenet_shards_resnet50.py --smoke

To write the shards once: dali-cutmix pack imagenet/train shards/train, and the same for val.
--resize 256 shrinks the images on the way.

Follows: imagenet_resnet50.py with its preset "paper". Shards are read by index, so that an epoch is
one permutation of all images, as with files, and a run resumes in the middle of an epoch.

Differs: as imagenet_resnet50.py. Shards packed with --resize give crops of smaller images.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import nn

from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    Shard,
    TarShards,
    TrainTransform,
    mixed_cross_entropy,
)
from dali_cutmix.augmentations import ColorJitter, Lighting
from harness import schedule
from harness.pictures import make_shards, num_pictures
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, Count, CountOrZero, Share
from harness.settings import RunSettings, from_flags, named
from harness.training import Training, classified, run, shrunk

NAME = "imagenet_shards_resnet50"

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings(RunSettings):
    """Hold everything a run depends on, beside what all recipes have. `data` holds shards here."""

    train: str | None = None
    """Shards to train on, in place of DIR/train: a folder, or a pattern such as s3://B/{00..99}.tar
    or shards/train-*.tar."""

    val: str | None = None
    """Shards to validate on, in place of DIR/val."""

    index_dir: Path | None = None
    """Folder of the shards' indexes, one file per shard. None looks beside each shard. A bucket has
    to hold its indexes already, as `pack` writes them."""

    cache_dir: Path | None = None
    """Local folder into which shards of a bucket are fetched whole, ahead of their use. All
    processes of a machine share the folder. None reads image by image."""

    cache_bytes: Count | None = None
    """Most bytes of the shards in `cache_dir`; None takes what the disk holds."""

    window: Count | None = None
    """Shards whose images are permuted together: a process reads so many shards at a time. None
    permutes all images, so that a cache should hold all shards."""

    mix: Literal["paper", "none"] = "paper"
    """CutMix with one cut per batch as the authors; or the baseline."""

    epochs: Count = 300
    """Passes over the training data."""

    lr: Amount = 0.1
    """Learning rate of the first epochs, for a batch of 256."""

    lr_milestones: tuple[CountOrZero, ...] = (75, 150, 225)
    """Epochs, from 0, before which the learning rate is divided by 10."""

    momentum: Share = 0.9
    """Nesterov momentum."""

    weight_decay: Amount = 1e-4
    """On every parameter, biases and normalisation included."""

    size: Count = 224
    """Side of the images in pixels, in training and in validation."""

    resize: Count = 256
    """Short side in validation before the centre is cut out, in pixels."""


PRESETS = named({"paper": Settings()})


def shrink(settings: Settings) -> Settings:
    """Return the settings of the smoke run: the same run, small enough for two slow cores."""
    small = shrunk(settings, lr=settings.lr / 64, lr_milestones=(1,), size=32, resize=36)
    return dataclasses.replace(settings, **small)


# ------------------------------------------------------------------------------------------- graph


def find_shards(settings: Settings, temporary: Path) -> tuple[TarShards, TarShards]:
    """Return the shards to train and to validate on; a smoke run without shards generates both."""
    train, val = settings.train, settings.val
    if settings.data is not None:
        train, val = train or str(settings.data / "train"), val or str(settings.data / "val")
    if settings.smoke and train is None and val is None:
        train, val = str(temporary / "train"), str(temporary / "val")
        make_shards(Path(train), num_pictures())
        make_shards(Path(val), 9)
    if train is None or val is None:
        stop(
            NAME,
            f"`train` and `val` must be tar shards, got {train} and {val}. Pass `--data DIR` with "
            "train/ and val/ in it, or `--train` and `--val`, or `--smoke` alone to see it work.",
        )
    where = {
        "index_dir": settings.index_dir,
        "cache_dir": settings.cache_dir,
        "cache_bytes": settings.cache_bytes,
    }
    try:
        return TarShards(train, **where), TarShards(val, **where)
    except (OSError, ValueError) as error:
        stop(NAME, f"the shards cannot be read. {error}")


def make_train_loader(
    settings: Settings, shards: TarShards, device: torch.device, size: int
) -> DataLoader:
    """Return the training loader of this process's part of the data."""
    return DataLoader(
        shards,
        split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate),
        shuffle=True if settings.window is None else "shards",
        window=settings.window,
        transform=TrainTransform(size, augment=[ColorJitter(0.4, 0.4, 0.4), Lighting(0.1)]),
        mix=CutMix.paper() if settings.mix == "paper" else None,
        target="pair",  # two classes and weights per sample instead of rows of 1000 weights
        on_error="replace",  # a run of days must not end at one bad image in a million
        num_workers=settings.workers,
        tuning=settings.tuning,
        channels_last=True,
        device=device,
        seed=settings.seed,
    )


def make_val_loader(settings: Settings, shards: TarShards, device: torch.device) -> DataLoader:
    """Return the validation loader. Over all processes it serves every sample exactly once."""
    return DataLoader(
        shards,
        split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate),
        transform=EvalTransform(settings.resize, settings.size),
        num_workers=settings.workers,
        channels_last=True,
        device=device,
    )


# ------------------------------------------------------------------------------------------- model


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return an untrained ResNet-50 on ``device``; a smoke run takes a narrow one."""
    width = 4 if settings.smoke else 64  # of the 3 x 3 convolutions in the first stage
    model = torchvision.models.resnet50(
        weights=None, num_classes=num_classes, width_per_group=width
    )
    return model.to(device=device, memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- training


def make_training(settings: Settings, processes: Processes, temporary: Path) -> Training:
    """Return what the harness trains."""
    train, val = find_shards(settings, temporary)
    if train.classes != val.classes:
        stop(NAME, "the shards of `train` and of `val` must have the same classes.")
    device = processes.device
    model = make_model(settings, len(train.classes), device)
    return Training(
        name=NAME,
        settings=settings,
        train=partial(make_train_loader, settings, train, device),
        val=make_val_loader(settings, val, device),
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        ),
        loss=classified(mixed_cross_entropy),
        learning_rate=partial(schedule.stepped, settings.lr, milestones=settings.lr_milestones),
        size=lambda _: settings.size,
        free_to_change=frozenset(
            {"epochs", "train", "val", "index_dir", "cache_dir", "cache_bytes"}
        ),
    )


def main(settings: Settings) -> dict[str, object]:
    """Train, validate and save; return what results.json holds."""
    settings = shrink(settings) if settings.smoke else settings
    return run(NAME, settings, partial(make_training, settings))


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
