"""What happens to training: signals, killed processes, numbers that are none, other ranks."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from dali_cutmix import EpochSampler, Shard
from harness.evaluation import validate
from harness.monitor import Monitor
from harness.pictures import make_pictures
from harness.processes import Processes
from harness.training import Run
from runs import (
    ON_HARNESS,
    PIPELINES,
    TORCHRUN,
    assert_same_run,
    checkpoint_of,
    command,
    recipe,
    start,
)

IMAGENET = "imagenet_resnet50"
SMOKE = [PIPELINES / f"{IMAGENET}.py", "--smoke", "--checkpoint-minutes", "0", "--resume", "auto"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("two_ranks")
    said = start(*TORCHRUN, *SMOKE, "--out", out)
    assert said.count("epoch 2/2") == said.count("Smoke run finished") == 1
    return out


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def ranks_of(torchrun: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    found = [int(pid) for pid in children]
    return [pid for pid in found if IMAGENET in Path(f"/proc/{pid}/cmdline").read_text()]


def after_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something in this process when a run has made so many steps."""
    step, made = Monitor.step, []

    def noticed(self: Monitor, *arguments: Any) -> None:
        step(self, *arguments)
        made.append(arguments)
        if len(made) == number:
            act()

    monkeypatch.setattr(Monitor, "step", noticed)


def before_validation(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something in this process when the steps of an epoch are made."""
    finish = Run._finish_epoch

    def noticed(self: Run, *arguments: Any) -> None:
        act()
        finish(self, *arguments)

    monkeypatch.setattr(Run, "_finish_epoch", noticed)


def be_told(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# One process


class Stop(NamedTuple):
    """When a run is told to stop: after some steps, or as the validation behind them begins."""

    number: signal.Signals
    steps: int
    in_validation: bool = False


RUNS = [(IMAGENET, ""), (IMAGENET, "modern"), *((n, "") for n in ON_HARNESS if n != IMAGENET)]
# An epoch has three steps.
STOPS = {
    "SIGTERM": Stop(signal.SIGTERM, 2),
    "SIGINT": Stop(signal.SIGINT, 5),
    "validation": Stop(signal.SIGTERM, 3, in_validation=True),
}


def runs_and_stops() -> list[Any]:
    """Return all pairs: all stops of the first run and one of each other run are not ``full``.

    The loop of all runs is that of the harness.
    """
    pairs = []
    for (number, run), (place, (name, stop)) in product(enumerate(RUNS), enumerate(STOPS.items())):
        covered = number == 0 or number % len(STOPS) == place
        marks = () if covered else pytest.mark.full
        pairs.append(pytest.param(run, stop, marks=marks, id="-".join(filter(None, (*run, name)))))
    return pairs


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    """Return module, settings of a smoke run, and output of a recipe's uninterrupted run."""

    @functools.cache
    def run(name: str, preset: str) -> Any:
        module, out = recipe(name), tmp_path_factory.mktemp("straight")
        presets = module.PRESETS
        settings = dataclasses.replace(presets[preset or next(iter(presets))], smoke=True)
        module.main(dataclasses.replace(settings, out=out))
        return module, settings, out

    return run


@pytest.mark.parametrize(("run", "stop"), runs_and_stops())
def test_told_to_stop_saves_exits_with_the_signals_code_and_goes_on_as_if_nothing_had_been(
    straight: Any, run: Any, stop: Stop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, settings, expected = straight(*run)
    settings = dataclasses.replace(settings, out=tmp_path)
    with monkeypatch.context() as patched:
        if stop.in_validation:
            before_validation(patched, be_told(stop.number))
        else:
            after_step(patched, stop.steps, be_told(stop.number))
        with pytest.raises(SystemExit) as stopped:
            module.main(settings)
    assert stopped.value.code == 128 + stop.number
    state = checkpoint_of(tmp_path)
    assert (state["step"], len(state["history"])) == (stop.steps, (stop.steps - 1) // 3)
    if stop.in_validation:
        assert state["row"]["num_train"] > 0  # the epoch is validated on resuming
    else:
        assert state["step_in_epoch"] == stop.steps % 3
    assert not (tmp_path / "results.json").exists()

    module.main(dataclasses.replace(settings, resume="auto"))
    assert (tmp_path / "results.json").exists()
    assert_same_run(tmp_path, expected)


def test_second_interrupt_does_not_wait_for_the_step() -> None:
    processes = Processes("test", torch.device("cpu"))
    with processes.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert processes.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_loss_that_is_no_number_stops_the_run_with_its_batchs_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 is spoilt; it is found with step 2, by when every loss is none."""
    module = recipe(IMAGENET)
    monkeypatch.setattr("harness.monitor.LOOK_EVERY", 3)
    cross_entropy, seen = module.mixed_cross_entropy, []

    def spoilt(logits: torch.Tensor, target: Any, **smoothing: Any) -> torch.Tensor:
        seen.append(len(logits))
        loss: torch.Tensor = cross_entropy(logits, target, **smoothing)
        return loss * float("nan") if len(seen) == 2 else loss

    monkeypatch.setattr(module, "mixed_cross_entropy", spoilt)
    with pytest.raises(SystemExit) as stopped:
        module.main(module.Settings(smoke=True, out=tmp_path))
    said = str(stopped.value)
    assert said.startswith(
        f"{IMAGENET}: the loss of step 1 is nan on rank 0, at a learning rate of"
    )
    assert "Lower `--lr`" in said
    files = said.split(":\n  ")[1].split("\n  ")
    order = EpochSampler(11, shuffle=True, seed=0, shard=Shard(0, 1)).order(0)
    assert [int(Path(file).stem) % 7 for file in files] == [
        int(Path(f).parent.name[-1]) for f in files
    ]
    expected = sorted(
        (f"class_{index % 7}", f"{index:04}.jpg") for index in range(11)
    )  # as a folder is listed
    assert [Path(file).parts[-2:] for file in files] == [expected[i] for i in order[4:8]]
    assert not (tmp_path / "checkpoint.pt").exists()  # none is written of weights that are lost


def test_learning_rate_that_explodes_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    module = recipe(IMAGENET)
    settings = module.Settings(smoke=True, out=tmp_path, checkpoint_minutes=0, lr=1e30)
    with pytest.raises(SystemExit, match=r"is (nan|inf) on rank 0|weights are not finite"):
        module.main(settings)
    state = checkpoint_of(tmp_path)
    assert state["step"] < 3
    # Its weights may be huge, but what follows from it was a number.
    assert all(torch.isfinite(value).all() for value in state["model"].values())


WRITER = """
import sys, torch
from pathlib import Path
from harness.checkpoints import save_checkpoint
path = Path(sys.argv[1])
state = {"step": 1, "weights": torch.arange(20_000_000)}
save_checkpoint(path, state)
print("first", flush=True)
while True:
    save_checkpoint(path, {**state, "step": 2})
"""


def _is_half_written(path: Path) -> bool:
    try:
        return 0 < path.stat().st_size < 100_000_000
    except FileNotFoundError:  # renamed meanwhile
        return False


def test_process_killed_while_it_writes_a_checkpoint_leaves_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for _ in range(3):
        env = {**os.environ, "PYTHONPATH": str(PIPELINES)}
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=env
        )
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"first\n"
            deadline = time.monotonic() + 30
            while not _is_half_written(path.with_suffix(".partial")):
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            writer.kill()
            writer.communicate()
        state = torch.load(path, weights_only=True)
        assert state["step"] in (1, 2)
        assert torch.equal(state["weights"], torch.arange(20_000_000))


# Two processes


def test_two_processes_count_every_validation_sample_exactly_once(
    two_ranks: Path, tmp_path: Path
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
    model.load_state_dict(checkpoint_of(two_ranks)["model"])
    autocast = torch.autocast("cpu", enabled=False)
    alone = validate(model, val, Processes(IMAGENET, cpu), autocast)

    results = json.loads((two_ranks / "results.json").read_text())
    together = results["epochs"][-1]
    assert results["num_processes"] == 2
    assert together["num_val"] == alone["num_val"] == 9
    assert together["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
    assert (together["top1"], together["top5"]) == (alone["top1"], alone["top5"])


def test_rank_that_is_killed_is_brought_back_and_the_run_ends_as_an_uninterrupted_one(
    two_ranks: Path, tmp_path: Path
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
    assert_same_run(tmp_path, two_ranks)


def test_ranks_that_see_different_checkpoints_do_not_train_apart(
    two_ranks: Path, tmp_path: Path
) -> None:
    (tmp_path / "0").mkdir()
    shutil.copy(two_ranks / "checkpoint.pt", tmp_path / "0")
    program = Path(__file__).parents[1] / "trainers" / "apart.py"
    process = command(*TORCHRUN, program, tmp_path)
    said, _ = process.communicate()
    assert process.returncode != 0
    assert "the processes do not see the same checkpoint in" in said, said
    assert not (tmp_path / "1").exists()


def test_torchrun_told_to_stop_saves_and_one_process_goes_on_with_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    # Long enough to be told in the first epoch: 40 steps of 4.
    data = tmp_path / "data"
    module = recipe(IMAGENET)
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
    done = state["step"]
    assert 1 <= done < 40
    assert state["history"] == []

    served: list[int] = []
    step = Monitor.step

    def noted(self: Monitor, loss: torch.Tensor, indices: Any, *others: Any) -> None:
        served.extend(indices)
        step(self, loss, indices, *others)

    monkeypatch.setattr(Monitor, "step", noted)
    settings = module.Settings(
        smoke=True, data=data, out=out, max_steps=100, epochs=1, resume="auto"
    )
    results = module.main(settings)
    whole = EpochSampler(160, shuffle=True, seed=0, shard=Shard(0, 1)).order(0).tolist()
    assert served == whole[4 * done :]
    assert results["epochs"][0]["num_train"] == 160
