"""Peak memory of a training and a validation loader together, against the batch size.

    python benchmarks/memory.py --data DIR --out benchmarks/results/DATE_MACHINE_memory.json

Each point is a process of its own: it opens both loaders, trains some batches, validates some and
trains again, as an epoch does, and holds one batch at a time. Its memory, workers included and
shared pages counted once, is read every 20 ms. Memory held before a loader is opened is reported
separately. On a GPU, what went of the device's memory meanwhile is told as well; its pool keeps the
most it ever took, so that nothing is missed. About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from flags import count, output_file
from rich.console import Console
from running import work_of, write_results

import dali_cutmix as dc
from dali_cutmix.tools.bench.contestant import memory_bytes
from dali_cutmix.tools.bench.loaders import ours, torch_tensor
from dali_cutmix.tools.bench.machine import usable_cpus
from dali_cutmix.tools.bench.work import Work
from sources import jpeg_folder

OURS, TORCH = "dali_cutmix", "torch DataLoader"
#: This loader where the allocator returns blocks of 4 MiB and more to the system at once.
RETURNING = "dali_cutmix, MALLOC_MMAP_THRESHOLD_"
RETURN_LARGE_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "4194304"}
BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
#: Batches of training, validation, and training again: more than loaders prepare ahead.
NUM_BATCHES = (6, 6, 2)
EVERY_S = 0.02


class Peak:
    """Watch the memory of this process and its children, and hold the most, in bytes."""

    def __init__(self) -> None:
        self.bytes = memory_bytes(os.getpid())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, memory_bytes(os.getpid()))


def loaders_of(name: str, work: Work) -> tuple[Iterable[Any], Iterable[Any]]:
    """Return a training loader with CutMix and a validation loader of the same batch size.

    Torch's second one serves training images without a mix: as much memory, one path less.
    """
    if name == TORCH:
        return torch_tensor(work), torch_tensor(replace(work, mix="none"))
    val = dc.DataLoader(
        work.data,
        work.batch_size,
        transform=dc.EvalTransform(resize=round(work.size * 8 / 7), size=work.size),
        num_workers=work.threads,
        num_classes=work.num_classes,
        device=work.device,
        shard=dc.Shard(0, 1),
    )
    return ours(work), val


def measure(name: str, work: Work) -> dict[str, Any]:
    """Measure the memory of one point, in this process.

    Returns:
        ``peak_memory`` and ``before``, bytes of the host; ``device_memory``, bytes of the GPU that
        the loaders took and the batch that is held, or None.
    """
    on_gpu = work.device == "cuda"
    if on_gpu:
        torch.zeros(1, device="cuda")  # the memory of CUDA itself does not count
    free = torch.cuda.mem_get_info()[0] if on_gpu else 0
    with Peak() as peak:
        before = peak.bytes
        train, val = loaders_of(name, work)
        for loader, num_batches in zip((train, val, train), NUM_BATCHES, strict=True):
            served = 0
            while served < num_batches:
                for image, _ in loader:
                    assert len(image)
                    served += 1
                    if served == num_batches:
                        break
        taken = free - torch.cuda.mem_get_info()[0] if on_gpu else None
    return {"peak_memory": peak.bytes, "before": before, "device_memory": taken}


def measure_apart(name: str, work: Work) -> dict[str, Any]:
    """Run `measure` in a process of its own; a failure gives ``error`` in place of numbers."""
    command = [sys.executable, __file__, "--point", name, json.dumps(asdict(work))]
    changed = RETURN_LARGE_BLOCKS if name == RETURNING else {}
    environment = {**os.environ, **changed}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    row = {"name": name, "mix": work.mix, "batch_size": work.batch_size}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        return row | {"error": lines[-1]}
    return row | json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure every batch size with both loaders and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--batch-sizes", type=count, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--size", type=count, default=224)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    work = work_of(options)
    num_files = sum(1 for _ in options.data.rglob("*.jpg"))
    method = {
        "num_batches": NUM_BATCHES,
        "every_s": EVERY_S,
        "size": options.size,
        "threads": options.threads,
        "device": options.device,
    }
    rows: list[dict[str, Any]] = []
    for batch_size in options.batch_sizes:
        if batch_size > num_files:
            Console().print(f"batch size {batch_size} left out: there are {num_files} files")
            continue
        for name in (OURS, RETURNING, TORCH):
            row = measure_apart(name, replace(work, batch_size=batch_size))
            rows.append(row)
            # After each point: the largest batches take minutes.
            write_results(options.out, "memory", method, rows)
            outcome = row.get("error") or f"{row['peak_memory'] / 2**30:.2f} GiB"
            Console().print(f"batch size {batch_size}: {name}: {outcome}", highlight=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--point"]:
        print(json.dumps(measure(sys.argv[2], Work(**json.loads(sys.argv[3])))))
        sys.stdout.flush()
        # `os._exit`, since torch's workers may delay the interpreter's end.
        os._exit(0)
    main()
