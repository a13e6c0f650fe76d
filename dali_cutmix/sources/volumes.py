"""`Volumes`: volumes of voxels in arrays or files, of which windows are read."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from dali_cutmix.core.checks import Told, checked_indices, refuse
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.sources.stacks import Stacks, class_indices
from dali_cutmix.sources.volume_files import Volume, open_volume

WHERE = "Volumes"

#: Types of voxels that DALI pastes.
DTYPES = ("uint8", "int16", "float32")

#: Volumes that the fingerprint reads, and voxels of each, (z, y, x).
_SAMPLED, _SAMPLED_SIZE = 64, (4, 4, 4)


class Window(NamedTuple):
    """Describe a window of a volume, and along which axes the window is mirrored.

    Attributes:
        volume: Index of the volume.
        anchor: First voxel, (z, y, x).
        size: ``(d, h, w)`` in voxels.
        flips: Whether each axis is mirrored, (z, y, x).
    """

    volume: int
    anchor: tuple[int, int, int]
    size: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


class Volumes(Stacks):
    """List volumes ``[D, H, W]``, and the class of each.

    A loader with a `VolumeTransform` yields ``[B, C, d, h, w]``, in the type of the volumes unless
    ``dtype=`` or the transform say otherwise. Only the window that is cropped is read.

    Args:
        volumes: A list of volumes, or an array ``[N, D, H, W]``. A volume is an array or a CPU
            tensor ``[D, H, W]`` or ``[D, H, W, C]``, which may be memory-mapped and is not copied;
            or the path of a .npy, .nii or .nii.gz file. All have one type, uint8, int16 or float32,
            in any byte order, and as many channels; sides may differ. NIfTI files need nibabel, and
            are read as (z, y, x); a header that scales makes them float32. A window of a .nii.gz
            file is slow, since all before the window is unpacked.
        classes: The class of each volume: an index, or a name, which is indexed as sorted. None
            puts all into one class, ``"volume"``.

    Attributes:
        shapes: ``(D, H, W)`` of each volume, in voxels: ``[N, 3]`` int64.
        dtype: Type of the voxels.

    Raises:
        ValueError: A volume has another shape or type, and is named; or classes are given for
            another number of volumes.
        OSError: A file cannot be read.
        ImportError: A file is NIfTI, and nibabel is missing.
    """

    kind = "pixels"

    def __init__(
        self, volumes: Any, classes: Sequence[int | str] | np.ndarray | None = None
    ) -> None:
        if isinstance(volumes, (str, bytes)) or not hasattr(volumes, "__len__"):
            way_out = "A single volume goes into a list: `Volumes([volume])`."
            refuse(WHERE, "volumes", "be a list of arrays or paths", volumes, way_out)
        if not len(volumes):
            refuse(WHERE, "volumes", "hold at least one volume", [])
        opened = [
            open_volume(WHERE, f"volumes[{index}]", volume) for index, volume in enumerate(volumes)
        ]
        first = opened[0]
        for volume in opened:
            if volume.dtype.name not in DTYPES:
                rule = f"have voxels of {', '.join(DTYPES)}"
                way_out = "Convert the volumes: `volume.astype(numpy.float32)`."
                refuse(WHERE, "volumes", rule, Told(f"{volume.dtype} in {volume.name}"), way_out)
            for name, value, wanted in (
                ("type", volume.dtype, first.dtype),
                ("number of channels", volume.shape[3], first.shape[3]),
            ):
                if value != wanted:
                    rule = f"have one {name}, {wanted} as {first.name}"
                    refuse(WHERE, "volumes", rule, Told(f"{value} in {volume.name}"))
        self._volumes = opened
        self.shapes = np.array([volume.shape[:3] for volume in opened], np.int64)
        self.dtype = first.dtype
        if classes is None:
            classes = ["volume"] * len(opened)
        super().__init__(*class_indices(WHERE, classes, len(opened)))

    @property
    def num_channels(self) -> int:
        """Channels of a volume, C."""
        return self._volumes[0].shape[3]

    @property
    def reads(self) -> bool:
        """True: windows are read in threads, ahead of the graph."""
        return True

    def path(self, index: int) -> str:
        """Return the path of a volume, or its name in messages, ``volumes[index]``."""
        return self._volumes[index].name

    def stored(self, index: int | Window) -> np.ndarray:
        """Read a window: ``[d, h, w, C]`` in the type of the volumes, contiguous.

        Raises:
            OSError: The window cannot be read.
        """
        if not isinstance(index, Window):
            self._refuse_image(index)
        voxels = self._volumes[index.volume].read(index.anchor, index.size)
        return np.ascontiguousarray(mirrored(voxels, index.flips), self.dtype)

    def depth(self, transform: Any) -> int:
        """Return the slices of a sample."""
        return int(transform.frame.depth)

    def check(self, transform: Any) -> None:
        """Refuse a transform of images, and a crop that is larger than a volume."""
        if not hasattr(transform, "windows"):
            way_out = "`VolumeTransform((64, 96, 96))` crops volumes."
            refuse(
                "DataLoader", "transform", "be a VolumeTransform with Volumes", transform, way_out
            )
        size = transform.size
        is_small = (self.shapes < np.array(size)).any(axis=1)
        if is_small.any():
            index = int(is_small.argmax())
            shape = tuple(self.shapes[index].tolist())
            rule = f"have a size of at most {shape}, which is that of {self.path(index)}"
            way_out = "Leave small volumes out, or pad them before."
            refuse("DataLoader", "transform", rule, size, way_out)

    def parts(self, indices: Sequence[int], draws: HostDraws, transform: Any) -> list[Hashable]:
        """Draw a `Window` of each volume."""
        anchors, flips = transform.windows(draws, self.shapes[np.asarray(indices, np.int64)])
        rows = zip(indices, anchors.tolist(), flips.tolist(), strict=True)
        return [
            Window(int(index), tuple(anchor), transform.size, tuple(flip))
            for index, anchor, flip in rows
        ]

    def take(self, indices: Sequence[int] | np.ndarray) -> Volumes:
        """Return the volumes of these indices, in this order, with the same classes."""
        chosen = checked_indices(WHERE, indices, len(self))
        part = copy.copy(self)
        part.targets, part.shapes = self.targets[chosen], self.shapes[chosen]
        part._volumes = [self._volumes[index] for index in chosen]
        return part

    def __repr__(self) -> str:
        return f"Volumes({len(self)} volumes, {len(self.classes)} classes)"

    def _describe(self) -> Iterable[bytes]:
        yield np.ascontiguousarray(self.shapes, "<i8").tobytes()
        yield str(self.dtype).encode()
        yield from digests(self._volumes, self.dtype, _SAMPLED_SIZE)


def digests(
    volumes: Sequence[Volume], dtype: np.dtype[Any], most: tuple[int, int, int]
) -> Iterator[bytes]:
    """Yield digests of the middle of some volumes, without reading all voxels.

    Args:
        volumes: The volumes.
        dtype: Type of the voxels.
        most: Voxels that are read along each axis at most, (z, y, x).
    """
    for index in np.linspace(0, len(volumes) - 1, min(len(volumes), _SAMPLED)).astype(int):
        shape = np.array(volumes[index].shape[:3])
        size = np.minimum(shape, most)
        try:
            voxels = volumes[index].read(((shape - size) // 2).tolist(), size.tolist())
        except OSError:  # a file that is bad is told when it is its turn
            continue
        yield blake2b(np.ascontiguousarray(voxels, dtype).tobytes()).digest()


def mirrored(voxels: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    """Return a view of voxels ``[d, h, w, C]`` with some of the first three axes mirrored."""
    axes = [axis for axis, flip in enumerate(flips) if flip]
    return np.flip(voxels, tuple(axes)) if axes else voxels
