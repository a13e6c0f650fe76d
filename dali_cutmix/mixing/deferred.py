"""`Deferred`: a mix whose plan is drawn by the loader, and whose pixels are mixed in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.mix import Mix, is_mix, min_batch_size
from dali_cutmix.mixing.plan import MixPlan


@dataclass(frozen=True)
class Deferred:
    """Draw the plan of a mix and weigh the labels, but leave the pixels as they are.

    ``DataLoader(mix=Deferred(CutMix()), with_plan=True)`` gives unmixed images and their plan, for
    `mix_batch` to apply to the images or to features inside a model, and `mix_masks` to masks.

    Args:
        mix: Any mix.
    """

    mix: Mix

    def __post_init__(self) -> None:
        if not is_mix(self.mix):
            refuse("Deferred", "mix", "be a mix", self.mix, "Pass one such as `CutMix()`.")

    @property
    def num_sources(self) -> int:
        """Regions of a plan: those of the mix."""
        return self.mix.num_sources

    @property
    def min_batch_size(self) -> int:
        """Samples that a batch needs: as many as the mix needs."""
        return min_batch_size(self.mix)

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan of the mix; see `Mix`."""
        return self.mix.draw(draws, frame)

    def look(self, sample: Sample, frame: Frame) -> Any:
        """Look as the mix does; see `LookingMix`."""
        mix: Any = self.mix
        return mix.look(sample, frame)

    def complete(self, plan: MixPlan, seen: Any, frame: Frame) -> MixPlan:
        """Complete the plan of the mix; see `LookingMix`."""
        mix: Any = self.mix
        return mix.complete(plan, seen, frame)

    def operate(self, sample: Sample, _plan: MixPlan, _frame: Frame) -> Sample:
        """Return the sample as it is; see `Mix`."""
        return sample
