"""The methods that a study compares: mixes and other regularizers, the ablations, and sweeps.

Every mix is drawn for half of the samples, as in the authors' command for CIFAR, unless the
method's name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dali_cutmix import (
    CutMix,
    FMix,
    GridMix,
    MixUp,
    ResizeMix,
    SaliencyMix,
    Scheduled,
)
from harness.labels import Label

#: Names of layers of `models.small.Net` in which features can be mixed, from the input on.
LAYERS = ("", "blocks.0", "blocks.1", "blocks.2")


@dataclass(frozen=True)
class Method:
    """Hold how a training differs from the baseline.

    Attributes:
        mix: Function from the number of epochs to a mix; None mixes nothing.
        layers: Layers whose features are mixed instead of the images, one of them in each batch.
        cutout: Side of the square erased in each image, as a share of the image's side.
        smoothing: Share of each target spread over all classes.
        label: How a mixed image is labelled; see `relabelled`.
    """

    mix: Callable[[int], Any] | None = None
    layers: tuple[str, ...] = ()
    cutout: float = 0.0
    smoothing: float = 0.0
    label: Label = "shares"


def _always(mix: Any) -> Callable[[int], Any]:
    return lambda _: mix


HALF = 0.5
CUTMIX, MIXUP = _always(CutMix(prob=HALF)), _always(MixUp(1.0, prob=HALF))

#: Methods that every study compares.
HEADLINE = {
    "none": Method(),
    "cutout": Method(cutout=0.5),
    "smoothing": Method(smoothing=0.1),
    "mixup": Method(MIXUP),
    "manifold_mixup": Method(MIXUP, layers=LAYERS),
    "cutmix": Method(CUTMIX),
    "feature_cutmix": Method(CUTMIX, layers=LAYERS),
    "saliencymix": Method(_always(SaliencyMix(prob=HALF))),
    "resizemix": Method(_always(ResizeMix(prob=HALF))),
    "fmix": Method(_always(FMix(prob=HALF))),
    "gridmix": Method(_always(GridMix(prob=HALF))),
}
#: The paper's ablations of CutMix, and a control whose labels are wrong.
ABLATIONS = {
    "centre_gaussian": Method(_always(CutMix(prob=HALF, placement="gaussian"))),
    "fixed_size": Method(_always(CutMix(prob=HALF, lam=0.75))),
    "one_hot": Method(CUTMIX, label="larger"),
    "complete_label": Method(CUTMIX, label="halves"),
    "scheduled": Method(lambda epochs: Scheduled(CutMix(), epochs, prob=lambda t: t)),
    "swapped_labels": Method(CUTMIX, label="swapped"),
    "cutmix_smoothing": Method(CUTMIX, smoothing=0.1),
}
#: Too little of CutMix, and too much.
SWEEPS = {
    **{f"prob_{prob:g}": Method(_always(CutMix(prob=prob))) for prob in (0.1, 0.25, 0.75, 1.0)},
    **{
        f"alpha_{alpha:g}": Method(_always(CutMix(alpha, prob=HALF)))
        for alpha in (0.1, 0.25, 2.0, 4.0)
    },
    **{f"kept_{kept:g}": Method(_always(CutMix(prob=HALF, lam=kept))) for kept in (0.95, 0.5, 0.1)},
}
METHODS: Mapping[str, Method] = {**HEADLINE, **ABLATIONS, **SWEEPS}
