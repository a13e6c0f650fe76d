"""Albumentations, or its successor AlbumentationsX: no CutMix, but pasted objects."""

from __future__ import annotations

import importlib.metadata

import albumentations as A
import numpy as np
from offers import Outcome, owned_images, report, search

INSTALL = "pip install albumentationsx, or the former albumentations"
WORDS, MODULES = ("cutmix",), ["albumentations"]


def objects() -> Outcome:
    """Paste a rectangle of another image, with its box, by ``CopyAndPaste``."""
    if not hasattr(A, "CopyAndPaste"):
        return search(WORDS, MODULES)
    images = owned_images().transpose(0, 2, 3, 1)
    transform = A.Compose(
        [A.CopyAndPaste(p=1)],
        bbox_params=A.BboxParams(coord_format="pascal_voc", label_fields=["classes"]),
    )
    pasted = {"image": images[1], "bbox": [4, 4, 30, 20], "bbox_labels": {"classes": 10}}
    mixed = transform(
        image=images[0],
        bboxes=np.array([[2.0, 2, 20, 20]]),
        classes=[0],
        copy_paste_metadata=[pasted],
    )
    x1, y1, x2, y2 = mixed["bboxes"][list(mixed["classes"]).index(10)].astype(int)
    if (mixed["image"][y1:y2, x1:x2] == 1).all():
        return Outcome(
            "partly",
            "no CutMix; `CopyAndPaste` pastes objects that the caller picks, with masks and boxes",
        )
    return Outcome("wrong", "no CutMix; the pasted box is not where the pasted pixels are")


def record() -> Outcome:
    """Read what was drawn for an image."""
    image = np.zeros((8, 8, 3), np.uint8)
    replay = A.ReplayCompose([A.HorizontalFlip(p=0.5)])(image=image)["replay"]
    if replay["transforms"]:
        return Outcome("partly", "`ReplayCompose` tells what was drawn for an image; nothing mixed")
    return Outcome("no", "`ReplayCompose` tells nothing")


if __name__ == "__main__":
    np.random.seed(0)
    names = {dist.metadata["Name"] for dist in importlib.metadata.distributions()}
    is_successor = hasattr(A, "CopyAndPaste") and "albumentationsx" in names
    report(
        ["albumentationsx" if is_successor else "albumentations"],
        MODULES,
        {"masks": objects, "boxes": objects, "record": record},
    )
