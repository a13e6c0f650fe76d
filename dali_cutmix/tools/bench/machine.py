"""Describe the machine of a measurement, as far as the machine explains the numbers."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from dali_cutmix.core.threads import usable_cpus as usable_cpus  # for benchmarks too

#: Packages whose versions are named, by the first distribution of a tuple that is installed.
DISTRIBUTIONS = {
    "dali": ("nvidia-dali-cuda120", "nvidia-dali-cuda130"),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
}
#: Fields of nvidia-smi, by the names in results.
GPU_QUERY = {
    "name": "name",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "clock_mhz": "clocks.sm",
    "clock_max_mhz": "clocks.max.sm",
    "power_limit_w": "power.limit",
}


def describe_machine() -> dict[str, Any]:
    """Return processor, usable cores, memory, GPUs, and versions.

    Returns:
        ``date`` (ISO), ``cpu`` (model), ``cores`` (usable by this process), ``memory_gib``,
        ``gpus`` (a list of name, driver, clocks in MHz now and at most, memory in MiB, power limit
        in W), ``os``, and ``versions`` of Python and of packages. No host name, and no path.
    """
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": processor_name(),
        "cores": usable_cpus(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "gpus": _gpus(),
        "os": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def processor_name() -> str:
    """Return the model of the CPU, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def _versions() -> dict[str, str]:
    versions = {}
    for name, distributions in DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                versions[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def _gpus() -> list[dict[str, Any]]:
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_QUERY.values())}"]
    try:
        result = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if result.returncode:
        return []
    rows = csv.reader(result.stdout.splitlines(), skipinitialspace=True)
    return [dict(zip(GPU_QUERY, map(_number, row), strict=False)) for row in rows if row]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
