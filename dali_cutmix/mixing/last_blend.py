"""Blend images after they are normalised, where a mix blends once, as its last step.

Both steps are linear, so that their order changes an image by rounding alone. In a graph a blend
writes each value as float32 four times before it is normalised. Here values are blended where they
lie, and a batch that `RandomChoice` cuts stays bytes until it is normalised. float16 is rounded
before as well as behind the blend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.mixing.chain import Chain, ChainPlan
from dali_cutmix.mixing.choice import ChosenPlan, RandomChoice
from dali_cutmix.mixing.mix import Mix
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.mixing.plan import MixPlan, has_blends
from dali_cutmix.mixing.schedule import Scheduled

#: Values that are blended at a time. On the CPU they stay in a core's cache, and with 2**15 or more
#: torch starts threads of its own; on a GPU the partner's values are copied.
BLENDED_AT_ONCE = {"cpu": 32_000, "cuda": 1 << 24}

#: CPU threads of a loader for each thread that blends: an image is blended in a tenth of the time
#: in which a thread of the graph prepares one. On two cores a second thread cost more than it gave.
THREADS_PER_BLEND = 8


def blends_last(mix: Mix, plan: MixPlan) -> bool:
    """Tell whether a mix blends last, and leaves that to `blend_last` where its `Frame` says so.

    Args:
        mix: Any mix.
        plan: What it drew.
    """
    operate = type(mix).operate  # a class that is derived from one of these may do more
    if isinstance(mix, Scheduled) and operate is Scheduled.operate:
        return blends_last(mix.mix, plan)
    if isinstance(plan, ChainPlan) and isinstance(mix, Chain) and operate is Chain.operate:
        *before, last = plan.plans
        return blends_last(mix.mixes[-1], last) and not any(map(has_blends, before))
    if isinstance(plan, ChosenPlan) and isinstance(mix, RandomChoice):
        parts = list(zip(mix.mixes, plan.plans, strict=True))
        blended = [blends_last(*part) for part in parts if has_blends(part[1])]
        return operate is RandomChoice.operate and bool(blended) and all(blended)
    return operate is MixUp.operate and plan.num_regions == 2


def blend_last(
    images: torch.Tensor,
    plan: MixPlan,
    to_device: Callable[[np.ndarray], torch.Tensor],
    num_threads: int,
) -> None:
    """Blend normalised images in place, by the last step of a plan. Where it cuts, change nothing.

    Args:
        images: ``[N, ...]`` float32, float16 or uint8, contiguous, any device. N is the number of
            samples of the plan, or a multiple of it: the frames of a clip follow each other.
        plan: Of arrays, of a mix for which `blends_last` is true.
        to_device: Makes a tensor of an array, on the device of ``images``.
        num_threads: CPU threads of the loader, at least 1.
    """
    while isinstance(plan, (ChainPlan, ChosenPlan)):
        last = int(plan.choice[0]) if isinstance(plan, ChosenPlan) else -1
        plan = plan.plans[last]
    if not plan.blends or not plan.weight[:, 1].any():
        return
    partner, share = to_device(plan.source[:, 1]), to_device(plan.weight[:, 1:])
    values = images.view(len(partner), -1)
    at_once = max(1, BLENDED_AT_ONCE[images.device.type] // len(values))
    parts = torch.split(values, at_once, dim=1)
    # Tensors of inference mode change in that mode alone, and a thread starts in no mode.
    is_inference = torch.is_inference_mode_enabled()

    def blend_all(parts: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode(is_inference):
            for part in parts:
                _blend(part, partner, share)

    num_blending = min(num_threads // THREADS_PER_BLEND, len(parts))
    if images.is_cuda or num_blending <= 1:
        blend_all(parts)
        return
    with ThreadPool(num_blending) as pool:
        pool.map(blend_all, [parts[first::num_blending] for first in range(num_blending)])


def _blend(values: torch.Tensor, partner: torch.Tensor, share: torch.Tensor) -> None:
    """Blend rows in place: by ``share`` ``[B, 1]`` with the rows ``partner`` ``[B]``."""
    of_partner = values.index_select(0, partner)
    if values.dtype == torch.float32:
        values.lerp_(of_partner, share)
        return
    blended = values.float().lerp_(of_partner.float(), share)
    values.copy_(blended.add_(0.5) if values.dtype == torch.uint8 else blended)
