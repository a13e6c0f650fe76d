"""Describe the work that every loader in a race is asked to do."""

# Standard library only, and Python 3.8: interpreters without DALI and this package load this file.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MIXES = ("cutmix", "mixup", "none")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Work:
    """Describe the work of one contestant. Only ``mix`` and ``extra`` differ within a race.

    Images are cropped at random (8 to 100 % of the area, aspect 3/4 to 4/3), resized, flipped with
    probability 0.5, and normalised with ImageNet's mean and deviation. Epochs are shuffled, and a
    short last batch is dropped.

    Raises:
        ValueError: A value is out of range. Names the field.
    """

    data: str
    """Folder with one subfolder per class (an ImageFolder root)."""
    num_classes: int
    """Columns of a mixed target, at least 1."""
    size: int = 224
    """Side of each image in pixels."""
    batch_size: int = 64
    """Images per batch."""
    threads: int = 2
    """Worker processes or threads of a loader."""
    mix: str = "cutmix"
    """``"cutmix"`` or ``"mixup"``, alpha 1 and every batch mixed, or ``"none"``."""
    device: str = "cpu"
    """Device of the batches: ``"cpu"`` or ``"cuda"``."""
    seed: int = 0
    """Seed of order, crops and mixing."""
    check_values: bool = True
    """Whether pixels and weights are checked before a race; if not, only shapes, types and devices
    are. For a stand-in of a GPU, which computes no pixels."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Settings of one contestant, such as ``{"prefetch": 4}``."""

    def __post_init__(self) -> None:
        for name in ("num_classes", "size", "batch_size", "threads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Work: `{name}` must be a whole number above 0, got {value!r}.")
        for name, choices in (("mix", MIXES), ("device", DEVICES)):
            value = getattr(self, name)
            if value not in choices:
                listed = ", ".join(map(repr, choices))
                raise ValueError(f"Work: `{name}` must be one of {listed}, got {value!r}.")
