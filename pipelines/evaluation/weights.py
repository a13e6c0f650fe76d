"""Files of weights: what torch.load reads of them, and whether a model can take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluation.refusal import refuse


def read_state(path: Path) -> dict[str, Any]:
    """Return the dictionary that a file of torch.save holds; no code of the file runs."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of another file can raise anything
        reason = str(error).strip().split("\n")[0]
        refuse(
            "`checkpoint` must be a file that torch.load reads with weights_only=True, "
            f"`torchvision:NAME` or `timm:NAME`, got {str(path)!r}: {reason}"
        )
    if not isinstance(state, dict):
        refuse(
            f"`checkpoint` must hold a dictionary, and {path} holds {type(state).__name__}. Pass a "
            "checkpoint of a recipe, or a file of `state_dict()`."
        )
    return state


def fill(model: nn.Module, file: Path, name: str, classes: Sequence[str]) -> None:
    """Load a file of weights, as they are or under ``state_dict`` or ``model``.

    Prefixes of DDP and `torch.compile` are taken off.

    Args:
        model: The model, which is changed.
        file: The file.
        name: Name of the model in its library, for messages.
        classes: Class names of the images.

    Raises:
        SystemExit: The file cannot be read, or the weights are of another model or of another
            number of classes.
    """
    state = read_state(file)
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state.get(key), dict) else state
    state = {str(k).replace("_orig_mod.", "").removeprefix("module."): v for k, v in state.items()}
    misfit = load_weights(model, state)
    if misfit is None:
        return
    count = _num_classes(model, state, len(classes))
    if count is not None:
        refuse(
            f"`data` must hold the {count} classes of {file}, got {len(classes)}. Pass a folder "
            f"with a subfolder for each of the {count} classes, or weights that were trained on "
            "your classes."
        )
    refuse(
        f"`checkpoint` must hold weights of {name}, got {file}, where {misfit}. Pass the name of "
        "the model that was trained."
    )


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> str | None:
    """Load weights into a model; return None, or the first reason why the weights do not fit."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        return _misfit(model, state) or str(error).split("\n")[0]
    return None


def _misfit(model: nn.Module, state: Mapping[str, Any]) -> str | None:
    """Return the first weight that is missing, or of another shape, or too many."""
    wanted = model.state_dict()
    for key, weight in wanted.items():
        if key not in state:
            return f"{key} is missing"
        shape = getattr(state[key], "shape", None)
        if shape != weight.shape:
            shapes = [None if s is None else tuple(s) for s in (shape, weight.shape)]
            return f"{key} has the shape {shapes[0]} instead of {shapes[1]}"
    extra = next((key for key in state if key not in wanted), None)
    return None if extra is None else f"{extra} is no weight of the model"


def _num_classes(model: nn.Module, state: Mapping[str, Any], mine: int) -> int | None:
    """Return the number of classes of weights that fit a model but for that number, or None."""
    wanted = model.state_dict()
    if wanted.keys() != state.keys():
        return None
    shapes = [(tuple(state[k].shape), tuple(w.shape)) for k, w in wanted.items()]
    others = [(theirs, ours) for theirs, ours in shapes if theirs != ours]
    if not all(ours[:1] == (mine,) and theirs[1:] == ours[1:] for theirs, ours in others):
        return None
    counts = {theirs[:1] for theirs, _ in others}
    return counts.pop()[0] if len(counts) == 1 and () not in counts else None
