"""Several trainings that differ by their seeds, and the file that holds the numbers of all."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness.checkpoints import check_out, refuse_other_samples, refuse_other_settings
from harness.processes import Processes, joined
from harness.ranges import Count
from harness.results import RESULTS, finish, refuse_results
from harness.settings import RunSettings
from harness.training import Training, train_once


@dataclass(frozen=True)
class SeedSettings(RunSettings):
    """Hold what several trainings of one recipe depend on."""

    resume: str | None = None
    """"auto" resumes from what the output folder holds: finished trainings are kept, and the
    interrupted one goes on. None starts anew, and refuses an output folder that holds a run."""

    seeds: Count = 3
    """Trainings, with the seeds `seed`, `seed` + 1 and so on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume not in (None, "auto"):
            raise SystemExit(f"`resume` must be 'auto' or left out, got {self.resume!r}.")


Settings = TypeVar("Settings", bound=SeedSettings)


def run_seeds(
    name: str,
    settings: Settings,
    find: Callable[[Settings, Path], Path],
    make: Callable[[Settings, Path, Processes], Training],
    numbers: Sequence[str],
) -> dict[str, Any]:
    """Train with each seed, and write what all trainings reached.

    The output folder gets a folder per seed, with what a run leaves, and results.json: each number
    at the end of each training, with mean and deviation.

    Args:
        name: Name of the recipe.
        settings: Settings of the trainings; ``seed`` is the first.
        find: Function from the settings, and a folder that is removed at the end, to the folder of
            the data. A smoke run may generate them there.
        make: Function from the settings of a training, the folder of the data, and the processes,
            to what is trained. Torch is seeded before.
        numbers: Names of the numbers, as the `Training` measures them. The first is printed.

    Returns:
        The content of results.json.
    """
    with tempfile.TemporaryDirectory() as temporary, joined(name) as processes:
        out = settings.out or (Path(temporary, "out") if settings.smoke else Path(f"runs/{name}"))
        check_out(name, out)
        if settings.resume is None:
            refuse_results(name, out)
        data = find(settings, Path(temporary))
        runs = []
        for seed in range(settings.seed, settings.seed + settings.seeds):
            of_seed = dataclasses.replace(settings, seed=seed, out=out / str(seed))
            make_seed = partial(make, of_seed, data, processes)
            results = finished(name, of_seed, make_seed)
            if results is None:
                if settings.seeds > 1:
                    processes.say(f"seed {seed}")
                results = train_once(of_seed, processes, out / str(seed), make_seed)
            runs.append(results)
        last = [run["epochs"][-1] for run in runs]
        # Files hold None for NaN.
        values = {
            number: [math.nan if row[number] is None else row[number] for row in last]
            for number in numbers
        }
        processes.say(
            f"{numbers[0]} {statistics.mean(values[numbers[0]]):.4g}, mean of {settings.seeds} "
            f"{'seeds' if settings.seeds > 1 else 'seed'}"
        )
        if not processes.is_first:
            return {}
        return finish(name, settings, out, values, [{"epochs": run["epochs"]} for run in runs])


def finished(
    name: str, settings: SeedSettings, make: Callable[[], Training]
) -> dict[str, Any] | None:
    """Return what a training left at its end, or None where the training has to run.

    Args:
        name: Name of the recipe.
        settings: Settings of the training.
        make: Function that returns what would be trained. The data are compared with those of the
            results.
    """
    assert settings.out is not None
    path = settings.out / RESULTS
    if settings.resume is None or not path.exists():
        return None
    results: dict[str, Any] = json.loads(path.read_text())
    refuse_other_settings(name, path, settings, results["settings"])
    if "samples" in results:  # older results do not tell
        _refuse_other_data(name, path, results["samples"], make())
    return results


def _refuse_other_data(
    name: str, path: Path, samples: Mapping[str, Any], training: Training
) -> None:
    loader = training.train(0 if training.size is None else training.size(0))
    refuse_other_samples(name, path, loader.state_dict(), samples)
    for opened in (loader, training.val, *training.tests):
        opened.close()
