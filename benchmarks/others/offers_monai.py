"""MONAI: ``CutMixd`` mixes a batch of images or volumes and their label maps."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import Compose, CopyItemsd, CutMix, CutMixd, RandFlipd
from monai.utils import set_determinism
from offers import (
    NUM_SAMPLES,
    Outcome,
    class_rows,
    judge_masks,
    judge_rows,
    label_rows,
    owned_images,
    report,
)

INSTALL = "pip install monai"


def _mix(images: Any, rows: Any) -> tuple[Any, Any]:
    """Mix images and rows of labels, as the documentation of ``CutMix`` does."""
    return CutMix(NUM_SAMPLES)(torch.from_numpy(images), torch.from_numpy(rows))


def _masks(images: Any) -> Outcome:
    """Mix images and label maps, which are cut as the images are."""
    sample = {"image": images, "mask": images[:, :1].clone()}
    mixed = CutMixd(["image"], NUM_SAMPLES, label_keys=["mask"])(sample)
    return judge_masks(mixed["image"], mixed["mask"])


def volumes() -> Outcome:
    """Mix volumes ``[B, 1, D, H, W]`` with label maps, then with classes."""
    stored = owned_images()[:, :1, None].repeat(8, axis=2)
    outcome = _masks(torch.from_numpy(stored))
    classes = judge_rows(_mix, class_rows(), stored)
    if outcome.verdict == classes.verdict == "yes":
        return outcome
    if outcome.verdict != "yes":
        return Outcome("wrong", f"label maps: {outcome.said}")
    return Outcome("partly", f"with label maps; for classes the {classes.said}")


def views() -> Outcome:
    """Copy an image and flip both copies by draws of their own."""
    image = torch.arange(12.0).reshape(1, 3, 4)
    flips = [RandFlipd([key], prob=0.5, spatial_axis=1) for key in ("image", "image_1")]
    compose = Compose([CopyItemsd(["image"], times=1, names=["image_1"]), *flips])
    pairs = [compose({"image": image}) for _ in range(NUM_SAMPLES * 5)]
    if any(not torch.equal(pair["image"], pair["image_1"]) for pair in pairs):
        return Outcome("partly", "`CopyItemsd` copies, each copy has transforms; no mix per view")
    return Outcome("wrong", "both copies are alike")


if __name__ == "__main__":
    set_determinism(0)
    report(
        ["monai"],
        ["monai.transforms"],
        {
            "classes": lambda: judge_rows(_mix, class_rows(), owned_images()),
            "masks": lambda: _masks(torch.from_numpy(owned_images())),
            "boxes": lambda: Outcome("no", "`CutMixd` takes tensors like images only"),
            "multi-label rows": lambda: judge_rows(_mix, label_rows(), owned_images()),
            "captions": lambda: Outcome("no", "`CutMixd` takes tensors like images only"),
            "clips": lambda: Outcome("no", "a clip is mixed as a volume, see there"),
            "volumes": volumes,
            "several views": views,
        },
    )
