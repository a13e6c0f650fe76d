"""Two processes train one model: equal weights, each sample once, one stop and one checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from two_ranks import CIFAR, IMAGENET, short

from dali_cutmix import EpochSampler, Shard
from harness import training
from harness.monitor import Monitor
from harness.pictures import make_pictures
from harness.processes import Processes
from harness.validation import validate
from runs import PIPELINES, TORCHRUN, assert_same_run, checkpoint_of, command, recipe, start

#: One recipe of each measure but transfer.py's: detectors share theirs, and so do classifiers.
TASKS = ["captions", "clip_contrastive", "detection_ssd", "segmentation_deeplab", "video_r3d"]
#: Of these measures too, in other recipes.
MORE_TASKS = ["scenes", "volumes_unet3d"]
#: What depends on which images share a batch, as the recipe says.
OF_BATCHES = {"blind_bleu4"}


class Ranks(NamedTuple):
    """What two processes printed, and where they wrote."""

    said: str
    out: Path


def train(out: Path, names: list[str]) -> Ranks:
    path = [str(PIPELINES), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(path))
        said = start(*TORCHRUN, Path(__file__).with_name("two_ranks.py"), out, *names)
    return Ranks(said, out)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Two processes that train every recipe, and then are told to stop: six steps of 4 images."""
    out = tmp_path_factory.mktemp("ranks")
    make_pictures(out / "data" / "train", 24)
    make_pictures(out / "data" / "val", 9)
    return train(out, [IMAGENET, *TASKS, CIFAR])


def ends(ranks: Ranks, name: str) -> list[dict[str, Any]]:
    """Return what each process ended with."""
    return [torch.load(ranks.out / f"{name}_{rank}.pt", weights_only=True) for rank in (0, 1)]


def measured_alone(
    name: str, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, out: Path
) -> dict[str, float]:
    """Return what a single process measures of a recipe's network with given weights."""
    rows = []

    def only_measure(self: Any) -> dict[str, Any]:
        self.training.model.load_state_dict(weights)
        autocast = torch.autocast("cpu", enabled=False)
        val = self.training.val
        row = self.training.measure(self.training.model, val, self.processes, autocast, None)
        rows.append(row)
        loaders: Sequence[Any] = (self.training.train(0), val, *self.training.tests)
        for loader in loaders:
            loader.close()
        return {"epochs": [row]}

    monkeypatch.setattr(training.Run, "execute", only_measure)
    module = recipe(name)
    module.main(short(module, name, out))
    return rows[0]


def assert_equal_and_measured_as_alone(
    ranks: Ranks, name: str, monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    first, second = (end["model"] for end in ends(ranks, name))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    results = json.loads((ranks.out / name / "0/results.json").read_text())
    assert results["num_processes"] == 2
    together = results["epochs"][-1]
    alone = measured_alone(name, first, monkeypatch, out)
    for number in alone.keys() - OF_BATCHES:
        assert together[number] == pytest.approx(alone[number], rel=1e-5), (name, number)


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_end_with_equal_weights_and_measure_what_one_process_measures(
    name: str, ranks: Ranks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert_equal_and_measured_as_alone(ranks, name, monkeypatch, tmp_path)


@pytest.mark.full
def test_two_processes_measure_scenes_and_volumes_as_one_process_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranks = train(tmp_path, MORE_TASKS)
    for name in MORE_TASKS:
        with monkeypatch.context() as patched:
            assert_equal_and_measured_as_alone(ranks, name, patched, tmp_path / "alone" / name)


def test_two_processes_mix_at_the_same_layers_and_end_with_equal_weights(ranks: Ranks) -> None:
    first, second = ends(ranks, CIFAR)
    assert first["layers"] == second["layers"]
    assert len(set(first["layers"])) > 1
    torch.testing.assert_close(first["model"], second["model"], rtol=0, atol=0)


def test_one_of_two_processes_prints(ranks: Ranks) -> None:
    assert ranks.said.count("epoch 2/2") == len([IMAGENET, CIFAR])
    assert ranks.said.count("epoch 1/1") == len(TASKS)


def test_two_processes_count_every_validation_sample_exactly_once(
    ranks: Ranks, tmp_path: Path
) -> None:
    """9 samples: one process has 5 in 3 batches, the other 4 in 2.

    Together they must find what one process finds with the saved weights. Each sample's loss
    differs, so that none can stand in for another, and so would the loss under each process's own
    running statistics.
    """
    module, cpu = recipe(IMAGENET), torch.device("cpu")
    settings = module.shrink(module.Settings(smoke=True))
    make_pictures(tmp_path / "val", 9)
    val = module.make_val_loader(settings, tmp_path, cpu)
    model = module.make_model(settings, val.num_classes, cpu)
    model.load_state_dict(checkpoint_of(ranks.out / IMAGENET)["model"])
    autocast = torch.autocast("cpu", enabled=False)
    alone = validate(model, val, Processes(IMAGENET, cpu), autocast)

    results = json.loads((ranks.out / IMAGENET / "results.json").read_text())
    together = results["epochs"][-1]
    assert results["num_processes"] == 2
    assert together["num_val"] == alone["num_val"] == 9
    assert together["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
    assert (together["top1"], together["top5"]) == (alone["top1"], alone["top5"])


def assert_one_process_goes_on(
    out: Path, data: Path, num_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume what two processes left in the first epoch, and see which images are trained on."""
    done = checkpoint_of(out)["step"]
    served: list[int] = []
    step = Monitor.step

    def noted(self: Monitor, loss: torch.Tensor, indices: Any, *others: Any) -> None:
        served.extend(indices)
        step(self, loss, indices, *others)

    monkeypatch.setattr(Monitor, "step", noted)
    module = recipe(IMAGENET)
    settings = module.Settings(
        smoke=True, data=data, out=out, max_steps=100, epochs=1, resume="auto"
    )
    results = module.main(settings)
    whole = EpochSampler(num_images, shuffle=True, seed=0, shard=Shard(0, 1)).order(0).tolist()
    assert served == whole[4 * done :]
    assert results["epochs"][0]["num_train"] == num_images


def test_one_of_two_told_to_stop_stops_both_and_one_process_goes_on_with_what_was_left(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process learns of the wish a step later."""
    assert [(ranks.out / f"exit code {rank}").read_text() for rank in (0, 1)] == ["143", "143"]
    assert ranks.said.count("Stopped by signal 15") == 1
    state = checkpoint_of(ranks.out / "stopped")
    assert (state["step"], state["history"]) == (3, [])
    assert_one_process_goes_on(ranks.out / "stopped", ranks.out / "data", 24, monkeypatch)


# Commands

SMOKE = [PIPELINES / f"{IMAGENET}.py", "--smoke", "--checkpoint-minutes", "0", "--resume", "auto"]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def ranks_of(torchrun: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    found = [int(pid) for pid in children]
    return [pid for pid in found if IMAGENET in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.full
def test_rank_that_is_killed_is_brought_back_and_the_run_ends_as_an_uninterrupted_one(
    ranks: Ranks, tmp_path: Path
) -> None:
    process = command(*TORCHRUN, "--max-restarts", "1", *SMOKE, "--out", tmp_path)
    wait_for(tmp_path / "checkpoint.pt", process)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "exitcode: -9" in said
    resumed = re.search(r"Resuming from .* after (\d) of 2 epochs and (\d) steps", said)
    assert resumed is not None, said
    assert 1 <= int(resumed[2]) < 6
    assert_same_run(tmp_path, ranks.out / IMAGENET)


@pytest.mark.full
def test_torchrun_told_to_stop_saves_and_one_process_goes_on_with_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough to be told in the first epoch: 40 steps of 4.
    out, data = tmp_path / "out", tmp_path / "data"
    make_pictures(data / "train", 160)
    make_pictures(data / "val", 9)
    flags = ["--data", data, "--out", out, "--max-steps", "100"]
    process = command(*TORCHRUN, *SMOKE, *flags)
    wait_for(out / "checkpoint.pt", process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode != 0
    assert said.count("Stopped by signal 15") == 1, said
    state = checkpoint_of(out)
    assert 1 <= state["step"] < 40
    assert state["history"] == []
    assert_one_process_goes_on(out, data, 160, monkeypatch)
