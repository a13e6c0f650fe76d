"""The ImageNet recipe for real: how fast it trains.

    python benchmarks/recipes.py --out benchmarks/results/DATE_MACHINE_recipes.json
    python benchmarks/recipes.py --out smoke.json --smoke      # every part, tiny, on any CPU

Meant for a GPU: two epochs of the recipe on generated JPEGs (``images.py``), with and without
``--compile``. Images per second and the share of time waiting for data are those of the second
epoch. The ceiling, tensors in memory, is measured by ``training.py``. What a model learns with and
without CutMix is measured by the recipes and ``pipelines/evaluate.py``.

Wants the extra ``[pipelines]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flags import output_file
from images import write_images

from dali_cutmix.tools.bench.machine import describe_machine

RECIPE = Path(__file__).parents[1] / "pipelines" / "imagenet_resnet50.py"


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


def main() -> None:
    """Measure the speed, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="every part, tiny: no result")
    args = parser.parse_args()
    machine = describe_machine()
    results = {"what": "recipes", "date": machine["date"], "machine": machine, "smoke": args.smoke}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        results["speed"] = speed(Path(temporary), smoke=args.smoke)
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"Wrote {args.out.name}: {len(results['speed'])} runs.")


if __name__ == "__main__":
    main()
