"""What the scripts of this folder share: a new folder of data, an open wheel, and one sentence."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

#: Ranges of numbers of files, and of seeds.
COUNT, SEED = (1, 10**6), (0, 2**63 - 1)


@contextmanager
def new_folder(name: str, out: Path) -> Iterator[Path]:
    """Yield a path to write a folder to, which becomes ``out`` at the end, complete or not at all.

    Args:
        name: Name of the script.
        out: Folder that is new or empty.

    Raises:
        SystemExit: ``out`` is a file, holds something, or lies where no folder can be made.
    """
    resolved = out.resolve()
    if resolved.exists() and (not resolved.is_dir() or any(resolved.iterdir())):
        stop(
            name,
            f"`out` must be a folder that is new or empty, got {out}. Name another `--out`.",
        )
    try:
        resolved.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        stop(name, f"`out` must be a folder that can be written, got {out}. {problem}.")
    # On the disk of `out`, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{resolved.name}.", dir=resolved.parent) as temporary:
        complete = Path(temporary, "complete")
        yield complete
        os.replace(complete, resolved)


def wheel_root(name: str, wheel: Path, package: str) -> Any:
    """Return the root of a wheel, or of the folder of an installed package, as a path.

    Args:
        name: Name of the script.
        wheel: The wheel's file, or a folder.
        package: Name of the package, for messages.

    Raises:
        SystemExit: ``wheel`` is neither.
    """
    if wheel.is_dir():
        return wheel
    if not wheel.is_file():
        stop(name, f"`wheel` must be a file or folder, got {wheel}. This script downloads nothing.")
    if not zipfile.is_zipfile(wheel):
        stop(name, f"`wheel` must be a wheel of {package}, and {wheel} is no zip archive.")
    return zipfile.Path(wheel)


def check_numbers(name: str, settings: object, **ranges: tuple[float, float]) -> None:
    """Stop where a number lies outside its range.

    Args:
        name: Name of the script.
        settings: Settings of the script.
        ranges: Least and greatest value of a setting, by its name.
    """
    for setting, (least, greatest) in ranges.items():
        value = getattr(settings, setting)
        if not least <= value <= greatest:  # nor NaN
            stop(name, f"`{setting}` must be from {least} to {greatest}, got {value}.")


def stop(name: str, problem: str) -> NoReturn:
    """End a script with one sentence instead of a traceback."""
    raise SystemExit(f"{name}: {problem}")
