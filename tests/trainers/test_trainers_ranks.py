"""On several ranks, each trainer gives every rank its shard, and no sample twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_cutmix import CutMix, DataLoader, Shard, TrainTransform

TRAINERS = Path(__file__).parent
#: Of 23 files each has 8, 8 and 8, of which one comes twice to keep the ranks in step.
NUM_RANKS = 3


def written(out: Path, num_ranks: int) -> list[dict[str, Any]]:
    """Return what each rank wrote."""
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def run(command: list[object], **environment: str) -> None:
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=600)  # on a busy machine
    except subprocess.TimeoutExpired:
        process.terminate()  # `kill` would leave ranks behind, which may wait for each other
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


def alone(root: Path, batch_size: int, rank: int, num_ranks: int, num_epochs: int = 2) -> list[Any]:
    """Return the batches of a rank without any trainer."""
    shard = Shard(rank, num_ranks)
    loader = DataLoader(
        root, batch_size, True, transform=TrainTransform(size=16), mix=CutMix(), seed=3, shard=shard
    )
    return [batch for _ in range(num_epochs) for batch in loader]


def flat(lists: list[list[int]]) -> list[int]:
    return [index for one in lists for index in one]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    torch.testing.assert_close(
        [list(batch) for batch in found],
        [list(batch) for batch in expected],
        rtol=0,
        atol=0,
    )


@pytest.fixture(scope="module")
def ranks(numbered_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a loop of one's own, and of Accelerate where Accelerate is installed."""
    out = tmp_path_factory.mktemp("ranks")
    programs = [TRAINERS / "plain_ddp.py", numbered_folder, out / "plain"]
    if find_spec("accelerate") is not None:
        programs += ["then", TRAINERS / "accelerate_ddp.py", numbered_folder, out / "accelerate"]
        programs += [22, 23]
    for name in ("plain", "accelerate"):
        (out / name).mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", NUM_RANKS]
    run([*launch, TRAINERS / "in_turn.py", *programs])
    return out


@pytest.fixture(scope="module")
def plain(ranks: Path) -> list[dict[str, Any]]:
    return written(ranks / "plain", NUM_RANKS)


def test_plain_ranks_get_the_batches_of_their_shards(
    numbered_folder: Path, plain: list[dict[str, Any]]
) -> None:
    for rank, found in enumerate(plain):
        assert_same(found["straight"]["batches"], alone(numbered_folder, 4, rank, NUM_RANKS))


def test_plain_ranks_share_every_epoch_between_them(plain: list[dict[str, Any]]) -> None:
    for epoch in (0, 1):
        steps = slice(2 * epoch, 2 * epoch + 2)
        parts = [flat(found["straight"]["indices"][steps]) for found in plain]
        assert [len(part) for part in parts] == [8, 8, 8]
        assert set(flat(parts)) == set(range(23))
        assert [len(set(part)) for part in parts] == [8, 8, 8]


def test_plain_ranks_step_with_equal_gradients(plain: list[dict[str, Any]]) -> None:
    for name in ("straight", "first", "second"):
        assert len(plain[0][name]["gradients"]) > 0
        for other in plain[1:]:
            torch.testing.assert_close(
                plain[0][name]["gradients"], other[name]["gradients"], rtol=0, atol=0
            )


def test_plain_ranks_that_resume_end_bit_identically(
    plain: list[dict[str, Any]],
) -> None:
    for found in plain:
        assert len(found["first"]["batches"]) == 3  # in the middle of the second epoch
        parts = found["first"]["batches"] + found["second"]["batches"]
        assert_same(parts, found["straight"]["batches"])
        assert torch.equal(found["second"]["weights"], found["straight"]["weights"])


def test_ranks_that_evaluate_count_every_sample_once_with_unequal_steps(
    plain: list[dict[str, Any]],
) -> None:
    """torchvision's reference warns of any other number."""
    served = [found["evaluation"] for found in plain]
    assert sorted(flat([flat(one["indices"]) for one in served])) == list(range(23))
    assert [len(one["indices"]) for one in served] == [2, 2, 1]
    assert [one["length"] for one in served] == [2, 2, 1]
    assert [one["warnings"] for one in served] == [0, 0, 0]


def test_lightning_ranks_get_the_batches_of_their_shards(
    photo_folder: Path, tmp_path: Path
) -> None:
    """Started by Lightning, which tells a process its rank only when the trainer starts."""
    pytest.importorskip("lightning", reason="Lightning is not for this Python")
    run([TRAINERS / "lightning_ddp.py", photo_folder, tmp_path])
    found = written(tmp_path, 2)
    for rank, one in enumerate(found):
        assert_same(one["batches"], alone(photo_folder, 4, rank, 2))
    assert torch.equal(found[0]["weights"], found[1]["weights"])
    # Two validations of three and two batches: 7 files in each of 3 classes, each served once.
    assert [len(one["labels"]) for one in found] == [6, 4]
    labels = torch.cat([label for one in found for label in one["labels"]])
    assert Counter(labels.tolist()) == {0: 14, 1: 14, 2: 14}


def test_accelerate_ranks_get_the_batches_of_their_shards_and_gather_each_sample_once(
    numbered_folder: Path, ranks: Path
) -> None:
    """22 files on three ranks are 8 each, two of them repeated; of 23, one is."""
    pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    for rank, found in enumerate(written(ranks / "accelerate", NUM_RANKS)):
        for num_images, gathered in zip((22, 23), found["gathered"], strict=True):
            numbers, labels = (torch.cat(part) for part in zip(*gathered, strict=True))
            assert sorted(numbers.tolist()) == list(range(num_images))
            assert torch.equal(labels, numbers // 8)
        expected = alone(numbered_folder, 3, rank, 3)
        assert_same(found["first"]["batches"], expected[:3])
        assert_same(found["straight"]["batches"], expected[3:])
        assert_same(found["resumed"]["batches"], expected[5:])
        assert_same(found["skipped"], expected[5:])
        # The gradients of two batches are accumulated, and those of the last one are not kept.
        assert found["first"]["synced"] == [False, True, True]
        assert found["straight"]["synced"] == found["first"]["synced"]
        assert torch.equal(found["resumed"]["weights"], found["straight"]["weights"])


@pytest.mark.full  # minutes on a busy machine, of which Ray takes most
def test_ray_workers_get_the_pixels_of_their_shards_and_equal_weights_also_after_an_error(
    photo_folder: Path, tmp_path: Path
) -> None:
    """Workers that raise behind the fourth of six steps are replaced, and resume from there.

    ``test_ray_imagenet.py`` has what becomes of workers that are killed.
    """
    pytest.importorskip("ray.train", reason="Ray Train is not for this Python")
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    run([TRAINERS / "ray_workers.py", photo_folder, tmp_path], **ray)
    first, second = (
        [torch.load(tmp_path / f"{attempt}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        for attempt in ("first", "second")
    )
    for rank in (0, 1):
        expected = alone(photo_folder, 4, rank, 2)
        assert_same(first[rank]["batches"], expected[:4])
        # The last checkpoint may be one step behind the failure, which is not waited for.
        assert len(second[rank]["batches"]) in (2, 3)
        assert_same(second[rank]["batches"], expected[-len(second[rank]["batches"]) :])
    assert torch.equal(second[0]["weights"], second[1]["weights"])
