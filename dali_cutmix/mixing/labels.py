"""A plan applied to labels: two classes and two weights per sample.

The loader does it on the host, where it feeds them. `mixed_target` is the small Python operator for
graphs of other people's: DALI runs those one at a time in the process, so this one is called once
per batch and handles two numbers per sample. Dense rows are made from them later, on the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dali_cutmix.core.dali import DataNode, python_pair
from dali_cutmix.mixing.plan import MixPlan


class MixedTarget(NamedTuple):
    """Two classes and their weights per sample: the small form of a mixed target.

    In a graph the fields are nodes, per sample; a loader with ``target="pair"`` hands out tensors
    with a batch axis in front.

    Attributes:
        label: The sample's own class and its partner's: ``[2]`` int64.
        weight: Weight of each, in [0, 1], summing to 1: ``[2]`` float32. Both may name one class.
    """

    label: Any
    weight: Any


def mixed_target(label: DataNode, plan: MixPlan) -> MixedTarget:
    """Weigh each sample's class and its partner's by what the pixels show.

    A pure function of labels and plan: it draws nothing and keeps nothing. The weights are ``kept``
    and ``1 - kept`` of the plan, counted in pixels. A sample that is its own partner keeps weight
    1, whatever was erased of it.

    Args:
        label: Class index: one integer per sample, scalar or ``[1]``, CPU.
        plan: From any plan function.

    Returns:
        ``label`` ``[2]`` int64 and ``weight`` ``[2]`` float32 per sample, CPU. `dense_target`
        turns a batch of them into rows on the device.
    """
    return MixedTarget(*python_pair(_pair_labels, label, plan.partner, plan.kept))


def _pair_labels(
    label: list[np.ndarray], partner: list[np.ndarray], kept: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    for one in label:
        if one.size != 1 or not np.issubdtype(one.dtype, np.integer):
            raise ValueError(
                "mixed_target: `label` must be one class index per sample, got "
                f"{one.dtype} of shape {one.shape}. Class weights are made by dense_target, later."
            )
    pairs, weights = pair_labels(
        np.array(label, np.int64).reshape(-1),
        np.array(partner, np.int64).reshape(-1),
        np.array(kept, np.float32).reshape(-1),
    )
    # DALI takes a list of arrays per sample, not one array for the batch.
    return list(pairs), list(weights)


def pair_labels(
    label: np.ndarray, partner: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weigh each sample's class and its partner's, on the host; see `mixed_target`.

    Args:
        label: Class index of each sample: ``[B]`` int64.
        partner: Index in the batch of each sample's partner: ``[B]`` integers.
        kept: Kept fraction as realised: ``[B]`` float32.

    Returns:
        ``label`` ``[B, 2]`` int64 and ``weight`` ``[B, 2]`` float32.
    """
    share = np.where(partner == np.arange(len(partner)), np.float32(1), kept)
    return np.stack([label, label[partner]], axis=1), np.stack([share, 1 - share], axis=1)
