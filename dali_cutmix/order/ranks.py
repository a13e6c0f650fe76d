"""Tell where two ranks serve parts of the data that do not fit together."""

from __future__ import annotations

import json
import time
from typing import Any

import torch.distributed as dist

from dali_cutmix.order.sampler import Shard

#: Seconds that a rank waits for its neighbour, once for a loader. A rank that serves alone goes on.
WAIT_S = 1.0
#: Seconds between two looks at the store.
_LOOK_S = 0.01


def disagreement(data: str, seed: int | None, shard: Shard, *, is_chosen: bool) -> str | None:
    """Compare this rank's seed and shard with those of the next rank.

    Nothing here waits for a collective operation, which would hang where one rank alone iterates a
    loader. The ranks leave their values in the store of the process group, and look there for those
    of their neighbour. Whoever comes last sees the other's.

    Args:
        data: Fingerprint of the data.
        seed: Seed of the permutation that the ranks deal out; None without a permutation.
        shard: This process's part of the data.
        is_chosen: The loader chose ``shard``, when it was made.

    Returns:
        A warning that names both ranks' values. None where they agree, in a process group of a
        single rank, and where the other rank is not there.

    Raises:
        ValueError: ``torch.distributed`` is not initialised.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if world_size == 1:
        return None
    is_wrong = is_chosen and shard != Shard(rank, world_size)
    if not is_wrong and (seed is None or shard.count == 1):
        return None  # the order as listed, or everything on every rank on purpose
    neighbour = (rank + 1) % world_size
    group = f"dali_cutmix/{data}/{'listed' if seed is None else 'shuffled'}"
    ours, theirs = _exchange(group, rank, neighbour, (seed, shard.index, shard.count))
    if is_wrong:
        last = f" and rank {neighbour} serves {_part(*theirs[-1][1:])}" if theirs else ""
        return (
            f"DataLoader: rank {rank} of {world_size} serves {_part(shard.index, shard.count)}"
            f"{last}, since the loader was made before `torch.distributed.init_process_group`. "
            f"Rank {rank} should serve {_part(rank, world_size)}: make the loader after that call, "
            "or pass `shard=Shard(index, count)`."
        )
    if not theirs or {seed for seed, *_ in ours} & {seed for seed, *_ in theirs}:
        return None
    return (
        f"DataLoader: rank {rank} has seed={seed} and rank {neighbour} has seed={theirs[-1][0]}. "
        "The ranks deal out different permutations, so that some samples come twice and others "
        "never. Pass the same `seed` on every rank: the ranks draw differently all the same."
    )


def _part(index: int, count: int) -> str:
    return f"Shard({index}, {count})"


def _exchange(
    group: str, rank: int, neighbour: int, values: tuple[int | None, int, int]
) -> tuple[list[Any], list[Any]]:
    """Leave this rank's values beside those of its other loaders of a group; return both ranks'.

    A rank may have loaders that the other does not have. So all of them are left.
    """
    try:
        store = _store()
        key, other = (f"{group}/{number}" for number in (rank, neighbour))
        ours = [*_read(store, key), list(values)]
        store.set(key, json.dumps(ours))
        end = time.monotonic() + WAIT_S
        while not (theirs := _read(store, other)) and time.monotonic() < end:
            time.sleep(_LOOK_S)
    except Exception:  # a store that is gone, or another torch's: what is checked here is no error
        return [list(values)], []
    return ours, theirs


def _store() -> Any:
    # torch has no public name for the store that `init_process_group` made.
    return dist.distributed_c10d._get_default_store()


def _read(store: Any, key: str) -> list[Any]:
    values: list[Any] = json.loads(store.get(key)) if store.check([key]) else []
    return values
