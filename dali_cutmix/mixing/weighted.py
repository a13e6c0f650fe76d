"""Partners drawn by the weights of their classes, or of their own: ``partner="weighted"``."""

from __future__ import annotations

import hashlib
from math import inf as INFINITY
from typing import Any

import numpy as np

from dali_cutmix.core.checks import Told, is_number, refuse
from dali_cutmix.core.draws import Draws

#: Weight of a sample next to the largest of its batch, at least. Sums of smaller ones underflow.
_LEAST = 2.0**-900


class SampleWeights:
    """Hold a weight for each sample of a source.

    Args:
        weights: ``[N]`` float64 of at least 0.

    Attributes:
        weights: As the argument.
        fingerprint: A hash of the weights.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights
        self.fingerprint = hashlib.blake2b(weights.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.weights)

    def __repr__(self) -> str:
        return f"weights of {len(self)} samples"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleWeights) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def checked_class_weights(where: str, class_weights: Any) -> tuple[float, ...]:
    """Return the weight of each class as a number.

    Args:
        where: The mix, for messages.
        class_weights: Numbers of at least 0, not all 0: a list, an array or a tensor.
    """
    return tuple(_checked(where, "class_weights", "class", class_weights).tolist())


def checked_sample_weights(where: str, sample_weights: Any) -> SampleWeights:
    """Return the weight of each sample of a source; see `checked_class_weights`."""
    if isinstance(sample_weights, SampleWeights):
        return sample_weights
    return SampleWeights(_checked(where, "sample_weights", "sample of the source", sample_weights))


def _checked(where: str, name: str, of: str, weights: Any) -> np.ndarray:
    """Return weights, ``[n]`` float64; refuse what cannot be drawn by."""
    numbers = _numbers(weights)
    with np.errstate(over="ignore"):
        is_fine = numbers is not None and 0 < numbers.sum() < INFINITY and numbers.min() >= 0
    if numbers is None or not is_fine:
        rule = f"be a number of at least 0 for each {of}, not all 0, with partner='weighted'"
        refuse(where, name, rule, weights)
    return numbers


def _numbers(weights: Any) -> np.ndarray | None:
    if isinstance(weights, np.ndarray):
        is_fine = weights.ndim == 1 and weights.dtype.kind in "fiu"
        return weights.astype(np.float64) if is_fine else None
    if hasattr(weights, "tolist"):  # a tensor
        weights = weights.tolist()
    if not isinstance(weights, (tuple, list)) or not all(map(is_number, weights)):
        return None
    try:
        return np.array([float(weight) for weight in weights])
    except OverflowError:
        return None


def weights_of(where: str, mix: Any, draws: Draws) -> np.ndarray:
    """Return the weight of each sample of a batch: ``[B]`` float64.

    Args:
        where: The mix, for messages.
        mix: Has ``class_weights`` or ``sample_weights``.
        draws: Say what the batch holds.

    Raises:
        ValueError: Classes or indices of the batch are not known here, or one has no weight.
    """
    by_sample: SampleWeights | None = mix.sample_weights
    what, name = ("labels", "class") if by_sample is None else ("indices", "sample")
    numbers = draws.labels if by_sample is None else draws.listed
    if numbers is None:
        way_out = f"Pass `{what}=` to `draw_plan`. Graphs of your own know no {what}."
        refuse(where, "partner", f"not be 'weighted' without {what}", "weighted", way_out)
    weights = np.array(mix.class_weights) if by_sample is None else by_sample.weights
    if (largest := int(numbers.max())) >= len(weights):
        rule = f"hold a weight for each {name}, and {name} {largest} occurs"
        refuse(where, f"{name}_weights", rule, Told(f"{len(weights)} weights"))
    of_batch: np.ndarray = weights[numbers]
    return of_batch


def weighted_partners(
    weights: np.ndarray, draws: Draws, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a partner for every sample of a batch, on the host.

    Each other sample is the partner with a probability proportional to its weight, for each sample
    independently, so that several may share a partner. A sample keeps to itself where no other
    sample has a weight above 0.

    Args:
        weights: Weight of each sample, at least 0: ``[B]`` float64.
        draws: Where the numbers come from.
        name: The draw's stream.

    Returns:
        Index in the batch of the sample itself and of its partner: ``[B, 1]`` int32 each.
    """
    count = len(weights)
    sample = np.arange(count, dtype=np.int32)
    if weights.max() > 0:
        weights = np.maximum(weights / weights.max(), _LEAST * (weights > 0))
    # Sums from both ends: to subtract a large weight from the sum of all would lose small ones.
    from_first = np.concatenate([[0.0], np.cumsum(weights)])
    from_last = np.concatenate([[0.0], np.cumsum(weights[::-1])])
    before, behind = from_first[:-1], from_last[count - 1 - sample]
    point = _fine_uniform(draws, name) * (before + behind)
    # The weights of the others side by side: the partner is whose part holds the point.
    is_before = point < before
    rest = np.minimum(before + behind - point, behind)
    partner = np.where(
        is_before,
        np.searchsorted(from_first, point, side="right") - 1,
        count - np.searchsorted(from_last, rest, side="left"),
    )
    partner = np.where(before + behind > 0, partner, sample)
    return sample[:, None], partner[:, None].astype(np.int32)


def _fine_uniform(draws: Draws, name: str) -> np.ndarray:
    """Draw a number in [0, 1) for each sample in steps of 2**-48: ``[B]`` float64.

    The steps of a float32 number would be as large as the share of a light sample.
    """
    coarse, fine = draws.uniform(name, [2]).astype(np.float64).T
    steps = np.minimum(np.floor(coarse * 2**24), 2**24 - 1)  # a float32 may be rounded up to 1
    uniform: np.ndarray = np.minimum((steps + fine) / 2**24, 1 - 2.0**-50)
    return uniform
