"""How far windows of shards are from a full shuffle, and what a rank needs to begin an epoch.

    python benchmarks/windows.py --out benchmarks/results/DATE_MACHINE_windows.json

- Order: a million samples of a thousand classes in a thousand shards, listed by class or in a
  random order, served to one rank. Partners are the other samples of a batch. Displacement is the
  distance in the served order between neighbours of the list, as a share of all samples.
- Beginning: 400 million samples on 1,024 ranks. A new process draws the part of one rank. Its CPU
  seconds and its additional memory count. Two minutes in all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flags import output_file
from rich.console import Console
from running import write_results

import dali_cutmix as dc

NUM_SHARDS = NUM_CLASSES = 1000
PER_SHARD, BATCH_SIZE = 1000, 256
WINDOWS = (1, 4, 16, 64, 256)
#: Samples and ranks of the second table, and samples above which torch's permutation is not used.
MANY, RANKS, MOST_OF_TORCH = 400_000_000, 1024, 2**24
PER_LARGE_SHARD = 1000
REPEATS = 3


def same_class(labels: np.ndarray) -> float:
    """Return the share of pairs in a batch that are of one class, as a mean over batches."""
    batches = labels[: len(labels) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
    counts = (np.bincount(batch, minlength=NUM_CLASSES) for batch in batches)
    pairs = [float((count * (count - 1)).sum()) for count in counts]
    return float(np.mean(pairs)) / (BATCH_SIZE * (BATCH_SIZE - 1))


def quality(order: np.ndarray) -> dict[str, float]:
    """Return the measures of an order of all samples."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    labels = np.arange(len(order)) // PER_SHARD
    packed = np.random.default_rng(0).permutation(labels)  # as `dali-cutmix pack` shuffles
    return {
        "same_class_sorted": same_class(labels[order]),
        "same_class_packed": same_class(packed[order]),
        "displacement": float(np.abs(np.diff(place)).mean() / len(order)),
    }


def sampler(kind: str, num_samples: int, shard: dc.Shard, window: int | None) -> dc.EpochSampler:
    """Return the order of a row."""
    sizes = np.full(num_samples // PER_LARGE_SHARD, PER_LARGE_SHARD)
    sharded: dict[str, Any] = {"shuffle": "shards", "shard_sizes": sizes, "window": window}
    chosen = sharded if kind == "shards" else {"shuffle": True}
    return dc.EpochSampler(num_samples, seed=0, shard=shard, **chosen)


def begin(kind: str, num_samples: int, after_resume: bool) -> dict[str, float]:
    """Draw the part of a rank; return seconds and additional memory in bytes."""
    shard = dc.Shard(7, RANKS)
    sampler(kind, 10 * PER_LARGE_SHARD, shard, 16).order(0)  # imports
    order = sampler(kind, num_samples, shard, 16)
    settings: dict[str, Any] = {}
    if after_resume:  # of a run of 1,000 ranks, from its middle
        settings = {"start": num_samples // 2, "dealt": [(1000, num_samples // 2)]}
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what is taken now
    before = taken("VmRSS")
    start = time.process_time()  # other work may share the machine
    part = order.order(0, **settings)
    seconds = time.process_time() - start
    return {"seconds": seconds, "memory": taken("VmHWM") - before, "samples": len(part)}


def taken(name: str) -> int:
    """Return a number of the kernel on this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def begins() -> list[dict[str, Any]]:
    """Measure each way in new processes; return the medians of seconds and the most memory."""
    ways = (
        ("torch", MOST_OF_TORCH, False),
        ("keyed", MANY, False),
        ("shards", MANY, False),
        ("shards", MANY, True),
    )
    rows = []
    for kind, num_samples, after_resume in ways:
        runs = []
        for _ in range(REPEATS):
            command = [sys.executable, __file__, "--one", kind, str(num_samples)]
            command += ["--after-resume"] * after_resume
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout))
        row = {"kind": kind, "num_samples": num_samples, "after_resume": after_resume}
        row["seconds"] = float(np.median([run["seconds"] for run in runs]))
        row["memory"] = max(run["memory"] for run in runs)
        rows.append({"curve": "begin", **row})
        Console().print(rows[-1])
    return rows


def qualities() -> list[dict[str, Any]]:
    """Measure each order."""
    num_samples, everything = NUM_SHARDS * PER_SHARD, dc.Shard(0, 1)
    orders = {window: sampler("shards", num_samples, everything, window) for window in WINDOWS}
    rows = [
        {"curve": "order", "window": window, **quality(order.order(0))}
        for window, order in orders.items()
    ]
    full = sampler("torch", num_samples, everything, None)
    return [*rows, {"curve": "order", "window": None, **quality(full.order(0))}]


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--after-resume", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, num_samples = options.one
        print(json.dumps(begin(kind, int(num_samples), options.after_resume)))
        return
    write_results(
        options.out,
        "windows",
        {
            "device": "cpu",
            "num_samples": NUM_SHARDS * PER_SHARD,
            "num_classes": NUM_CLASSES,
            "num_shards": NUM_SHARDS,
            "batch_size": BATCH_SIZE,
            "ranks": RANKS,
            "repeats": REPEATS,
            "load": round(os.getloadavg()[2], 1),
        },
        [*qualities(), *begins()],
    )


if __name__ == "__main__":
    main()
