"""What a transform and its augmentations know of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import HostDraws


@dataclass(frozen=True)
class Frame:
    """What an augmentation is told of its images.

    Attributes:
        size: ``(height, width)`` in pixels.
        mean: What is subtracted at the end, per channel, in [0, 1].
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]


class Augmentation(Protocol):
    """What a transform asks of an augmentation."""

    def draw(self, draws: HostDraws, frame: Frame, /) -> dict[str, np.ndarray]:
        """Draw what one batch needs, by name: arrays with a batch axis in front."""

    def operate(self, image: DataNode, drawn: Mapping[str, DataNode], frame: Frame, /) -> DataNode:
        """Change ``image``, ``[height, width, 3]`` uint8 per sample, CPU or GPU.

        ``drawn`` is what `draw` gives, as nodes on the CPU.
        """
