"""Where a run stands, as a few numbers that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NoReturn

from dali_cutmix.core.checks import is_whole

#: Of the state and of what it stands for: raised when an order or a draw changes.
FORMAT = 2


@dataclass(frozen=True)
class Position:
    """A place in an epoch.

    Args:
        epoch: Epoch, from 0.
        batch: Number in the epoch of the batch that comes next, the same on every rank.
        start: How many samples of the epoch's order had been served, over all ranks, when the rest
            was dealt out to the ranks there are now; 0 unless resumed with other ranks or batches.
        start_batch: Number of the first batch that was dealt out so.
        order: Mark of the epoch's order where a given sampler made it; see `given.order_mark`.
    """

    epoch: int
    batch: int = 0
    start: int = 0
    start_batch: int = 0
    order: int | None = None


@dataclass(frozen=True)
class Run:
    """What a position is a position in; two runs with an equal one serve the same.

    Args:
        data: Fingerprint of the data.
        num_samples: Its number of samples.
        seed: The loader's.
        shuffle: Whether the order is permuted.
        sampler: Class of the given sampler; None without one.
        remainder: What happens to samples that cannot be dealt out evenly.
        drop_last: Whether a short batch is left out.
        batch_size: Samples per batch and rank.
        num_shards: Number of ranks.
    """

    data: str
    num_samples: int
    seed: int
    shuffle: bool
    sampler: str | None
    remainder: str
    drop_last: bool
    batch_size: int
    num_shards: int

    def state_at(self, position: Position) -> dict[str, Any]:
        """The state of a run that stands there: numbers and strings under names."""
        return {"format": FORMAT, **asdict(position), **asdict(self)}

    def position_of(self, state: Mapping[str, Any]) -> Position:
        """Where a state stands in this run.

        A state of other ranks or another batch size is taken at the sample that it stands at: what
        is left of the epoch is dealt out anew.

        Raises:
            ValueError: It is no state, or that of another run; everything that differs is named.
        """
        if not isinstance(state, Mapping) or "format" not in state:
            _refuse(f"this is no state of a DataLoader: {state!r:.80}.")
        if state["format"] != FORMAT:
            _refuse(
                f"the state has format {state['format']!r} and this version of dali_cutmix reads "
                f"{FORMAT}: what they stand for differs. Finish the run with the version that "
                "started it."
            )
        then, position = _part(Run, state), _part(Position, state)
        self._check_same(then)
        if (then.batch_size, then.num_shards) == (self.batch_size, self.num_shards):
            return position
        ranks = 1 if self.sampler else then.num_shards
        served = position.start + (position.batch - position.start_batch) * then.batch_size * ranks
        return replace(position, start=served, start_batch=position.batch)

    def _check_same(self, then: Run) -> None:
        free = {"batch_size"} if self.sampler else {"batch_size", "num_shards"}
        if self.num_samples != then.num_samples:
            free.add("data")  # differs all the same, and the number says more
        differing = [
            f"{field.name} is {getattr(self, field.name)!r} here and "
            f"{getattr(then, field.name)!r} in the state"
            for field in fields(self)
            if field.name not in free and getattr(self, field.name) != getattr(then, field.name)
        ]
        if differing:
            _refuse(
                f"the state is that of another run: {'; '.join(differing)}. Make the loader as it "
                "was made then, or go on without the state."
            )


def _part(kind: type[Any], state: Mapping[str, Any]) -> Any:
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in state]
    if missing:
        _refuse(f"the state lacks {', '.join(map(repr, missing))}.")
    if kind is Position:
        for name in names:
            value = state[name]
            if not (is_whole(value) and value >= 0) and not (name == "order" and value is None):
                _refuse(f"{name!r} in the state must be a whole number from 0, got {value!r}.")
    return kind(**{name: state[name] for name in names})


def _refuse(problem: str) -> NoReturn:
    raise ValueError(f"load_state_dict: {problem}")
