"""What mixes, transforms and augmentations know of each other: two methods and two dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import Draws


@dataclass(frozen=True)
class Frame:
    """Describe every image of a loader where images are mixed or augmented.

    Attributes:
        size: ``(height, width)`` in pixels.
        mean: What is subtracted at the end, per channel R, G, B, in [0, 1].
        resize: Resizes each sample, ``[y, x, 3]`` uint8, to sides of its own, ``[2]`` int32 (y, x)
            in pixels, each at least 1, on the CPU. None resizes by DALI's operator.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    resize: Callable[[DataNode, DataNode], DataNode] | None = None


@dataclass(frozen=True)
class Sample:
    """Hold what changes together in one sample. In a graph the fields are nodes.

    Attributes:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU. A mix that blends makes
            float32 images, in [0, 255].
    """

    image: DataNode


class Augmentation(Protocol):
    """Draw numbers on the host, then change the samples of a batch by operators in the graph.

    ``TrainTransform(augment=[...])`` takes any class with these two methods. A base class is not
    needed.
    """

    def draw(self, draws: Draws, frame: Frame, /) -> Any:
        """Draw what one batch needs.

        Args:
            draws: The batch's random numbers: `HostDraws`.
            frame: What every image looks like.

        Returns:
            A tree of NumPy arrays with a batch axis in front: an array, or dataclasses and tuples
            of them. Every batch draws a tree of the same structure.
        """

    def operate(self, sample: Sample, plan: Any, frame: Frame, /) -> Sample:
        """Change the samples of a batch by DALI operators.

        Args:
            sample: The samples, as nodes. ``image`` is ``[height, width, 3]`` uint8 per sample, CPU
                or GPU.
            plan: The tree that `draw` returned, with a CPU node in the place of every array.
            frame: What every image looks like.

        Returns:
            The sample with its changed fields; sizes and types stay as they are.
        """
