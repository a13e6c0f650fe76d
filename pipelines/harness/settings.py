"""Settings that recipes share, and how they become flags."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from harness.ranges import Amount, Checked, Count, CountOrZero, Positive, Seed


@dataclass(frozen=True)
class DataSettings(Checked):
    """Hold the settings of every recipe: data, output folder, smoke run."""

    data: Path | None = None
    """Folder with train/ and val/, each an ImageFolder root. With --smoke, None generates
    pictures."""

    out: Path | None = None
    """Folder of results.json and whatever else the run leaves, on a disk that all processes see.
    None takes runs/ and the recipe's name, or with --smoke a folder that is removed at the end."""

    smoke: bool = False
    """Shrink everything until a run takes seconds. The numbers mean nothing."""


@dataclass(frozen=True)
class PresetSettings(DataSettings):
    """Hold the settings of recipes with presets."""

    preset: str = ""
    """Set of defaults that the other flags change."""


@dataclass(frozen=True)
class RunSettings(PresetSettings):
    """Hold what a run of the loop depends on."""

    resume: str | None = None
    """Checkpoint to resume from: a path, or "auto" for the output folder's if it exists. None
    starts a new run. A path or None refuses an output folder that holds another checkpoint."""

    epochs: Count = 90
    """Passes over the training data."""

    batch_size: Count = 256
    """Samples per step of the optimizer, over all processes together."""

    accumulate: Count = 1
    """Parts into which a process divides its share of a step, to need less memory."""

    clip_norm: Positive | None = None
    """Largest norm of all gradients together; None does not clip."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the forward pass. "auto" is bfloat16 autocast on a GPU and float32 on a CPU."""

    compile: bool = False
    """Train through torch.compile: minutes at the start, then faster steps."""

    checkpoint_minutes: Amount = 30.0
    """Minutes between two checkpoints in mid-epoch. 0 saves after each step."""

    max_steps: Count | None = None
    """Most steps of an epoch, and most batches of a validation. None takes all."""

    workers: CountOrZero | None = None
    """CPU threads per loader and process. None takes the tuning's, or one per CPU, at most 8."""

    tuning: Path | None = None
    """File that `dali-cutmix tune` wrote on this machine."""

    seed: Seed = 0
    """Seed of initial weights, order, crops and mixing."""


#: Settings that a resumed run may change. `accumulate` depends on the number of processes, which
#: may change as well.
FREE_TO_CHANGE = frozenset(
    {
        "data",
        "out",
        "resume",
        "preset",
        "accumulate",
        "workers",
        "tuning",
        "compile",
        "checkpoint_minutes",
        "seeds",
    }
)

Settings = TypeVar("Settings", bound=PresetSettings)


def from_flags(presets: Mapping[str, Settings], description: str | None) -> Settings:
    """Read the command line: ``--preset`` chooses defaults, the other flags change them.

    Args:
        presets: Settings by name of the preset; the first is the default.
        description: Text of ``--help``.
    """
    return parse(presets, sys.argv[1:], description)


def parse(
    presets: Mapping[str, Settings], flags: list[str], description: str | None = None
) -> Settings:
    """Read a list of flags as `from_flags` reads the command line."""
    name = next(iter(presets))
    for index, flag in enumerate(flags):
        if flag == "--preset":
            name = flags[index + 1] if index + 1 < len(flags) else ""
        elif flag.startswith("--preset="):
            name = flag.removeprefix("--preset=")
    if name not in presets:
        raise SystemExit(f"`--preset` must be one of {', '.join(presets)}, got {name!r}.")
    default = presets[name]
    return tyro.cli(type(default), default=default, args=flags, description=description)


def named(presets: Mapping[str, Settings]) -> dict[str, Settings]:
    """Return the presets, each with its name as ``preset``."""
    return {name: dataclasses.replace(preset, preset=name) for name, preset in presets.items()}


def as_plain(settings: DataSettings) -> dict[str, Any]:
    """Return settings in types that checkpoints and JSON can hold."""
    plain = dataclasses.asdict(settings)
    return {name: str(v) if isinstance(v, Path) else v for name, v in plain.items()}
