"""Plans: everything about a mix that is random, drawn once and read by pixels, masks and labels.

A plan is a few bytes per sample on the CPU. `mix` applies it to pixels, `labels` to labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dali_cutmix.core.checks import (
    check_alpha,
    check_choice,
    check_count,
    check_prob,
    check_range,
    check_size,
    refuse,
)
from dali_cutmix.core.dali import FLOAT, INT32
from dali_cutmix.core.draws import Draws, GraphDraws, HostDraws
from dali_cutmix.core.math import cast, row, scalar
from dali_cutmix.mixing import cut
from dali_cutmix.mixing.partner import Partner, Per, check_partner, leader, pair_up, position, share

Placement = Literal["clipped", "clipped_whole", "inside", "uniform"]


@dataclass(frozen=True)
class MixPlan:
    """What is mixed with what, how much and where.

    In a graph the fields are nodes with the shapes below per sample; `DataLoader(with_plan=True)`
    hands them out as CPU tensors with a batch axis in front, and on the host, where the loader
    draws, they are such arrays.

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
            (``"derangement"``, a single cycle through the batch), with them
            (``"permutation"``), the sample before (``"roll"``), or the batch read backwards
            (``"flip"``).
        placement: Where the cut lands, see `dali_cutmix.mixing.cut`: ``"clipped"`` by the border,
            as the authors; ``"clipped_whole"``, as timm; wholly ``"inside"``; or ``"uniform"``, so
            that every pixel is equally likely to be cut.
        min_kept: Least kept fraction as realised, in [0, 1].
        max_kept: Largest kept fraction as realised. With either bound set, 64 cuts are drawn and
            the first within the bounds is taken; where none is, the nearest. Applies to samples
            that ``prob`` chose.
        sides: ``(min, max)`` of the cut's sides as shares of the image's, drawn independently and
            uniformly in place of ``alpha``; always placed inside. timm's ``cutmix_minmax``.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.
            With the loader's draws on the host the plan is one of arrays.

    Returns:
        The plan; its ``kept`` counts pixels, so that it is the weight of the sample's own label.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899.
    """
    where = "cutmix_plan"
    size = check_size(where, size)
    check_cutmix(
        where,
        alpha=alpha,
        prob=prob,
        per=per,
        partner=partner,
        placement=placement,
        min_kept=min_kept,
        max_kept=max_kept,
        sides=sides,
    )
    draws = draws_of(where, seed)
    bounded = min_kept > 0 or max_kept < 1
    rows = [cut.NUM_CANDIDATES] if bounded else []
    place = draws.uniform("cutmix/place", [*rows, 2])
    if sides is None:
        lam = draws.beta("cutmix/lam", alpha, [*rows, 1])
        anchor, extent = cut.PLACEMENTS[placement](lam, place, size)
    else:
        length = draws.uniform("cutmix/sides", [*rows, 2])
        anchor, extent = cut.between_sides(length, sides, place, size)
        lam = cut.kept(extent, size)
    if bounded:
        chosen = cut.first_within(cut.kept(extent, size), min_kept, max_kept)
        lam, anchor, extent = (row(value, chosen) for value in (lam, anchor, extent))
    own, other = pair_up(partner, draws, "cutmix/partner")
    first = leader(per, own, other)
    lam, anchor, extent = (share(value, per, first) for value in (lam, anchor, extent))
    # Without another sample nothing is cut: an image pasted on itself keeps all its pixels.
    extent = extent * cast(own != other, INT32)
    if prob < 1:
        extent = extent * share(draws.chance("cutmix/prob", prob), per, first)
    return _plan(own, other, lam, cut.kept(extent, size), anchor, extent, size)


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
    size = check_size(where, size)
    check_mixup(where, alpha=alpha, prob=prob, per=per, partner=partner)
    draws = draws_of(where, seed)
    lam = draws.beta("mixup/lam", alpha, [1])
    own, other = pair_up(partner, draws, "mixup/partner")
    first = leader(per, own, other)
    lam = share(lam, per, first)
    mixed = cast(own != other, FLOAT)
    if prob < 1:
        mixed = mixed * cast(share(draws.chance("mixup/prob", prob), per, first), FLOAT)
    # Written so that a mixed sample keeps `lam` to the bit, and another one exactly 1.
    return _plan(own, other, lam, lam * mixed + (1.0 - mixed), None, None, size)


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
    size = check_size(where, size)
    check_cutout(where, side=side, prob=prob)
    draws = draws_of(where, seed)
    place = draws.uniform("cutout/place", [2])
    anchor, extent = cut.square(side, place, size)
    if prob < 1:
        extent = extent * draws.chance("cutout/prob", prob)
    own, kept = position(anchor), cut.kept(extent, size)
    return _plan(own, own, kept, kept, anchor, extent, size)


def draws_of(where: str, seed: int | Draws | None) -> Draws:
    """Where a graph function's numbers come from: as given, or from a seed or the graph's."""
    if isinstance(seed, (GraphDraws, HostDraws)):
        return seed
    return GraphDraws.of(where, seed)  # type: ignore[arg-type]  # refuses what is no integer


def _plan(own: Any, partner: Any, lam: Any, kept: Any, *rest: Any) -> MixPlan:
    """A plan whose four numbers per sample are scalars."""
    if isinstance(own, np.ndarray):
        own, partner = scalar(own), scalar(partner)
    return MixPlan(own, partner, scalar(lam), scalar(kept), *rest)


def check_cutmix(
    where: str,
    *,
    alpha: float,
    prob: float,
    per: str,
    partner: str,
    placement: str,
    min_kept: float,
    max_kept: float,
    sides: tuple[float, float] | None,
) -> None:
    """Refuse what `cutmix_plan` refuses."""
    check_mixup(where, alpha=alpha, prob=prob, per=per, partner=partner)
    check_choice(where, "placement", placement, tuple(cut.PLACEMENTS))
    check_prob(where, min_kept, "min_kept")
    check_prob(where, max_kept, "max_kept")
    if min_kept >= max_kept:
        refuse(where, "min_kept", f"be below max_kept={max_kept}", min_kept)
    if sides is not None:
        check_range(where, "sides", sides, 0, 1)
        if sides[0] == sides[1]:
            refuse(where, "sides", "have a min below its max", sides)
        if alpha != 1:
            refuse(where, "alpha", "be left out with `sides`, which take its place", alpha)


def check_mixup(where: str, *, alpha: float, prob: float, per: str, partner: str) -> None:
    """Refuse what `mixup_plan` refuses."""
    check_alpha(where, alpha)
    check_prob(where, prob)
    check_partner(where, per, partner)


def check_cutout(where: str, *, side: int, prob: float) -> None:
    """Refuse what `cutout_plan` refuses."""
    check_count(where, "side", side, at_least=2)
    if side % 2:
        way_out = f"The square has a centre pixel, and {side - 1} would be drawn."
        refuse(where, "side", "be even", side, way_out)
    check_prob(where, prob)
