r"""ImageNet under Ray Train: either ImageNet recipe, by processes that Ray starts and replaces.

Expect: what the recipe expects; not yet run on ImageNet or on a GPU. Ray 2.60 has run this on the
CPUs of one machine: processes killed, replaced, and resumed with more or fewer than before.

Run, with the flags of the recipe behind those of Ray. --out is on a disk that all machines see:

    pip install -e '.[pipelines,ray]'
    python pipelines/ray_imagenet.py --processes 8 --gpu --data DIR --out DISK_THAT_ALL_SEE
    python pipelines/ray_imagenet.py --recipe imagenet_resnet50 --processes 8 --gpu --data DIR
    python pipelines/ray_imagenet.py --address auto --processes 8 32 --gpu --out DISK_THAT_ALL_SEE \
        --train s3://B/{0000..1023}.tar --val s3://B/val.tar --cache-dir /local/cache --window 16

The baseline is one flag away: --mix none. To see all parts work on generated shards, in a minute on
two slow cores:

    python pipelines/ray_imagenet.py --smoke --processes 2

--address auto joins the cluster of `ray start`; without it this program starts Ray on this machine,
and ends it. Every machine has this checkout at the same path.

Follows: imagenet_shards_resnet50.py or imagenet_resnet50.py, whose loaders, model and loop these
are. Rank and number of processes reach the loader through torch.distributed.

- Each checkpoint of the loop is reported to Ray, which keeps the last two in OUT/ray.
- A process that dies ends the others too. Ray starts all of them anew, up to --max-failures times,
  and they resume in mid-epoch: each image that was left of the epoch comes once.
- --processes 8 32 starts with what there is, at least 8. Ray looks each minute for more machines,
  and restarts from the last checkpoint when some have come, says Ray; not yet tried here. Tried was
  --resume auto with another number.
- At the end OUT holds what the recipe leaves without Ray, and OUT/ray is removed.

Differs:

- with a number of processes that does not divide --batch-size, steps are smaller by the rest, and
  the run says so; results.json has the size that was asked for;
- signals are not noted: whatever ends or resizes a run, it loses the steps since the last of its
  --checkpoint-minutes;
- an error that comes again in each attempt is met --max-failures times more;
- with repeated images, as in --preset modern, another number of processes needs an epoch's end.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro

from harness.checkpoints import check_out, find_checkpoint
from harness.pictures import make_pictures, make_shards
from harness.processes import SMOKE_FINISHED, Processes, joined, refuse_several, stop
from harness.ranges import Checked, Count, Positive, at_least
from harness.settings import RunSettings, parse
from harness.training import Training, train_once

NAME = "ray_imagenet"

# ---------------------------------------------------------------------------------------- settings

Settings = TypeVar("Settings", bound=RunSettings)


@dataclass(frozen=True)
class Engine(Checked):
    """Hold what Ray is asked for. Every other flag goes to the recipe, whose --help lists them."""

    recipe: Literal["imagenet_shards_resnet50", "imagenet_resnet50"] = "imagenet_shards_resnet50"
    """What to train: from shards, or from folders of images."""

    processes: tuple[Count, ...] = (1,)
    """Processes that train: their number, or the least and the most."""

    gpu: bool = False
    """Give each process a GPU of its own; without this flag processes compute on CPUs."""

    cpus: Positive = 1
    """CPUs that Ray sets aside for each process. Ray counts them, and pins nothing."""

    max_failures: Annotated[int, at_least(-1)] = 3
    """Restarts after processes that died; -1 restarts for ever."""

    look_s: Positive = 60.0
    """Seconds between two looks for machines that have come, with two numbers of `processes`."""

    address: str | None = None
    """Cluster to join: "auto", or the address of its head. None starts Ray on this machine."""


def refuse_odd(engine: Engine) -> None:
    """Stop where the numbers of processes make no sense."""
    count = len(engine.processes)
    if count not in (1, 2) or engine.processes[0] > engine.processes[-1]:
        stop(
            NAME,
            "`processes` must be a number, or the least and the most, got "
            f"{' '.join(map(str, engine.processes))}.",
        )


def absolute(settings: Settings) -> Settings:
    """Return settings with absolute paths, since Ray's processes run in a folder of their own."""
    paths = {
        field.name: Path(os.path.abspath(value.expanduser()))
        for field in dataclasses.fields(settings)
        if isinstance(value := getattr(settings, field.name), Path)
    }
    shards = {
        name: os.path.abspath(os.path.expanduser(value))
        for name in ("train", "val")
        if (value := getattr(settings, name, None)) is not None and "://" not in value
    }
    return dataclasses.replace(settings, **paths, **shards)


def shrink(recipe: ModuleType, settings: Settings, folder: Path) -> Settings:
    """Return the settings of the smoke run, on pictures that are generated into a folder.

    They are the same for any number of processes, unlike those of the recipe's own smoke run.
    """
    if settings.data is None and not folder.exists():
        partial_folder = folder.with_suffix(".partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        make = make_shards if "shards" in recipe.NAME else make_pictures
        make(partial_folder / "train", 240)
        make(partial_folder / "val", 40)
        os.replace(partial_folder, folder)
    small = recipe.shrink(settings)
    limits = {"batch_size": 12, "max_steps": settings.max_steps}
    return dataclasses.replace(small, data=settings.data or folder, **limits)


# ------------------------------------------------------------------------------------- one process


def divisible(settings: RunSettings, processes: Processes) -> int:
    """Return the batch size less what does not divide by the processes, whose number may change."""
    parts = processes.count * settings.accumulate
    rest = settings.batch_size % parts
    if not rest or rest == settings.batch_size:  # the recipe refuses the latter
        return settings.batch_size
    processes.say(
        f"Steps of {settings.batch_size - rest} samples: {settings.batch_size} does not divide by "
        f"{parts}, the processes times `accumulate`."
    )
    return settings.batch_size - rest


def made_for(
    recipe: ModuleType, settings: RunSettings, processes: Processes, temporary: Path
) -> Training:
    """Return what the recipe trains, with steps that divide by the processes.

    Checkpoints and results hold the batch size that was asked for, so that another number of
    processes may resume, and another batch size may not.
    """
    taken = dataclasses.replace(settings, batch_size=divisible(settings, processes))
    training: Training = recipe.make_training(taken, processes, temporary)
    return dataclasses.replace(training, settings=settings)


def train_worker(asked: dict[str, Any]) -> dict[str, Any]:
    """Train in one of Ray's processes, from the last checkpoint on; return the run's results."""
    import ray.train.torch
    from ray.train import Checkpoint

    recipe = importlib.import_module(asked["recipe"])
    settings: RunSettings = pickle.loads(asked["settings"])
    # Where Ray set no GPU aside, it would name the first of the machine all the same.
    device = ray.train.torch.get_device() if asked["gpu"] else torch.device("cpu")
    with ExitStack() as stack:
        processes = stack.enter_context(joined(NAME, device))
        # In Ray's own folder, which ends with Ray: a killed process cannot remove anything.
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        out, last = temporary / "out", ray.train.get_checkpoint()
        if last is not None:
            folder = Path(stack.enter_context(last.as_directory()))
            settings = dataclasses.replace(settings, resume=str(folder / "checkpoint.pt"))
            if processes.is_first:  # for TensorBoard's files, which go on
                shutil.copytree(folder, out)
        settings = dataclasses.replace(settings, out=out)

        def report(numbers: dict[str, float]) -> None:
            kept = Checkpoint.from_directory(out) if processes.is_first else None
            ray.train.report(numbers, checkpoint=kept)

        def make() -> Training:
            return made_for(recipe, settings, processes, temporary)

        results = train_once(settings, processes, out, make, report)
        report({})  # once more, with results.json
        if settings.smoke:
            processes.say(SMOKE_FINISHED)
        return results


# ------------------------------------------------------------------------------------- all of them


def starting(settings: Settings, out: Path) -> Settings:
    """Return settings whose `resume` is the checkpoint to train from as long as Ray keeps none.

    A run that is killed before its first checkpoint starts from the same checkpoint again. One of
    another folder than ``out`` is noted in OUT/ray/start.
    """
    folder = out / "ray"
    if folder.exists() and settings.resume != "auto":
        stop(NAME, f"{out} holds a run. Pass `--resume auto` to resume, or another `--out`.")
    if (folder / "start").exists():
        return dataclasses.replace(settings, resume=(folder / "start").read_text())
    start = find_checkpoint(NAME, settings, out)
    resume = None if start is None else os.path.abspath(start)
    if resume is not None and settings.resume != "auto":
        partial_folder = folder.with_suffix(".partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        (partial_folder / "start").write_text(resume)
        os.replace(partial_folder, folder)
    return dataclasses.replace(settings, resume=resume)


def start_ray(engine: Engine, folder: Path) -> None:
    """Join the cluster, or start Ray on this machine with its files in ``folder``."""
    import ray

    if engine.address is not None:
        ray.init(address=engine.address)
        return

    # Inside a function, so that Ray's processes need not import this module, which takes seconds.
    def hush() -> None:
        """Silence a warning that comes each second where Ray has no dashboard to ask."""
        of = "ray.train.v2._internal.execution.controller.placement_group_cleaner"
        logging.getLogger(of).setLevel(logging.ERROR)

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would give way to all other work of the machine: its processes have a niceness of 15.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        num_cpus=-(-engine.processes[-1] * engine.cpus // 1),
        include_dashboard=False,
        object_store_memory=80 * 2**20,  # bytes, the least: nothing large is an object here
        runtime_env={"worker_process_setup_hook": hush},
        _temp_dir=str(folder),
    )


def train(engine: Engine, settings: RunSettings, out: Path) -> dict[str, Any]:
    """Train under Ray, which has been started, and leave in ``out`` what the recipe leaves."""
    import ray.train
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    low, high = engine.processes[0], engine.processes[-1]
    resources = {"CPU": engine.cpus} | ({"GPU": 1} if engine.gpu else {})
    # As bytes, so that Ray's controller need not import the recipe, which takes seconds.
    asked = {
        "recipe": engine.recipe,
        "settings": pickle.dumps(settings),
        "gpu": engine.gpu,
    }
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=asked,
        scaling_config=ScalingConfig(
            num_workers=high if low == high else (low, high),
            use_gpu=engine.gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=engine.look_s,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(out),
            failure_config=FailureConfig(max_failures=engine.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        stop(NAME, f"the run ended: {error}\nAdd `--resume auto` to resume from {out / 'ray'}.")
    if result.return_value is None:
        stop(NAME, f"interrupted. Add `--resume auto` to resume from {out / 'ray'}.")
    result.checkpoint.to_directory(out)
    remove_rays_folder(out)
    return result.return_value


def remove_rays_folder(out: Path) -> None:
    """Remove ``out / "ray"``, of which a killed program leaves all or nothing."""
    # Half of it would pass for a run that Ray kept no checkpoint of.
    over = out / "ray.over"
    shutil.rmtree(over, ignore_errors=True)
    os.replace(out / "ray", over)
    shutil.rmtree(over)


def main(engine: Engine, settings: RunSettings) -> dict[str, Any]:
    """Train, validate and save; return what results.json holds."""
    refuse_several(NAME)
    refuse_odd(engine)
    try:
        import ray.train.torch
    except ImportError as error:
        way_out = "Install it with `pip install -e '.[ray]'` in the checkout."
        stop(NAME, f"Ray Train cannot be imported ({error}). {way_out}")
    recipe = importlib.import_module(engine.recipe)
    if hasattr(recipe, "check"):
        recipe.check(settings)
    with ExitStack() as stack:
        # Ray's sockets lie there, and their paths must be short.
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="ray")))
        out = settings.out or (temporary / "out" if settings.smoke else Path("runs", NAME))
        settings = absolute(dataclasses.replace(settings, out=out))
        assert settings.out is not None
        check_out(NAME, settings.out)
        if settings.smoke:
            settings = shrink(recipe, settings, settings.out / "pictures")
        settings = starting(settings, settings.out)
        start_ray(engine, temporary / "ray")
        try:
            return train(engine, settings, settings.out)
        finally:
            ray.shutdown()


def from_command_line(words: list[str]) -> tuple[Engine, RunSettings]:
    """Return what Ray is asked for, and the recipe's settings, of the words behind a command."""
    engine, rest = tyro.cli(Engine, args=words, description=__doc__, return_unknown_args=True)
    return engine, parse(importlib.import_module(engine.recipe).PRESETS, rest)


if __name__ == "__main__":
    main(*from_command_line(sys.argv[1:]))
