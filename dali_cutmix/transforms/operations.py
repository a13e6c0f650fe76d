"""What the automatic augmentations choose from, and one operation for each sample in the graph.

What a sample takes is chosen on the host, and the graph parts the batch by kinds of operations, so
that each operator sees only those samples that need it. Parting moves no pixel, and a sample that
takes none stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from dali_cutmix.core.dali import DataNode, merge, split
from dali_cutmix.transforms.affine import WARPS, Interpolation, matrices, shift, warp
from dali_cutmix.transforms.color_ops import (
    brighten,
    equalize,
    flip_bits,
    raise_contrast,
    ring,
    saturate,
    sharpen,
    stretch,
)

#: Operations that are one operator with different numbers. The place in the list is the kind.
_KINDS: tuple[tuple[str, ...], ...] = (
    ("Identity",),
    ("ShearX", "ShearY", "Rotate"),
    ("TranslateX", "TranslateY"),
    ("Brightness",),
    ("Color",),
    ("Contrast",),
    ("Sharpness",),
    ("Posterize", "Solarize", "Invert"),
    ("AutoContrast",),
    ("Equalize",),
)
_KIND_OF = {name: kind for kind, names in enumerate(_KINDS) for name in names}

#: Operations that take a factor, which is 1 where nothing changes.
_BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")

#: What TrivialAugment and RandAugment choose from, in torchvision's order.
OPERATIONS = (
    "Identity",
    *WARPS,
    *_BLENDS,
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)

#: Those whose level is negated for half of the samples.
SIGNED = {*WARPS, *_BLENDS}


def levels(num_bins: int, size: tuple[int, int], *, wide: bool) -> dict[str, np.ndarray]:
    """How strong each operation is in each bin.

    Args:
        num_bins: At least 2.
        size: ``(height, width)`` of the images, in pixels.
        wide: TrivialAugment's ranges, else those of AutoAugment and RandAugment.

    Returns:
        By operation, ``[num_bins]`` float64; zeros for those that have no strength.

    Source:
        torchvision 0.29, ``v2.TrivialAugmentWide``, ``v2.RandAugment`` and ``v2.AutoAugment``.
    """
    height, width = size

    def up_to(most: float) -> np.ndarray:
        # Torch's, whose last bits decide which whole pixel or level some bins are cut to.
        return torch.linspace(0.0, most, num_bins).double().numpy()

    colour = up_to(0.99 if wide else 0.9)
    shear = up_to(0.99 if wide else 0.3)
    bits = torch.arange(num_bins) / ((num_bins - 1) / (6 if wide else 4))
    found = {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": up_to(32.0 if wide else 150.0 / 331.0 * width),
        "TranslateY": up_to(32.0 if wide else 150.0 / 331.0 * height),
        "Rotate": up_to(135.0 if wide else 30.0),
        "Brightness": colour,
        "Color": colour,
        "Contrast": colour,
        "Sharpness": colour,
        "Posterize": (8 - bits).round().double().numpy(),
        "Solarize": torch.linspace(1.0, 0.0, num_bins).double().numpy(),
    }
    none = np.zeros(num_bins)
    return {name: found.get(name, none) for name in _KIND_OF}


def numbers(
    names: Sequence[str], chosen: np.ndarray, level: np.ndarray, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What `apply` takes, for one operation of each sample.

    Args:
        names: Operations that can be chosen at all.
        chosen: Which of them a sample takes: ``[B]`` integers; -1 for none.
        level: How strong, with its sign: ``[B]`` float64, in units of `levels`.
        size: ``(height, width)`` of the images, in pixels.

    Returns:
        By name, ``[B, ...]``: ``kind`` int32, and the numbers of those kinds that ``names`` has,
        neutral for samples that take none of the kind.
    """
    num = len(chosen)
    taken = {name: chosen == place for place, name in enumerate(names)}
    kinds = np.array([_KIND_OF[name] for name in names] + [0], np.int32)
    kind = kinds[chosen]
    made: dict[str, np.ndarray] = {"kind": kind}
    # Numbers are made for all samples, so that a graph is fed the same names by every batch.
    found = {_KIND_OF[name] for name in names}

    def where(name: str) -> np.ndarray:
        return taken.get(name, np.zeros(num, bool))

    if found & {_KIND_OF[name] for name in WARPS}:
        made["matrix"] = matrices("ShearX", np.zeros(num), size)
        for name in WARPS:
            made["matrix"] = np.where(
                where(name)[:, None, None], matrices(name, level, size), made["matrix"]
            )
    if found & {_KIND_OF[name] for name in _BLENDS}:
        is_blend = np.isin(kind, [_KIND_OF[name] for name in _BLENDS])
        made["factor"] = np.where(is_blend, 1 + level, 1.0).astype(np.float32)
    if _KIND_OF["Solarize"] in found:
        threshold = np.where(where("Solarize"), np.ceil((255 * level).astype(np.float32)), 256)
        made["threshold"] = np.where(where("Invert"), 0, threshold).astype(np.int32)
        dropped = np.where(where("Posterize"), 8 - np.trunc(level), 0).astype(np.int32)
        made["mask"] = (255 >> dropped << dropped).astype(np.uint8)
    return made


def apply(
    image: DataNode,
    names: Sequence[str],
    fed: Mapping[str, DataNode],
    size: tuple[int, int],
    interpolation: Interpolation = "nearest",
) -> DataNode:
    """Apply one operation to each sample.

    Args:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
        names: As `numbers` was given them.
        fed: What `numbers` made, as nodes on the CPU.
        size: ``(height, width)`` in pixels.
        interpolation: Of shears, shifts and turns; see `warp`.

    Returns:
        As ``image``.
    """
    for kind in sorted({_KIND_OF[name] for name in names} - {0}):
        chosen = fed["kind"] == kind
        taken = {name: fed[name] for name in _NUMBERS[kind] if name in fed}
        if kind == _KIND_OF["Sharpness"]:
            taken |= ring(image, size)
        part, others = split(image, chosen)
        own = {name: split(node, chosen)[0] for name, node in taken.items()}
        operate = _OPERATE[kind]
        if operate is warp:
            operate = partial(warp, interpolation=interpolation)
        image = merge(operate(part, **own), others, chosen)
    return image


#: By kind, the names of what its operator takes of the host.
_NUMBERS: tuple[tuple[str, ...], ...] = (
    (),
    ("matrix",),
    ("matrix",),
    ("factor",),
    ("factor",),
    ("factor",),
    ("factor",),
    ("threshold", "mask"),
    (),
    (),
)

#: By kind, its operator.
_OPERATE: tuple[Callable[..., DataNode], ...] = (
    lambda image: image,
    warp,
    shift,
    brighten,
    saturate,
    raise_contrast,
    sharpen,
    flip_bits,
    stretch,
    equalize,
)
