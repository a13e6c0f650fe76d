"""What the commands share: errors as one sentence, folders, and paths on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from dali_cutmix import BadFileError


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"dali-cutmix: cannot make the folder {path} for `--out`: {error.strerror}."
        raise OSError(message) from error


def print_path(console: Console, path: Path) -> None:
    """Say what was written."""
    console.print(f"Wrote {path}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def errors_as_one_sentence() -> Iterator[None]:
    """Print what users can put right without a traceback, and exit with status 1."""
    try:
        yield
    except (ValueError, BadFileError, OSError, ImportError) as error:
        console = Console(stderr=True)
        console.print(_sentence(error), markup=False, highlight=False, soft_wrap=True, style="red")
        raise typer.Exit(1) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"dali-cutmix: cannot use {error.filename}: {error.strerror}."
    return str(error)
