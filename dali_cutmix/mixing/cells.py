"""Plans that own pixels by the cells of a grid: what regions weigh, and which pixels they own.

Cell ``(i, j)`` of a grid of cells of ``(height, width)`` pixels holds the pixels of the rows from
``i * height`` on and the columns from ``j * width`` on. The border cuts off cells at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dali_cutmix.core.checks import refuse
from dali_cutmix.mixing.plan import MixPlan


def cell_areas(cell: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return how many pixels of an image each cell holds: ``[rows, columns]`` int64.

    Args:
        cell: ``(height, width)`` of a cell, in pixels.
        size: ``(height, width)`` of the image, in pixels.
    """
    rows, columns = (
        np.diff(np.append(np.arange(0, side, step), side))
        for side, step in zip(size, cell, strict=True)
    )
    return np.outer(rows, columns)


def weights_of(owner: np.ndarray, areas: np.ndarray, num_regions: int) -> np.ndarray:
    """Count the share of pixels that each region owns: ``[B, k]`` float32.

    Args:
        owner: Region that owns each cell: ``[B, rows, columns]`` uint8.
        areas: Pixels of each cell, as `cell_areas` returns them.
        num_regions: Regions, ``k``.
    """
    flat, areas = owner.reshape(len(owner), -1), areas.reshape(-1)
    # Not by `@`, whose threads take longer than the sums.
    counts = [np.einsum("bn,n->b", flat == region, areas) for region in range(num_regions)]
    return (np.stack(counts, axis=1) / np.float64(areas.sum())).astype(np.float32)


def owner_of_pixels(plan: MixPlan, size: tuple[int, int] | None = None) -> Any:
    """Return the region that owns each pixel, of a plan with `MixPlan.owner`.

    Args:
        plan: Plan of arrays or of tensors.
        size: ``(height, width)`` of the result. None takes the plan's, where the result is exact.
            At another size each pixel has the owner of the plan's pixel at its centre.

    Returns:
        ``[B, height, width]`` uint8: an array, or a tensor on the device of the plan.
    """
    if plan.owner is None:
        refuse("owner_of_pixels", "plan", "own pixels by cells", "one without `owner`")
    indices: list[Any] = []
    for side, full, step in zip(size or plan.size, plan.size, plan.cell, strict=True):
        centre = (2 * np.arange(side) + 1) * full // (2 * side)
        indices.append(centre // step)
    if isinstance(plan.owner, torch.Tensor):
        indices = [torch.from_numpy(index).to(plan.owner.device) for index in indices]
    rows, columns = indices
    return plan.owner[:, rows[:, None], columns]


def runs(
    source: list[np.ndarray],
    owner: list[np.ndarray],
    cell: tuple[int, int],
    size: tuple[int, int],
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Turn the cells of each sample into rectangles: runs of cells of one region in a row.

    Args:
        source: Sample that each region shows: ``[k]`` int32 per sample.
        owner: Region that owns each cell: ``[rows, columns]`` uint8 per sample.
        cell: ``(height, width)`` of a cell, in pixels.
        size: ``(height, width)`` of the image, in pixels.

    Returns:
        For each rectangle, ``n`` per sample: the sample that it shows, ``[n]`` int32, its top left
        corner and its sides, ``[n, 2]`` int32 (y, x), in pixels. The first is the whole sample,
        which the others cover. ``n`` differs between samples, and no rectangle is empty.
    """
    if not owner:
        return [], [], []
    grid, sources = np.stack(owner), np.stack(source)
    num_samples = len(grid)
    changes = np.ones((*grid.shape[:2], grid.shape[2] + 1), bool)
    changes[:, :, 1:-1] = grid[:, :, 1:] != grid[:, :, :-1]
    sample, row, first = np.nonzero(changes[:, :, :-1] & (grid > 0))
    _, _, last = np.nonzero(changes[:, :, 1:] & (grid > 0))
    top, left = row * cell[0], first * cell[1]
    height = np.minimum(cell[0], size[0] - top)
    width = np.minimum((last + 1) * cell[1], size[1]) - left
    # The whole sample goes in front of the runs of each sample.
    ends = np.cumsum(np.bincount(sample, minlength=num_samples))
    starts = np.concatenate([[0], ends[:-1]])
    columns = [
        np.insert(values, starts, in_front).astype(np.int32)
        for values, in_front in (
            (sources[sample, grid[sample, row, first]], sources[:, 0]),
            (top, 0),
            (left, 0),
            (height, size[0]),
            (width, size[1]),
        )
    ]
    borders = (ends + np.arange(1, num_samples + 1))[:-1]
    # DALI takes contiguous arrays, as splits along the first axis are.
    shown = np.split(columns[0], borders)
    anchor = np.split(np.stack(columns[1:3], axis=1), borders)
    extent = np.split(np.stack(columns[3:], axis=1), borders)
    return shown, anchor, extent
