"""Files of a run: complete at any time, and refused by other runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

from harness.processes import stop
from harness.settings import FREE_TO_CHANGE, RunSettings, as_plain


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; ``path`` holds the complete old or the complete new file at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results in one step; NaN and infinities become null."""
    plain = json.loads(json.dumps(results), parse_constant=lambda _: None)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


def find_checkpoint(name: str, settings: RunSettings, out: Path) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run."""
    checkpoint = out / "checkpoint.pt"
    if settings.resume == "auto":
        return checkpoint if checkpoint.exists() else None
    if settings.resume is not None:
        if not Path(settings.resume).is_file():
            stop(name, f"`resume` must be a checkpoint or 'auto', got {settings.resume!r}.")
        return Path(settings.resume)
    if checkpoint.exists():
        stop(name, f"{out} holds a checkpoint. Pass `--resume auto` to resume, or another `--out`.")
    return None


def load_checkpoint(
    name: str, path: Path, settings: RunSettings, classes: list[str], free: Set[str] = frozenset()
) -> dict[str, Any]:
    """Read a checkpoint, and refuse one of another run.

    Args:
        name: Name of the recipe.
        path: File of the checkpoint.
        settings: Settings of the resumed run.
        classes: Class names of the run's data, in order.
        free: Settings that may differ, beside `FREE_TO_CHANGE`.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    refuse_other_settings(name, path, settings, state["settings"], free)
    if state["classes"] != classes:
        stop(name, f"{path} was trained on other classes than those of `data`.")
    return state


def refuse_other_settings(
    name: str,
    path: Path,
    settings: RunSettings,
    saved: Mapping[str, Any],
    free: Set[str] = frozenset(),
) -> None:
    """Stop a run that would resume from a file of other settings.

    Args:
        name: Name of the recipe.
        path: File that holds the settings.
        settings: Settings of the resumed run.
        saved: Settings of the file, in types of JSON.
        free: Settings that may differ, beside `FREE_TO_CHANGE`.
    """
    plain = json.loads(json.dumps(as_plain(settings)))
    saved = json.loads(json.dumps(saved))
    for setting, value in plain.items():
        if setting not in FREE_TO_CHANGE | free and value != saved.get(setting):
            stop(
                name,
                f"`{setting}` must be {saved.get(setting)!r} to resume from {path}, got {value!r}. "
                "Pass that value, or start anew with another `--out`.",
            )
