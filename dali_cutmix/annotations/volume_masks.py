"""`VolumeMasks`: the class of every voxel."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from dali_cutmix.annotations.base import Shown
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.core.checks import Told, checked_indices, refuse
from dali_cutmix.sources.volume_files import open_volume
from dali_cutmix.sources.volumes import Window, digests, mirrored

WHERE = "VolumeMasks"

#: Type that the graph is fed, by the type of the masks.
_FED_AS = {name: name for name in ("uint8", "int8", "uint16", "int16", "int32")}
_FED_AS |= {"bool": "uint8"} | dict.fromkeys(("uint32", "int64", "uint64"), "int32")

#: Voxels of a mask that the fingerprint reads, (z, y, x): more than of a volume, as most voxels of
#: most masks are of one class.
_SAMPLED_SIZE = (1, 256, 256)

#: Type as which torch reads what the graph was fed. torch computes little in uint16.
_VIEWED_AS = {
    "uint8": torch.uint8,
    "int8": torch.int8,
    "uint16": torch.int16,
    "int16": torch.int16,
    "int32": torch.int32,
}


class VolumeMasks(Masks):
    """Hold a mask of class indices for each volume: ``[B, d, h, w]`` int64 in a target.

    A mask has the size of its volume. Crop, mirrors and mix are those of the volume, and class
    indices are copied.

    Args:
        masks: As the ``volumes`` of `Volumes`, without an axis of channels: arrays ``[D, H, W]``
            or paths, of one type: integers or bool. Indices are below 2**31.

    Raises:
        ValueError: A mask has another shape or type, and is named.
        ImportError: A file is NIfTI, and nibabel is missing.
        OSError: A file cannot be read.
    """

    def __init__(self, masks: Any) -> None:
        if isinstance(masks, (str, bytes)) or not hasattr(masks, "__len__") or not len(masks):
            refuse(WHERE, "masks", "be a list of arrays or paths, at least one", masks)
        self._volumes = [
            open_volume(WHERE, f"masks[{index}]", mask) for index, mask in enumerate(masks)
        ]
        first = self._volumes[0]
        for volume in self._volumes:
            if volume.dtype.name not in _FED_AS or volume.dtype != first.dtype:
                rule = "have one type of integers or bool"
                way_out = "Convert the masks: `mask.astype(numpy.uint8)`."
                refuse(WHERE, "masks", rule, Told(f"{volume.dtype} in {volume.name}"), way_out)
            if volume.shape[3] != 1:
                rule = "be [D, H, W], without an axis of channels"
                refuse(WHERE, "masks", rule, Told(f"{volume.shape} in {volume.name}"))
        self._dtype = np.dtype(_FED_AS[first.dtype.name]).newbyteorder("<")
        self.kind = "pixels"
        self.names = None

    def __len__(self) -> int:
        return len(self._volumes)

    def path(self, index: int) -> str:
        """Return the path of a mask, or its name in messages, ``masks[index]``."""
        return self._volumes[index].name

    def __repr__(self) -> str:
        return f"VolumeMasks({len(self)} masks)"

    @property
    def num_bytes(self) -> int:
        """Bytes of a class index."""
        return self._dtype.itemsize

    @property
    def stores_classes(self) -> bool:
        """Whether the graph makes class indices; see `Masks`."""
        return False

    @property
    def ignored(self) -> tuple[int, ...]:
        """Bytes of a voxel of no class, which windows never hold."""
        return (0,) * self.num_bytes

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the names, sizes, type or voxels of the masks.

        Of voxels the middle slices of some masks are read.
        """
        digest = blake2b(str(self._dtype).encode(), digest_size=8)
        for volume in self._volumes:
            digest.update(f"{os.path.basename(volume.name)}{volume.shape}".encode())
        for part in digests(self._volumes, self._volumes[0].dtype, _SAMPLED_SIZE):
            digest.update(part)
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | np.ndarray) -> VolumeMasks:
        """Return the masks of these indices, in this order."""
        part = copy.copy(self)
        part.__dict__.pop("fingerprint", None)
        chosen = checked_indices(WHERE, indices, len(self))
        part._volumes = [self._volumes[index] for index in chosen]
        return part

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def waits(self, _indices: Sequence[Any]) -> bool:
        """Return True: windows are read in threads."""
        return True

    def stored(self, index: Any) -> np.ndarray:
        """Read the bytes of a `Window`: ``[d, h, w, num_bytes]`` uint8.

        Raises:
            OSError: The window cannot be read, or a class index is 2**31 or larger.
        """
        window: Window = index
        voxels = self._volumes[window.volume].read(window.anchor, window.size)
        if not np.can_cast(voxels.dtype, self._dtype):
            limits = np.iinfo(self._dtype)
            for class_index in (int(voxels.min()), int(voxels.max())):
                if not limits.min <= class_index <= limits.max:
                    reason = f"a class index of {class_index} has over 32 bits"
                    raise OSError(errno.EIO, reason, self.path(window.volume))
        return np.ascontiguousarray(mirrored(voxels, window.flips), self._dtype).view(np.uint8)

    def divisors(self, indices: Sequence[Any]) -> np.ndarray:
        """Return 1 for each mask: ``[n]`` uint16. Nothing is decoded."""
        return np.ones(len(indices), np.uint16)

    def check(self, shapes: np.ndarray, path: Callable[[int], str]) -> None:
        """Refuse masks whose sizes differ from those of their volumes.

        Args:
            shapes: ``(D, H, W)`` of each volume: ``[N, 3]`` int64.
            path: Returns the name of a volume.
        """
        for index, (mask, shape) in enumerate(zip(self._volumes, shapes.tolist(), strict=True)):
            if mask.shape[:3] != tuple(shape):
                rule = f"have the size of their volumes, {tuple(shape)} of {path(index)}"
                refuse(WHERE, "masks", rule, Told(f"{mask.shape[:3]} in {mask.name}"))

    def target(self, shown: Shown, /) -> torch.Tensor:
        """Return class indices: ``[B, d, h, w]`` int64, on the loader's device."""
        pixels = shown.pixels
        assert pixels is not None  # since the graph moves masks with the images
        classes = pixels.contiguous().view(_VIEWED_AS[self._dtype.name])[..., 0].to(torch.int64)
        if self._dtype == np.uint16:
            classes &= 0xFFFF
        return classes.reshape(len(shown.indices), -1, *classes.shape[1:])
