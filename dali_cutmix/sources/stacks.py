"""`Stacks`: samples that are images of one size, the frames of a clip or slices of a volume."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

import numpy as np

from dali_cutmix.core.checks import Told, is_whole, refuse
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.sources.base import StoredImages, numbered


class Stacks(StoredImages):
    """Hold samples that are stacks of images, and the class of each.

    Everything that a loader does by index, such as shuffling, resuming and replacing, is done by
    the index of the stack. Its parts are read one by one: a part is a frame, or a window of a
    volume.
    """

    @property
    def num_channels(self) -> int:
        """Channels of a sample."""
        return 3

    @property
    def decodes(self) -> bool:
        """Whether `stored` decodes, and so works more than it waits."""
        return False

    @abstractmethod
    def parts(self, indices: Sequence[int], draws: HostDraws, transform: Any) -> list[Hashable]:
        """Draw the parts of a batch that are read, the same number for each stack.

        Args:
            indices: Indices of the stacks.
            draws: The batch's random numbers.
            transform: The loader's.

        Returns:
            The parts, those of the first stack first.
        """

    @abstractmethod
    def depth(self, transform: Any) -> int:
        """Return the frames or slices of a sample, at least 1."""

    def check(self, transform: Any) -> None:
        """Refuse a transform that cannot make samples of these stacks."""

    def encoded(self, index: int) -> np.ndarray:
        """Refuse: a stack is not an image file."""
        self._refuse_image(index)

    def _refuse_image(self, index: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: {self.path(index)} is not an image. Pass the source to "
            "`DataLoader`."
        )


def class_indices(where: str, classes: Any, num_samples: int) -> tuple[np.ndarray, Sequence[str]]:
    """Return the class index of every sample, and the names of the classes.

    Args:
        where: Name of the caller, for messages.
        classes: Class index of every sample, or name, which is indexed as sorted.
        num_samples: Number of samples.
    """
    if hasattr(classes, "tolist"):  # an array or a tensor
        classes = classes.tolist()
    is_list = isinstance(classes, (list, tuple, range))
    if not is_list or len(classes) != num_samples:
        got = Told(f"{len(classes)} of them") if is_list else classes
        rule = f"be a list with a class for each of the {num_samples} samples"
        refuse(where, "classes", rule, got)
    num_names = sum(isinstance(label, str) for label in classes)
    if num_names == num_samples:
        names = sorted(set(classes))
        index = {name: number for number, name in enumerate(names)}
        return np.array([index[name] for name in classes], np.int64), names
    for number, label in enumerate(classes):
        if not is_whole(label) or label < 0:
            rule = (
                "be an index or a name as the others"
                if num_names
                else "be a class index of at least 0"
            )
            refuse(where, f"classes[{number}]", rule, label)
    return np.array(classes, np.int64), numbered(int(max(classes)) + 1)
