"""How far the shards are that an epoch fetches, as numbers and as a bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Downloads(NamedTuple):
    """Tell how far an epoch's shards are.

    Args:
        shards: Shards that are there.
        num_shards: Shards that the epoch reads.
        fetched_bytes: Bytes fetched from the bucket since the source was made.
    """

    shards: int
    num_shards: int
    fetched_bytes: int


@contextmanager
def bar() -> Iterator[Callable[[Downloads], None]]:
    """Show a bar on stderr, if it is a terminal, and yield what moves the bar."""
    # Imported here, since most processes show no bar.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("Fetching shards"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal  # rich would end it with an empty line
    begin, before = time.monotonic(), None
    with Progress(*columns, transient=True, console=console, disable=hidden) as progress:
        task = progress.add_task("", speed="")

        def show(downloads: Downloads) -> None:
            nonlocal before
            before = downloads.fetched_bytes if before is None else before
            rate = (downloads.fetched_bytes - before) / max(time.monotonic() - begin, 0.1) / 1e6
            progress.update(
                task,
                completed=downloads.shards,
                total=downloads.num_shards,
                speed=f"{rate:.0f} MB/s",
            )

        yield show
