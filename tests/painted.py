"""An oracle for boxes that paints: every pixel of a batch names the place that it shows.

It imports nothing from the library, and knows no rectangle but the boxes. Pixels may be divided
into finer ones, so that the edges of resized boxes lie between two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Seen(NamedTuple):
    """A box as a sample shows it: which one, the pixels around it, and the share that shows."""

    row: int
    corners: tuple[float, float, float, float]
    share: float


class Painted:
    """A batch whose fine pixels name a sample, a position in its stored image, and a way there.

    Args:
        num_samples: Samples of the batch.
        size: (height, width) of the images served.
        fine: How many pixels (down, across) each pixel is divided into.
        matrix: Maps of stored to served positions, [B, 2, 3]; None: the same.
    """

    def __init__(
        self,
        num_samples: int,
        size: tuple[int, int],
        fine: tuple[int, int] = (1, 1),
        matrix: np.ndarray | None = None,
    ) -> None:
        self.fine = fine
        height, width = size[0] * fine[0], size[1] * fine[1]
        y, x = np.mgrid[:height, :width] + 0.5
        served = np.stack([x / fine[1], y / fine[0]])
        #: Channels: sample, x and y where stored; scale and shift of the way there, in x and y.
        self.pixels = np.zeros((num_samples, 7, height, width))
        self.area = np.ones(num_samples)
        for sample, pixels in enumerate(self.pixels):
            pixels[0], pixels[1:3], pixels[3:5] = sample, served, 1
            if matrix is not None:
                linear, shift = matrix[sample][:, :2].astype(float), matrix[sample][:, 2]
                moved = served - shift[:, None, None]
                pixels[1:3] = np.einsum("ij,jyx->iyx", np.linalg.inv(linear), moved)
                self.area[sample] = abs(np.linalg.det(linear))

    def mix(self, source: Any, taken: Any, put: Any) -> None:
        """Paste regions in order.

        Args:
            source: Sample that each region shows, [B, k].
            taken: Corners and sides (y, x) of what is read, [B, k, 2] each.
            put: Corners and sides of what is filled.
        """
        before = self.pixels.copy()
        fine = np.array(self.fine)
        for sample, region in np.ndindex(*source.shape):
            of = before[source[sample, region]]
            (to, sides), (start, read) = (
                (rect[0][sample, region], rect[1][sample, region]) for rect in (put, taken)
            )
            if not sides.all():
                continue
            scale = sides / read
            rows, columns = (np.arange(n) for n in sides * fine)
            y = ((rows + 0.5) / scale[0]).astype(int) + start[0] * fine[0]
            x = ((columns + 0.5) / scale[1]).astype(int) + start[1] * fine[1]
            copied = of[:, y[:, None], x]
            copied[3:5] *= scale[::-1, None, None]
            copied[5:7] = copied[5:7] * scale[::-1, None, None]
            copied[5:7] += (to - start * scale)[::-1, None, None]
            self.pixels[sample][:, (rows + to[0] * fine[0])[:, None], columns + to[1] * fine[1]] = (
                copied
            )

    def mix_cells(self, source: Any, owner: Any, cell: tuple[int, int]) -> None:
        """Let the region that owns a cell show its source there.

        Args:
            source: Sample that each region shows, [B, k].
            owner: Region that owns each cell, [B, rows, columns].
            cell: Sides (y, x) of a cell.
        """
        before = self.pixels.copy()
        for sample, row, column in np.ndindex(*self.pixels[:, 0].shape):
            place = row // (cell[0] * self.fine[0]), column // (cell[1] * self.fine[1])
            region = owner[sample][place]
            self.pixels[sample, :, row, column] = before[source[sample, region], :, row, column]

    def seen(
        self, boxes: Sequence[np.ndarray], sample: int, min_visible: float = 0.0
    ) -> list[Seen]:
        """List what a sample shows of the boxes of all samples, which are numbered in a row."""
        pixels = self.pixels[sample]
        flat = [box for own_boxes in boxes for box in own_boxes]
        owners = [owner for owner, own_boxes in enumerate(boxes) for _ in own_boxes]
        shown = []
        for row, (owner, (x0, y0, x1, y1)) in enumerate(zip(owners, flat, strict=True)):
            x, y = pixels[1:3]
            inside = (pixels[0] == owner) & (x > x0) & (x < x1) & (y > y0) & (y < y1)
            ways = np.round(pixels[3:], 6)
            for way in {tuple(way) for way in ways[:, inside].T}:
                of_way = inside & (ways == np.reshape(way, (4, 1, 1))).all(axis=0)
                rows, columns = np.nonzero(of_way)
                complete = (x1 - x0) * (y1 - y0) * self.area[owner] * way[0] * way[1]
                share = len(rows) / (self.fine[0] * self.fine[1]) / complete
                low = columns.min() / self.fine[1], rows.min() / self.fine[0]
                high = (columns.max() + 1) / self.fine[1], (rows.max() + 1) / self.fine[0]
                if share >= min_visible - 1e-6:
                    shown.append(Seen(row, (*low, *high), share))
        return sorted(shown)
