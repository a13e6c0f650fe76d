"""Folders of data: those that a user names, and the scripts of data/ that write some."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from harness.processes import stop


def named_folder(
    name: str, data: Path | None, what: str, generated: str, parts: Sequence[str] = ()
) -> Path:
    """Return the folder of the data, or end the run with one sentence.

    Args:
        name: Name of the recipe.
        data: The folder; None where the user named none.
        what: What the folder holds, for the message: ``"with train/ and val/ in it"``.
        generated: What a smoke run generates without a folder, for the message.
        parts: Folders that must lie in the folder.
    """
    if data is None or not all((data / part).is_dir() for part in ("", *parts)):
        stop(
            name,
            f"`data` must be a folder {what}, got {data}. Pass `--data DIR`, or `--smoke` alone to "
            f"try the recipe on generated {generated}.",
        )
    return data


def data_script(name: str) -> ModuleType:
    """Import a script of data/, which finds what lies beside it as when it is run."""
    folder = str(Path(__file__).parents[1] / "data")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)
