"""Detectors under growing cover: what runs of detection_ssd.py or detection_fasterrcnn.py see.

Expect: CutMix costs 3 points of mAP where nothing is covered. Behind a cover more animals have a
box among 100 boxes of an image, whatever the scores; mAP stays below 4 % from a cover of 50 % on.
In %, mean of three SSD detectors and deviation, each trained for ten minutes on two CPU cores:

    covered, %          0           25          50          75
    mAP, --mix none     47.0 (0.9)  10.6 (0.3)  2.6 (0.1)   0.7 (0.2)
    mAP, --mix cutmix   43.8 (0.8)  11.2 (0.5)  3.2 (0.1)   1.2 (0.2)
    recall, none        64.7 (0.6)  33.0 (0.8)  17.3 (0.2)  12.8 (0.9)
    recall, cutmix      64.1 (1.1)  35.8 (0.9)  23.3 (0.1)  16.9 (0.4)

Run, where DIR is what data/compose_scenes.py beside this file writes. The detectors are trained
before, and nothing is trained here:

    python pipelines/detection_ssd.py --data DIR --preset scenes --mix none --out runs/ssd_none
    python pipelines/scenes_detection.py --data DIR --detectors runs/ssd_none --out runs/cover_none

With the same of --mix cutmix, both in one plot over the covered share:

    python pipelines/plot_levels.py runs/cover_* --number recall_covered --out levels.svg

To try every part on a few composed scenes, in seconds:

    python pipelines/scenes_detection.py --smoke

OUT, or runs/scenes_detection, gets results.json, and SEED/predictions.png with the scenes whose
animal is covered by half. Numbers, as shares, where LEVEL is the covered percentage of an animal's
pixels, 00, 25, 50 or 75:

- map_covered_LEVEL: mean over classes of the average precision at IoU from 0.5 to 0.95, in the
  scenes of occluded/LEVEL. A scene has one animal, and its box encloses what is visible;
- recall_covered_LEVEL: the share of animals of which a box is found, with 100 boxes per image, mean
  over classes and the same IoU;
- map_covered and recall_covered: means of all levels;
- map: the same in val/, where up to four animals cover each other.

The same scenes are tested at every level, and animals of the tests are in no training scene. The
scenes are composed of silhouettes: a stand-in for street scenes, which says nothing of photographs.
"""

from __future__ import annotations

import importlib
import json
import statistics
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import detection_ssd
from dali_cutmix import DataLoader, EvalTransform, read_coco_boxes
from evaluation.weights import load_weights, read_state
from harness.average_precision import measure
from harness.box_folders import need_pycocotools
from harness.checkpoints import check_out, write_json
from harness.detection import load_backbone, make_stages
from harness.processes import Processes, joined, stop
from harness.ranges import Count, CountOrZero
from harness.results import RESULTS, finish, refuse_results
from harness.settings import PresetSettings, from_flags, named
from scenes import LEVELS, make_scenes

NAME = "scenes_detection"
#: Level of the picture of predictions.
SHOWN = "50"
#: Recipes whose detectors can be measured.
RECIPES = ("detection_ssd", "detection_fasterrcnn")


@dataclass(frozen=True)
class Settings(PresetSettings):
    """Hold what is measured."""

    detectors: Path | None = None
    """Output folder of a run of detection_ssd.py or detection_fasterrcnn.py."""

    batch_size: Count = 50
    """Images that a detector sees at a time, in each process."""

    workers: CountOrZero | None = None
    """CPU threads of a loader. None takes one per CPU, at most 8."""


# -------------------------------------------------------------------------------------------- data


def parts_of(data: Path) -> dict[str, tuple[Path, Path]]:
    """Return the boxes and the images of each test: of val/, and of each level."""
    parts = {"": (data / "val/coco.json", data / "val/images")}
    for level in LEVELS:
        folder = data / "occluded" / level
        parts[level] = (folder / "coco.json", folder)
    return parts


def make_loaders(
    settings: Settings, data: Path, classes: list[str], transform: EvalTransform
) -> dict[str, DataLoader]:
    """Return the loader of each test, by its level; val/ has none."""
    loaders = {}
    for level, (table, images) in parts_of(data).items():
        try:
            source, boxes = read_coco_boxes(table, images)
        except (OSError, ValueError) as error:
            stop(NAME, f"`data` must be a folder that data/compose_scenes.py wrote. {error}")
        if list(boxes.names or []) != classes:
            stop(
                NAME,
                f"`detectors` must know the classes of {table}, {', '.join(boxes.names or [])}, "
                f"and know {', '.join(classes)}. Train detectors on {data}.",
            )
        loaders[level] = DataLoader(
            source,
            settings.batch_size,
            transform=transform,
            target=boxes,
            channels_last=True,
            num_workers=settings.workers,
        )
    return loaders


# -------------------------------------------------------------------------------------- detectors


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, in the order of their seeds."""
    paths = [path for path in folder.glob("*/checkpoint.pt") if path.parent.name.isdecimal()]
    if not paths or not (folder / RESULTS).is_file():
        stop(
            NAME,
            f"`detectors` must be the folder of a finished run of {' or '.join(RECIPES)}, with "
            f"{RESULTS} and SEED/checkpoint.pt, got {folder}.",
        )
    return sorted(paths, key=lambda path: int(path.parent.name))


def detector_of(path: Path, state: dict[str, Any]) -> nn.Module:
    """Return the detector of a checkpoint, on the CPU."""
    if state.get("recipe") not in RECIPES:
        stop(
            NAME,
            f"`detectors` must be of {' or '.join(RECIPES)}, and {path} is of "
            f"{state.get('recipe')!r}.",
        )
    recipe = importlib.import_module(state["recipe"])
    names = {field.name for field in fields(recipe.Settings)}
    values = {name: value for name, value in state["settings"].items() if name in names}
    settings = recipe.Settings(**values)
    stages = make_stages(NAME, settings, load_backbone(NAME, settings))
    model: nn.Module = recipe.make_detector(settings, stages, len(state["classes"]))
    misfit = load_weights(model, state["model"])
    if misfit is not None:
        stop(NAME, f"{path} must hold weights of its recipe's detector, and {misfit}.")
    return model


# --------------------------------------------------------------------------------------------- run


def measure_detector(
    settings: Settings, data: Path, path: Path, out: Path, processes: Processes
) -> dict[str, float]:
    """Return every number of one detector, in [0, 1]."""
    state = read_state(path)
    model = detector_of(path, state)
    model = model.to(device=processes.device, memory_format=torch.channels_last).eval()
    transform = EvalTransform(**state["transform"])
    row = {}
    autocast = torch.autocast(processes.device.type, torch.bfloat16, enabled=False)
    for level, loader in make_loaders(settings, data, state["classes"], transform).items():
        picture = out / path.parent.name / "predictions.png" if level == SHOWN else None
        with loader:
            measured = measure(
                model, loader, processes, autocast, None, names=state["classes"], picture=picture
            )
        end = f"_covered_{level}" if level else ""
        row |= {f"map{end}": measured["map"], f"recall{end}": measured["mar_100"]}
    for kind in ("map", "recall"):
        row[f"{kind}_covered"] = statistics.mean(row[f"{kind}_covered_{level}"] for level in LEVELS)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
    processes.say(f"seed {path.parent.name}  {shown}")
    return row


def main(settings: Settings) -> dict[str, Any]:
    """Measure the detectors of every seed; return what results.json holds.

    Only the first process writes the file. The other processes return nothing.
    """
    need_pycocotools(NAME)
    if settings.smoke and settings.detectors is None:
        return try_out(settings)
    folder, data = settings.detectors, settings.data
    if folder is None or data is None:
        stop(NAME, "`detectors` and `data` must be folders. Pass `--detectors RUN --data DIR`.")
    paths = checkpoints_of(folder)
    trained = json.loads((folder / RESULTS).read_text())
    out = settings.out or Path(f"runs/{NAME}")
    check_out(NAME, out)
    refuse_results(NAME, out)
    with joined(NAME) as processes:
        rows = [measure_detector(settings, data, path, out, processes) for path in paths]
        if not processes.is_first:
            return {}
        numbers = {name: [row[name] for row in rows] for name in rows[0]}
        results = finish(NAME, settings, out, numbers, [])
        # What the trainings depended on, as publish_runs.py and plot_levels.py tell runs apart.
        results["settings"] = {**trained["settings"], "data": str(data), "out": str(out)}
        results["detectors"] = trained["recipe"]
        results["smoke"] = settings.smoke or trained["smoke"]
        write_json(out / RESULTS, results)
        return results


def try_out(settings: Settings) -> dict[str, Any]:
    """Train a detector for some steps on a few composed scenes, and measure it."""
    with tempfile.TemporaryDirectory() as temporary:
        data, run = make_scenes(Path(temporary)), Path(temporary, "run")
        small = replace(detection_ssd.PRESETS["small"], smoke=True, mix="none", data=data, out=run)
        detection_ssd.main(small)
        out = settings.out or Path(temporary, "out")
        return main(replace(settings, data=data, detectors=run, out=out, batch_size=4))


PRESETS = named({"small": Settings()})


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
