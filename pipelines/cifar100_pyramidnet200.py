"""PyramidNet-200 on CIFAR-100 with CutMix: the paper's setting, a preset for each row of tables.

Expect: not yet run here. Published, not reproduced here: error in percent, mean of three runs, each
at its best epoch, Yun et al. 2019, arXiv:1905.04899, Tables 5, 6 and 8:

    preset                  top-1  top-5    preset                  top-1  top-5
    baseline                16.45   3.69    cutout_mixup            15.46   3.42
    stochastic_depth        15.86   3.33    cutout_manifold_mixup   15.09   3.35
    smoothing               16.73   3.37    shakedrop               15.08   2.72
    cutout                  16.53   3.65    cutmix                  14.47   2.97
    cutout_smoothing        15.61   3.88    cutmix_shakedrop        13.81   2.29
    dropblock               15.73   3.26    centre_gaussian         15.95   3.40
    dropblock_smoothing     15.16   3.86    fixed_size              14.97   3.15
    mixup_half              15.78   4.04    one_hot                 15.89   3.32
    mixup                   15.63   3.99    scheduled               14.72   3.17
    manifold_mixup          16.14   4.07    complete_label          15.17   3.10
    pyramidnet110_baseline  19.85   4.66    resnet110_baseline      23.14   5.95
    pyramidnet110_cutmix    17.97   3.83    resnet110_cutmix        20.11   4.43

On CIFAR-10, Table 7, top-1: baseline 3.85, cutout 3.10, mixup 3.09, manifold_mixup 3.15, cutmix
2.88. Figure 3 draws two curves without numbers:

- alpha_0.1 to alpha_4. Every error is below the baseline's. The lowest is at 1, which is cutmix;
- layer_1 to layer_4. Every error but that of layer_4 is below the baseline's. The lowest is at the
  image, which is cutmix.

feature_cutmix is a row of Table 3, for ImageNet only.

One of the three runs of cutmix had 14.23, which the authors' README lists; see issues 7 and 36 of
github.com/clovaai/CutMix-PyTorch. In issue 7 five runs of the authors' code by another reader had
mean errors of 16.31 without CutMix and 14.96 with CutMix. A run that ends there is not broken.

Run, where DIR holds train/ and val/, each with one folder of 32 px images per class, as
data/prepare_cifar.py beside this file makes from the official archives of CIFAR-100 and CIFAR-10:

    python pipelines/cifar100_pyramidnet200.py --data DIR
    python pipelines/cifar100_pyramidnet200.py --data DIR --preset cutmix_shakedrop
    torchrun --nproc-per-node 2 pipelines/cifar100_pyramidnet200.py --data DIR --resume auto

The baseline is one flag away: --mix none, which is also --preset baseline.
To try every part on generated pictures, in seconds, with or without a GPU:

    python pipelines/cifar100_pyramidnet200.py --smoke

Follows: the paper's section 4.1 and the authors' train.py, pyramidnet.py and resnet.py:

- PyramidNet of 200 layers in bottleneck blocks, widening factor 240, 26.8 million parameters. The
  networks of 110 layers have bottlenecks too, which gives the paper's numbers of parameters;
- crops of 32 px from images padded by 4, and mirror;
- batch 64, 300 epochs, SGD with Nesterov momentum 0.9, weight decay 1e-4 on every parameter;
- learning rate 0.25, divided by 10 at epochs 150 and 225;
- CutMix of alpha 1 in half of all batches, one cut per batch;
- MixUp in every batch. The authors searched its alpha and not its probability, says issue 30 of
  their repository;
- ResNet-110 with CutMix at a learning rate of 0.1 and in every batch, as issue 10 says;
- ShakeDrop of Yamada et al. 2018, arXiv:1802.02375, drawn as in
  github.com/owruby/shake-drop_pytorch, which the authors name in issue 12.

Differs:

- bfloat16 autocast on a GPU;
- batch norm: the authors had two GPUs with 32 samples each, as two processes of torchrun have here.
  One process normalises over all 64 samples;
- cuts: two processes draw one cut each; the authors' DataParallel drew one cut for both GPUs;
- Cutout erases bytes, and fills with the mean rounded to a level;
- complete_label leaves the label alone where no pixel is cut.

What the authors did not publish, and what stands here:

- how often Cutout erases: part of every image;
- the layers that Manifold Mixup and Feature CutMix draw from: the image, and what the first and
  the second stage put out, as Verma et al. 2018, arXiv:1806.05236;
- the place of DropBlock: behind the norms of the branches of the last two stages, as its authors'
  ResNet, and with its schedule; not on shortcuts, see models/pyramidnet.py. Blocks of 4, 90 % kept;
- the rule of Stochastic Depth's 0.25: the last block's rate, which rises from block to block on a
  line, as Huang et al. 2016, arXiv:1603.09382;
- the Gaussian's deviation: a quarter of the side;
- the learning rate of PyramidNet-110: that of PyramidNet-200, of which issue 40 is not sure;
- the learning rate of ResNet-110 without CutMix: that with CutMix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    MixUp,
    Scheduled,
    Shard,
    TrainTransform,
    mixed_cross_entropy,
)
from harness import schedule
from harness.labels import relabelled
from harness.pictures import find_data, read_parts
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, BelowOne, Count, CountOrZero, Positive, Share
from harness.settings import RunSettings, from_flags, named
from harness.training import Loss, Target, Training, classified, run, shrunk
from harness.unused import refuse_unused
from models.features import IMAGE, mixing_inside
from models.pyramidnet import PyramidNet
from models.regularization import Regularization, set_progress
from models.resnet import CifarResNet

NAME = "cifar100_pyramidnet200"

#: Side of the images in pixels.
SIDE = 32

#: Of training pixels, from the authors' train.py. They are CIFAR-10's, and taken for both there.
MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings(RunSettings):
    """Hold everything a run depends on, beside what all recipes have."""

    mix: Literal["cutmix", "mixup", "none"] = "cutmix"
    """The mix, with one draw per batch as the authors do; or the baseline."""

    alpha: Positive = 1.0
    """Both parameters of the Beta distribution of the kept fraction."""

    prob: Share = 0.5
    """Probability that a batch is mixed."""

    rising: bool = False
    """Let the probability rise from 0 to 1 over the run, on a line, whatever `prob` is."""

    centre: Literal["uniform", "gaussian"] = "uniform"
    """Where CutMix's centre is drawn: anywhere, or around the image's centre."""

    kept: Share | None = None
    """Kept fraction of every cut, before the border clips it. None draws by `alpha`."""

    layers: tuple[CountOrZero, ...] = IMAGE
    """Where to mix, drawn for each batch: 0 is the image, 1 the output of the first convolution and
    its norm, 2 to 4 that of the three stages. (0,) mixes in the loader's graph."""

    label: Literal["shares", "larger", "halves"] = "shares"
    """What a mixed image is called: both classes by their pixels, the class of the larger part, or
    half and half."""

    cutout: CountOrZero = 0
    """Side in pixels, even, of a square erased in each image before the mix. 0 erases nothing."""

    label_smoothing: Share = 0.0
    """Share of each target spread over all classes."""

    shakedrop: bool = False
    """Shake the residual branches."""

    stochastic_depth: BelowOne = 0.0
    """Probability that the last residual branch is dropped. For block l of L, times l / L."""

    dropblock: BelowOne = 0.0
    """Share of the last stage that DropBlock drops at the end of the run."""

    block: Count = 4
    """Side of DropBlock's blocks."""

    net: Literal["pyramidnet", "resnet"] = "pyramidnet"
    """The network, both of bottlenecks."""

    depth: Count = 200
    """Layers of the network: 2 more than a multiple of 9."""

    widening: Count = 240
    """Channels that PyramidNet's bottlenecks gain from the first to the last."""

    epochs: Count = 300
    """Passes over the training data."""

    batch_size: Count = 64
    """Samples per step of the optimizer, over all processes together."""

    lr: Amount = 0.25
    """Learning rate of the first epochs, for the batch size above."""

    lr_milestones: tuple[CountOrZero, ...] = (150, 225)
    """Epochs, from 0, before which the learning rate is divided by 10."""

    momentum: Share = 0.9
    """Nesterov momentum."""

    weight_decay: Amount = 1e-4
    """On every parameter, biases and normalisation included."""


MIXUP = Settings(mix="mixup", prob=1.0)
BASELINE = Settings(mix="none")
SMOOTHING = 0.1
STAGES = (0, 2, 3)  # the image, and the first two stages

PRESETS = named(
    {
        "cutmix": Settings(),
        "cutmix_shakedrop": Settings(shakedrop=True),
        "baseline": BASELINE,
        "stochastic_depth": replace(BASELINE, stochastic_depth=0.25),
        "smoothing": replace(BASELINE, label_smoothing=SMOOTHING),
        "cutout": replace(BASELINE, cutout=16),
        "cutout_smoothing": replace(BASELINE, cutout=16, label_smoothing=SMOOTHING),
        "dropblock": replace(BASELINE, dropblock=0.1),
        "dropblock_smoothing": replace(BASELINE, dropblock=0.1, label_smoothing=SMOOTHING),
        "mixup_half": replace(MIXUP, alpha=0.5),
        "mixup": MIXUP,
        "manifold_mixup": replace(MIXUP, layers=STAGES),
        "cutout_mixup": replace(MIXUP, cutout=16),
        "cutout_manifold_mixup": replace(MIXUP, cutout=16, layers=STAGES),
        "shakedrop": replace(BASELINE, shakedrop=True),
        "feature_cutmix": Settings(layers=STAGES),
        # Table 6: lighter networks.
        "pyramidnet110_baseline": replace(BASELINE, depth=110, widening=64),
        "pyramidnet110_cutmix": Settings(depth=110, widening=64),
        "resnet110_baseline": replace(BASELINE, net="resnet", depth=110, lr=0.1),
        "resnet110_cutmix": Settings(net="resnet", depth=110, lr=0.1, prob=1.0),
        # Figure 3 and Table 8: ablations.
        **{f"alpha_{alpha:g}": Settings(alpha=alpha) for alpha in (0.1, 0.25, 0.5, 2.0, 4.0)},
        **{f"layer_{layer}": Settings(layers=(layer,)) for layer in range(1, 5)},
        "centre_gaussian": Settings(centre="gaussian"),
        "fixed_size": Settings(kept=0.75),  # half of each side: 16 px
        "one_hot": Settings(label="larger"),
        "scheduled": Settings(rising=True),
        "complete_label": Settings(label="halves"),
    }
)


def check(settings: Settings) -> None:
    """Refuse flags that would change nothing."""
    of_mix = ("alpha", "prob", "rising", "centre", "kept", "layers", "label")
    refuse_unused(
        NAME,
        settings,
        PRESETS,
        [
            (settings.mix == "none", "--mix none", of_mix),
            (settings.mix == "mixup", "--mix mixup", ("centre", "kept")),
            (settings.kept is not None, "--kept", ("alpha",)),
            (settings.rising, "--rising", ("prob",)),
            (not settings.dropblock, "--dropblock 0", ("block",)),
            (settings.net == "resnet", "--net resnet", ("widening",)),
        ],
    )


def shrink(settings: Settings) -> Settings:
    """Return the settings of the smoke run: the same run, small enough for two slow cores."""
    small = shrunk(settings, lr=settings.lr / 64, lr_milestones=(1,), depth=20, widening=12)
    return replace(settings, **small)


def depends_on_the_last_epoch(settings: Settings) -> bool:
    """Tell whether a longer run starts otherwise than a shorter run."""
    return (settings.rising and settings.mix != "none") or settings.dropblock > 0


# ------------------------------------------------------------------------------------------- graph


def make_mix(settings: Settings) -> CutMix | MixUp | Scheduled | None:
    """Return the mix of the training loader, with one draw per batch; None mixes nothing."""
    if settings.mix == "none":
        return None
    mix: CutMix | MixUp
    if settings.mix == "mixup":
        mix = MixUp(settings.alpha, settings.prob, per="batch", partner="permutation")
    else:
        mix = replace(
            CutMix.paper(alpha=settings.alpha, prob=settings.prob),
            placement="clipped" if settings.centre == "uniform" else "gaussian",
            lam=settings.kept,
        )
    return Scheduled(mix, settings.epochs, prob=lambda t: t) if settings.rising else mix


def make_train_loader(
    settings: Settings, data: Path, device: torch.device, size: int = SIDE
) -> DataLoader:
    """Return the training loader of this process's part of the data."""
    augment = []
    if settings.cutout:
        mean = tuple(round(255 * channel) for channel in MEAN)
        augment.append(Cutout(settings.cutout, fill=mean))  # before the mix
    mix = make_mix(settings)
    is_inside = mix is not None and settings.layers != IMAGE
    return DataLoader(
        data / "train",
        split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate),
        shuffle=True,
        transform=TrainTransform(size, pad=4, mean=MEAN, std=STD, augment=augment),
        mix=Deferred(mix) if mix is not None and is_inside else mix,
        with_plan=is_inside,
        target="pair",  # two classes and weights per sample instead of rows of 100 weights
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
        transform=EvalTransform(SIDE, SIDE, mean=MEAN, std=STD),
        num_workers=settings.workers,
        channels_last=True,
        device=device,
    )


# ------------------------------------------------------------------------------------------- model


def make_model(
    settings: Settings, num_classes: int, device: torch.device
) -> PyramidNet | CifarResNet:
    """Return an untrained network on ``device``."""
    if settings.depth < 11 or settings.depth % 9 != 2:
        stop(
            NAME,
            f"`depth` must be 2 more than a multiple of 9, at least 11, got {settings.depth}.",
        )
    regularization = Regularization(
        shakedrop=settings.shakedrop,
        stochastic_depth=settings.stochastic_depth,
        dropblock=settings.dropblock,
        block=settings.block,
    )
    model: PyramidNet | CifarResNet
    if settings.net == "resnet":
        model = CifarResNet(settings.depth, num_classes, regularization)
    else:
        model = PyramidNet(settings.depth, settings.widening, num_classes, regularization)
    return model.to(device=device, memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- training


def make_loss(settings: Settings) -> Loss:
    """Return the loss of a batch, whose labels may be replaced as an ablation says."""

    def loss(logits: torch.Tensor, target: Target) -> torch.Tensor:
        target = relabelled(target, settings.label)
        return mixed_cross_entropy(logits, target, label_smoothing=settings.label_smoothing)

    return classified(loss)


def make_training(settings: Settings, processes: Processes, temporary: Path) -> Training:
    """Return what the harness trains."""
    data, device = find_data(NAME, settings, temporary, SIDE), processes.device
    train, _ = read_parts(NAME, data)
    model = make_model(settings, len(train.classes), device)
    trained = None
    if settings.mix != "none":
        trained = mixing_inside(NAME, model, model.layers, settings.layers, settings.seed)
    return Training(
        name=NAME,
        settings=settings,
        train=partial(make_train_loader, settings, data, device),
        val=make_val_loader(settings, data, device),
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        ),
        loss=make_loss(settings),
        learning_rate=partial(schedule.stepped, settings.lr, milestones=settings.lr_milestones),
        size=lambda _: SIDE,
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
