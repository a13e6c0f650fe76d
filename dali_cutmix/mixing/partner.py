"""Who is mixed with whom, and who shares a draw.

DALI has no operator that tells a sample its place in the batch, so in a graph partners come from a
Python operator: a pure function of a permutation that DALI drew, called once per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from dali_cutmix.core.checks import check_choice, refuse
from dali_cutmix.core.dali import python_pair
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.math import least, of_sample

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
    return _on_batch(_PARTNERS[partner], drawn)


def position(value: Any) -> Any:
    """Index in the batch of each sample, scalar int32, CPU; ``value`` is anything of the batch."""
    return _on_batch(lambda drawn: drawn, value)[0]


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


def _on_batch(partners: Callable[[np.ndarray], np.ndarray], value: Any) -> tuple[Any, Any]:
    """Each sample's own index, and what a function of a whole batch's numbers makes of them.

    Scalar int32 each: ``[B, 1]`` of an array, which is ``[B, 1]`` too.
    """
    if isinstance(value, np.ndarray):
        own = np.arange(len(value), dtype=np.int32)[:, None]
        return own, partners(value)

    def of_lists(drawn: Indices) -> tuple[Indices, Indices]:
        own = np.arange(len(drawn), dtype=np.int32)
        # What else is drawn than indices is of any shape, and not looked at.
        numbers = np.array(drawn, np.int32) if np.ndim(drawn[0]) == 0 else own
        return _scalars(own), _scalars(partners(numbers))

    return python_pair(of_lists, value)


def _scalars(indices: np.ndarray) -> Indices:
    # DALI takes one array per sample, of no dimensions here, and no NumPy scalars.
    return [np.asarray(index, np.int32) for index in indices]


def _rolled(drawn: np.ndarray) -> np.ndarray:
    return np.roll(_own(drawn), 1, axis=0)


def _flipped(drawn: np.ndarray) -> np.ndarray:
    return _own(drawn)[::-1]


def _own(drawn: np.ndarray) -> np.ndarray:
    return np.arange(len(drawn), dtype=np.int32).reshape(drawn.shape)


_PARTNERS: dict[Partner, Callable[[np.ndarray], np.ndarray]] = {
    "derangement": lambda drawn: drawn,
    "permutation": lambda drawn: drawn,
    "roll": _rolled,
    "flip": _flipped,
}
