"""What ``dali-cutmix check --volumes`` finds: volumes that cannot be read, are odd or hold NaN."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dali_cutmix.annotations.listing import names_below
from dali_cutmix.core.checks import local_path
from dali_cutmix.core.reading import patiently
from dali_cutmix.sources.volume_files import ENDINGS, Volume, open_volume
from dali_cutmix.sources.volumes import DTYPES
from dali_cutmix.tools.check.parts import count_of_bad, names_in

WHERE = "check"

#: Bytes of slices that are read at a time.
_STEP_BYTES = 1 << 26


@dataclass(frozen=True)
class VolumeReport:
    """Say what volumes hold.

    Attributes:
        paths: The volumes.
        opened: Volumes that could be opened, by index.
        bad: Reason by index.
    """

    paths: Sequence[str]
    opened: dict[int, Volume]
    bad: dict[int, str]

    @property
    def is_bad(self) -> bool:
        """Whether a volume is bad."""
        return bool(self.bad)

    def lines(self) -> list[str]:
        """Return the report in lines. Shapes that few volumes have come last, with a name."""
        paths_of: dict[str, list[str]] = {}
        for index, volume in self.opened.items():
            paths_of.setdefault(_kind(volume), []).append(self.paths[index])
        kinds = sorted(paths_of.items(), key=lambda item: -len(item[1]))
        shapes = [f"{len(paths)} of {kind}, as {paths[0]}" for kind, paths in kinds]
        bad = [f"{self.paths[index]}: {reason}" for index, reason in self.bad.items()]
        way_out = "Mend these volumes, or leave them out of the list for `Volumes`."
        return [
            *names_in("Shapes and types", shapes),
            *names_in("Bad volumes", bad),
            count_of_bad(len(self.bad), len(self.paths), "volumes", way_out),
        ]


def list_volumes(
    path: str, option: str = "DATA", suffix: str = "", *, where: str = WHERE
) -> dict[str, str]:
    """List the volumes at any depth of a folder, sorted; or a single file.

    Args:
        path: The folder, or the file.
        option: Name of the option, for messages.
        suffix: What names have before their ending. Other files are left out.
        where: Name of the command, for messages.

    Returns:
        The paths, by the same paths below the folder without suffix and ending. A single file has
        the name ``""``.

    Raises:
        FileNotFoundError: The path does not exist, or leads to no volumes.
        ValueError: Two files of a folder differ by their endings alone.
    """
    path = local_path(where, option, path)
    if os.path.isfile(path):
        return {"": path}
    names = names_below(where, option, path, ENDINGS, suffix)
    if not names:
        problem = "holds none" if os.path.isdir(path) else "does not exist"
        rule = f"a folder of volumes that end in {suffix and f'{suffix} and '}{', '.join(ENDINGS)}"
        raise FileNotFoundError(f"{where}: `{option}` must be {rule}, but {path!r} {problem}.")
    return {key: os.path.join(path, name) for key, name in names.items()}


def check_volumes(
    paths: Sequence[str],
    *,
    window: tuple[int, int, int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> VolumeReport:
    """Read every volume from end to end.

    A volume is bad if one of these holds:

    - The file cannot be opened or read, or has another number of axes than 3, or 4 with channels.
    - Its type is not of `Volumes`.
    - Its type or its number of channels is not that of most volumes.
    - A side is smaller than that of ``window``.
    - A voxel is NaN or infinite.

    Memory is 64 MB of slices, and what nibabel needs.

    Args:
        paths: The volumes.
        window: ``(d, h, w)`` in voxels that a transform crops. None takes all sizes.
        on_progress: Called with the number of volumes done.

    Raises:
        ImportError: A file is NIfTI, and nibabel is missing.
        TroubleError: The machine or the storage is in trouble.
    """
    opened, bad = open_all(dict(enumerate(paths)), "DATA")
    kinds = Counter(_type(volume) for volume in opened.values() if volume.dtype.name in DTYPES)
    usual = kinds.most_common(1)[0][0] if kinds else None
    for index in range(len(paths)):
        if index in opened:
            reason = _odd(opened[index], usual, window) or _faulty(opened[index])
            if reason is not None:
                bad[index] = reason
        if on_progress is not None:
            on_progress(index + 1)
    return VolumeReport(paths, opened, dict(sorted(bad.items())))


def open_all(paths: Mapping[int, str], option: str) -> tuple[dict[int, Volume], dict[int, str]]:
    """Open volumes; return those that could be opened, and the reasons of the others."""
    opened: dict[int, Volume] = {}
    bad: dict[int, str] = {}
    for index, path in paths.items():
        try:
            opened[index] = patiently(
                partial(open_volume, WHERE, option, path), WHERE, f"opening {path}"
            )
        except (ValueError, OSError) as error:
            bad[index] = reason_of(error)
    return opened, bad


def slabs(volume: Volume) -> Iterator[np.ndarray[Any, Any]]:
    """Read a volume from end to end, some slices at a time: ``[d, H, W, C]`` each.

    Raises:
        OSError: The file cannot be read, is truncated or damaged.
        TroubleError: The machine or the storage is in trouble.
    """
    depth, height, width, channels = volume.shape
    step = max(1, _STEP_BYTES // (height * width * channels * volume.dtype.itemsize))
    for z in range(0, depth, step):
        size = min(step, depth - z), height, width
        read = partial(volume.read, (z, 0, 0), size)
        yield patiently(read, WHERE, f"reading {volume.name}")


def sides(shape: Sequence[int]) -> str:
    """Return ``(D, H, W)`` in words."""
    return " x ".join(map(str, shape))


def reason_of(error: Exception) -> str:
    """Return what is wrong with a file, without the name of the command."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.removeprefix(f"{WHERE}: ").rstrip(".")


def _type(volume: Volume) -> tuple[str, int]:
    """Return type and number of channels, of which all volumes of a source have the same."""
    return volume.dtype.name, volume.shape[3]


def _kind(volume: Volume) -> str:
    *shape, channels = volume.shape
    of_channels = "" if channels == 1 else f", {channels} channels"
    return f"{sides(shape)}, {volume.dtype.name}{of_channels}"


def _odd(
    volume: Volume, usual: tuple[str, int] | None, window: tuple[int, int, int] | None
) -> str | None:
    """Return why a volume does not fit the others; None if the volume fits."""
    dtype, channels = _type(volume)
    if dtype not in DTYPES:
        return f"voxels of {dtype}, and Volumes takes {', '.join(DTYPES)}"
    if usual is not None and dtype != usual[0]:
        return f"voxels of {dtype}, and most volumes have {usual[0]}"
    if usual is not None and channels != usual[1]:
        return f"a number of channels of {channels}, and most volumes have {usual[1]}"
    shape = volume.shape[:3]
    if window is not None and any(side < least for side, least in zip(shape, window, strict=True)):
        return f"{sides(shape)} voxels, smaller than the window of {sides(window)}"
    return None


def _faulty(volume: Volume) -> str | None:
    """Return what is wrong with the voxels of a volume; None where nothing is."""
    num_odd = 0
    try:
        for slab in slabs(volume):
            if slab.dtype.kind == "f":
                num_odd += int(slab.size - np.isfinite(slab).sum())
    except OSError as error:
        return reason_of(error)
    return f"{num_odd} voxels are NaN or infinite" if num_odd else None
