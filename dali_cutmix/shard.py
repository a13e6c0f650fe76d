"""This process's part of the data."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch.distributed as dist

from dali_cutmix._checks import check_count, refuse


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count`` equal parts of the data: one process's share.

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
    def from_env(cls) -> Shard:
        """The part that torchrun's ``RANK`` and ``WORLD_SIZE`` name; all of it without them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @classmethod
    def current(cls) -> Shard:
        """The part of an initialised ``torch.distributed``; all of it without one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()
