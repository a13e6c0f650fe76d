"""A loader in several processes at once, as one contestant: each serves its shard."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from dali_cutmix.tools.bench.loaders import ours
from dali_cutmix.tools.bench.work import Work


def processes(work: Work) -> _Processes:
    """Open this loader in ``work.extra["processes"]`` processes, which share ``work.threads``.

    Yields numbers of images, as they come from any of them. What they make is thrown away there, as
    a training process would keep it to itself.
    """
    return _Processes(work)


class _Processes:
    """Start the processes, and let each run at most ``AHEAD`` batches ahead."""

    AHEAD = 2

    def __init__(self, work: Work) -> None:
        count = work.extra["processes"]
        if work.threads % count:
            raise ValueError(
                f"processes: {count} processes cannot share {work.threads} threads evenly. "
                "Take a number of threads that they divide."
            )
        # Spawned, since DALI's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        for index in range(count):
            parent, other = context.Pipe()
            process = context.Process(target=_serve, args=(work, index, count, other), daemon=True)
            process.start()
            other.close()
            self._ends.append(parent)
            for _ in range(self.AHEAD):
                parent.send(None)

    def __iter__(self) -> Iterator[int]:
        while True:
            for end in wait(self._ends):
                assert isinstance(end, Connection)
                images = end.recv()
                end.send(None)
                yield images


def _serve(work: Work, index: int, count: int, end: Connection) -> None:
    """Serve a batch for each message received, in one of the processes."""
    import dali_cutmix as dc

    part = {"shard": dc.Shard(index, count)}
    loader = ours(replace(work, threads=work.threads // count, extra=part))
    try:
        while True:
            for image, _ in loader:
                end.recv()
                end.send(len(image))
    except (EOFError, BrokenPipeError):  # the contestant is over
        return
