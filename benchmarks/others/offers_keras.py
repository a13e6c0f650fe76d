"""Keras: the layer ``CutMix`` mixes a batch with labels and masks."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
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

INSTALL = "pip install keras"


def _mix(images: Any, rows: Any) -> tuple[Any, Any]:
    layer = keras.layers.CutMix(data_format="channels_first")
    mixed = layer({"images": images, "labels": rows}, training=True)
    return tuple(keras.ops.convert_to_numpy(mixed[name]) for name in ("images", "labels"))


def masks() -> Outcome:
    """Mix images and masks of one channel."""
    images = owned_images()
    layer = keras.layers.CutMix(data_format="channels_first")
    sample = {"images": images, "segmentation_masks": images[:, :1], "labels": class_rows()}
    mixed = layer(sample, training=True)
    names = "images", "segmentation_masks"
    pixels, owners = (keras.ops.convert_to_numpy(mixed[name]) for name in names)
    if owners.shape[1] == 3 and (owners == owners[:, :1]).all():
        outcome = judge_masks(pixels, owners[:, 0])
        said = "masks of one channel come back with three"
        return Outcome("partly", said) if outcome.verdict == "yes" else outcome
    return judge_masks(pixels, owners)


def boxes() -> Outcome:
    """Mix images and boxes."""
    stored = {"boxes": np.full((NUM_SAMPLES, 1, 4), 8.0), "labels": np.zeros((NUM_SAMPLES, 1))}
    layer = keras.layers.CutMix(data_format="channels_first", bounding_box_format="xyxy")
    layer({"images": owned_images(), "bounding_boxes": stored}, training=True)
    return Outcome("wrong", "no error")


def volumes() -> Outcome:
    """Mix volumes."""
    images = owned_images()[:, :1, None].repeat(8, axis=2)
    layer = keras.layers.CutMix(data_format="channels_first")
    layer({"images": images, "labels": class_rows()}, training=True)
    return Outcome("wrong", "no error")


def record() -> Outcome:
    """Read what was drawn for a batch."""
    layer = keras.layers.CutMix(data_format="channels_first")
    drawn = layer.get_random_transformation({"images": owned_images()}, training=True)
    if "permutation_order" in drawn:
        return Outcome("partly", "`get_random_transformation` returns partners and masks; no file")
    return Outcome("no", "`get_random_transformation` tells no partners")


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    report(
        ["keras", "torch"],
        ["keras.layers"],
        {
            "classes": lambda: judge_rows(_mix, class_rows(), owned_images()),
            "masks": masks,
            "boxes": boxes,
            "multi-label rows": lambda: judge_rows(_mix, label_rows(), owned_images()),
            "captions": lambda: Outcome("no", "`CutMix` knows no texts"),
            "clips": lambda: Outcome("no", "`CutMix` takes images"),
            "volumes": volumes,
            "record": record,
        },
        note="on the back end torch",
    )
