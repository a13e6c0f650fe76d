"""mAP of a detector over all processes, and a picture of what the detector found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dali_cutmix import DataLoader, contact_sheet
from harness.monitor import as_pixels
from harness.processes import Processes

#: Numbers of a validation: mean over classes of the average precision, over IoU from 0.5 to 0.95,
#: and at two IoUs; and the recall with 100 detections per image.
NUMBERS = ("map", "map_50", "map_75", "mar_100")
#: Most detections of an image that count, as in COCO's evaluation.
MOST_DETECTIONS = 100
#: Images in the picture of predictions, and the score from which a detection is drawn.
SHOWN, LEAST_SCORE = 6, 0.3
#: A detection or what is true: tensors by name.
Objects = dict[str, torch.Tensor]


@torch.no_grad()
def measure(
    model: nn.Module,
    loader: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None,
    *,
    names: list[str],
    picture: Path | None,
) -> dict[str, float]:
    """Return `NUMBERS` of the validation images of all processes, as `mean_average_precision` does.

    Args:
        model: Detector on the processes' device.
        loader: Loader of this process's part.
        processes: Processes that validate. A process that was asked to stop ends at once.
        autocast: Context of a forward pass.
        max_batches: Validation ends after so many batches; None takes all.
        names: Names of the classes by label.
        picture: File for some images with their predicted and their true boxes, or None. The images
            are spread over the first process's part of the validation data.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[Objects, Objects]] = []
    # Spread over what this process sees. A process may see one image less.
    num_seen = -(-len(loader.dataset) // processes.count)
    if max_batches is not None:
        num_seen = min(num_seen, max_batches * loader.batch_size)
    chosen = np.linspace(0, num_seen - 1, SHOWN).astype(int).tolist()
    shown: list[tuple[torch.Tensor, tuple[Objects, Objects]]] = []
    for image, target in islice(loader, max_batches):
        processes.leave_if_asked()
        with autocast:
            detected = model(list(image))
        pairs = [
            (_on_cpu(said), _on_cpu(true)) for said, true in zip(detected, target, strict=True)
        ]
        picked = [number for number in range(len(image)) if len(rows) + number in chosen]
        if picture is not None and picked:
            pixels = as_pixels(image[picked], loader.transform).cpu()
            shown += zip(pixels, [pairs[number] for number in picked], strict=True)
        rows += pairs
    model.train(was_training)
    if picture is not None and shown and processes.is_first:
        pixels, pairs = zip(*shown, strict=True)
        draw_predictions(picture, torch.stack(pixels), pairs, names)
    # Whole lists, since torchmetrics waits for ever where processes have different counts.
    rows = processes.collect(rows)
    return mean_average_precision(rows) | {"num_val": len(rows)}


def mean_average_precision(rows: list[tuple[Objects, Objects]]) -> dict[str, float]:
    """Return `NUMBERS` of images, given what was detected and what is true of each.

    Numbers are in [0, 1], and NaN where the images have no object to find.
    """
    from torchmetrics.detection import MeanAveragePrecision  # needs pycocotools

    metric = MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)
    metric.update([said for said, _ in rows], [true for _, true in rows])
    numbers = metric.compute()
    found = {name: float(numbers[name]) for name in NUMBERS}
    # Without an object to find, torchmetrics returns -1.
    return {name: value if value >= 0 else math.nan for name, value in found.items()}


def _on_cpu(objects: Objects) -> Objects:
    taken = {name: tensor.cpu() for name, tensor in objects.items() if name != "visible"}
    return taken | {"boxes": taken["boxes"].float()}


def draw_predictions(
    path: Path, pixels: torch.Tensor, pairs: Sequence[tuple[Objects, Objects]], names: list[str]
) -> None:
    """Draw images in pairs: with what was detected, and with what is true.

    Args:
        path: File of the picture.
        pixels: ``[B, 3, height, width]`` uint8 on the CPU.
        pairs: What was detected, and what is true of each image.
        names: Names of the classes by label.
    """
    tiles, boxes = [], []
    for image, (said, true) in zip(pixels, pairs, strict=True):
        sure = said["scores"] >= LEAST_SCORE
        shown = {name: said[name][sure] for name in ("boxes", "labels")}
        tiles += [image, image]
        boxes += [shown | {"visible": said["scores"][sure]}, true]
    title = f"left: detected, with scores from {LEAST_SCORE} on; right: true"
    sheet = contact_sheet(torch.stack(tiles), boxes, classes=names, columns=4, title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
