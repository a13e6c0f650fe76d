"""Recipes as modules and as commands, and what two runs have in common."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

PIPELINES = Path(__file__).parents[1] / "pipelines"
GRAPH_OF_ONES_OWN = "dali_iterator"  # a graph and a training loop, without checkpoints and results
EVALUATION = "evaluate"  # trains nothing
STUDY = {"study", "study_few_labels", "render_results"}  # many small networks, and RESULTS.md
SEMI = ("semi_fixmatch", "semi_mixmatch")  # two loaders and another loop; see test_few_labels.py
# Learn from images without labels, by loops of their own.
CONTRASTIVE, CUTMIX_SEG = "contrastive_cutmix", "segmentation_cutmix_seg"
AUDIO = "audio_spectrogram"  # a graph and a loop of its own; see test_audio_spectrogram.py
PUBLISHING = "publish_runs"  # trains nothing either
RAY = "ray_imagenet"  # starts two of the recipes
LEVELS = ("plot_levels", "scenes_detection")  # of runs that others trained
NO_RECIPES = {
    GRAPH_OF_ONES_OWN,
    EVALUATION,
    *STUDY,
    *SEMI,
    CONTRASTIVE,
    CUTMIX_SEG,
    PUBLISHING,
    RAY,
    *LEVELS,
}
ALL = {path.stem: path.read_text() for path in PIPELINES.glob("*.py")}
# Of one task each, with several seeds. Their loop is that of the recipes below, whose stops and
# resumes are tested; test_seeds.py has what the seeds add.
TASKS = sorted([AUDIO, *(name for name, text in ALL.items() if "harness.seeds" in text)])
RECIPES = sorted({*ALL} - NO_RECIPES - {*TASKS})
STANDALONE = "cifar_resnet18"  # the smallest complete recipe, without the harness
ON_HARNESS = [name for name in RECIPES if name != STANDALONE]

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def recipe(name: str) -> ModuleType:
    """A recipe as a module, made anew."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", PIPELINES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def command(*words: str | Path) -> subprocess.Popen[str]:
    """Start Python on a command line, as a user would, without a GPU."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(*words: str | Path) -> str:
    """Run Python on a command line to its end; gives what it printed."""
    process = command(*words)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def run_here(script: Path, *words: str | Path) -> None:
    """Run a script in this process, as Python runs it on a command line."""
    with patch.object(sys, "argv", [str(script), *map(str, words)]):
        runpy.run_path(str(script), run_name="__main__")


def checkpoint_of(out: Path) -> dict[str, Any]:
    """A run's checkpoint without what depends on the clock."""
    state: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    for row in state["history"]:
        row.pop("images_per_s")
        row.pop("waiting_share", None)
    return state


def assert_same_run(found: Path, expected: Path) -> None:
    """Two runs ended with the same weights, momentum and history, bit for bit."""
    one, other = checkpoint_of(found), checkpoint_of(expected)
    assert one["history"] == other["history"]
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
    states = [state["optimizer"]["state"] for state in (one, other)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    if one.get("average") is not None:
        torch.testing.assert_close(one["average"], other["average"], rtol=0, atol=0)
    assert one.get("loader") == other.get("loader")
    assert one.get("step") == other.get("step")
