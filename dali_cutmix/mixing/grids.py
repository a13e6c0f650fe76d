"""Features as grids: where in a layer's output height and width are, and the plan's cut there.

Three layouts hold a grid: ``BCHW`` of convolutions, ``BHWC`` of windowed transformers, and ``BND``,
the tokens of other transformers in rows, behind tokens of classes and registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Literal, NamedTuple

import torch

from dali_cutmix.core.checks import refuse
from dali_cutmix.mixing.plan import MixPlan, Rect
from dali_cutmix.mixing.torch import blend_batch, mix_batch

Layout = Literal["auto", "BCHW", "BHWC", "BND"]
LAYOUTS: tuple[Layout, ...] = ("auto", "BCHW", "BHWC", "BND")

WHERE = "FeatureMix"

#: Tokens. Most class and register tokens that may stand in front of the grid.
MAX_PREFIX = 16
#: Cells by which the aspect ratio of an unpadded convolution's output may be off the image's.
_ASPECT_TOLERANCE = 2


class Grid(NamedTuple):
    """Where the cells of a layer's output are.

    Attributes:
        layout: Order of the axes; not ``"auto"``.
        size: ``(height, width)``, in cells.
        num_prefix: Tokens in front of the cells, which have no place in the image.
    """

    layout: Layout
    size: tuple[int, int]
    num_prefix: int = 0


def grid_of(name: str, features: torch.Tensor, layout: Layout, image: tuple[int, int]) -> Grid:
    """Return where a layer's output has its cells.

    Args:
        name: Of the layer, for messages.
        features: The layer's output, a batch in front.
        layout: Order of its axes; or ``"auto"``.
        image: ``(height, width)`` of the model's input, in pixels.

    Raises:
        ValueError: The output has no grid of more than one cell.
    """
    shape = tuple(int(side) for side in features.shape)
    height, width = shape[-2:] if len(shape) > 1 else (1, 1)
    grid = None
    if len(shape) == 3 and layout in ("auto", "BND"):
        grid = _grid_of_tokens(shape[1], image)
    elif len(shape) == 4 and layout in ("auto", "BHWC"):
        rows_first = layout == "BHWC" or (
            not _is_alike(shape[2:], image) and shape[1:3] in _grids(image)
        )
        grid = Grid("BHWC", (shape[1], height)) if rows_first else Grid("BCHW", (height, width))
    elif len(shape) >= 4 and layout in ("auto", "BCHW"):
        grid = Grid("BCHW", (height, width))
    if grid is None or grid.size == (1, 1):
        of_layout = "" if layout == "auto" else f" of layout {layout!r}"
        rule = f"name layers whose output has a spatial grid{of_layout}"
        way_out = (
            f"This layer gave the shape {shape}. Name a layer before pooling and flattening. "
            "`layout` says what the axes are where they are not recognised, and plans of `MixUp` "
            "need no grid."
        )
        refuse(WHERE, "layers", rule, name, way_out)
    return grid


def mix_grid(
    features: torch.Tensor, plan: MixPlan, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a plan to the cells of features.

    Tokens in front have no place: cuts leave them as they are, and blends blend them.

    Returns:
        As `mix_batch`.
    """
    if grid.layout == "BCHW":
        return mix_batch(features, plan)
    if grid.layout == "BHWC":
        mixed, weight = mix_batch(features.permute(0, 3, 1, 2), plan)
        return mixed.permute(0, 2, 3, 1), weight
    prefix, tokens = features[:, : grid.num_prefix], features[:, grid.num_prefix :]
    cells = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid.size)
    mixed, weight = mix_batch(cells, plan)
    tokens = mixed.flatten(2).transpose(1, 2)
    return torch.cat([blend_batch(prefix, plan), tokens], dim=1), weight


def centres_of(plan: MixPlan) -> torch.Tensor:
    """Return the centres that the cuts of `CutMix` were drawn around: ``[B, 2]`` int64 (y, x).

    The border clips one end of a side at most, so that the other end tells the centre. Of a sample
    that is not cut the result means nothing.

    Raises:
        ValueError: The plan is no such plan: no single rectangle for each sample, clipped by the
            border.
    """
    put = plan.put
    is_cut = plan.num_regions == 2 and plan.lam is not None
    if put is not None and is_cut and _are_equal(plan.taken, put):
        size = put.extent[:, 0]  # the first region is the sample itself: the whole image
        half = _half(plan.lam, plan.size)
        low = put.anchor[:, 1].long()
        high = low + put.extent[:, 1]
        centre = torch.where(low > 0, low + half, high - half)
        ends = (centre - half).clamp(min=0), torch.minimum(centre + half, size)
        is_same = (ends[0] == low) & (ends[1] == high) & (centre >= 0) & (centre < size)
        if bool((is_same.all(dim=1) | (high == low).any(dim=1)).all()):
            return centre
    rule = (
        "be drawn by `CutMix` with placement='clipped' or 'gaussian' and axes='both' where "
        "scaled=False"
    )
    way_out = "scaled=True takes the plans of all mixes."
    refuse(WHERE, "plan", rule, type(plan).__name__, way_out)


def cut_at(plan: MixPlan, centre: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Cut at a grid as `mixing.cutmix.clipped` cuts images: as drawn there, and not scaled.

    Args:
        plan: A plan that `centres_of` takes.
        centre: What `centres_of` returned, on the device of the plan.
        size: ``(height, width)`` of the grid, in cells.

    Returns:
        The plan of images of ``size``: equal partners and kept fractions as drawn, and a centre in
        the cell that holds the plan's centre. Samples that the plan does not cut stay as they are.
    """
    assert plan.put is not None
    half = _half(plan.lam, size)
    ends = []
    for axis, (cells, pixels) in enumerate(zip(size, plan.size, strict=True)):
        # By numbers of Python: a small tensor made on a GPU would make the host wait.
        cell = (2 * centre[:, axis] + 1) * cells // (2 * pixels)
        low, high = cell - half[:, axis], cell + half[:, axis]
        ends.append((low.clamp(min=0), high.clamp(max=cells)))
    low, high = (torch.stack(end, dim=1) for end in zip(*ends, strict=True))
    extent = (high - low) * (plan.put.extent[:, 1].prod(dim=1, keepdim=True) > 0)
    image = torch.stack([torch.full_like(low[:, 0], cells) for cells in size], dim=1)
    rect = Rect(
        torch.stack([torch.zeros_like(low), low], dim=1).int(),
        torch.stack([image, extent], dim=1).int(),
    )
    num_cells = size[0] * size[1]
    kept = (num_cells - extent.prod(dim=1)).float() / num_cells
    weight = torch.stack([kept, 1 - kept], dim=1)
    return replace(plan, put=rect, taken=rect, weight=weight, size=size)


def _half(lam: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return half the side of a cut as `mixing.cutmix` computes the side: ``[B, 2]`` int64."""
    share = torch.sqrt(1 - lam.double())
    sides = torch.stack([torch.floor(side * share) for side in size], dim=1)
    return torch.floor(sides / 2).long()


def _are_equal(taken: Rect | None, put: Rect) -> bool:
    """Tell whether a plan reads the rectangles that it fills, also where a copy made two of one."""
    if taken is None or taken is put:
        return taken is put
    return torch.equal(taken.anchor, put.anchor) and torch.equal(taken.extent, put.extent)


def _grid_of_tokens(num_tokens: int, image: tuple[int, int]) -> Grid | None:
    """Return the grid with the fewest tokens in front, of patches that divide the image if any."""
    for grids in (_grids(image, exact=True), _grids(image)):
        for num_prefix in range(min(MAX_PREFIX, num_tokens - 1) + 1):
            for size in grids:
                if size[0] * size[1] == num_tokens - num_prefix:
                    return Grid("BND", size, num_prefix)
    return None


def _grids(image: tuple[int, int], *, exact: bool = False) -> list[tuple[int, int]]:
    """List the grids of more than one cell that square patches make of an image."""
    return list(dict.fromkeys(_each_grid(image, exact)))


def _each_grid(image: tuple[int, int], exact: bool) -> Iterator[tuple[int, int]]:
    height, width = image
    for patch in range(1, max(image) + 1):
        down = height // patch, width // patch
        up = ceil(height / patch), ceil(width / patch)
        for size in (down, up):
            if min(size) > 0 and max(size) > 1 and (down == up or not exact):
                yield size


def _is_alike(size: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Tell whether a grid has the aspect ratio of an image, but for borders without padding."""
    return abs(size[0] * image[1] / image[0] - size[1]) <= _ASPECT_TOLERANCE
