"""ultralytics: ``CutMix`` of its training data mixes images with boxes and semantic masks."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from offers import (
    HEIGHT,
    NUM_SAMPLES,
    NUM_TURNS,
    WIDTH,
    Outcome,
    judge_boxes,
    judge_masks,
    owned_images,
    report,
)
from ultralytics.data.augment import CutMix
from ultralytics.utils.instance import Instances

INSTALL = "pip install ultralytics"
#: Boxes xyxy in pixels, the same in every image.
STORED = np.array([[2, 2, 16, 14], [28, 12, 46, 30]])


class _Samples:
    """Yield what ultralytics' data sets yield: an image with instances, classes and a mask."""

    use_obb = False

    def __len__(self) -> int:
        return NUM_SAMPLES

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Return a sample as a data set of ultralytics does."""
        image = owned_images()[index].transpose(1, 2, 0).copy()
        boxes = STORED.astype(np.float32)
        segments = np.zeros((0, 1000, 2), np.float32)
        instances = Instances(boxes, segments, bbox_format="xyxy", normalized=False)
        classes = (10 * index + np.arange(len(boxes), dtype=np.float32))[:, None]
        mask = image[..., 0].astype(np.uint8)
        return {"img": image, "cls": classes, "instances": instances, "semantic_mask": mask}


def _turns() -> list[dict[str, Any]]:
    samples = _Samples()
    cutmix = CutMix(samples, p=1.0)
    return [cutmix(samples.get_image_and_label(turn % NUM_SAMPLES)) for turn in range(NUM_TURNS)]


def masks() -> Outcome:
    """Mix images and semantic masks."""
    turns = _turns()
    images = np.stack([turn["img"] for turn in turns]).transpose(0, 3, 1, 2)
    return judge_masks(images, np.stack([turn["semantic_mask"] for turn in turns]))


def boxes() -> Outcome:
    """Mix images and boxes; cuts avoid the image's own boxes, so that no box is covered."""
    stored = np.broadcast_to(STORED, (NUM_SAMPLES, *STORED.shape))
    problems, num_mixed = [], 0
    for turn in _turns():
        owners = turn["img"][..., 0].astype(int)
        num_mixed += len(np.unique(owners)) > 1
        turn["instances"].convert_bbox("xyxy")
        problem = judge_boxes(owners, turn["instances"].bboxes, turn["cls"][:, 0], stored)
        problems += [problem] if problem else []
    said = f"{num_mixed} of {NUM_TURNS} images of {HEIGHT} x {WIDTH} px mixed: cuts touch no box"
    if problems:
        return Outcome("partly", f"{said}; in {len(problems)} {problems[0]}")
    return Outcome("yes" if num_mixed else "wrong", said)


if __name__ == "__main__":
    random.seed(0)
    np.random.seed(0)
    report(
        ["ultralytics"],
        ["ultralytics.data.augment"],
        {
            "classes": lambda: Outcome("no", "the labels of classification are not mixed"),
            "masks": masks,
            "boxes": boxes,
            "multi-label rows": lambda: Outcome("no", "`CutMix` knows no rows"),
            "captions": lambda: Outcome("no", "`CutMix` knows no captions"),
            "clips": lambda: Outcome("no", "`CutMix` takes images"),
            "volumes": lambda: Outcome("no", "`CutMix` takes images"),
        },
    )
