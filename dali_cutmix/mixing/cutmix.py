"""`CutMix`, and where a cut lands: from a kept fraction and a place to a rectangle of whole pixels.

Other mixes that cut use the same functions. A placement, one of `PLACEMENTS`, takes per sample and
on the CPU:

- ``lam``, the kept fraction as drawn, in [0, 1]: ``[1]``, or ``[n, 1]`` for ``n`` candidates;
- ``point``, uniform numbers in [0, 1) for (y, x): ``[2]`` or ``[n, 2]``;
- ``size``, the ``(height, width)`` of every image, in pixels;
- ``math``, the arithmetic of nodes or of arrays, which have a batch axis in front.

A placement returns ``(anchor, extent)``, top left corner and sides in pixels, (y, x) int32 in the
shape of ``point``. A side may be 0. ``anchor + extent <= size`` always holds.

A full side is ``side * sqrt(1 - lam)``, so that before rounding and clipping the cut has the
image's aspect ratio and the area ``1 - lam``. `strip` cuts along one axis. Arithmetic is float64,
so that the same draw gives the peers' pixels exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import pi
from typing import Any, ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_choice, check_prob, check_range, refuse
from dali_cutmix.core.dali import FLOAT, FLOAT64, INT32
from dali_cutmix.core.draws import Draws, Math
from dali_cutmix.core.frame import Frame, Sample
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

Cut = tuple[Any, Any]
Size = tuple[int, int]
Placement = Callable[[Any, Any, Size, Math], Cut]

NUM_CANDIDATES = 64  # cuts drawn at most when bounds are set on the kept fraction

#: Standard deviation of a Gaussian centre, as a share of the image's side. The paper states none.
GAUSSIAN_STD = 0.25

#: Radians. A float32 number, which DALI's constants are, so that both carriers compute the same.
_TURN = float(np.float32(2 * pi))


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
                NUM_CANDIDATES,
                draw,
                lambda cuts: distance(
                    share_kept(cuts[2], size, math), self.min_kept, self.max_kept, math
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
        kept = share_kept(extent, size, math)
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
        """Draw cuts: the kept fraction as drawn, the anchor and the extent.

        Args:
            draws: The numbers of the cuts.
            candidates: ``[n]`` for n cuts for each sample, ``[]`` for one.
            size: ``(height, width)`` of every image, in pixels.
        """
        math = draws.math
        point = draws.uniform("cutmix/place", [*candidates, 2])
        if self.sides is not None:
            length = draws.uniform("cutmix/sides", [*candidates, 2])
            sides = between_sides(length, self.sides, point, size, math)
            anchor, extent = along(self.axes, sides, size, math)
            return share_kept(extent, size, math), anchor, extent
        if self.lam is None:
            lam = draws.beta("cutmix/lam", self.alpha, [*candidates, 1])
        else:
            lam = math.column(point, 0) * 0 + np.float32(self.lam)
        placement = PLACEMENTS[self.placement]
        if self.axes == "both":
            return lam, *placement(lam, point, size, math)
        return lam, *strip(placement, lam, point, self.axes, size, math)

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
    check_choice(where, "placement", placement, tuple(PLACEMENTS))
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


def clipped(lam: Any, point: Any, size: Size, math: Math) -> Cut:
    """Cut as the authors do: centre uniform over the pixels, sides even, clipped by the border.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, section 3.1; ``rand_bbox`` in the authors'
        ``train.py``. torchvision's ``v2.CutMix`` has the same.
    """
    return around(lam, _pick(point, _sides(size, math), math), size, math)


def clipped_whole(lam: Any, point: Any, size: Size, math: Math) -> Cut:
    """Cut as ``clipped`` does, but keep the last pixel of an odd side.

    Source:
        ``rand_bbox`` in timm 1.0.31, ``timm/data/mixup.py``.
    """
    side = _side(lam, size, math)
    low = _pick(point, _sides(size, math), math) - math.floor(side / 2)
    return _between(low, low + side, size, math)


def inside(lam: Any, point: Any, size: Size, math: Math) -> Cut:
    """Cut where the whole cut lies inside the image, each place equally likely.

    Source:
        ``RandomCutMixV2`` in Kornia; Harris et al. 2020, arXiv:2002.12047, compare placements.
    """
    return _place_inside(_side(lam, size, math), point, size, math)


def uniform(lam: Any, point: Any, size: Size, math: Math) -> Cut:
    """Cut every pixel with equal probability: centres reach beyond the image by half a cut.

    Source:
        ``cutmix_batch(uniform_sampling=True)`` in MosaicML Composer.
    """
    side = _side(lam, size, math)
    half = math.floor(side / 2)
    # From -ceil(side / 2) to size + half, as Composer's `randint(-side // 2, size + side // 2)`.
    centre = _pick(point, _sides(size, math) + side, math) - (side - half)
    return _between(centre - half, centre + half, size, math)


def gaussian(lam: Any, point: Any, size: Size, math: Math) -> Cut:
    """Cut as ``clipped`` does, but draw the centre from a Gaussian around the image's centre.

    The standard deviation is a quarter of the side. Centres beyond the border are moved onto it.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, "Center Gaussian CutMix" in the ablation study,
        which states no standard deviation.
    """
    sides = _sides(size, math)
    half = math.floor(_side(lam, size, math) / 2)
    # Box and Muller: two uniform numbers make two normal ones. A float32 may be rounded up to 1.
    uniforms = math.cast(point, FLOAT64)
    radius = math.sqrt(math.log(math.maximum(1.0 - math.column(uniforms, 0), 2.0**-24)) * -2.0)
    turn = math.column(uniforms, 1) * _TURN
    normal = radius * math.cos(turn - math.constant(np.array([0, _TURN / 4])))
    centre = math.floor(sides * (normal * GAUSSIAN_STD + 0.5))
    centre = math.minimum(math.maximum(centre, 0.0), sides - 1.0)
    return _between(centre - half, centre + half, size, math)


def around(lam: Any, centre: Any, size: Size, math: Math) -> Cut:
    """Cut as ``clipped`` does, around a centre that is known: ``[2]`` float64 (y, x), whole."""
    half = math.floor(_side(lam, size, math) / 2)
    return _between(centre - half, centre + half, size, math)


def square(side: int, point: Any, size: Size, math: Math) -> Cut:
    """Cut a square of ``side`` pixels: centre uniform over the pixels, clipped by the border.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552; ``Cutout`` in the authors' ``cutout.py``.
    """
    centre = _pick(point, _sides(size, math), math)
    half = float(side // 2)
    return _between(centre - half, centre + half, size, math)


def between_sides(
    length: Any, sides: tuple[float, float], point: Any, size: Size, math: Math
) -> Cut:
    """Draw each side uniformly between two shares of the image's side, the cut inside.

    Args:
        length: Uniform numbers in [0, 1) for the sides (y, x), in the shape of ``point``.
        sides: Smallest share, and the share that is just not reached, in [0, 1].
        point: As of a placement.
        size: ``(height, width)`` in pixels.
        math: As of a placement.

    Source:
        ``rand_bbox_minmax`` in timm 1.0.31.
    """
    low = np.array([int(side * sides[0]) for side in size], np.float64)
    high = np.array([int(side * sides[1]) for side in size], np.float64)
    if not (low < high).all():
        refuse("cutmix_plan", "sides", f"differ by at least one pixel of size={size}", sides)
    length = _pick(length, math.constant(high - low), math) + math.constant(low)
    return _place_inside(length, point, size, math)


def strip(placement: Placement, lam: Any, point: Any, axes: str, size: Size, math: Math) -> Cut:
    """Cut whole rows or whole columns: along one axis as ``placement`` says, else all of the image.

    The side along the axis is ``side * (1 - lam)``: the area of a cut along both axes, before
    rounding and clipping.

    Args:
        placement: One of `PLACEMENTS`.
        lam: As of a placement.
        point: As of a placement. The number of the other axis is not used.
        axes: As `along` takes it.
        size: As of a placement.
        math: As of a placement.
    """
    cut_share = 1.0 - math.cast(lam, FLOAT64)
    # A placement takes the square root of what is cut, since it cuts two sides.
    return along(axes, placement(1.0 - cut_share * cut_share, point, size, math), size, math)


def along(axes: str, cut: Cut, size: Size, math: Math) -> Cut:
    """Extend a cut from border to border, but along one axis.

    Args:
        axes: ``"y"`` leaves the cut's rows as they are, ``"x"`` its columns, ``"both"`` both.
        cut: Anchor and extent, as placements return them.
        size: As of a placement.
        math: As of a placement.
    """
    if axes == "both":
        return cut
    is_cut = np.array([axes == "y", axes == "x"], np.int32)
    whole = math.constant(np.array(size, np.int32) * (1 - is_cut))
    anchor, extent = cut
    return anchor * math.constant(is_cut), extent * math.constant(is_cut) + whole


def share_kept(extent: Any, size: Size, math: Math) -> Any:
    """Return the share of the pixels outside the cut: ``[1]`` or ``[n, 1]`` float32, as ``lam``.

    The quotient of two counts is rounded correctly up to 4096 x 4096 pixels.
    """
    num_pixels = size[0] * size[1]
    cut_out = math.column(extent, 0) * math.column(extent, 1)
    return math.cast(num_pixels - cut_out, FLOAT) / float(num_pixels)


def distance(kept: Any, low: float, high: float, math: Math) -> Any:
    """Return how far kept fractions lie outside of [low, high], 0 within; shaped as ``kept``."""
    return math.maximum(math.maximum(low - kept, kept - high), 0.0)


PLACEMENTS: dict[str, Placement] = {
    "clipped": clipped,
    "clipped_whole": clipped_whole,
    "inside": inside,
    "uniform": uniform,
    "gaussian": gaussian,
}


def _sides(size: Size, math: Math) -> Any:
    return math.constant(np.array(size, np.float64))


def _side(lam: Any, size: Size, math: Math) -> Any:
    """Return the full sides of a cut, whole and float64."""
    return math.floor(_sides(size, math) * math.sqrt(1.0 - math.cast(lam, FLOAT64)))


def _place_inside(side: Any, point: Any, size: Size, math: Math) -> Cut:
    anchor = _pick(point, _sides(size, math) - side + 1.0, math)
    return math.cast(anchor, INT32), math.cast(side, INT32)


def _pick(point: Any, count: Any, math: Math) -> Any:
    """Return a whole number in [0, count), uniform as ``point`` is in [0, 1)."""
    # The minimum guards against a float32 uniform number that was rounded up to 1.
    return math.minimum(math.floor(math.cast(point, FLOAT64) * count), count - 1.0)


def _between(low: Any, high: Any, size: Size, math: Math) -> Cut:
    # Cast last: a cast from float to integer rounds, so the numbers must be whole before.
    sides = _sides(size, math)
    low, high = (math.minimum(math.maximum(end, 0.0), sides) for end in (low, high))
    return math.cast(low, INT32), math.cast(high - low, INT32)
