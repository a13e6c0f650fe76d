"""`Rows`: a row of numbers for each image, weighed by what the pixels show, or united."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch

from dali_cutmix.annotations.base import Shown
from dali_cutmix.core.checks import Told, check_choice, refuse

Combine = Literal["weigh", "union"]

#: Numbers that are checked at a time: the checks of a large array would double its memory.
_CHECKED = 1 << 22


class Rows:
    """Give each image a row of numbers: several labels, soft labels, or values of a regression.

    ``DataLoader(source, ..., target=Rows(values))`` yields ``(image, rows)``. A mixed sample gets

    - the sum of its sources' rows, each times the share that the source shows (``"weigh"``); or
    - the labels that any source has of which a pixel shows (``"union"``).

    A sample that is not mixed keeps its row. Rows are float32, also where ``values`` hold whole
    numbers or truth values.

    Args:
        values: A row for each image of the source, in the source's order: ``[N, d]``, or ``[N]``
            for a single number each. An array, a CPU tensor or a list; float, integer or bool,
            finite. An array is not copied. With ``"union"`` 0 or 1.
        combine: ``"weigh"`` or ``"union"``.

    Raises:
        ValueError: ``values`` have another shape or type, or hold a number that is not finite, or
            with ``"union"`` another number than 0 and 1. The first such row is named.
    """

    needs_matrix: ClassVar[bool] = False
    takes_blends: ClassVar[bool] = True

    def __init__(self, values: Any, combine: Combine = "weigh") -> None:
        check_choice("Rows", "combine", combine, ("weigh", "union"))
        self.combine = combine
        self.values = _as_array(values)
        _check_values(self.values, combine)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Rows({list(self.values.shape)} {self.values.dtype}, combine={self.combine!r})"

    def target(self, shown: Shown, /) -> torch.Tensor:
        """Return the rows of a batch.

        Args:
            shown: The batch.

        Returns:
            ``[B, d]`` float32, on the loader's device; ``[B]`` where ``values`` are ``[N]``.
        """
        rows = self.values[shown.indices].astype(np.float64)
        if shown.plan is None:
            return shown.tensor(rows.astype(np.float32))
        source, weight = shown.plan.source, np.asarray(shown.plan.weight, np.float64)
        # Float64: a sum of 16 weights in float32 would differ from 1 in the sixth digit.
        combined = np.zeros_like(rows)
        for region in range(source.shape[1]):
            share = weight[:, region].reshape(-1, *[1] * (rows.ndim - 1))
            part = rows[source[:, region]]
            if self.combine == "weigh":
                combined += share * part
            else:
                np.maximum(combined, part * (share > 0), out=combined)
        return shown.tensor(combined.astype(np.float32))


def _as_array(values: Any) -> np.ndarray:
    """Return values as an array of one or two axes."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    several = Told("rows of several lengths")
    way_out = "Each image needs as many numbers as the first."
    try:
        array = np.asarray(values)
    except ValueError:
        refuse("Rows", "values", "be [N, d] or [N] numbers", several, way_out)
    is_numeric = array.dtype == bool or array.dtype.kind in "iuf"
    if array.ndim not in (1, 2) or not is_numeric or not array.size:
        got = Told(f"shape {array.shape} of {array.dtype}")
        refuse("Rows", "values", "be [N, d] or [N] numbers, and at least one", got)
    return array


def _check_values(values: np.ndarray, combine: Combine) -> None:
    """Refuse the first row that holds another number than `Rows` takes."""
    num_rows = max(1, _CHECKED // max(1, values[0].size))
    for first in range(0, len(values), num_rows):
        part = values[first : first + num_rows]
        with np.errstate(over="ignore"):  # float64 beyond float32
            is_fine = np.isfinite(part.astype(np.float32, copy=False))
        if not is_fine.all():
            row = first + _first_row(~is_fine)
            way_out = (
                "Leave the image out of the source and of `values`, or fill the number in: NaN in "
                "a row would spread to the images that the row is mixed with."
            )
            rule = "be finite in float32"
            refuse("Rows", f"values[{row}]", rule, values[row].tolist(), way_out)
        if combine == "union":
            is_fine = (part == 0) | (part == 1)
            if not is_fine.all():
                row = first + _first_row(~is_fine)
                way_out = "`combine='weigh'` takes any numbers."
                rule = "be 0 or 1 with combine='union'"
                refuse("Rows", f"values[{row}]", rule, values[row].tolist(), way_out)


def _first_row(is_bad: np.ndarray) -> int:
    return int(is_bad.reshape(len(is_bad), -1).any(axis=1).argmax())
