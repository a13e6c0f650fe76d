"""`Batches`: from the number of a batch to what a graph is fed and what the host keeps.

Everything random is drawn here, on the host, and all of it is fed at once. By operators a plan of
CutMix would take some sixty: see `README.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.draws import HostDraws
from dali_cutmix.core.tree import Structure
from dali_cutmix.mixing.labels import MixedTarget, pair_labels
from dali_cutmix.mixing.paste import without_empty
from dali_cutmix.mixing.plan import Mix, MixPlan, check_plan
from dali_cutmix.order.position import Position
from dali_cutmix.serving.replacements import Replacements
from dali_cutmix.serving.settings import WHERE, LoaderSettings
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.decodable import Decodable
from dali_cutmix.sources.read_ahead import NOTHING as UNREAD
from dali_cutmix.sources.read_ahead import Readable, ReadAhead


@dataclass(frozen=True)
class Epoch:
    """The part of an epoch that an iteration serves.

    Attributes:
        position: Where the part begins. Batches of the part are counted from 0.
        order: Indices of the samples to serve: ``[num_indices]`` int64.
        num_batches: Batches of the part.
        num_samples: Samples of the complete epoch that ``position.start`` counts in.
    """

    position: Position
    order: np.ndarray
    num_batches: int
    num_samples: int

    def share_before(self, number: int) -> float:
        """Return the share of the epoch that lies before a batch of the part, in [0, 1)."""
        dealt = self.position.start / self.num_samples
        past = self.position.batch - self.position.start_batch
        return dealt + (1 - dealt) * (past + number) / (past + self.num_batches)


NO_EPOCH = Epoch(Position(0), np.zeros(0, np.int64), 0, 0)


@dataclass(frozen=True)
class Batch:
    """What the host keeps of a batch until the batch is handed out.

    Attributes:
        indices: Indices in the source of the images; bad ones replaced.
        label: Class of each sample, ``[B]`` int64; or a `MixedTarget` where labels are mixed.
        plan: As drawn; arrays with a batch axis in front. None without a mix.
    """

    indices: list[int]
    label: np.ndarray | MixedTarget
    plan: MixPlan | None


class Batches:
    """Draw the batches of an epoch by their numbers, in any order.

    A batch is a function of the data, the seed, the epoch, the batch's number and the shard, and of
    the images found bad.

    Args:
        images: The data.
        decodable: The images of the data as the graph is fed them.
        settings: The loader's.
        replacements: The images found bad.
        mixes: Whether the mix of the settings is drawn.

    Attributes:
        mix: The mix that is drawn; None mixes nothing.
        frames: What the images of each view look like where they are mixed.
        structure: Of what a transform and a mix draw, as fed: the same in every batch.
        epoch: The part of an epoch that batches are counted in.
    """

    def __init__(
        self,
        images: StoredImages,
        decodable: Decodable,
        settings: LoaderSettings,
        replacements: Replacements,
        *,
        mixes: bool,
    ) -> None:
        self.settings = settings
        self.kind = images.kind
        self.mix: Mix | None = settings.mix if mixes else None
        self.frames = [view.frame for view in settings.views]
        self.epoch = NO_EPOCH
        self._images = images
        self._decodable = decodable
        self._replacements = replacements
        self._ahead: list[ReadAhead] = []
        # Drawn for nothing, so that a mix refuses before the first batch what it has to refuse.
        probe = HostDraws(settings.batch_size, 0, 0, 0, 0, 0.0)
        tree, plan = self._draw(probe)
        self.structure = Structure(tree)
        if plan is not None and _blends(plan):
            self._check_blends()

    def begin(self, epoch: Epoch) -> None:
        """Go to a part of an epoch, and forget images read for another."""
        self.epoch = epoch
        if not self._ahead:
            readable: tuple[Readable, ...] = (self._decodable, *self.settings.masks)
            self._ahead = [ReadAhead(images, self.indices) for images in readable]
        for ahead in self._ahead:
            ahead.forget()
        self._decodable.refused.clear()

    @property
    def num_fed(self) -> int:
        """Inputs of a graph: as many as `draw` returns."""
        return 3 + 2 * len(self.settings.masks) + self.structure.num_leaves

    def indices(self, number: int) -> list[int]:
        """Return the indices of a batch's images, bad ones replaced; none after the last batch.

        Raises:
            BadFileError: Too many images are bad to replace one.
        """
        if number >= self.epoch.num_batches:
            return []
        first = number * self.settings.batch_size
        order = self.epoch.order[first : first + self.settings.batch_size]
        bad, indices = self._replacements.bad, order.tolist()
        if not bad:
            return indices
        return [self._replacements.of(index) if index in bad else index for index in indices]

    def draw(self, number: int) -> tuple[list[Any], Batch]:
        """Read and draw one batch.

        Returns:
            What the graph is fed, in the order of its inputs, and what the host keeps. Fed are the
            stored images (a list of arrays), whether each is a path, whether each is trusted to be
            whole (``[B]`` bool), for each `Masks` the stored masks and their divisors (``[B]``
            uint16), and the leaves of `structure`.

        Raises:
            BadFileError: Pillow refuses an image, and bad images are not replaced; or too many
                images are bad to replace one.
        """
        settings, epoch = self.settings, self.epoch
        indices, stored = self._read(number)
        place = epoch.position.epoch, epoch.position.batch + number, settings.shard.index
        draws = HostDraws(len(indices), settings.seed, *place, epoch.share_before(number))
        tree, plan = self._draw(draws)
        label: Any = self._images.targets[indices]
        if plan is not None and settings.mixes_labels:
            label = pair_labels(label, plan)
        # DALI takes no strided arrays, such as partners by flipping.
        leaves = map(np.ascontiguousarray, self.structure.leaves(tree))
        trusted = np.array([index in self._replacements.trusted for index in indices])
        are_paths = self._decodable.are_paths(indices)
        masks = self._read_masks(number, indices)
        return [stored, are_paths, trusted, *masks, *leaves], Batch(indices, label, plan)

    def close(self) -> None:
        """Stop reading ahead."""
        ahead, self._ahead = self._ahead, []
        for reading in ahead:
            reading.close()

    def _check_blends(self) -> None:
        for annotation in self.settings.annotations:
            if not annotation.takes_blends:
                rule = f"copy pixels where `target` holds {type(annotation).__name__}"
                way_out = "Blended images have no such target. `CutMix()` copies."
                refuse(WHERE, "mix", rule, self.mix, way_out)

    def _read(self, number: int) -> tuple[list[int], list[np.ndarray]]:
        """Return indices and stored images of a batch, with those replaced that Pillow refused."""
        read, stored = self._ahead[0].batch(number)
        while True:
            indices = self.indices(number)
            for position, index in enumerate(indices):
                if read[position] != index:  # the image that was read is bad
                    stored[position] = _stored(self._decodable, index)
            refused = self._decodable.refused
            newly_bad = {index: refused.pop(index) for index in indices if index in refused}
            if not newly_bad:
                return indices, stored
            self._replacements.note(newly_bad, set())
            read = indices

    def _read_masks(self, number: int, indices: list[int]) -> Iterator[Any]:
        """Yield what the graph is fed for the masks of images."""
        for masks, ahead in zip(self.settings.masks, self._ahead[1:], strict=True):
            read, stored = ahead.batch(number)
            for position, index in enumerate(indices):
                if read[position] != index:
                    stored[position] = _stored(masks, index)
            yield stored
            yield masks.divisors(indices)

    def _draw(self, draws: HostDraws) -> tuple[Any, MixPlan | None]:
        """Draw what is fed, as a tree, and the plan."""
        # The first view draws as it would alone.
        drawn = tuple(
            view.draw(draws.under(f"view/{number}/") if number else draws, frame)
            for number, (view, frame) in enumerate(
                zip(self.settings.views, self.frames, strict=True)
            )
        )
        if self.mix is None:
            return (drawn, None), None
        (frame,) = self.frames
        plan = self.mix.draw(draws, frame)
        check_plan(self.mix, plan, draws.num_samples, frame)
        return (drawn, without_empty(plan).for_operators()), plan


def _blends(plan: MixPlan) -> bool:
    """Return whether a plan, or a plan that is a part of it, blends images."""
    return plan.blends or any(map(_blends, getattr(plan, "plans", None) or ()))


def _stored(images: Readable, index: int) -> np.ndarray:
    try:
        return images.stored(index)
    except (OSError, MemoryError):
        return UNREAD


def count_batches(num_samples: int, batch_size: int, drop_last: bool) -> int:
    """Count the batches that samples make."""
    return num_samples // batch_size if drop_last else math.ceil(num_samples / batch_size)
