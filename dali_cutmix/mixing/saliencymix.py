"""`SaliencyMix`: a cut around what stands out most in the other image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_prob
from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import HOST
from dali_cutmix.mixing import cutmix
from dali_cutmix.mixing.completion import unmixed_plan, with_cut
from dali_cutmix.mixing.paste import paste_regions, resize_by_operator
from dali_cutmix.mixing.plan import (
    MixPlan,
    Partner,
    Per,
    keep_weights,
    leader,
    partners_of,
    share,
)
from dali_cutmix.mixing.saliency import SIDE, peaks


@dataclass(frozen=True)
class SaliencyMix:
    """Fill a rectangle around the most salient pixel of another image, and weigh labels by pixels.

    A cut at random often shows background only. Here the cut shows what stands out most in the
    other image, at the same place. Sides are those of `CutMix`, and the border clips them.

    Saliency is the spectral residual of the image as augmented, 32 x 32 pixels of gray: see
    `dali_cutmix.mixing.saliency`. The authors' code takes OpenCV's fine-grained saliency instead.

    Args:
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`. With ``"batch"`` all cuts lie where the partner of the first
            sample is most salient.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Source:
        Uddin et al. 2020, SaliencyMix, arXiv:2006.01791.
    """

    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_alpha("SaliencyMix", self.alpha)
        check_prob("SaliencyMix", self.prob)
        keep_weights("SaliencyMix", self, self.per)

    @classmethod
    def paper(cls, alpha: float = 1.0, prob: float = 0.5) -> SaliencyMix:
        """Mix as the authors' code: one cut per batch, partners by a random permutation."""
        return cls(alpha=alpha, prob=prob, per="batch", partner="permutation")

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan but for the place, on the host; see `Mix`."""
        lam = draws.beta("saliencymix/lam", self.alpha, [1])
        chance = draws.chance("saliencymix/prob", self.prob)
        sample, partner = partners_of(self, draws, "saliencymix/partner")
        first = leader(self.per, sample, partner, draws.math)
        lam, chance = (share(value, self.per, first, draws.math) for value in (lam, chance))
        return unmixed_plan(
            sample,
            np.where(chance > 0, partner, sample),
            frame.size,
            lam[:, 0],
            pending=first[:, 0],
        )

    def look(self, sample: Sample, frame: Frame) -> DataNode:
        """Make each image small; see `LookingMix`."""
        sides = frame.constant(np.array([SIDE, SIDE], np.int32))
        return (frame.resize or resize_by_operator)(sample.image, sides)

    def complete(self, plan: MixPlan, seen: np.ndarray, frame: Frame) -> MixPlan:
        """Cut around the peak of each partner's saliency; see `LookingMix`."""
        sample, partner = plan.source.T
        centre = peaks(seen, frame.size)[partner][plan.pending]
        anchor, extent = cutmix.around(plan.lam[:, None], centre, frame.size, HOST)
        return with_cut(plan, anchor, extent * (sample != partner)[:, None])

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        return sample.change(partial(paste_regions, plan=plan))
