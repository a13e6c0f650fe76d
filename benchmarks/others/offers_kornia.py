"""Kornia: ``RandomCutMixV2`` mixes a batch; ``VideoSequential`` applies it to clips."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from offers import (
    NUM_SAMPLES,
    NUM_TURNS,
    TOLERANCE,
    Outcome,
    attempt,
    judge_masks,
    label_rows,
    owned_images,
    report,
    shares_of,
)

INSTALL = "pip install kornia"


def _cutmix(*keys: str) -> Any:
    return K.RandomCutMixV2(data_keys=["input", *keys], use_correct_lambda=True)


def _judge_pairs(images: Any, labels: Any) -> tuple[float, bool]:
    """Return the worst error of the weights, and whether anything was mixed."""
    classes, weight = labels[0, :, :2].long().numpy(), labels[0, :, 2].numpy()
    targets = np.zeros((NUM_SAMPLES, NUM_SAMPLES))
    rows = np.arange(NUM_SAMPLES)
    np.add.at(targets, (rows, classes[:, 0]), weight)
    np.add.at(targets, (rows, classes[:, 1]), 1 - weight)
    shares = shares_of(images)
    return float(abs(shares - targets).max()), bool((shares.max(1) < 1).any())


def classes() -> Outcome:
    """Mix images and class indices."""
    cutmix, images, turns = _cutmix("class"), torch.from_numpy(owned_images()), []
    for _ in range(NUM_TURNS):
        turns.append(_judge_pairs(*cutmix(images, torch.arange(NUM_SAMPLES))))
    worst = max(error for error, _ in turns)
    if worst > TOLERANCE or not any(mixed for _, mixed in turns):
        return Outcome("wrong", f"weights differ from the shares of pixels by up to {worst:.2f}")
    return Outcome("yes", "with `use_correct_lambda=True`")


def masks() -> Outcome:
    """Mix images and masks."""
    images = torch.from_numpy(owned_images())
    return judge_masks(*_cutmix("mask")(images, images[:, :1].clone()))


def boxes() -> Outcome:
    """Mix images and boxes."""
    stored = torch.tensor([[[2.0, 2, 20, 20]]] * NUM_SAMPLES)
    _cutmix("bbox_xyxy")(torch.from_numpy(owned_images()), stored)
    return Outcome("wrong", "no error")


def rows() -> Outcome:
    """Mix images and multi-label rows."""
    _cutmix("class")(torch.from_numpy(owned_images()), torch.from_numpy(label_rows()))
    return Outcome("wrong", "no error")


def clips() -> Outcome:
    """Mix clips ``[B, 3, T, H, W]``."""
    stored = torch.from_numpy(owned_images()).unsqueeze(2).expand(-1, -1, 4, -1, -1).contiguous()
    sequence = K.VideoSequential(
        K.RandomCutMixV2(use_correct_lambda=True), data_format="BCTHW", same_on_frame=True
    )
    mixed = sequence(stored)
    same = all(torch.equal(mixed[:, :, 0], mixed[:, :, frame]) for frame in range(4))
    num_mixed = (shares_of(mixed).max(1) < 1).sum()
    if not same or not num_mixed:
        return Outcome("wrong", f"{num_mixed} clips mixed, frames alike: {same}")
    both = K.AugmentationSequential(
        K.VideoSequential(_cutmix("input"), data_format="BCTHW", same_on_frame=True),
        data_keys=["input", "class"],
    )
    _, labels = both(stored, torch.arange(NUM_SAMPLES))
    if labels.shape == (NUM_SAMPLES,):
        return Outcome("partly", "the same rectangle in every frame; classes stay unmixed")
    return Outcome("partly", "the same rectangle in every frame; labels not compared")


def volumes() -> Outcome:
    """Mix volumes; if they are refused, their slices as frames."""
    stored = torch.from_numpy(owned_images()[:, :1]).unsqueeze(2).expand(-1, -1, 8, -1, -1)
    cutmix = K.RandomCutMixV2(use_correct_lambda=True)
    refused = attempt(lambda: Outcome("yes", str(cutmix(stored.contiguous()).shape)))
    outcome = clips()
    if refused.verdict == "refused" and outcome.verdict == "partly":
        return Outcome("partly", f"slices as frames of a video: {outcome.said}")
    return refused


def record() -> Outcome:
    """Read what was drawn for the last batch."""
    cutmix = _cutmix("class")
    cutmix(torch.from_numpy(owned_images()), torch.arange(NUM_SAMPLES))
    if {"mix_pairs", "crop_src"} <= set(cutmix._params):
        return Outcome("partly", "`_params` holds partners and corners of the last batch; no file")
    return Outcome("no", f"`_params` holds {sorted(cutmix._params)}")


if __name__ == "__main__":
    torch.manual_seed(0)
    report(
        ["kornia"],
        ["kornia.augmentation"],
        {
            "classes": classes,
            "masks": masks,
            "boxes": boxes,
            "multi-label rows": rows,
            "captions": lambda: Outcome("no", "`data_keys` knows no texts"),
            "clips": clips,
            "volumes": volumes,
            "record": record,
        },
    )
