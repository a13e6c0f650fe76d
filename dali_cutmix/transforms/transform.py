"""`Transform`: what the loader asks of a transform."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from dali_cutmix.core.frame import Frame, Sample, takes_annotations
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.transforms.decode import Stored
from dali_cutmix.transforms.resample import Resampler


@runtime_checkable
class Transform(Protocol):
    """Make one image of one size of every stored image. A base class is not needed."""

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""

    @property
    def takes_part(self) -> bool:
        """Whether the transform reads one rectangle of each image and no more."""

    @property
    def frame(self) -> Frame:
        """Describe every output."""

    @property
    def mean(self) -> tuple[float, float, float] | tuple[float]:
        """Mean per channel, R, G, B, in [0, 1], subtracted behind `operate`.

        One number makes images of one channel, the first.
        """

    @property
    def std(self) -> tuple[float, float, float] | tuple[float]:
        """Standard deviation per channel, above 0, divided by behind `operate`."""

    def draw(self, draws: HostDraws, frame: Frame, /) -> Any:
        """Draw what one batch needs, on the host.

        Args:
            draws: The batch's random numbers.
            frame: What every output looks like.

        Returns:
            A tree of NumPy arrays with a batch axis in front. Every batch draws a tree of the same
            structure.
        """

    def operate(self, stored: Stored, plan: Any, frame: Frame, resampler: Resampler, /) -> Sample:
        """Make the images by DALI operators.

        Args:
            stored: The stored images.
            plan: The tree that `draw` returned, with a CPU node in the place of every array.
            frame: What every output looks like.
            resampler: Resizes on the images' device.

        Returns:
            Images ``[*output_size, 3]`` uint8 RGB per sample, on the device of ``stored``, with
            ``masks`` and ``matrix`` moved as the images were.
        """


def steps_without_annotations(transform: Any) -> list[Any]:
    """Return the augmentations of a transform behind which masks and boxes would be wrong.

    A transform of another class than this package's is named itself, unless its
    ``takes_annotations`` is True.
    """
    steps = getattr(transform, "augment", None)
    steps = getattr(transform, "transforms", None) if steps is None else steps
    if steps is None:
        return [] if takes_annotations(transform) else [transform]
    return [step for step in steps if not takes_annotations(step)]
