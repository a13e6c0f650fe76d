"""`Notes`: an object for each image, such as a caption, beside the share that the image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from dali_cutmix.annotations.base import Shown
from dali_cutmix.core.checks import by_position, refuse

T = TypeVar("T")


class Notes(Generic[T]):
    """Give each image a note: a caption, a list of captions, an id, or any other object.

    ``DataLoader(source, ..., target=Notes(values))`` yields ``(image, notes)``. ``notes`` is a list
    with an entry for each sample: the list of ``(note, share)`` of the images that the sample
    shows, the sample's own first. Shares are above 0 and sum to 1. An image that shows in several
    regions is listed once, with the sum of its shares. Without a mix every list has one pair.

    Args:
        values: A note for each image of the source, in the source's order: a list, or another
            sequence that is indexed by whole numbers, or a pandas ``Series``, taken by position.
            Notes are handed on as they are.

    Raises:
        ValueError: ``values`` are not a sequence, are text, or are empty.
    """

    needs_matrix: ClassVar[bool] = False
    takes_blends: ClassVar[bool] = True

    def __init__(self, values: Sequence[T]) -> None:
        has_order = hasattr(values, "__getitem__") and hasattr(values, "__len__")
        if isinstance(values, (str, bytes, dict)) or not has_order:
            way_out = "Notes of a file are read by `read_notes`."
            refuse("Notes", "values", "be a list of notes", type(values).__name__, way_out)
        if not len(values):
            refuse("Notes", "values", "hold at least one note", values)
        self.values = by_position(values)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Notes({len(self)})"

    def target(self, shown: Shown, /) -> list[list[tuple[T, float]]]:
        """Return the notes of a batch.

        Args:
            shown: The batch.

        Returns:
            For each sample ``(note, share)`` of every image that shows; share in (0, 1].
        """
        if shown.plan is None:
            return [[(self.values[index], 1.0)] for index in shown.indices.tolist()]
        indices: Any = shown.indices[shown.plan.source]
        pairs = zip(indices.tolist(), shown.plan.weight.tolist(), strict=True)
        return [self._merged(images, weights) for images, weights in pairs]

    def _merged(self, images: list[int], weights: list[float]) -> list[tuple[T, float]]:
        """Add up the shares of each image that shows."""
        shares: dict[int, float] = {}
        for image, weight in zip(images, weights, strict=True):
            if weight > 0:
                shares[image] = shares.get(image, 0.0) + weight
        return [(self.values[image], share) for image, share in shares.items()]
