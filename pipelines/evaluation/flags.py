"""Define the flags of evaluate.py, and refuse values that are wrong for any model and images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import torch

from evaluation.refusal import NAME, refuse
from harness.checkpoints import check_out

Measure = Literal[
    "classification",
    "occlusion",
    "in_between",
    "attacks",
    "corruptions",
    "outliers",
    "localisation",
    "mixed_cam",
]

#: Names of all measures, in the order of the report.
MEASURES: tuple[str, ...] = get_args(Measure)

#: Measures that read a flag, by the flag's name.
READERS = {
    "groups": ("classification",),
    "baseline": ("corruptions",),
    "other": ("outliers",),
    "boxes": ("localisation",),
    "cam_layer": ("localisation", "mixed_cam"),
}


@dataclass(frozen=True)
class Settings:
    """Hold what is evaluated, on which images, and how."""

    checkpoint: str | None = None
    """Checkpoint of a recipe, `torchvision:NAME`, `timm:NAME`, or one of these two with a file of
    weights, `timm:NAME:FILE`."""

    data: Path | None = None
    """Folder with val/, or folder with one subfolder of images per class. With --smoke, None
    generates pictures."""

    compare: tuple[str, str] | None = None
    """Two to compare: each a checkpoint, the folder of an evaluation, or a folder of folders of
    evaluations. Differences are the second minus the first."""

    measures: tuple[Measure, ...] = ()
    """Measures, in any order. None of them takes all; localisation only where boxes are passed."""

    boxes: Path | None = None
    """Boxes of objects, for localisation: a folder of VOC's XML files, a .json of COCO, or a .csv
    with the columns path, x0, y0, x1, y1."""

    cam_layer: str | None = None
    """Layer that class activation maps show. None takes the last one with a grid of pixels."""

    other: Path | None = None
    """Images of other classes, as `data`, that should be told from those of the model. None takes
    noise alone."""

    groups: Path | None = None
    """A .csv with the columns path and group, for the accuracy of each group of images."""

    baseline: Path | None = None
    """Folder of an evaluation whose errors on corrupted images are the unit of this one's."""

    attack_eps: float = 8 / 255
    """Largest change of a pixel under attack, where 1 is the full range."""

    attack_steps: int = 20
    """Steps of PGD."""

    out: Path | None = None
    """Folder of report.html, report.json and samples.npz. None takes runs/evaluation, or with
    --smoke a folder that is removed at the end."""

    size: int | None = None
    """Side of the model's input in pixels. None takes what the checkpoint says."""

    resize: int | None = None
    """Short side before the centre is cut out, in pixels. None takes what the checkpoint says."""

    mean: tuple[float, float, float] | None = None
    """Mean per channel that the model was trained with, in [0, 1]. None takes the checkpoint's."""

    std: tuple[float, float, float] | None = None
    """Standard deviation per channel, as `mean`."""

    batch_size: int = 64
    """Images that the model sees at a time. Draws of attacks, corruptions and outliers depend on
    this number."""

    max_images: int | None = None
    """Most images, evenly spread over those listed, so that all classes occur. None takes all."""

    workers: int | None = None
    """CPU threads of a loader. None takes one per CPU, at most 8."""

    device: str | None = None
    """Where the model computes, such as cpu or cuda:1. None takes a GPU where there is one."""

    seed: int = 0
    """Seed of all draws."""

    smoke: bool = False
    """Compare two small untrained models on a few pictures. The numbers mean nothing."""

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return self.out or Path("runs/evaluation")

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the measures, in the order of the report."""
        if self.measures:
            return tuple(name for name in MEASURES if name in self.measures)
        return tuple(n for n in MEASURES if n != "localisation" or self.boxes is not None)


def check_flags(settings: Settings) -> None:
    """Refuse flags that contradict each other, and values out of their range.

    Raises:
        SystemExit: With a sentence that names the flag, the value and the way out.
    """
    if settings.checkpoint is None and settings.compare is None:
        refuse("`checkpoint` must be passed, or `--compare A B`, or `--smoke` alone.")
    if settings.checkpoint is not None and settings.compare is not None:
        refuse(
            f"`checkpoint` must not stand beside `--compare A B`, got {settings.checkpoint}. Name "
            "it as A or B, or leave `--compare` out.",
        )
    _check_measures(settings)
    _check_numbers(settings)
    check_out(NAME, settings.folder)
    device_of(settings)


def refuse_unread(settings: Settings) -> None:
    """Refuse flags of measuring where two finished evaluations are compared."""
    default = Settings()
    for flag in (field.name for field in fields(Settings)):
        value = getattr(settings, flag)
        if flag not in ("compare", "out", "seed", "smoke") and value != getattr(default, flag):
            refuse(
                f"`{flag}` must be left out where both sides of `--compare` are evaluations, got "
                f"{value}: nothing is measured anew. Compare checkpoints, or leave "
                f"`--{flag.replace('_', '-')}` out.",
            )


def _check_measures(settings: Settings) -> None:
    """Refuse localisation without boxes, and a flag that no chosen measure reads."""
    if "localisation" in settings.chosen and settings.boxes is None:
        refuse(
            "`boxes` must be passed, since localisation compares maps with boxes of the objects. "
            "Pass `--boxes` with a folder of VOC's XML files, a .json of COCO or a .csv table.",
        )
    for flag, readers in READERS.items():
        if getattr(settings, flag) is not None and not set(readers) & set(settings.chosen):
            option = f"--{flag.replace('_', '-')}"
            refuse(
                f"`{flag}` must stand with {' or '.join(readers)} among `--measures`, got "
                f"{', '.join(settings.chosen)}. Add the measure, or leave `{option}` out.",
            )


def _check_numbers(settings: Settings) -> None:
    """Refuse numbers out of range, but for those of attacks, which the measure checks."""
    least = {"size": 1, "resize": 1, "batch_size": 1, "max_images": 1, "workers": 0}
    for flag, at_least in least.items():
        number = getattr(settings, flag)
        if number is not None and number < at_least:
            option = f"--{flag.replace('_', '-')}"
            refuse(
                f"`{flag}` must be at least {at_least}, got {number}. Leave `{option}` out for the "
                "default.",
            )
    if not 0 <= settings.seed < 2**63:
        refuse(f"`seed` must be at least 0 and below 2**63, got {settings.seed}.")
    if settings.mean is not None and not all(0 <= number <= 1 for number in settings.mean):
        refuse(
            f"`mean` must be in [0, 1], where 1 is the full range, got {settings.mean}. Divide a "
            "mean of pixels of 0 to 255 by 255.",
        )
    if settings.std is not None and not all(0 < number <= 1 for number in settings.std):
        refuse(
            f"`std` must be in (0, 1], where 1 is the full range, got {settings.std}. Divide a "
            "deviation of pixels of 0 to 255 by 255. 1 1 1 divides by nothing.",
        )


def device_of(settings: Settings) -> torch.device:
    """Return the device on which classifiers compute.

    Raises:
        SystemExit: There is no such device, or our loader does not serve it.
    """
    if settings.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    way_out = "Leave `--device` out for a GPU where there is one, else the CPU."
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        refuse(f"`device` must be cpu, cuda or cuda:N, got {settings.device!r}. {way_out}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        refuse(
            f"`device` must be a device of this machine, got {device} with {count} GPUs. {way_out}",
        )
    return device
