"""mmdetection: no CutMix, but pasted objects by ``CopyPaste``, and views by ``MultiBranch``."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from offers import Outcome, owned_images, report

INSTALL = "pip install mmdet mmengine mmcv-lite==2.1.0"


def _sample(number: int, box: list[int]) -> dict[str, Any]:
    from mmdet.structures.bbox import HorizontalBoxes

    return {
        "img": owned_images()[number].transpose(1, 2, 0),
        "gt_bboxes": HorizontalBoxes(torch.tensor([box], dtype=torch.float32)),
        "gt_bboxes_labels": np.array([10 * number]),
        "gt_ignore_flags": np.array([False]),
    }


def objects() -> Outcome:
    """Paste the objects of another image, with their boxes."""
    from mmdet.datasets.transforms import CopyPaste

    paste = CopyPaste(selected=False, paste_by_box=True)
    other = _sample(1, [24, 4, 44, 24])
    other["gt_masks"] = paste.get_gt_masks(other)
    sample = _sample(0, [2, 2, 20, 20]) | {"mix_results": [other]}
    mixed = paste.transform(sample)
    x1, y1, x2, y2 = mixed["gt_bboxes"].tensor[-1].int().tolist()
    if (mixed["img"][y1:y2, x1:x2] == 1).all():
        return Outcome("partly", "no CutMix; `CopyPaste` pastes objects, with masks and boxes")
    return Outcome("wrong", "no CutMix; the pasted box is not where the pasted pixels are")


def views() -> Outcome:
    """Send a sample through two branches."""
    from mmdet.datasets.transforms import MultiBranch

    branches = MultiBranch(["weak", "strong"], weak=[], strong=[])
    out = branches({"img": owned_images()[0]})
    both = len(out) == 1 or set(out) == {"weak", "strong"}
    return Outcome("partly" if both else "no", "`MultiBranch` runs a sample through lists of steps")


if __name__ == "__main__":
    np.random.seed(0)
    # Compiled operators, which transforms of data do not call: no wheel of mmcv is for this torch.
    sys.modules["mmcv._ext"] = MagicMock(__spec__=None, __path__=[])
    report(
        ["mmdet"],
        ["mmdet.datasets.transforms"],
        {"masks": objects, "boxes": objects, "several views": views},
        note="with an empty stand-in for mmcv's compiled operators, which were not called",
    )
