"""What the host does for each batch of a GPU graph: CPU time, draws and kernel launches.

    python benchmarks/gpu_host.py --before CHECKOUT \
        --out benchmarks/results/DATE_MACHINE_gpu_host.json

Not a measurement of a GPU. It runs where a stand-in takes the place of the CUDA runtime: memory is
the host's, copies are made, kernels do nothing. DALI's own code for GPUs runs on the host, and the
stand-in counts. So ratios between graphs and counts say something, and no rate does. The stand-in
is a module ``gpu_standin`` that is not part of this package; ``gpu_standin.trace.counts()`` returns
its counts by name.

Images of 16 px are fed, so that copies take no time, and are resized to 224 px on the "GPU". They
are neither decoded nor handed to torch. CPU time is of all threads, which other processes change
less than they change wall time. Each turn is a process of its own, and turns of this checkout and
of an earlier one alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from flags import count, output_file

HERE = Path(__file__).resolve().parent
BATCH_SIZE, NUM_BATCHES, NUM_EPOCHS = 256, 12, 3
#: Names of the graphs, each with CutMix but for the first.
GRAPHS = (
    "without mixing",
    "CutMix",
    "CutMix, min_kept=.2, max_kept=.8",
    "CutMix, TrivialAugment",
    "CutMix, RandAugment",
    "CutMix, AutoAugment",
    "CutMix, ColorJitter",
)


def settings_of(name: str) -> dict[str, Any]:
    """Return the mix of a graph and its augmentations."""
    import dali_cutmix as dc
    from dali_cutmix import augmentations

    mix, _, rest = name.partition(", ")
    augment: list[Any] = []
    if rest.startswith("min_kept"):
        return {"mix": dc.CutMix(min_kept=0.2, max_kept=0.8), "augment": augment}
    if rest == "ColorJitter":
        augment = [augmentations.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    elif rest:
        augment = [getattr(augmentations, rest)()]
    return {"mix": dc.CutMix() if mix == "CutMix" else None, "augment": augment}


def measure(name: str) -> dict[str, float]:
    """Run a graph, and return milliseconds and launches per batch."""
    import numpy as np
    from gpu_standin import trace

    import dali_cutmix as dc
    from dali_cutmix.core.frame import Frame
    from dali_cutmix.core.host_draws import HostDraws
    from dali_cutmix.serving.outputs import ToTorch

    def without_tensors(self: ToTorch, *_: Any) -> tuple[Any, ...]:
        return self.stream, None

    ToTorch.__call__ = without_tensors  # type: ignore[method-assign]
    settings = settings_of(name)
    num = BATCH_SIZE * NUM_BATCHES
    source = dc.ImageArrays(np.zeros((num, 16, 16, 3), np.uint8), np.arange(num) % 10)
    transform = dc.TrainTransform(224, augment=settings["augment"])
    with dc.DataLoader(
        source,
        BATCH_SIZE,
        shuffle=True,
        transform=transform,
        mix=settings["mix"],
        device="cuda",
        num_workers=1,
        seed=0,
    ) as loader:
        for _ in loader:
            pass
        launches, times = trace.counts()["launches"], []
        for _ in range(NUM_EPOCHS):
            start = time.process_time()
            for _ in loader:
                pass
            times.append(time.process_time() - start)
        launches = trace.counts()["launches"] - launches
    draws = []
    for batch in range(20):
        start, host = time.thread_time(), HostDraws(BATCH_SIZE, 0, 0, batch, 0)
        if settings["mix"] is not None:
            settings["mix"].draw(host, Frame((224, 224)))
        draws.append(time.thread_time() - start)
    return {
        "host_ms": 1000 * min(times) / NUM_BATCHES,
        "mix_draw_ms": 1000 * median(draws),
        "launches": launches / NUM_BATCHES / NUM_EPOCHS,
    }


def turn(root: Path, name: str) -> dict[str, float]:
    """Measure a graph of a checkout in a process of its own."""
    command = [sys.executable, str(HERE / "gpu_host.py"), "--one", name]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def commit(root: Path) -> str:
    """Return the short name of a checkout's commit, and its date."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h of %cs"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure both checkouts in turn, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", help="measure this graph only, and print the numbers")
    parser.add_argument("--before", type=Path, help="an earlier checkout")
    parser.add_argument("--out", type=output_file)
    parser.add_argument("--repeats", type=count, default=3)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one)))
        return
    if args.before is None or args.out is None:
        parser.error("--before and --out are needed")
    from dali_cutmix.tools.bench.machine import describe_machine

    roots = {"before": args.before.resolve(), "after": HERE.parent}
    turns: dict[str, dict[str, list[Any]]] = {name: {side: [] for side in roots} for name in GRAPHS}
    for _ in range(args.repeats):
        for name in GRAPHS:
            for side, root in roots.items():
                turns[name][side].append(turn(root, name))
    results = {
        "what": "gpu_host",
        "date": date.today().isoformat(),
        "machine": {**describe_machine(), "gpus": []},
        "before": commit(roots["before"]),
        "after": commit(roots["after"]),
        "method": {
            "device": "stand-in",
            "batch_size": BATCH_SIZE,
            "size": 224,
            "repeats": args.repeats,
            "num_batches": NUM_BATCHES * NUM_EPOCHS,
        },
        "rows": [{"name": name, **sides} for name, sides in turns.items()],
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
