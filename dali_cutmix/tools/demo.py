"""The demo: does CutMix help a small CNN that sees ten images per class, and where?

Trains the same model without and with CutMix through the library's loader, several times each, and
measures it on whole images and on images with a square hidden. Everything runs on the CPU.
"""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import torch
from PIL import Image

from dali_cutmix import CutMix, __version__
from dali_cutmix.contact_sheet import Line, Tile, contact_sheet, draw_tiles, to_pillow
from dali_cutmix.tools.digits import write_digits
from dali_cutmix.tools.trial import Digits, Trial, TrialSettings, load, run_trial, sheet_loader

SIDES = (8, 12, 16, 20)  # of the hiding square, in pixels of 32
HEADLINE = 12  # the one in the tables: 14 % of the image
CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does. The defaults take about a minute on two cores."""

    per_class: int = 10
    """Training images per class."""
    num_runs: int = 5
    """Models trained without a mix, and again with it; seeds count up from ``seed``."""
    seed: int = 0
    """Of the choice of training images, and of the first run."""
    mix: CutMix = field(default_factory=CutMix)
    """What the other half of the models is trained with."""
    trial: TrialSettings = field(default_factory=TrialSettings)
    """How each model is trained."""


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Args:
        settings: As given.
        without: One trial per seed, nothing mixed.
        mixed: One trial per seed, in the same order, with the mix.
        num_val: Number of validation images.
        contact_sheet: A training batch, cuts outlined.
        hidden_sheet: Validation images with the square, and what the first models say.
        seconds: Wall time of everything measured, in s.
        setup: Machine, versions and date, by name.
    """

    settings: DemoSettings
    without: list[Trial]
    mixed: list[Trial]
    num_val: int
    contact_sheet: Image.Image
    hidden_sheet: Image.Image
    seconds: float
    setup: dict[str, str]

    def gains(self, side: int) -> list[float]:
        """Accuracy with the mix less that without, per run, with a square of ``side`` px hidden."""
        pairs = zip(self.without, self.mixed, strict=True)
        return [mixed.accuracy[side] - without.accuracy[side] for without, mixed in pairs]

    @property
    def reading(self) -> str:
        """One sentence that says what the numbers say, and no more."""
        gains, whole = self.gains(HEADLINE), mean(self.gains(0))
        ahead, count = sum(gain > 0 for gain in gains), len(gains)
        points = f"{100 * mean(gains):+.1f} points" + (" on average" if count > 1 else "")
        plain = f"on whole images the mean difference is {100 * whole:+.1f} points"
        if count < 3:
            runs = "one run decides" if count == 1 else f"{count} runs decide"
            return f"Too few runs to tell: {runs} nothing ({points} under occlusion; {plain})."
        if ahead == count:
            return f"CutMix is ahead under occlusion in each of {count} runs, {points}; {plain}."
        if all(gain < 0 for gain in gains):
            return f"CutMix is behind under occlusion in each of {count} runs, {points}; {plain}."
        return (
            f"No clear winner under occlusion: CutMix is ahead in {ahead} of {count} runs, "
            f"{points}; {plain}."
        )


def run_demo(
    folder: Path,
    settings: DemoSettings | None = None,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> Demo:
    """Make the digits, train all models and measure them.

    The result is a function of the settings, speeds aside, on one machine with one set of versions.

    Args:
        folder: Where the folder of JPEG files is written; made when missing.
        settings: What to do; None takes the defaults.
        on_step: Called after each training step with what is being trained, the number of steps
            done and the number of all steps.

    Raises:
        ImportError: scikit-learn or matplotlib is missing; says what to install.
        ValueError: No runs, no epochs, or so many images per class that none is left.
    """
    settings = settings or DemoSettings()
    _check(settings)
    need_extra()
    start = time.perf_counter()
    # Named by what decides its files, so that none is left over from other settings.
    root = folder / f"digits-{settings.per_class}-per-class-seed-{settings.seed}"
    train, val = write_digits(root, per_class=settings.per_class, seed=settings.seed)
    digits = load(train, val, SIDES)
    num_images = 10 * settings.per_class
    per_run = settings.trial.epochs * -(-num_images // settings.trial.batch_size)
    done = 0
    trials: dict[bool, list[Trial]] = {False: [], True: []}
    for number in range(settings.num_runs):
        for mixes in (False, True):
            what = f"{'with CutMix' if mixes else 'without mixing'}, run {number + 1}"

            def step(what: str = what) -> None:
                nonlocal done
                done += 1
                on_step(what, done, 2 * settings.num_runs * per_run)

            mix = settings.mix if mixes else None
            seed = settings.seed + number
            trials[mixes].append(run_trial(digits, mix, seed, settings.trial, step))
    return Demo(
        settings,
        trials[False],
        trials[True],
        len(digits.label),
        _contact_sheet(train, settings),
        _hidden_sheet(digits, trials[False][0], trials[True][0]),
        time.perf_counter() - start,
        describe_setup(),
    )


def need_extra() -> None:
    """Raise ``ImportError``, saying what to install, when a package of the demo is missing."""
    for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"demo: {package} cannot be imported ({error}). Install what the demo needs with "
                "`pip install 'dali-cutmix[demo]'`."
            ) from error


def describe_setup() -> dict[str, str]:
    """Machine, versions and date, for people who read a number."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "Machine": f"{_cpu_name()}, {cpus} CPUs usable, {platform.system()}; no GPU is used",
        "Versions": f"dali_cutmix {__version__}, DALI {_version('nvidia.dali')}, "
        f"torch {torch.__version__}, Python {platform.python_version()}",
        "Date": datetime.date.today().isoformat(),
    }


def _check(settings: DemoSettings) -> None:
    counts = {"num_runs": settings.num_runs, "epochs": settings.trial.epochs}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"demo: `{name}` must be at least 1, got {value}.")
    if settings.seed < 0:
        raise ValueError(f"demo: `seed` must be at least 0, got {settings.seed}.")
    if not 1 <= settings.per_class <= 150:
        rule = "be in [1, 150], so that each class has images to validate with"
        raise ValueError(f"demo: `per_class` must {rule}, got {settings.per_class}.")


def _contact_sheet(train: Path, settings: DemoSettings) -> Image.Image:
    with sheet_loader(train, settings.mix, settings.trial, 12, settings.seed) as loader:
        image, target, plan = next(iter(loader))
    return contact_sheet(image, target, plan, classes=CLASSES, columns=4)


def _hidden_sheet(digits: Digits, without: Trial, mixed: Trial) -> Image.Image:
    """The first validation image of each class, whatever the models make of it."""
    tiles = []
    for digit in range(10):
        index = int((digits.label == digit).int().argmax())
        lines = [Line("digit", CLASSES[digit])]
        for name, trial in (("without", without), ("CutMix", mixed)):
            said = int(trial.predicted[HEADLINE][index])
            lines.append(Line(name, CLASSES[said], accent=said != digit))
        tiles.append(Tile(to_pillow(digits.val[HEADLINE][index]), lines))
    return draw_tiles(tiles, columns=5)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", "of unknown version"))
