"""Where a loader stands: which epoch comes next, what of it is left, and its state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dali_cutmix.order.sampler import EpochSampler
from dali_cutmix.order.state import Position, Run
from dali_cutmix.order.user_sampler import GivenOrder


class Progress:
    """The epoch that is served or comes next, and how much of it was handed out.

    Args:
        order: Whose indices are served.
        run: What this loader's states belong to.
    """

    def __init__(self, order: EpochSampler | GivenOrder, run: Run) -> None:
        self.order = order
        self._run = run
        self._running: Position | None = None  # where the iteration stands, until it is over
        self._resume: Position | None = None  # where the next one is to start

    @classmethod
    def of(
        cls,
        data: str,
        order: EpochSampler | GivenOrder,
        sampler: EpochSampler,
        batch_size: int,
        drop_last: bool,
    ) -> Progress:
        """The beginning of a run.

        Args:
            data: Fingerprint of the data.
            order: Whose indices are served.
            sampler: The same, or what would be served had no sampler been given.
            batch_size: Samples per batch.
            drop_last: Leave out a last batch that would be short.
        """
        run = Run(
            data=data,
            num_samples=sampler.num_samples,
            seed=int(sampler.seed),
            shuffle=sampler.shuffle,
            sampler=order.name if isinstance(order, GivenOrder) else None,
            remainder=sampler.remainder,
            drop_last=drop_last,
            batch_size=batch_size,
            num_shards=int(sampler.shard.count),
        )
        return cls(order, run)

    def copy(self) -> Progress:
        """The same place, from where another loader goes its own way."""
        twin = copy.copy(self)
        twin.order = copy.copy(self.order)
        return twin

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next; only a state loaded for it says where in it."""
        self.order.set_epoch(epoch)
        self._running = None
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None

    def state(self) -> dict[str, Any]:
        """See `DataLoader.state_dict`."""
        return self._run.state_at(self._position())

    def load(self, state: Mapping[str, Any]) -> None:
        """See `DataLoader.load_state_dict`."""
        self._resume = self._run.position_of(state)
        self.set_epoch(self._resume.epoch)

    def begin(self) -> tuple[Position, np.ndarray, np.ndarray | None]:
        """Where the epoch that is due starts.

        Returns:
            Its position; the indices that are left of it, in order, ``[num_samples]`` int64; and
            the whole order where a sampler was given.
        """
        self._running = None
        position = self._position()
        whole = None
        if isinstance(self.order, GivenOrder):
            whole = self.order.order(position.epoch)
            position = self.order.mark(whole, position)
            left = whole[position.start :]
        else:
            left = self.order.order(position.epoch, position.start)
        left = left[(position.batch - position.start_batch) * self._run.batch_size :]
        return position, left, whole

    def begun(self, position: Position) -> None:
        """An iteration serves the epoch from this position on."""
        self.order.epoch = position.epoch + 1
        self._resume, self._running = None, position

    @property
    def is_under_way(self) -> bool:
        """Whether the state is a place in an epoch that is being served."""
        return self._position() is self._running

    def advance(self) -> None:
        """One more batch was handed out."""
        if self._running is not None:
            self._running = replace(self._running, batch=self._running.batch + 1)

    def end(self) -> None:
        """The epoch is over."""
        self._running = None

    def _position(self) -> Position:
        epoch = self.order.epoch
        # Another one was chosen on the sampler, as trainers do that know nothing else.
        chosen = self._running is not None and epoch != self._running.epoch + 1
        if self._running is not None and not chosen:
            return self._running
        if self._resume is not None and self._resume.epoch == epoch:
            return self._resume
        return Position(epoch)
