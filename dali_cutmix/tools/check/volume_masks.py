"""What ``dali-cutmix check --volumes --masks`` finds: masks of another shape, type or class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.sources.volume_files import Volume
from dali_cutmix.tools.check.masks import MaskReport, out_of_range
from dali_cutmix.tools.check.volumes import (
    WHERE,
    VolumeReport,
    list_volumes,
    open_all,
    reason_of,
    sides,
    slabs,
)

#: Class that losses are told to ignore.
_IGNORED = 255

#: Files that a message names.
_MOST_NAMED = 5


def masks_of(volumes: Mapping[str, str], masks: str, suffix: str) -> list[str]:
    """Return the path of the mask of each volume.

    Args:
        volumes: Paths of volumes by their names, as of `list_volumes`.
        masks: Folder of masks by the same names; or a mask, of a single volume.
        suffix: What names of masks have before their ending.

    Raises:
        FileNotFoundError: The folder does not exist, or has no masks.
        ValueError: A volume has no mask, or a mask has no volume.
    """
    paths = list_volumes(masks, "--masks", suffix)
    for option, names, others, other in (
        ("DATA", volumes, paths, "a mask"),
        ("--masks", paths, volumes, "a volume"),
    ):
        alone = [names[key] for key in sorted(names.keys() - others.keys())]
        if alone:
            more = f" and {len(alone) - _MOST_NAMED} more" if len(alone) > _MOST_NAMED else ""
            got = f"{', '.join(alone[:_MOST_NAMED])}{more} without"
            way_out = "Names are equal without `--mask-suffix` and ending."
            refuse(WHERE, option, f"have {other} for each file", got, way_out)
    return [paths[key] for key in volumes]


def check_volume_masks(
    volumes: VolumeReport,
    paths: list[str],
    *,
    num_classes: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> MaskReport:
    """Read the mask of every good volume from end to end.

    A mask is bad if one of these holds:

    - The file cannot be opened or read.
    - The mask has another shape than its volume, or channels.
    - Its type is not of whole numbers or bool, or is not that of most masks.
    - A class is out of range, which is 0 to ``num_classes - 1``, and 255 for ignored voxels.

    Args:
        volumes: The report of the volumes.
        paths: The mask of each volume.
        num_classes: Classes of the model. None takes all.
        on_progress: Called with the number of masks done.

    Raises:
        ImportError: A file is NIfTI, and nibabel is missing.
        TroubleError: The machine or the storage is in trouble.
    """
    good = [index for index in volumes.opened if index not in volumes.bad]
    opened, reasons = open_all({index: paths[index] for index in good}, "--masks")
    types = Counter(mask.dtype for mask in opened.values() if mask.dtype.kind in "iub")
    usual = types.most_common(1)[0][0] if types else None
    classes: set[int] = set()
    num_without = 0
    for num_done, index in enumerate(good, 1):
        if index in opened:
            reason = _odd(opened[index], volumes.opened[index], usual)
            in_mask, fault = (set(), reason) if reason else _classes_in(opened[index], num_classes)
            classes |= in_mask
            if fault is not None:
                reasons[index] = fault
            else:
                num_without += not in_mask
        if on_progress is not None:
            on_progress(num_done)
    bad = {index: f"{paths[index]}: {reasons[index]}" for index in sorted(reasons)}
    return MaskReport(len(good), bad, tuple(sorted(classes)), num_without)


def _odd(mask: Volume, volume: Volume, usual: np.dtype | None) -> str | None:
    """Return why a mask does not fit its volume, or the other masks; None where the mask does."""
    if mask.dtype.kind not in "iub":
        return f"voxels of {mask.dtype}, and VolumeMasks takes whole numbers or bool"
    if mask.shape[3] != 1:
        return f"{mask.shape[3]} channels, and a mask has none"
    if mask.shape[:3] != volume.shape[:3]:
        shape = sides(volume.shape[:3])
        name = os.path.basename(volume.name)
        return f"{sides(mask.shape[:3])} voxels, and its volume {name} has {shape}"
    if mask.dtype != usual:
        return f"voxels of {mask.dtype}, and most masks have {usual}"
    return None


def _classes_in(mask: Volume, num_classes: int | None) -> tuple[set[int], str | None]:
    """Return the classes in a mask, without the ignored one, and what is wrong with them.

    A mask that cannot be read to its end has no classes.
    """
    classes: set[int] = set()
    try:
        for slab in slabs(mask):
            classes.update(np.unique(slab).tolist())
    except OSError as error:
        return set(), reason_of(error)
    classes.discard(_IGNORED)
    for extreme in (min(classes, default=0), max(classes, default=0)):
        if not -(2**31) <= extreme < 2**31:
            return classes, f"a class index of {extreme} has over 32 bits"
    return classes, out_of_range(np.array(sorted(classes), np.int64), num_classes)
