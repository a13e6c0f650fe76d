"""PyramidNet-200 on CIFAR-100 with CutMix: the paper's setting, a preset for each row of its table.

Expect: not yet run here. Published, not reproduced here, in percent, each the best epoch:

    preset             top-1    error    source
    baseline           83.55    16.45    authors' README
    cutmix             85.53    14.47    mean of three; one had 14.23, which their README lists
    cutmix_shakedrop   86.19    13.81    authors' README
    mixup              84.37    15.63    the same
    cutout             83.47    16.53    the same
    cutout_smoothing   84.39    15.61    the same
    cutout_mixup       84.54    15.46    the same
    smoothing                            in the paper's table

The README and the paper's Table 5 are Yun et al. 2019, github.com/clovaai/CutMix-PyTorch and
arXiv:1905.04899; the three runs are in issues 7 and 36 there. In issue 7 five runs of the
authors' code by another reader had mean errors of 16.31 without CutMix and 14.96 with CutMix. A run
that ends there is not broken.

Run, where DIR holds train/ and val/, each with one folder of 32 px images per class, as
data/prepare_cifar.py beside this file makes from the official archive:

    python pipelines/cifar100_pyramidnet200.py --data DIR
    python pipelines/cifar100_pyramidnet200.py --data DIR --preset cutmix_shakedrop
    torchrun --nproc-per-node 2 pipelines/cifar100_pyramidnet200.py --data DIR --resume auto

The baseline is one flag away: --mix none, which is also --preset baseline.
To try every part on generated pictures, in seconds, with or without a GPU:

    python pipelines/cifar100_pyramidnet200.py --smoke

Follows: the paper's section 4.1 and the authors' train.py and pyramidnet.py. PyramidNet of 200
layers in bottleneck blocks, widening factor 240, 26.8 million parameters. Crops of 32 px from
images padded by 4, and mirror; batch 64, 300 epochs, SGD with Nesterov momentum 0.9, learning rate
0.25 divided by 10 at epochs 150 and 225, weight decay 1e-4 on every parameter, CutMix of alpha 1 in
half of all batches, one cut per batch. ShakeDrop as in Yamada et al. 2018, arXiv:1802.02375, drawn
as in github.com/owruby/shake-drop_pytorch, which the authors name in issue 12.

Differs:

- bfloat16 autocast on a GPU;
- batch norm: the authors had two GPUs with 32 samples each, as two processes of torchrun have here.
  One process normalises over all 64 samples;
- cuts: two processes draw one cut each; the authors' DataParallel drew one cut for both GPUs;
- Cutout erases bytes, and fills with the mean rounded to a level;
- the probabilities of the baselines are not published: MixUp mixes every batch here, and Cutout
  erases part of every image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    FileList,
    MixUp,
    Shard,
    TrainTransform,
    mixed_cross_entropy,
)
from harness import schedule
from harness.pictures import find_data
from harness.processes import Processes, split_batch, stop
from harness.settings import RunSettings, from_flags, named
from harness.training import Training, run, shrunk

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

    alpha: float = 1.0
    """Both parameters of the Beta distribution of the kept fraction."""

    prob: float = 0.5
    """Probability that a batch is mixed."""

    cutout: int = 0
    """Side in pixels, even, of a square erased in each image before the mix. 0 erases nothing."""

    label_smoothing: float = 0.0
    """Share of each target spread over all classes."""

    shakedrop: bool = False
    """Shake the residual branches."""

    depth: int = 200
    """Layers of the network: 2 more than a multiple of 9."""

    widening: int = 240
    """Channels that its bottlenecks gain from the first to the last."""

    epochs: int = 300
    """Passes over the training data."""

    batch_size: int = 64
    """Samples per step of the optimizer, over all processes together."""

    lr: float = 0.25
    """Learning rate of the first epochs, for the batch size above."""

    lr_milestones: tuple[int, ...] = (150, 225)
    """Epochs, from 0, before which the learning rate is divided by 10."""

    momentum: float = 0.9
    """Nesterov momentum."""

    weight_decay: float = 1e-4
    """On every parameter, biases and normalisation included."""


PRESETS = named(
    {
        "cutmix": Settings(),
        "cutmix_shakedrop": Settings(shakedrop=True),
        "baseline": Settings(mix="none"),
        "mixup": Settings(mix="mixup", prob=1.0),
        "cutout": Settings(mix="none", cutout=16),
        "cutout_smoothing": Settings(mix="none", cutout=16, label_smoothing=0.1),
        "cutout_mixup": Settings(mix="mixup", prob=1.0, cutout=16),
        "smoothing": Settings(mix="none", label_smoothing=0.1),
    }
)


def shrink(settings: Settings) -> Settings:
    """Return the settings of the smoke run: the same run, small enough for two slow cores."""
    small = shrunk(settings, lr=settings.lr / 64, lr_milestones=(1,), depth=20, widening=12)
    return dataclasses.replace(settings, **small)


# ------------------------------------------------------------------------------------------- graph


def make_train_loader(
    settings: Settings, data: Path, device: torch.device, size: int = SIDE
) -> DataLoader:
    """Return the training loader of this process's part of the data."""
    mixes = {
        "cutmix": CutMix.paper(alpha=settings.alpha, prob=settings.prob),
        "mixup": MixUp(settings.alpha, settings.prob, per="batch", partner="permutation"),
        "none": None,
    }
    augment = []
    if settings.cutout:
        mean = tuple(round(255 * channel) for channel in MEAN)
        augment.append(Cutout(settings.cutout, fill=mean))  # before the mix
    return DataLoader(
        data / "train",
        split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate),
        shuffle=True,
        transform=TrainTransform(size, pad=4, mean=MEAN, std=STD, augment=augment),
        mix=mixes[settings.mix],
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


class Scaled(torch.autograd.Function):
    """Multiply a tensor by one factor, and its gradient by another factor."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, on_value: torch.Tensor, on_gradient: torch.Tensor
    ) -> Any:
        """Return ``x * on_value``; both factors broadcast to ``x`` and have its dtype."""
        ctx.save_for_backward(on_gradient)
        return x * on_value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return ``gradient * on_gradient``."""
        (on_gradient,) = ctx.saved_tensors
        return gradient * on_gradient, None, None


class ShakeDrop(nn.Module):
    """Multiply a residual branch by 1, or by one random number forward and another backward.

    In training a layer keeps a whole batch as it is (b = 1), or multiplies each sample by
    ``b + a - b a = a``, uniform in [-1, 1], and its gradient by a number uniform in [0, 1]. In
    validation a layer multiplies by the mean of all that, which is ``prob``. Each process draws for
    its own part of a batch.

    Args:
        prob: Probability in [0, 1] that the branch stays as it is.

    Source:
        Yamada et al. 2018, arXiv:1802.02375. Samples share draws as in the code that the
        authors of CutMix name, github.com/owruby/shake-drop_pytorch.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        """Shake ``[B, C, height, width]``."""
        if not self.training:
            return residual * self.prob
        # All factors, also that of `backward`, are drawn on the device: nobody waits for the host.
        device, shape = residual.device, (len(residual), 1, 1, 1)
        stays = torch.rand((), device=device) < self.prob
        on_value = torch.where(stays, 1.0, 2 * torch.rand(shape, device=device) - 1)
        on_gradient = torch.where(stays, 1.0, torch.rand(shape, device=device))
        kind = residual.dtype
        shaken: torch.Tensor = Scaled.apply(residual, on_value.to(kind), on_gradient.to(kind))
        return shaken

    def extra_repr(self) -> str:
        """Return the probability as text."""
        return f"prob={self.prob:.3f}"


class Block(nn.Module):
    """Add a bottleneck between batch norms to the input, which gains channels of zeros.

    Args:
        width_in: Channels of the input.
        width: Channels of the bottleneck; the output has four times as many.
        stride: 1, or 2 to halve the image's sides.
        prob: Probability of ShakeDrop; None leaves ShakeDrop out.
    """

    def __init__(self, width_in: int, width: int, stride: int, prob: float | None) -> None:
        super().__init__()
        width_out = 4 * width
        self.residual = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.shake = nn.Identity() if prob is None else ShakeDrop(prob)
        self.shortcut = nn.Identity() if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)
        self.num_new = width_out - width_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, width_in, height, width]`` to ``[B, 4 * width, height / stride, ...]``."""
        known = F.pad(self.shortcut(x), (0, 0, 0, 0, 0, self.num_new))
        return known + self.shake(self.residual(x))


class PyramidNet(nn.Module):
    """Classify 32 px by an additive PyramidNet: bottleneck blocks of rising width.

    Args:
        depth: Layers: 2 more than a multiple of 9, which are three stages of blocks of three.
        widening: Channels that the bottlenecks gain over all blocks, from 16.
        num_classes: Number of logits.
        shakedrop: Shake the branches: block l of L stays with probability ``1 - l / (2 L)``.

    Source:
        Han et al. 2017, arXiv:1610.02915; ``pyramidnet.py`` of github.com/clovaai/CutMix-PyTorch.
    """

    def __init__(self, depth: int, widening: int, num_classes: int, *, shakedrop: bool) -> None:
        super().__init__()
        per_stage = (depth - 2) // 9
        num_blocks = 3 * per_stage
        width_in = 16
        self.first = nn.Sequential(
            nn.Conv2d(3, width_in, 3, padding=1, bias=False), nn.BatchNorm2d(width_in)
        )
        blocks = []
        for number in range(1, num_blocks + 1):
            width = round(16 + widening * number / num_blocks)
            stride = 2 if number in (per_stage + 1, 2 * per_stage + 1) else 1
            prob = 1 - number / (2 * num_blocks) if shakedrop else None
            blocks.append(Block(width_in, width, stride, prob))
            width_in = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(
            nn.BatchNorm2d(width_in), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 3, 32, 32]`` to logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.classifier(self.last(self.blocks(self.first(image))))
        return logits


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return an untrained network on ``device``."""
    if settings.depth < 11 or settings.depth % 9 != 2:
        stop(
            NAME,
            f"`depth` must be 2 more than a multiple of 9, at least 11, got {settings.depth}.",
        )
    model = PyramidNet(settings.depth, settings.widening, num_classes, shakedrop=settings.shakedrop)
    return model.to(device=device, memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- training


def make_training(settings: Settings, processes: Processes, temporary: Path) -> Training:
    """Return what the harness trains."""
    data, device = find_data(NAME, settings, temporary, SIDE), processes.device
    val = make_val_loader(settings, data, device)
    classes = FileList.from_folder(data / "train").classes
    if val.dataset.classes != classes:
        odd = sorted(set(val.dataset.classes) ^ set(classes))[:5]
        stop(NAME, f"train/ and val/ in {data} must hold the same class folders; odd are {odd}.")
    model = make_model(settings, len(classes), device)
    return Training(
        name=NAME,
        settings=settings,
        train=partial(make_train_loader, settings, data, device),
        val=val,
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        ),
        loss=partial(mixed_cross_entropy, label_smoothing=settings.label_smoothing),
        learning_rate=partial(schedule.stepped, settings.lr, milestones=settings.lr_milestones),
        size=lambda _: SIDE,
        free_to_change=frozenset({"epochs"}),
    )


def main(settings: Settings) -> dict[str, object]:
    """Train, validate and save; return what results.json holds."""
    settings = shrink(settings) if settings.smoke else settings
    return run(NAME, settings, partial(make_training, settings))


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
