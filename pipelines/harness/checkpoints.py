"""Files of a run: complete at any time, and refused by other runs."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

from harness.processes import stop
from harness.settings import FREE_TO_CHANGE, RunSettings, as_plain

#: Entries of a loader's state that say which samples an epoch has, and in which order.
_SAMPLES = ("data", "num_samples", "seed")

#: Entries of every recipe's checkpoint that are read before a model is filled.
_NEEDED = {"settings", "classes", "history"}


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


def check_out(name: str, out: Path) -> None:
    """Stop where a folder cannot be written, before anything is read; the folder is not made."""
    if not _can_hold_files(out):
        stop(name, f"`out` must be a folder that can be written, got {out}. Pass another `--out`.")


def check_out_file(name: str, out: Path) -> None:
    """Stop where a file cannot be written, before anything is read; the file is not made."""
    is_new = not os.path.exists(out)
    if not (_can_hold_files(out.parent) if is_new else out.is_file() and os.access(out, os.W_OK)):
        stop(name, f"`out` must be a file that can be written, got {out}. Pass another `--out`.")


def _can_hold_files(folder: Path) -> bool:
    """Return whether a folder, or the folder in which it would be made, can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)


def find_checkpoint(name: str, settings: RunSettings, out: Path) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run.

    A checkpoint in ``out`` is never replaced by a run that does not resume from it or from a copy.
    Processes that torchrun restarts resume from what they saved themselves.
    """
    checkpoint = out / "checkpoint.pt"
    if settings.resume == "auto":
        return checkpoint if checkpoint.exists() else None
    start = None if settings.resume is None else Path(settings.resume)
    if start is not None and not start.is_file():
        stop(name, f"`resume` must be a checkpoint or 'auto', got {settings.resume!r}.")
    # Ray's processes resume from a checkpoint of which ``out`` holds a copy.
    if checkpoint.exists() and (start is None or not filecmp.cmp(start, checkpoint)):
        if start is not None and _saved_before_restart(name, settings, checkpoint):
            return checkpoint
        stop(name, f"{out} holds a checkpoint. Pass `--resume auto` to resume, or another `--out`.")
    return start


def _saved_before_restart(name: str, settings: RunSettings, checkpoint: Path) -> bool:
    """Return whether torchrun restarted a run that resumed from ``resume`` and saved since."""
    was_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    # A run that was refused is restarted too, beside the checkpoint of another.
    return was_restarted and _read(name, checkpoint)["settings"].get("resume") == settings.resume


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
    state = _read(name, path)
    refuse_other_settings(name, path, settings, state["settings"], free)
    if state["classes"] != classes:
        stop(name, f"{path} was trained on other classes than those of `data`.")
    return state


def _read(name: str, path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint that the recipe wrote; stop at any other file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of another file can raise anything
        problem = str(error).strip().split("\n")[0] or type(error).__name__
    else:
        entries = state if isinstance(state, dict) else {}
        if not entries.keys() >= _NEEDED:
            problem = f"the file lacks {', '.join(sorted(_NEEDED - entries.keys()))}."
        elif entries.get("recipe", name) != name:
            problem = f"{entries['recipe']} wrote the file."
        else:
            return entries
    stop(name, f"`resume` must be a checkpoint of {name}, got {path}: {problem}")


def samples_of(loader_state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a loader's state says of the samples of an epoch and their order."""
    return {entry: loader_state[entry] for entry in _SAMPLES}


def refuse_other_samples(
    name: str, path: Path, loader_state: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    """Stop a run that would resume from a file of other training data.

    Args:
        name: Name of the recipe.
        path: File that holds what `samples_of` returned.
        loader_state: State of the resumed run's training loader.
        saved: What the file holds, and perhaps more.
    """
    differences = [
        f"{entry} was {saved.get(entry)!r} and is now {value!r}"
        for entry, value in samples_of(loader_state).items()
        if saved.get(entry) != value
    ]
    if differences:
        stop(
            name,
            f"{path} is of other training data: {', '.join(differences)}. Pass the data of that "
            "run, or start anew with another `--out`.",
        )


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
