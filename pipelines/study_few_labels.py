"""Do images without labels help? MixMatch, FixMatch and their baselines, with several seeds each.

Expect: results of two cores are in RESULTS.md beside this file, losses beside gains.

Run, where DIR holds train/ and val/, each with one folder of small images per class;
data/prepare_silhouettes.py beside this file makes such a folder:

    python pipelines/study_few_labels.py --data DIR --out OUT
    python pipelines/study_few_labels.py --data DIR --out OUT --labels 2 4 10 --seeds 5

OUT gets a folder for each training, LABELS/METHOD/SEED, and few_labels.json with the top-1 of all.
What is there is not repeated: an interrupted study goes on, and a study grows. A seed chooses the
images that have a label, so that methods compare in pairs.

To try every part on generated pictures, in seconds:

    python pipelines/study_few_labels.py --smoke

Follows: semi_mixmatch.py and semi_fixmatch.py beside this file, with their defaults. Their
baselines take as many steps as they do, with the labelled images alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import tyro

import semi_fixmatch
import semi_mixmatch
from dali_cutmix.tools.bench.machine import processor_name
from evaluation.image_lists import digest
from harness.checkpoints import check_out, write_json
from harness.few_labels import FewLabelsSettings
from harness.pictures import read_parts
from harness.processes import CONSOLE, refuse_several, stop
from harness.ranges import Checked, Count
from harness.results import RESULTS
from harness.settings import as_plain

NAME = "study_few_labels"
#: File of the digests of the images that all trainings of a folder are of.
IMAGES = "images.json"
#: Recipe of each method, and settings of the recipe that are not its defaults.
METHODS: Mapping[str, tuple[ModuleType, Mapping[str, str]]] = {
    "supervised": (semi_fixmatch, {"method": "supervised"}),
    "fixmatch_cutmix": (semi_fixmatch, {"mix": "cutmix"}),
    "fixmatch_cutout": (semi_fixmatch, {"mix": "cutout"}),
    "supervised_cutmix": (semi_mixmatch, {"method": "supervised", "mix": "cutmix"}),
    "mixmatch_cutmix": (semi_mixmatch, {"mix": "cutmix"}),
    "mixmatch_mixup": (semi_mixmatch, {"mix": "mixup"}),
}
#: Settings that differ from training to training, or change no result.
OF_A_TRAINING = ("data", "out", "smoke", "seed", "labels_per_class", "method", "mix")


@dataclass(frozen=True)
class Settings(Checked):
    """Hold everything a study depends on."""

    data: Path | None = None
    """Folder with train/ and val/, each with one folder of images per class. With --smoke, None
    generates pictures."""

    out: Path | None = None
    """Folder of a folder for each training, and of few_labels.json. With --smoke, None takes a
    folder that is removed at the end."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Names of the methods to train."""

    labels: tuple[Count, ...] = (4,)
    """Images of each class that have a label; each number is a study of its own."""

    seeds: Count = 3
    """Trainings of each method: with the seeds 0, 1, and so on."""

    smoke: bool = False
    """Shrink everything until a study takes seconds. The numbers mean nothing."""


def trained(settings: Settings, out: Path, method: str, labels: int, seed: int) -> dict[str, Any]:
    """Return the results of a training: those in its folder, or else new ones."""
    recipe, changes = METHODS[method]
    folder = out / str(labels) / method / str(seed)
    asked: FewLabelsSettings = recipe.Settings(
        data=settings.data,
        out=folder,
        smoke=settings.smoke,
        labels_per_class=labels,
        seed=seed,
        **changes,
    )
    if settings.smoke or not (folder / RESULTS).exists():
        results: dict[str, Any] = recipe.main(asked)
        return results
    results = json.loads((folder / RESULTS).read_text())
    # Data and results may have moved since.
    plain = as_plain(asked) | {name: results["settings"][name] for name in ("data", "out")}
    if odd := [name for name, value in results["settings"].items() if plain.get(name) != value]:
        stop(NAME, f"{folder} was trained with other {', '.join(odd)}. Pass another `--out`.")
    return results


def check_images(data: Path, out: Path) -> None:
    """Refuse a folder that holds trainings of other images; note the images in a new one."""
    images = dict(zip(("train", "val"), map(digest, read_parts(NAME, data)), strict=True))
    path = out / IMAGES
    if not path.exists():
        write_json(path, images)
    elif json.loads(path.read_text()) != images:
        stop(
            NAME,
            f"{out} holds trainings of other images than those of {data}. Pass another `--out`.",
        )


def study(settings: Settings, out: Path) -> dict[str, Any]:
    """Train what is missing in ``out``; return what few_labels.json holds."""
    if settings.data is not None and not settings.smoke:
        check_images(settings.data, out)
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    # All methods of a seed first, so that a study that is cut short compares equals.
    for seed in range(settings.seeds):
        for labels, method in product(settings.labels, settings.methods):
            results = trained(settings, out, method, labels, seed)
            runs.setdefault((labels, method), []).append(results)
            CONSOLE.print(
                f"{labels} labels per class, {method}, seed {seed}: "
                f"top-1 {results['last_top1']:.1f} %"
            )
    content = summary(settings, runs)
    write_json(out / "few_labels.json", content)
    return content


def summary(
    settings: Settings, runs: Mapping[tuple[int, str], list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return what few_labels.json holds.

    Args:
        settings: Settings of the study.
        runs: Results of each seed, by labels per class and method.
    """
    everything = [results for of_method in runs.values() for results in of_method]
    recipes = {
        results["recipe"]: {k: v for k, v in results["settings"].items() if k not in OF_A_TRAINING}
        for results in everything
    }
    num_images = max(results["num_unlabelled"] for results in everything)
    size, num_val = everything[0]["settings"]["size"], everything[0]["epochs"][-1]["num_val"]
    return {
        "what": "few_labels",
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "data": settings.data.name if settings.data else "generated pictures",
        "settings_text": (
            f"Images of {size} px. As many training images of each class have a label as the table "
            f"says; MixMatch and FixMatch use all {num_images} without their labels too. A seed "
            f"chooses the same labelled images for all methods. Top-1 on {num_val} test images, by "
            "which the threshold, the weight of the guesses and the decay of the average were "
            "chosen too."
        ),
        "settings": {"seeds": settings.seeds, **recipes},
        "rows": [
            {
                "method": method,
                "labels": labels,
                "top1": [results["last_top1"] / 100 for results in of_method],
            }
            for (labels, method), of_method in runs.items()
        ],
    }


def main(settings: Settings) -> dict[str, Any]:
    """Run a study, or the smoke run of one."""
    refuse_several(NAME)
    if unknown := sorted(set(settings.methods) - set(METHODS)):
        stop(NAME, f"`methods` must be names among {', '.join(METHODS)}, got {unknown}.")
    if not settings.methods or not settings.labels:
        stop(NAME, "`methods` and `labels` must leave something to train.")
    with tempfile.TemporaryDirectory() as temporary:
        out = settings.out
        if settings.smoke:
            settings = dataclasses.replace(settings, seeds=min(settings.seeds, 2))
            out = out or Path(temporary)
        if out is None:
            stop(NAME, "`out` must be a folder for the results. Pass `--out OUT`.")
        check_out(NAME, out)
        return study(settings, out)


if __name__ == "__main__":
    torch.set_num_threads(1)  # small convolutions; run two studies on two cores
    main(tyro.cli(Settings, description=__doc__))
