"""Mirror some images, left to right or top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dali_cutmix.core.checks import check_prob
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.transforms.moves import flipped


class _Flip:
    """Mirror the samples that a chance picks."""

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True
    prob: float

    def __post_init__(self) -> None:
        check_prob(type(self).__name__, self.prob)

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw 1 to mirror, else 0: ``[B]`` int32; see `Augmentation`."""
        return draws.chance("prob", self.prob)[:, 0]


@dataclass(frozen=True)
class RandomHorizontalFlip(_Flip):
    """Mirror some images left to right.

    Args:
        prob: Probability in [0, 1] that a sample is mirrored.

    Source:
        torchvision ``v2.RandomHorizontalFlip``.
    """

    prob: float = 0.5

    def operate(self, sample: Sample, plan: Any, _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return flipped(sample, horizontal=plan)


@dataclass(frozen=True)
class RandomVerticalFlip(_Flip):
    """Mirror some images top to bottom.

    Args:
        prob: Probability in [0, 1] that a sample is mirrored.

    Source:
        torchvision ``v2.RandomVerticalFlip``.
    """

    prob: float = 0.5

    def operate(self, sample: Sample, plan: Any, _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return flipped(sample, vertical=plan)
