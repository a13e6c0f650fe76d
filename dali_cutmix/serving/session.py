"""One graph at a time, built when it is needed, and the one iteration that it serves."""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from dali_cutmix.core.threads import is_a_graphs_thread
from dali_cutmix.order.position import Position
from dali_cutmix.order.progress import Progress
from dali_cutmix.serving.device_memory import DeviceMemory
from dali_cutmix.serving.feed import Feed
from dali_cutmix.serving.graph import GraphSettings, build_graph
from dali_cutmix.serving.replacements import Spares
from dali_cutmix.sources.base import StoredImages


class Serving:
    """Runs a loader's epochs: builds the graph, starts it where the run stands, keeps count.

    Args:
        images: The data.
        settings: The graph's.
        progress: Where the run stands.
        seed: Of the random numbers.
        shard: Index of this process's part of the data.
        drop_last: Leave out a last batch that would be short.
        spares: Where bad images are noted; None raises at them.
        max_device_memory: Bytes that a graph may take of the GPU's memory; None has no limit.
    """

    def __init__(
        self,
        images: StoredImages,
        settings: GraphSettings,
        progress: Progress,
        *,
        seed: int,
        shard: int,
        drop_last: bool,
        spares: Spares | None,
        max_device_memory: int | None = None,
    ) -> None:
        self._memory = DeviceMemory(max_device_memory, settings)
        self.progress = progress
        self.spares = spares
        self._images = images
        self._settings = settings
        self._seed = seed
        self._shard = shard
        self._drop_last = drop_last
        self._trusted: set[int] = set()
        self._built: GraphSettings | None = None
        self._feed: Feed | None = None
        self._turn = 0  # number of the iteration that the feed is serving

    def copy(self) -> Serving:
        """The same run at the same place, with a graph of its own yet to be built."""
        twin = copy.copy(self)
        twin.progress = self.progress.copy()
        twin.spares = None if self.spares is None else self.spares.copy()
        twin._trusted = set(self._trusted)
        twin._feed = twin._built = None
        twin._memory = copy.copy(self._memory)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_feed": None, "_built": None}

    def state(self, mixing: bool) -> dict[str, Any]:
        """Where the run stands, whether it mixes, and what it found bad.

        Args:
            mixing: Whether the epoch that comes next mixes, if none is under way.
        """
        if self.progress.is_under_way and self._built is not None:
            mixing = self._built.mix is not None
        mixes = mixing if self._settings.mix is not None else None
        bad = {} if self.spares is None else self.spares.bad
        found = [list(one) for one in bad.items()]
        return {**self.progress.state(), "mixing": mixes, "bad": found}

    def load(self, state: Mapping[str, Any], mixing: bool, allow: Collection[str] = ()) -> bool:
        """Go on from a state; see `DataLoader.load_state_dict`.

        Returns:
            Whether it mixes; ``mixing`` where the state or this run knows no mix.
        """
        self.progress.load(state, allow)
        self.close()  # an iteration under way would go on from the place that is left
        if self.spares is not None:
            self.spares.bad = {int(index): str(reason) for index, reason in state.get("bad", [])}
        known = state.get("mixing") if self._settings.mix is not None else None
        return mixing if known is None else bool(known)

    def start(self, mixing: bool) -> int:
        """Start the epoch that is due, with or without mixing; the number of this iteration."""
        settings = self._settings if mixing else self._settings.without_mix()
        if self._feed is not None and (self._built != settings or not self._feed.is_own()):
            self.close()
        position, left, whole = self.progress.begin()
        if self.spares is not None:
            self.spares.pool = None if whole is None else np.unique(whole)
        try:
            self._start_feed(settings, position, left)
        except BaseException as error:
            self.close()
            if not isinstance(error, RuntimeError):
                raise
            # A batch of an epoch that was left before its end failed, and nobody waits for it.
            self._start_feed(settings, position, left)
        self.progress.begun(position)
        self._turn += 1
        return self._turn

    def next(self, turn: int, cuda_stream: Any = None) -> dict[str, Any]:
        """The next batch of an iteration; see `Feed.next` for what it gives and raises."""
        feed = self._feed
        if feed is None or turn != self._turn or not feed.is_own():
            what = "was iterated anew" if feed is not None and feed.is_own() else "was closed"
            raise RuntimeError(
                f"DataLoader: the loader {what} while this iteration was under way. One iteration "
                "runs at a time; make a second DataLoader to have two."
            )
        try:
            batch = feed.next(cuda_stream)
            self._memory.check()
        except StopIteration:
            self.progress.end()
            raise
        except BaseException:
            self.close()  # what else is under way in the graph is not to be trusted
            raise
        return batch

    def last_indices(self) -> list[int]:
        """See `Feed.last_indices`; empty where no graph is open."""
        return [] if self._feed is None else self._feed.last_indices()

    def close(self) -> None:
        """Stop the threads and free the memory of the graph."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def drop(self) -> None:
        """Close, from wherever the last reference went.

        The garbage collector may call this on a thread that a graph waits for, which must not wait
        for the graph.
        """
        if self._feed is None:
            return
        if is_a_graphs_thread():
            threading.Thread(target=self.close, daemon=True).start()
        else:
            self.close()

    def _start_feed(self, settings: GraphSettings, position: Position, left: np.ndarray) -> None:
        if self._feed is None:
            self._memory.begin()
            self._feed = Feed(
                lambda source, whole, turn: build_graph(
                    settings.of_lane(turn), source, always_whole=whole
                ),
                self._images,
                num_lanes=settings.num_lanes,
                batch_size=settings.batch_size,
                seed=self._seed,
                shard=self._shard,
                spares=self.spares,
                max_pixels=settings.max_pixels,
                trusted=self._trusted,
            )
            self._built = settings
        self._feed.start(position.epoch, left, drop_last=self._drop_last, first=position.batch)
