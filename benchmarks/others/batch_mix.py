"""Mixing a batch with torchvision v2, for loaders that have no CutMix of their own."""

# Read by interpreters without this library: no import of it.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

#: Mean and deviation of ImageNet, of values in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batch_mix(work: Work) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return a function of ``image`` ``[B, 3, H, W]`` and ``label`` ``[B]`` int64, on any device.

    It returns both as they are without a mix; else the mixed images and ``[B, num_classes]``
    float32, one partner and one cut or weight for the whole batch, as torchvision draws them.
    """
    if work.mix == "none":
        return lambda image, label: (image, label)
    from torchvision.transforms import v2

    kind = {"cutmix": v2.CutMix, "mixup": v2.MixUp}[work.mix]
    mix = kind(alpha=1.0, num_classes=work.num_classes)
    return lambda image, label: mix(image, label)
