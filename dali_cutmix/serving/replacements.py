"""`Replacements`: which images are bad, and which other images stand in for them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dali_cutmix.core.draws import derive_seed
from dali_cutmix.core.errors import LIST_BAD_FILES, BadFileError, printable
from dali_cutmix.sources.base import StoredImages

#: Candidates in a row that are bad themselves: by then the storage is at fault. In data of which
#: three of four files are bad, so many in a row are one in a hundred million.
MAX_TRIES = 64

#: Files with something behind their end marker cost a new graph each, once. With more of them the
#: data is taken to be like that: all images are decoded whole, and no end is looked at.
MAX_TRUSTED = 64


class BadFile(NamedTuple):
    """Name an image that could not be read or decoded, and the reason."""

    path: str
    reason: str


@dataclass(eq=False)
class Replacements:
    """Replace bad images by others, always by the same ones.

    The image that stands in for another is a hash of the seed and the index: the first of a chain
    of candidates that is not bad itself. When an image was found bad does not matter, so that a
    resumed run replaces as the first run did.

    Attributes:
        images: The data.
        seed: The loader's.
        replaces: Replace bad images; else raise.
        bad: Reason by index, in the order found.
        trusted: Indices of images that are whole, though something lies behind their end marker.
        pool: Indices that may stand in; None means all.
        not_warned: Indices of bad images of which `warn` will warn.
    """

    images: StoredImages
    seed: int
    replaces: bool
    bad: dict[int, str] = field(default_factory=dict)
    trusted: set[int] = field(default_factory=set)
    pool: np.ndarray | None = None
    not_warned: list[int] = field(default_factory=list)

    def take_from(self, other: Replacements) -> None:
        """Copy the bad and trusted images that another `Replacements` has found."""
        self.bad = dict(other.bad)
        self.trusted = set(other.trusted)

    @property
    def bad_files(self) -> list[BadFile]:
        """Path and reason of each bad image, in the order found."""
        return [BadFile(self.images.path(index), reason) for index, reason in self.bad.items()]

    def of(self, index: int) -> int:
        """Return the index of the image that stands in for a bad image.

        Raises:
            BadFileError: So many candidates are bad that the storage must be at fault.
        """
        for turn in range(MAX_TRIES):
            candidate = self._candidate(derive_seed(self.seed, f"spare/{index}/{turn}"))
            if candidate not in self.bad:
                return candidate
        reason = f"{self.bad[index]}; so are {MAX_TRIES} others tried in its place, one by one"
        raise BadFileError(self.images.path(index), reason, LIST_BAD_FILES)

    def note(self, bad: dict[int, str], trailing: set[int]) -> bool:
        """Note what a look at the images of a failed batch found.

        Args:
            bad: Reason by index of images that cannot be read or decoded.
            trailing: Good images with something behind their end marker.

        Returns:
            Whether any of it is new, so that another try can succeed.

        Raises:
            BadFileError: An image is bad, and bad images are not replaced.
        """
        if bad and not self.replaces:
            index, reason = next(iter(bad.items()))
            raise BadFileError(self.images.path(index), reason)
        is_new = bool(bad) or not trailing <= self.trusted
        self.trusted |= trailing
        self.bad |= bad
        self.not_warned += bad
        return is_new

    def warn(self, stacklevel: int) -> None:
        """Warn once of each image that was replaced since the last call.

        Args:
            stacklevel: Calls between this one and the code that iterates the loader.
        """
        for index in self.not_warned:
            path, other = (self.images.path(i) for i in (index, self.of(index)))
            warnings.warn(
                printable(f"DataLoader: replaced {path} by {other}: {self.bad[index]}"),
                RuntimeWarning,
                stacklevel=stacklevel + 1,
            )
        self.not_warned.clear()

    def _candidate(self, number: int) -> int:
        if self.pool is None:
            return number % len(self.images)
        return int(self.pool[number % len(self.pool)])
