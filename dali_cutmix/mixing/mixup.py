"""`MixUp`: each image is blended with another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from dali_cutmix.core.checks import check_alpha, check_choice, check_prob
from dali_cutmix.core.dali import FLOAT
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.cutmix import TIMM_MODES
from dali_cutmix.mixing.paste import blend_sources
from dali_cutmix.mixing.plan import (
    MixPlan,
    Partner,
    Per,
    keep_weights,
    leader,
    partners_of,
    share,
)


@dataclass(frozen=True)
class MixUp:
    """Blend each image with another one, and weigh the labels alike.

    The arguments are those of `mixup_plan`, and ``class_weights`` and ``sample_weights``, as in
    `CutMix`. A loader blends images after they are normalised, in place, where this is a mix's only
    blend and its last step.

    Source:
        Zhang et al. 2017, mixup, arXiv:1710.09412.
    """

    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_alpha("MixUp", self.alpha)
        check_prob("MixUp", self.prob)
        keep_weights("MixUp", self, self.per)

    @classmethod
    def paper(cls, alpha: float = 1.0) -> MixUp:
        """Mix as the authors' code: one draw per batch, partners by a random permutation."""
        return cls(alpha=alpha, per="batch", partner="permutation")

    @classmethod
    def torchvision(cls, alpha: float = 1.0) -> MixUp:
        """Mix as ``torchvision.transforms.v2.MixUp``: one draw per batch, the sample before."""
        return cls(alpha=alpha, per="batch", partner="roll")

    @classmethod
    def timm(
        cls,
        alpha: float = 1.0,
        mode: Literal["batch", "pair", "elem"] = "batch",
        prob: float = 1.0,
    ) -> MixUp:
        """Mix as ``timm.data.Mixup(mixup_alpha=alpha)`` of timm 1.0.31, without smoothing."""
        check_choice("MixUp.timm", "mode", mode, tuple(TIMM_MODES))
        return cls(alpha=alpha, prob=prob, per=TIMM_MODES[mode], partner="flip")

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan; see `Mix`."""
        math = draws.math
        lam = draws.beta("mixup/lam", self.alpha, [1])
        sample, partner = partners_of(self, draws, "mixup/partner")
        first = leader(self.per, sample, partner, math)
        lam = share(lam, self.per, first, math)
        is_mixed = math.cast(sample != partner, FLOAT)
        if self.prob < 1:
            chance = share(draws.chance("mixup/prob", self.prob), self.per, first, math)
            is_mixed = is_mixed * math.cast(chance, FLOAT)
        # Written so that a mixed sample keeps `lam` to the bit, and another one exactly 1.
        kept = lam * is_mixed + (1.0 - is_mixed)
        return MixPlan(
            source=math.join([sample, partner]),
            weight=math.join([kept, 1.0 - kept]),
            size=frame.size,
            lam=math.scalar(lam),
            num_regions=2,
        )

    def operate(self, sample: Sample, plan: MixPlan, frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        if self.prob == 0 or frame.blends_last:
            return sample
        return replace(sample, image=blend_sources(sample.image, plan))
