"""`GridMix`: cells of a grid, chosen at random, show another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dali_cutmix.core.checks import (
    are_numbers,
    check_alpha,
    check_prob,
    is_whole,
    refuse,
)
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.cells import cell_areas, weights_of
from dali_cutmix.mixing.paste import paste_cells
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
class GridMix:
    """Fill random cells of a grid from the same cells of another image, and weigh labels by pixels.

    Each cell stays the sample's own with probability ``lam``, independently of the others. The
    fraction ``lam`` is drawn from Beta(alpha, alpha). Cells differ by one pixel in a side where a
    side of the image is no multiple of the grid's.

    The authors train a second head, too, which tells the class of each cell. ``plan.owner`` and
    ``plan.source`` say whose each cell is.

    Args:
        grid: Rows and columns of the grid, or one number for both, each at least 1 and at most the
            image's side in pixels.
        alpha: Both parameters of the Beta distribution of ``lam``, above 0.
        lam: Probability in [0, 1] that a cell is kept, in place of a drawn one.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`. With ``"batch"`` all samples keep the same cells.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Source:
        Baek et al. 2021, GridMix: strong regularization through local context mapping, Pattern
        Recognition 109, 107594.
    """

    grid: int | tuple[int, int] = 4
    alpha: float = 1.0
    lam: float | None = None
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        sides = self._sides
        if not are_numbers(sides, 2) or not all(is_whole(side) and side >= 1 for side in sides):
            refuse("GridMix", "grid", "be rows and columns, each at least 1", self.grid)
        check_alpha("GridMix", self.alpha)
        if self.lam is not None:
            check_prob("GridMix", self.lam, "lam")
            if self.alpha != 1:
                way_out = "be left out with `lam`, which takes its place"
                refuse("GridMix", "alpha", way_out, self.alpha)
        check_prob("GridMix", self.prob)
        keep_weights("GridMix", self, self.per)

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.grid, self.grid) if is_whole(self.grid) else self.grid  # type: ignore[return-value]

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan, on the host; see `Mix`."""
        grid = self._sides
        if any(count > side for count, side in zip(grid, frame.size, strict=True)):
            rule = f"have at most as many cells as the image of {frame.size} has pixels"
            refuse("GridMix", "grid", rule, self.grid)
        lam = draws.beta("gridmix/lam", self.alpha, [1])
        if self.lam is not None:
            lam = np.full_like(lam, self.lam)
        cells = draws.uniform("gridmix/cells", grid)
        chance = draws.chance("gridmix/prob", self.prob)
        sample, partner = partners_of(self, draws, "gridmix/partner")
        first = leader(self.per, sample, partner, draws.math)
        lam, cells, chance = (
            share(value, self.per, first, draws.math) for value in (lam, cells, chance)
        )
        lam = lam[:, :, None]
        is_kept = (cells < lam) | (lam >= 1)  # a float32 uniform number may be rounded up to 1
        is_mixed = (chance > 0) & (sample != partner)
        owner = (~is_kept & is_mixed[:, :, None]).astype(np.uint8)
        steps, indices = zip(*map(_axis, grid, frame.size), strict=True)
        owner = np.ascontiguousarray(owner[:, indices[0][:, None], indices[1]])
        return MixPlan(
            source=np.concatenate([sample, partner], axis=1).astype(np.int32),
            weight=weights_of(owner, cell_areas(steps, frame.size), 2),
            size=frame.size,
            owner=owner,
            cell=steps,
            lam=lam.reshape(-1),
        )

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        return paste_cells(sample, plan) if self.prob > 0 else sample


def _axis(count: int, side: int) -> tuple[int, np.ndarray]:
    """Divide a side into cells of equal pixels, so that all borders of the grid lie between cells.

    Returns:
        Pixels of each equal cell, and for each the cell of the grid that holds it.
    """
    borders = np.arange(count + 1) * side // count
    step = int(np.gcd.reduce(borders))
    starts = np.arange(0, side, step)
    return step, np.searchsorted(borders, starts, side="right") - 1
