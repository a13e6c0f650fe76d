"""A bar that shows on a terminal how far some work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

#: Columns of a bar: how many are done of how many, and what the work says as ``note=``.
COUNTS = "{task.completed}/{task.total}"
NOTE = "{task.fields[note]}"


@contextmanager
def bar(
    what: str, total: int | None, *columns: Any, shown: bool = True, screen: Any = None
) -> Iterator[Callable[..., None]]:
    """Show a bar until the block ends; nothing where the screen is no terminal.

    Args:
        what: The work, in front of the bar.
        total: Number of all steps; None where it is told later.
        columns: What stands behind the bar: columns of Rich, `COUNTS`, `NOTE`.
        shown: False shows nothing on a terminal either.
        screen: Console of Rich. None takes stderr.

    Yields:
        A function that moves the bar. It takes the keywords of Rich's ``Progress.update``, such as
        ``completed`` and ``advance``, and ``note``.
    """
    if not shown:
        yield lambda **_: None
        return
    # Imported here, since most processes show no bar.
    from rich.console import Console
    from rich.progress import BarColumn, Progress

    screen = Console(stderr=True) if screen is None else screen
    columns = ("{task.description}", BarColumn(), *columns)
    # Without a terminal, Rich would still print an empty line at the end.
    hidden = not screen.is_terminal
    with Progress(*columns, transient=True, console=screen, disable=hidden) as progress:
        yield partial(progress.update, progress.add_task(what, total=total, note=""))
