"""What plans leave visible of boxes, counted exactly.

A box is shown once for every way that brings the box into a sample. Plans may cut what is shown
into several parts, which are rectangles and do not overlap. Every plan takes parts of its sources,
clips and moves them, and cuts away what other regions cover.

Boxes of a whole batch are computed at once. Coordinates come first in every array, since NumPy is
several times as fast with long last axes, and with `take` instead of an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.mixing.chain import ChainPlan
from dali_cutmix.mixing.choice import ChosenPlan
from dali_cutmix.mixing.plan import MixPlan, Rect, erases


@dataclass(frozen=True)
class Showings:
    """Hold boxes as samples show them, ``m`` of a batch, sorted by sample.

    Attributes:
        sample: Sample of the batch that shows the box: ``[m]`` int64.
        row: Index of the box in the caller's arrays: ``[m]`` int64.
        area: Area of the complete box, at the scale of the showing, in pixels: ``[m]`` float64.
        scale: What plans multiplied the box's x and y by: ``[2, m]`` float64.
        offset: What plans added afterwards, x and y in pixels: ``[2, m]`` float64.
    """

    sample: np.ndarray
    row: np.ndarray
    area: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Parts:
    """Hold rectangles that are visible of showings, ``n`` of a batch, sorted by showing.

    Attributes:
        showings: The showings, each with at least one part.
        showing: Index of the showing that each rectangle is a part of: ``[n]`` int64.
        corners: Rectangles, not empty: ``[4, n]`` float64 (x0, y0, x1, y1), in pixels.
        weight: Share of every pixel of the rectangle that is the showing's, in (0, 1]: ``[n]``
            float64. 1 where no plan blends.
    """

    showings: Showings
    showing: np.ndarray
    corners: np.ndarray
    weight: np.ndarray

    def summed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what is visible of every showing.

        Returns:
            The rectangle around all parts, ``[4, m]`` float64; and the visible share of the
            complete box, in (0, 1], ``[m]`` float64.
        """
        if not len(self.showing):
            return self.corners, self.weight
        first = np.flatnonzero(np.diff(self.showing, prepend=-1))
        x0, y0, x1, y1 = self.corners
        area = np.add.reduceat((x1 - x0) * (y1 - y0) * self.weight, first)
        low = np.minimum.reduceat(self.corners[:2], first, axis=1)
        high = np.maximum.reduceat(self.corners[2:], first, axis=1)
        return np.concatenate([low, high]), np.minimum(area / self.showings.area, 1.0)


def start(
    sample: np.ndarray, corners: np.ndarray, inside: np.ndarray, size: tuple[int, int]
) -> Parts:
    """Show boxes in their samples, clipped by the image, before any plan.

    Args:
        sample: Sample of every box, ascending: ``[M]`` int64.
        corners: The boxes: ``[4, M]`` float64 (x0, y0, x1, y1), in pixels of the image served.
        inside: What is left of the boxes where steps have cropped, as ``corners``.
        size: ``(height, width)`` of the image served, in pixels.

    Returns:
        The parts; ``row`` counts the ``M`` boxes. Boxes without area inside the image have none.
    """
    height, width = size
    border = np.array([[width], [height], [width], [height]], np.float64)
    clipped = np.minimum(np.maximum(inside, 0.0), border)
    row = np.flatnonzero((clipped[2] > clipped[0]) & (clipped[3] > clipped[1]))
    complete = corners.take(row, axis=1)
    area = (complete[2] - complete[0]) * (complete[3] - complete[1])
    ones = np.ones((2, len(row)))
    showings = Showings(sample[row], row, area, ones, np.zeros_like(ones))
    return Parts(showings, np.arange(len(row)), clipped.take(row, axis=1), ones[0])


def follow(parts: Parts, plan: MixPlan) -> Parts:
    """Apply a plan to what is visible, as the plan is applied to the pixels.

    Args:
        parts: What is visible before the plan.
        plan: A plan of arrays with a batch axis. A chain's plans are applied one after another. A
            plan that erases changes nothing, as an erased pixel keeps its owner.
    """
    for number, step in enumerate(_steps(plan)):
        parts = _follow(parts, step)
        if number:
            parts = _joined(parts)
    return parts


def _steps(plan: MixPlan) -> Iterator[MixPlan]:
    """Yield the plans that change owners of pixels, in order."""
    if isinstance(plan, ChainPlan):
        for part in plan.plans:
            yield from _steps(part)
    elif isinstance(plan, ChosenPlan):
        yield from _steps(plan.plans[int(plan.choice[0])])
    elif not erases(plan):
        if plan.put is None and plan.owner is None and not plan.blends:
            rule = "own rectangles or cells of images, or blend images"
            refuse("Boxes", "plan", rule, type(plan).__name__)
        yield plan


def _follow(parts: Parts, plan: MixPlan) -> Parts:
    """Apply a plan that pastes or blends.

    A showing gets a number that says in which sample, by which region, and of which old showing.
    """
    old = parts.showings
    num_samples, num_regions = plan.source.shape
    first = np.searchsorted(old.sample[parts.showing], np.arange(num_samples + 1))
    scale, offset = _moves(plan)
    earliest = _earliest_alike(plan, scale, offset)
    cells = None if plan.owner is None else _Cells.of(plan)
    num_old = max(1, len(old.row))
    pieces: _Pieces | None = None
    for region in range(num_regions):
        source = plan.source[:, region]
        sample, part = spread(first[source], np.diff(first)[source])
        number = (sample * num_regions + earliest[sample, region]) * num_old + parts.showing[part]
        new = _Pieces(parts.corners.take(part, axis=1), parts.weight[part], number, sample)
        if cells is not None:
            new = cells.cut(new, region)
        elif plan.put is None:
            new = new.weighed(plan.weight[:, region])
        else:
            assert plan.taken is not None
            if pieces is not None:
                pieces = pieces.without(_corners(plan.put, region))
            new = new.clipped(_corners(plan.taken, region).take(sample, axis=1))
            if plan.taken is not plan.put:
                new = new.moved(scale[:, :, region], offset[:, :, region])
        pieces = new if pieces is None else pieces.joined(new)
    assert pieces is not None
    pieces = pieces.picked(np.argsort(pieces.number, kind="stable"))
    is_first = np.diff(pieces.number, prepend=-1) > 0
    way, index = np.divmod(pieces.number[is_first], num_old)
    sample, region_of = np.divmod(way, num_regions)
    by, plus = scale[:, sample, region_of], offset[:, sample, region_of]
    showings = Showings(
        sample=sample,
        row=old.row[index],
        area=old.area[index] * by[0] * by[1],
        scale=old.scale.take(index, axis=1) * by,
        offset=old.offset.take(index, axis=1) * by + plus,
    )
    return Parts(showings, np.cumsum(is_first) - 1, pieces.corners, pieces.weight)


def _joined(parts: Parts) -> Parts:
    """Join showings of one box that lie at the same place: a chain may have several ways there."""
    old = parts.showings
    kind = np.column_stack([old.sample, old.row, old.scale.T, old.offset.T])
    _, first, joined = np.unique(kind, axis=0, return_index=True, return_inverse=True)
    showing = joined.reshape(-1)[parts.showing]
    order = np.argsort(showing, kind="stable")
    showings = Showings(*(values.take(first, axis=-1) for values in vars(old).values()))
    return Parts(showings, showing[order], parts.corners.take(order, axis=1), parts.weight[order])


@dataclass(frozen=True)
class _Pieces:
    """Rectangles, with the number of a showing and the sample of each; see `Parts`."""

    corners: np.ndarray
    weight: np.ndarray
    number: np.ndarray
    sample: np.ndarray

    def joined(self, *others: _Pieces) -> _Pieces:
        columns = zip(*(vars(pieces).values() for pieces in (self, *others)), strict=True)
        return _Pieces(*(np.concatenate(column, axis=-1) for column in columns))

    def picked(self, index: np.ndarray) -> _Pieces:
        return _Pieces(*(values.take(index, axis=-1) for values in vars(self).values()))

    def where(self, is_kept: np.ndarray) -> _Pieces:
        return self if is_kept.all() else self.picked(np.flatnonzero(is_kept))

    def clipped(self, window: np.ndarray) -> _Pieces:
        """Keep what lies inside a rectangle of each piece: ``[4, n]``."""
        low = np.maximum(self.corners[:2], window[:2])
        high = np.minimum(self.corners[2:], window[2:])
        return replace(self, corners=np.concatenate([low, high])).not_empty()

    def not_empty(self) -> _Pieces:
        x0, y0, x1, y1 = self.corners
        return self.where((x1 > x0) & (y1 > y0))

    def moved(self, scale: np.ndarray, offset: np.ndarray) -> _Pieces:
        """Scale and shift by numbers of each sample, ``[2, B]``; a scale of 0 leaves nothing."""
        scale, offset = (values.take(self.sample, axis=1) for values in (scale, offset))
        ends = (self.corners[:2] * scale + offset, self.corners[2:] * scale + offset)
        return replace(self, corners=np.concatenate(ends)).not_empty()

    def weighed(self, weight: np.ndarray) -> _Pieces:
        """Multiply weights by a number of each sample, ``[B]``, and drop what weighs nothing."""
        pieces = replace(self, weight=self.weight * weight[self.sample])
        return pieces.where(pieces.weight > 0)

    def without(self, window: np.ndarray) -> _Pieces:
        """Cut a rectangle of each sample away: up to four rectangles of each piece are left."""
        x0, y0, x1, y1 = self.corners
        left, top, right, bottom = window.take(self.sample, axis=1)
        meets = (x1 > left) & (right > x0) & (y1 > top) & (bottom > y0)
        meets &= (right > left) & (bottom > top)
        if not meets.any():
            return self
        cut = self.picked(np.flatnonzero(meets))
        x0, y0, x1, y1 = cut.corners
        left, top, right, bottom = window.take(cut.sample, axis=1)
        left, top = np.maximum(left, x0), np.maximum(top, y0)
        right, bottom = np.minimum(right, x1), np.minimum(bottom, y1)
        around = [
            (x0, y0, x1, top),
            (x0, bottom, x1, y1),
            (x0, top, left, bottom),
            (right, top, x1, bottom),
        ]
        rest = [replace(cut, corners=np.stack(sides)) for sides in around]
        return rest[0].joined(*rest[1:]).not_empty().joined(self.where(~meets))


@dataclass(frozen=True)
class _Cells:
    """Cells of a plan as rectangles: runs of cells of one region in each row.

    Rows of cells that are equal to the row above, in all samples, belong to the row above.

    Attributes:
        top: First pixel of each of ``r`` rows, and the image's height: ``[r + 1]`` int64.
        first: Index of the first run of each row of each sample, and the number of runs:
            ``[B * r + 1]`` int64.
        left: First pixel of each run: ``[n]`` int64.
        right: Pixel behind each run: ``[n]`` int64.
        region: Region that owns each run: ``[n]`` uint8.
    """

    top: np.ndarray
    first: np.ndarray
    left: np.ndarray
    right: np.ndarray
    region: np.ndarray

    @classmethod
    def of(cls, plan: MixPlan) -> _Cells:
        height, width = plan.size
        differs = (plan.owner[:, 1:] != plan.owner[:, :-1]).any(axis=(0, 2))
        rows = np.flatnonzero(np.append(True, differs))
        owner = plan.owner[:, rows]
        begins = np.ones(owner.shape, bool)
        begins[:, :, 1:] = owner[:, :, 1:] != owner[:, :, :-1]
        _, _, column = np.nonzero(begins)
        left = column * plan.cell[1]
        right = np.roll(left, -1)
        right[right == 0] = width
        first = np.append(np.flatnonzero(column == 0), len(column))
        top = np.append(rows * plan.cell[0], height)
        return cls(top, first, left, right, owner[begins])

    def cut(self, pieces: _Pieces, region: int) -> _Pieces:
        """Keep what lies in the runs of a region."""
        _, y0, _, y1 = pieces.corners
        row = np.searchsorted(self.top, y0, side="right") - 1
        piece, row = spread(row, np.searchsorted(self.top, y1) - row)
        begin = pieces.sample[piece] * (len(self.top) - 1) + row
        which, run = spread(self.first[begin], self.first[begin + 1] - self.first[begin])
        is_of_region = np.flatnonzero(self.region[run] == region)
        which, run = which[is_of_region], run[is_of_region]
        row = row[which]
        window = np.stack([self.left[run], self.top[row], self.right[run], self.top[row + 1]])
        return pieces.picked(piece[which]).clipped(window)


def spread(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count up from several numbers.

    Args:
        first: Where to start: ``[n]`` int64.
        count: How many numbers: ``[n]`` int64.

    Returns:
        For each number the position in ``first`` where counting started, and the number.
    """
    position = np.repeat(np.arange(len(count)), count)
    start = first - np.cumsum(count) + count
    return position, np.arange(len(position)) + np.repeat(start, count)


def _corners(rect: Rect, region: int) -> np.ndarray:
    """Return the corners of a region: ``[4, B]`` float64 (x0, y0, x1, y1)."""
    anchor, extent = rect.anchor[:, region], rect.extent[:, region]
    y, x = anchor.T
    height, width = extent.T
    return np.stack([x, y, x + width, y + height]).astype(np.float64)


def _moves(plan: MixPlan) -> tuple[np.ndarray, np.ndarray]:
    """Return what each region multiplies x and y by, and adds: ``[2, B, k]`` float64 each."""
    if plan.put is None or plan.taken is plan.put:  # a blend, cells, or rectangles that stay
        ones = np.ones((2, *plan.source.shape))
        return ones, np.zeros_like(ones)
    assert plan.taken is not None
    scale = plan.put.extent / np.maximum(plan.taken.extent, 1)
    offset = plan.put.anchor - plan.taken.anchor * scale
    x_first = (2, 0, 1)
    return scale[..., ::-1].transpose(x_first), offset[..., ::-1].transpose(x_first)


def _earliest_alike(plan: MixPlan, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the first region that shows the same source at the same place: ``[B, k]`` int64.

    A box across several cells of a grid is one box.
    """
    equal = plan.source[:, :, None] == plan.source[:, None, :]
    for values in (*scale, *offset):
        equal &= values[:, :, None] == values[:, None, :]
    return equal.argmax(axis=-1)
