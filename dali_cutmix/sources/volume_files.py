"""Volumes of one file or array each, read window by window: arrays, .npy and NIfTI files.

Files are read by position and never mapped: a file that is truncated while it is mapped would end
the process with SIGBUS. Only the rows of a window are read.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.checks import Told, local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.reading import open_regular

#: Endings of files that are read.
ENDINGS = (".npy", ".nii", ".nii.gz")


class Volume(Protocol):
    """Read windows of a volume.

    Attributes:
        name: As messages name the volume.
        shape: ``(D, H, W, C)`` in voxels; C is 1 where the volume has no axis of channels.
        dtype: Type of the voxels, in this machine's byte order.
    """

    name: str
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    def read(self, anchor: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Return a window of the volume.

        Args:
            anchor: First voxel, (z, y, x).
            size: ``(d, h, w)`` in voxels; the window lies inside the volume.

        Returns:
            ``[d, h, w, C]`` of `dtype`. May be a view, with any strides.

        Raises:
            OSError: The window cannot be read.
        """


def open_volume(where: str, name: str, volume: Any) -> Volume:
    """Open a volume: an array, a memory-mapped array, or the path of a file.

    Args:
        where: Name of the caller, for messages.
        name: Name of the argument, for messages.
        volume: ``[D, H, W]`` or ``[D, H, W, C]``; or a path that ends as `ENDINGS` say.

    Raises:
        ValueError: Another shape, or another kind of file.
        OSError: The file cannot be read.
    """
    argument = name.partition("[")[0]
    if isinstance(volume, (str, os.PathLike)):
        path = local_path(where, name, volume)
        if not path.lower().endswith(ENDINGS):
            refuse(where, name, f"be arrays or files ending in {', '.join(ENDINGS)}", path)
        if not os.path.lexists(path):
            raise FileNotFoundError(printable(f"{where}: the volume {path} does not exist."))
        kind = _NpyFile if path.lower().endswith(".npy") else _NiftiFile
        return kind(where, argument, path)
    if hasattr(volume, "numpy"):  # a tensor
        volume = volume.numpy()
    if not isinstance(volume, np.ndarray):
        refuse(where, name, "be an array [D, H, W] or the path of a file", type(volume).__name__)
    return _Array(where, argument, name, volume)


class _Array:
    def __init__(self, where: str, argument: str, name: str, array: np.ndarray) -> None:
        self.name = name
        self.shape = _shape(where, argument, name, array.shape)
        self.dtype = array.dtype.newbyteorder("=")
        self._array = array.reshape(self.shape) if array.ndim == 3 else array

    def read(self, anchor: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """See `Volume`."""
        return self._array[_slices(anchor, size)]


class _NpyFile:
    def __init__(self, where: str, argument: str, path: str) -> None:
        self.name = path
        with open_regular(path) as file:
            self._opened = _mark(os.fstat(file.fileno()))
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    read = np.lib.format.read_array_header_2_0
                shape, is_fortran, self._stored = read(file)
            except (OSError, MemoryError):
                raise
            except Exception as error:  # Python's own parser reads the header
                refuse(where, argument, "be .npy files", path, f"{error}.".capitalize())
            self._offset = file.tell()
        if is_fortran:
            way_out = "Save `numpy.ascontiguousarray(volume)`."
            refuse(where, argument, "have their axes in C order", path, way_out)
        self.shape = _shape(where, argument, path, shape)
        self.dtype = self._stored.newbyteorder("=")

    def read(self, anchor: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """See `Volume`."""
        _, rows, columns, channels = self.shape
        row_bytes = columns * channels * self._stored.itemsize
        window = np.empty((*size, channels), self.dtype)
        with open_regular(self.name) as file:
            for z in range(size[0]):
                # Whole rows: they lie behind one another.
                first = ((anchor[0] + z) * rows + anchor[1]) * row_bytes
                data = os.pread(file.fileno(), size[1] * row_bytes, self._offset + first)
                if len(data) < size[1] * row_bytes:
                    raise OSError(errno.EIO, "the file is truncated", self.name)
                slab = np.frombuffer(data, self._stored).reshape(size[1], columns, channels)
                window[z] = slab[:, anchor[2] : anchor[2] + size[2]]
            # After reading, since another program may write to the file meanwhile.
            _check_unchanged(os.fstat(file.fileno()), self._opened, self.name)
        return window


class _NiftiFile:
    """Read a NIfTI file, whose axes are (x, y, z), as (z, y, x)."""

    def __init__(self, where: str, argument: str, path: str) -> None:
        self.name = path
        self._where, self._argument = where, argument
        with open_regular(path) as file:
            self._opened = _mark(os.fstat(file.fileno()))
        proxy = self._proxy
        shape = tuple(proxy.shape)
        # Channels come last on both sides.
        self.shape = _shape(where, argument, path, (*shape[:3][::-1], *shape[3:]))
        # The scaling of a header makes floating point numbers of what is stored.
        is_scaled = proxy.slope != 1 or proxy.inter != 0
        self.dtype = np.dtype(np.float32) if is_scaled else proxy.dtype.newbyteorder("=")

    @cached_property
    def _proxy(self) -> Any:
        where = f"{self._where}: {self.name}"
        nibabel = import_extra(where, "nibabel", extra="volumes", way_out="save .npy files")
        try:
            return nibabel.load(self.name, mmap=False).dataobj
        except (OSError, MemoryError):
            raise
        except Exception as error:  # nibabel's, struct's and zlib's for a damaged header
            refuse(self._where, self._argument, "be NIfTI files", self.name, f"{error}.")

    def read(self, anchor: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """See `Volume`."""
        z, y, x = _slices(anchor, size)
        try:
            window = np.asarray(self._proxy[x, y, z]).astype(self.dtype, copy=False)
        except (ValueError, EOFError, zlib.error) as error:  # nibabel's and gzip's
            raise OSError(
                errno.EIO, f"the file is truncated or damaged ({error})", self.name
            ) from None
        _check_unchanged(os.stat(self.name), self._opened, self.name)
        return window.transpose(2, 1, 0, *range(3, window.ndim)).reshape(*size, -1)


def _mark(stat: os.stat_result) -> tuple[int, int]:
    """Return a file's bytes and nanoseconds of its last modification."""
    return stat.st_size, stat.st_mtime_ns


def _check_unchanged(stat: os.stat_result, opened: tuple[int, int], name: str) -> None:
    """Refuse a file that was written anew: shape and type are those of the file before."""
    if _mark(stat) != opened:
        reason = "the file has changed since it was opened. Make new Volumes or VolumeMasks"
        raise OSError(errno.EIO, reason, name)


def _slices(anchor: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + side) for first, side in zip(anchor, size, strict=True))


def _shape(where: str, argument: str, name: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return ``(D, H, W, C)``; refuse other numbers of axes and empty ones."""
    if len(shape) not in (3, 4) or not all(shape):
        rule = "be [D, H, W] or [D, H, W, C] without an empty axis"
        refuse(where, argument, rule, Told(f"{tuple(shape)} in {name}"))
    depth, height, width, *channels = (int(side) for side in shape)
    return depth, height, width, channels[0] if channels else 1
