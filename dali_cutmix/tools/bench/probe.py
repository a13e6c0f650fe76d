"""Probe whether a GPU decodes regions of files, in a process that the decoder may crash."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Files that are tried.
NUM_FILES = 512
# Of 32 images or more DALI 2.4.0 reads the headers in several threads, and crashes at a header
# that it cannot read. In smaller batches DALI reports the error.
_BATCH_SIZE = 16
# Levels of 255: mean difference of a region decoded alone from the same region of the whole image.
# The two may take different engines, whose pixels differ by about one level.
_MOST_DIFFERENCE = 3.0


def probe_roi_decode(files: Sequence[str], device: str, *, timeout_s: float = 180.0) -> str | None:
    """Decode regions of files in another process, and compare them with the whole images.

    Args:
        files: Paths. The first `NUM_FILES` are tried.
        device: ``"cpu"`` or ``"cuda"``.
        timeout_s: A probe that takes longer has failed.

    Returns:
        None if regions can be decoded, else the reason.
    """
    setup = json.dumps({"files": list(files[:NUM_FILES]), "device": device})
    try:
        result = subprocess.run(
            [sys.executable, __file__],
            input=setup,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"it was not done after {timeout_s:g} s"
    if result.returncode < 0:
        return f"the decoder ended its process by {signal.Signals(-result.returncode).name}"
    if result.returncode:
        return _reason(result.stderr) or f"its process ended with status {result.returncode}"
    return None


def _reason(messages: str) -> str:
    """Return the line of a traceback that says why. DALI puts the line amid its own report."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    if "encountered:" in lines[:-1]:
        return lines[lines.index("encountered:") + 1]
    return lines[-1] if lines else ""


def compare(setup: str) -> None:
    """Decode regions and whole images, and compare them. Runs in the other process.

    Args:
        setup: JSON object of ``files`` and ``device``.

    Raises:
        RuntimeError: The decoder fails.
        ValueError: A region differs from the same region of the whole image.
    """
    import numpy as np

    # By its path: the package around it would import torch, which takes seconds.
    dali = runpy.run_path(str(Path(__file__).parents[2] / "core" / "dali.py"))
    fn = dali["fn"]
    arguments = json.loads(setup)
    gpu = arguments["device"] == "cuda"
    files = [np.frombuffer(path.encode(), np.uint8) for path in arguments["files"]]
    backend = "mixed" if gpu else "cpu"
    pipeline = dali["Pipeline"](batch_size=_BATCH_SIZE, num_threads=4, device_id=0 if gpu else None)
    region: dict[str, Any] = {"rel_start": [0.2, 0.3], "rel_shape": [0.5, 0.4], "axes": [0, 1]}

    def next_files(number: int) -> list[np.ndarray]:
        first = number * _BATCH_SIZE
        return [files[(first + index) % len(files)] for index in range(_BATCH_SIZE)]

    with pipeline:
        encoded = fn.io.file.read(fn.external_source(source=next_files, batch=True))
        region_alone = fn.decoders.image_slice(encoded, device=backend, **region)
        region_of_whole = fn.slice(fn.decoders.image(encoded, device=backend), **region)
        pipeline.set_outputs(region_alone, region_of_whole)
    for _ in range(-(-len(files) // _BATCH_SIZE)):
        outputs = pipeline.run()
        alone, of_whole = (batch.as_cpu() for batch in outputs) if gpu else outputs
        for index in range(_BATCH_SIZE):
            pixels, expected = np.asarray(alone[index]), np.asarray(of_whole[index])
            if pixels.shape != expected.shape:
                raise ValueError(f"a region has the shape {pixels.shape}, not {expected.shape}")
            difference = np.abs(pixels.astype(np.int16) - expected).mean() if pixels.size else 0.0
            if difference > _MOST_DIFFERENCE:
                raise ValueError(f"a region differs by {difference:.1f} levels from the whole")


if __name__ == "__main__":
    with open(0) as stdin:
        compare(stdin.read())
