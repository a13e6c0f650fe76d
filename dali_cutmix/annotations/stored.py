"""`StoredMasks`: where masks lie, in files, in arrays, or in a storage of another kind."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from dali_cutmix.core.checks import Told, by_position, checked_indices, local_path, refuse
from dali_cutmix.core.reading import read_regular
from dali_cutmix.sources.base import Names

WHERE = "Masks"

#: Masks that the fingerprint reads. All masks of a large array would take seconds.
_SAMPLED = 256


class StoredMasks(ABC):
    """Hold a list of masks. Another kind of storage defines all but `take`.

    Attributes:
        kind: What `read` returns: ``"encoded"`` bytes of a file, or ``"pixels"``.
        waits: Whether `read` waits for a disk, or works for long, so that reading ahead pays.
    """

    kind: Literal["encoded", "pixels"]
    waits: bool = True

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of masks."""

    @abstractmethod
    def path(self, index: int) -> str:
        """Return where a mask is stored, as messages name the mask."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Return a mask as it is stored.

        Returns:
            ``[size]`` uint8, the bytes of a file; or ``[height, width]`` integers or bool. May be a
            view: not to be written to.

        Raises:
            OSError: The mask cannot be read.
            RefusedError: The mask is damaged.
        """

    @abstractmethod
    def describe(self) -> Iterable[bytes]:
        """Yield what identifies the masks."""

    def take(self, indices: Sequence[int] | np.ndarray) -> StoredMasks:
        """Return the masks of these indices, in this order."""
        return _Selection(self, indices)

    def close(self) -> None:
        """End what helps to read. Helpers start again when they are needed."""
        return


class MaskFiles(StoredMasks):
    """List files of masks.

    Args:
        paths: Paths of the files.
        root: A folder above all paths, or None. The description leaves the folder out, so that the
            data may move.
    """

    kind = "encoded"

    def __init__(self, paths: Iterable[str | bytes | os.PathLike[str]], root: str = "") -> None:
        self._paths = Names([os.fsencode(local_path(WHERE, "masks", path)) for path in paths])
        self._root = root

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return self._paths[index]

    def read(self, index: int) -> np.ndarray:
        """Return the bytes of a file: ``[size]`` uint8."""
        return read_regular(self.path(index))

    def describe(self) -> Iterable[bytes]:
        """Yield the names of the files."""
        return self._paths.describe(
            len(os.fsencode(os.path.join(self._root, ""))) if self._root else 0
        )


class MaskArrays(StoredMasks):
    """Hold masks that are arrays.

    Args:
        arrays: ``[N, height, width]`` integers or bool; or N arrays ``[height, width]``.
    """

    kind = "pixels"

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays.numpy() if hasattr(arrays, "numpy") else by_position(arrays)
        self.waits = isinstance(self._arrays, np.memmap)
        stacked = getattr(self._arrays, "dtype", np.dtype(object)).kind != "O"
        if stacked and self._arrays.ndim != 3:
            way_out = "An axis of channels goes by `masks[:, 0]` or `masks[..., 0]`."
            got = Told(f"shape {self._arrays.shape}")
            refuse(WHERE, "masks", "be [N, height, width], or N arrays", got, way_out)
        for number in range(1 if stacked else len(arrays)):
            array = self.read(number)
            if array.ndim != 2 or array.dtype.kind not in "iub":
                rule = "be [height, width] of integers or bool"
                got = Told(f"shape {array.shape} of {array.dtype}")
                refuse(WHERE, f"masks[{number}]", rule, got)

    def __len__(self) -> int:
        return len(self._arrays)

    def path(self, index: int) -> str:
        """Return the mask's name in messages, ``masks[index]``."""
        return f"masks[{range(len(self))[index]}]"

    def read(self, index: int) -> np.ndarray:
        """Return a mask: ``[height, width]``."""
        return np.asarray(self._arrays[index])

    def describe(self) -> Iterable[bytes]:
        """Yield digests of some masks."""
        for index in np.linspace(0, len(self) - 1, min(len(self), _SAMPLED)).astype(int):
            yield blake2b(self.read(int(index)).tobytes()).digest()


class _Selection(StoredMasks):
    """Select masks of another storage, in any order."""

    def __init__(self, masks: StoredMasks, indices: Sequence[int] | np.ndarray) -> None:
        self.kind, self.waits = masks.kind, masks.waits
        self._masks = masks
        self._indices = checked_indices(WHERE, indices, len(masks))

    def __len__(self) -> int:
        return len(self._indices)

    def path(self, index: int) -> str:
        return self._masks.path(int(self._indices[index]))

    def read(self, index: int) -> np.ndarray:
        return self._masks.read(int(self._indices[index]))

    def close(self) -> None:
        self._masks.close()

    def describe(self) -> Iterable[bytes]:
        yield from self._masks.describe()
        yield np.ascontiguousarray(self._indices, "<i8").tobytes()


def stored_masks(masks: Any) -> StoredMasks:
    """Return a storage for the ``masks`` of `Masks`."""
    if isinstance(masks, StoredMasks):
        storage = masks
    elif isinstance(masks, (str, bytes, os.PathLike)):
        way_out = (
            "`read_masks(images, masks)` lists a folder of masks beside a folder of images; a "
            "single file goes into a list."
        )
        refuse(WHERE, "masks", "be a list of paths, or arrays", masks, way_out)
    elif not hasattr(masks, "__len__") or not hasattr(masks, "__getitem__"):
        refuse(WHERE, "masks", "be a list of paths, or arrays", masks)
    elif len(masks) and all(isinstance(mask, (str, bytes, os.PathLike)) for mask in masks):
        storage = MaskFiles(masks)
    else:
        storage = MaskArrays(masks)
    if not len(storage):
        refuse(WHERE, "masks", "hold at least one mask", [])
    return storage
