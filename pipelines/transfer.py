"""Transfer: pretrain on some classes, with and without mixing, and learn others from few images.

Expect: pretraining helps. CutMix in the pretraining costs 2 points on the first classes, and
changes nothing on the others beyond chance. MixUp costs 12 points where there is one image of a
class. Top-1 on silhouettes, mean of three seeds and deviation, on two CPU cores in half a minute
each:

    pretraining    fine-tuned  probe       one image   five        twenty      first classes
    left out       83.1 (0.9)  84.0 (1.0)  55.6 (7.2)  68.5 (5.1)  76.4 (2.7)
    --mix none     88.0 (1.3)  94.0 (0.9)  73.3 (3.3)  83.6 (1.4)  89.5 (0.8)  93.4 (0.8)
    --mix cutmix   88.1 (1.6)  94.4 (0.3)  72.7 (3.1)  83.7 (0.9)  90.3 (1.0)  91.4 (0.7)
    --mix mixup    86.1 (3.0)  93.8 (0.6)  61.8 (3.9)  79.3 (2.8)  88.6 (1.7)  92.0 (1.0)

With --preset near, for classes that look alike, fine-tuning reaches 66.0 (2.4) after --mix none and
65.7 (1.8) after --mix cutmix, and the probe 83.6 (0.2) and 85.1 (1.6).

Run, where DIR holds train/ and val/, each with one folder of images per class;
data/prepare_silhouettes.py beside this file makes such a folder:

    python pipelines/transfer.py --data DIR
    python pipelines/transfer.py --data DIR --preset near
    python pipelines/transfer.py --data DIR --preset fine_grained

The first line pretrains on the first half of the classes in the order of the alphabet, and learns
the second half. The preset near learns four-legged animals that look alike, and pretrains on the
others. The baseline is one flag away: --mix none. The floor is --pretrain-epochs 0: the same
network, not pretrained. The preset fine_grained is for folders of CUB-200 or Stanford Cars, and is
not yet run: it fine-tunes a network for ImageNet on all classes, with --tune-mix. To try every part
on generated pictures, in seconds, with or without a GPU:

    python pipelines/transfer.py --smoke

OUT, or runs/transfer, gets results.json, and for each seed: the fine-tuned classifier as
SEED/checkpoint.pt, the pretrained one as SEED/pretrained/checkpoint.pt, both for evaluate.py, and
SEED/predictions.png. Numbers, as shares of the new classes' images in val/:

- top1: all weights are fine-tuned on `tune_images` images of each new class;
- probe: a logistic regression on the frozen features of all images in train/;
- few_1, few_5, few_20: such a regression on so many images of each class, mean of 20 choices;
- pretrained: top-1 of the pretrained network on its own classes.

A seed chooses the same images for every method, so that seeds compare in pairs. Few images scale
no features well: mean and spread come from all images of the new classes in train/, without labels.

Follows: the questions of Kornblith et al. 2019, arXiv:1805.08974 (fixed features and fine-tuning),
and of Tian et al. 2020, arXiv:2003.11539 (logistic regression on few images). Regularisers that
gain in the first task can cost in the second: Kornblith et al. 2021, arXiv:2010.16402. Published
for fine_grained, not reproduced here: OpenMixup's benchmark of CUB-200, 200 epochs at 224 px from
torchvision's weights, top-1 of ResNet-18 without mixing 77.68 %, with MixUp 78.39 %, with CutMix
78.40 % (github.com/Westlake-AI/openmixup, configs/classification/cub200/README.md).

Differs: the small network is that of study.py, and its images are silhouettes of 28 px. The
pretrained task has five classes, where ImageNet has a thousand. OpenMixup reports the median of the
last ten epochs; this recipe reports the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from torch import nn

from dali_cutmix import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CutMix,
    DataLoader,
    EvalTransform,
    FileList,
    MixUp,
    Shard,
    TrainTransform,
    mixed_cross_entropy,
)
from harness.pictures import find_data, read_parts
from harness.predictions import draw_predictions
from harness.probe import features_of, fit_probe, scale_of, top1_of
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, Count, CountOrZero, Part, Share
from harness.schedule import cosine
from harness.seeds import SeedSettings, run_seeds
from harness.settings import from_flags, named
from harness.training import Training, classified, fixed, shrunk, train_once
from harness.unused import refuse_unused
from harness.validation import validate
from models.small import Net
from models.trained import load_classifier

NAME = "transfer"
Mix = Literal["cutmix", "mixup", "none"]
#: Images in the picture of predictions.
SHOWN = 24


@dataclass(frozen=True)
class Settings(SeedSettings):
    """Hold everything a run depends on."""

    mix: Mix = "cutmix"
    """What mixes the images of the pretraining; "none" is the baseline."""

    tune_mix: Mix = "none"
    """What mixes the images of the fine-tuning."""

    prob: Share = 0.5
    """Probability that an image is mixed, where images are mixed."""

    targets: tuple[str, ...] = ()
    """Classes to be learned after the pretraining, which has all other classes. None are the second
    half of the classes; with `backbone`, all classes."""

    tune_images: Count | None = 20
    """Images of each new class for the fine-tuning, chosen by the seed. None takes all."""

    shots: tuple[Count, ...] = (1, 5, 20)
    """Images of each new class for the regressions on few images."""

    choices: Count = 20
    """Choices of these images; the number is the mean over all choices."""

    arch: str = "small"
    """Network: "small", four convolutions, or a classifier of torchvision, such as "resnet50"."""

    width: Count = 16
    """Channels of the small network's first convolution; the last has four times as many."""

    backbone: str | None = None
    """Pretrained network, in place of the pretraining here: the checkpoint of a recipe that
    classifies, `torchvision:NAME`, or `torchvision:NAME:FILE` with weights for ImageNet."""

    size: Count = 28
    """Side of the images in pixels."""

    least_crop: Part | None = None
    """Smallest share of an image that is cropped in training. None pads by 2 pixels instead."""

    val_crop: Part = 1.0
    """Side of what is cropped for validation, as a share of the resized image's."""

    pretrain_epochs: CountOrZero = 24
    """Passes over the images of the pretraining. 0 leaves the pretraining out."""

    epochs: Count = 16
    """Passes over the images of the fine-tuning."""

    warmup: CountOrZero = 2
    """Epochs in which the learning rate rises to the highest, in both trainings."""

    batch_size: Count = 20
    """Images per step of the optimizer, over all processes together."""

    lr: Amount = 4e-3
    """Highest learning rate of AdamW in the pretraining, from which half a cosine falls to 0."""

    tune_lr: Amount = 1e-3
    """Highest learning rate of AdamW in the fine-tuning."""

    weight_decay: Amount = 1e-3
    """On every parameter, in both trainings."""

    probe_decay: Amount = 1e-3
    """Factor of the squared weights of the regressions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.shots)) < len(self.shots):
            raise SystemExit(
                f"`shots` must be different counts, got {self.shots}. To leave few images out, "
                "pass none."
            )


PRESETS = named(
    {
        "halves": Settings(),
        "near": Settings(targets=("cow", "dog", "horse", "sheep")),
        "fine_grained": Settings(
            backbone="torchvision:resnet18",
            tune_images=None,
            shots=(1, 5, 20),
            size=224,
            least_crop=0.5,
            val_crop=0.85,
            epochs=200,
            batch_size=64,
            tune_lr=3e-4,
            weight_decay=0.05,
        ),
    }
)

# -------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Task:
    """Hold the images of some of the classes."""

    train: FileList
    val: FileList


def tasks_of(settings: Settings, data: Path) -> tuple[Task | None, Task]:
    """Return the images of the pretraining, and of the classes that are learned afterwards.

    The first is None where nothing is pretrained here.
    """
    train, val = read_parts(NAME, data)
    names = train.classes
    if unknown := sorted(set(settings.targets) - set(names)):
        stop(NAME, f"`targets` must be among the classes {', '.join(names)}, got {unknown}.")
    half = names if settings.backbone is not None else names[len(names) // 2 :]
    targets = sorted(settings.targets or half)
    sources = [name for name in names if name not in targets]
    if min(len(targets), len(sources) if settings.backbone is None else 2) < 2:
        stop(
            NAME,
            f"`targets` must leave two classes at least on either side, got {len(targets)} of the "
            f"{len(names)} classes of {data}.",
        )
    counts = np.bincount(train.targets, minlength=len(names))
    fewest = min((int(counts[names.index(name)]), name) for name in targets)
    most = max([*settings.shots, settings.tune_images or 1])
    if most > fewest[0]:
        stop(
            NAME,
            f"`shots` and `tune_images` must be at most {fewest[0]}, the images of {fewest[1]} in "
            f"{data / 'train'}, got {most}.",
        )
    learned = Task(of_classes(train, targets), of_classes(val, targets))
    num_tuned = len(targets) * settings.tune_images if settings.tune_images else len(learned.train)
    if num_tuned < settings.batch_size:
        stop(
            NAME,
            f"`batch_size` must be at most {num_tuned}, the images of the fine-tuning, got "
            f"{settings.batch_size}.",
        )
    if settings.backbone is not None or not settings.pretrain_epochs:
        return None, learned
    pretrained = Task(of_classes(train, sources), of_classes(val, sources))
    if len(pretrained.train) < settings.batch_size:
        stop(
            NAME,
            f"`batch_size` must be at most {len(pretrained.train)}, the images of the pretraining, "
            f"got {settings.batch_size}.",
        )
    return pretrained, learned


def of_classes(files: FileList, names: Sequence[str]) -> FileList:
    """Return the files of some classes, whose indices count from 0 in the order of ``names``."""
    index = {files.classes.index(name): number for number, name in enumerate(names)}
    chosen = [number for number, target in enumerate(files.targets.tolist()) if target in index]
    paths = [files.path(number) for number in chosen]
    targets = [index[int(files.targets[number])] for number in chosen]
    return FileList(paths, targets, names, files.root)


def choose(targets: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of so many samples of each class, which are drawn."""
    classes = range(int(targets.max()) + 1)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(targets == index))[:count] for index in classes]
    )


def make_loaders(
    settings: Settings, task: Task, mix: Mix, colours: dict[str, Any], processes: Processes
) -> tuple[DataLoader, DataLoader]:
    """Return the loaders that train and validate a classifier."""
    batch_size = split_batch(NAME, settings.batch_size, processes.count, settings.accumulate)
    if settings.least_crop is None:
        transform = TrainTransform(settings.size, pad=2, **colours)
    else:
        transform = TrainTransform(settings.size, scale=(settings.least_crop, 1.0), **colours)
    shared: dict[str, Any] = {"num_workers": settings.workers, "tuning": settings.tuning}
    shared |= {"device": processes.device, "channels_last": True}
    mixes = {"cutmix": CutMix(prob=settings.prob), "mixup": MixUp(1.0, prob=settings.prob)}
    train = DataLoader(
        task.train,
        batch_size,
        shuffle=True,
        drop_last=True,
        transform=transform,
        mix=mixes.get(mix),
        target="pair",
        seed=settings.seed,
        **shared,
    )
    val = DataLoader(task.val, 2 * batch_size, transform=as_validated(settings, colours), **shared)
    return train, val


def as_validated(settings: Settings, colours: dict[str, Any]) -> EvalTransform:
    """Return how images are made that are looked at without training."""
    return EvalTransform(round(settings.size / settings.val_crop), settings.size, **colours)


# ------------------------------------------------------------------------------------------- model


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return an untrained classifier; or the backbone, with an untrained last layer."""
    if settings.backbone is not None:
        model = load_classifier(NAME, settings.backbone).model.requires_grad_(True)
        check_head("backbone", settings.backbone, model)
        return with_head(model, num_classes).to(device=device, memory_format=torch.channels_last)
    if settings.arch == "small":
        model = Net(settings.width, num_classes)
    elif settings.arch in torchvision.models.list_models(torchvision.models):
        model = torchvision.models.get_model(settings.arch, weights=None, num_classes=num_classes)
    else:
        stop(
            NAME,
            '`arch` must be "small" or the name of a classifier of torchvision, got '
            f"{settings.arch!r}. `torchvision.models.list_models(torchvision.models)` lists names.",
        )
    check_head("arch", settings.arch, model)
    return model.to(device=device, memory_format=torch.channels_last)


def check_head(setting: str, value: str, model: nn.Module) -> None:
    """Stop where a classifier has no linear layer, and name the setting that chose it."""
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        stop(
            NAME,
            f"`{setting}` must be a classifier that ends in a linear layer, got {value!r}. Pass "
            f"another `--{setting}`.",
        )


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the last linear layer of a classifier, and the layer's name."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]


def with_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Return a copy of a classifier with an untrained last layer."""
    model = deepcopy(model)
    name, layer = head_of(model)
    model.set_submodule(name, nn.Linear(layer.in_features, num_classes))
    return model


def encoder_of(model: nn.Module) -> nn.Module:
    """Return a copy of a classifier that ends in the features of the last layer."""
    encoder = deepcopy(model)
    encoder.set_submodule(head_of(encoder)[0], nn.Identity())
    return encoder


# ---------------------------------------------------------------------------------------- training


def make(settings: Settings, data: Path, processes: Processes) -> Training:
    """Pretrain, look at the features, and return the fine-tuning."""
    sources, learned = tasks_of(settings, data)
    colours = colours_of(settings)
    num_targets = len(learned.train.classes)
    row: dict[str, float] = {}
    if sources is None:
        model = make_model(settings, num_targets, processes.device)
    else:
        model, row["pretrained"] = pretrain(settings, sources, colours, processes)
        torch.manual_seed(settings.seed)  # also where the pretraining was resumed
        model = with_head(model, num_targets).to(processes.device)
    row |= look(settings, model, learned, colours, processes)
    few = learned
    if settings.tune_images is not None:
        rng = np.random.default_rng([settings.seed, 0])
        chosen = choose(learned.train.targets, settings.tune_images, rng)
        few = replace(learned, train=learned.train.take(chosen))
    loaders = make_loaders(settings, few, settings.tune_mix, colours, processes)
    return make_training(settings, model, loaders, settings.tune_lr, row)


def colours_of(settings: Settings) -> dict[str, Any]:
    """Return the mean and the deviation of pixels by which images are normalised."""
    if settings.backbone is None:
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    known = load_classifier(NAME, settings.backbone).transform
    return {"mean": known.mean, "std": known.std}


def pretrain(
    settings: Settings, sources: Task, colours: dict[str, Any], processes: Processes
) -> tuple[nn.Module, float]:
    """Return a trained classifier of the sources' classes, and its top-1 in [0, 1]."""
    assert settings.out is not None
    out = settings.out / "pretrained"
    settings = replace(settings, epochs=settings.pretrain_epochs, out=out)
    model = make_model(settings, len(sources.train.classes), processes.device)
    loaders = make_loaders(settings, sources, settings.mix, colours, processes)
    results = train_once(
        settings,
        processes,
        out,
        lambda: make_training(settings, model, loaders, settings.lr, {}),
    )
    return model, results["last_top1"]


def make_training(
    settings: Settings,
    model: nn.Module,
    loaders: tuple[DataLoader, DataLoader],
    lr: float,
    row: dict[str, float],
) -> Training:
    """Return the training of a classifier, beside whose accuracy ``row`` is told."""
    train, val = loaders
    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr, weight_decay=settings.weight_decay),
        loss=classified(mixed_cross_entropy),
        learning_rate=partial(cosine, lr, epochs=settings.epochs, warmup=settings.warmup),
        measure=partial(measure, row=row, picture=settings.out),
        validate_every=settings.epochs,
    )


# ---------------------------------------------------------------------------------------- measures


def look(
    settings: Settings,
    model: nn.Module,
    task: Task,
    colours: dict[str, Any],
    processes: Processes,
) -> dict[str, float]:
    """Return top-1 of regressions on a network's features, on all images and on few, in [0, 1].

    Every process looks at all images.
    """
    encoder = encoder_of(model)
    values = []
    for files in (task.train, task.val):
        with DataLoader(
            files,
            2 * settings.batch_size,
            transform=as_validated(settings, colours),
            channels_last=True,
            num_workers=settings.workers,
            device=processes.device,
            shard=Shard(),
        ) as loader:
            values.append(features_of(encoder, loader))
    (features, label), shown = values
    scale = scale_of(features)
    classifier = nn.Linear(features.shape[1], len(task.train.classes)).to(features.device)
    fit_probe(classifier, features, label, settings.probe_decay, scale)
    row = {"probe": top1_of(classifier, *shown)}
    for count in settings.shots:
        rng = np.random.default_rng([settings.seed, count])
        shares = []
        for _ in range(settings.choices):
            chosen = torch.from_numpy(choose(label.cpu().numpy(), count, rng)).to(label.device)
            fit_probe(classifier, features[chosen], label[chosen], settings.probe_decay, scale)
            shares.append(top1_of(classifier, *shown))
        row[f"few_{count}"] = float(np.mean(shares))
    return row


def measure(
    model: nn.Module,
    loader: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None,
    *,
    row: dict[str, float],
    picture: Path | None,
) -> dict[str, float]:
    """Return accuracies in [0, 1] of the validation images of all processes, and ``row``."""
    numbers = validate(model, loader, processes, autocast, max_batches)
    if processes.is_first and picture is not None:
        draw_predictions(
            model,
            [loader],
            picture / "predictions.png",
            shown=SHOWN,
            columns=6,
            title="predicted classes and their probabilities",
        )
    return numbers | {name: numbers[name] / 100 for name in ("top1", "top5")} | row


# --------------------------------------------------------------------------------------------- run


def main(settings: Settings) -> dict[str, Any]:
    """Pretrain and fine-tune with each seed; return what results.json holds."""
    is_pretrained = settings.backbone is None and settings.pretrain_epochs > 0
    mixes = {settings.tune_mix, settings.mix if is_pretrained else "none"}
    without_mix = "--mix none" if is_pretrained else "--tune-mix none"
    loaded = ("mix", "pretrain_epochs", "lr", "arch", "width")
    unused = [
        (settings.backbone is not None, "--backbone", loaded),
        (settings.pretrain_epochs == 0, "--pretrain-epochs 0", ("mix", "lr")),
        (settings.arch != "small", f"--arch {settings.arch}", ("width",)),
        (mixes == {"none"}, without_mix, ("prob",)),
    ]
    refuse_unused(NAME, settings, PRESETS, unused)
    if settings.smoke:
        small = shrunk(settings, seeds=1, tune_images=1, shots=(1,), choices=2, width=4)
        small["pretrain_epochs"] = min(settings.pretrain_epochs, 2)
        settings = replace(settings, **small)
    numbers = ["top1", "probe", *(f"few_{count}" for count in settings.shots)]
    numbers += ["pretrained"] if is_pretrained else []
    return run_seeds(NAME, settings, partial(find_data, NAME, side=settings.size), make, numbers)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
