"""Who is mixed with whom, and who shares a draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from dali_cutmix.core.checks import check_choice, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.math import Math

Per = Literal["sample", "pair", "batch"]
Partner = Literal["derangement", "permutation", "roll", "flip"]


def check_partner(where: str, per: str, partner: str) -> None:
    """Refuse unknown names, and a draw per pair where samples are not paired."""
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
        name: The permutation's stream.

    Returns:
        Index in the batch of the sample itself and of its partner. Scalar int32 each (``[B, 1]`` on
        the host), CPU.
    """
    # A roll and a flip draw nothing: there the permutation tells the size of the batch only.
    permutation = draws.permutation(name, cycle=partner == "derangement")
    return draws.math.positions(_PARTNERS[partner], permutation)


def leader(per: Per, own: Any, partner: Any, math: Math) -> Any:
    """Return the index of the sample whose draws count for this sample: scalar int32, CPU."""
    if per == "batch":
        return own * 0
    if per == "pair":
        return math.minimum(own, partner)
    return own


def share(value: Any, per: Per, leader: Any, math: Math) -> Any:
    """Replace each sample's draw, of any shape, by its leader's."""
    return value if per == "sample" else math.of_sample(value, leader)


def _indices(permutation: np.ndarray) -> np.ndarray:
    return np.arange(len(permutation), dtype=np.int32)[:, None]


_PARTNERS: dict[Partner, Callable[[np.ndarray], np.ndarray]] = {
    "derangement": lambda permutation: permutation,
    "permutation": lambda permutation: permutation,
    "roll": lambda permutation: np.roll(_indices(permutation), 1, axis=0),
    "flip": lambda permutation: _indices(permutation)[::-1],
}
