"""What commands share: errors as one sentence, folders, progress, and ways to be stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, overload

import typer
from rich.console import Console
from rich.progress import ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from dali_cutmix import BadFileError, TroubleError
from dali_cutmix.annotations.mask_folders import SKIP_UNMATCHED
from dali_cutmix.core.bars import COUNTS, bar
from dali_cutmix.core.errors import LIST_BAD_FILES, bad_file, printable

FirstLabel = Annotated[
    int | None, typer.Option(min=0, help="Label of class 0 in TFRecords.", show_default="1")
]


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser for an option that takes one of some names.

    Typer's own parser of an enumeration says "Value error" where a name is unknown.
    """

    def parse(name: str) -> str:
        if name not in names:
            raise typer.BadParameter(f"must be one of {', '.join(names)}, got {name!r}.")
        return name

    return parse


@overload
def expanded(path: Path) -> Path: ...
@overload
def expanded(path: None) -> None: ...
def expanded(path: Path | None) -> Path | None:
    """Return a path with the home folder for ``~``, which shells leave in ``--out=~/a.json``."""
    return None if path is None else Path(os.path.expanduser(path))


def check_ending(option: str, path: Path | None, ending: str) -> None:
    """Refuse an output file that has another ending, or that is a folder.

    Raises:
        typer.BadParameter: Names the option, the rule and the path.
    """
    if path is not None and (path.suffix.lower() != ending or path.is_dir()):
        rule = f"must be a file that ends in {ending}, got {str(path)!r}."
        raise typer.BadParameter(rule, param_hint=option)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless the folder exists.

    Raises:
        OSError: Names the folder and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"dali-cutmix: cannot make the folder {path} for `--out`: {error.strerror}."
        raise OSError(message) from error


def print_text(console: Console, text: str) -> None:
    """Print text as it stands, with escapes for all but lines: no markup, colours or wrapping."""
    text = "\n".join(map(printable, text.split("\n")))
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_path(console: Console, path: Path) -> None:
    """Print that a file or folder was written."""
    print_text(console, f"Wrote {printable(str(path))}")


def absolute(data: str) -> str:
    """Return a path that means the same in any working directory. URLs stay as they are."""
    # Keeps "..", which os.path.abspath resolves wrongly behind a link. The empty path stays empty:
    # it must be refused, not taken for the working directory.
    return data if "://" in data or not data else os.fspath(expanded(Path(data)).absolute())


@contextmanager
def image_progress(
    what: str, total: int, screen: Console | None = None, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
    """Show how many images, or other files, are done, how many per second, and the time left.

    Args:
        what: The work, in one word.
        total: Number of images.
        screen: Where to draw; None is stderr. Nothing is drawn unless this is a terminal.
        unit: What is counted, in the plural.

    Yields:
        A function to be called with the number of images done.
    """
    columns = (COUNTS, _Rate(unit), TimeRemainingColumn())
    with bar(what, total, *columns, screen=screen) as update:
        yield lambda done: update(completed=done)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}/s" if task.speed else "")


@contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that files are cleaned up; exit with status 143."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler there
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    former_handler = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former_handler)


@contextmanager
def errors_as_one_sentence() -> Iterator[None]:
    """Print errors that a user can mend without a traceback, and exit with status 1."""
    try:
        yield
    except (ValueError, BadFileError, TroubleError, OSError, ImportError) as error:
        console = Console(stderr=True)
        console.print(
            printable(_sentence(error)), markup=False, highlight=False, soft_wrap=True, style="red"
        )
        raise typer.Exit(1) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"dali-cutmix: cannot use {error.filename}: {error.strerror}."
    if type(error) is BadFileError:  # whose way out is an argument that the command line lacks
        return f"{bad_file(error.path, error.reason)} {LIST_BAD_FILES}"
    way_out = "Add what is missing, or move these files away."
    return str(error).replace(SKIP_UNMATCHED, way_out)


@contextmanager
def native_messages_aside() -> Iterator[Console]:
    """Yield a console on the error stream that the decoders' own messages do not reach.

    DALI's decoders, libjpeg and libtiff write a line or two for each bad file to the process's
    error stream. These lines would break the progress bar, and do not name the file.
    """
    try:
        is_stream = sys.stderr.fileno() == 2
    except (AttributeError, OSError):  # replaced by an object without a file descriptor
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
