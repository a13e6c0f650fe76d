"""The order of samples as the user's sampler yields it."""

from __future__ import annotations

import copy
import warnings
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain, islice
from operator import index as index_of
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch.utils.data import BatchSampler

from dali_cutmix.core.checks import is_whole, refuse
from dali_cutmix.core.draws import derive_seed
from dali_cutmix.order.position import Position, check_epoch

WHERE = "DataLoader"
#: Indices in an epoch, half a GB of them, unless the sampler's length says more.
MAX_INDICES = 1 << 26


class _Marks:
    """Tell the epoch that the user set on a sampler from those that loaders set.

    Loaders that share a sampler share its marks. Otherwise each would take the epoch that another
    loader set for the user's choice.

    Attributes:
        seen: The sampler's epoch when a loader looked or set an epoch; None without an epoch.
        chosen: The epoch that the sampler had at first, or that the user set last.
        num_choices: How often ``chosen`` was set.
    """

    #: Marks by the identity of the sampler, as long as the sampler lives.
    _by_sampler: ClassVar[dict[int, _Marks]] = {}

    def __init__(self) -> None:
        self.seen: int | None = None
        self.chosen: int | None = None
        self.num_choices = 0

    @classmethod
    def of(cls, sampler: Any) -> _Marks:
        """Return the marks of a sampler. They are new where the sampler takes no weak reference."""
        marks = cls._by_sampler.get(id(sampler))
        if marks is None:
            marks = cls()
            with suppress(TypeError):
                weakref.finalize(sampler, cls._by_sampler.pop, id(sampler))
                cls._by_sampler[id(sampler)] = marks
        return marks

    def look(self, epoch: int | None) -> None:
        """Note the epoch that the sampler has now."""
        if epoch not in (None, self.seen):
            self.seen = self.chosen = epoch
            self.num_choices += 1


class UserOrder:
    """Draw an epoch's indices from a torch ``Sampler``, a batch sampler, or a list of indices.

    The sampler yields this process's part, as in torch: nothing is dealt out over ranks. Its
    ``set_epoch``, if it has that method, is called before an epoch. All indices of an epoch are
    drawn at its start, so that a sampler must have an end.

    A sampler that would draw from torch's global generator (``RandomSampler`` or
    ``WeightedRandomSampler`` without ``generator=``, or the user's own that calls
    ``torch.randperm``) draws from a generator seeded by ``seed`` and epoch, so that its order can
    be repeated. The global generator stays as it was.

    Args:
        sampler: Indices, or lists of indices if ``batches`` is true.
        seed: The loader's seed.
        batches: Whether ``sampler`` yields batches.

    Attributes:
        argument: The ``sampler`` or ``batch_sampler`` that the user passed.
        num_samples: Number of samples in the data, above every index; to be set.
        epoch: The epoch that the next iteration serves. It begins with the sampler's own.
        batch_size: Size of the batches that the sampler yields; None if it yields indices.
        drops_last: Whether a short batch at the end is left out of what `order` returns.
    """

    def __init__(self, sampler: Any, seed: int, *, batches: bool = False) -> None:
        self._name = "batch_sampler" if batches else "sampler"
        if not isinstance(sampler, Iterable) or isinstance(sampler, Iterator):
            way_out = "An iterator serves a single epoch: pass a list or a torch Sampler."
            rule = "be iterable anew in each epoch"
            refuse(WHERE, self._name, rule, sampler, way_out)
        self.argument: Any = sampler
        self.num_samples = 0
        self._seed = seed
        self._batches = batches
        self._marks = _Marks.of(self._with_epoch())
        self._look()
        self._epoch, self._num_followed = max(0, self._marks.chosen or 0), self._marks.num_choices
        self.batch_size: Any = self._find_batch_size() if batches else None
        # torch's own only tells which indices its last, short batch leaves out.
        self._is_plain = batches and type(sampler) is BatchSampler
        self.drops_last = self._is_plain and bool(getattr(sampler, "drop_last", False))

    @classmethod
    def of(cls, sampler: Any, batch_sampler: Any, seed: int) -> UserOrder | None:
        """Return the order of the sampler or the batch sampler; None without both."""
        if batch_sampler is not None:
            return cls(batch_sampler, seed, batches=True)
        return None if sampler is None else cls(sampler, seed)

    @property
    def name(self) -> str:
        """Name of the class of ``argument``."""
        return type(self.argument).__name__

    @property
    def sampler(self) -> Any:
        """The sampler that yields indices: ``argument``, or the sampler inside it."""
        return getattr(self.argument, "sampler", self.argument) if self._batches else self.argument

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration serves; one set on the sampler comes first."""
        return self._marks.chosen or 0 if self.is_chosen else self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._look()
        self._epoch, self._num_followed = epoch, self._marks.num_choices

    @property
    def is_chosen(self) -> bool:
        """Whether the sampler's own ``set_epoch`` chose the epoch, since an epoch began."""
        self._look()
        return self._num_followed != self._marks.num_choices

    def follow(self, epoch: int) -> None:
        """Let this epoch come next, unless another is chosen."""
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        check_epoch(epoch)
        self.epoch = int(epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Draw an epoch's indices in the order served: ``[num_indices]`` int64.

        Raises:
            ValueError: The sampler yields something else than indices of the data, or batches of
                several sizes.
        """
        for sampler in (self.argument, self.sampler):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        drawn = self.argument
        try:
            with _seeded(drawn, derive_seed(self._seed, f"sampler/{epoch}")):
                if self._is_plain:
                    drawn = drawn.sampler
                elif self._batches:
                    drawn = chain.from_iterable(self._batches_of(drawn))
                return self._check(drawn)
        finally:  # a sampler may choose its next epoch itself, behind its last index
            self._marks.seen = self._epoch_on_sampler()

    def warn_of_generator(self, stacklevel: int) -> None:
        """Warn where epochs after a resume differ from those of an uninterrupted run.

        Args:
            stacklevel: As of ``warnings.warn``, for the caller.
        """
        samplers = list(_chain(self.argument))
        draws = any(isinstance(getattr(s, "generator", None), torch.Generator) for s in samplers)
        if draws and not any(hasattr(sampler, "set_epoch") for sampler in samplers):
            warnings.warn(
                f"load_state_dict: `{self._name}` ({self.name}) draws from a generator of its own, "
                "whose state is not in the loader's. Epochs differ from those of an uninterrupted "
                "run, unless you set the generator's state. Make the sampler without `generator=`.",
                RuntimeWarning,
                stacklevel=stacklevel + 1,
            )

    def mark(self, order: np.ndarray, position: Position) -> Position:
        """Return the position with a checksum of the order that it belongs to.

        Raises:
            ValueError: The position belongs to another order: the sampler cannot be resumed.
        """
        checksum = _checksum(order)
        same = {None, checksum}
        if self.drops_last:  # earlier states left the short batch out of the order
            same.add(_checksum(order[: len(order) // self.batch_size * self.batch_size]))
        if position.order not in same:
            way_out = (
                "Make the sampler without `generator=`, or give the sampler a `set_epoch` that "
                "decides its order."
            )
            if self._batches and position.start and position.start_batch == position.batch:
                way_out = (
                    "The state's batches have another size, with which the sampler may leave out "
                    f"other samples: take the state's size of batches. {way_out}"
                )
            raise ValueError(
                f"DataLoader: `{self._name}` ({self.name}) serves another order in epoch "
                f"{position.epoch} than when the state was taken, so that the rest of the epoch is "
                f"unknown. {way_out}"
            )
        return replace(position, order=checksum)

    def _with_epoch(self) -> Any:
        """Return ``argument`` or the sampler inside: the first that has an attribute ``epoch``."""
        samplers = (self.argument, self.sampler)
        return next((s for s in samplers if is_whole(getattr(s, "epoch", None))), self.argument)

    def _epoch_on_sampler(self) -> int | None:
        """Return the epoch that the sampler, or the sampler inside it, has as an attribute."""
        epoch = getattr(self._with_epoch(), "epoch", None)
        return int(epoch) if is_whole(epoch) else None

    def _look(self) -> None:
        """Note an epoch that the user set on the sampler."""
        self._marks.look(self._epoch_on_sampler())

    def _batches_of(self, batches: Iterable[Any]) -> Iterator[list[int]]:
        """Yield the batches as lists, all of ``batch_size`` except for the last."""
        short = None  # number and size of a batch that must be the last
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
        most = self._most_indices()
        indices = iter(indices)
        first = list(islice(indices, 1))
        if first and "bool" in str(getattr(first[0], "dtype", type(first[0]))):
            way_out = "`numpy.flatnonzero(mask)` makes indices of a mask of bools."
            refuse(WHERE, self._name, "yield indices", first[0], way_out)
        order = np.fromiter(map(self._index, islice(chain(first, indices), most)), np.int64)
        if len(order) == most:
            rule = "have an end"
            got = f"{self.name} with {most} indices and more"
            way_out = "All indices of an epoch are drawn at its start."
            refuse(WHERE, self._name, rule, got, way_out)
        outside = np.flatnonzero((order < 0) | (order >= self.num_samples))
        if outside.size:
            self._refuse_index(int(outside[0]), int(order[outside[0]]))
        return order

    def _index(self, value: Any) -> int:
        try:
            return index_of(value)
        except TypeError as error:
            raise TypeError(f"DataLoader: `{self._name}` must yield indices: {error}.") from None

    def _most_indices(self) -> int:
        """Return the number of indices from which on a sampler counts as endless."""
        try:
            length = (len(self.argument) + self.drops_last) * (self.batch_size or 1)
        except TypeError:  # no length, or none of the sampler inside
            length = 0
        return max(length, MAX_INDICES) + 1

    def _refuse_index(self, position: int, index: int) -> NoReturn:
        rule = f"yield indices from 0 to {self.num_samples - 1}, the number of samples less one"
        refuse(WHERE, self._name, rule, f"{index} at position {position}")

    def _find_batch_size(self) -> int:
        size = getattr(self.argument, "batch_size", None)
        if is_whole(size) and size >= 1:
            return int(size)
        probe = _copied(self.argument)  # samplers may count how often they were iterated
        with _seeded(probe, 0):
            first = next(iter(probe), None)
        if not isinstance(first, Sized) or not len(first):
            refuse(WHERE, "batch_sampler", "yield lists of indices", first)
        return len(first)


def _checksum(order: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(order, "<i8").tobytes())


@contextmanager
def _seeded(sampler: Any, seed: int) -> Iterator[None]:
    """Seed what a sampler, and those inside, draw from, but for generators of their own."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with ExitStack() as put_back:
        # The device is where the generator is, whatever the default device.
        put_back.enter_context(torch.device("cpu"))
        put_back.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(seed)
        for part in _chain(sampler):
            if getattr(part, "generator", generator) is None:
                part.generator = generator
                put_back.callback(setattr, part, "generator", None)
        yield


def _copied(sampler: Any) -> Any:
    """Copy a sampler and the samplers inside, but none of their data."""
    twin = copy.copy(sampler)
    inner = vars(twin).get("sampler") if hasattr(twin, "__dict__") else None
    if inner is not None:
        twin.sampler = _copied(inner)
    return twin


def _chain(sampler: Any) -> Iterator[Any]:
    """Yield a sampler, the sampler inside, and so on."""
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "sampler", None)
