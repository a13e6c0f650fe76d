"""Which images turned out bad, and which others stand in for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dali_cutmix.core.draws import derive_seed
from dali_cutmix.core.errors import BadFileError
from dali_cutmix.sources.base import StoredImages

MAX_TRIES = 16  # spares in a row that are bad themselves: by then the storage is at fault


class BadFile(NamedTuple):
    """An image that could not be read or decoded, and why."""

    path: str
    reason: str


class Spares:
    """Replaces bad images by others, always by the same ones.

    Which image stands in for another is a hash of the seed and its index: the first of a chain of
    candidates that is not bad itself. It does not depend on when each was found to be bad, so that
    a resumed run replaces as the first one did.

    Args:
        images: The data.
        seed: The loader's.

    Attributes:
        bad: Reason by index, in the order found.
        pool: Indices that may stand in; None means all.
    """

    def __init__(self, images: StoredImages, seed: int) -> None:
        self._images = images
        self._seed = seed
        self.bad: dict[int, str] = {}
        self.pool: np.ndarray | None = None

    def copy(self) -> Spares:
        """The same findings, from where another loader goes its own way."""
        twin = Spares(self._images, self._seed)
        twin.bad = dict(self.bad)
        return twin

    @property
    def bad_files(self) -> list[BadFile]:
        """Path and reason of each bad image, in the order found."""
        return [BadFile(self._images.path(index), reason) for index, reason in self.bad.items()]

    def of(self, index: int) -> int:
        """The index itself, or of what stands in for it.

        Raises:
            BadFileError: So many candidates are bad that the storage must be at fault.
        """
        if index not in self.bad:
            return index
        for turn in range(MAX_TRIES):
            number = derive_seed(self._seed, f"spare/{index}/{turn}")
            spare = self._candidate(number)
            if spare not in self.bad:
                return spare
        reason = f"{self.bad[index]}; so are {MAX_TRIES} images tried in its place, one by one"
        raise BadFileError(self._images.path(index), reason)

    def _candidate(self, number: int) -> int:
        if self.pool is None:
            return number % len(self._images)
        return int(self.pool[number % len(self.pool)])
