"""Does CutMix help this model? Small trainings with many mixes and seeds, each evaluated in full.

Expect: results of two cores are in RESULTS.md beside this file, losses beside gains. They are of
small images and a small network: they show directions, not the paper's numbers.

Run, where DIR holds train/ and val/, each with one folder of small images per class, and perhaps
val.json, the boxes of val/ as COCO writes them; data/prepare_silhouettes.py and
data/generate_parts.py beside this file make such folders:

    python pipelines/study.py --data DIR --out OUT
    python pipelines/study.py --data DIR --out OUT --methods none cutmix --seeds 5

OUT gets a folder for each training, METHOD/SEED, and study.json with the numbers of all. A training
whose folder is there is not repeated: an interrupted study goes on, and a study grows by further
methods and seeds. Two of its methods side by side, as a report:

    python pipelines/evaluate.py --compare OUT/none OUT/cutmix

To try every part on generated pictures, in seconds:

    python pipelines/study.py --smoke

Follows: a network of four convolutions, trained for long on few images, until the training images
are learned by heart. That is the regime of the paper's 300 epochs, and the one in which CutMix
gains: a run that underfits loses by it. AdamW, one cycle of the learning rate. Images are padded by
2 pixels and cropped; they are not mirrored, since some data are digits. Every mix is drawn for half
of the samples, as in the authors' command for CIFAR, unless the method's name says otherwise.
"""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import nn

from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    FeatureMix,
    FileList,
    FMix,
    GridMix,
    MixUp,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    TrainTransform,
    mixed_cross_entropy,
)
from evaluation.attacks import measure_attacks
from evaluation.box_files import read_boxes
from evaluation.classification import measure_classification
from evaluation.corruptions import measure_corruptions
from evaluation.image_lists import digest, spread
from evaluation.in_between import measure_in_between
from evaluation.localisation import measure_localisation
from evaluation.occlusion import measure_occlusion
from evaluation.outliers import measure_outliers
from evaluation.predictions import Images
from evaluation.result import Result
from evaluation.saved import NUMBERS, Evaluation, load, save
from evaluation.subject import Subject
from harness.checkpoints import write_json
from harness.labels import Label, relabelled
from harness.processes import CONSOLE, stop

NAME = "study"
#: Settings that change no result.
UNIMPORTANT = ("data", "out", "methods", "seeds", "smoke")
#: Names of the network's layers in which features can be mixed, from the input on.
LAYERS = ("", "blocks.0", "blocks.1", "blocks.2")

# ----------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """Hold how a training differs from the baseline.

    Attributes:
        mix: Function from the number of epochs to a mix; None mixes nothing.
        layers: Layers whose features are mixed instead of the images, one of them in each batch.
        cutout: Side of the square erased in each image, as a share of the image's side.
        smoothing: Share of each target spread over all classes.
        label: What a mixed image is called; see `relabelled`.
    """

    mix: Callable[[int], Any] | None = None
    layers: tuple[str, ...] = ()
    cutout: float = 0.0
    smoothing: float = 0.0
    label: Label = "shares"


def _always(mix: Any) -> Callable[[int], Any]:
    return lambda _: mix


HALF = 0.5
CUTMIX, MIXUP = _always(CutMix(prob=HALF)), _always(MixUp(1.0, prob=HALF))

#: What every study compares first.
HEADLINE = {
    "none": Method(),
    "cutout": Method(cutout=0.5),
    "smoothing": Method(smoothing=0.1),
    "mixup": Method(MIXUP),
    "manifold_mixup": Method(MIXUP, layers=LAYERS),
    "cutmix": Method(CUTMIX),
    "feature_cutmix": Method(CUTMIX, layers=LAYERS),
    "saliencymix": Method(_always(SaliencyMix(prob=HALF))),
    "resizemix": Method(_always(ResizeMix(prob=HALF))),
    "fmix": Method(_always(FMix(prob=HALF))),
    "gridmix": Method(_always(GridMix(prob=HALF))),
}
#: The paper's ablations of CutMix, and a control whose labels are wrong.
ABLATIONS = {
    "centre_gaussian": Method(_always(CutMix(prob=HALF, placement="gaussian"))),
    "fixed_size": Method(_always(CutMix(prob=HALF, lam=0.75))),
    "one_hot": Method(CUTMIX, label="larger"),
    "complete_label": Method(CUTMIX, label="halves"),
    "scheduled": Method(lambda epochs: Scheduled(CutMix(), epochs, prob=lambda t: t)),
    "swapped_labels": Method(CUTMIX, label="swapped"),
    "cutmix_smoothing": Method(CUTMIX, smoothing=0.1),
}
#: Too little and too much.
SWEEPS = {
    **{f"prob_{prob:g}": Method(_always(CutMix(prob=prob))) for prob in (0.1, 0.25, 0.75, 1.0)},
    **{
        f"alpha_{alpha:g}": Method(_always(CutMix(alpha, prob=HALF)))
        for alpha in (0.1, 0.25, 2.0, 4.0)
    },
    **{f"kept_{kept:g}": Method(_always(CutMix(prob=HALF, lam=kept))) for kept in (0.95, 0.5, 0.1)},
}
METHODS: Mapping[str, Method] = {**HEADLINE, **ABLATIONS, **SWEEPS}

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """Hold everything a study depends on."""

    data: Path | None = None
    """Folder with train/ and val/, each with one folder of images per class, all of one size, and
    perhaps with val.json."""

    out: Path | None = None
    """Folder of a folder for each training, and of study.json."""

    methods: tuple[str, ...] = tuple(HEADLINE)
    """Names of the methods to train; `all` trains all there are."""

    seeds: int = 3
    """Trainings of each method: with the seeds 0, 1, and so on."""

    epochs: int = 80
    """Passes over the training data."""

    batch_size: int = 64
    """Samples per step."""

    lr: float = 4e-3
    """Highest learning rate of the cycle."""

    weight_decay: float = 1e-3
    """On every parameter."""

    width: int = 24
    """Channels of the first convolution; the last has four times as many."""

    max_images: int = 1000
    """Images of val/ for the slow measures, evenly spread: in between, attacks, corruptions."""

    smoke: bool = False
    """Shrink everything until a study takes seconds. The numbers mean nothing."""


# -------------------------------------------------------------------------------------------- data


def side_of(folder: Path) -> int:
    """Return the side of the images of a folder in pixels, by the first of them."""
    first = next(iter(sorted(folder.rglob("*.png"))), None)
    if first is None:
        stop(NAME, f"`data` must hold PNG files in train/ and val/, and {folder} holds none.")
    with Image.open(first) as image:
        if image.width != image.height:
            stop(NAME, f"{first} must be square, got {image.width} x {image.height} pixels.")
        return image.width


def make_loader(settings: Settings, method: Method, data: Path, seed: int) -> DataLoader:
    """Return the training loader of a method."""
    side = side_of(data)
    augment = [Cutout(2 * round(method.cutout * side / 2))] if method.cutout else []
    mix = None if method.mix is None else method.mix(settings.epochs)
    if method.layers:
        mix = Deferred(mix)
    return DataLoader(
        data / "train",
        settings.batch_size,
        shuffle=True,
        drop_last=True,
        transform=TrainTransform(side, pad=2, flip=0, augment=augment),
        mix=mix,
        target="pair",
        with_plan=bool(method.layers),
        device="cpu",
        seed=seed,
    )


# ------------------------------------------------------------------------------------------- model


class Net(nn.Module):
    """Classify small images by four convolutions, the mean over the image, and one linear layer.

    Args:
        width: Channels of the first convolution; the last has four times as many.
        num_classes: Number of logits.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        widths, strides = (3, width, 2 * width, 4 * width, 4 * width), (1, 2, 2, 1)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1, bias=False),
                    nn.BatchNorm2d(widths[i + 1]),
                    nn.ReLU(),
                )
                for i, stride in enumerate(strides)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 3, height, width]`` to logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.classifier(self.pool(self.blocks(image)).flatten(1))
        return logits


# ---------------------------------------------------------------------------------------- training


def train(settings: Settings, method: Method, data: Path, seed: int) -> tuple[nn.Module, float]:
    """Return a trained network in evaluation mode, and the mean loss of its last epoch."""
    torch.manual_seed(seed)
    with make_loader(settings, method, data, seed) as loader:
        model = Net(settings.width, loader.num_classes)
        mixing = FeatureMix(model, list(method.layers), seed=seed) if method.layers else None
        optimizer = torch.optim.AdamW(
            model.parameters(), settings.lr, weight_decay=settings.weight_decay
        )
        num_steps = settings.epochs * len(loader)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, num_steps)
        model.train()
        for epoch in range(settings.epochs):
            loader.set_epoch(epoch)
            losses = []
            for image, target, *plan in loader:
                if mixing is None:
                    logits = model(image)
                else:
                    logits, target = mixing(image, plan[0], target)
                target = relabelled(target, method.label)
                loss = mixed_cross_entropy(logits, target, label_smoothing=method.smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                cycle.step()
                losses.append(loss.item())
    return model.eval(), float(np.mean(losses))


# ---------------------------------------------------------------------------------------- measures


def evaluate(
    settings: Settings, name: str, model: nn.Module, data: Path, loss: float
) -> Evaluation:
    """Return everything that is measured of a trained network."""
    side = side_of(data)
    source = FileList.from_folder(data / "val")
    transform = EvalTransform(side, side)
    device = torch.device("cpu")
    subject = Subject(name, model, transform, source.classes, device)
    images, few = Images(source, 250), Images(spread(source, settings.max_images), 250)
    results: list[Result] = [
        measure_classification(subject, images),
        measure_occlusion(subject, images),
        measure_in_between(subject, few),
        measure_attacks(subject, few),
        measure_corruptions(subject, few),
        measure_outliers(subject, images),
    ]
    if (data / "val.json").exists():
        with_boxes, boxes = read_boxes(data / "val.json", source)
        results.append(measure_localisation(subject, Images(with_boxes, 250), boxes))
    # A network that knows its training images by heart overfits, which is the study's regime.
    known = measure_classification(subject, Images(FileList.from_folder(data / "train"), 250))
    about = {"train_top1": known.numbers["top1"], "train_loss": loss}
    return Evaluation(name, tuple(results), about, digest(source))


def study(settings: Settings, data: Path, out: Path) -> dict[str, Any]:
    """Train and evaluate what is missing in ``out``; return what study.json holds."""
    names = tuple(METHODS) if settings.methods == ("all",) else settings.methods
    if unknown := sorted(set(names) - set(METHODS)):
        stop(NAME, f"`methods` must be names among {', '.join(METHODS)}, got {unknown}.")
    what = {k: v for k, v in vars(settings).items() if k not in UNIMPORTANT}
    parts = {part: FileList.from_folder(data / part) for part in ("train", "val")}
    if parts["train"].classes != parts["val"].classes:
        odd = sorted(set(parts["train"].classes) ^ set(parts["val"].classes))[:5]
        stop(NAME, f"train/ and val/ in {data} must hold the same class folders; odd are {odd}.")
    what |= {part: digest(source) for part, source in parts.items()}
    check(out, what)
    # All methods of a seed first, so that a study that is cut short compares equals.
    for seed in range(settings.seeds):
        for name in names:
            folder = out / name / str(seed)
            if (folder / NUMBERS).exists():
                continue
            model, loss = train(settings, METHODS[name], data, seed)
            evaluation = evaluate(settings, name, model, data, loss)
            about = {**evaluation.about, "seed": seed, "settings": what}
            save(folder, replace(evaluation, about=about))
            top1 = 100 * evaluation.numbers["classification/top1"]
            CONSOLE.print(f"{name}, seed {seed}: top-1 {top1:.1f} %")
    content = summary(out, what, data.name)
    write_json(out / "study.json", content)
    return content


def check(out: Path, what: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a training of other settings or other images."""
    for path in sorted(out.glob(f"*/*/{NUMBERS}")):
        saved = load(path.parent).about.get("settings") or {}
        odd = sorted(name for name in what if saved.get(name) != what[name])
        if odd:
            names = ", ".join(odd)
            stop(NAME, f"{path.parent} was trained with other {names}. Pass another `--out`.")


def summary(out: Path, what: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Return every number of every training of a study."""
    rows = {}
    for name in METHODS:
        folders = sorted((out / name).glob("*/" + NUMBERS), key=lambda path: int(path.parent.name))
        runs = [load(path.parent) for path in folders]
        if runs:
            numbers = {k: [run.numbers[k] for run in runs] for k in runs[0].numbers}
            numbers |= {k: [run.about[k] for run in runs] for k in ("train_top1", "train_loss")}
            rows[name] = {"numbers": numbers}
    return {
        "what": "study",
        "date": datetime.date.today().isoformat(),
        "data": data,
        "settings": dict(what),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "methods": rows,
    }


def main(settings: Settings) -> dict[str, Any]:
    """Run a study, or the smoke run of one."""
    with tempfile.TemporaryDirectory() as temporary:
        data, out = settings.data, settings.out
        if settings.smoke:
            settings = replace(settings, epochs=2, width=4, batch_size=8, seeds=2, max_images=8)
            data = data or generated(Path(temporary))
            out = out or Path(temporary, "out")
        if data is None or not all((data / part).is_dir() for part in ("train", "val")):
            stop(NAME, f"`data` must be a folder with train/ and val/ in it, got {data}.")
        if out is None:
            stop(NAME, "`out` must be a folder for the results. Pass `--out OUT`.")
        return study(settings, data, out)


def generated(folder: Path) -> Path:
    """Return a folder of the pictures of data/generate_parts.py, few of them."""
    sys.path.insert(0, str(Path(__file__).parent / "data"))
    generate = importlib.import_module("generate_parts")
    generate.main(generate.Settings(folder / "parts", num_classes=3, num_train=8, num_val=4))
    return folder / "parts"


if __name__ == "__main__":
    torch.set_num_threads(1)  # small convolutions; run two studies on two cores
    main(tyro.cli(Settings, description=__doc__))
