"""What results.json says of a run, whatever the run trains."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nvidia.dali as dali
import torch

from dali_cutmix.tools.bench.machine import processor_name
from harness.checkpoints import write_json
from harness.processes import CONSOLE, SMOKE_FINISHED, stop
from harness.settings import DataSettings, PresetSettings, as_plain

RESULTS = "results.json"


def describe(name: str, settings: DataSettings, device: torch.device) -> dict[str, Any]:
    """Return recipe, machine, versions and settings for results.json.

    Args:
        name: Name of the recipe.
        settings: Settings of the run.
        device: Device on which the run computed.
    """
    gpu = device.type == "cuda"
    cpu = f"{processor_name()}, {os.cpu_count()} cores"
    return {
        "recipe": name,
        **({"preset": settings.preset} if isinstance(settings, PresetSettings) else {}),
        "smoke": settings.smoke,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": torch.cuda.get_device_name(device) if gpu else cpu,
        "versions": {
            "dali-cutmix": version("dali-cutmix"),
            "dali": dali.__version__,
            "torch": torch.__version__,
        },
        "settings": as_plain(settings),
    }


def finish(
    name: str,
    settings: DataSettings,
    out: Path,
    numbers: Mapping[str, Sequence[float]],
    runs: Sequence[Any],
) -> dict[str, Any]:
    """Write results.json of several trainings, and return the content.

    Args:
        name: Name of the recipe.
        settings: Settings of the trainings.
        out: Folder of the file.
        numbers: A number of each training, in the order of the seeds, by name.
        runs: What each training tells besides.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = describe(name, settings, device)
    results |= {number: over_seeds(values) for number, values in numbers.items()}
    results["runs"] = list(runs)
    write_json(out / RESULTS, results)
    if settings.smoke:
        CONSOLE.print(SMOKE_FINISHED)
    return results


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return a number of each training as a mean, a standard deviation and the values.

    The deviation is that of a sample, and None of a single training or where a value is NaN.
    """
    is_known = len(values) > 1 and all(map(math.isfinite, values))
    deviation = statistics.stdev(values) if is_known else None
    return {"mean": statistics.mean(values), "deviation": deviation, "values": list(values)}


def refuse_results(name: str, out: Path) -> None:
    """End a run before it trains where its output folder holds the results of another."""
    if (out / RESULTS).exists():
        stop(name, f"{out} holds results. Pass another `--out`, or remove {out / RESULTS}.")
