"""ResNet-50 on ImageNet with CutMix: the paper's setting, a preset for each row of its tables.

Expect: not yet run here. Published, not reproduced here: error in percent at the best epoch, Yun et
al. 2019, arXiv:1905.04899, Tables 3 and 4:

    preset                top-1  top-5    preset                top-1  top-5
    baseline              23.68   7.05    resnet101_baseline    21.87   6.29
    cutout                22.93   6.66    resnet101_cutout      20.72   5.51
    stochastic_depth      22.46   6.27    resnet101_mixup       20.52   5.28
    mixup                 22.58   6.40    resnet101_cutmix      20.17   5.24
    manifold_mixup        22.50   6.21    resnext101_baseline   21.18   5.57
    dropblock             21.87   5.98    resnext101_cutmix     19.47   5.03
    feature_cutmix        21.80   6.06    autoaugment           22.40
    paper                 21.40   5.92

dropblock and autoaugment are quoted there from their own papers, with 270 epochs; autoaugment only
in the README of github.com/clovaai/CutMix-PyTorch. paper is CutMix. Beside the rows:

    modern   19.14 top-1 error: torchvision, ResNet50_Weights.IMAGENET1K_V2
    short    nothing published. 18 epochs at 128 to 160 px: 23 million images, which is an hour at
             6,400 images per second, and two hours at 3,200. Which GPU does so was not measured.
             Long enough to try a loader and a baseline against each other; too short for CutMix
             to gain, since a run has to overfit for that

Run, where DIR holds train/ and val/, each with one folder of images per class:

    python pipelines/imagenet_resnet50.py --data DIR
    python pipelines/imagenet_resnet50.py --data DIR --preset short
    torchrun --nproc-per-node 8 pipelines/imagenet_resnet50.py --data DIR --resume auto
    torchrun --nproc-per-node 8 pipelines/imagenet_resnet50.py --data DIR --preset modern

The baseline is one flag away: --mix none, which is also --preset baseline. On several machines:
imagenet_resnet50.sbatch beside this file. --resume auto resumes an interrupted run in mid-epoch,
mostly also with other processes.
To try every part on generated pictures, in seconds, with or without a GPU:

    python pipelines/imagenet_resnet50.py --smoke

Follows: the paper's section 4.1 and the authors' code, github.com/clovaai/CutMix-PyTorch, train.py
and utils.py:

- random resized crop to 224 px, mirror, colour jitter of brightness, contrast and saturation by 0.4
  in an order drawn for each image, PCA lighting of 0.1;
- batch 256, 300 epochs, SGD with Nesterov momentum 0.9, weight decay 1e-4 on every parameter;
- learning rate 0.1, divided by 10 at epochs 75, 150 and 225;
- CutMix of alpha 1 in every batch, one cut per batch, partners by a random permutation;
- MixUp in every batch. The authors searched its alpha and not its probability, says issue 30 of
  their repository;
- torchvision's model, whose blocks and initialisation of convolutions are the authors'. ResNet-101
  trains by the same command, says issue 40;
- DropBlock as the code of its authors: blocks of 7 cells, 90 % kept in the last stage, a quarter of
  the drops in the stage before, behind each norm, rising over the run.

The modern preset is torchvision's, pytorch.org/blog/how-to-train-state-of-the-art-models-using-
torchvision-latest-primitives: 600 epochs, batch 1024, cosine, MixUp 0.2 or CutMix 1.0 by the toss
of a coin, TrivialAugment, erasing, smoothing, repeated augmentation, averaged weights, 176 px in
training.

Differs:

- jitter and lighting round to whole levels and clip to [0, 255] after each step; the authors'
  floats do neither;
- bfloat16 autocast on a GPU;
- each process draws one cut; the authors' DataParallel drew one cut for the whole batch;
- the results hold the accuracy of every epoch; the paper reports the best epoch;
- autoaugment leaves jitter and lighting out, and its run is as long as the others;
- the modern preset mixes erased pixels as bytes before normalisation, which is the same within
  rounding, and takes partners by a random permutation instead of the sample before;
- with repeated images a run resumes with another number of processes only at the end of an epoch.

What the authors did not publish, and what stands here:

- the rate of Stochastic Depth and its rule: 0.25, as for CIFAR-100, for the last block. The rate
  rises from block to block on a line, as Huang et al. 2016, arXiv:1603.09382;
- how often Cutout erases: part of every image;
- the layers that Manifold Mixup and Feature CutMix draw from: the image, and what the first and
  the second stage put out, as Verma et al. 2018, arXiv:1806.05236.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    FileList,
    MixUp,
    RandomChoice,
    Shard,
    TrainTransform,
    mixed_cross_entropy,
)
from dali_cutmix.augmentations import (
    Augmentation,
    AutoAugment,
    ColorJitter,
    Lighting,
    RandomErasing,
    TrivialAugment,
)
from harness import schedule
from harness.pictures import find_data, read_parts
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, BelowOne, Count, CountOrZero, Positive, Share
from harness.sampling import RepeatedAugmentation
from harness.settings import RunSettings, from_flags, named
from harness.training import Training, classified, run, shrunk
from harness.unused import refuse_unused
from models.features import IMAGE, mixing_inside
from models.regularization import Regularization, set_progress
from models.resnet import IMAGENET_LAYERS, imagenet_resnet

NAME = "imagenet_resnet50"

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings(RunSettings):
    """Hold everything a run depends on, beside what all recipes have."""

    arch: Literal["resnet50", "resnet101", "resnext101_32x4d"] = "resnet50"
    """The network."""

    mix: Literal["paper", "cutmix", "mixup", "mixup_or_cutmix", "none"] = "paper"
    """CutMix with one cut per batch, as the authors; with one cut per sample, as the library;
    MixUp with one share per batch; MixUp or CutMix by batch, as torchvision; or the baseline."""

    alpha: Positive = 1.0
    """Both parameters of the Beta distribution of CutMix's kept fraction."""

    mixup_alpha: Positive = 0.2
    """Both parameters of MixUp's Beta distribution."""

    prob: Share = 1.0
    """Probability that a batch ("paper", "mixup") or a sample ("cutmix") is mixed."""

    layers: tuple[CountOrZero, ...] = IMAGE
    """Where to mix, drawn for each batch: 0 is the image, 1 the output of the first convolution and
    its norm, 2 to 5 that of the four stages. (0,) mixes in the loader's graph."""

    jitter: Amount = 0.4
    """Strength of the colour jitter: brightness, contrast and saturation. 0 leaves colours."""

    lighting: Amount = 0.1
    """Standard deviation of the noise along the principal components of colour. 0 adds none."""

    policy: Literal["none", "autoaugment", "trivial"] = "none"
    """Automatic augmentation of each image, after its crop: AutoAugment's policy for ImageNet, or
    TrivialAugment Wide."""

    cutout: CountOrZero = 0
    """Side in pixels, even, of a square erased in each image before the mix. 0 erases nothing."""

    erase: Share = 0.0
    """Probability that a rectangle of an image is erased."""

    repeats: Count = 1
    """Copies of an image in a row, each with its own augmentation. The epoch's length stays."""

    epochs: Count = 300
    """Passes over as many images as the training data has."""

    batch_size: Count = 256
    """Samples per step of the optimizer, over all processes together."""

    lr: Amount = 0.1
    """Highest learning rate, for the batch size above."""

    decay: Literal["steps", "cosine"] = "steps"
    """Divide the learning rate by 10 at the milestones, or lower it along half a cosine to 0."""

    lr_milestones: tuple[CountOrZero, ...] = (75, 150, 225)
    """Epochs, from 0, before which "steps" divides."""

    warmup_epochs: CountOrZero = 0
    """Epochs in which "cosine" first rises, from a hundredth of `lr`."""

    momentum: Share = 0.9
    """Of SGD."""

    nesterov: bool = True
    """Nesterov's momentum."""

    weight_decay: Amount = 1e-4
    """On parameters, biases included."""

    norm_weight_decay: Amount | None = None
    """On parameters of normalisation; None takes `weight_decay`."""

    label_smoothing: Share = 0.0
    """Share of each target spread over all classes."""

    stochastic_depth: BelowOne = 0.0
    """Probability that the last residual branch is dropped. For block l of L, times l / L."""

    dropblock: BelowOne = 0.0
    """Share of the last stage that DropBlock drops at the end of the run."""

    block: Count = 7
    """Side of DropBlock's blocks."""

    average_decay: BelowOne | None = None
    """Decay of an exponential moving average of the weights, rescaled with batch size and epochs.
    The average is validated, and its top-1 is reported. None keeps no average."""

    average_every: Count = 32
    """Steps from one update of the average to the next. Averaging starts after the warmup."""

    sizes: tuple[Count, ...] = (224,)
    """Sides of the training images in pixels. From each of `size_milestones` on, the next side is
    used. Small images early save time."""

    size_milestones: tuple[CountOrZero, ...] = ()
    """Epochs, from 0, with which the next of `sizes` begins."""

    val_size: Count = 224
    """Side of the images in validation, in pixels."""

    resize: Count = 256
    """Short side in validation before the centre is cut out, in pixels."""


PAPER = Settings()
BASELINE = Settings(mix="none")
MIXUP = Settings(mix="mixup", mixup_alpha=1.0)
STAGES = (0, 2, 3)  # the image, and the first two stages
RESNET101: dict[str, Any] = {"arch": "resnet101"}
RESNEXT101: dict[str, Any] = {"arch": "resnext101_32x4d"}

PRESETS = named(
    {
        "paper": PAPER,
        "baseline": BASELINE,
        "cutout": replace(BASELINE, cutout=112),
        "stochastic_depth": replace(BASELINE, stochastic_depth=0.25),
        "mixup": MIXUP,
        "manifold_mixup": replace(MIXUP, layers=STAGES),
        "feature_cutmix": replace(PAPER, layers=STAGES),
        "dropblock": replace(BASELINE, dropblock=0.1),
        "autoaugment": replace(BASELINE, policy="autoaugment", jitter=0.0, lighting=0.0),
        "resnet101_baseline": replace(BASELINE, **RESNET101),
        "resnet101_cutout": replace(BASELINE, cutout=112, **RESNET101),
        "resnet101_mixup": replace(MIXUP, **RESNET101),
        "resnet101_cutmix": replace(PAPER, **RESNET101),
        "resnext101_baseline": replace(BASELINE, **RESNEXT101),
        "resnext101_cutmix": replace(PAPER, **RESNEXT101),
        "modern": Settings(
            mix="mixup_or_cutmix",
            jitter=0.0,
            lighting=0.0,
            policy="trivial",
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
        "short": Settings(
            mix="cutmix",
            prob=0.5,
            jitter=0.0,
            lighting=0.0,
            epochs=18,
            batch_size=1024,
            lr=2.0,
            decay="cosine",
            warmup_epochs=2,
            weight_decay=5e-5,
            norm_weight_decay=0.0,
            label_smoothing=0.1,
            sizes=(128, 144, 160),
            size_milestones=(6, 12),
            val_size=192,  # larger than in training, as Touvron et al. 2019, arXiv:1906.06423
            resize=220,
        ),
    }
)


def check(settings: Settings) -> None:
    """Refuse flags that would change nothing, or that do not go together."""
    mix = settings.mix
    refuse_unused(
        NAME,
        settings,
        PRESETS,
        [
            (mix == "none", "--mix none", ("alpha", "mixup_alpha", "prob", "layers")),
            (mix in ("paper", "cutmix"), f"--mix {mix}", ("mixup_alpha",)),
            (mix == "mixup", "--mix mixup", ("alpha",)),
            (mix == "mixup_or_cutmix", "--mix mixup_or_cutmix", ("prob",)),
            (not settings.dropblock, "--dropblock 0", ("block",)),
            (settings.decay == "steps", "--decay steps", ("warmup_epochs",)),
            (settings.decay == "cosine", "--decay cosine", ("lr_milestones",)),
            (settings.average_decay is None, "--average-decay None", ("average_every",)),
        ],
    )
    if mix == "mixup_or_cutmix" and settings.layers != IMAGE:
        stop(
            NAME,
            f"`layers` must be 0 with `--mix mixup_or_cutmix`, got {settings.layers}. Inside the "
            "network paper, cutmix and mixup can mix.",
        )
    if len(settings.sizes) != len(settings.size_milestones) + 1:
        stop(
            NAME,
            "`sizes` must be one more than `size_milestones`, got "
            f"{settings.sizes} and {settings.size_milestones}.",
        )


def shrink(settings: Settings) -> Settings:
    """Return the settings of the smoke run: the same run, small enough for two slow cores."""
    small = shrunk(
        settings,
        lr=settings.lr / 64,
        lr_milestones=(1,),
        warmup_epochs=min(settings.warmup_epochs, 1),
        average_every=1,
        sizes=tuple(min(size, 32) for size in settings.sizes[:2]),
        size_milestones=(1,) if settings.size_milestones else (),
        cutout=min(settings.cutout, 16),
        val_size=min(settings.val_size, 32),
        resize=min(settings.resize, 36),
    )
    return replace(settings, **small)


def depends_on_the_last_epoch(settings: Settings) -> bool:
    """Tell whether a longer run starts otherwise than a shorter run."""
    is_averaged = settings.average_decay is not None
    return settings.decay != "steps" or is_averaged or settings.dropblock > 0


def learning_rate(settings: Settings, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    if settings.decay == "steps":
        return schedule.stepped(settings.lr, epoch, settings.lr_milestones)
    return schedule.cosine(settings.lr, epoch, settings.epochs, settings.warmup_epochs)


# ------------------------------------------------------------------------------------------- graph


def make_mix(settings: Settings) -> CutMix | MixUp | RandomChoice | None:
    """Return the mix of the training loader; None mixes nothing."""
    # Partners by a permutation: with fewer processes than repeats, neighbours show one image.
    if settings.mix == "paper":
        return CutMix.paper(alpha=settings.alpha, prob=settings.prob)
    if settings.mix == "cutmix":
        return CutMix(alpha=settings.alpha, prob=settings.prob)
    if settings.mix == "mixup":
        return MixUp(settings.mixup_alpha, settings.prob, per="batch", partner="permutation")
    if settings.mix == "mixup_or_cutmix":
        return RandomChoice([MixUp.paper(settings.mixup_alpha), CutMix.paper(settings.alpha)])
    return None


def make_augmentations(settings: Settings) -> list[Augmentation | Cutout]:
    """Return what changes each image after crop and mirror, in the order of the authors' code."""
    steps: list[Augmentation | Cutout] = []
    if settings.policy == "autoaugment":
        steps.append(AutoAugment())
    elif settings.policy == "trivial":
        steps.append(TrivialAugment(interpolation="bilinear"))
    if settings.jitter:
        steps.append(ColorJitter(settings.jitter, settings.jitter, settings.jitter))
    if settings.lighting:
        steps.append(Lighting(settings.lighting))
    if settings.cutout:
        steps.append(Cutout(settings.cutout))  # by the mean, which is 0 after normalisation
    if settings.erase:
        steps.append(RandomErasing(settings.erase))
    return steps


def make_train_loader(
    settings: Settings, data: Path, device: torch.device, size: int
) -> DataLoader:
    """Return the training loader of this process's part of the data, for images of a size."""
    files, shard = FileList.from_folder(data / "train"), Shard.current()
    mix, sampler = make_mix(settings), None
    is_inside = mix is not None and settings.layers != IMAGE
    if settings.repeats > 1:
        sampler = RepeatedAugmentation(len(files), settings.repeats, settings.seed, shard)
    return DataLoader(
        files,
        split_batch(NAME, settings.batch_size, shard.count, settings.accumulate),
        shuffle=sampler is None,
        sampler=sampler,
        transform=TrainTransform(size, augment=make_augmentations(settings)),
        mix=Deferred(mix) if mix is not None and is_inside else mix,
        with_plan=is_inside,
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
    """Return an untrained network on ``device``; a smoke run takes a narrow one."""
    regularization = Regularization(
        stochastic_depth=settings.stochastic_depth,
        dropblock=settings.dropblock,
        block=settings.block,
    )
    model = imagenet_resnet(settings.arch, num_classes, regularization, narrow=settings.smoke)
    return model.to(device=device, memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- training


def make_optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD over the parameters of a model, some of which may decay otherwise."""
    return torch.optim.SGD(
        schedule.decaying(model, settings.weight_decay, settings.norm_weight_decay),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
    )


def make_average(settings: Settings, model: nn.Module) -> AveragedModel | None:
    """Return the moving average of the weights; None keeps no average."""
    if settings.average_decay is None:
        return None
    return schedule.averaged(
        model,
        settings.average_decay,
        batch_size=settings.batch_size,
        every=settings.average_every,
        epochs=settings.epochs,
    )


def make_training(settings: Settings, processes: Processes, temporary: Path) -> Training:
    """Return what the harness trains."""
    data, device = find_data(NAME, settings, temporary), processes.device
    train, _ = read_parts(NAME, data)
    model = make_model(settings, len(train.classes), device)
    average = make_average(settings, model)  # a copy, made before the model has hooks
    trained = None
    if settings.mix != "none":
        trained = mixing_inside(NAME, model, IMAGENET_LAYERS, settings.layers, settings.seed)
    return Training(
        name=NAME,
        settings=settings,
        train=partial(make_train_loader, settings, data, device),
        val=make_val_loader(settings, data, device),
        model=model,
        optimizer=make_optimizer(settings, model),
        loss=classified(partial(mixed_cross_entropy, label_smoothing=settings.label_smoothing)),
        learning_rate=partial(learning_rate, settings),
        size=partial(schedule.size_of, sizes=settings.sizes, milestones=settings.size_milestones),
        average=average,
        average_every=settings.average_every,
        average_from=settings.warmup_epochs,
        trained=trained,
        progress=partial(set_progress, model) if settings.dropblock else None,
        free_to_change=frozenset(() if depends_on_the_last_epoch(settings) else {"epochs"}),
    )


def main(settings: Settings) -> dict[str, object]:
    """Train, validate and save; return what results.json holds."""
    check(settings)
    settings = shrink(settings) if settings.smoke else settings
    return run(NAME, settings, partial(make_training, settings))


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
