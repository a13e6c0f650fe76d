"""The ImageNet recipe for real: how fast it trains, and what a short run with CutMix learns.

    python benchmarks/recipes.py --out benchmarks/results/DATE_MACHINE_recipes.json
    python benchmarks/recipes.py --out smoke.json --smoke      # every part, tiny, on any CPU

Meant for a GPU, some eight minutes. Two parts, written to the file as they are done:

- ``learning``: ``pipelines/imagenet_resnet50.py`` on handwritten digits at 224 px, with and without
  CutMix, three seeds each: accuracy, calibration error, and accuracy with a square of the image
  hidden, as mean and standard deviation. Few images and many epochs, so that the baseline overfits.
- ``speed``: the same recipe on generated JPEGs (``images.py``), with and without ``--compile``:
  images per second and the share of time waiting for data, of the second epoch. The ceiling,
  tensors in memory, is measured by ``training.py``.

Wants the extras ``[demo,pipelines]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from images import write_images
from PIL import Image
from sklearn.datasets import load_digits
from torchmetrics.functional.classification import multiclass_calibration_error

from dali_cutmix import DataLoader, EvalTransform
from dali_cutmix.tools.bench.machine import describe_machine

RECIPE = Path(__file__).parents[1] / "pipelines" / "imagenet_resnet50.py"
SEEDS = (0, 1, 2)
PER_CLASS = 30
"""Digits of each class to train on; the others validate."""
HIDDEN = 0.45
"""Side of the hidden square, as a share of the image's."""


def run_recipe(data: Path, out: Path, *flags: str) -> dict[str, Any]:
    """Run the recipe in a process of its own; return its results."""
    command = [sys.executable, str(RECIPE), "--data", str(data), "--out", str(out), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def speed(folder: Path, *, smoke: bool) -> list[dict[str, Any]]:
    """Measure images per second of the recipe's second epoch, with and without torch.compile."""
    data = folder / "photographs"
    for part, count in (("train", 40 if smoke else 10_000), ("val", 10 if smoke else 256)):
        write_images(data / part, count)
    flags = ["--smoke"] if smoke else ["--max-steps", "100"]
    rows = []
    for compiled in (False,) if smoke else (False, True):
        arguments = [*flags, "--epochs", "2", *(["--compile"] if compiled else [])]
        results = run_recipe(data, folder / f"speed_{compiled}", *arguments)
        last = results["epochs"][-1]
        kept = {name: last.get(name) for name in ("images_per_s", "waiting_share", "num_train")}
        rows.append({"compile": compiled, "settings": results["settings"], **kept})
    return rows


def write_digits(root: Path, side: int, most: int | None = None) -> Path:
    """Write digits as square files: ``PER_CLASS`` of each class for training, the others for tests.

    Args:
        root: Folder that gets ``train/`` and ``val/``.
        side: Of the files, in pixels.
        most: How many digits there are to be in all; None takes all 1797.

    Returns:
        ``root``.

    Source:
        UCI, Optical Recognition of Handwritten Digits, as shipped with scikit-learn.
    """
    digits = load_digits()
    met: dict[int, int] = {}
    scans = zip(digits.images[:most], digits.target[:most], strict=True)
    for number, (scan, digit) in enumerate(scans):
        met[digit] = met.get(digit, 0) + 1
        part = "train" if met[digit] <= PER_CLASS else "val"
        path = root / part / str(digit) / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        gray = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
        gray.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return root


@torch.no_grad()
def evaluate(checkpoint: Path, data: Path, size: int, device: torch.device) -> dict[str, float]:
    """Return accuracy with and without a hidden square, in percent, and the calibration error.

    Args:
        checkpoint: Of the recipe.
        data: Folder with ``val/``.
        size: Side of the images in pixels.
        device: Where to compute.
    """
    model = torchvision.models.resnet50(weights=None, num_classes=10)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    model.to(device).eval()
    loader = DataLoader(data / "val", 64, transform=EvalTransform(size, size), device=device)
    generator = torch.Generator().manual_seed(0)  # the same squares for every model
    side = round(HIDDEN * size)
    hits, hits_hidden, probabilities, labels = 0, 0, [], []
    for image, label in loader:
        logits = model(image)
        for picture in image:
            top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
            picture[:, top : top + side, left : left + side] = 0
        hits += int((logits.argmax(1) == label).sum())
        hits_hidden += int((model(image).argmax(1) == label).sum())
        probabilities.append(logits.float().softmax(1))
        labels.append(label)
    label = torch.cat(labels)
    error = multiclass_calibration_error(torch.cat(probabilities), label, 10, n_bins=15)
    return {
        "top1": 100 * hits / len(label),
        "top1_hidden": 100 * hits_hidden / len(label),
        "calibration_error": float(error),
    }


def learning(folder: Path, *, smoke: bool, device: torch.device) -> list[dict[str, Any]]:
    """Train on digits with and without CutMix; return each seed's numbers, mean and deviation."""
    size = 32 if smoke else 224
    data = write_digits(folder / "digits", size, 400 if smoke else None)
    flags = ["--smoke"] if smoke else ["--epochs", "60", "--batch-size", "50", "--lr", "0.02"]
    flags += ["--lr-milestones", "30", "45", "--resize", str(size), "--val-size", str(size)]
    rows = []
    for mix in ("none", "cutmix"):
        results = []
        for seed in SEEDS[:1] if smoke else SEEDS:
            out = folder / f"learning_{mix}_{seed}"
            run_recipe(data, out, *flags, "--mix", mix, "--seed", str(seed))
            results.append(evaluate(out / "checkpoint.pt", data, size, device))
        summary = {
            name: {
                "mean": statistics.mean(numbers[name] for numbers in results),
                "deviation": statistics.stdev(numbers[name] for numbers in results)
                if results[1:]
                else None,
            }
            for name in results[0]
        }
        rows.append({"mix": mix, "runs": results, **summary})
    return rows


def main() -> None:
    """Run both parts, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="every part, tiny: no result")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = describe_machine()
    results = {"what": "recipes", "date": machine["date"], "machine": machine, "smoke": args.smoke}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results["learning"] = learning(folder, smoke=args.smoke, device=device)
        args.out.write_text(json.dumps(results, indent=2) + "\n")
        results["speed"] = speed(folder, smoke=args.smoke)
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"Wrote {args.out.name}: {', '.join(row['mix'] for row in results['learning'])}.")


if __name__ == "__main__":
    main()
