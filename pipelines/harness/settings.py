"""Settings that every recipe has, and how they become flags."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro


@dataclass(frozen=True)
class RunSettings:
    """What a run depends on, whatever it trains."""

    data: Path | None = None
    """Folder with train/ and val/, each an ImageFolder root. With --smoke, None makes some up."""

    out: Path | None = None
    """Where checkpoint.pt, results.json and tensorboard/ go; on a disk that all processes see. None
    takes runs/ and the recipe's name, or with --smoke a folder that is removed at the end."""

    resume: str | None = None
    """Checkpoint to go on from: a path, or "auto" for the output folder's, where there is one.
    None starts anew, and refuses to when the output folder holds a checkpoint."""

    smoke: bool = False
    """Shrink everything until a run takes seconds. Its numbers mean nothing."""

    preset: str = ""
    """Set of defaults that the other flags change."""

    epochs: int = 90
    """Passes over the training data."""

    batch_size: int = 256
    """Samples per step of the optimizer, over all processes together."""

    accumulate: int = 1
    """Parts that a process's share of a step is computed in, one after another."""

    clip_norm: float | None = None
    """Largest norm of all gradients together; None takes them as they are."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the forward pass. "auto" is bfloat16 autocast on a GPU and float32 on a CPU."""

    compile: bool = False
    """Train through torch.compile: minutes at the start, faster steps after."""

    checkpoint_minutes: float = 30.0
    """Save also in mid-epoch when the last time is so long ago. 0 saves after each step."""

    max_steps: int | None = None
    """Steps after which each epoch is cut short, and batches after which validation is. None never
    does."""

    workers: int | None = None
    """CPU threads per loader and process. None takes the tuning's, or one per CPU, at most 8."""

    tuning: Path | None = None
    """What `dali-cutmix tune` wrote for this machine."""

    seed: int = 0
    """Of initial weights, order, crops and mixing."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SystemExit(f"`{name}` must be at least 1, got {value}.")


#: What a run may be resumed with another value of. `accumulate` goes with the number of processes,
#: which may change as well.
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
    }
)

Settings = TypeVar("Settings", bound=RunSettings)


def from_flags(presets: Mapping[str, Settings], description: str | None) -> Settings:
    """Read the command line: ``--preset`` chooses defaults, the other flags change them.

    Args:
        presets: Settings by name of the preset; the first is taken where none is named.
        description: Shown by ``--help``.
    """
    return parse(presets, sys.argv[1:], description)


def parse(
    presets: Mapping[str, Settings], flags: list[str], description: str | None = None
) -> Settings:
    """As `from_flags`, of a list of flags."""
    name = next(iter(presets))
    for place, flag in enumerate(flags):
        if flag == "--preset":
            name = flags[place + 1] if place + 1 < len(flags) else ""
        elif flag.startswith("--preset="):
            name = flag.removeprefix("--preset=")
    if name not in presets:
        raise SystemExit(f"`--preset` must be one of {', '.join(presets)}, got {name!r}.")
    default = presets[name]
    return tyro.cli(type(default), default=default, args=flags, description=description)


def named(presets: Mapping[str, Settings]) -> dict[str, Settings]:
    """The presets, each knowing its name."""
    return {name: dataclasses.replace(one, preset=name) for name, one in presets.items()}


def as_plain(settings: RunSettings) -> dict[str, Any]:
    """Settings in types that a checkpoint and JSON take."""
    plain = dataclasses.asdict(settings)
    return {name: str(v) if isinstance(v, Path) else v for name, v in plain.items()}
