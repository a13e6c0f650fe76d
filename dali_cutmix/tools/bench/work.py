"""What every loader in a race is asked to do."""

# Standard library only, and Python 3.8: read by interpreters that have neither DALI nor this
# package.
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MIXES = ("cutmix", "mixup", "none")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Work:
    """The same for all contestants of a race, but for ``mix`` and ``extra``.

    Images are cropped at random (8 to 100 % of the area, aspect 3/4 to 4/3), resized, mirrored with
    probability 0.5, and normalised with ImageNet's mean and deviation. Epochs are shuffled, and a
    last batch that would be short is left out.

    Raises:
        ValueError: A value outside its range, named.
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
    """Worker processes or threads that a loader may use."""
    mix: str = "cutmix"
    """``"cutmix"`` or ``"mixup"``, alpha 1 and every batch mixed, or ``"none"``."""
    device: str = "cpu"
    """``"cpu"`` or ``"cuda"``: where batches have to be."""
    seed: int = 0
    """Of order, crops and mixing."""
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

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Work:
        """What `to_json` wrote.

        Raises:
            ValueError: No JSON object, or a key that is no field.
        """
        found = json.loads(text)
        known = {one.name for one in fields(cls)}
        if not isinstance(found, dict) or set(found) - known:
            raise ValueError(f"Work: JSON must be an object of {sorted(known)}, got {text!r:.200}.")
        return cls(**found)
