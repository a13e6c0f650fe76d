"""`VolumeTransform`: crop volumes and mirror their axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import (
    are_numbers,
    check_choice,
    check_prob,
    is_number,
    is_whole,
    refuse,
)
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.transforms.decode import Stored
from dali_cutmix.transforms.resample import Resampler

WHERE = "VolumeTransform"


@dataclass(frozen=True)
class VolumeTransform:
    """Crop a window out of each volume, and mirror axes at random.

    Voxels are copied and never interpolated. With ``mean`` and ``std`` the loader yields float32
    ``(voxel - mean) / std``; else voxels in the type of the volumes, or in the loader's ``dtype``.

    Args:
        size: Sides of the window in voxels: one number, or ``(depth, height, width)``.
        flip: Probability of mirroring an axis, in [0, 1]: one number for all, or one each for
            (z, y, x).
        crop: ``"random"`` draws the place, each place inside the volume equally likely.
            ``"centre"`` takes the middle, for evaluation; the mirrors stay as ``flip`` says.
        mean: Mean of voxels, in their own units, subtracted at the end; with ``std`` only.
        std: Standard deviation, above 0, divided by at the end.

    Raises:
        ValueError: An argument is outside its range, or one of ``mean`` and ``std`` is missing.
    """

    takes_annotations: ClassVar[bool] = True

    size: int | tuple[int, int, int]
    flip: float | tuple[float, float, float] = 0.0
    crop: Literal["random", "centre"] = "random"
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        size = (self.size,) * 3 if is_whole(self.size) else self.size
        if not are_numbers(size, 3) or not all(is_whole(side) and side >= 1 for side in size):
            rule = "be a side or (depth, height, width) in whole voxels, each above 0"
            refuse(WHERE, "size", rule, self.size)
        flips = (self.flip,) * 3 if is_number(self.flip) else self.flip
        if not are_numbers(flips, 3):
            refuse(WHERE, "flip", "be a probability, or one each for (z, y, x)", self.flip)
        for prob in flips:
            check_prob(WHERE, prob, "flip")
        check_choice(WHERE, "crop", self.crop, ("random", "centre"))
        for name, other in (("mean", self.std), ("std", self.mean)):
            if (value := getattr(self, name)) is None:
                if other is not None:
                    rule = f"be a number where `{'std' if name == 'mean' else 'mean'}` is"
                    refuse(WHERE, name, rule, None)
            elif not is_number(value) or not np.isfinite(value) or (name == "std" and value <= 0):
                rule = "be a finite number" + (" above 0" if name == "std" else "")
                refuse(WHERE, name, rule, value)
        object.__setattr__(self, "size", tuple(int(side) for side in size))
        object.__setattr__(self, "flip", tuple(float(prob) for prob in flips))

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every slice, in voxels."""
        _, height, width = self._sides
        return height, width

    @property
    def takes_part(self) -> bool:
        """False: windows are read before the graph."""
        return False

    @property
    def frame(self) -> Frame:
        """Describe every slice."""
        return Frame(self.output_size, depth=self._sides[0])

    @property
    def _sides(self) -> tuple[int, int, int]:
        assert isinstance(self.size, tuple)
        return self.size

    def windows(self, draws: HostDraws, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw the windows of a batch.

        Args:
            draws: The batch's random numbers.
            shapes: ``(D, H, W)`` of each volume, none smaller than ``size``: ``[B, 3]`` int64.

        Returns:
            First voxel of each window, ``[B, 3]`` int64 (z, y, x); and whether each axis is
            mirrored, ``[B, 3]`` bool.
        """
        room = shapes - np.array(self._sides)
        if self.crop == "random":
            share = draws.uniform("volume/place", [3]).astype(np.float64)
            # The minimum guards against a float32 uniform number that was rounded up to 1.
            anchor = np.minimum(np.floor(share * (room + 1)).astype(np.int64), room)
        else:
            anchor = room // 2
        flips = draws.uniform("volume/flip", [3]) < np.array(self.flip)
        return anchor, flips

    def draw(self, _draws: HostDraws, _frame: Frame, /) -> tuple[()]:
        """Draw nothing: `windows` draws, since windows are read before the graph."""
        return ()

    def operate(
        self, stored: Stored, _plan: Any, _frame: Frame, _resampler: Resampler, /
    ) -> Sample:
        """Return the slices as they were read: ``[height, width, C]`` per slice."""
        return stored.whole()
