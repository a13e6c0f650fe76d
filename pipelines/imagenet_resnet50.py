"""ResNet-50 or 101 on ImageNet with CutMix: the paper's setting, and a modern one.

Expect: not yet run here. Published, top-1 in percent:

    preset   arch        with    --mix none   source
    paper    resnet50    78.60   76.32        Yun et al. 2019, arXiv:1905.04899, Table 3, best epoch
    paper    resnet101   79.83                github.com/clovaai/CutMix-PyTorch, README
    modern   resnet50    80.86                torchvision, ResNet50_Weights.IMAGENET1K_V2

Run, where DIR holds train/ and val/, each with one folder of images per class:

    python pipelines/imagenet_resnet50.py --data DIR
    torchrun --nproc-per-node 8 pipelines/imagenet_resnet50.py --data DIR --resume auto
    torchrun --nproc-per-node 8 pipelines/imagenet_resnet50.py --data DIR --preset modern

The baseline is one flag away: --mix none. On several machines: imagenet_resnet50.sbatch beside this
file. --resume auto resumes an interrupted run in mid-epoch, mostly also with other processes.
To try every part on generated pictures, in seconds, with or without a GPU:

    python pipelines/imagenet_resnet50.py --smoke

Follows: the paper's section 4.1 and the authors' code, github.com/clovaai/CutMix-PyTorch, train.py.
Random resized crop to 224 px and mirror, batch 256, 300 epochs, SGD with Nesterov momentum 0.9,
learning rate 0.1 divided by 10 at epochs 75, 150 and 225, weight decay 1e-4 on every parameter,
CutMix of alpha 1 in every batch, one cut per batch, partners by a random permutation. The model is
torchvision's, whose blocks and initialisation of convolutions are the authors'. The modern preset
is torchvision's, pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-
primitives: 600 epochs, batch 1024, cosine, MixUp 0.2 or CutMix 1.0 by the toss of a coin,
TrivialAugment, erasing, smoothing, repeated augmentation, averaged weights, 176 px in training.

Differs:

- no colour jitter and no PCA lighting, which the authors' code has;
- bfloat16 autocast on a GPU;
- each process draws one cut; the authors' DataParallel drew one cut for the whole batch;
- the results hold the accuracy of every epoch; the paper reports the best epoch;
- the modern preset mixes erased pixels as bytes before normalisation, which is the same within
  rounding, and takes partners by a random permutation instead of the sample before;
- with repeated images a run resumes with another number of processes only at the end of an epoch.
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
    FileList,
    MixUp,
    RandomChoice,
    Shard,
    TrainTransform,
    mixed_cross_entropy,
)
from dali_cutmix.augmentations import RandomErasing, TrivialAugment
from harness import schedule
from harness.pictures import find_data
from harness.processes import Processes, split_batch, stop
from harness.sampling import RepeatedAugmentation
from harness.settings import RunSettings, from_flags, named
from harness.training import Training, run, shrunk

NAME = "imagenet_resnet50"

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings(RunSettings):
    """Hold everything a run depends on, beside what all recipes have."""

    arch: Literal["resnet50", "resnet101"] = "resnet50"
    """Depth of the network."""

    mix: Literal["paper", "cutmix", "mixup_or_cutmix", "none"] = "paper"
    """CutMix with one cut per batch, as the authors; with one cut per sample, as the library;
    MixUp or CutMix by batch, as torchvision; or the baseline."""

    alpha: float = 1.0
    """Both parameters of the Beta distribution of CutMix's kept fraction."""

    mixup_alpha: float = 0.2
    """Both parameters of MixUp's Beta distribution."""

    prob: float = 1.0
    """Probability that a batch ("paper") or a sample ("cutmix") is mixed."""

    trivial_augment: bool = False
    """TrivialAugment Wide on each image, after its crop."""

    erase: float = 0.0
    """Probability that a rectangle of an image is erased."""

    repeats: int = 1
    """Copies of an image in a row, each with its own augmentation. The epoch's length stays."""

    epochs: int = 300
    """Passes over as many images as the training data has."""

    batch_size: int = 256
    """Samples per step of the optimizer, over all processes together."""

    lr: float = 0.1
    """Highest learning rate, for the batch size above."""

    decay: Literal["steps", "cosine"] = "steps"
    """Divide the learning rate by 10 at the milestones, or lower it along half a cosine to 0."""

    lr_milestones: tuple[int, ...] = (75, 150, 225)
    """Epochs, from 0, before which "steps" divides."""

    warmup_epochs: int = 0
    """Epochs in which "cosine" first rises, from a hundredth of `lr`."""

    momentum: float = 0.9
    """Of SGD."""

    nesterov: bool = True
    """Nesterov's momentum."""

    weight_decay: float = 1e-4
    """On parameters, biases included."""

    norm_weight_decay: float | None = None
    """On parameters of normalisation; None takes `weight_decay`."""

    label_smoothing: float = 0.0
    """Share of each target spread over all classes."""

    average_decay: float | None = None
    """Decay of an exponential moving average of the weights, rescaled with batch size and epochs.
    The average is validated, and its top-1 is reported. None keeps no average."""

    average_every: int = 32
    """Steps from one update of the average to the next. Averaging starts after the warmup."""

    sizes: tuple[int, ...] = (224,)
    """Sides of the training images in pixels. From each of `size_milestones` on, the next side is
    used. Small images early save time."""

    size_milestones: tuple[int, ...] = ()
    """Epochs, from 0, with which the next of `sizes` begins."""

    val_size: int = 224
    """Side of the images in validation, in pixels."""

    resize: int = 256
    """Short side in validation before the centre is cut out, in pixels."""


PRESETS = named(
    {
        "paper": Settings(),
        "modern": Settings(
            mix="mixup_or_cutmix",
            trivial_augment=True,
            erase=0.1,
            repeats=4,
            epochs=600,
            batch_size=1024,
            lr=0.5,
            decay="cosine",
            warmup_epochs=5,
            nesterov=False,
            weight_decay=2e-5,
            norm_weight_decay=0.0,
            label_smoothing=0.1,
            average_decay=0.99998,
            sizes=(176,),
            resize=232,
        ),
    }
)


def shrink(settings: Settings) -> Settings:
    """Return the settings of the smoke run: the same run, small enough for two slow cores."""
    small = shrunk(
        settings,
        lr=settings.lr / 64,
        lr_milestones=(1,),
        warmup_epochs=min(settings.warmup_epochs, 1),
        average_every=1,
        sizes=tuple(min(size, 32) for size in settings.sizes),
        val_size=min(settings.val_size, 32),
        resize=min(settings.resize, 36),
    )
    return dataclasses.replace(settings, **small)


def learning_rate(settings: Settings, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    if settings.decay == "steps":
        return schedule.stepped(settings.lr, epoch, settings.lr_milestones)
    return schedule.cosine(settings.lr, epoch, settings.epochs, settings.warmup_epochs)


# ------------------------------------------------------------------------------------------- graph


def make_train_loader(
    settings: Settings, data: Path, device: torch.device, size: int
) -> DataLoader:
    """Return the training loader of this process's part of the data, for images of a size."""
    # Partners by a permutation: with fewer processes than repeats, neighbours show one image.
    one_of = [MixUp.paper(settings.mixup_alpha), CutMix.paper(settings.alpha)]
    mixes = {
        "paper": CutMix.paper(alpha=settings.alpha, prob=settings.prob),
        "cutmix": CutMix(alpha=settings.alpha, prob=settings.prob),
        "mixup_or_cutmix": RandomChoice(one_of),
        "none": None,
    }
    augment = [TrivialAugment(interpolation="bilinear")] if settings.trivial_augment else []
    augment += [RandomErasing(settings.erase)] if settings.erase else []
    files, shard = FileList.from_folder(data / "train"), Shard.current()
    sampler = None
    if settings.repeats > 1:
        sampler = RepeatedAugmentation(len(files), settings.repeats, settings.seed, shard)
    return DataLoader(
        files,
        split_batch(NAME, settings.batch_size, shard.count, settings.accumulate),
        shuffle=sampler is None,
        sampler=sampler,
        transform=TrainTransform(size, augment=augment),
        mix=mixes[settings.mix],
        target="pair",  # two classes and weights per sample instead of rows of 1000 weights
        num_workers=settings.workers,
        tuning=settings.tuning,
        channels_last=True,
        device=device,
        seed=settings.seed,
    )


def make_val_loader(settings: Settings, data: Path, device: torch.device) -> DataLoader:
    """Return the validation loader. Over all processes it serves every sample exactly once."""
    return DataLoader(
        data / "val",
        split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate),
        transform=EvalTransform(settings.resize, settings.val_size),
        num_workers=settings.workers,
        channels_last=True,
        device=device,
    )


# ------------------------------------------------------------------------------------------- model


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return an untrained network on ``device``."""
    build = {"resnet50": torchvision.models.resnet50, "resnet101": torchvision.models.resnet101}
    model = build[settings.arch](weights=None, num_classes=num_classes)
    return model.to(device=device, memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- training


def make_training(settings: Settings, processes: Processes, temporary: Path) -> Training:
    """Return what the harness trains."""
    if len(settings.sizes) != len(settings.size_milestones) + 1:
        stop(
            NAME,
            "`sizes` must be one more than `size_milestones`, got "
            f"{settings.sizes} and {settings.size_milestones}.",
        )
    data, device = find_data(NAME, settings, temporary), processes.device
    val = make_val_loader(settings, data, device)
    classes = FileList.from_folder(data / "train").classes
    if val.dataset.classes != classes:
        odd = sorted(set(val.dataset.classes) ^ set(classes))[:5]
        stop(NAME, f"train/ and val/ in {data} must hold the same class folders; odd are {odd}.")
    model = make_model(settings, len(classes), device)
    average = None
    if settings.average_decay is not None:
        average = schedule.averaged(
            model,
            settings.average_decay,
            batch_size=settings.batch_size,
            every=settings.average_every,
            epochs=settings.epochs,
        )
    return Training(
        name=NAME,
        settings=settings,
        train=partial(make_train_loader, settings, data, device),
        val=val,
        model=model,
        optimizer=torch.optim.SGD(
            schedule.decaying(model, settings.weight_decay, settings.norm_weight_decay),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        ),
        loss=partial(mixed_cross_entropy, label_smoothing=settings.label_smoothing),
        learning_rate=partial(learning_rate, settings),
        size=partial(schedule.size_of, sizes=settings.sizes, milestones=settings.size_milestones),
        average=average,
        average_every=settings.average_every,
        average_from=settings.warmup_epochs,
        # A longer run starts like a shorter run, unless the schedule depends on the last epoch.
        free_to_change=frozenset({"epochs"} if settings.decay == "steps" and not average else ()),
    )


def main(settings: Settings) -> dict[str, object]:
    """Train, validate and save; return what results.json holds."""
    settings = shrink(settings) if settings.smoke else settings
    return run(NAME, settings, partial(make_training, settings))


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
