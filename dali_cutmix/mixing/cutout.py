"""`Cutout`: a square of each image is filled with one colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from dali_cutmix.core.checks import are_numbers, check_count, check_prob, is_number, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing import cutmix
from dali_cutmix.mixing.paste import erase_cut
from dali_cutmix.mixing.plan import MixPlan, Rect


@dataclass(frozen=True)
class Cutout:
    """Fill a square of each image with one colour. No label changes.

    Args:
        side: Side of the square in pixels, even.
        prob: Probability in [0, 1] that a sample is cut.
        fill: Value, or R, G, B values, in [0, 255], put in the square. The default is ImageNet's
            mean, which is 0 after normalisation as in the authors' code.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552.
    """

    side: int
    prob: float = 1.0
    fill: float | Sequence[float] = (124, 116, 104)

    num_sources: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_cutout("Cutout", side=self.side, prob=self.prob)
        if not are_numbers(self._color, 3) or not all(0 <= value <= 255 for value in self._color):
            refuse("Cutout", "fill", "be one value or R, G, B in [0, 255]", self.fill)

    @property
    def _color(self) -> tuple[float, float, float]:
        fill = self.fill
        return (fill,) * 3 if is_number(fill) else tuple(fill)  # type: ignore[arg-type, return-value]

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan; see `Mix`."""
        math, size = draws.math, frame.size
        point = draws.uniform("cutout/place", [2])
        anchor, extent = cutmix.square(self.side, point, size, math)
        if self.prob < 1:
            extent = extent * draws.chance("cutout/prob", self.prob)
        sample, _ = math.positions(lambda indices: indices, anchor)
        kept = cutmix.share_kept(extent, size, math)
        return MixPlan(
            source=math.join([sample]),
            weight=math.join([kept * 0.0 + 1.0]),
            size=size,
            put=Rect(math.stack([anchor]), math.stack([extent])),
            lam=math.scalar(kept),
            fill=self._color,
            num_regions=1,
        )

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        if not self.prob > 0:
            return sample
        # Erased pixels keep their class in masks, as their owner keeps its label.
        return replace(sample, image=erase_cut(sample.image, plan, self.fill))


def check_cutout(where: str, *, side: int, prob: float) -> None:
    """Refuse settings outside their ranges."""
    check_count(where, "side", side, at_least=2)
    if side % 2:
        way_out = f"The square has a centre pixel, and {side - 1} would be drawn."
        refuse(where, "side", "be even", side, way_out)
    check_prob(where, prob)
