"""A mix written outside the package, as users write theirs: a class without a base class."""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_cutmix import MixPlan, Rect, paste


class Stripes:
    """Vertical stripes of the partner over its left half and right edge: three regions."""

    num_sources = 3

    def draw(self, draws: Any, frame: Any) -> MixPlan:
        height, width = frame.size
        partner = draws.permutation("stripes/partner", cycle=True)[:, 0]
        at = np.floor(draws.uniform("stripes/at", [1])[:, 0] * (width // 2)).astype(np.int32)
        own, none, one = np.arange(len(at), dtype=np.int32), at * 0, at * 0 + 1
        # The sample itself everywhere, then a stripe of one column, then the last column.
        x = np.stack([none, at, none + width - 1], axis=1)
        wide = np.stack([none + width, one, one], axis=1)
        anchor, extent = np.stack([x * 0, x], axis=2), np.stack([x * 0 + height, wide], axis=2)
        rect = Rect(anchor.astype(np.int32), extent.astype(np.int32))
        weight = np.tile(np.float32([1 - 2 / width, 1 / width, 1 / width]), (len(at), 1))
        source = np.stack([own, partner, partner[partner]], axis=1).astype(np.int32)
        return MixPlan(source, weight, frame.size, taken=rect, put=rect)

    def operate(self, sample: Any, plan: MixPlan, _frame: Any) -> Any:
        return sample.change(lambda pixels: paste(pixels, plan))
