"""Files read per second into a DALI graph, nothing decoded: by index, and by DALI's own reader.

    python benchmarks/reading.py --out benchmarks/results/DATE_MACHINE_reading.json

The ways, interleaved in one run, each graph new in every repeat, files in the page cache:

- ``index-fed``: paths from Python in any order, read by ``io.file.read``, as the loader does;
- ``index-fed, mapped``: the same with memory-mapped files;
- ``threads``: bytes read by sixteen Python threads and fed (as the loader reads shards);
- ``readers.file`` and ``readers.file, mapped``: DALI's reader with its shuffle buffer.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali
from flags import output_file
from nvidia.dali import Pipeline, fn

from dali_cutmix.tools.bench.machine import processor_name, usable_cpus

BATCH_SIZE = 256
NUM_THREADS = 2
REPEATS = 7
#: Kinds of files: bytes, number of files, and batches per repeat.
KINDS = {"110 KB": (110_000, 1_000, 40), "1 KB": (1_000, 5_000, 150)}


def pipeline_of(node: Callable[[], Any]) -> Pipeline:
    """Return a graph that only reads."""
    pipeline = Pipeline(BATCH_SIZE, NUM_THREADS, None, prefetch_queue_depth=2)
    with pipeline:
        pipeline.set_outputs(node())
    pipeline.build()
    return pipeline


def ways(root: Path, threads: ThreadPoolExecutor) -> dict[str, Callable[[], Any]]:
    """Return functions that make the reading node, by name."""
    paths = [str(path) for path in sorted(root.rglob("*.jpg"))]
    encoded = [np.frombuffer(path.encode(), np.uint8) for path in paths]
    rng = np.random.default_rng(0)

    def batch(_: int) -> list[np.ndarray]:
        return [encoded[index] for index in rng.integers(0, len(paths), BATCH_SIZE)]

    def read(part: np.ndarray) -> list[np.ndarray]:
        return [np.fromfile(paths[index], np.uint8) for index in part]

    def begin() -> list[Any]:
        parts = np.array_split(rng.integers(0, len(paths), BATCH_SIZE), 16)
        return [threads.submit(read, part) for part in parts]

    def by_index(mapped: bool) -> Any:
        return fn.io.file.read(fn.external_source(batch, batch=True), dont_use_mmap=not mapped)

    def by_threads() -> Any:
        ahead = [begin(), begin()]

        def next_batch(_: int) -> list[np.ndarray]:
            ahead.append(begin())
            return [data for part in ahead.pop(0) for data in part.result()]

        return fn.external_source(next_batch, batch=True)

    def by_reader(mapped: bool) -> Any:
        return fn.readers.file(
            file_root=str(root), random_shuffle=True, dont_use_mmap=not mapped, seed=0
        )[0]

    return {
        "index-fed": lambda: by_index(False),
        "index-fed, mapped": lambda: by_index(True),
        "threads": by_threads,
        "readers.file": lambda: by_reader(False),
        "readers.file, mapped": lambda: by_reader(True),
    }


def measure(root: Path, num_batches: int) -> dict[str, dict[str, float]]:
    """Measure files per second by way: median, least and most of the repeats."""
    rates: dict[str, list[float]] = {}
    with ThreadPoolExecutor(16) as threads:
        for _ in range(REPEATS):
            for name, node in ways(root, threads).items():
                pipeline = pipeline_of(node)
                pipeline.run()
                begin = time.perf_counter()
                for _ in range(num_batches):
                    pipeline.run()
                rate = num_batches * BATCH_SIZE / (time.perf_counter() - begin)
                rates.setdefault(name, []).append(rate)
    return {
        name: {"median": statistics.median(turns), "min": min(turns), "max": max(turns)}
        for name, turns in rates.items()
    }


def main() -> None:
    """Measure every kind and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    out = parser.parse_args().out
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": processor_name(), "cores": usable_cpus()},
        "versions": {"dali": nvidia.dali.__version__, "python": platform.python_version()},
        "settings": {"batch_size": BATCH_SIZE, "threads": NUM_THREADS, "repeats": REPEATS},
        "files_per_s": {},
    }
    rng = np.random.default_rng(0)
    for kind, (size, count, num_batches) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                path = Path(folder, str(number % 10), f"{number:05d}.jpg")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(rng.bytes(size))
            results["files_per_s"][kind] = measure(Path(folder), num_batches)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results["files_per_s"], indent=2))


if __name__ == "__main__":
    main()
