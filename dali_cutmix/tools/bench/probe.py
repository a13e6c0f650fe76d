"""Whether a GPU decodes regions of these files: tried in a process of its own, which it may end."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_FILES = 512
#: Of 32 or more DALI 2.4.0 reads the headers in several threads, and ends the process at one that
#: it cannot read, where it should say so.
_BATCH_SIZE = 16
#: Mean difference of a region decoded alone from the same region of the whole, in levels of 255.
#: The two may take different engines, whose pixels differ by about one level.
_MOST_DIFFERENCE = 3.0


def probe_roi_decode(files: Sequence[str], device: str, *, timeout_s: float = 180.0) -> str | None:
    """Decode regions of files in another process, and compare them with the whole images.

    Args:
        files: Paths; the first `NUM_FILES` are tried.
        device: ``"cpu"`` or ``"cuda"``.
        timeout_s: It has failed when it takes longer.

    Returns:
        None if regions can be decoded, else why not.
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
    """The line of a traceback that says why; DALI has it in the middle of its own."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    if "encountered:" in lines[:-1]:
        return lines[lines.index("encountered:") + 1]
    return lines[-1] if lines else ""


def compare(setup: str) -> None:
    """What the other process does.

    Args:
        setup: JSON of ``files`` and ``device``.

    Raises:
        RuntimeError: The decoder fails.
        ValueError: A region differs from the same region of the whole image.
    """
    import numpy as np

    # By its path: the package around it would import torch, which takes seconds.
    dali = runpy.run_path(str(Path(__file__).parents[2] / "core" / "dali.py"))
    fn = dali["fn"]
    asked = json.loads(setup)
    gpu = asked["device"] == "cuda"
    files = [np.frombuffer(path.encode(), np.uint8) for path in asked["files"]]
    backend = "mixed" if gpu else "cpu"
    pipeline = dali["Pipeline"](batch_size=_BATCH_SIZE, num_threads=4, device_id=0 if gpu else None)
    region: dict[str, Any] = {"rel_start": [0.2, 0.3], "rel_shape": [0.5, 0.4], "axes": [0, 1]}

    def next_files(number: int) -> list[np.ndarray]:
        first = number * _BATCH_SIZE
        return [files[(first + place) % len(files)] for place in range(_BATCH_SIZE)]

    with pipeline:
        encoded = fn.io.file.read(fn.external_source(source=next_files, batch=True))
        alone = fn.decoders.image_slice(encoded, device=backend, **region)
        whole = fn.slice(fn.decoders.image(encoded, device=backend), **region)
        pipeline.set_outputs(alone, whole)
    for _ in range(-(-len(files) // _BATCH_SIZE)):
        pair = pipeline.run()
        alone, whole = (one.as_cpu() for one in pair) if gpu else pair
        for place in range(_BATCH_SIZE):
            one, other = np.asarray(alone[place]), np.asarray(whole[place])
            if one.shape != other.shape:
                raise ValueError(f"a region has the shape {one.shape}, not {other.shape}")
            difference = np.abs(one.astype(np.int16) - other).mean() if one.size else 0.0
            if difference > _MOST_DIFFERENCE:
                raise ValueError(f"a region differs by {difference:.1f} levels from the whole")


if __name__ == "__main__":
    with open(0) as asked:
        compare(asked.read())
