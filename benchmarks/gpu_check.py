"""What has to be measured on a GPU, in one go: under ten minutes, no data and no network needed.

    python benchmarks/gpu_check.py --out results.json            # on the GPU
    python benchmarks/gpu_check.py --out results.json --device cpu --num-files 64 --batch-size 16

Writes one JSON file with the machine, the versions and, by name, what each check found:

- ``rates``: images per second of the loader with and without CutMix, and of decoding alone, epochs
  interleaved, every rate with its median and spread;
- ``engines``: which of the decoder's engines took the files, as nvImageCodec's log has it;
- ``empty_cuts``: whether a paste of nothing leaves the pixels alone;
- ``recovery``: what a file that cannot be decoded raises, and whether a new epoch runs after it;
- ``replacement``: what else changes when files are replaced, what the new graph costs;
- ``surviving``: whether a graph goes on after a decode error when it is not made anew;
- ``roi_decode``: decoding a region on the GPU, which can end the process, in a process of its own;
- ``memory``: device memory before the loader, with it, and after ``close()``;
- ``demo``: the demonstration's own output.

A check that fails or ends its process is recorded as such, and the others still run.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali
import torch
from nvidia.dali import Pipeline, fn
from PIL import Image

import dali_cutmix as dc

REPEATS = 5


def write_jpegs(root: Path, num_files: int) -> None:
    """Pictures like ImageNet's in size and bytes: 500 x 375, about 110 KB, in 4 classes."""

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        grain = rng.normal(0, 14, (375, 500, 1)).astype(np.int16)
        folder = root / f"class{number % 4}"
        folder.mkdir(exist_ok=True)
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:06d}.jpg", quality=88)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(num_files)))


def machine(device: torch.device) -> dict[str, Any]:
    """What ran: versions, processor and, for a GPU, its name and what nvidia-smi says."""
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dali": nvidia.dali.__version__,
        "dali_cutmix": dc.__version__,
        "num_cpus": len(os.sched_getaffinity(0)),
        "device": str(device),
    }
    if device.type == "cuda":
        query = "name,driver_version,power.limit,clocks.max.sm"
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return found


def rates(root: Path, device: torch.device, batch_size: int, num_workers: int) -> dict[str, Any]:
    """Images per second, epochs of each kind in turn after one of each to warm up."""
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "shuffle": True,
        "drop_last": True,
        "transform": dc.TrainTransform(size=224),
        "device": device,
        "num_workers": num_workers,
    }
    loaders = {
        "without mixing": dc.DataLoader(root, **settings),
        "CutMix": dc.DataLoader(root, **settings, mix=dc.CutMix()),
        "CutMix, float16": dc.DataLoader(root, **settings, mix=dc.CutMix(), dtype=torch.float16),
    }
    runs: dict[str, Callable[[], int]] = {
        name: partial(count_images, loader) for name, loader in loaders.items()
    }
    runs["decode only"] = decode_only(root, device, batch_size, num_workers)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + REPEATS):
        for name, run in runs.items():
            begin = time.perf_counter()
            count = run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found[name].append(count / (time.perf_counter() - begin))
    for loader in loaders.values():
        loader.close()
    return {
        name: {
            "median": statistics.median(values[1:]),
            "min": min(values[1:]),
            "max": max(values[1:]),
            "n": REPEATS,
        }
        for name, values in found.items()
    } | {"unit": "images/s", "batch_size": batch_size, "num_workers": num_workers}


def count_images(loader: dc.DataLoader) -> int:
    """Serve one epoch; the number of images in it."""
    return sum(len(image) for image, _ in loader)


def decode_only(
    root: Path, device: torch.device, batch_size: int, num_workers: int
) -> Callable[[], int]:
    """Reading and decoding whole images in a graph of their own, nothing after it."""
    gpu = device.type == "cuda"
    files = sorted(map(str, root.rglob("*.jpg")))
    pipeline = Pipeline(batch_size, num_workers, device.index if gpu else None, seed=0)
    with pipeline:
        encoded, _ = fn.readers.file(files=files, name="files", dont_use_mmap=True)
        pipeline.set_outputs(fn.decoders.image(encoded, device="mixed" if gpu else "cpu"))

    def run() -> int:
        return sum(len(pipeline.run()[0]) for _ in range(len(files) // batch_size))

    return run


def engines(root: Path, device: torch.device) -> dict[str, Any]:
    """Lines of nvImageCodec's log that name a decoder, counted."""
    code = (
        "import sys, dali_cutmix as dc;"
        "loader = dc.DataLoader(sys.argv[1], 64, transform=dc.TrainTransform(),"
        " device=sys.argv[2]);"
        "next(iter(loader))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(root), str(device)],
        capture_output=True,
        text=True,
        env=os.environ | {"DALI_NVIMGCODEC_LOG_LEVEL": "3"},
        timeout=120,
    )
    names = re.findall(r"\b(\w+_decoder)\b", result.stderr)
    lines = [line for line in result.stderr.splitlines() if "decod" in line.lower()]
    return {
        "exit_status": result.returncode,
        "log_names": dict(collections.Counter(names)),
        "sample": lines[:20],
    }


def empty_cuts(device: torch.device) -> dict[str, Any]:
    """Pixels of a batch pasted with cuts of no area, against the batch."""
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (8, 96, 128, 3), dtype=np.uint8)
    gpu = device.type == "cuda"
    pipeline = Pipeline(8, 2, device.index if gpu else None, seed=0)
    with pipeline:
        image = fn.external_source(source=lambda _: batch, batch=True, layout="HWC")
        plan = dc.cutmix_plan((96, 128), prob=0.0)
        pipeline.set_outputs(dc.paste(image.gpu() if gpu else image, plan), plan.extent)
    pasted, extent = pipeline.run()
    pixels = (pasted.as_cpu() if gpu else pasted).as_array()
    return {
        "extents_are_zero": bool((extent.as_array() == 0).all()),
        "pixels_are_equal": bool((pixels == batch).all()),
    }


def recovery(root: Path, device: torch.device) -> dict[str, Any]:
    """A damaged file among good ones: what is raised, and whether a new epoch runs after it."""
    files = sorted(map(str, root.rglob("*.jpg")))[:31]
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.jpg"
        bad.write_bytes(Path(files[0]).read_bytes()[:20_000])
        pairs = [(path, 0) for path in files] + [(str(bad), 0)]
        loader = dc.DataLoader(pairs, 8, transform=dc.TrainTransform(), device=device)
        found: dict[str, Any] = {}
        try:
            list(loader)
            found["raised"] = None
        except RuntimeError as error:
            found["raised"] = f"{type(error).__name__}: {error}"
        bad.write_bytes(Path(files[0]).read_bytes())
        begin = time.perf_counter()
        found["batches_of_the_next_epoch"] = len(list(loader))
        found["next_epoch_s"] = time.perf_counter() - begin
        loader.close()
    return found


def replacement(root: Path, device: torch.device, batch_size: int) -> dict[str, Any]:
    """Damaged files replaced in mid-epoch: what else changes, what a new graph costs."""
    files = sorted(map(str, root.rglob("*.jpg")))[: 16 * batch_size]
    bad = [batch_size * number + 3 for number in (5, 8, 11)]
    settings: dict[str, Any] = {"transform": dc.EvalTransform(), "device": device}
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(path, 0) for path in files]
        for index in bad:
            path = Path(folder) / f"{index}.jpg"
            path.write_bytes(Path(files[index]).read_bytes()[:20_000])
            pairs[index] = (str(path), 0)
        warnings.simplefilter("ignore")
        with dc.DataLoader([(path, 0) for path in files], batch_size, **settings) as clean:
            expected = [image.cpu() for image, _ in clean]
        loader = dc.DataLoader(pairs, batch_size, on_error="replace", **settings)
        memory_mib, times_s, changed = [], [], []
        epoch = iter(loader)
        for number in range(len(loader)):
            begin = time.perf_counter()
            image = next(epoch)[0].cpu()
            times_s.append(time.perf_counter() - begin)
            if device.type == "cuda":
                free, total = torch.cuda.mem_get_info(device)
                memory_mib.append((total - free) / 2**20)
            differs = (image != expected[number]).flatten(1).any(1).nonzero().flatten()
            changed += [number * batch_size + int(place) for place in differs]
        loader.close()
    slow = {index // batch_size for index in bad}
    usual = statistics.median(t for n, t in enumerate(times_s) if n and n not in slow)
    return {
        "batches": len(times_s),
        "bad_files": len(loader.bad_files),
        "only_the_bad_samples_changed": changed == bad,
        "usual_batch_s": usual,
        "batch_with_a_new_graph_s": [times_s[number] for number in sorted(slow)],
        "memory_mib": memory_mib,
    }


def surviving(root: Path, device: torch.device) -> dict[str, Any]:
    """Whether a graph goes on after a decode error when it is not made anew."""
    good = next(root.rglob("*.jpg")).read_bytes()
    gpu = device.type == "cuda"
    backend = "mixed" if gpu else "cpu"
    pipeline = Pipeline(4, 2, device.index if gpu else None, prefetch_queue_depth=2)
    with pipeline:
        encoded = fn.external_source(
            source=lambda number: [
                np.frombuffer(good[:20_000] if number == 2 and place == 1 else good, np.uint8)
                for place in range(4)
            ],
            batch=True,
        )
        pipeline.set_outputs(fn.decoders.image(encoded, device=backend))
    outcomes = []
    for _ in range(8):
        try:
            pipeline.run()
            outcomes.append("served")
        except RuntimeError as error:
            outcomes.append(str(error).strip().splitlines()[-1][:200])
    return {"runs": outcomes}


def roi_decode(root: Path, device: torch.device) -> dict[str, Any]:
    """Decoding a region on the GPU, in a process of its own, which it may end."""
    code = """
import sys
import numpy as np
from pathlib import Path
from nvidia.dali import Pipeline, fn

files = sorted(Path(sys.argv[1]).rglob("*.jpg"))[:256]
backend, device_id = ("cpu", None) if sys.argv[2] == "cpu" else ("mixed", 0)
pipeline = Pipeline(32, 4, device_id)
with pipeline:
    encoded = fn.external_source(
        source=lambda n: [np.fromfile(f, np.uint8) for f in files[32 * (n % 8) :][:32]], batch=True
    )
    pipeline.set_outputs(
        fn.decoders.image_slice(
            encoded, start=[16, 16], shape=[128, 128], axes=[0, 1], device=backend
        )
    )
for _ in range(16):
    pipeline.run()
print("all served")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(root), device.type],
        capture_output=True,
        text=True,
        timeout=180,
    )
    return {
        "exit_status": result.returncode,
        "output": result.stdout.strip(),
        "error": result.stderr[-600:],
    }


def memory(root: Path, device: torch.device, batch_size: int) -> dict[str, Any]:
    """Device memory in use, in MiB, around the life of a loader."""
    if device.type != "cuda":
        return {"skipped": "no GPU"}

    def used() -> float:
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) / 2**20

    found = {"before": used()}
    for turn in ("first", "second"):
        loader = dc.DataLoader(
            root, batch_size, transform=dc.TrainTransform(), mix=dc.CutMix(), device=device
        )
        for image, _ in loader:
            del image
        found[f"{turn} loader"] = used()
        loader.close()
        torch.cuda.empty_cache()
        found[f"after closing the {turn}"] = used()
    return found


def demo() -> dict[str, Any]:
    """The demonstration as a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dali_cutmix.cli", "demo", "--out", folder]
        begin = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return {
            "exit_status": result.returncode,
            "seconds": time.perf_counter() - begin,
            "output": result.stdout[-4000:],
            "error": result.stderr[-1000:],
        }


def main() -> None:
    """Run every check and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--num-files", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--num-workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-demo", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    results: dict[str, Any] = {"machine": machine(device)}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_jpegs(root, args.num_files)
        sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
        results["files"] = {"count": len(sizes), "mean_bytes": sum(sizes) / len(sizes)}
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            "empty_cuts": lambda: empty_cuts(device),
            "memory": lambda: memory(root, device, args.batch_size),
            "rates": lambda: rates(root, device, args.batch_size, args.num_workers),
            "engines": lambda: engines(root, device),
            "recovery": lambda: recovery(root, device),
            "replacement": lambda: replacement(root, device, min(64, args.num_files // 16)),
            "surviving": lambda: surviving(root, device),
            "roi_decode": lambda: roi_decode(root, device),
        }
        if not args.skip_demo:
            checks["demo"] = demo
        for name, check in checks.items():
            try:
                results[name] = check()
            except Exception as error:  # recorded, so that the other checks still run
                results[name] = {"failed": f"{type(error).__name__}: {error}"}
            # Written after every check: a decoder can end the process.
            args.out.write_text(json.dumps(results, indent=2) + "\n")
            print(name, json.dumps(results[name], indent=2), flush=True)


if __name__ == "__main__":
    main()
