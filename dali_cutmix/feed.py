"""Drives one graph through epochs: says which samples come next and hands out what comes back.

The stock iterator of DALI continues in mid-epoch when iterated anew, loses a batch for each decode
error, and ends an epoch early without a word after a few. Here an epoch always starts at its
beginning, ends after its last sample, and stops at a bad file with the file's name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from dali_cutmix._dali import Pipeline, release_unused_memory
from dali_cutmix.diagnose import find_bad, reason_of
from dali_cutmix.errors import BadFileError
from dali_cutmix.graph import Graph, Source
from dali_cutmix.sampler import EpochSampler
from dali_cutmix.stored import StoredImages

#: Graphs that came with a fork. Their threads did not, so that stopping or freeing one would wait
#: for ever: they are kept until the process ends.
_inherited: list[Graph] = []


class Feed:
    """One graph and its position in an epoch. Not thread-safe.

    Args:
        build: Makes the graph around what feeds it.
        files: The data.
        sampler: The order.
        batch_size: Samples per batch.
        drop_last: Leave out a last batch that would be short.
        seed: Of the random numbers.
    """

    def __init__(
        self,
        build: Callable[[Source], Graph],
        files: StoredImages,
        sampler: EpochSampler,
        batch_size: int,
        drop_last: bool,
        seed: int,
    ) -> None:
        self._files = files
        self._sampler = sampler
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._seed = seed
        self._epoch = 0
        self._order = np.zeros(0, np.int64)
        self._num_batches = 0
        self._fed = 0
        self._taken = 0
        self._process = os.getpid()
        self._graph: Graph | None = build(self)

    def start(self, epoch: int) -> None:
        """Go to the beginning of an epoch, whatever is under way.

        Raises:
            RuntimeError: A batch under way, which would have been discarded, failed. The feed has
                to be closed; another one starts afresh.
        """
        pipeline = self._pipeline()
        if self._fed:
            self._num_batches = 0  # feed no more, and wait for what is in the graph
            self._drain(pipeline)
            pipeline.reset()
        self._epoch = epoch
        self._order = self._sampler.order(epoch)
        whole, rest = divmod(len(self._order), self._batch_size)
        self._num_batches = whole + (1 if rest and not self._drop_last else 0)
        self._fed = self._taken = 0
        if self._num_batches:
            pipeline.schedule_run()

    def next(self, cuda_stream: Any = None) -> dict[str, Any]:
        """The next batch: DALI's lists of tensors by name of output.

        Raises:
            StopIteration: The epoch is over.
            BadFileError: A file could not be read or decoded. The feed has to be closed.
        """
        if self._taken == self._num_batches:
            raise StopIteration
        pipeline, graph = self._pipeline(), self._graph
        try:
            outputs = pipeline.outputs(cuda_stream)
        except RuntimeError as error:
            raise self._explain(error) from error
        except StopIteration:
            raise RuntimeError(
                f"DataLoader: the graph ended at batch {self._taken} of {self._num_batches} in "
                f"epoch {self._epoch}."
            ) from None
        self._taken += 1
        if self._fed < self._num_batches:
            pipeline.schedule_run()
        assert graph is not None
        return dict(zip(graph.outputs, outputs, strict=True))

    def close(self) -> None:
        """Stop the graph's threads and free its memory. Batches handed out stay valid."""
        graph, self._graph = self._graph, None
        if graph is None:
            return
        if not self.is_own():
            _inherited.append(graph)
            return
        on_gpu = graph.pipeline.device_id is not None
        graph.pipeline._shutdown()
        del graph
        if on_gpu:
            release_unused_memory()  # DALI's pool would keep it from torch

    def is_own(self) -> bool:
        """Whether this process made the graph, and not the one it was forked from."""
        return self._process == os.getpid()

    def _pipeline(self) -> Pipeline:
        if self._graph is None:
            raise RuntimeError("Feed: the graph is closed.")
        return self._graph.pipeline

    def _drain(self, pipeline: Pipeline) -> None:
        try:
            pipeline.schedule_run()  # meets the end of the feed
            while True:
                pipeline.outputs()
        except StopIteration:
            pass

    def files(self, number: int, /) -> tuple[list[np.ndarray], np.ndarray]:
        """Feed the graph a batch's paths and labels; see `dali_cutmix.graph.Source`."""
        indices = self._next_indices(number)
        return [self._files.stored(index) for index in indices], self._files.targets[indices]

    def states(self, number: int, /) -> np.ndarray:
        """Feed the graph a batch's states of the generators; see `dali_cutmix.graph.Source`."""
        indices = self._next_indices(number)
        assert self._graph is not None
        shard = self._sampler.shard.index
        states = self._graph.draws.states(self._seed, self._epoch, number, shard)
        return np.repeat(states[None], len(indices), axis=0)

    def _next_indices(self, number: int) -> np.ndarray:
        if number >= self._num_batches:
            raise StopIteration
        self._fed = number + 1
        return self._indices(number)

    def _indices(self, batch: int) -> np.ndarray:
        start = batch * self._batch_size
        return self._order[start : start + self._batch_size]

    def _explain(self, error: RuntimeError) -> Exception:
        """Find the file that stopped the batch that was due."""
        due = self._indices(self._taken).tolist()
        bad = find_bad(self._files, due, num_threads=1, max_pixels=None)
        for index, reason in bad.items():
            return BadFileError(self._files.path(index), reason)
        return RuntimeError(
            f"DataLoader: the graph stopped in batch {self._taken} of epoch {self._epoch}, though "
            f"each of its files decodes on the CPU. DALI says: {reason_of(error)}"
        )


def num_batches(num_samples: int, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch."""
    return num_samples // batch_size if drop_last else math.ceil(num_samples / batch_size)
