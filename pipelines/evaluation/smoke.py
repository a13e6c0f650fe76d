"""The smoke run of evaluate.py: two untrained models, a few generated pictures, and their boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dali_cutmix import EvalTransform
from evaluation.flags import Settings
from evaluation.subject import Subject
from harness.pictures import make_pictures


def shrunk(settings: Settings, temporary: Path) -> Settings:
    """Return the settings of a smoke run.

    Args:
        settings: Settings of the user. Pictures and boxes are generated where there is no ``data``.
        temporary: Folder for the pictures, and for the report where there is no ``out``.
    """
    data, boxes = settings.data, settings.boxes
    if data is None:
        data = temporary / "pictures"
        make_pictures(data, 10, 40, num_classes=4)
        lines = [f"{path.relative_to(data)},10,10,30,30" for path in sorted(data.rglob("*.png"))]
        boxes = temporary / "boxes.csv"
        boxes.write_text("\n".join(["path,x0,y0,x1,y1", *lines]) + "\n")
    return dataclasses.replace(
        settings,
        data=data,
        boxes=boxes,
        checkpoint=None,
        compare=("small 0", "small 1"),
        out=settings.out or temporary / "evaluation",
        attack_steps=min(settings.attack_steps, 2),
        batch_size=min(settings.batch_size, 4),
        max_images=10,
    )


def untrained(spec: str, classes: Sequence[str], device: torch.device) -> Subject:
    """Return an untrained model.

    Args:
        spec: A word and the seed of the weights, as ``"small 0"``.
        classes: Class names of the images.
        device: Device on which the model computes.
    """
    torch.manual_seed(int(spec.split()[1]))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, len(classes)),
    )
    model = model.to(device).eval().requires_grad_(False)
    return Subject(spec, model, EvalTransform(36, 32), list(classes), device)
