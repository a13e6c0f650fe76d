"""`ClipCutMix`: a part of each clip or volume, in time and space, is filled from another one.

A clip is a stack of frames of one size, and a volume a stack of slices. A loader runs the frames as
the samples of its graph, so that any mix of images mixes clips as well: each clip draws once, and
`plan_of_frames` repeats the plan for the frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_choice, check_prob
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample, map_leaves
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

Kind = Literal["tube", "temporal", "cuboid", "moving"]

#: Roots of ``1 - lam`` that the sides of a cut are: as many as axes are cut.
_NUM_AXES = {"tube": 2, "temporal": 1, "cuboid": 3, "moving": 2}


@dataclass(frozen=True, eq=False)
class ClipPlan(MixPlan):
    """A plan of two regions whose cut has a rectangle in every frame of a clip.

    ``source`` and ``weight`` are those of the clip: weights count the pixels of all frames. ``put``
    and ``taken`` are None: read ``anchors`` and ``extents``.

    Attributes:
        anchors: Top left corner of the cut in each frame: ``[T, 2]`` int32 (y, x), in pixels.
        extents: Sides of the cut in each frame: ``[T, 2]`` int32 (y, x), in pixels. 0 in a frame
            that shows the sample itself alone.
    """

    anchors: Any = None
    extents: Any = None

    @property
    def blends(self) -> bool:
        """False: pixels are copies."""
        return False

    def for_operators(self) -> ClipPlan:
        """Return the plan without what only labels need."""
        return replace(self, weight=None, lam=None)


@dataclass(frozen=True)
class ClipCutMix:
    """Fill a part of each clip or volume from another one, and weigh the labels by voxels.

    Each kind draws a kept fraction and a centre as `CutMix` does. The border of the clip cuts off
    what lies beyond the border, in time too.

    | Kind | Cut | Sides, as shares of the clip's | Mean kept |
    | --- | --- | --- | --- |
    | ``"tube"`` | one rectangle in all frames | square root of ``1 - lam`` | .679 |
    | ``"temporal"`` | all of some frames in a row | ``1 - lam`` | .583 |
    | ``"cuboid"`` | one rectangle in some frames in a row | cube root of ``1 - lam`` | .756 |
    | ``"moving"`` | a rectangle in all frames, from one centre to another | square root | .64 |

    The means are those of ``alpha=1`` without rounding. ``"tube"`` draws what `CutMix` draws. The
    centre of a ``"moving"`` cut walks from the centre that a tube would have, in the first frame,
    to another that is drawn, in the last frame, on a straight line.

    Args:
        kind: Shape of the cut.
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Source:
        Yun et al. 2020, VideoMix, arXiv:2012.03457: tube ("spatial"), temporal and cuboid
        ("spatiotemporal").
    """

    kind: Kind = "tube"
    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_choice("ClipCutMix", "kind", self.kind, tuple(_NUM_AXES))
        check_alpha("ClipCutMix", self.alpha)
        check_prob("ClipCutMix", self.prob)
        keep_weights("ClipCutMix", self, self.per)

    def draw(self, draws: Draws, frame: Frame) -> ClipPlan:
        """Draw the plan, on the host; see `Mix`.

        Raises:
            ValueError: Samples are images, not stacks of frames.
        """
        if not frame.depth:
            raise ValueError(
                "ClipCutMix: samples must be clips or volumes, as of `Clips` and `Volumes`, and "
                "the source has images. `CutMix()` mixes images."
            )
        math = draws.math
        point = draws.uniform("cutmix/place", [2])
        lam = draws.beta("cutmix/lam", self.alpha, [1])
        sample, partner = partners_of(self, draws, "cutmix/partner")
        first = leader(self.per, sample, partner, math)
        point, lam = (share(value, self.per, first, math) for value in (point, lam))
        side = (1.0 - lam.astype(np.float64)) ** (1 / _NUM_AXES[self.kind])
        centre = _pick(point, frame.size)[:, None]
        if self.kind == "moving":
            end = share(draws.uniform("cutmix/end", [2]), self.per, first, math)
            centre = _between(centre, _pick(end, frame.size)[:, None], frame.depth)
        low, high = _clipped(centre, side[:, None], frame)
        if self.kind in ("temporal", "cuboid"):
            when = share(draws.uniform("cutmix/time", [1]), self.per, first, math)
            is_cut = _interval(when[:, 0], side[:, 0], frame.depth)[..., None]
            if self.kind == "temporal":
                low, high = low * 0, low * 0 + np.array(frame.size)
            high = np.where(is_cut, high, low)
        # Without another sample nothing is cut: a clip pasted on itself keeps all its voxels.
        is_mixed = sample != partner
        if self.prob < 1:
            chance = share(draws.chance("cutmix/prob", self.prob), self.per, first, math)
            is_mixed = is_mixed & (chance > 0)
        extents = (high - low) * is_mixed[..., None]
        shape = (len(sample), frame.depth, 2)
        extents = np.broadcast_to(extents, shape)
        kept = _share_kept(extents, frame)
        return ClipPlan(
            source=np.concatenate([sample, partner], axis=1).astype(np.int32),
            weight=np.stack([kept, np.float32(1.0) - kept], axis=1),
            size=frame.size,
            lam=lam[:, 0],
            anchors=np.broadcast_to(low, shape).astype(np.int32),
            extents=extents.astype(np.int32),
        )

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply a plan of frames, as `plan_of_frames` makes it, to pixels; see `Mix`."""
        return sample.change(partial(paste_regions, plan=plan)) if self.prob > 0 else sample


def plan_of_frames(plan: MixPlan, depth: int) -> MixPlan:
    """Repeat a plan of clips for the frames of each clip.

    Args:
        plan: A plan of arrays for B clips, as `MixPlan.for_operators` returns it.
        depth: Frames of a clip, T.

    Returns:
        A plan for ``B * T`` images, the frames of the first clip first. Frame ``t`` is mixed with
        the frames ``t`` of the clip's sources.
    """
    if isinstance(plan, ClipPlan):
        return _plan_of_cuts(plan, depth)
    parts = getattr(plan, "plans", None)
    plan = map_leaves(lambda leaf: leaf.repeat(depth, axis=0), plan)
    changes: dict[str, Any] = {}
    if plan.source is not None:
        changes["source"] = _of_frames(plan.source, depth)
    if parts is not None:
        changes["plans"] = tuple(plan_of_frames(part, depth) for part in parts)
    return replace(plan, **changes)


def _plan_of_cuts(plan: ClipPlan, depth: int) -> MixPlan:
    anchor, extent = (value.reshape(-1, 2) for value in (plan.anchors, plan.extents))
    source = _of_frames(plan.source.repeat(depth, axis=0), depth)
    # A region of no area shows the sample itself; see `without_empty`.
    source[:, 1] = np.where(extent.min(axis=1) > 0, source[:, 1], source[:, 0])
    full_size = np.broadcast_to(np.array(plan.size, np.int32), extent.shape)
    rect = Rect(np.stack([anchor * 0, anchor], axis=1), np.stack([full_size, extent], axis=1))
    return MixPlan(source, None, plan.size, taken=rect, put=rect, num_regions=2)


def _of_frames(source: np.ndarray, depth: int) -> np.ndarray:
    """Turn indices of clips, ``[B * T, k]``, into indices of their frames at the same time."""
    time = np.arange(len(source), dtype=np.int32) % depth
    frames: np.ndarray = source * np.int32(depth) + time[:, None]
    return frames


def _pick(point: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return whole numbers in [0, size), uniform as ``point`` is in [0, 1)."""
    # The minimum guards against a float32 uniform number that was rounded up to 1.
    sides = np.array(size, np.float64)
    picked: np.ndarray = np.minimum(np.floor(point.astype(np.float64) * sides), sides - 1)
    return picked


def _share_kept(extents: np.ndarray, frame: Frame) -> np.ndarray:
    """Return the share of the voxels outside the cuts: ``[B]`` float32.

    Args:
        extents: Sides of the cut in each frame, in pixels: ``[B, T, 2]`` (y, x).
        frame: What every clip looks like.
    """
    num_voxels = frame.depth * frame.size[0] * frame.size[1]
    cut_out = extents.prod(axis=2).sum(axis=1)
    share: np.ndarray = ((num_voxels - cut_out) / num_voxels).astype(np.float32)
    return share


def _between(first: np.ndarray, last: np.ndarray, depth: int) -> np.ndarray:
    """Return a centre for each frame on a straight line, in whole pixels: ``[B, T, 2]``."""
    share_of_time = (np.arange(depth) / max(depth - 1, 1))[:, None]
    centre: np.ndarray = np.floor(first + (last - first) * share_of_time + 0.5)
    return centre


def _clipped(centre: np.ndarray, side: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return corners of cuts with these centres and sides, clipped by the border.

    The arithmetic is that of `cutmix.clipped`: both sides are even inside the image.

    Args:
        centre: ``[B, T or 1, 2]`` (y, x), in whole pixels.
        side: Sides as a share of the image's: ``[B, 1, 1]``.
        frame: What every frame looks like.
    """
    sides = np.array(frame.size, np.float64)
    half = np.floor(np.floor(sides * side) / 2)
    return np.clip(centre - half, 0, sides), np.clip(centre + half, 0, sides)


def _interval(when: np.ndarray, length: np.ndarray, depth: int) -> np.ndarray:
    """Tell which frames lie in an interval, clipped by the ends of the clip: ``[B, T]`` bool.

    Lengths are rounded to whole frames, odd or even: clips are short.

    Args:
        when: Uniform numbers in [0, 1): ``[B]``.
        length: Share of the frames, in [0, 1]: ``[B]``.
        depth: Frames of a clip.
    """
    num_frames = np.floor(length * depth + 0.5)
    low = _pick(when, (depth,)) - np.floor(num_frames / 2)
    frames = np.arange(depth)
    within: np.ndarray = (frames >= low[:, None]) & (frames < (low + num_frames)[:, None])
    return within
