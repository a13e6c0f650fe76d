"""What mixes, transforms and augmentations know of each other: two methods and two dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import HostDraws


@dataclass(frozen=True)
class Frame:
    """What every image of a loader looks like where it is mixed or augmented.

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
    """What belongs to one sample and changes together. In a graph the fields are nodes.

    Attributes:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU. A mix that blends makes it
            float32, in [0, 255].
    """

    image: DataNode


class Augmentation(Protocol):
    """What a transform asks of an augmentation."""

    def draw(self, draws: HostDraws, frame: Frame, /) -> dict[str, np.ndarray]:
        """Draw what one batch needs, by name: arrays with a batch axis in front."""

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], frame: Frame, /) -> DataNode:
        """Change ``image``, ``[height, width, 3]`` uint8 per sample, CPU or GPU.

        ``drawn`` is what `draw` gives, as nodes on the CPU.
        """
