"""Checks of a loader on a GPU, where its behaviour may differ from the CPU.

``gpu.py`` runs each check in a process of its own:

- ``engines``: which of the decoder's engines took the files, and how many the GPU has;
- ``empty_cuts``: whether pasting an empty cut keeps the pixels;
- ``memory``: device memory before the loader, with it, and after ``close()``;
- ``recovery``: what a file that cannot be decoded raises, and whether a new epoch runs after it;
- ``replacement``: what else changes when files are replaced, and what the new graph costs;
- ``surviving``: whether a graph continues after a decode error;
- ``roi_decode``: decoding a region on the GPU, which can end the process;
- ``demo``: the demonstration's own output.
"""

from __future__ import annotations

import collections
import ctypes
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn

import dali_cutmix as dc


def engines(root: Path, device: torch.device, *_: Any) -> dict[str, Any]:
    """Count the lines of nvImageCodec's log that name a decoder."""
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
        timeout=60,
    )
    names = re.findall(r"\b(\w+_decoder)\b", result.stderr)
    said = re.sub(r"\x1b\[[\d;]*m", "", result.stderr)  # without colours
    lines = [line for line in said.splitlines() if "decod" in line.lower()]
    return {
        "jpeg_engines": jpeg_engines() if device.type == "cuda" else None,
        "exit_status": result.returncode,
        "log_names": dict(collections.Counter(names)),
        "sample": lines[:20],
    }


def jpeg_engines() -> dict[str, Any]:
    """Return the number of the GPU's JPEG engines, as nvJPEG counts them."""
    import nvidia

    libraries = [path for root in nvidia.__path__ for path in Path(root).rglob("libnvjpeg.so.*")]
    if not libraries:
        return {"unknown": "no nvJPEG beside DALI"}
    library, handle = ctypes.CDLL(str(libraries[0])), ctypes.c_void_p()
    engines, cores = ctypes.c_uint(), ctypes.c_uint()
    status = library.nvjpegCreateSimple(ctypes.byref(handle))
    if status == 0:
        status = library.nvjpegGetHardwareDecoderInfo(
            handle, ctypes.byref(engines), ctypes.byref(cores)
        )
    if status:
        return {"unknown": f"nvJPEG answers {status}"}
    return {"engines": engines.value, "cores_per_engine": cores.value}


def empty_cuts(_: Path, device: torch.device, *__: Any) -> dict[str, Any]:
    """Compare a batch that was pasted with cuts of no area with the batch itself."""
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


def recovery(root: Path, device: torch.device, *_: Any) -> dict[str, Any]:
    """Serve a damaged file among good files: what is raised, and whether a new epoch runs."""
    files = sorted(map(str, root.rglob("*.jpg")))[:31]
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.jpg"
        bad.write_bytes(Path(files[0]).read_bytes()[:20_000])
        pairs = [(path, 0) for path in files] + [(str(bad), 0)]
        loader = dc.DataLoader(pairs, 8, transform=dc.TrainTransform(), device=device)
        results: dict[str, Any] = {}
        try:
            list(loader)
            results["raised"] = None
        except RuntimeError as error:
            results["raised"] = f"{type(error).__name__}: {error}"
        bad.write_bytes(Path(files[0]).read_bytes())
        begin = time.perf_counter()
        results["batches_of_the_next_epoch"] = len(list(loader))
        results["next_epoch_s"] = time.perf_counter() - begin
        loader.close()
    return results


def replacement(root: Path, device: torch.device, batch_size: int, *_: Any) -> dict[str, Any]:
    """Replace damaged files in mid-epoch: what else changes, what a new graph costs."""
    batch_size = min(64, batch_size)  # all batches of a clean run are kept to compare with
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
            changed += [number * batch_size + int(index) for index in differs]
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


def surviving(root: Path, device: torch.device, *_: Any) -> dict[str, Any]:
    """Return whether a graph continues after a decode error."""
    good = next(root.rglob("*.jpg")).read_bytes()
    gpu = device.type == "cuda"
    backend = "mixed" if gpu else "cpu"
    pipeline = Pipeline(4, 2, device.index if gpu else None, prefetch_queue_depth=2)
    with pipeline:
        encoded = fn.external_source(
            source=lambda number: [
                np.frombuffer(good[:20_000] if number == 2 and index == 1 else good, np.uint8)
                for index in range(4)
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


def roi_decode(root: Path, device: torch.device, *_: Any) -> dict[str, Any]:
    """Decode regions on the GPU, in a process of its own, which the decoder may end."""
    code = """
import sys
import numpy as np
from pathlib import Path
from nvidia.dali import Pipeline, fn

files = sorted(Path(sys.argv[1]).rglob("*.jpg"))[:256]
backend, device_id = ("cpu", None) if sys.argv[2] == "cpu" else ("mixed", 0)


def batch(number):
    first = 32 * (number % (len(files) // 32))
    return [np.fromfile(file, np.uint8) for file in files[first : first + 32]]


pipeline = Pipeline(32, 4, device_id)
with pipeline:
    encoded = fn.external_source(source=batch, batch=True)
    pipeline.set_outputs(
        fn.decoders.image_slice(
            encoded, start=[16, 16], shape=[96, 96], axes=[0, 1], device=backend
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
        timeout=60,
    )
    return {
        "exit_status": result.returncode,
        "output": result.stdout.strip(),
        "error": result.stderr[-600:],
    }


def memory(root: Path, device: torch.device, batch_size: int, *_: Any) -> dict[str, Any]:
    """Return device memory in use, in MiB, before, during and after the life of a loader."""
    if device.type != "cuda":
        return {"skipped": "no GPU"}

    def used() -> float:
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) / 2**20

    memory_mib = {"before": used()}
    for turn in ("first", "second"):
        loader = dc.DataLoader(
            root, batch_size, transform=dc.TrainTransform(), mix=dc.CutMix(), device=device
        )
        for image, _ in loader:
            del image
        memory_mib[f"{turn} loader"] = used()
        loader.close()
        torch.cuda.empty_cache()
        memory_mib[f"after closing the {turn}"] = used()
    return memory_mib


def demo(_: Path, __: torch.device, ___: int, smoke: bool) -> dict[str, Any]:
    """Run the demonstration as a user does; a smoke test shortens it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dali_cutmix.tools.cli"]
        command += ["demo", "--out", folder, *(["--runs", "1", "--epochs", "1"] if smoke else [])]
        begin = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return {
            "exit_status": result.returncode,
            "seconds": time.perf_counter() - begin,
            "output": result.stdout[-4000:],
            "error": result.stderr[-1000:],
        }


#: Checks by name: functions of ImageFolder root, device, batch size, and whether to be short.
CHECKS: dict[str, Callable[..., dict[str, Any]]] = {
    "engines": engines,
    "empty_cuts": empty_cuts,
    "memory": memory,
    "recovery": recovery,
    "replacement": replacement,
    "surviving": surviving,
    "roi_decode": roi_decode,
    "demo": demo,
}
