"""Choose where a loader runs: on which GPU, on how many CPU threads."""

from __future__ import annotations

import os

import torch

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import num_gpus


def choose_device(device: str | torch.device | int | None) -> torch.device:
    """Return the device with its index: for None the current GPU, or the CPU without a GPU.

    Raises:
        ValueError: A GPU that DALI or torch does not see, or another kind of device.
    """
    try:
        chosen = None if device is None else torch.device(device)
    except RuntimeError:
        refuse("DataLoader", "device", "be 'cuda', 'cuda:<index>' or 'cpu'", device)
    if chosen is not None and chosen.type == "cpu":
        return torch.device("cpu")  # before a call that would initialise CUDA
    if chosen is not None and chosen.type != "cuda":
        refuse("DataLoader", "device", "be 'cuda', 'cuda:<index>' or 'cpu'", str(device))
    seen = min(num_gpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if chosen is None:
        return torch.device("cuda", torch.cuda.current_device()) if seen else torch.device("cpu")
    if not seen:
        way_out = (
            f"DALI sees {num_gpus()} GPUs and torch {torch.cuda.device_count()}; "
            "`device='cpu'` runs everything."
        )
        refuse("DataLoader", "device", "be 'cpu' without a usable GPU", str(device), way_out)
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= seen:
        refuse("DataLoader", "device", f"be one of the {seen} GPUs", str(device))
    return torch.device("cuda", index)


def num_cpus() -> int:
    """Return the number of CPUs that this process may use, at most 8."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        usable = os.cpu_count() or 1
    return min(8, usable)
