"""One process's part of the data."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch.distributed as dist

from dali_cutmix.core.checks import check_count, refuse

#: Launchers, and the environment variables of a process's number and the number of processes.
#: Slurm's count is the step's: a batch script that runs once, without `srun`, sees the job's count.
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI", "PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True)
class Shard:
    """Name part ``index`` of ``count`` equal parts of the data, which one process serves.

    Args:
        index: Number of this part, ``0 <= index < count``.
        count: Number of parts, at least 1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        check_count("Shard", "count", self.count, at_least=1)
        check_count("Shard", "index", self.index, at_least=0)
        if self.index >= self.count:
            refuse("Shard", "index", f"be below count={self.count}", self.index)

    @classmethod
    def current(cls) -> Shard:
        """Return this rank's part if ``torch.distributed`` is initialised, else `from_env`."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls.from_env()

    @classmethod
    def from_env(cls) -> Shard:
        """Return the part that the launcher's environment variables name; all data without any.

        The first pair that is set counts: torchrun's ``RANK`` and ``WORLD_SIZE``, Slurm's
        ``SLURM_PROCID`` and ``SLURM_STEP_NUM_TASKS`` (set by ``srun``), Open MPI's
        ``OMPI_COMM_WORLD_RANK`` and ``OMPI_COMM_WORLD_SIZE``, ``PMI_RANK`` and ``PMI_SIZE``.

        Raises:
            ValueError: A variable is not a whole number, or a pair contradicts itself.
        """
        for launcher, index_name, count_name in _LAUNCHERS:
            # A count alone is common: shells set WORLD_SIZE for a launcher to read.
            if index_name in os.environ and count_name in os.environ:
                index, count = (_number(launcher, name) for name in (index_name, count_name))
                if index >= count:
                    raise ValueError(
                        f"Shard: {launcher}'s {index_name}={index} must be below "
                        f"{count_name}={count}. Pass `shard=Shard(index, count)` to decide "
                        "yourself."
                    )
                return cls(index, count)
        return cls()


def _number(launcher: str, name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise ValueError(
            f"Shard: {launcher}'s environment variable {name} must be a whole number, got "
            f"{text!r}. Pass `shard=Shard(index, count)` to decide yourself."
        )
    return int(text)
