"""`CutMix`: a rectangle of each image is filled from another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_choice, check_prob, check_range, refuse
from dali_cutmix.core.dali import INT32
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing import cut
from dali_cutmix.mixing.paste import paste_regions
from dali_cutmix.mixing.plan import (
    MixPlan,
    Partner,
    Per,
    Rect,
    keep_weights,
    leader,
    partners_of,
    share,
)

PlacementName = Literal["clipped", "clipped_whole", "inside", "uniform", "gaussian"]
Axes = Literal["both", "y", "x"]

#: What timm calls a draw per sample, pair or batch.
TIMM_MODES: dict[str, Per] = {"batch": "batch", "pair": "pair", "elem": "sample"}


@dataclass(frozen=True)
class CutMix:
    """Fill a rectangle of each image from another one, and weigh the labels by pixels.

    By default each sample has its own draw and a partner other than itself, the centre is uniform
    and the border clips the cut, as in the paper. The arguments are those of `cutmix_plan`, and
    `partner="weighted"` with ``class_weights``, a weight for each class of the source, or with
    ``sample_weights``, a weight for each of its samples; each at least 0. Each other sample of the
    batch is the partner with a probability proportional to its weight, so that rare classes or hard
    samples are pasted more often.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899.
    """

    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    placement: PlacementName = "clipped"
    min_kept: float = 0.0
    max_kept: float = 1.0
    sides: tuple[float, float] | None = None
    lam: float | None = None
    axes: Axes = "both"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_cutmix(
            "CutMix",
            alpha=self.alpha,
            prob=self.prob,
            placement=self.placement,
            min_kept=self.min_kept,
            max_kept=self.max_kept,
            sides=self.sides,
            lam=self.lam,
            axes=self.axes,
        )
        keep_weights("CutMix", self, self.per)

    @classmethod
    def paper(cls, alpha: float = 1.0, prob: float = 1.0) -> CutMix:
        """Mix as the authors' code: one draw per batch, partners by a random permutation."""
        return cls(alpha=alpha, prob=prob, per="batch", partner="permutation")

    @classmethod
    def torchvision(cls, alpha: float = 1.0) -> CutMix:
        """Mix as ``torchvision.transforms.v2.CutMix``: one draw per batch, the sample before."""
        return cls(alpha=alpha, per="batch", partner="roll")

    @classmethod
    def timm(
        cls,
        alpha: float = 1.0,
        mode: Literal["batch", "pair", "elem"] = "batch",
        minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
    ) -> CutMix:
        """Mix as ``timm.data.Mixup(mixup_alpha=0, cutmix_alpha=alpha)`` of timm 1.0.31.

        Smoothing is left to the loss: `mixed_cross_entropy(label_smoothing=0.1)` has timm's
        targets. Sides are computed in double precision, as timm does in mode ``"batch"``. In its
        other modes timm takes single precision, which differs by a pixel in some 6 of a million
        draws.
        """
        check_choice("CutMix.timm", "mode", mode, tuple(TIMM_MODES))
        return cls(
            alpha=alpha if minmax is None else 1.0,
            prob=prob,
            per=TIMM_MODES[mode],
            partner="flip",
            placement="clipped_whole",
            sides=minmax,
        )

    @classmethod
    def composer_uniform(cls, alpha: float = 1.0) -> CutMix:
        """Mix as Composer's ``cutmix_batch(uniform_sampling=True)``: all pixels equally likely."""
        return cls(alpha=alpha, per="batch", partner="permutation", placement="uniform")

    @classmethod
    def inside(cls, alpha: float = 1.0, prob: float = 1.0) -> CutMix:
        """Mix as Kornia's ``RandomCutMixV2``: a draw per sample, the cut never clipped.

        ``prob`` is per sample here; Kornia's ``p`` is for the whole batch.
        """
        return cls(alpha=alpha, prob=prob, partner="permutation", placement="inside")

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan; see `Mix`."""
        math, size = draws.math, frame.size
        draw = partial(self._cuts, size=size)
        if self.min_kept > 0 or self.max_kept < 1:
            lam, anchor, extent = draws.first_best(
                cut.NUM_CANDIDATES,
                draw,
                lambda cuts: cut.distance(
                    cut.kept(cuts[2], size, math), self.min_kept, self.max_kept, math
                ),
            )
        else:
            lam, anchor, extent = draw(draws, [])
        sample, partner = partners_of(self, draws, "cutmix/partner")
        first = leader(self.per, sample, partner, math)
        lam, anchor, extent = (share(v, self.per, first, math) for v in (lam, anchor, extent))
        # Without another sample nothing is cut: an image pasted on itself keeps all its pixels.
        extent = extent * math.cast(sample != partner, INT32)
        if self.prob < 1:
            extent = extent * share(draws.chance("cutmix/prob", self.prob), self.per, first, math)
        kept = cut.kept(extent, size, math)
        rect = Rect(
            math.stack([math.constant(np.zeros(2, np.int32)), anchor]),
            math.stack([math.constant(np.array(size, np.int32)), extent]),
        )
        return MixPlan(
            source=math.join([sample, partner]),
            weight=math.join([kept, 1.0 - kept]),
            size=size,
            taken=rect,
            put=rect,
            lam=math.scalar(lam),
            num_regions=2,
        )

    def _cuts(
        self, draws: Draws, candidates: Sequence[int], size: tuple[int, int]
    ) -> tuple[Any, Any, Any]:
        """Draw cuts: the kept fraction as drawn, the anchor and the extent; see `cut`.

        Args:
            draws: The numbers of the cuts.
            candidates: ``[n]`` for n cuts for each sample, ``[]`` for one.
            size: ``(height, width)`` of every image, in pixels.
        """
        math = draws.math
        point = draws.uniform("cutmix/place", [*candidates, 2])
        if self.sides is not None:
            length = draws.uniform("cutmix/sides", [*candidates, 2])
            sides = cut.between_sides(length, self.sides, point, size, math)
            anchor, extent = cut.along(self.axes, sides, size, math)
            return cut.kept(extent, size, math), anchor, extent
        if self.lam is None:
            lam = draws.beta("cutmix/lam", self.alpha, [*candidates, 1])
        else:
            lam = math.column(point, 0) * 0 + np.float32(self.lam)
        placement = cut.PLACEMENTS[self.placement]
        if self.axes == "both":
            return lam, *placement(lam, point, size, math)
        return lam, *cut.strip(placement, lam, point, self.axes, size, math)

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        # A paste of nothing would still copy every image.
        return sample.change(partial(paste_regions, plan=plan)) if self.prob > 0 else sample


def check_cutmix(
    where: str,
    *,
    alpha: float,
    prob: float,
    placement: str,
    min_kept: float,
    max_kept: float,
    sides: tuple[float, float] | None,
    lam: float | None,
    axes: str,
) -> None:
    """Refuse settings outside their ranges, and settings that contradict each other."""
    check_alpha(where, alpha)
    check_prob(where, prob)
    check_choice(where, "placement", placement, tuple(cut.PLACEMENTS))
    check_choice(where, "axes", axes, ("both", "y", "x"))
    check_prob(where, min_kept, "min_kept")
    check_prob(where, max_kept, "max_kept")
    if min_kept >= max_kept:
        refuse(where, "min_kept", f"be below max_kept={max_kept}", min_kept)
    if sides is not None:
        check_range(where, "sides", sides, 0, 1)
        if sides[0] == sides[1]:
            refuse(where, "sides", "have a min below its max", sides)
        if lam is not None:
            refuse(where, "lam", "be left out with `sides`, which take its place", lam)
        if alpha != 1:
            refuse(where, "alpha", "be left out with `sides`, which take its place", alpha)
    if lam is not None:
        check_prob(where, lam, "lam")
        if alpha != 1:
            refuse(where, "alpha", "be left out with `lam`, which takes its place", alpha)
