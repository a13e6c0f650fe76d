"""Change levels by tables: one operator looks up what a dozen would compute.

A table of DALI is fixed when a graph is made, has up to 65,536 entries, and is the same for all
samples. So it holds many tables, one behind another, and the key of a pixel is its level plus where
the table of its channel begins. Where tables begin at multiples of 256, an exclusive or adds too.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from dali_cutmix.core.dali import INT32, UINT8, UINT16, DataNode, fn, math, types

#: Entries of a table of DALI.
_MOST = 65_536

#: Bits that invert a level by exclusive or.
_INVERT = types.Constant(255, dtype=UINT8)

#: Rows of `_level_tables` that solarize. Rows that posterize are behind.
_NUM_SOLARIZED = 129

#: Tables of `equalize` for steps of 1, 2 and 3 pixels, and of more.
_PER_STEP = (104, 58, 36, 56)


def autocontrast(image: DataNode) -> DataNode:
    """Stretch each channel over all levels: torchvision's ``autocontrast``, bit-identical.

    A channel of one level stays.

    Args:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
    """
    begins, tables = _stretches()
    low = fn.reductions.min(image, axes=[0, 1], keep_dims=True)
    high = fn.reductions.max(image, axes=[0, 1], keep_dims=True)
    both = fn.reinterpret(fn.stack(low, high, axis=3), dtype=UINT16, shape=[1, 1, 3])
    return _look_up(image + _look_up(both, begins, INT32), tables, UINT8)


def equalize(image: DataNode) -> DataNode:
    """Use all levels equally often, per channel: torchvision's ``equalize``, within two levels.

    torchvision maps a level to the number of pixels below, divided by a step of whole pixels. DALI
    counts pixels at or below a level, and divides by a fractional step. So the image is inverted
    before, and a table inverts the result and scales DALI's share of pixels to torchvision's steps.
    Where a step is less than one pixel, the image stays.

    Args:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
    """
    begins, tables = _steps()
    inverted = fn.equalize(image ^ _INVERT)
    top = fn.reductions.max(image, axes=[0, 1], keep_dims=True)
    is_other = fn.reinterpret(image != top, dtype=UINT8)
    others = fn.reductions.sum(is_other, axes=[0, 1], keep_dims=True)
    begin = _look_up(others, begins, INT32, default=int(begins[-1]))
    # The level itself is the larger number only where the image stays.
    return _look_up(math.max(inverted + begin, image), tables.ravel(), UINT8)


def change_levels(image: DataNode, code: DataNode) -> DataNode:
    """Solarize, invert or posterize, as torchvision bit for bit.

    Args:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU.
        code: Of `solarize_code` or `posterize_code`. Scalar uint16, CPU.
    """
    return _look_up(image ^ code, _level_tables().ravel(), UINT8)


def solarize_code(threshold: np.ndarray | int) -> np.ndarray:
    """Return the code by which `change_levels` inverts all levels from a threshold on.

    The code is 256 times the row of a table, and 255 more where levels are inverted before they
    are looked up. For inverted levels, a threshold ``t`` is what ``256 - t`` is for others. So 129
    rows do for 257 thresholds, and leave space for `posterize_code`.

    Args:
        threshold: Level in [0, 256]; 0 inverts all, and 256 none: ``[...]`` whole numbers.

    Returns:
        ``[...]`` uint16.
    """
    is_inverted = threshold > 128
    row = np.where(is_inverted, 256 - threshold, threshold)
    return np.asarray(256 * row + 255 * is_inverted, np.uint16)


def posterize_code(bits: np.ndarray | int) -> np.ndarray:
    """Return the code by which `change_levels` keeps some bits of each level.

    Args:
        bits: The highest bits, in [0, 8]; 0 makes black, and 8 changes nothing: ``[...]`` whole
            numbers.

    Returns:
        ``[...]`` uint16.
    """
    return np.asarray(256 * (_NUM_SOLARIZED + bits), np.uint16)


def _look_up(
    keys: DataNode, entries: np.ndarray, dtype: types.DALIDataType, default: int = 0
) -> DataNode:
    return fn.lookup_table(
        keys,
        keys=list(range(len(entries))),
        values=entries.tolist(),
        dtype=dtype,
        default_value=default,
    )


@cache
def _stretches() -> tuple[np.ndarray, np.ndarray]:
    """Return the tables that stretch channels.

    Returns:
        By ``low + 256 * high`` what makes a key of a level, ``[65536]`` int64. And the entries:
        first 256 that change nothing, then as many as its levels for each range of levels, uint8.
    """
    tables = [np.arange(256, dtype=np.uint8)]
    num, begin_of_range = 256, np.zeros(256, np.int64)
    for size in range(1, 256):
        # As torchvision computes, in float32: a quotient that is whole but for rounding loses one.
        step = np.float32(size) * np.float32(1 / 255)
        level = np.arange(size + 1, dtype=np.float32)
        tables.append((level / step).clip(0, 255).astype(np.uint8))
        begin_of_range[size] = num
        num += size + 1
    high, low = np.divmod(np.arange(_MOST), 256)
    begins = begin_of_range[(high - low).clip(0)] - low
    return np.where(high > low, begins, 0), np.concatenate(tables)


@cache
def _level_tables() -> np.ndarray:
    """Return the tables that solarize, and those that posterize: ``[138, 256]`` uint8."""
    level = np.arange(256)
    threshold, dropped = np.arange(_NUM_SOLARIZED)[:, None], 8 - np.arange(9)[:, None]
    solarized = np.where(level < threshold, level, 255 - level)
    return np.concatenate([solarized, level >> dropped << dropped]).astype(np.uint8)


@cache
def _steps() -> tuple[np.ndarray, np.ndarray]:
    """Return the tables that divide by steps of whole pixels.

    Returns:
        By the number of pixels below a channel's highest level, where the table begins: ``[65536]``
        int64; below zero for less than 255 pixels. And the tables, ``[256, 256]`` uint8, by 255
        minus DALI's share of those pixels that are below a level. The first table changes nothing,
        and is looked up by levels.
    """
    num = np.arange(255, _MOST)
    step = num // 255
    scale, half = num / (255 * step), (step // 2) / step
    share = 255 - np.arange(256)
    rows, tables = np.zeros(len(num), np.int64), np.zeros((256, 256), np.uint8)
    tables[0] = np.arange(256)
    first = 1
    for index, count in enumerate(_PER_STEP, start=1):
        is_last = index == len(_PER_STEP)
        is_here = step >= index if is_last else step == index
        size = np.log(scale[is_here])
        # Most images have large steps, whose scale is near 1: tables are dense there.
        place = (size / (size.max() + 1e-9)) ** (0.8 if is_last else 1.0)
        rows[is_here] = first + (place * count).astype(np.int64)
        first += count
    for row in range(1, first):
        is_here = rows == row
        if is_here.any():
            scales, halves = scale[is_here], half[is_here]
            level = share * (scales.min() + scales.max()) / 2 + (halves.min() + halves.max()) / 2
            tables[row] = np.minimum(np.floor(level + 1e-3), 255)
    return 256 * np.concatenate([np.full(255, -1), rows]), tables
