"""Drives graphs through epochs: says which samples come next and hands out what comes back.

The stock iterator of DALI continues in mid-epoch when iterated anew, loses a batch for each decode
error, and ends an epoch early without a word after a few. Here an epoch always starts at its
beginning, ends after its last sample, and stops at a bad file with the file's name.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from dali_cutmix.core.dali import release_unused_memory
from dali_cutmix.core.draws import HostDraws
from dali_cutmix.core.errors import BadFileError
from dali_cutmix.serving.diagnose import diagnose, reason_of
from dali_cutmix.serving.graph import Graph, Source
from dali_cutmix.serving.pipelines import Lanes
from dali_cutmix.serving.replacements import Spares
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.read_ahead import ReadAhead

MAX_RETRIES = 3  # of a batch that fails though none of its images is found to be bad

#: Files with something behind their end marker cost a new graph each, once. With more of them the
#: data is taken to be like that: all images are decoded whole, and none is looked at for its end.
MAX_TRUSTED = 64

#: Graphs that came with a fork. Their threads did not, so that stopping or freeing one would wait
#: for ever: they are kept until the process ends.
_inherited: list[Lanes] = []


class Feed:
    """The graphs of a loader and their position in an epoch. Not thread-safe.

    Args:
        build: Makes the graph of a lane around what feeds it, and decodes all images whole if told
            to; see `Lanes`.
        num_lanes: Number of graphs that take turns.
        images: The data.
        batch_size: Samples per batch.
        seed: Of the random numbers.
        shard: Index of this process's part of the data.
        spares: Where bad images are noted, and found others for; None raises instead.
        max_pixels: The largest image that the graph takes; None takes all.
        trusted: Where images are noted that are whole, though something lies behind their end.
    """

    def __init__(
        self,
        build: Callable[[Source, bool, int], Graph],
        images: StoredImages,
        *,
        num_lanes: int = 1,
        batch_size: int,
        seed: int,
        shard: int,
        spares: Spares | None = None,
        max_pixels: int | None = None,
        trusted: set[int] | None = None,
    ) -> None:
        self._build = build
        self._num_lanes = num_lanes
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._shard = shard
        self._spares = spares
        self._max_pixels = max_pixels
        self._epoch = 0
        self._order = np.zeros(0, np.int64)
        self._first = 0  # number in the epoch of the batch that starts the order
        self._num_batches = 0
        self._base = 0  # batches taken when the lanes began to count theirs from 0
        self._has_fed = False
        self._taken = 0
        self._retries = 0  # of the batch that is due
        self._trusted = set() if trusted is None else trusted
        self._replaced_now: list[int] = []  # not yet warned of
        self._process = os.getpid()
        self._ahead = ReadAhead(images, self._indices)
        self._lanes: Lanes | None = self._build_lanes()

    def start(self, epoch: int, order: np.ndarray, *, drop_last: bool, first: int = 0) -> None:
        """Go to a place in an epoch, whatever is under way.

        Args:
            epoch: Epoch, from 0.
            order: Indices of the samples that are still to be served: ``[num_samples]`` int64.
            drop_last: Leave out a last batch that would be short.
            first: Number in the epoch of the batch that comes first.

        Raises:
            RuntimeError: A batch under way, which would have been discarded, failed. The feed has
                to be closed; another one starts afresh.
        """
        lanes = self._open_lanes()
        if self._has_fed:
            self._num_batches = 0  # feed no more, and wait for what is in the graphs
            lanes.drain()
        self._ahead.forget()
        self._epoch = epoch
        self._order = order
        self._first = first
        self._num_batches = num_batches(len(order), self._batch_size, drop_last)
        self._base = self._taken = 0
        self._has_fed = False
        if self._num_batches:
            lanes.begin()

    def next(self, cuda_stream: Any = None) -> dict[str, Any]:
        """The next batch: DALI's lists of tensors by name of output.

        Raises:
            StopIteration: The epoch is over.
            BadFileError: A file could not be read or decoded. The feed has to be closed.
        """
        if self._taken == self._num_batches:
            raise StopIteration
        while True:
            lanes, number = self._open_lanes(), self._taken - self._base
            try:
                outputs = lanes.outputs(number, cuda_stream)
                break
            except RuntimeError as error:
                self._replace_bad(error)
            except StopIteration:
                raise RuntimeError(
                    f"DataLoader: the graph ended before batch {self._first + self._taken} of "
                    f"epoch {self._epoch}, {self._num_batches - self._taken} batches too early."
                ) from None
        self._taken += 1
        self._retries = 0
        self._warn_of_replaced()
        lanes.schedule(number)
        return outputs

    def last_indices(self) -> list[int]:
        """Which images the batch handed out last was made of; empty before the first one."""
        return self._indices(self._taken - 1) if self._taken else []

    def close(self) -> None:
        """Stop the graph's threads and free its memory. Batches handed out stay valid."""
        lanes, self._lanes = self._lanes, None
        own = self.is_own()
        self._ahead.close(wait=own)
        if hasattr(self, "_images"):
            # DALI's objects hold each other, and this through its callbacks, until the garbage
            # collector comes. The data need not wait for it.
            del self._images, self._order
        if lanes is None:
            return
        if not own:
            _inherited.append(lanes)
            return
        on_gpu = lanes.device_id is not None
        lanes.close()
        del lanes
        if on_gpu:
            release_unused_memory()  # DALI's pool would keep it from torch

    def is_own(self) -> bool:
        """Whether this process made the graph, and not the one it was forked from."""
        return self._process == os.getpid()

    def _open_lanes(self) -> Lanes:
        if self._lanes is None:
            raise RuntimeError("Feed: the graph is closed.")
        return self._lanes

    def _build_lanes(self) -> Lanes:
        whole = len(self._trusted) > MAX_TRUSTED
        return Lanes(lambda lane, turn: self._build(lane, whole, turn), self, self._num_lanes)

    def batch(self, number: int, /) -> list[Any]:
        """Feed the graph one batch; see `dali_cutmix.serving.graph.Source`."""
        batch = self._due(number)
        graph = self._open_lanes().first
        names, inputs = graph.names, graph.inputs
        indices = self._indices(batch)
        place = self._seed, self._epoch, self._first + batch, self._shard
        fed = inputs.make(self._images.targets[indices], HostDraws(len(indices), *place))
        fed["stored"] = self._ahead.batch(batch)
        if "trusted" in names:
            fed["trusted"] = np.fromiter((one in self._trusted for one in indices), bool)
        return [fed[name] for name in names]

    def _due(self, number: int) -> int:
        """From the lanes' count of batches to ours."""
        batch = self._base + number
        if batch >= self._num_batches:
            raise StopIteration
        self._has_fed = True
        return batch

    def _indices(self, batch: int) -> list[int]:
        if batch >= self._num_batches:
            return []
        start = batch * self._batch_size
        indices = self._order[start : start + self._batch_size].tolist()
        return indices if self._spares is None else [self._spares.of(index) for index in indices]

    def _replace_bad(self, error: RuntimeError) -> None:
        """Find what stopped the batch that is due; start again from there without it."""
        bad, trailing = diagnose(
            self._images,
            self._indices(self._taken),
            num_threads=self._open_lanes().num_threads,
            device_id=self._open_lanes().device_id,
            max_pixels=self._max_pixels,
        )
        if not bad and not trailing <= self._trusted:
            self._trusted |= trailing
            self._rebuild()
            return
        if not bad:
            # A file that was being written, or a network that was away: good again by now.
            self._retries += 1
            if self._retries <= MAX_RETRIES:
                self._rebuild()
                return
            raise RuntimeError(
                f"DataLoader: the graph stopped in batch {self._first + self._taken} of epoch "
                f"{self._epoch}, also when it was tried again {MAX_RETRIES} times, though each of "
                f"its images decodes alone. DALI says: {reason_of(error)}"
            ) from error
        if self._spares is None:
            index, reason = next(iter(bad.items()))
            raise BadFileError(self._images.path(index), reason) from error
        self._spares.bad |= bad
        self._trusted |= trailing
        self._replaced_now += bad
        self._rebuild()

    def _warn_of_replaced(self) -> None:
        for index in self._replaced_now:
            assert self._spares is not None
            warnings.warn(
                f"DataLoader: replaced {self._images.path(index)} by "
                f"{self._images.path(self._spares.of(index))}: {self._spares.bad[index]}",
                RuntimeWarning,
                stacklevel=6,  # where the loader is iterated
            )
        self._replaced_now.clear()

    def _rebuild(self) -> None:
        # The graph is made anew, since what a failed batch leaves in it is not to be relied on.
        # Batches are functions of their numbers, so that those after it come out as they would
        # have.
        lanes, self._lanes = self._open_lanes(), None
        on_gpu = lanes.device_id is not None
        lanes.close()
        del lanes
        if on_gpu:
            release_unused_memory()
        self._ahead.forget()
        self._base = self._taken
        self._lanes = self._build_lanes()
        self._lanes.begin()


def num_batches(num_samples: int, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch."""
    return num_samples // batch_size if drop_last else math.ceil(num_samples / batch_size)
