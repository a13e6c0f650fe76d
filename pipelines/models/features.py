"""Mixing inside a network, at a layer drawn for each batch, as the paper numbers the layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dali_cutmix import FeatureMix
from harness.processes import stop

#: The image alone, which the graph of the loader mixes.
IMAGE = (0,)


def mixing_inside(
    recipe: str, model: nn.Module, names: Sequence[str], numbers: Sequence[int], seed: int
) -> FeatureMix | None:
    """Return the module that trains a model and mixes inside; None where the loader mixes.

    A cut is drawn at the layer, by the paper's whole-number arithmetic, and weighed there.

    Args:
        recipe: Name of the recipe, for a refusal.
        model: Model that is trained.
        names: Names of its layers in the paper's order, from number 1 on.
        numbers: Layers to draw from, all equally likely; 0 is the image. `IMAGE` mixes in the
            graph.
        seed: Of the draw.

    Source:
        Yun et al. 2019, arXiv:1905.04899, section 4.1.3; Verma et al. 2018, arXiv:1806.05236.
    """
    if tuple(numbers) == IMAGE:
        return None
    layers = ("", *names)
    is_known = all(0 <= number < len(layers) for number in numbers)
    if not numbers or not is_known or len(set(numbers)) < len(numbers):
        stop(
            recipe,
            f"`layers` must be different numbers from 0 to {len(names)}, got {tuple(numbers)}.",
        )
    return FeatureMix(model, [layers[number] for number in numbers], seed=seed, scaled=False)
