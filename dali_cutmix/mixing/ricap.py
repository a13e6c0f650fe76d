"""`RICAP`: four images are cropped and patched together around one point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_choice, check_prob
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.paste import paste_regions
from dali_cutmix.mixing.plan import MixPlan, Rect, share


@dataclass(frozen=True)
class RICAP:
    """Patch crops of four images around one point, and weigh the labels by the four areas.

    Each sample draws a point, three partners and four places to crop at, all independently of other
    samples. The sample itself is at the top left. In a batch of fewer than four samples, as the
    last of an epoch may be, partners repeat, and the weights of a partner add up.

    Args:
        beta: Both parameters of the Beta distribution of the point's place, as a share of height
            and of width, above 0.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: Who shares a point and places: nobody (``"sample"``) or everyone (``"batch"``).

    Source:
        Takahashi et al. 2018, RICAP, arXiv:1811.09030. The authors draw one point per batch:
        `RICAP.paper`.
    """

    beta: float = 0.3
    prob: float = 1.0
    per: Literal["sample", "batch"] = "sample"

    num_sources: ClassVar[int] = 4
    min_batch_size: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_alpha("RICAP", self.beta, "beta")
        check_prob("RICAP", self.prob)
        check_choice("RICAP", "per", self.per, ("sample", "batch"))

    @classmethod
    def paper(cls, beta: float = 0.3) -> RICAP:
        """Mix as the authors' code: one point and one set of places per batch.

        The authors draw four independent permutations, which may show an image twice. Here the four
        images differ, in a batch of at least four.
        """
        return cls(beta=beta, per="batch")

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan, on the host; see `Mix`."""
        sides = np.array(frame.size)
        lam = draws.beta("ricap/point", self.beta, [2])
        offset = draws.uniform("ricap/place", [4, 2])
        cycle = draws.permutation("ricap/partner", cycle=True)[:, 0]
        chance = draws.chance("ricap/prob", self.prob)
        sample = np.arange(len(cycle), dtype=np.int32)
        first = sample * 0
        lam, offset, chance = (share(v, self.per, first, draws.math) for v in (lam, offset, chance))
        # Along a random cycle through the batch, so that partners differ.
        second, third = cycle[cycle], cycle[cycle[cycle]]
        source = np.stack([sample, cycle, second, third], axis=1)
        point = np.rint(lam * sides).astype(np.int32)
        point = np.where(chance > 0, point, sides)  # the sample itself, up to the last corner
        y, x = point[:, 0], point[:, 1]
        below, right = sides[0] - y, sides[1] - x
        corner = np.stack([np.stack([y * 0, x * 0], 1), np.stack([y * 0, x], 1)], 1)
        corner = np.concatenate([corner, corner + np.stack([y, x * 0], 1)[:, None]], 1)
        extent = np.stack(
            [np.stack(side, 1) for side in ((y, x), (y, right), (below, x), (below, right))], 1
        )
        # A float32 uniform number may be rounded up to 1.
        taken = np.minimum(np.floor(offset * (sides - extent + 1)), sides - extent)
        weight = extent.prod(axis=2) / np.float64(sides.prod())
        regions = [source, taken, corner, extent]
        source, taken, corner, extent = _repeat_for_empty(regions, extent.min(axis=2) > 0)
        source[:, 0] = sample  # also where its region is empty: another one covers it then
        return MixPlan(
            source=source,
            weight=weight.astype(np.float32),
            size=frame.size,
            taken=Rect(taken.astype(np.int32), extent.astype(np.int32)),
            put=Rect(corner.astype(np.int32), extent.astype(np.int32)),
        )

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        return sample.change(partial(paste_regions, plan=plan)) if self.prob > 0 else sample


def _repeat_for_empty(regions: list[np.ndarray], is_shown: np.ndarray) -> list[np.ndarray]:
    """Put another region of the sample, pasted twice, in the place of a region of no area.

    `paste_regions` takes empty regions only where they show the sample itself.
    """
    index = np.where(is_shown, np.arange(is_shown.shape[1]), is_shown.argmax(axis=1)[:, None])
    rows = np.arange(len(is_shown))[:, None]
    return [values[rows, index] for values in regions]
