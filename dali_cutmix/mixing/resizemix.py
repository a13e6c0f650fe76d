"""`ResizeMix`: the whole of another image, made smaller, is put into each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dali_cutmix.core.checks import check_prob, check_range, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.paste import paste_regions, resize_nearest
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


@dataclass(frozen=True)
class ResizeMix:
    """Resize another image and put the whole of it into each image, and weigh labels by pixels.

    Unlike a cut, the resized partner shows its object for certain. It has the image's aspect ratio
    and lies at a random place, wholly inside. Resizing is bilinear and antialiased.

    Args:
        scale: Smallest and largest side of the resized partner as a share of the image's side, in
            (0, 1]. Uniform between them.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Source:
        Qin et al. 2020, ResizeMix, arXiv:2012.11101.
    """

    scale: tuple[float, float] = (0.1, 0.8)
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_range("ResizeMix", "scale", self.scale, 0, 1)
        if self.scale[0] <= 0:
            refuse("ResizeMix", "scale", "start above 0", self.scale)
        check_prob("ResizeMix", self.prob)
        keep_weights("ResizeMix", self, self.per)

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan, on the host; see `Mix`."""
        sides = np.array(frame.size, np.int32)
        low, high = self.scale
        scale = low + draws.uniform("resizemix/scale", [1]).astype(np.float64) * (high - low)
        point = draws.uniform("resizemix/place", [2])
        chance = draws.chance("resizemix/prob", self.prob)
        sample, partner = partners_of(self, draws, "resizemix/partner")
        first = leader(self.per, sample, partner, draws.math)
        drawn = (scale, point, chance)
        scale, point, chance = (share(value, self.per, first, draws.math) for value in drawn)
        # 1e-6: a scale drawn in single precision must not lose a pixel of a whole product.
        extent = np.maximum(np.floor(scale * sides + 1e-6), 1).astype(np.int32)
        anchor = np.minimum(np.floor(point * (sides - extent + 1)), sides - extent).astype(np.int32)
        # A sample that is not mixed is put on itself, whole, which changes nothing.
        is_mixed = (chance > 0) & (sample != partner)
        extent = np.where(is_mixed, extent, sides)
        anchor = np.where(is_mixed, anchor, 0)
        source = np.concatenate([sample, np.where(is_mixed, partner, sample)], axis=1)
        pasted = extent.prod(axis=1) * is_mixed[:, 0] / np.float64(sides.prod())
        full = np.broadcast_to(sides, extent.shape)
        corner = np.zeros_like(anchor)
        return MixPlan(
            source=source.astype(np.int32),
            weight=np.stack([1 - pasted, pasted], axis=1).astype(np.float32),
            size=frame.size,
            taken=Rect(np.stack([corner, corner], 1), np.stack([full, full], 1)),
            put=Rect(np.stack([corner, anchor], 1), np.stack([full, extent], 1)),
            lam=(1 - scale[:, 0] ** 2).astype(np.float32),
            resizes=True,
        )

    def operate(self, sample: Sample, plan: MixPlan, frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        if not self.prob > 0:
            return sample
        return sample.change(
            lambda image: paste_regions(image, plan, frame.resize),
            lambda mask, _: paste_regions(mask, plan, resize_nearest),
        )
