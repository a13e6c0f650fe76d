"""The order of samples as a sampler of the user's gives it."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from itertools import chain, islice
from operator import index as index_of
from typing import Any, NoReturn

import numpy as np
import torch

from dali_cutmix.core.checks import check_count, is_whole, refuse
from dali_cutmix.core.draws import derive_seed
from dali_cutmix.order.state import Position

WHERE = "DataLoader"
MAX_INDICES = 1 << 26  # of an epoch, if its length does not say more; half a GB


class GivenOrder:
    """Draws one epoch's indices from a torch ``Sampler``, a batch sampler, or a list of indices.

    What it yields is this process's part, as in torch: nothing is dealt out over ranks. Before an
    epoch its ``set_epoch`` is called where it has one. A sampler that draws from torch's global
    generator (``RandomSampler``, ``WeightedRandomSampler`` and others made without ``generator=``)
    is given one that is seeded by ``seed`` and epoch instead, so that its order can be repeated.
    All indices of an epoch are drawn at its start, so that a sampler has to have an end.

    Args:
        sampler: Indices, or lists of indices where ``batches`` is true.
        seed: The loader's.
        batches: Whether it yields batches.

    Attributes:
        num_samples: Number of samples in the data, which every index lies below; to be set.
        epoch: The epoch that the next iteration serves.
        batch_size: Size of the batches that it yields; None when it yields indices.
    """

    def __init__(self, sampler: Any, seed: int, *, batches: bool = False) -> None:
        self._name = "batch_sampler" if batches else "sampler"
        if not isinstance(sampler, Iterable) or isinstance(sampler, Iterator):
            way_out = "An iterator can be used once only: pass a list or a torch Sampler."
            rule = "be something that can be iterated anew in each epoch"
            refuse(WHERE, self._name, rule, sampler, way_out)
        self.given: Any = sampler
        self.num_samples = 0
        self._seed = seed
        self._batches = batches
        self._set_last = self._own_epoch()
        self._epoch = 0
        self.batch_size = self._find_batch_size() if batches else None

    @classmethod
    def of(cls, sampler: Any, batch_sampler: Any, seed: int) -> GivenOrder | None:
        """The order of whichever was given; None where neither was."""
        if batch_sampler is not None:
            return cls(batch_sampler, seed, batches=True)
        return None if sampler is None else cls(sampler, seed)

    @property
    def name(self) -> str:
        """Class of what was given."""
        return type(self.given).__name__

    @property
    def sampler(self) -> Any:
        """What yields indices: the one given, or the one inside the batch sampler given."""
        return getattr(self.given, "sampler", self.given) if self._batches else self.given

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration serves; the sampler's own where that was set."""
        own = self._own_epoch()
        return self._epoch if own is None or own == self._set_last else own

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._set_last = self._own_epoch()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        check_count("set_epoch", "epoch", epoch, at_least=0)
        self.epoch = int(epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Draw an epoch's indices in the order served: ``[num_indices]`` int64.

        Raises:
            ValueError: What the sampler yields is no index of the data, or no batch of one size.
        """
        for sampler in (self.given, self.sampler):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        self._set_last = self._own_epoch()
        generator = torch.Generator("cpu").manual_seed(derive_seed(self._seed, f"sampler/{epoch}"))
        drawn = _with_generator(self.given, generator)
        return self._check(chain.from_iterable(self._whole(drawn)) if self._batches else drawn)

    def mark(self, order: np.ndarray, position: Position) -> Position:
        """Note in a position which order it is a place in.

        Raises:
            ValueError: It is a place in another order: the sampler cannot be resumed.
        """
        found = zlib.crc32(np.ascontiguousarray(order, "<i8").tobytes())
        if position.order is not None and position.order != found:
            raise ValueError(
                f"DataLoader: `{self._name}` ({self.name}) serves another order in epoch "
                f"{position.epoch} than it did when the state was taken, so that what is left of "
                "it is unknown. Make it without `generator=`, or give it a `set_epoch` that "
                "decides its order."
            )
        return replace(position, order=found)

    def _own_epoch(self) -> int | None:
        """The epoch that was set on the sampler, or on the one inside the batch sampler."""
        for sampler in (self.given, self.sampler):
            own = getattr(sampler, "epoch", None)
            if is_whole(own):
                return int(own)
        return None

    def _whole(self, batches: Iterable[Any]) -> Iterator[list[int]]:
        """The batches as lists, all of one size but the last."""
        short = None
        for number, batch in enumerate(batches):
            indices = list(batch)
            if short is not None or not 0 < len(indices) <= (self.batch_size or 0):
                bad, size = short or (number, len(indices))
                refuse(
                    WHERE,
                    "batch_sampler",
                    f"yield batches of one size, here {self.batch_size}, except for the last",
                    f"{size} indices in batch {bad}",
                )
            if len(indices) != self.batch_size:
                short = number, len(indices)
            yield indices

    def _check(self, indices: Iterable[Any]) -> np.ndarray:
        most = self._most()
        try:
            order = np.fromiter(map(index_of, islice(indices, most)), np.int64)
        except TypeError as error:
            raise TypeError(f"DataLoader: `{self._name}` must yield indices: {error}.") from None
        if len(order) == most:
            rule = "have an end"
            got = f"{self.name} with {most} indices and more"
            refuse(WHERE, self._name, rule, got, "Its indices of one epoch are drawn at its start.")
        outside = np.flatnonzero((order < 0) | (order >= self.num_samples))
        if outside.size:
            self._refuse_index(int(outside[0]), int(order[outside[0]]))
        return order

    def _most(self) -> int:
        """More indices than there can be, unless they have no end."""
        try:
            length = len(self.given) * (self.batch_size or 1)
        except TypeError:  # none, or of a batch sampler around one that has none
            length = 0
        return max(length, MAX_INDICES) + 1

    def _refuse_index(self, place: int, index: int) -> NoReturn:
        rule = f"yield indices from 0 to {self.num_samples - 1}, the number of samples less one"
        refuse(WHERE, self._name, rule, f"{index} in place {place}")

    def _find_batch_size(self) -> int:
        size = getattr(self.given, "batch_size", None)
        if is_whole(size) and size >= 1:
            return int(size)
        first = next(iter(_with_generator(self.given, torch.Generator("cpu"))), None)
        if not isinstance(first, Sized) or not len(first):
            refuse(WHERE, "batch_sampler", "yield lists of indices", first)
        return len(first)


def _with_generator(sampler: Any, generator: torch.Generator) -> Any:
    """A copy that draws from this generator where it would have drawn from torch's global one."""
    inner = getattr(sampler, "sampler", None)
    own = getattr(sampler, "generator", generator)
    if inner is None and own is not None:
        return sampler
    twin = copy.copy(sampler)
    if own is None:
        twin.generator = generator
    if inner is not None:
        twin.sampler = _with_generator(inner, generator)
    return twin
