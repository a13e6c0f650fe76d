"""Partners drawn by the weights of their classes: ``partner="weighted"``."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf as INFINITY
from typing import Any

import numpy as np

from dali_cutmix.core.checks import is_number, refuse
from dali_cutmix.core.draws import Draws


def checked_weights(where: str, class_weights: Any) -> tuple[float, ...]:
    """Return the weight of each class as a number.

    Args:
        where: The mix, for messages.
        class_weights: Numbers of at least 0, not all 0: a list, an array or a tensor.
    """
    weights = class_weights.tolist() if hasattr(class_weights, "tolist") else class_weights
    is_fine = isinstance(weights, (tuple, list)) and all(map(is_number, weights))
    if not is_fine or not 0 < sum(weights) < INFINITY or min(weights) < 0:
        rule = "be a number of at least 0 for each class, not all 0, with partner='weighted'"
        refuse(where, "class_weights", rule, class_weights)
    return tuple(map(float, weights))


def weighted_partners(
    where: str, class_weights: Sequence[float], draws: Draws, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a partner for every sample of a batch, on the host.

    Each other sample is the partner with a probability proportional to its class's weight, for
    each sample independently, so that several may share a partner. A sample keeps to itself where
    no other sample has a weight above 0. Takes a number for each pair of samples: a batch of 1,024
    takes a million.

    Args:
        where: The mix, for messages.
        class_weights: Weight of each class, at least 0.
        draws: Where the numbers come from.
        name: The draw's stream.

    Returns:
        Index in the batch of the sample itself and of its partner: ``[B, 1]`` int32 each.

    Raises:
        ValueError: Labels are not known here, or a label has no weight.
    """
    if draws.labels is None:
        way_out = "Pass `labels=` to `draw_plan`. Graphs of your own know no labels."
        refuse(where, "partner", "not be 'weighted' without labels", "weighted", way_out)
    if (largest := int(draws.labels.max())) >= len(class_weights):
        rule = f"hold a weight for each class, and class {largest} occurs"
        refuse(where, "class_weights", rule, f"{len(class_weights)} weights")
    weights = np.array(class_weights)[draws.labels]
    sample = np.arange(len(weights))
    # The first of exponential times, at rates of the weights: the rank of Gumbel numbers that log
    # weights were added to, for weights of any ratio. A float32 share may be 0.
    share = np.maximum(draws.uniform(name, [len(sample)]).astype(np.float64), 2.0**-26)
    with np.errstate(divide="ignore", over="ignore"):
        time = -np.log(share) / weights
    time[:, weights == 0] = np.inf  # also where the share is 1
    np.fill_diagonal(time, np.inf)
    partner = np.where(np.isfinite(time).any(axis=1), time.argmin(axis=1), sample)
    return sample[:, None].astype(np.int32), partner[:, None].astype(np.int32)
