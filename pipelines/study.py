"""Does CutMix help this model? Small trainings with many mixes and seeds, each evaluated in full.

Expect: results of two cores are in RESULTS.md beside this file, losses beside gains. They are of
small images and a small network: they show directions, not the paper's numbers.

Run, where DIR holds train/ and val/, each with one folder of small images per class, and perhaps
val.json, the boxes of val/ as COCO writes them; data/prepare_silhouettes.py and
data/generate_parts.py beside this file make such folders:

    python pipelines/study.py --data DIR --out OUT
    python pipelines/study.py --data DIR --out OUT --methods none cutmix --seeds 5

OUT gets a folder for each training, METHOD/SEED, and study.json with the numbers of all. What is
there is not repeated: an interrupted study goes on, and a study grows by further methods and seeds.
Each folder holds model.pt, the network, and report.json; without the latter a network is measured
again. evaluate.py takes a model.pt as a checkpoint; captions.py and the detectors take a model.pt
as a backbone. Two methods side by side, as a report:

    python pipelines/evaluate.py --compare OUT/none OUT/cutmix

To try every part on generated pictures, in seconds:

    python pipelines/study.py --smoke

Follows: a network of four convolutions, trained for long on few images, until the training images
are learned by heart. That is the regime of the paper's 300 epochs, and the one in which CutMix
gains: a network that is still learning loses by a harder task. AdamW, one cycle of the learning
rate. Images are padded by 2 pixels and cropped; they are not mirrored, since some data are digits.
The methods are those of harness/methods.py.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import nn

from dali_cutmix import (
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    FeatureMix,
    FileList,
    TrainTransform,
    mixed_cross_entropy,
)
from dali_cutmix.tools.bench.machine import processor_name
from evaluation.attacks import measure_attacks
from evaluation.box_files import read_boxes
from evaluation.classification import measure_classification
from evaluation.compare import compare
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
from harness.checkpoints import check_out, write_json
from harness.folders import data_script
from harness.labels import relabelled
from harness.methods import HEADLINE, METHODS, Method
from harness.pictures import read_parts
from harness.processes import CONSOLE, refuse_several, stop
from harness.ranges import Amount, Checked, Count
from models.small import Net

NAME = "study"
#: Images that a network sees at a time while it is measured.
BATCH_SIZE = 100
#: Settings that a training depends on; images and `MEASURED` aside.
TRAINED = ("epochs", "batch_size", "lr", "weight_decay", "width")
#: Settings that only the measures depend on.
MEASURED = ("max_images",)
#: File of a trained network in the folder of its training.
WEIGHTS = "model.pt"

# ---------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings(Checked):
    """Hold everything a study depends on."""

    data: Path | None = None
    """Folder with train/ and val/, each with one folder of images per class, all of one size, and
    perhaps with val.json."""

    out: Path | None = None
    """Folder of a folder for each training, and of study.json."""

    other: Path | None = None
    """Folder of folders of images that show none of the classes, to be told from those of val/;
    none: noise alone is to be told from them."""

    title: str = ""
    """Heading of the results; empty takes the name of the folder of the data."""

    methods: tuple[str, ...] = tuple(HEADLINE)
    """Names of the methods to train; `all` trains all there are."""

    seeds: Count = 3
    """Trainings of each method: with the seeds 0, 1, and so on."""

    epochs: Count = 80
    """Passes over the training data."""

    batch_size: Count = 64
    """Samples per step."""

    lr: Amount = 4e-3
    """Highest learning rate of the cycle."""

    weight_decay: Amount = 1e-3
    """On every parameter."""

    width: Count = 16
    """Channels of the first convolution; the last has four times as many."""

    max_images: Count = 1000
    """Images of val/ for the slow measures, evenly spread (in between, attacks, corruptions), and
    of `other`."""

    smoke: bool = False
    """Shrink everything until a study takes seconds. The numbers mean nothing."""


# -------------------------------------------------------------------------------------------- data


def side_of(data: Path) -> int:
    """Return the side of the images of a folder in pixels, by the first of val/."""
    first = FileList.from_folder(data / "val").path(0)
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


# ---------------------------------------------------------------------------------------- training


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return an untrained network."""
    return Net(settings.width, num_classes).to(device=device, memory_format=torch.channels_last)


def train(settings: Settings, method: Method, data: Path, seed: int) -> tuple[nn.Module, float]:
    """Return a trained network in evaluation mode, and the mean loss of its last epoch."""
    torch.manual_seed(seed)
    with make_loader(settings, method, data, seed) as loader:
        model = make_model(settings, loader.num_classes, loader.device)
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


def evaluate(settings: Settings, name: str, model: nn.Module, data: Path) -> Evaluation:
    """Return everything that is measured of a trained network."""
    side = side_of(data)
    source = FileList.from_folder(data / "val")
    subject = Subject(name, model, EvalTransform(side, side), source.classes, torch.device("cpu"))
    images = Images(source, BATCH_SIZE)
    few = Images(spread(source, settings.max_images), BATCH_SIZE)
    other = None
    if settings.other is not None:
        others = FileList.from_folder(settings.other)
        other = Images(spread(others, settings.max_images), BATCH_SIZE)
    results: list[Result] = [
        measure_classification(subject, images),
        measure_occlusion(subject, images),
        measure_in_between(subject, few),
        measure_attacks(subject, few),
        measure_corruptions(subject, few),
        measure_outliers(subject, images, other=other),
    ]
    if (data / "val.json").exists():
        with_boxes, boxes = read_boxes(data / "val.json", source)
        results.append(measure_localisation(subject, Images(with_boxes, BATCH_SIZE), boxes))
    # A network that knows its training images by heart overfits, which is the study's regime.
    known = Images(FileList.from_folder(data / "train"), BATCH_SIZE)
    about = {"train_top1": measure_classification(subject, known).numbers["top1"]}
    return Evaluation(name, tuple(results), about, digest(source))


def study(settings: Settings, data: Path, out: Path) -> dict[str, Any]:
    """Train and evaluate what is missing in ``out``; return what study.json holds."""
    names = tuple(METHODS) if settings.methods == ("all",) else settings.methods
    if unknown := sorted(set(names) - set(METHODS)):
        stop(NAME, f"`methods` must be names among {', '.join(METHODS)}, got {unknown}.")
    trained, measured = described(settings, data)
    check(out, trained, measured)
    # All methods of a seed first, so that a study that is cut short compares equals.
    for seed in range(settings.seeds):
        for name in names:
            folder = out / name / str(seed)
            if not (folder / WEIGHTS).exists():
                model, loss = train(settings, METHODS[name], data, seed)
                write(folder, checkpoint_of(model, data) | {"loss": loss, "settings": trained})
            if not (folder / NUMBERS).exists():
                model, loss = read(settings, folder, data)
                evaluation = evaluate(settings, name, model, data)
                about = {"train_loss": loss, "seed": seed, "settings": trained | measured}
                save(folder, replace(evaluation, about={**evaluation.about, **about}))
                top1 = 100 * evaluation.numbers["classification/top1"]
                CONSOLE.print(f"{name}, seed {seed}: top-1 {top1:.1f} %")
    content = summary(out, trained | measured, data, settings.title or data.name)
    write_json(out / "study.json", content)
    return content


def described(settings: Settings, data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what trainings depend on, and what their measures depend on besides."""
    train, val = read_parts(NAME, data)
    trained = {name: getattr(settings, name) for name in TRAINED} | {"train": digest(train)}
    measured = {name: getattr(settings, name) for name in MEASURED} | {"val": digest(val)}
    if (data / "val.json").exists():
        read_boxes(data / "val.json", FileList.from_folder(data / "val"))  # or refuse at once
    if settings.other is not None:
        if not settings.other.is_dir():
            stop(NAME, f"`other` must be a folder of folders of images, got {settings.other}.")
        measured["other"] = digest(FileList.from_folder(settings.other))
    return trained, measured


def check(out: Path, trained: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a training of other settings or other images."""
    for path in sorted(out.glob(f"*/*/{WEIGHTS}")):
        if odd := _odd(trained, torch.load(path, weights_only=True)["settings"]):
            stop(NAME, f"{path.parent} was trained with other {odd}. Pass another `--out`.")
    for path in sorted(out.glob(f"*/*/{NUMBERS}")):
        if odd := _odd(trained | measured, load(path.parent).about.get("settings") or {}):
            delete = f"Pass another `--out`, or delete each {NUMBERS} to measure again."
            stop(NAME, f"{path.parent} was measured with other {odd}. {delete}")


def _odd(asked: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return the names of settings that differ."""
    names = sorted({*asked, *there})
    return ", ".join(name for name in names if asked.get(name) != there.get(name))


def checkpoint_of(model: nn.Module, data: Path) -> dict[str, Any]:
    """Return a network's weights, and what evaluate.py has to know to rebuild the network."""
    side = side_of(data)
    return {
        "model": model.state_dict(),
        "recipe": NAME,
        "classes": FileList.from_folder(data / "train").classes,
        "transform": asdict(EvalTransform(side, side)),
    }


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the file of a trained network in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(content), folder / f"{WEIGHTS}.partial")
    os.replace(folder / f"{WEIGHTS}.partial", folder / WEIGHTS)


def read(settings: Settings, folder: Path, data: Path) -> tuple[nn.Module, float]:
    """Return a trained network in evaluation mode, and the mean loss of its last epoch."""
    content = torch.load(folder / WEIGHTS, weights_only=True)
    classes = FileList.from_folder(data / "train").classes
    model = make_model(settings, len(classes), torch.device("cpu"))
    model.load_state_dict(content["model"])
    return model.eval(), content["loss"]


def summary(out: Path, what: Mapping[str, Any], data: Path, title: str) -> dict[str, Any]:
    """Return every number of every training of a study, and facts about it."""
    runs = {name: runs_of(out / name) for name in METHODS}
    rows: dict[str, Any] = {}
    for name, of_method in runs.items():
        if not of_method:
            continue
        common = [k for k in of_method[0].numbers if all(k in run.numbers for run in of_method)]
        numbers = {k: [run.numbers[k] for run in of_method] for k in common}
        numbers |= {k: [run.about[k] for run in of_method] for k in ("train_top1", "train_loss")}
        rows[name] = {"numbers": numbers}
        if runs["cutmix"] and name != "cutmix":
            differences = compare(of_method, runs["cutmix"])
            intervals = {x.name: x.over_images for x in differences if x.over_images is not None}
            rows[name]["cutmix_minus_this_over_images"] = intervals
    train, val = (FileList.from_folder(data / part) for part in ("train", "val"))
    facts = {"training images": len(train), "test images": len(val), "classes": len(val.classes)}
    return {
        "what": "study",
        "date": datetime.date.today().isoformat(),
        "data": title,
        "facts": facts | {"side": side_of(data)},
        "settings": dict(what),
        "versions": {"dali-cutmix": version("dali-cutmix"), "torch": torch.__version__},
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "methods": rows,
    }


def runs_of(folder: Path) -> list[Evaluation]:
    """Return the evaluations of a method, by seed."""
    paths = folder.glob(f"*/{NUMBERS}")
    by_seed = sorted(paths, key=lambda path: (len(path.parent.name), path.parent.name))
    return [load(path.parent) for path in by_seed]


def main(settings: Settings) -> dict[str, Any]:
    """Run a study, or the smoke run of one."""
    refuse_several(NAME)
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
        check_out(NAME, out)
        return study(settings, data, out)


def generated(folder: Path) -> Path:
    """Return a folder of the pictures of data/generate_parts.py, few of them."""
    generate = data_script("generate_parts")
    generate.main(generate.Settings(folder / "parts", num_classes=3, num_train=8, num_val=4))
    return folder / "parts"


if __name__ == "__main__":
    torch.set_num_threads(1)  # small convolutions; run two studies on two cores
    main(tyro.cli(Settings, description=__doc__))
