"""From a graph's outputs to what the loader yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dali_cutmix.mixing.labels import MixedTarget
from dali_cutmix.mixing.loss import dense_target, own_target
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.serving.batches import PLAN_FIELDS


@dataclass(frozen=True)
class Finish:
    """Turns the outputs of one batch, by name, into a tuple; see `DataLoader` for the fields."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    target: str
    num_classes: int
    with_plan: bool
    size: tuple[int, int]

    def __call__(self, outputs: dict[str, Any]) -> tuple[Any, ...]:
        """``(image, target)`` or ``(image, target, plan)``."""
        image, label = _shared(outputs["image"]), _shared(outputs["label"])
        if self.channels_last:
            image = image.permute(0, 3, 1, 2)
        target: Any = label
        if self.target != "label":
            mixed = "weight" in outputs
            target = MixedTarget(label, _shared(outputs["weight"])) if mixed else own_target(label)
        if self.target == "dense":
            target = dense_target(target, self.num_classes)
        image = image.to(self.dtype)
        return (image, target, self._plan(outputs)) if self.with_plan else (image, target)

    def _plan(self, outputs: dict[str, Any]) -> MixPlan | None:
        if "kept" not in outputs:
            return None
        # Copied: DALI may keep these in pinned memory, which torch does not take as it is.
        fields = {
            name: torch.from_numpy(np.array(outputs[name].as_array())) if name in outputs else None
            for name in PLAN_FIELDS
        }
        return MixPlan(**fields, size=self.size)


def _shared(output: Any) -> torch.Tensor:
    # No copy: DALI's buffers are counted, and stay as long as the tensor does.
    return torch.utils.dlpack.from_dlpack(output.as_tensor())
