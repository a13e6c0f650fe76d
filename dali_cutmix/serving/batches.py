"""`Batches`: from the number of a batch to what a graph is fed and what the host keeps.

Everything random is drawn here, on the host, and all of it is fed at once. By operators a plan of
CutMix would take some sixty: see `README.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.frame import Frame, Structure, as_tensors
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.core.reading import NUM_READERS, Readable, ReadAhead, stored_or_nothing
from dali_cutmix.mixing.clipcutmix import plan_of_frames
from dali_cutmix.mixing.labels import MixedTarget, pair_labels
from dali_cutmix.mixing.last_blend import blends_last
from dali_cutmix.mixing.mix import Mix, check_plan, looks
from dali_cutmix.mixing.paste import without_empty
from dali_cutmix.mixing.plan import MixPlan, at_position, finished, has_blends
from dali_cutmix.order.position import Position
from dali_cutmix.serving import stacks
from dali_cutmix.serving.replacements import Replacements
from dali_cutmix.serving.settings import WHERE, LoaderSettings
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.decoders import Decodable
from dali_cutmix.sources.stacks import Stacks

T = TypeVar("T")


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
        labels: For each view the class of each sample, ``[B]`` int64; or a `MixedTarget` where
            labels are mixed.
        plans: For each view the plan as drawn; arrays with a batch axis in front. Views that share
            a plan have one object. None without a mix.
        parts: What was read: the indices, or the frames of clips, or windows of volumes.
        position: Epoch of the batch, and its number in the epoch, each from 0.
        depth: As of `Batches`.
        blends_last: Whether `ToTorch` blends its images.
    """

    indices: list[int]
    labels: Sequence[np.ndarray | MixedTarget]
    plans: Sequence[MixPlan | None]
    parts: list[Any]
    position: tuple[int, int]
    depth: int = 0
    blends_last: bool = False

    def plans_of_tensors(self) -> list[MixPlan | None]:
        """Return the plans with tensors in the place of arrays, and with their position."""

        def of_tensors(plan: MixPlan) -> MixPlan:
            return at_position(as_tensors(plan), self.position)

        return list(_of_each(of_tensors, self.plans))


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
        depth: Frames of a clip or slices of a volume, which are samples of a graph; 0 for images.
        blends_last: Whether `ToTorch` blends images, and not the graph.
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
        self.blends_last = False
        self.depth = 0
        if isinstance(images, Stacks):
            self.depth = images.depth(settings.transform)
            self.frames = [replace(frame, depth=self.depth) for frame in self.frames]
        self.epoch = NO_EPOCH
        self._images = images
        self._decodable = decodable
        self._replacements = replacements
        self._ahead: list[ReadAhead] = []
        if self.looks and self.depth:
            rule = "draw without a look at images with clips and volumes"
            refuse(WHERE, "mix", rule, self.mix, "`ClipCutMix()` mixes clips and volumes.")
        # Drawn for nothing, so that a mix refuses before the first batch what it has to refuse.
        size, indices = settings.batch_size, np.zeros(settings.batch_size, np.int64)
        known = self._known(np.arange(size) % len(images))
        probe = HostDraws(size, 0, 0, 0, 0, 0.0, indices, **known)
        tree, plans = self._draw(probe)
        self.structure = Structure(tree)
        self._leaves(tree, size)
        if (plan := plans[0]) is not None and self.mix is not None:
            if has_blends(plan):
                self._check_blends()
                self.blends_last = not settings.takes_volumes and blends_last(self.mix, plan)
            if settings.takes_volumes:
                stacks.check_plan_of_volumes(self.mix, plan)
        self._complete = Structure(_finished(plans)) if self.looks else None

    @property
    def looks(self) -> bool:
        """Whether the graph completes the plan, by looking at images."""
        return looks(self.mix)

    def begin(self, epoch: Epoch, first: int = 0) -> None:
        """Go to a part of an epoch, to batch ``first`` of it, and forget images read before."""
        self.epoch = epoch
        self._images.expect(epoch.order[first * self.settings.batch_size :])
        if not self._ahead:
            readable: tuple[Readable, ...] = (self._decodable, *self.settings.masks)
            num_readers = NUM_READERS
            if isinstance(self._images, Stacks) and self._images.decodes:
                num_readers = self.settings.num_threads
            self._ahead = [ReadAhead(images, self.parts, num_readers) for images in readable]
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

    def parts(self, number: int) -> list[Any]:
        """Return what is read for a batch: indices of images, or parts of `Stacks`.

        Raises:
            BadFileError: Too many images are bad to replace one.
        """
        indices = self.indices(number)
        if not isinstance(self._images, Stacks) or not indices:
            return indices
        draws = self._draws(number, indices)
        return self._images.parts(indices, draws, self.settings.transform)

    def _listed(self, number: int) -> np.ndarray:
        """Return the indices of a batch as listed: ``[B]`` int64.

        Those of bad images, and not of what replaces them, so that a bad image changes no partner.
        """
        first = number * self.settings.batch_size
        return self.epoch.order[first : first + self.settings.batch_size]

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
        parts, stored, masks = self._read(number)
        indices = self.indices(number)
        tree, plans = self._draw(self._draws(number, indices))
        # DALI takes no strided arrays, such as partners by flipping.
        leaves = map(np.ascontiguousarray, self._leaves(tree, len(indices)))
        if self.depth and self.kind == "pixels":
            stored = stacks.slices_of(stored)
            are_paths = trusted = np.zeros(len(stored), bool)
        else:
            are_paths = self._decodable.are_paths(parts)
            trusted = np.array([part in self._replacements.trusted for part in parts])
        labels, position = self._mixed_labels(indices, plans), self._position(number)
        batch = Batch(indices, labels, plans, parts, position, self.depth, self.blends_last)
        return [stored, are_paths, trusted, *masks, *leaves], batch

    def complete(self, outputs: Sequence[Any], batch: Batch) -> tuple[Sequence[Any], Batch]:
        """Take out of a graph's outputs what completes the plan of their batch.

        Args:
            outputs: As `Graph.images` returns them.
            batch: What the host kept.

        Returns:
            The other outputs, and the batch with its complete plans and labels.
        """
        if self._complete is None:
            return outputs, batch
        num_others = len(outputs) - self._complete.num_leaves
        # Copied: DALI uses the memory again.
        leaves = [np.array(output.as_array()) for output in outputs[num_others:]]
        plans = self._complete.build(leaves)
        labels = self._mixed_labels(batch.indices, plans)
        return outputs[:num_others], replace(batch, labels=labels, plans=plans)

    def alone(self, fed: list[Any], position: int) -> list[Any]:
        """Return the part of what a graph is fed that belongs to one sample of a batch.

        Args:
            fed: As `draw` returns it, without a mix.
            position: Which sample of the batch.
        """
        if self.depth:
            return stacks.alone(fed, position, self.depth)
        return [arrays[position : position + 1] for arrays in fed]

    def of_samples(
        self, bad: dict[Any, str], parts: Sequence[Any], indices: Sequence[int]
    ) -> dict[int, str]:
        """Turn reasons by part of a batch into reasons by index."""
        if not self.depth:
            return bad
        return stacks.of_stacks(bad, parts, indices, self._images.read_images)

    def close(self) -> None:
        """Stop reading ahead."""
        ahead, self._ahead = self._ahead, []
        if ahead:
            self._images.expect(np.zeros(0, np.int64))
        for reading in ahead:
            reading.close()

    def _check_blends(self) -> None:
        for annotation in self.settings.annotations:
            if not annotation.takes_blends:
                rule = f"copy pixels where `target` holds {type(annotation).__name__}"
                way_out = "Blended images have no such target. `CutMix()` copies."
                refuse(WHERE, "mix", rule, self.mix, way_out)

    def _mixed_labels(
        self, indices: list[int], plans: Sequence[MixPlan | None]
    ) -> Sequence[np.ndarray | MixedTarget]:
        """Return the classes of a batch for each view."""
        label: np.ndarray = self._images.targets[indices]
        if plans[0] is None or not self.settings.mixes_labels:
            return (label,) * len(plans)
        return _of_each(lambda plan: pair_labels(label, plan), plans)

    def _read(self, number: int) -> tuple[list[Any], list[np.ndarray], Iterator[Any]]:
        """Read a batch, with those samples replaced that Pillow refused or that cannot be read.

        Returns:
            What was read, the stored images, and what the graph is fed for the masks.
        """
        readings = [ahead.batch(number) for ahead in self._ahead]
        readable: tuple[Readable, ...] = (self._decodable, *self.settings.masks)
        parts = readings[0][0]
        while True:
            read, parts = parts, self.parts(number)
            for images, (_, stored) in zip(readable, readings, strict=True):
                for position, part in enumerate(parts):
                    if read[position] != part:  # what was read is bad
                        stored[position] = stored_or_nothing(images, part)
            indices = self.indices(number)
            newly_bad = self._newly_bad(parts, indices, readings)
            if not newly_bad:
                break
            self._replacements.note(self.of_samples(newly_bad, parts, indices), set())
        return parts, readings[0][1], self._masks_fed(parts, readings[1:])

    def _newly_bad(
        self, parts: list[Any], indices: list[int], readings: Sequence[Any]
    ) -> dict[Any, str]:
        """Return why parts of a batch cannot be served, as far as the host knows."""
        refused = self._decodable.refused
        bad = {part: refused.pop(part) for part in parts if part in refused}
        if self.depth and self.kind == "pixels":
            bad = stacks.faults(self._images, indices, parts, readings[0][1]) | bad
            for masks, (_, stored) in zip(self.settings.masks, readings[1:], strict=True):
                bad = stacks.faults(masks, indices, parts, stored) | bad
        return bad

    def _masks_fed(self, parts: list[Any], readings: Sequence[Any]) -> Iterator[Any]:
        """Yield what the graph is fed for the masks of images."""
        for masks, (_, stored) in zip(self.settings.masks, readings, strict=True):
            arrays = stacks.slices_of(stored) if self.depth else stored
            yield arrays
            yield masks.divisors(range(len(arrays)) if self.depth else parts)

    def _draw(self, draws: HostDraws) -> tuple[Any, Sequence[MixPlan | None]]:
        """Draw what is fed, as a tree, and a plan for each view."""
        views = self.settings.views
        # The first view draws as it would alone.
        of_views = [draws.under(f"view/{n}/") if n else draws for n in range(len(views))]
        drawn = tuple(
            view.draw(view_draws, frame)
            for view, view_draws, frame in zip(views, of_views, self.frames, strict=True)
        )
        if self.mix is None:
            plans: tuple[MixPlan | None, ...] = (None,) * len(views)
        elif self.settings.plan_of_each_view:
            plans = tuple(map(self._plan, of_views, self.frames))
        else:
            plans = (self._plan(draws, self.frames[0]),) * len(views)
        fed = self._for_operators(plans)
        if not self.depth:
            return (drawn, fed, None), plans
        drawn, stack = stacks.of_frames(drawn, draws.num_samples, self.depth)
        fed = _of_each(partial(plan_of_frames, depth=self.depth), fed)
        return (drawn, fed, stack), plans

    def _leaves(self, tree: Any, num_samples: int) -> list[Any]:
        """List the arrays of what was drawn for a batch, which have its samples in front.

        Raises:
            ValueError: An array has another number of samples.
        """
        leaves, count = self.structure.leaves(tree), num_samples * max(1, self.depth)
        for number, leaf in enumerate(leaves):
            if leaf.shape[:1] != (count,):
                raise ValueError(
                    f"draw: {self.structure.path(number)} must be an array with a batch axis of "
                    f"{count} in front, got shape {list(leaf.shape)}."
                )
        return leaves

    def _plan(self, draws: HostDraws, frame: Frame) -> MixPlan:
        """Draw a plan."""
        assert self.mix is not None
        plan = self.mix.draw(draws, frame)
        check_plan(self.mix, plan, draws.num_samples, frame)
        return plan

    def _for_operators(self, plans: Sequence[MixPlan | None]) -> tuple[MixPlan | None, ...]:
        """Return what operators read of plans. A plan that views share is fed once."""
        if self.looks:
            return tuple(plans)
        return _of_each(lambda plan: without_empty(plan).for_operators(), plans)

    def _draws(self, number: int, indices: list[int]) -> HostDraws:
        """Return the draws of a batch."""
        settings = self.settings
        epoch, batch = self._position(number)
        shard, in_source = settings.shard.index, np.array(indices, np.int64)
        in_epoch = self.epoch.share_before(number)
        known = self._known(self._listed(number))
        return HostDraws(
            len(indices), settings.seed, epoch, batch, shard, in_epoch, in_source, **known
        )

    def _position(self, number: int) -> tuple[int, int]:
        """Return the epoch of a batch and its number in the complete epoch."""
        position = self.epoch.position
        return position.epoch, position.batch + number

    def _known(self, listed: np.ndarray) -> dict[str, Any]:
        """Return what is known of a batch's samples: arguments of `HostDraws`."""
        labels = self._images.targets[listed] if len(self._images.classes) else None
        return {"labels": labels, "listed": listed}


def _of_each(function: Callable[[MixPlan], T], plans: Sequence[MixPlan | None]) -> tuple[Any, ...]:
    """Apply a function to the plan of each view, once to a plan that views share."""
    results: dict[int, T] = {id(plan): function(plan) for plan in plans if plan is not None}
    return tuple(results.get(id(plan)) for plan in plans)


def _finished(plans: Sequence[MixPlan | None]) -> tuple[MixPlan | None, ...]:
    return _of_each(finished, plans)


def count_batches(num_samples: int, batch_size: int, drop_last: bool) -> int:
    """Count the batches that samples make."""
    return num_samples // batch_size if drop_last else math.ceil(num_samples / batch_size)
