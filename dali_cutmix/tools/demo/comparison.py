"""Compare models trained without and with CutMix: does it help a small CNN, and where?

The models see ten images per class, through the library's loader. They are measured on whole images
and on images with a square hidden. Everything runs on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from PIL import Image

from dali_cutmix import CutMix, __version__
from dali_cutmix.core.extras import import_extra
from dali_cutmix.pictures.contact_sheet import contact_sheet
from dali_cutmix.pictures.tiles import INK, OTHER, Line, Tile, draw_tiles, to_pillow
from dali_cutmix.tools.bench.machine import describe_machine
from dali_cutmix.tools.demo.digits import write_digits
from dali_cutmix.tools.demo.trial import (
    Digits,
    Trial,
    TrialSettings,
    load,
    run_trial,
    sheet_loader,
)

#: Pixels of 32: sides of the square that hides a part of each image.
SIDES = (8, 12, 16, 20)
#: Pixels of 32: the side in the tables. The square covers 14 % of the image.
HEADLINE = 12
CLASSES = tuple("0123456789")
#: Training images of each class.
PER_CLASS = 10
#: Mix of the second half of the models.
MIX = CutMix()


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo. The defaults take one to three minutes on two cores."""

    num_runs: int = 5
    """Models trained without a mix, and again with it. Seeds count up from ``seed``."""
    seed: int = 0
    """Seed of the choice of training images, and of the first run."""
    trial: TrialSettings = field(default_factory=TrialSettings)
    """How each model is trained."""


@dataclass(frozen=True)
class Comparison:
    """Hold what the demo measured.

    Args:
        settings: Settings of the demo.
        without: One trial per seed, nothing mixed.
        mixed: One trial per seed, in the same order, with the mix.
        num_val: Number of validation images.
        contact_sheet: A training batch, cuts outlined.
        hidden_sheet: Validation images with the square, and the answers of the first two models.
        seconds: Wall time of the demo in s.
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
        """Return accuracy with the mix minus accuracy without, per run.

        Args:
            side: Side of the hiding square in pixels: 0, or one of `SIDES`.
        """
        pairs = zip(self.without, self.mixed, strict=True)
        return [mixed.accuracy[side] - without.accuracy[side] for without, mixed in pairs]

    @property
    def reading(self) -> str:
        """Return one sentence that says what the numbers say, and no more."""
        gains, gain_on_whole_images = self.gains(HEADLINE), mean(self.gains(0))
        num_ahead, num_runs = sum(gain > 0 for gain in gains), len(gains)
        points = f"{_in_points(mean(gains))} points" + (" on average" if num_runs > 1 else "")
        difference = f"{_in_points(gain_on_whole_images)} points"
        on_whole_images = f"on whole images the mean difference is {difference}"
        if num_runs < 3:
            runs = "one run decides" if num_runs == 1 else f"{num_runs} runs decide"
            in_brackets = f"{points} under occlusion; {on_whole_images}"
            return f"Too few runs to tell: {runs} nothing ({in_brackets}; {self._calibration})."
        if num_ahead == num_runs:
            outcome = f"CutMix is ahead under occlusion in each of {num_runs} runs"
        elif all(gain < 0 for gain in gains):
            outcome = f"CutMix is behind under occlusion in each of {num_runs} runs"
        else:
            ahead = f"CutMix is ahead in {num_ahead} of {num_runs} runs"
            outcome = f"No clear winner under occlusion: {ahead}"
        return f"{outcome}, {points}; {on_whole_images}; {self._calibration}."

    @property
    def _calibration(self) -> str:
        trials = (self.without, self.mixed)
        before, after = (mean(t.calibration_error[HEADLINE] for t in group) for group in trials)
        before, after = round(before, 3), round(after, 3)  # so that the verb is of what is printed
        if before == after:
            return f"calibration error under occlusion stays at {after:.3f}"
        verb = "rises" if after > before else "falls"
        return f"calibration error under occlusion {verb} from {before:.3f} to {after:.3f}"


def _in_points(share: float) -> str:
    """Write a difference of shares in points with one decimal, and its sign; 0 is "+0.0"."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # -0.0 + 0.0 is 0.0


def compare(
    folder: Path,
    settings: DemoSettings | None = None,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> Comparison:
    """Write the digits, train all models and measure them.

    Apart from speeds, the result is a function of the settings on one machine with one set of
    versions.

    Args:
        folder: Folder for the JPEG files, made when missing.
        settings: Settings of the demo. None takes the defaults.
        on_step: Called after each training step with the name of the model, the number of steps
            done and the number of all steps.

    Raises:
        ImportError: scikit-learn or matplotlib is missing. Says what to install.
    """
    settings = settings or DemoSettings()
    require_packages()
    start = time.perf_counter()
    # Named by the settings that decide its files, so that no file of other settings is left over.
    root = folder / f"digits-{PER_CLASS}-per-class-seed-{settings.seed}"
    train, val = write_digits(root, per_class=PER_CLASS, seed=settings.seed)
    digits = load(train, val, SIDES)
    steps_per_run = settings.trial.epochs * -(-10 * PER_CLASS // settings.trial.batch_size)
    num_done = 0
    trials: dict[bool, list[Trial]] = {False: [], True: []}
    for number in range(settings.num_runs):
        for is_mixed in (False, True):
            model = f"{'with CutMix' if is_mixed else 'without mixing'}, run {number + 1}"

            def step(model: str = model) -> None:
                nonlocal num_done
                num_done += 1
                on_step(model, num_done, 2 * settings.num_runs * steps_per_run)

            mix = MIX if is_mixed else None
            seed = settings.seed + number
            trials[is_mixed].append(run_trial(digits, mix, seed, settings.trial, step))
    return Comparison(
        settings,
        trials[False],
        trials[True],
        len(digits.label),
        _contact_sheet(train, settings),
        _hidden_sheet(digits, trials[False][0], trials[True][0]),
        time.perf_counter() - start,
        describe_setup(),
    )


def require_packages() -> None:
    """Refuse to run without the demo's packages.

    Raises:
        ImportError: Names the missing package, and says what to install.
    """
    for module in ("sklearn", "matplotlib"):
        import_extra("demo", module, extra="demo")


def describe_setup() -> dict[str, str]:
    """Return machine, versions and date, for readers of the numbers."""
    machine = describe_machine()
    versions = {"dali_cutmix": __version__, **machine["versions"]}
    return {
        "Machine": "{cpu}, {cores} CPUs usable, {os}; no GPU is used".format_map(machine),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Date": machine["date"],
    }


def _contact_sheet(train: Path, settings: DemoSettings) -> Image.Image:
    with sheet_loader(train, MIX, settings.trial, 12, settings.seed) as loader:
        image, target, plan = next(iter(loader))
    return contact_sheet(image, target, plan, classes=CLASSES, columns=4)


def _hidden_sheet(digits: Digits, without: Trial, mixed: Trial) -> Image.Image:
    """Draw the first validation image of each class, whatever the models answer."""
    tiles = []
    for digit in range(10):
        index = int((digits.label == digit).int().argmax())
        lines = [Line("digit", CLASSES[digit])]
        for name, trial in (("without", without), ("CutMix", mixed)):
            answer = int(trial.predicted[HEADLINE][index])
            colour = INK if answer == digit else OTHER
            lines.append(Line(name, CLASSES[answer], colour))
        tiles.append(Tile(to_pillow(digits.val[HEADLINE][index]), lines))
    return draw_tiles(tiles, columns=5)
