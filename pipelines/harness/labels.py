"""Labels of mixed images that no mix gives: those of the paper's ablations, and wrong ones."""

from __future__ import annotations

from typing import Literal

import torch

from dali_cutmix import MixedTarget

Label = Literal["shares", "larger", "halves", "swapped"]


def relabelled(target: torch.Tensor | MixedTarget, label: Label) -> torch.Tensor | MixedTarget:
    """Return targets with other labels for mixed images.

    Args:
        target: Targets of a loader, ``[B, 2]`` each. Class indices, of a loader that does not mix,
            stay as they are.
        label: ``"shares"``: both classes by their pixels, as the loader says. ``"larger"``: the
            class of the larger part, of two equal halves the image's own. ``"halves"``: half and
            half. ``"swapped"``: each class by the pixels of the other, a control: the mistake that
            accuracy hardly shows.
    """
    if label == "shares" or not isinstance(target, MixedTarget):
        return target
    first, other = target.weight.unbind(dim=1)
    if label == "swapped":
        # An image that is not mixed keeps its class.
        share = torch.where(other > 0, other, first)
    elif label == "larger":
        share = (first >= other).to(first.dtype)
    else:
        share = 1 - 0.5 * (other > 0)
    return target._replace(weight=torch.stack([share, 1 - share], dim=1))
