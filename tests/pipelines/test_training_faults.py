"""Faults of a training run: signals, killed processes, a loss that is NaN."""

from __future__ import annotations

import dataclasses
import functools
import os
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
from harness.monitor import Monitor
from harness.processes import Processes
from harness.training import Run
from runs import (
    ON_HARNESS,
    PIPELINES,
    assert_same_run,
    checkpoint_of,
    recipe,
)

IMAGENET = "imagenet_resnet50"


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


@pytest.mark.parametrize("_", [0, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2))])
def test_process_killed_while_it_writes_a_checkpoint_leaves_a_whole_one(
    _: int, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
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
