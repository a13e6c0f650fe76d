"""Ranks whose parts of the data do not fit together say so, and wait for nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # two processes

RANK = """
import json, sys, time, warnings
import torch.distributed as dist
from dali_cutmix import DataLoader, EvalTransform, Shard
root, rank = sys.argv[1], int(sys.argv[3])

def load(source=root, shuffle=True, **settings):
    tiny = EvalTransform(8, 8)
    return DataLoader(source, 4, shuffle, transform=tiny, device="cpu", num_workers=1, **settings)

def said(loader):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(loader)
        list(loader)
    places = {warning.filename for warning in caught}
    assert places <= {__file__}, places
    return [str(warning.message) for warning in caught]

early, early_val = load(seed=5), load(shuffle=False)
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
found = {"early": said(early), "early_val": said(early_val)}
dist.barrier()
pairs = DataLoader(root, transform=EvalTransform(8, 8)).dataset.samples
def part(number):                        # data of another fingerprint for each case
    return list(pairs[:-number])
found["seeds"] = said(load(part(1), seed=7 + rank))
found["explicit"] = said(load(part(2), seed=7 + rank, shard=Shard(rank, 2)))
found["same"] = said(load(part(3), seed=7))
found["two"] = said(load(part(3), seed=8))
found["listed"] = said(load(part(4), shuffle=False, seed=rank))
found["everything"] = said(load(part(5), seed=rank, shard=Shard()))
found["sampler"] = said(load(part(6), False, seed=rank, sampler=[rank, rank + 2]))
dist.barrier()
if rank == 0:                            # alone: nobody answers
    found["alone"] = said(load(part(7), seed=1))
    found["again"] = said(load(part(3), seed=99))
dist.barrier()
print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def said(numbered_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks was warned of, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "rank.py").write_text(RANK)
    command = [sys.executable, str(folder / "rank.py"), str(numbered_folder), str(folder / "store")]
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.parametrize("case", ["seeds", "explicit"])
def test_ranks_with_different_seeds_name_both_of_them_once(said: Any, case: str) -> None:
    for rank in range(2):
        assert said[rank][case] == [
            f"DataLoader: rank {rank} has seed={7 + rank} and rank {1 - rank} has seed={8 - rank}. "
            "The ranks deal out different permutations, so that some samples come twice and others "
            "never. Pass the same `seed` on every rank: the ranks draw differently all the same."
        ]


@pytest.mark.parametrize("case", ["early", "early_val"])
def test_loaders_made_before_the_process_group_name_both_parts(said: Any, case: str) -> None:
    for rank in range(2):
        assert said[rank][case] == [
            f"DataLoader: rank {rank} of 2 serves Shard(0, 1) and rank {1 - rank} serves "
            "Shard(0, 1), since the loader was made before "
            f"`torch.distributed.init_process_group`. Rank {rank} should serve Shard({rank}, 2): "
            "make the loader after that call, or pass `shard=Shard(index, count)`."
        ]


@pytest.mark.parametrize("case", ["same", "two", "listed", "everything", "sampler"])
def test_ranks_that_fit_together_are_not_warned(said: Any, case: str) -> None:
    assert said[0][case] == said[1][case] == []


def test_a_rank_that_iterates_alone_is_not_warned_and_does_not_hang(said: Any) -> None:
    assert said[0]["alone"] == []


def test_a_loader_that_one_rank_has_beside_those_of_both_is_no_difference(said: Any) -> None:
    assert said[0]["again"] == []
