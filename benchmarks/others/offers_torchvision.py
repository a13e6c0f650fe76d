"""torchvision's transforms v2: ``v2.CutMix`` mixes a batch of images or of videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from offers import (
    HEIGHT,
    NUM_SAMPLES,
    WIDTH,
    Outcome,
    attempt,
    class_rows,
    judge_masks,
    judge_rows,
    label_rows,
    owned_images,
    report,
)
from torchvision import tv_tensors
from torchvision.transforms import v2

INSTALL = "pip install torchvision"


def _mix(images: Any, rows: Any) -> tuple[Any, Any]:
    return v2.CutMix()(torch.from_numpy(images), torch.from_numpy(rows))


def masks() -> Outcome:
    """Mix images and masks, as tv_tensors name them."""
    images = torch.from_numpy(owned_images())
    stored = tv_tensors.Mask(images[:, 0].long())
    sample = {"image": tv_tensors.Image(images), "masks": stored, "labels": torch.eye(NUM_SAMPLES)}
    mixed = v2.CutMix(labels_getter=lambda sample: sample["labels"])(sample)
    return judge_masks(mixed["image"], mixed["masks"])


def boxes() -> Outcome:
    """Mix images and boxes, as tv_tensors name them."""
    stored = tv_tensors.BoundingBoxes(
        torch.tensor([[2, 2, 20, 20]] * NUM_SAMPLES), format="XYXY", canvas_size=(HEIGHT, WIDTH)
    )
    images = torch.from_numpy(owned_images())
    sample = {"image": tv_tensors.Image(images), "boxes": stored, "labels": torch.eye(NUM_SAMPLES)}
    v2.CutMix(labels_getter=lambda sample: sample["labels"])(sample)
    return Outcome("wrong", "no error, boxes as they were")


def captions() -> Outcome:
    """Mix a batch that holds texts."""
    texts = [f"caption {number}" for number in range(NUM_SAMPLES)]
    images = torch.from_numpy(owned_images())
    _, _, out = v2.CutMix()(images, torch.eye(NUM_SAMPLES), texts)
    if out == texts:
        return Outcome("no", "captions pass through: nothing says whose pixels were pasted")
    return Outcome("yes", "captions were mixed")


def _clip_mix(images: Any, rows: Any) -> tuple[Any, Any]:
    clips = tv_tensors.Video(torch.from_numpy(images).unsqueeze(1).expand(-1, 4, -1, -1, -1))
    mixed, weights = v2.CutMix()(clips, torch.from_numpy(rows))
    return mixed.transpose(1, 2), weights


def clips() -> Outcome:
    """Mix clips ``[B, T, 3, H, W]``."""
    outcome = judge_rows(_clip_mix, class_rows(), owned_images())
    said = "the same rectangle in every frame"
    return Outcome("yes", said) if outcome.verdict == "yes" else outcome


def volumes() -> Outcome:
    """Mix volumes ``[B, 1, D, H, W]``; if they are refused, their slices as frames."""
    images = torch.from_numpy(owned_images()[:, :1]).unsqueeze(2).expand(-1, -1, 8, -1, -1)
    refused = attempt(lambda: Outcome("yes", str(v2.CutMix()(images, torch.eye(NUM_SAMPLES)))))
    outcome = judge_rows(_clip_mix, class_rows(), owned_images())
    if refused.verdict == "refused" and outcome.verdict == "yes":
        return Outcome("partly", "slices as frames of a `Video`: the same rectangle in each")
    return refused


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    report(
        ["torchvision"],
        ["torchvision.transforms.v2"],
        {
            "classes": lambda: judge_rows(_mix, class_rows(), owned_images()),
            "masks": masks,
            "boxes": boxes,
            "multi-label rows": lambda: judge_rows(_mix, label_rows(), owned_images()),
            "captions": captions,
            "clips": clips,
            "volumes": volumes,
        },
    )
