"""Training steps for a race, which use a loader's batches. Each opener takes a `Work`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

Step = Callable[[Any, Any], None]

#: Pixels: side that images are thinned out to for the small model.
SMALL_SIDE = 64


def name_of_step(device: str) -> str:
    """Return the step that suits a device, as ``"package.module:function"``."""
    return f"dali_cutmix.tools.bench.steps:{'resnet50' if device == 'cuda' else 'small'}"


def describe_step(device: str) -> str:
    """Return the step that suits a device, in words."""
    if device == "cuda":
        return "ResNet-50, bfloat16, SGD"
    return f"ShuffleNet v2 x0.5 on {SMALL_SIDE} px, float32, SGD"


def resnet50(work: Work) -> Step:
    """Return a step of torchvision's ResNet-50 in bfloat16, channels last, with SGD, for GPUs."""
    import torch
    from torchvision.models import resnet50 as build  # type: ignore[import-untyped]

    model = build(num_classes=max(work.num_classes, 2)).to(work.device)
    model = model.to(memory_format=torch.channels_last)
    step = _step_of(model)

    def train(image: Any, target: Any) -> None:
        with torch.autocast(work.device, torch.bfloat16):
            step(image.contiguous(memory_format=torch.channels_last), target)

    return train


def small(work: Work) -> Step:
    """Return a step of torchvision's ShuffleNet v2 x0.5, for CPUs, on every n-th pixel.

    The model takes half the threads. Threads that wait for each other would lose more than half
    their time where a loader runs on all cores.
    """
    import torch
    from torchvision.models import shufflenet_v2_x0_5

    torch.set_num_threads(max(1, work.threads // 2))
    step = _step_of(shufflenet_v2_x0_5(num_classes=max(work.num_classes, 2)).to(work.device))
    stride = max(1, work.size // SMALL_SIDE)
    return lambda image, target: step(image[:, :, ::stride, ::stride], target)


def _step_of(model: Any) -> Step:
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()

    def step(image: Any, target: Any) -> None:
        optimizer.zero_grad()
        logits = model(image)
        loss: Any = cross_entropy(
            logits[:, : target.shape[1]] if target.ndim > 1 else logits, target
        )
        loss.backward()
        optimizer.step()

    return step
