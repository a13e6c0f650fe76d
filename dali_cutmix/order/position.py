"""A position in an epoch: numbers that JSON can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dali_cutmix.core.checks import check_count, refuse

#: Epoch that no loader serves: a state behind the epoch before names it. Small enough for torch's
#: generators, whose seeds add the loader's.
LAST_EPOCH = 2**62

#: ``(ranks, samples that they served)`` of each time that an epoch was dealt out.
Dealings = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Position:
    """Say which batch of which epoch comes next.

    Args:
        epoch: Epoch, from 0.
        batch: Number in the epoch of the batch that comes next, the same on every rank.
        start: Samples of the epoch's order, over all ranks, that had been served when the rest was
            dealt out to the present ranks; 0 unless resumed with other ranks or batches.
        start_batch: Number of the first batch after that dealing.
        order: CRC-32 of the epoch's order under a user's sampler; see `UserOrder.mark`. None
            without a sampler.
        mixing: Whether the epoch is served with the mix; None before the epoch begins, and without
            a mix.
        dealt: With ``shuffle="shards"``, the dealings before the present one, whose samples sum to
            ``start``; None where there are none.
    """

    epoch: int
    batch: int = 0
    start: int = 0
    start_batch: int = 0
    order: int | None = None
    mixing: bool | None = None
    dealt: Dealings | None = None


def check_epoch(epoch: object) -> None:
    """Refuse all but whole numbers from 0 to `LAST_EPOCH`."""
    check_count("set_epoch", "epoch", epoch, at_least=0)
    if int(epoch) > LAST_EPOCH:  # type: ignore[call-overload]
        refuse("set_epoch", "epoch", f"be at most {LAST_EPOCH}", epoch)
