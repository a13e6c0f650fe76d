"""Plans: everything about a mix that is random, drawn once and read by pixels, masks and labels.

A plan is a few bytes per sample on the CPU. `mix` applies it to pixels, `labels` to labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dali_cutmix import cut
from dali_cutmix._checks import (
    check_alpha,
    check_choice,
    check_count,
    check_prob,
    check_range,
    check_size,
    refuse,
)
from dali_cutmix._dali import FLOAT, FLOAT64, INT32, DataNode, fn, math, types
from dali_cutmix.draws import Draws

Per = Literal["sample", "pair", "batch"]
Partner = Literal["derangement", "permutation", "roll", "flip"]
Placement = Literal["clipped", "clipped_whole", "inside", "uniform"]

NUM_CANDIDATES = (
    64  # cuts drawn when `min_kept` or `max_kept` is set; the first within them is taken
)


@dataclass(frozen=True)
class MixPlan:
    """What is mixed with what, how much and where.

    In a graph the fields are nodes with the shapes below per sample; `DataLoader(with_plan=True)`
    hands them out as CPU tensors with a batch axis in front.

    Attributes:
        own: Index of the sample in its batch. Scalar int32.
        partner: Index in the batch of the sample that it is mixed with. Scalar int32.
        lam: Kept fraction as drawn, in [0, 1]. Scalar float32.
        kept: Kept fraction as realised: the share of the image's pixels (or, blended, of each
            pixel) that stays the sample's own, in [0, 1]. Scalar float32. 1 when nothing is mixed,
            also because the partner is the sample itself.
        anchor: Top left corner of the cut in pixels: ``[2]`` int32 (y, x). None when blended.
        extent: Sides of the cut in pixels: ``[2]`` int32 (y, x); 0 when nothing is cut. None when
            blended.
        size: ``(height, width)`` of every image, in pixels.
    """

    own: Any
    partner: Any
    lam: Any
    kept: Any
    anchor: Any
    extent: Any
    size: tuple[int, int]


def cutmix_plan(
    size: tuple[int, int],
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
    per: Per = "sample",
    partner: Partner = "derangement",
    placement: Placement = "clipped",
    min_kept: float = 0.0,
    max_kept: float = 1.0,
    sides: tuple[float, float] | None = None,
    seed: int | Draws | None = None,
) -> MixPlan:
    """Draw a rectangle for every sample, to be filled from another sample of the batch.

    Args:
        size: ``(height, width)`` of every image, in pixels.
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0. 1 is uniform;
            larger is nearer to one half.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: Who shares a draw of fraction, place and ``prob``: nobody (``"sample"``), a sample and
            its partner (``"pair"``, for ``partner="flip"``), or everyone (``"batch"``).
        partner: Who is mixed with whom: a random permutation without fixed points
            (``"derangement"``), with them (``"permutation"``), the sample before (``"roll"``), or
            the batch read backwards (``"flip"``).
        placement: Where the cut lands, see `dali_cutmix.cut`: ``"clipped"`` by the border, as the
            authors; ``"clipped_whole"``, as timm; wholly ``"inside"``; or ``"uniform"``, so that
            every pixel is equally likely to be cut.
        min_kept: Least kept fraction as realised, in [0, 1].
        max_kept: Largest kept fraction as realised. With either bound set, 64 cuts are drawn and
            the first within the bounds is taken; where none is, the nearest. Applies to samples
            that ``prob`` chose.
        sides: ``(min, max)`` of the cut's sides as shares of the image's, drawn independently and
            uniformly in place of ``alpha``; always placed inside. timm's ``cutmix_minmax``.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        The plan; its ``kept`` counts pixels, so that it is the weight of the sample's own label.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899.
    """
    where = "cutmix_plan"
    size = check_cutmix(
        where, size, alpha, prob, per, partner, placement, min_kept, max_kept, sides
    )
    draws = Draws.of(where, seed)
    bounded = min_kept > 0 or max_kept < 1
    rows = [NUM_CANDIDATES] if bounded else []
    place = fn.random.uniform(range=[0.0, 1.0], shape=[*rows, 2], **draws("cutmix/place"))
    if sides is None:
        lam = fn.random.beta(alpha=alpha, beta=alpha, shape=[*rows, 1], **draws("cutmix/lam"))
        anchor, extent = cut.PLACEMENTS[placement](lam, place, size)
    else:
        share = fn.random.uniform(range=[0.0, 1.0], shape=[*rows, 2], **draws("cutmix/sides"))
        anchor, extent = cut.place_inside(_side_between(share, sides, size), place, size)
        lam = _kept(extent, size, axis=1 if bounded else 0)
    if bounded:
        kept = _kept(extent, size, axis=1)
        chosen = _first_within(kept, min_kept, max_kept)
        lam, anchor, extent = fn.reshape(lam, shape=[-1])[chosen], anchor[chosen], extent[chosen]
    else:
        lam = fn.reshape(lam, shape=[])
    own, other = _pair_up(partner, draws("cutmix/partner"))
    leader = _leader(per, own, other)
    lam, anchor, extent = (_share(value, leader) for value in (lam, anchor, extent))
    extent = extent * _mixed(own, other, prob, leader, draws, "cutmix/prob")
    return MixPlan(own, other, lam, _kept(extent, size, axis=0), anchor, extent, size)


def mixup_plan(
    size: tuple[int, int],
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
    per: Per = "sample",
    partner: Partner = "derangement",
    seed: int | Draws | None = None,
) -> MixPlan:
    """Draw, for every sample, a share of another sample of the batch to blend in.

    Args:
        size: ``(height, width)`` of every image, in pixels.
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0. The paper
            takes 1 on CIFAR and 0.2 on ImageNet.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`.
        partner: As in `cutmix_plan`.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        The plan; without a cut, and with ``kept == lam`` for every sample that is mixed.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        Zhang et al. 2017, mixup, arXiv:1710.09412.
    """
    where = "mixup_plan"
    size = check_mixup(where, size, alpha, prob, per, partner)
    draws = Draws.of(where, seed)
    lam = fn.random.beta(alpha=alpha, beta=alpha, **draws("mixup/lam"))
    own, other = _pair_up(partner, draws("mixup/partner"))
    leader = _leader(per, own, other)
    lam = _share(lam, leader)
    mixed = fn.cast(_mixed(own, other, prob, leader, draws, "mixup/prob"), dtype=FLOAT)
    # Written so that a mixed sample keeps `lam` to the bit, and an unmixed one exactly 1.
    return MixPlan(own, other, lam, lam * mixed + (1.0 - mixed), None, None, size)


def cutout_plan(
    size: tuple[int, int],
    *,
    side: int,
    prob: float = 1.0,
    seed: int | Draws | None = None,
) -> MixPlan:
    """Draw a square for every sample, to be erased.

    Args:
        size: ``(height, width)`` of every image, in pixels.
        side: Side of the square in pixels, even; its centre is uniform over the image's pixels and
            the border clips it.
        prob: Probability in [0, 1] that a sample is cut at all.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        The plan; every sample is its own partner, so that no label changes, and ``kept`` is the
        share of pixels that are left.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552.
    """
    where = "cutout_plan"
    size = check_cutout(where, size, side, prob)
    draws = Draws.of(where, seed)
    place = fn.random.uniform(range=[0.0, 1.0], shape=[2], **draws("cutout/place"))
    anchor, extent = cut.square(side, place, size)
    if prob < 1:
        extent = extent * fn.random.coin_flip(probability=prob, dtype=INT32, **draws("cutout/prob"))
    own, _ = _positions(anchor)
    kept = _kept(extent, size, axis=0)
    return MixPlan(own, own, kept, kept, anchor, extent, size)


def check_cutmix(
    where: str,
    size: tuple[int, int],
    alpha: float,
    prob: float,
    per: str,
    partner: str,
    placement: str,
    min_kept: float,
    max_kept: float,
    sides: tuple[float, float] | None,
) -> tuple[int, int]:
    """Refuse what `cutmix_plan` refuses; the size as integers."""
    size = check_mixup(where, size, alpha, prob, per, partner)
    check_choice(where, "placement", placement, tuple(cut.PLACEMENTS))
    check_prob(where, min_kept, "min_kept")
    check_prob(where, max_kept, "max_kept")
    if min_kept >= max_kept:
        refuse(where, "min_kept", f"be below max_kept={max_kept}", min_kept)
    if sides is not None:
        check_range(where, "sides", sides, 0, 1)
        if min(size) != 1 and any(int(s * sides[0]) >= int(s * sides[1]) for s in size):
            refuse(where, "sides", f"differ by at least one pixel of size={size}", sides)
    return size


def check_mixup(
    where: str, size: tuple[int, int], alpha: float, prob: float, per: str, partner: str
) -> tuple[int, int]:
    """Refuse what `mixup_plan` refuses; the size as integers."""
    size = check_size(where, size)
    check_alpha(where, alpha)
    check_prob(where, prob)
    check_choice(where, "per", per, ("sample", "pair", "batch"))
    check_choice(where, "partner", partner, ("derangement", "permutation", "roll", "flip"))
    if per == "pair" and partner != "flip":
        refuse(
            where,
            "partner",
            "be 'flip' when per='pair'",
            partner,
            "Only there is a sample its partner's partner, so that two can share a draw.",
        )
    return size


def check_cutout(where: str, size: tuple[int, int], side: int, prob: float) -> tuple[int, int]:
    """Refuse what `cutout_plan` refuses; the size as integers."""
    size = check_size(where, size)
    check_count(where, "side", side, at_least=2)
    if side % 2:
        refuse(
            where, "side", "be even", side, f"The square has a centre pixel: {side - 1} is drawn."
        )
    check_prob(where, prob)
    return size


def _pair_up(partner: str, stream: dict[str, Any]) -> tuple[DataNode, DataNode]:
    """Indices of each sample and of its partner, scalar int32 each."""
    # A roll and a flip draw nothing. The permutation then only tells the size of the batch.
    drawn = fn.batch_permutation(no_fixed_points=partner == "derangement", **stream)
    function = {"roll": _rolled, "flip": _flipped}.get(partner, _positions_and_drawn)
    return _python(drawn, function)


def _positions(node: DataNode) -> tuple[DataNode, DataNode]:
    return _python(node, _twice_positions)


def _python(node: DataNode, function: Any) -> tuple[DataNode, DataNode]:
    # DALI has no operator that tells a sample its place in the batch.
    own, other = fn.python_function(node, function=function, num_outputs=2, batch_processing=True)
    return own, other


Indices = list[np.ndarray]


def _scalars(indices: np.ndarray) -> Indices:
    return [np.asarray(index, np.int32) for index in indices]


def _positions_and_drawn(drawn: Indices) -> tuple[Indices, Indices]:
    return _scalars(np.arange(len(drawn))), [np.asarray(index) for index in drawn]


def _twice_positions(drawn: Indices) -> tuple[Indices, Indices]:
    own = _scalars(np.arange(len(drawn)))
    return own, own


def _rolled(drawn: Indices) -> tuple[Indices, Indices]:
    own = np.arange(len(drawn))
    return _scalars(own), _scalars(np.roll(own, 1))


def _flipped(drawn: Indices) -> tuple[Indices, Indices]:
    own = np.arange(len(drawn))
    return _scalars(own), _scalars(own[::-1])


def _leader(per: str, own: DataNode, other: DataNode) -> DataNode | None:
    """Index of the sample whose draws count for this one; None when it is this one."""
    if per == "batch":
        return own * 0
    if per == "pair":
        return math.min(own, other)
    return None


def _share(value: DataNode, leader: DataNode | None) -> DataNode:
    return value if leader is None else fn.permute_batch(value, indices=leader)


def _mixed(
    own: DataNode, other: DataNode, prob: float, leader: DataNode | None, draws: Draws, name: str
) -> DataNode:
    """1 where a sample is mixed with another one, else 0. Scalar int32."""
    mixed = fn.cast(own != other, dtype=INT32)
    if prob == 1:
        return mixed
    chosen = fn.random.coin_flip(probability=prob, dtype=INT32, **draws(name))
    return mixed * _share(chosen, leader)


def _kept(extent: DataNode, size: tuple[int, int], axis: int) -> DataNode:
    """Share of the pixels outside the cut, float32: a correctly rounded quotient of two counts."""
    height, width = size
    cut_pixels = extent[0] * extent[1] if axis == 0 else extent[:, 0] * extent[:, 1]
    return fn.cast(height * width - cut_pixels, dtype=FLOAT) / float(height * width)


def _side_between(share: DataNode, sides: tuple[float, float], size: tuple[int, int]) -> DataNode:
    low = [int(side * sides[0]) for side in size]
    high = [int(side * sides[1]) for side in size]
    span = types.Constant(np.array(high, np.float64) - low, device="cpu")
    drawn = math.min(math.floor(fn.cast(share, dtype=FLOAT64) * span), span - 1.0)
    return drawn + types.Constant(np.array(low, np.float64), device="cpu")


def _first_within(kept: DataNode, low: float, high: float) -> DataNode:
    """Index of the first candidate within [low, high], or of the first of those nearest to it."""
    distance = math.max(math.max(low - kept, kept - high), 0.0)
    nearest = fn.cast(distance <= fn.reductions.min(distance, axes=[0]), dtype=INT32)
    countdown = types.Constant(np.arange(NUM_CANDIDATES, 0, -1, dtype=np.int32), device="cpu")
    return NUM_CANDIDATES - fn.reductions.max(nearest * countdown, axes=[0])
