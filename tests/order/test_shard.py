"""Which part of the data is this process's: what is asked, and in which order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from dali_cutmix import DataLoader, EvalTransform, Shard

VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "PMI": ("PMI_RANK", "PMI_SIZE"),
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("launcher", VARIABLES)
def test_each_launcher_is_recognised(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index, count = VARIABLES[launcher]
    monkeypatch.setenv(index, "3")
    monkeypatch.setenv(count, "8")
    assert Shard.from_env() == Shard.current() == Shard(3, 8)


def test_the_first_launcher_in_the_order_of_the_docstring_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for turn, (index, count) in reversed(list(enumerate(VARIABLES.values()))):
        monkeypatch.setenv(index, str(turn))
        monkeypatch.setenv(count, str(10 + turn))
        assert Shard.current() == Shard(turn, 10 + turn)


def test_without_a_launcher_everything_is_served() -> None:
    assert Shard.current() == Shard(0, 1)


def test_a_lone_count_and_a_slurm_batch_script_without_srun_serve_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # as shells set it for a launcher to read
    monkeypatch.setenv("SLURM_PROCID", "0")  # as in a batch script: one process sees the job's
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert Shard.current() == Shard(0, 1)


def test_initialised_torch_distributed_counts_more_than_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert Shard.current() == Shard(0, 1)
    finally:
        dist.destroy_process_group()
    assert Shard.current() == Shard(1, 2)


def test_loader_takes_the_part_that_the_launcher_names_unless_told_otherwise(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    tiny = EvalTransform(8, 8)
    assert DataLoader(numbered_folder, transform=tiny).sampler.shard == Shard(1, 4)
    told = DataLoader(numbered_folder, transform=tiny, shard=Shard())
    assert told.sampler.shard == Shard(0, 1)


@pytest.mark.parametrize(
    ("index", "count", "problem"),
    [
        ("x", "4", "environment variable RANK must be a whole number, got 'x'."),
        ("-1", "4", "environment variable RANK must be a whole number, got '-1'."),
        ("0", "", "environment variable WORLD_SIZE must be a whole number, got ''."),
        ("4", "4", "RANK=4 must be below WORLD_SIZE=4."),
    ],
)
def test_variables_that_make_no_sense_are_named(
    index: str, count: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", index)
    monkeypatch.setenv("WORLD_SIZE", count)
    way_out = " Pass `shard=Shard(index, count)` to decide yourself."
    whole = re.escape(f"Shard: torchrun's {problem}{way_out}")
    with pytest.raises(ValueError, match=f"^{whole}$"):
        Shard.current()


@pytest.mark.slow
def test_ranks_of_a_launcher_serve_everything_once_between_them(numbered_folder: Path) -> None:
    script = (
        "import sys; from dali_cutmix import DataLoader, EvalTransform\n"
        "loader = DataLoader(sys.argv[1], 5, transform=EvalTransform(8, 8), device='cpu')\n"
        "print(*(int(label) for _, labels in loader for label in labels))"
    )
    served = []
    for rank in range(2):
        environment = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2"}
        result = subprocess.run(
            [sys.executable, "-c", script, str(numbered_folder)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        served.append([int(word) for word in result.stdout.split()])
    assert [len(labels) for labels in served] == [12, 11]
    assert sorted(served[0] + served[1]) == [0] * 8 + [1] * 8 + [2] * 7
