"""Where a run stands: the epoch that comes next, what is left of it, and the state of the run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from dali_cutmix.core.checks import is_whole, refuse, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.order.description import Description, is_description
from dali_cutmix.order.position import LAST_EPOCH, Position
from dali_cutmix.order.sampler import EpochSampler, Shuffle
from dali_cutmix.order.user_sampler import UserOrder

#: Version of the state and of what a state means. Raised when an order or a draw changes.
FORMAT = 3
#: Numbers in a state are smaller: torch's generators take no larger ones.
MAX_NUMBER = 2**63
#: Samples and ranks. A state of few samples may name as many, and not more.
MAX_SPREAD = 2**16
#: Characters in a message on all differences between two runs.
MAX_DIFFERENCES = 4000
#: What `load_state_dict(allow=)` may name: with another value the order of samples stays.
CHANGEABLE = ("transform", "mix", "drop_last")
#: Fields that states from before ``shuffle="shards"`` lack. They are None without it.
_NEW = ("window", "dealt")
#: Dealings of an epoch: a run that is resumed each minute for a week has fewer.
_MOST_DEALINGS = 2**14


@dataclass(frozen=True)
class Run:
    """Identify a run. A state loads only into a run of equal identity.

    Args:
        data: Fingerprint of the data.
        num_samples: Number of samples in the data.
        seed: The loader's seed.
        shuffle: Whether the order is permuted.
        sampler: Class of the user's sampler; None without a sampler.
        remainder: What happens to samples that cannot be dealt out evenly.
        drop_last: Whether a short batch is left out.
        batch_size: Samples per batch and rank.
        num_shards: Number of ranks.
        transform: The transform, as it was when the run began.
        mix: The mix, as it was when the run began.
        window: Shards whose samples are permuted together; None unless ``shuffle`` is ``"shards"``.
    """

    data: str
    num_samples: int
    seed: int
    shuffle: Shuffle
    sampler: str | None
    remainder: str
    drop_last: bool
    batch_size: int
    num_shards: int
    transform: Any
    mix: Any
    window: int | None = None

    @cached_property
    def descriptions(self) -> dict[str, Description]:
        """Transform and mix in terms that JSON can hold, by name; made when first asked for."""
        return {name: Description(name, getattr(self, name)) for name in ("transform", "mix")}

    def state_at(self, position: Position) -> dict[str, Any]:
        """Return the state of the run at a position: numbers and strings that JSON can hold."""
        return {"format": FORMAT, **asdict(position), **self._values()}

    def position_of(self, state: Mapping[str, Any], allow: Collection[str] = ()) -> Position:
        """Return the position of a state in this run.

        Other ranks or another batch size keep the position's sample: what is left of the epoch is
        dealt out anew.

        Args:
            state: Made by `state_at`.
            allow: Names among `CHANGEABLE` whose values may differ.

        Raises:
            ValueError: ``state`` is not a state, or belongs to another run; every difference is
                named.
        """
        _check_allow(allow)
        if not isinstance(state, Mapping) or "format" not in state:
            _refuse(f"this is not a state of a DataLoader: {shown(state, 80)}.")
        if not is_whole(state["format"]) or state["format"] != FORMAT:
            _refuse(
                f"the state has format {shown(state['format'], 80)} and this version of "
                f"dali_cutmix reads {FORMAT}: their meanings differ. Finish the run with the "
                "version that started the run."
            )
        then, position = _part(Run, state), _part(Position, state)
        self._check_same(then, allow)
        self._check_place(then, Position(**position))
        doubts = [
            doubt
            for setting in self.descriptions.values()
            if setting.name not in allow
            for doubt in setting.doubts
        ]
        if doubts:
            # At the line that calls `DataLoader.load_state_dict`.
            warnings.warn(f"load_state_dict: {' '.join(doubts)}", RuntimeWarning, stacklevel=5)
        if (then["batch_size"], then["num_shards"]) == (self.batch_size, self.num_shards):
            return Position(**position)
        ranks = 1 if self.sampler else then["num_shards"]
        batches = position["batch"] - position["start_batch"]
        start = position["start"] + batches * then["batch_size"] * ranks
        if not self.sampler:
            start = min(start, self.num_samples)  # the last batch of an epoch may be short
        moved = replace(Position(**position), start=start, start_batch=position["batch"])
        if self.shuffle == "shards" and start > position["start"]:
            dealing = [then["num_shards"], start - position["start"]]
            return replace(moved, dealt=[*(position["dealt"] or []), dealing])
        return moved

    def _check_place(self, then: Mapping[str, Any], position: Position) -> None:
        """Refuse a position outside the epoch, as far as the epoch is known here."""
        if position.start_batch > position.batch:
            rule = f"be at most the state's 'batch', {position.batch}"
            refuse_value("start_batch", rule, position.start_batch)
        if position.start_batch > position.start:  # no batch is empty
            rule = f"be at most the state's 'start', {position.start}"
            refuse_value("start_batch", rule, position.start_batch)
        for name in ("batch_size", "num_shards"):
            most = max(getattr(self, name), self.num_samples, MAX_SPREAD)
            if then[name] > most:
                refuse_value(name, f"be at most {most}", then[name])
        if self.sampler:
            return  # `Progress.begin` knows the order
        of_dealings = position.start if self.shuffle == "shards" else 0
        if sum(served for _, served in position.dealt or ()) != of_dealings:
            refuse_value("dealt", f"hold samples that sum to {of_dealings}", position.dealt)
        if position.start > self.num_samples:
            refuse_value("start", f"be at most {self.num_samples} samples", position.start)
        left = -((position.start - self.num_samples) // then["num_shards"])
        most = position.start_batch - (-left // then["batch_size"])
        if position.batch > most:
            refuse_value("batch", f"be at most {most}, the end of the epoch", position.batch)

    def _values(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {
            name: dict(description.values) for name, description in self.descriptions.items()
        }

    def _check_same(self, then: Mapping[str, Any], allow: Collection[str]) -> None:
        ignored = {"batch_size", *allow} | (set() if self.sampler else {"num_shards"})
        if self.num_samples != then["num_samples"]:
            ignored.add("data")  # differs too, and the numbers say more
        differing: list[str] = []
        for name, value in self._values().items():
            if name in ignored:
                continue
            if name in self.descriptions:
                differing += self.descriptions[name].differences(then[name])
            elif value != then[name]:
                differing.append(
                    f"{name} is {value!r} here and {shown(then[name], 80)} in the state"
                )
        if differing:
            changed = tuple(n for n in CHANGEABLE if any(d.startswith(n) for d in differing))
            only = len(changed) and all(d.startswith(changed) for d in differing)
            way_out = f"To change this on purpose, pass `allow={changed}`." if only else ""
            differences = "; ".join(differing)[:MAX_DIFFERENCES]
            _refuse(
                f"the state belongs to another run: {differences}. Make the loader as it "
                f"was then, or start without the state. {way_out}".rstrip()
            )


def _check_allow(allow: Collection[str]) -> None:
    is_list = isinstance(allow, Collection) and not isinstance(allow, str)
    if not is_list or any(name not in CHANGEABLE for name in allow):
        _refuse(
            f"`allow` must hold names among {', '.join(map(repr, CHANGEABLE))}, got {allow!r}. "
            "Another batch size or number of ranks needs no leave; anything else changes the order "
            "of the samples, so that the rest of the epoch is unknown."
        )


def _part(kind: type[Any], state: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    state = {**dict.fromkeys(_NEW), **state}
    missing = [name for name in names if name not in state]
    if missing:
        _refuse(f"the state lacks {', '.join(map(repr, missing))}.")
    for name in names:
        _check_type(name, state[name])
    # NumPy's numbers seed no generator of torch, and JSON does not hold them.
    return {name: int(value) if is_whole(value := state[name]) else value for name in names}


def _check_type(name: str, value: Any) -> None:
    """Refuse a value in a state that no run could have written."""
    if name == "mixing":
        check_flag(name, value)
    elif name in ("transform", "mix"):
        if not is_description(value):
            refuse_value(name, "be a description", value)
    elif name == "dealt":
        _check_dealt(value)
    elif name in ("shuffle", "drop_last"):
        if not isinstance(value, bool) and (name, value) != ("shuffle", "shards"):
            refuse_value(name, "be True or False", value)
    elif name in ("data", "sampler", "remainder"):
        if not isinstance(value, str) and not (name == "sampler" and value is None):
            refuse_value(name, "be text", value)
    elif not (name in ("order", "window") and value is None):
        smallest = 1 if name in ("batch_size", "num_shards", "num_samples", "window") else 0
        if not is_whole(value) or value < smallest:
            refuse_value(name, f"be a whole number from {smallest}", value)
        if name == "epoch" and value > LAST_EPOCH:
            refuse_value(name, f"be at most {LAST_EPOCH}", value)
        if value >= MAX_NUMBER:
            refuse_value(name, "be below 2**63", value)


def _check_dealt(value: Any) -> None:
    """Refuse all but None and a list of pairs of ranks and samples, each at least 1."""
    if value is None:
        return
    pairs: Any = value
    if not isinstance(value, (list, tuple)) or len(value) >= _MOST_DEALINGS:
        pairs = [None]
    for pair in pairs:
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not is_pair or not all(is_whole(part) and 0 < part < MAX_NUMBER for part in pair):
            refuse_value("dealt", "hold pairs of ranks and samples, each at least 1", value)


def _snapshot(setting: Any) -> Any:
    """Copy a setting, since a user's object may change while it is at work."""
    try:
        return copy.deepcopy(setting)
    except Exception:  # whatever a user's object raises
        return setting


def _refuse(problem: str) -> NoReturn:
    raise ValueError(printable(f"load_state_dict: {problem}"))


def refuse_value(name: str, must: str, got: object) -> NoReturn:
    """Refuse a value in a state by its name, as in "be a whole number from 0"."""
    _refuse(f"{name!r} in the state must {must}, got {shown(got, 80)}.")


def check_flag(name: str, value: object) -> None:
    """Refuse all but True, False and None in a state."""
    if value is not None and not isinstance(value, bool):
        refuse_value(name, "be True, False or None", value)


class Progress:
    """Keep the epoch that is served or comes next, and the number of batches handed out.

    Args:
        order: Order of the samples.
        run: Identity of the states.
    """

    def __init__(self, order: EpochSampler | UserOrder, run: Run) -> None:
        self.order = order
        self._run = run
        self._running: Position | None = None  # of the iteration under way
        self._resume: Position | None = None  # of a state, for the next iteration

    @classmethod
    def of(
        cls,
        data: str,
        order: EpochSampler | UserOrder,
        sampler: EpochSampler,
        batch_size: int,
        drop_last: bool,
        *,
        transform: Any = None,
        mix: Any = None,
    ) -> Progress:
        """Return the beginning of a run.

        Args:
            data: Fingerprint of the data.
            order: Order of the samples.
            sampler: The same, or the order that would be served without a user's sampler.
            batch_size: Samples per batch.
            drop_last: Leave out a last batch that would be short.
            transform: The loader's transform.
            mix: The loader's mix, or None.
        """
        run = Run(
            data=data,
            num_samples=sampler.num_samples,
            seed=int(sampler.seed),
            shuffle=sampler.shuffle,
            sampler=order.name if isinstance(order, UserOrder) else None,
            remainder=sampler.remainder,
            drop_last=drop_last,
            batch_size=batch_size,
            num_shards=int(sampler.shard.count),
            transform=_snapshot(transform),
            mix=_snapshot(mix),
            window=sampler.window,
        )
        return cls(order, run)

    def copy(self) -> Progress:
        """Return the same progress, which moves on separately."""
        twin = copy.copy(self)
        twin.order = copy.copy(self.order)
        return twin

    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch. It starts at a loaded state's batch if the state is of it."""
        self.order.set_epoch(epoch)
        self._running = None
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None

    def state(self) -> dict[str, Any]:
        """Return the state; see `DataLoader.state_dict`."""
        return self._run.state_at(self._position())

    def position_of(self, state: Mapping[str, Any], allow: Collection[str] = ()) -> Position:
        """Return the position of a state in this run; see `DataLoader.load_state_dict`."""
        position = self._run.position_of(state, allow)
        # In mid-epoch `UserOrder.mark` compares orders.
        if isinstance(self.order, UserOrder) and position.epoch and position.order is None:
            self.order.warn_of_generator(stacklevel=4)  # at the call of `load_state_dict`
        return position

    def resume(self, position: Position) -> None:
        """Go to the position of a state."""
        self._resume = position
        self.set_epoch(position.epoch)

    def finish(self, epoch: int) -> None:
        """Mark an epoch as served: its next iteration has no batch, and the next epoch follows.

        Draws the epoch's order to know its length, since a sampler may have none.
        """
        self.resume(Position(epoch))
        _, left, _ = self.begin()
        self.resume(Position(epoch, batch=-(-len(left) // self._run.batch_size)))

    def take_back(self, num_batches: int) -> None:
        """Let the next iteration serve the last batches again, which were handed out."""
        position = self._position()
        batch = max(position.start_batch, position.batch - num_batches)
        self.resume(replace(position, batch=batch))

    def begin(self) -> tuple[Position, np.ndarray, np.ndarray | None]:
        """Return where the epoch that is due starts.

        Returns:
            The position; the indices left in the epoch, in order, ``[num_samples]`` int64; and the
            epoch's complete order under a user's sampler, else None.

        Raises:
            ValueError: The position is outside the epoch, or belongs to another order.
        """
        position = self._next_position()
        if position.epoch >= LAST_EPOCH:
            rule = f"be below {LAST_EPOCH} to be served"
            refuse("set_epoch", "epoch", rule, position.epoch)
        order = None
        if isinstance(self.order, UserOrder):
            order = self.order.order(position.epoch)
            position = self.order.mark(order, position)
            # The last batch before another dealing may have been short.
            most = len(order) + max(self._run.batch_size, self._run.num_samples, MAX_SPREAD)
            if position.start > most:
                rule = f"be at most {len(order)}, the number of indices in the epoch"
                refuse_value("start", rule, position.start)
            left, size = order[position.start :], self._run.batch_size
            if self.order.drops_last:
                left = left[: len(left) // size * size]
                order = order[: len(order) // size * size]
            num_batches = -(-len(left) // size)
            if position.batch - position.start_batch > num_batches:
                most = position.start_batch + num_batches
                refuse_value("batch", f"be at most {most}, the end of the epoch", position.batch)
        else:
            left = self.order.order(position.epoch, position.start, position.dealt or ())
        left = left[(position.batch - position.start_batch) * self._run.batch_size :]
        return position, left, order

    def begun(self, position: Position) -> None:
        """Note that an iteration serves the epoch from this position on."""
        self.order.follow(position.epoch + 1)
        self._resume, self._running = None, position

    def advance(self) -> None:
        """Note that a batch was handed out."""
        if self._running is not None:
            self._running = replace(self._running, batch=self._running.batch + 1)

    def end(self) -> None:
        """Note that the epoch is over."""
        self._running = None

    def _position(self) -> Position:
        # Trainers choose an epoch on the sampler, since they know nothing else.
        if self._running is not None and not self.order.is_chosen:
            return self._running
        return self._next_position()

    def _next_position(self) -> Position:
        """Return where the next iteration starts, whether or not another is under way."""
        epoch = self.order.epoch
        if self._resume is not None and self._resume.epoch == epoch:
            return self._resume
        return Position(epoch)
