"""What ``dali-cutmix check --masks`` finds: bad masks, and the classes in good ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dali_cutmix.annotations.masks import Masks
from dali_cutmix.serving.diagnose import diagnose_masks
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.decoders import Decodable
from dali_cutmix.sources.upright import RefusedError
from dali_cutmix.tools.check.parts import count_of_bad, names_in

#: Masks looked at between two reports of progress.
_CHUNK = 16

#: Classes that a message names.
_MOST_NAMED = 5

#: Classes that a report lists.
_MOST_LISTED = 40


@dataclass(frozen=True)
class MaskReport:
    """Say what the masks of a source hold.

    Attributes:
        num_masks: Masks that were looked at.
        bad: Reason by index of masks that cannot be decoded, are of another size than their images,
            or hold classes out of range.
        classes: Classes in masks that can be read, in ascending order, without the ignored one. A
            class out of range is listed too.
        num_without: Good masks of ignored pixels alone.
    """

    num_masks: int
    bad: dict[int, str]
    classes: tuple[int, ...]
    num_without: int

    @property
    def is_bad(self) -> bool:
        """Whether a mask is bad."""
        return bool(self.bad)

    def lines(self) -> list[str]:
        """Return the report in lines."""
        reasons = [reason.removeprefix("its mask ") for reason in self.bad.values()]
        lines = names_in("Bad masks", reasons)
        more = len(self.classes) - _MOST_LISTED
        classes = " ".join(map(str, self.classes[:_MOST_LISTED])) or "none"
        lines.append(f"Classes in masks: {classes}{f' and {more} more' if more > 0 else ''}")
        if self.num_without:
            lines.append(f"Masks of ignored pixels alone: {self.num_without}")
        return [*lines, count_of_bad(len(self.bad), self.num_masks, "masks")]


def check_masks(
    images: StoredImages,
    masks: Masks,
    *,
    bad_images: set[int],
    num_classes: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> MaskReport:
    """Decode the mask of every good image as a loader does, and look at its classes.

    Args:
        images: The data.
        masks: A mask for each image.
        bad_images: Indices of images whose masks are left out.
        num_classes: Classes of the model: a mask with a larger index is bad, unless the index is
            ignored. None takes all.
        on_progress: Called with the number of masks done, in ascending order up to all.

    Raises:
        TroubleError: The machine or the storage is in trouble.
    """
    decodable = Decodable(images, None, 1)
    bad: dict[int, str] = {}
    classes: set[int] = set()
    num_without = 0
    for first in range(0, len(images), _CHUNK):
        chunk = [
            index
            for index in range(first, min(first + _CHUNK, len(images)))
            if index not in bad_images
        ]
        bad |= diagnose_masks(images, [masks], chunk, decodable)
        for index in chunk:
            if index in bad:
                continue
            try:
                in_mask = np.unique(masks.classes_in(index))
            except RefusedError as error:  # DALI takes the file, and Pillow does not
                bad[index] = f"its mask {masks.path(index)}: {error.reason}"
                continue
            in_mask = in_mask[in_mask != masks.ignore]
            classes.update(in_mask.tolist())
            reason = out_of_range(in_mask, num_classes)
            if reason is not None:
                bad[index] = f"its mask {masks.path(index)}: {reason}"
                continue
            num_without += not in_mask.size
        if on_progress is not None:
            on_progress(min(first + _CHUNK, len(images)))
    decodable.close()
    masks.close()
    num_masks = len(images) - len(bad_images)
    return MaskReport(num_masks, bad, tuple(sorted(classes)), num_without)


def out_of_range(classes: np.ndarray, num_classes: int | None) -> str | None:
    """Return which classes a model does not have; None where all are in range.

    Args:
        classes: Class indices, each once, without the ignored one: ``[n]``.
        num_classes: Classes of the model. None takes all.
    """
    if num_classes is None:
        return None
    strange = classes[(classes < 0) | (classes >= num_classes)]
    if not strange.size:
        return None
    noun = "class" if len(strange) == 1 else "classes"
    named = ", ".join(map(str, strange[:_MOST_NAMED].tolist()))
    more = f" and {len(strange) - _MOST_NAMED} more" if len(strange) > _MOST_NAMED else ""
    return f"{noun} {named}{more}, and there are {num_classes}: 0 to {num_classes - 1}"
