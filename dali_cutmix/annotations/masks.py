"""`Masks`: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import torch

from dali_cutmix.annotations.base import Shown
from dali_cutmix.annotations.mask_cache import MaskCache
from dali_cutmix.annotations.planes import (
    Plane,
    array_in,
    as_pgm,
    bare_png,
    bits_of,
    color_plane_of,
    depth_of,
    is_pnm,
    of_pnm,
    pixels_of,
    plane_of,
)
from dali_cutmix.annotations.stored import WHERE, stored_masks
from dali_cutmix.core.checks import checked_names, is_whole, refuse
from dali_cutmix.core.threads import usable_cpus
from dali_cutmix.sources.pillow import Decoded, PillowProcesses
from dali_cutmix.sources.upright import RefusedError

#: Masks that are looked at for the depth of all, until a mask can be read.
_LOOKED_AT = 64

#: Pixels. A mask that Pillow decodes has at most so many, by its header.
_MAX_PIXELS = 2**27

#: Class index by stored index, or by color (red, green, blue).
Classes = Mapping[int, int] | Mapping[tuple[int, int, int], int]


class Masks:
    """Hold a mask of class indices for every image, and yield ``[B, height, width]`` int64.

    A mask gets the crop, the flips and the plan of its image. Classes are copied and never blended:
    a mask is resized by the nearest pixel, as torch's ``"nearest-exact"``. Pixels of no class, such
    as padding of one color, get ``ignore``.

    Files may be gray or palette PNGs of any depth, of which a palette's *index* is the class;
    TIFF, BMP, GIF, PGM or another lossless file of one channel; or ``.npy``. Three equal channels
    count as one. Masks are turned upright by their own EXIF orientation, as images are.

    Args:
        masks: A mask for each sample of the source, in the source's order:

            - paths of files;
            - ``[N, height, width]`` integers or bool: an array, memory-mapped or not, or a CPU
              tensor, which is not copied;
            - N such arrays of any sizes, each ``[height, width]``. A pandas ``Series`` counts by
              position, and not by its labels.
        ignore: Class index of pixels without a class. ``-100`` is the default of torch's cross
            entropy.
            With an index that masks cannot store, as -100, the largest index that files of 16 bits
            store, or arrays of 32, is ignored too.
        classes: Class by stored index, ``{7: 0, 8: 1}``, for masks that store other ids; all other
            ids become ``ignore``. Or class by color, ``{(128, 0, 0): 1}``, for files that store
            colors. None takes stored indices as they are.
        bits: Most bits of a stored index: 8 or 16; also 32 for arrays. None takes the depth of the
            first mask, and 16 for arrays of larger types. A mask with a larger index is bad.
        names: Names of the classes, in the order of their indices.
        cache: Whether each process keeps masks in memory once they were read and decoded, which
            makes the first epoch slower and all later ones faster. Masks are compressed to one to
            two times the size of a PNG, by lz4, which ``pip install -e '.[masks]'`` in the checkout
            installs. A file that changes meanwhile is not read again. Arrays in memory are kept as
            they are.

    Attributes:
        names: Names of the classes, in the order of their indices. None: classes have no names.
        kind: What `stored` returns: ``"encoded"`` bytes of a file, or ``"pixels"``.
        ignore: Class index of pixels without a class.

    Raises:
        ImportError: ``cache`` is true, and lz4 is missing.
        ValueError: An argument outside its range or of another kind, with its value.
    """

    needs_matrix: ClassVar[bool] = False
    takes_blends: ClassVar[bool] = False

    def __init__(
        self,
        masks: Any,
        ignore: int = 255,
        *,
        classes: Classes | None = None,
        bits: int | None = None,
        names: Sequence[str] | None = None,
        cache: bool = False,
    ) -> None:
        self._masks = stored_masks(masks)
        if not is_whole(ignore) or not -(2**31) <= ignore < 2**31:
            refuse(WHERE, "ignore", "be a whole number in [-2**31, 2**31)", ignore)
        self._is_files = self._masks.kind == "encoded"
        if not isinstance(cache, bool):
            refuse(WHERE, "cache", "be True or False", cache)
        self._cache = MaskCache(WHERE) if cache and self._masks.waits else None
        self.kind = "pixels" if self._cache is not None else self._masks.kind
        self.ignore = int(ignore)
        self._classes = classes
        self._has_colors, self._class_of = _checked(classes, takes_colors=self._is_files)
        self._check_bits(bits)
        self._bits = bits
        self.names = None if names is None else checked_names(WHERE, "names", names)
        self._divisors = np.ones(len(self._masks), np.uint16)
        self._pillow = PillowProcesses(usable_cpus())  # no process starts yet

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"Masks({len(self)} masks, ignore={self.ignore})"

    def take(self, indices: Sequence[int] | np.ndarray) -> Masks:
        """Return the masks of these indices, in this order."""
        return Masks(
            self._masks.take(indices),
            self.ignore,
            classes=self._classes,
            bits=self._bits,
            names=self.names,
            cache=self._cache is not None,
        )

    def path(self, index: int) -> str:
        """Return where a mask is stored, as messages name the mask."""
        return self._masks.path(index)

    def waits(self, _indices: Sequence[int]) -> bool:
        """Return whether `stored` waits for a disk or a process, or works for long."""
        return self._masks.waits

    def stored(self, index: int) -> np.ndarray:
        """Return the array that the graph is fed for a mask. Thread-safe.

        Returns:
            A gray PNG, a PGM, or for colors an RGB image: ``[size]`` uint8. Or the bytes of class
            indices, the low byte first: ``[height, width, num_bytes]`` uint8. May be a view: not to
            be written to. An array of no element for a mask that cannot be read or holds no class
            indices: `fault` says why.
        """
        try:
            plane = self._plane(index)
        except (RefusedError, OSError, MemoryError):
            plane = Plane(self._nothing, 1)
        self._divisors[index] = plane.stored_one
        return plane.stored

    def divisors(self, indices: Sequence[int]) -> np.ndarray:
        """Return what DALI makes of a class index of 1 in masks that were read: ``[n]`` uint16."""
        return self._divisors[indices]

    def classes_in(self, index: int) -> np.ndarray:
        """Return the class of every pixel of a mask, decoded by Pillow: ``[height, width]`` int64.

        Raises:
            OSError: The mask cannot be read.
            RefusedError: The mask holds no class indices.
        """
        pixels = self._decoded(self._masks.read(index))
        return self.classes_of(torch.from_numpy(pixels.copy())[None])[0].numpy()

    def fault(self, index: int) -> str | None:
        """Return why a mask holds no class indices, before any decoder of DALI's sees the mask.

        Returns:
            The reason, or None where nothing speaks against the mask.

        Raises:
            OSError: The mask cannot be read.
        """
        try:
            self._plane(index)
        except RefusedError as error:
            return error.reason
        return None

    def target(self, shown: Shown, /) -> torch.Tensor:
        """Return class indices: ``[B, height, width]`` int64, on the loader's device."""
        assert shown.pixels is not None  # since the graph moves masks with the images
        return shown.pixels[..., 0] if self.stores_classes else self.classes_of(shown.pixels)

    @cached_property
    def bits(self) -> int:
        """Bits of a stored index, or of a color: 8, 16, 24 or 32."""
        if self._has_colors:
            return 24
        bits = self._bits or self._depth()
        most = 16 if self._is_files else 32
        return bits if self._fill_in(bits) is not None else min(2 * bits, most)

    @property
    def num_bytes(self) -> int:
        """Bytes of a stored index, or of a color: 1, 2, 3 or 4."""
        return self.bits // 8

    @property
    def stores_classes(self) -> bool:
        """Whether every stored byte is the class index to yield, ``ignore`` included."""
        # One byte is enough only where `ignore` fits into it: see `bits`.
        return self.num_bytes == 1 and self._class_of is None

    @property
    def fill(self) -> int:
        """What is stored for pixels of no class."""
        fill = self._fill_in(self.bits)
        return 2**self.bits - 1 if fill is None else fill

    @property
    def ignored(self) -> tuple[int, ...]:
        """Bytes that are stored for pixels of no class, the low byte first."""
        return tuple(self.fill.to_bytes(self.num_bytes, "little"))

    def classes_of(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the class of each stored index.

        Args:
            planes: ``[B, height, width, num_bytes]`` uint8, contiguous, on any device.

        Returns:
            ``[B, height, width]`` int64, on the same device.
        """
        if self.num_bytes == 1:
            stored = planes[..., 0]
        elif self.num_bytes == 2:
            stored = planes.view(torch.int16)[..., 0].to(torch.int32) & 0xFFFF
        elif self.num_bytes == 3:
            red, green, blue = planes.to(torch.int32).unbind(-1)
            stored = red | green << 8 | blue << 16
        else:
            stored = planes.view(torch.int32)[..., 0].to(torch.int64) & 0xFFFFFFFF
        if self._class_of is not None:
            table = self._table.to(planes.device)
            return table[stored.to(torch.int32)].to(torch.int64)
        classes = stored.to(torch.int64)
        if self.fill != self.ignore:
            classes.masked_fill_(classes == self.fill, self.ignore)
        return classes

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the masks' names, order or classes."""
        digest = blake2b(digest_size=8)
        for part in self._masks.describe():
            digest.update(part)
        listed = None if self._class_of is None else sorted(self._class_of.items())
        digest.update(repr((self.ignore, self._has_colors, listed)).encode())
        return digest.hexdigest()

    def close(self) -> None:
        """End the processes of Pillow. Others start when they are needed."""
        self._masks.close()
        self._pillow.close()

    def _plane(self, index: int) -> Plane:
        """Return what the graph is fed for a mask."""
        if self._cache is None:
            return self._plane_of(self._masks.read(index))
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = self._decoded(self._masks.read(index))
            with suppress(MemoryError, OSError, OverflowError):  # it is decoded, though not kept
                self._cache.put(index, pixels)
        return Plane(pixels, 1)

    def _plane_of(self, mask: np.ndarray) -> Plane:
        if not self._is_files:
            return Plane(self._pixels(mask), 1)
        if self._has_colors:
            return color_plane_of(mask, self._decode)
        array = array_in(mask)
        if array is not None:
            return Plane(as_pgm(self._pixels(array)), 1)
        return plane_of(mask, self.bits, self._decode)

    def _decoded(self, mask: np.ndarray) -> np.ndarray:
        """Return stored indices, or colors, without DALI: ``[height, width, num_bytes]`` uint8.

        Raises:
            RefusedError: The mask holds no class indices.
        """
        stored = self._plane_of(mask).stored
        if not self._is_files:
            return stored
        if not is_pnm(stored):
            stored = self._decode(bare_png(stored), is_mask=not self._has_colors).ppm
        return of_pnm(stored, self.num_bytes)

    @property
    def _nothing(self) -> np.ndarray:
        return np.zeros((0,) if self.kind == "encoded" else (0, 0, self.num_bytes), np.uint8)

    def _check_bits(self, bits: object) -> None:
        takes_32 = not self._is_files and self._class_of is None
        choices = (8, 16, 32) if takes_32 else (8, 16)
        if bits is not None and bits not in choices:
            refuse(WHERE, "bits", f"be one of {', '.join(map(str, choices))}, or None", bits)

    def _pixels(self, indices: np.ndarray) -> np.ndarray:
        return pixels_of(
            indices,
            self.bits,
            self.ignore,
            self.fill,
            most=16 if self._is_files else 32,
            listed=self._class_of,
        )

    def _depth(self) -> int:
        """Return the bits of the first mask that can be read; 8 without one."""
        for index in range(min(len(self), _LOOKED_AT)):
            try:
                mask = self._masks.read(index)
                return depth_of(mask, self._decode) if self._is_files else bits_of(mask.dtype)
            except (OSError, RefusedError):  # the mask is bad, and is named when its turn comes
                continue
        return 8

    def _fill_in(self, bits: int) -> int | None:
        """Return what is stored for pixels of no class in so many bits; None if none is free."""
        if self._class_of is None:
            return self.ignore if 0 <= self.ignore < 2**bits else None
        unused = (value for value in range(2**bits - 1, -1, -1) if value not in self._class_of)
        return next(unused, None)

    @cached_property
    def _table(self) -> torch.Tensor:
        """Class by stored index or color: ``[2**bits]`` int32."""
        assert self._class_of is not None
        table = torch.full((2**self.bits,), self.ignore, dtype=torch.int32)
        for stored, index in self._class_of.items():
            if stored < len(table):
                table[stored] = index
        return table

    def _decode(self, encoded: np.ndarray, *, is_mask: bool) -> Decoded:
        return self._pillow.decode(encoded, _MAX_PIXELS, is_mask=is_mask)


def _checked(classes: Any, *, takes_colors: bool) -> tuple[bool, dict[int, int] | None]:
    """Return whether classes are given by color, and class by stored index or color."""
    if classes is None:
        return False, None
    if not isinstance(classes, Mapping) or not classes:
        refuse(WHERE, "classes", "be a dict of stored index, or of color, to class", classes)
    has_colors = isinstance(next(iter(classes)), tuple)
    if has_colors and not takes_colors:
        refuse(
            WHERE, "classes", "have stored indices as keys, since arrays have no colors", classes
        )
    class_of: dict[int, int] = {}
    for stored, index in classes.items():
        numbers = stored if has_colors and isinstance(stored, tuple) else (stored,)
        most, count = (255, 3) if has_colors else (2**16 - 1, 1)
        are_right = len(numbers) == count and all(is_whole(n) and 0 <= n <= most for n in numbers)
        if not are_right:
            rule = (
                "have keys (red, green, blue) in [0, 255]"
                if has_colors
                else "have keys in [0, 65535]"
            )
            refuse(WHERE, "classes", rule, stored)
        if not is_whole(index) or not -(2**31) <= index < 2**31:
            refuse(WHERE, f"classes[{stored!r}]", "be a class index in [-2**31, 2**31)", index)
        key = sum(int(number) << 8 * position for position, number in enumerate(numbers))
        class_of[key] = int(index)
    return has_colors, class_of
