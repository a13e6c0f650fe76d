"""What the commands share: errors as one sentence, folders, progress, and ways to be stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dali_cutmix import BadFileError

FirstLabel = Annotated[
    int | None, typer.Option(min=0, help="Label of class 0 in TFRecords.", show_default="1")
]


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


def absolute(data: str) -> str:
    """A path that means the same in any working directory; a URL is left as it is."""
    # Keeps "..", which behind a link leads elsewhere than os.path.abspath has it. The empty path
    # stays empty, so that it is refused and not taken for the working directory.
    return data if "://" in data or not data else os.fspath(Path(data).absolute())


@contextmanager
def image_progress(
    what: str, total: int, screen: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Show how many images are done, a second's worth of them, and the time left.

    Args:
        what: What is done to them, in a word.
        total: Number of images.
        screen: Where; None stands for stderr. Nothing is written unless that is a terminal.

    Yields:
        What is to be called with the number of images done.
    """
    screen = Console(stderr=True) if screen is None else screen
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    # Rich would end it with an empty line where there is no terminal.
    hidden = not screen.is_terminal
    with Progress(*columns, transient=True, console=screen, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} images/s" if task.speed else "")


@contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """Have SIGTERM end the process with status 143 as an exception does, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler there
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


@contextmanager
def native_messages_aside() -> Iterator[Console]:
    """A console on the error stream, which the decoders' own messages do not reach.

    DALI's decoders, libjpeg and libtiff write a line or two there for each bad file, through the
    bar and without the file's name.
    """
    try:
        is_stream = sys.stderr.fileno() == 2
    except (AttributeError, OSError):  # replaced by something that is no file
        is_stream = False
    if not is_stream:
        yield Console(stderr=True)
        return
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(2), "w") as screen:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield Console(file=screen)
        finally:
            screen.flush()
            os.dup2(screen.fileno(), 2)
