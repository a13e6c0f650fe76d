"""mmaction2: ``CutmixBlending`` mixes clips and their labels inside the model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from offers import (
    NUM_SAMPLES,
    Outcome,
    class_rows,
    judge_rows,
    label_rows,
    owned_images,
    report,
)

INSTALL = "pip install mmaction2 mmengine mmcv-lite==2.1.0"


def _blending() -> ModuleType:
    """Import ``blending_utils`` alone: the wheel of 1.2.0 lacks a folder that the package needs."""
    root = importlib.util.find_spec("mmaction").submodule_search_locations[0]
    for name in ("mmaction.models", "mmaction.models.utils"):
        module = ModuleType(name)
        module.__path__ = [str(Path(root, *name.split(".")[1:]))]
        sys.modules[name] = module
    return importlib.import_module("mmaction.models.utils.blending_utils")


def _mix(images: Any, rows: Any) -> tuple[Any, Any]:
    blend = _BLENDING.CutmixBlending(NUM_SAMPLES, alpha=1.0)
    return blend.do_blending(torch.from_numpy(images), torch.from_numpy(rows))


def _clip_mix(images: Any, rows: Any) -> tuple[Any, Any]:
    clips = images[:, None, :, None].repeat(4, axis=3)  # [B, 1, 3, T, H, W], as its models take
    mixed, weights = _mix(clips, rows)
    return mixed[:, 0], weights


def clips() -> Outcome:
    """Mix clips and classes."""
    outcome = judge_rows(_clip_mix, class_rows(), owned_images())
    said = "the same rectangle in every frame"
    return Outcome("yes", said) if outcome.verdict == "yes" else outcome


def volumes() -> Outcome:
    """Mix slices as frames."""
    outcome = clips()
    said = "slices as frames of a clip: the same rectangle in each"
    return Outcome("partly", said) if outcome.verdict == "yes" else outcome


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    _BLENDING = _blending()
    report(
        ["mmaction2"],
        ["mmaction.models.utils.blending_utils", "mmaction.datasets.transforms"],
        {
            "classes": lambda: judge_rows(_mix, class_rows(), owned_images()),
            "masks": lambda: Outcome("no", "`CutmixBlending` takes pixels and labels"),
            "boxes": lambda: Outcome("no", "`CutmixBlending` takes pixels and labels"),
            "multi-label rows": lambda: judge_rows(_mix, label_rows(), owned_images()),
            "captions": lambda: Outcome("no", "`CutmixBlending` takes pixels and labels"),
            "clips": clips,
            "volumes": volumes,
        },
        note="`blending_utils` alone: the package's wheel does not import",
    )
