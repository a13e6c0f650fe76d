"""Instructions per image of a loader, counted by valgrind's callgrind: no clock is read.

Run by ``operation_counts.py --instructions``. This file is also the program that valgrind runs:

    valgrind --tool=callgrind --instr-atstart=no python benchmarks/instructions.py NAME DIR
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH_SIZE = 16
#: Batches before counting starts, and batches that are counted.
NUM_BATCHES = (4, 32)


def instructions_per_image(name: str, data: Path) -> float:
    """Count instructions of all threads while batches are served, over the number of images.

    Args:
        name: Of ``operation_counts.LOADERS``.
        data: ImageFolder root, with one batch at least.

    Raises:
        FileNotFoundError: There is no valgrind.
        RuntimeError: The program failed under it; its output is quoted.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError(
            "`--instructions` needs valgrind, which was not found. Install it, on Debian with "
            "`apt-get install valgrind`, or leave the option out."
        )
    with tempfile.TemporaryDirectory() as folder:
        callgrind = [
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out",
        ]
        command = [valgrind, *callgrind, sys.executable, __file__, name, str(data)]
        # Hashes decide the layout of dictionaries, and so which instructions run.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    counts = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or counts is None or int(counts[1]) == 0:
        raise RuntimeError(f"callgrind counted nothing for {name!r}:\n{done.stderr[-2000:]}")
    return int(counts[1]) / (NUM_BATCHES[1] * BATCH_SIZE)


def _serve(name: str, data: Path) -> None:
    """Serve batches and have the later batches counted."""
    # Imported here, since the process that starts valgrind needs neither module.
    from operation_counts import endless, loader_of

    with loader_of(name, data, BATCH_SIZE) as loader:
        batches = endless(loader)
        for _ in range(NUM_BATCHES[0]):
            next(batches)
        _switch("on")
        for _ in range(NUM_BATCHES[1]):
            next(batches)
        _switch("off")


def _switch(state: str) -> None:
    command = ["callgrind_control", "-i", state, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", help="of operation_counts.LOADERS")
    parser.add_argument("data", metavar="DIR", type=Path, help="ImageFolder root")
    options = parser.parse_args()
    _serve(options.name, options.data)
