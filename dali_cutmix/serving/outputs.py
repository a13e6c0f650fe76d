"""From a graph's outputs to what the loader yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dali_cutmix.core.tree import Structure
from dali_cutmix.mixing.labels import MixedTarget, dense_target, unmixed_target
from dali_cutmix.mixing.plan import MixPlan


@dataclass(frozen=True)
class Finish:
    """Turns the outputs of one batch, by name, into a tuple; see `DataLoader` for the fields."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    target: str
    num_classes: int
    with_plan: bool
    plan: Structure | None
    num_sources: int

    def __call__(self, outputs: dict[str, Any]) -> tuple[Any, ...]:
        """``(image, target)`` or ``(image, target, plan)``."""
        image, label = _shared(outputs["image"]), _shared(outputs["label"])
        if self.channels_last:
            image = image.permute(0, 3, 1, 2)
        target: Any = label
        if self.target != "label":
            mixed = "weight" in outputs
            target = (
                MixedTarget(label, _shared(outputs["weight"]))
                if mixed
                else unmixed_target(label, max(2, self.num_sources))
            )
        if self.target == "dense":
            target = dense_target(target, self.num_classes)
        image = image.to(self.dtype)
        return (image, target, self._plan(outputs)) if self.with_plan else (image, target)

    def _plan(self, outputs: dict[str, Any]) -> MixPlan | None:
        leaves = [o for name, o in outputs.items() if name.startswith("plan/")]
        if not leaves or self.plan is None:
            return None
        # Copied: DALI may keep these in pinned memory, which torch does not take as it is.
        plan: MixPlan = self.plan.build([torch.from_numpy(np.array(o.as_array())) for o in leaves])
        plan.look_up()
        return plan


def _shared(output: Any) -> torch.Tensor:
    # No copy: DALI's buffers are counted, and stay as long as the tensor does.
    return torch.utils.dlpack.from_dlpack(output.as_tensor())
