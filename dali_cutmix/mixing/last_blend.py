"""Blend images after they are normalised, where a mix blends once, as its last step.

Both steps are linear, so that their order changes an image by rounding alone. In a graph a blend
writes each value as float32 four times before it is normalised. Here values are blended where they
lie, and a batch that `RandomChoice` cuts stays bytes until it is normalised. float16 is rounded
before as well as behind the blend.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dali_cutmix.mixing.chain import Chain, ChainPlan
from dali_cutmix.mixing.choice import ChosenPlan, RandomChoice
from dali_cutmix.mixing.mix import Mix
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.mixing.plan import MixPlan, has_blends
from dali_cutmix.mixing.schedule import Scheduled

#: Values that are blended at a time on the CPU. They stay in its cache, and with 2**15 or more
#: torch starts threads of its own.
BLENDED_AT_ONCE = 32_000


def blends_last(mix: Mix, plan: MixPlan) -> bool:
    """Tell whether a mix blends last, and leaves that to `blend_last` where its `Frame` says so.

    Args:
        mix: Any mix.
        plan: What it drew.
    """
    if isinstance(mix, Scheduled):
        return blends_last(mix.mix, plan)
    if isinstance(plan, ChainPlan) and isinstance(mix, Chain):
        *before, last = plan.plans
        return blends_last(mix.mixes[-1], last) and not any(map(has_blends, before))
    if isinstance(plan, ChosenPlan) and isinstance(mix, RandomChoice):
        parts = list(zip(mix.mixes, plan.plans, strict=True))
        blended = [blends_last(*part) for part in parts if has_blends(part[1])]
        return bool(blended) and all(blended)
    return type(mix).operate is MixUp.operate


def blend_last(
    images: torch.Tensor, plan: MixPlan, to_device: Callable[[np.ndarray], torch.Tensor]
) -> None:
    """Blend normalised images in place, by the last step of a plan. Where it cuts, change nothing.

    Args:
        images: ``[N, ...]`` float32, float16 or uint8, contiguous, any device. N is the number of
            samples of the plan, or a multiple of it: the frames of a clip follow each other.
        plan: Of arrays, of a mix for which `blends_last` is true.
        to_device: Makes a tensor of an array, on the device of ``images``.
    """
    while isinstance(plan, (ChainPlan, ChosenPlan)):
        last = int(plan.choice[0]) if isinstance(plan, ChosenPlan) else -1
        plan = plan.plans[last]
    if not plan.blends or not plan.weight[:, 1].any():
        return
    partner, share = to_device(plan.source[:, 1]), to_device(plan.weight[:, 1:])
    values = images.view(len(partner), -1)
    num_values = len(values) * values.shape[1] if images.is_cuda else BLENDED_AT_ONCE
    for part in torch.split(values, max(1, num_values // len(values)), dim=1):
        of_partner = part.index_select(0, partner)
        if part.dtype == torch.float32:
            part.lerp_(of_partner, share)
            continue
        blended = part.float().lerp_(of_partner.float(), share)
        part.copy_(blended.add_(0.5) if part.dtype == torch.uint8 else blended)
