"""Who is mixed with whom, and who shares a draw.

DALI has no operator that tells a sample its place in the batch, so partners come from a Python
operator: a pure function of a permutation that DALI drew, called once per batch.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dali_cutmix._checks import check_choice, refuse
from dali_cutmix._dali import DataNode, fn, math, python_pair

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


def pair_up(partner: Partner, stream: dict[str, Any]) -> tuple[DataNode, DataNode]:
    """Give every sample of a batch a partner.

    Args:
        partner: A random permutation without fixed points (``"derangement"``: DALI draws a single
            cycle through the batch, so that every other sample is equally likely; a batch of one
            keeps to itself), with them (``"permutation"``), the sample before
            (``"roll"``), or the batch read backwards (``"flip"``).
        stream: Seed or state of the permutation.

    Returns:
        Index in the batch of the sample itself and of its partner: scalar int32 each, CPU.
    """
    # A roll and a flip draw nothing: the permutation then only tells the size of the batch.
    drawn = fn.batch_permutation(no_fixed_points=partner == "derangement", **stream)
    return python_pair({"roll": _rolled, "flip": _flipped}.get(partner, _as_drawn), drawn)


def position(node: DataNode) -> DataNode:
    """Index in the batch of each sample, scalar int32, CPU; ``node`` is any CPU node."""
    return python_pair(_positions, node)[0]


def leader(per: Per, own: DataNode, partner: DataNode) -> DataNode:
    """Index of the sample whose draws count for this one: scalar int32, CPU."""
    if per == "batch":
        return own * 0
    if per == "pair":
        return math.min(own, partner)
    return own


def share(value: DataNode, per: Per, leader: DataNode) -> DataNode:
    """Replace each sample's draw by its leader's; any shape, CPU."""
    return value if per == "sample" else fn.permute_batch(value, indices=leader)


def _scalars(indices: np.ndarray) -> Indices:
    # DALI takes one array per sample, of no dimensions here, and no NumPy scalars.
    return [np.asarray(index, np.int32) for index in indices]


def _as_drawn(drawn: Indices) -> tuple[Indices, Indices]:
    return _scalars(np.arange(len(drawn))), [np.asarray(index) for index in drawn]


def _rolled(drawn: Indices) -> tuple[Indices, Indices]:
    own = np.arange(len(drawn))
    return _scalars(own), _scalars(np.roll(own, 1))


def _flipped(drawn: Indices) -> tuple[Indices, Indices]:
    own = np.arange(len(drawn))
    return _scalars(own), _scalars(own[::-1])


def _positions(node: Indices) -> tuple[Indices, Indices]:
    own = _scalars(np.arange(len(node)))
    return own, own
