"""What recipes with few labels depend on: their settings, and images with and without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dali_cutmix import FileList
from harness.pictures import find_data, read_parts
from harness.processes import stop
from harness.ranges import Amount, BelowOne, Count, Seed, Share
from harness.settings import DataSettings


@dataclass(frozen=True)
class FewLabelsSettings(DataSettings):
    """Hold what a run with few labels depends on. The defaults suit the silhouettes."""

    labels_per_class: Count = 4
    """Images of each class in train/ that have a label."""

    size: Count = 20
    """Side in pixels to which images are resized. Fewer pixels take less time."""

    flip: Share = 0.5
    """Probability of mirroring a training image. 0 for digits."""

    epochs: Count = 16
    """Passes over all images of train/."""

    batch_size: Count = 20
    """Images with a label in a step."""

    lr: Amount = 2e-3
    """Learning rate of AdamW at the start of a half cosine that ends at 0."""

    weight_decay: Amount = 1e-3
    """On every parameter."""

    average_decay: BelowOne = 0.97
    """Share of the averaged weights that a step keeps, below 1. The average is validated. With 0.99
    the average lags behind a run of 400 steps."""

    width: Count = 16
    """Channels of the first convolution; the last has four times as many."""

    validate_every: Count = 10
    """Epochs from one validation to the next. The last epoch is validated in any case."""

    seed: Seed = 0
    """Seed of the choice of labels, initial weights, order, crops and mixing."""


def shrunk(settings: FewLabelsSettings) -> dict[str, int]:
    """Return the settings that a smoke run changes."""
    small = {"labels_per_class": 1, "epochs": 2, "batch_size": 4, "width": 4, "validate_every": 1}
    return {name: min(value, getattr(settings, name)) for name, value in small.items()}


@dataclass(frozen=True)
class FewLabels:
    """Hold the images of a run.

    Attributes:
        labelled: Images of train/ whose label is known: equally many of each class.
        unlabelled: All images of train/, also those of ``labelled``. None has a class.
        val: Images of val/ and their classes.
    """

    labelled: FileList
    unlabelled: FileList
    val: FileList


def read(name: str, settings: FewLabelsSettings, temporary: Path) -> FewLabels:
    """Return the images of a run, or end the run with one sentence.

    Args:
        name: Name of the recipe.
        settings: Settings of the run. Which images have labels depends on the data,
            ``labels_per_class`` and ``seed`` alone.
        temporary: Folder for the pictures of a smoke run.
    """
    data = find_data(name, settings, temporary, settings.size)
    train, val = read_parts(name, data)
    labelled = choose(name, train, settings.labels_per_class, settings.seed)
    return FewLabels(labelled, without_classes(train), val)


def choose(name: str, images: FileList, per_class: int, seed: int) -> FileList:
    """Return equally many images of each class, chosen at random."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label, class_name in enumerate(images.classes):
        members = np.flatnonzero(images.targets == label)
        if len(members) < per_class:
            stop(
                name,
                f"`labels_per_class` must be at most {len(members)}, the images of {class_name}, "
                f"got {per_class}.",
            )
        chosen.append(rng.permutation(members)[:per_class])
    return images.take(np.sort(np.concatenate(chosen)))


def without_classes(images: FileList) -> FileList:
    """Return the images with one class for all, so that no loss can read a label."""
    paths = [images.path(index) for index in range(len(images))]
    return FileList(paths, np.zeros(len(paths), np.int64), ["unknown"])
