"""Occluded objects, a stand-in for street scenes: a classifier under growing cover.

Expect: CutMix costs 10 points where nothing is covered, and Cutout 8. Behind a cover the loss by
MixUp of 2 points at 25 % is clear, and nothing else. Top-1 in % while a share of the animal is
covered, mean of three seeds and deviation, in two to three minutes each on two CPU cores; chance is
10 %:

    covered, %      0           25          50          75
    --mix none      51.3 (3.4)  27.6 (0.4)  18.2 (1.8)  11.4 (0.5)
    --mix cutmix    41.7 (2.4)  26.0 (1.1)  17.0 (1.1)  11.3 (0.5)
    --mix cutout    42.9 (2.5)  28.0 (0.7)  19.4 (0.8)  12.4 (0.8)
    --mix mixup     45.4 (5.3)  25.2 (0.4)  16.5 (1.1)  11.2 (0.8)

Run, where DIR is what data/compose_scenes.py beside this file writes:

    python pipelines/scenes.py --data DIR

The baseline is one flag away: --mix none. Other methods are --mix cutout and --mix mixup. To try
every part on a few composed scenes, in seconds, with or without a GPU:

    python pipelines/scenes.py --smoke

Several runs in one plot over the covered share of the animal:

    python pipelines/plot_levels.py runs/none runs/cutout runs/mixup runs/cutmix --out levels.svg

The scenes are composed of silhouettes, and say nothing about photographs. The classifier learns
from single/, where nothing covers the animals, and is tested on occluded/LEVEL. LEVEL is the
covered percentage of an animal's pixels: 00, 25, 50 or 75. The same scenes are tested at every
level, and animals of the tests are in no training scene. OUT, or runs/scenes, gets results.json,
and a folder for each seed with its checkpoint, which evaluate.py takes, and predictions.png.
Numbers, as shares: top1_LEVEL at each level, and top1, the mean of all levels.

Follows: the occlusions of Yun et al. 2019, arXiv:1905.04899, section 4.4, where Cutout and CutMix
stand a hole in the centre of an image. Differs: patches of another background cover the animal
itself, wherever it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
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
from harness.folders import data_script
from harness.predictions import draw_predictions
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, Count, CountOrZero, Part, Share
from harness.schedule import cosine
from harness.seeds import SeedSettings, run_seeds
from harness.settings import from_flags, named
from harness.training import Training, classified, fixed, shrunk
from harness.unused import refuse_unused
from harness.validation import validate
from models.small import Net

NAME = "scenes"
#: Folders below occluded/: percentages that are covered.
LEVELS = ("00", "25", "50", "75")
#: Scenes in the picture of predictions, each at every level.
SHOWN = 6
#: Mean and deviation of the pixels of composed scenes, in [0, 1].
MEAN, STD = (0.48,) * 3, (0.2,) * 3


@dataclass(frozen=True)
class Settings(SeedSettings):
    """Hold everything that a run of the classifier depends on."""

    data: Path | None = None
    """Folder that data/compose_scenes.py wrote. With --smoke, None composes a few scenes."""

    mix: Literal["cutmix", "mixup", "cutout", "none"] = "cutmix"
    """What mixes or erases, or the baseline without it."""

    prob: Share = 0.5
    """Probability that an image is mixed, with "cutmix" and "mixup"."""

    hole: Part = 0.5
    """Side of the square that "cutout" erases in each image, as a share of the image's side."""

    size: Count = 32
    """Side in pixels to which scenes are resized."""

    width: Count = 16
    """Channels of the network's first convolution; the last has four times as many."""

    epochs: Count = 100
    """Passes over the training scenes."""

    batch_size: Count = 20
    """Images per step of the optimizer, over all processes together."""

    lr: Amount = 4e-3
    """Highest learning rate of AdamW, from which half a cosine falls to 0."""

    warmup: CountOrZero = 2
    """Epochs in which the learning rate rises to the highest."""

    weight_decay: Amount = 1e-3
    """On every parameter."""


# -------------------------------------------------------------------------------------------- data


def find(settings: SeedSettings, temporary: Path) -> Path:
    """Return the folder of the scenes; a smoke run without a folder composes some of shapes."""
    if settings.data is None and settings.smoke:
        return make_scenes(temporary)
    needed = ["single", "train", "val", *(f"occluded/{level}" for level in LEVELS)]
    data = settings.data
    lacks = [] if data is None else [name for name in needed if not (data / name).is_dir()]
    if data is None or lacks:
        lacking = f"got {data}" + (f", which lacks {', '.join(lacks)}" if lacks else "")
        stop(
            NAME,
            f"`data` must be a folder that data/compose_scenes.py wrote, {lacking}. Pass `--data "
            "DIR`, or `--smoke` alone to try the recipe on a few composed scenes.",
        )
    return data


def make_scenes(folder: Path) -> Path:
    """Compose a few scenes of discs, bars and rings; return their folder."""
    y, x = np.mgrid[:28, :28] - 13.5
    radius = np.hypot(y, x)
    shapes = {"disc": radius < 11, "bar": abs(y) < 4, "ring": abs(radius - 9) < 3}
    for part in ("train", "val"):
        for name, mask in shapes.items():
            path = folder / "shapes" / part / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    compose = data_script("compose_scenes")
    compose.CONSOLE.quiet = True
    counts = {"num_train": 8, "num_val": 4, "num_single": 4, "num_occluded": 2}
    compose.main(compose.Settings(folder / "shapes", folder / "scenes", size=64, **counts))
    return folder / "scenes"


def make_loaders(settings: Settings, data: Path) -> tuple[DataLoader, list[DataLoader]]:
    """Return the training loader, and one for each level of cover."""
    source = FileList.from_folder(data / "single")
    if len(source) < settings.batch_size:
        stop(
            NAME,
            f"`batch_size` must be at most {len(source)}, the scenes in {data / 'single'}, got "
            f"{settings.batch_size}.",
        )
    batch_size = split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate)
    shared: dict[str, Any] = {"num_workers": settings.workers, "tuning": settings.tuning}
    shared |= {"channels_last": True}
    augment = []
    if settings.mix == "cutout":
        augment = [Cutout(2 * round(settings.hole * settings.size / 2))]
    mixes = {"cutmix": CutMix(prob=settings.prob), "mixup": MixUp(1.0, prob=settings.prob)}
    train = DataLoader(
        source,
        batch_size,
        shuffle=True,
        drop_last=True,
        transform=TrainTransform(
            settings.size, scale=(0.6, 1.0), augment=augment, mean=MEAN, std=STD
        ),
        mix=mixes.get(settings.mix),
        target="pair",
        seed=settings.seed,
        **shared,
    )
    transform = EvalTransform(settings.size, settings.size, mean=MEAN, std=STD)
    tests = []
    for level in LEVELS:
        files = FileList.from_folder(data / "occluded" / level)
        if files.classes != source.classes:
            stop(NAME, f"single/ and occluded/{level}/ in {data} must hold the same class folders.")
        tests.append(DataLoader(files, 100, transform=transform, **shared))
    return train, tests


# ---------------------------------------------------------------------------------- classification


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return an untrained classifier."""
    model = Net(settings.width, num_classes)
    return model.to(device=device, memory_format=torch.channels_last)


def make_classifier(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return the training of a classifier, which is tested at every level."""
    train, tests = make_loaders(settings, data)
    model = make_model(settings, train.num_classes, processes.device)

    def measure(*arguments: Any) -> dict[str, float]:
        model, _, processes, *others = arguments
        rows = [validate(model, test, processes, *others) for test in tests]
        top1 = {f"top1_{level}": row["top1"] / 100 for level, row in zip(LEVELS, rows, strict=True)}
        if processes.is_first and settings.out is not None:
            draw_predictions(
                model,
                tests,
                settings.out / "predictions.png",
                shown=SHOWN,
                columns=len(tests),
                title="covered: 0, 25, 50 and 75 %; predicted classes and their probabilities",
            )
        return {"top1": float(np.mean([*top1.values()])), **top1, "num_val": rows[0]["num_val"]}

    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=tests[0],
        model=model,
        optimizer=torch.optim.AdamW(
            model.parameters(), settings.lr, weight_decay=settings.weight_decay
        ),
        loss=classified(mixed_cross_entropy),
        learning_rate=partial(cosine, settings.lr, epochs=settings.epochs, warmup=settings.warmup),
        measure=measure,
        tests=tests[1:],
        validate_every=settings.epochs,
    )


# --------------------------------------------------------------------------------------------- run

PRESETS = named({"classification": Settings()})


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    unused = [
        (settings.mix in ("none", "cutout"), f"--mix {settings.mix}", ("prob",)),
        (settings.mix != "cutout", f"--mix {settings.mix}", ("hole",)),
    ]
    refuse_unused(NAME, settings, PRESETS, unused)
    if settings.smoke:
        settings = replace(settings, **shrunk(settings, seeds=1, width=4))
    numbers = ("top1", *(f"top1_{level}" for level in LEVELS))
    return run_seeds(NAME, settings, find, make_classifier, numbers)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
