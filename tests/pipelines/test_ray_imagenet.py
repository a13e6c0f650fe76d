"""ImageNet under Ray Train: what it asks Ray for, and processes that are really killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist

import ray_imagenet
from dali_cutmix import EpochSampler, Shard
from harness.checkpoints import refuse_other_settings
from harness.pictures import make_shards
from harness.processes import Processes, joined
from harness.settings import RunSettings, as_plain
from harness.training import Training
from runs import PIPELINES, recipe

COMMANDS = re.findall(
    r"pipelines/ray_imagenet\.py([^`\n\\]*(?:\\\n[^`\n]*)?)",
    (ray_imagenet.__doc__ or "") + (PIPELINES / "README.md").read_text(),
)


# What can be checked without Ray


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_header_and_the_readme_are_taken(command: str) -> None:
    words = command.replace("\\", "").split()
    engine, settings = ray_imagenet.from_command_line(words)
    ray_imagenet.refuse_odd(engine)
    taken = {field.name for part in (engine, settings) for field in fields(part)}
    flags = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    assert flags <= taken


def test_there_are_commands_of_both_recipes_and_of_growing_runs() -> None:
    assert len(COMMANDS) >= 5
    for part in ("--recipe imagenet_resnet50", "--processes 8 32", "--cache-dir", "--smoke"):
        assert any(part in command for command in COMMANDS), part


@pytest.mark.parametrize("processes", [(), (3, 2), (1, 2, 3)])
def test_numbers_of_processes_that_make_no_sense_are_refused(processes: tuple[int, ...]) -> None:
    with pytest.raises(SystemExit) as refused:
        ray_imagenet.main(ray_imagenet.Engine(processes=processes), RunSettings())
    assert str(refused.value) == (
        "ray_imagenet: `processes` must be a number, or the least and the most, got "
        f"{' '.join(map(str, processes))}."
    )


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"cannot be imported .*`pip install -e '\.\[ray\]'` in"):
        ray_imagenet.main(ray_imagenet.Engine(), RunSettings())


@pytest.mark.parametrize("resume", [None, "other.pt"])
def test_a_run_that_is_there_is_neither_replaced_nor_resumed_unasked(
    resume: str | None, tmp_path: Path
) -> None:
    (tmp_path / "ray").mkdir()
    with pytest.raises(SystemExit) as refused:
        ray_imagenet.starting(RunSettings(resume=resume), tmp_path)
    assert str(refused.value) == (
        f"ray_imagenet: {tmp_path} holds a run. Pass `--resume auto` to resume, or another `--out`."
    )


def given_to_the_processes(
    monkeypatch: pytest.MonkeyPatch, out: Path, resume: str | None
) -> str | None:
    """Run up to where Ray trains; return the checkpoint that its processes are told."""
    told: list[str | None] = []

    def train(_engine: ray_imagenet.Engine, settings: RunSettings, out: Path) -> dict[str, object]:
        (out / "ray").mkdir(parents=True, exist_ok=True)  # as Ray does before any checkpoint
        told.append(settings.resume)
        return {}

    modules = {name: ModuleType(name) for name in ("ray", "ray.train", "ray.train.torch")}
    modules["ray"].shutdown = lambda: None  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(ray_imagenet, "start_ray", lambda *_: None)
    monkeypatch.setattr(ray_imagenet, "train", train)
    flags = ["--out", str(out), *(["--resume", resume] if resume else [])]
    ray_imagenet.main(*ray_imagenet.from_command_line(flags))
    return told[0]


@pytest.mark.parametrize("first", ["auto", "own", "other"])
def test_a_run_that_ends_before_its_first_checkpoint_starts_where_it_started(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OUT/ray is there then, and holds no checkpoint."""
    out = tmp_path / "out"
    out.mkdir()
    own, other = out / "checkpoint.pt", tmp_path / "other.pt"
    own.touch()
    other.touch()
    start = other if first == "other" else own
    resume = "auto" if first == "auto" else str(start)
    assert given_to_the_processes(monkeypatch, out, resume) == str(start)
    for _ in range(2):
        assert given_to_the_processes(monkeypatch, out, "auto") == str(start)


def test_a_new_run_that_ends_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert given_to_the_processes(monkeypatch, tmp_path / "out", None) is None
    assert given_to_the_processes(monkeypatch, tmp_path / "out", "auto") is None


def test_paths_are_made_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's processes run in another folder than the command."""
    monkeypatch.chdir(tmp_path)
    flags = ["--train", "s3://b/{00..99}.tar", "--val", "shards/*.tar", "--cache-dir", "cache"]
    settings = ray_imagenet.absolute(ray_imagenet.from_command_line(flags)[1])
    assert settings.train == "s3://b/{00..99}.tar"
    assert settings.val == f"{tmp_path}/shards/*.tar"
    assert settings.cache_dir == tmp_path / "cache"
    assert settings.data is None


def test_smoke_run_has_the_same_pictures_for_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = recipe("imagenet_shards_resnet50")
    for count in (1, 3):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(count))
        folder = tmp_path / str(count)
        settings = ray_imagenet.shrink(module, module.Settings(smoke=True), folder)
        train, _ = module.find_shards(settings, tmp_path)
        assert (len(train), settings.batch_size, settings.max_steps) == (240, 12, None)


@pytest.mark.parametrize(
    ("asked", "count", "accumulate", "taken"),
    [(256, 8, 1, 256), (256, 24, 1, 240), (256, 6, 4, 240), (4, 5, 1, 4)],
)
def test_steps_are_smaller_by_what_does_not_divide(
    asked: int, count: int, accumulate: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four samples for five processes nothing would be left, and the recipe refuses them."""
    monkeypatch.setattr(Shard, "current", lambda: Shard(0, count))
    processes = Processes("test", torch.device("cpu"))
    settings = RunSettings(batch_size=asked, accumulate=accumulate)
    assert ray_imagenet.divisible(settings, processes) == taken


def test_a_resumed_run_may_have_other_processes_and_no_other_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-epoch: 10 samples per step are 5 for each of two processes, 3 for each of three."""
    module = recipe("imagenet_shards_resnet50")
    for part, count in (("train", 24), ("val", 8)):
        make_shards(tmp_path / part, count)
    asked = module.shrink(module.Settings(data=tmp_path, smoke=True, workers=1))
    asked = dataclasses.replace(asked, batch_size=10)

    def made(settings: RunSettings, count: int, rank: int) -> Training:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(count))
        processes = Processes("test", torch.device("cpu"))
        return ray_imagenet.made_for(module, settings, processes, tmp_path)

    before = made(asked, 2, 0)
    served = []
    with contextlib.closing(before.train(32)) as loader:
        next(iter(loader))
        state = loader.state_dict()
    for rank in (0, 1):  # one step
        order = EpochSampler(24, shuffle=True, seed=0, shard=Shard(rank, 2)).order(0)
        served += order[:5].tolist()
    for rank in (0, 1, 2):
        after = made(asked, 3, rank)
        refuse_other_settings("test", tmp_path, after.settings, as_plain(before.settings))
        with contextlib.closing(after.train(32)) as loader:
            loader.load_state_dict(state)
            batches = [loader.batch_indices for _ in loader]
        assert max(map(len, batches)) == 3
        served += [index for batch in batches for index in batch]
    assert set(served) == set(range(24))
    other = made(dataclasses.replace(asked, batch_size=20), 2, 0)
    with pytest.raises(SystemExit, match=r"`batch_size` must be 10 to resume from .*, got 20\."):
        refuse_other_settings(
            "test", tmp_path, other.settings, as_plain(before.settings), other.free_to_change
        )


# What the recipes and their harness do for other engines


def test_shards_are_read_in_windows_and_through_a_cache_where_asked(tmp_path: Path) -> None:
    module = recipe("imagenet_shards_resnet50")
    make_shards(tmp_path / "train", 12)
    make_shards(tmp_path / "val", 12)
    few = {"smoke": True, "data": tmp_path, "workers": 1}
    for window, shuffle in ((None, True), (1, "shards")):
        settings = module.Settings(**few, window=window, cache_dir=tmp_path / "cache", batch_size=4)
        train, _ = module.find_shards(settings, tmp_path)
        assert (tmp_path / "cache").is_dir()  # as a cache makes it, which local shards leave empty
        loader = module.make_train_loader(settings, train, torch.device("cpu"), 32)
        whole = EpochSampler(len(train), shuffle=True, seed=0, shard=Shard(0, 1)).order(0)
        with contextlib.closing(loader):
            served = [index for _ in loader for index in loader.batch_indices]
        assert sorted(served) == list(range(12))
        assert (served == whole.tolist()) == (shuffle is True)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """A process group that an engine made before the recipe runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    dist.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_a_process_group_of_another_engine_is_joined_and_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")  # as Ray sets it
    with joined("test", torch.device("cpu")) as processes:
        assert (processes.rank, processes.count) == (0, 1)
        assert processes.collect(["here"]) == ["here"]
    assert dist.is_initialized()


def test_outside_the_main_thread_signals_keep_their_handlers() -> None:
    before, during, errors = signal.getsignal(signal.SIGTERM), [], []

    def work() -> None:
        try:
            with joined("test", torch.device("cpu")) as processes, processes.listening():
                during.append(signal.getsignal(signal.SIGTERM))
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (during, errors) == ([before], [])


# Ray itself

#: Seconds that the run's two programs may take together, and those in which one has to end.
MOST_S, END_S = 280.0, 10.0


@dataclass(frozen=True)
class Step:
    """What one process trained on in one step."""

    attempt: int  # the port at which its processes met
    pid: int
    rank: int
    count: int
    number: int  # over all epochs
    epoch: int
    indices: list[int]


def steps_of(log: Path) -> list[Step]:
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [[int(word) for word in line.split()] for line in lines]
    return [Step(*row[:6], row[6:]) for row in rows]


def lasting(steps: list[Step]) -> list[Step]:
    """Steps that the last checkpoint rests on: not those that a restart made once more."""
    attempts: dict[int, list[Step]] = {}
    for step in steps:
        attempts.setdefault(step.attempt, []).append(step)
    kept: list[Step] = []
    for attempt in attempts.values():
        start = min(step.number for step in attempt)
        kept = [step for step in kept if step.number < start] + attempt
    return kept


class Driver:
    """A run, as a program of its own; what it prints goes to a file.

    Whoever waits for it fails with what it printed once ``until_s`` of the monotonic clock is over.
    """

    def __init__(self, folder: Path, count: int, until_s: float, *flags: str) -> None:
        self.until_s = until_s
        self.log, self.said = folder / "log", folder / f"said by {count}"
        program = Path(__file__).with_name("ray_watched.py")
        words = ["--processes", str(count), "--smoke", "--checkpoint-minutes", "0.02", *flags]
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join([str(PIPELINES), os.environ.get("PYTHONPATH", "")]),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        }
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(program), str(self.log), *words],
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        self.count = count

    def wait_for(self, number: int) -> None:
        """Wait until each of the processes has made a step."""
        while sum((s.count, s.number) == (self.count, number) for s in steps_of(self.log)) != (
            self.count
        ):
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < self.until_s, self.so_far(f"made step {number}")
            time.sleep(0.05)

    def end(self) -> int:
        """Wait until the program ends; return its exit code."""
        try:
            return self.process.wait(max(0.0, self.until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(self.so_far("ended"))

    def so_far(self, awaited: str) -> str:
        return f"has not {awaited} in time:\n{self.said.read_text()}"

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()  # `kill` would leave Ray's processes behind
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.mark.full  # minutes, of which Ray takes most to start processes three times
def test_processes_are_killed_replaced_and_become_fewer_and_each_image_trains_once_per_epoch(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray.train", reason="Ray Train is not for this Python")
    out, data = tmp_path / "out", tmp_path / "data"
    make_shards(data / "train", 96)
    make_shards(data / "val", 9)
    flags = ["--data", str(data), "--out", str(out), "--epochs", "2"]
    until_s = time.monotonic() + MOST_S

    with Driver(tmp_path, 2, until_s, *flags) as run:
        run.wait_for(3)
        killed = next(step.pid for step in steps_of(run.log) if step.rank == 1)
        os.kill(killed, signal.SIGKILL)
        run.wait_for(11)
        run.process.send_signal(signal.SIGINT)  # interrupted; the next one resumes
        assert run.end() != 0
    said = run.said.read_text()
    assert "Worker unexpectedly exits" in said
    assert re.search(r"Resuming from .*, after 0 of 2 epochs and [123] steps\.", said), said
    assert killed not in {step.pid for step in steps_of(run.log) if step.number > 4}

    with Driver(tmp_path, 1, until_s, *flags, "--resume", "auto") as run:
        assert run.end() == 0, run.said.read_text()
    said = run.said.read_text()
    assert re.search(r"Resuming from .*, after 1 of 2 epochs and (8|9|1\d) steps\.", said), said

    steps = lasting(steps_of(run.log))
    assert {step.count for step in steps if step.epoch == 1} == {2}
    assert {step.count for step in steps if step.epoch == 2} >= {1}
    for epoch in (1, 2):
        served = [index for step in steps if step.epoch == epoch for index in step.indices]
        assert sorted(served) == list(range(96))
    for rank in (0, 1):  # of the first epoch, which a kill interrupted
        order = EpochSampler(96, shuffle=True, seed=0, shard=Shard(rank, 2)).order(0)
        mine = [step.indices for step in steps if (step.epoch, step.rank) == (1, rank)]
        assert [index for step in mine for index in step] == order.tolist()

    results = json.loads((out / "results.json").read_text())
    assert [row["num_train"] for row in results["epochs"]] == [96, 96]
    assert results["num_processes"] == 1
    assert {path.name for path in out.iterdir()} == {
        "checkpoint.pt",
        "first_batch.png",
        "results.json",
        "tensorboard",
    }
