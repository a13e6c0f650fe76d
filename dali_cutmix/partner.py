"""Who is mixed with whom, and who shares a draw.

DALI has no operator that tells a sample its place in the batch, so in a graph partners come from a
Python operator: a pure function of a permutation that DALI drew, called once per batch.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dali_cutmix._checks import check_choice, refuse
from dali_cutmix._dali import python_pair
from dali_cutmix.arithmetic import least, of_sample
from dali_cutmix.draws import Draws

Per = Literal["sample", "pair", "batch"]
Partner = Literal["derangement", "permutation", "roll", "flip"]

Indices = list[np.ndarray]


def check_partner(where: str, per: str, partner: str) -> None:
    """Refuse unknown names, and pairs that are none."""
    check_choice(where, "per", per, ("sample", "pair", "batch"))
    check_choice(where, "partner", partner, ("derangement", "permutation", "roll", "flip"))
    if per == "pair" and partner != "flip":
        way_out = "Only there is a sample its partner's partner, so that two can share a draw."
        refuse(where, "partner", "be 'flip' when per='pair'", partner, way_out)


def pair_up(partner: Partner, draws: Draws, name: str) -> tuple[Any, Any]:
    """Give every sample of a batch a partner.

    Args:
        partner: A random permutation without fixed points (``"derangement"``: a single cycle
            through the batch, so that every other sample is equally likely; a batch of one keeps to
            itself), with them (``"permutation"``), the sample before (``"roll"``), or the batch
            read backwards (``"flip"``).
        draws: Where the permutation comes from.
        name: Its stream.

    Returns:
        Index in the batch of the sample itself and of its partner: scalar int32 each, CPU.
    """
    # A roll and a flip draw nothing: the permutation then only tells the size of the batch.
    drawn = draws.permutation(name, cycle=partner == "derangement")
    function = {"roll": _rolled, "flip": _flipped}.get(partner, _as_drawn)
    return _on_batch(function, drawn)


def position(value: Any) -> Any:
    """Index in the batch of each sample, scalar int32, CPU; ``value`` is anything of the batch."""
    return _on_batch(_positions, value)[0]


def leader(per: Per, own: Any, partner: Any) -> Any:
    """Index of the sample whose draws count for this one: scalar int32, CPU."""
    if per == "batch":
        return own * 0
    if per == "pair":
        return least(own, partner)
    return own


def share(value: Any, per: Per, leader: Any) -> Any:
    """Replace each sample's draw by its leader's; any shape, CPU."""
    return value if per == "sample" else of_sample(value, leader)


def _on_batch(function: Any, value: Any) -> tuple[Any, Any]:
    """Call a function of a whole batch that makes two indices of each sample."""
    if isinstance(value, np.ndarray):
        own, other = function(value)
        return np.stack(own)[:, None], np.stack(other)[:, None]
    return python_pair(function, value)


def _scalars(indices: np.ndarray) -> Indices:
    # DALI takes one array per sample, of no dimensions here, and no NumPy scalars.
    return [np.asarray(index, np.int32) for index in indices]


def _as_drawn(drawn: Any) -> tuple[Indices, Indices]:
    return _scalars(np.arange(len(drawn))), [np.asarray(index).reshape(()) for index in drawn]


def _rolled(drawn: Any) -> tuple[Indices, Indices]:
    own = np.arange(len(drawn))
    return _scalars(own), _scalars(np.roll(own, 1))


def _flipped(drawn: Any) -> tuple[Indices, Indices]:
    own = np.arange(len(drawn))
    return _scalars(own), _scalars(own[::-1])


def _positions(value: Any) -> tuple[Indices, Indices]:
    own = _scalars(np.arange(len(value)))
    return own, own
