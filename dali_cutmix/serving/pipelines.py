"""`Pipelines`: one graph, or two that take turns batch by batch, as if they were one.

On the CPU the operators of a graph run one after another, each on all threads, so that threads wait
for the slowest image of every operator. Two graphs with half of the threads each fill each other's
gaps: on two cores that makes the loader a tenth to a fifth faster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dali_cutmix.core.dali import release_unused_memory
from dali_cutmix.serving.batches import Batches
from dali_cutmix.serving.graph import Graph

#: Batches in an epoch from which two graphs are faster than one: at the end of an epoch a graph has
#: nothing left to do.
LONG_EPOCH = 16

FORKED = (
    "DataLoader: this process was forked while a loader was at work in its parent, and DALI's "
    "threads are not in it. Close the loader before the fork, or start the process by 'spawn'."
)

#: Pipelines that are open. A fork has no threads for those of its parent, and would wait for ever
#: to free one: kept here, they are never freed there.
_open: set[Pipelines] = set()


def is_fork() -> bool:
    """Return whether this process was forked while a loader was at work in its parent."""
    return any(pipelines._process != os.getpid() for pipelines in tuple(_open))


class Pipelines:
    """Run batches through a loader's graphs, in order.

    Args:
        batches: What will be fed.
        num_batches: Batches in an epoch; None where that is not known.
        decodes_in_part: See `Graph`.

    Raises:
        RuntimeError: This process was forked while a loader was at work in its parent.
    """

    def __init__(self, batches: Batches, num_batches: int | None, *, decodes_in_part: bool) -> None:
        self._process = os.getpid()
        if is_fork():
            raise RuntimeError(FORKED)
        settings = batches.settings
        self._on_gpu = settings.device_id is not None
        threads, self._depth = settings.num_threads, settings.prefetch
        several = threads > 1 and self._depth > 1 and (num_batches or 0) >= LONG_EPOCH
        count = 2 if several and not self._on_gpu else 1
        self._graphs: list[Graph] = []
        self._num_started = self._num_taken = 0
        _open.add(self)
        try:
            for turn in range(count):
                share = _share(threads, count, turn), _share(self._depth, count, turn)
                self._graphs.append(Graph(batches, *share, decodes_in_part=decodes_in_part))
        except BaseException:
            self.close()
            raise

    @property
    def have_room(self) -> bool:
        """Whether fewer batches are under way than are prepared ahead."""
        return self._num_started - self._num_taken < self._depth

    def run(self, fed: Sequence[Any]) -> None:
        """Start on a batch, where there is room."""
        self._graphs[self._num_started % len(self._graphs)].run(fed)
        self._num_started += 1

    def images(self, cuda_stream: Any = None) -> Sequence[Any]:
        """Wait for the batch that was started on first; see `Graph.images`."""
        images = self._graphs[self._num_taken % len(self._graphs)].images(cuda_stream)
        self._num_taken += 1
        return images

    def drain(self) -> None:
        """Wait for the batches under way, and begin again with the first graph.

        Raises:
            RuntimeError: A batch failed, or this is a fork. The pipelines have to be closed.
        """
        if is_fork():
            raise RuntimeError(FORKED)
        while self._num_taken < self._num_started:
            self.images()
        self._num_started = self._num_taken = 0

    def close(self) -> None:
        """Stop the threads and free the memory; in a fork, do nothing."""
        if is_fork():
            return
        graphs, self._graphs = self._graphs, []
        for graph in graphs:
            graph.close()
        _open.discard(self)
        if self._on_gpu:
            release_unused_memory()  # DALI's pool would keep it from torch


def _share(total: int, count: int, turn: int) -> int:
    """Return the part of one of ``count`` graphs; the first take what is left over."""
    return total // count + (turn < total % count)
