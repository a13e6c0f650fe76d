"""What a loader asks of a mix: its protocol, what else it may say, and what its plans must be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.checks import Told, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.plan import MixPlan

#: Sums of weights of a sample may differ from 1 by so much: float32 adds up to some 100 of them.
WEIGHT_TOLERANCE = 1e-4


class Mix(Protocol):
    """Draw numbers on the host, then mix by operators in the graph.

    A class with these three members can be given to ``DataLoader(mix=...)``. It needs no base
    class. Three more are optional: ``min_batch_size``, see `min_batch_size`, and the two of
    `LookingMix`.
    """

    @property
    def num_sources(self) -> int:
        """Regions of a plan, ``k``. With 1, labels stay as they are."""

    def draw(self, draws: Draws, frame: Frame, /) -> MixPlan:
        """Draw the plan of one batch. Numbers only.

        Args:
            draws: Where the numbers come from. ``draws.progress(num_epochs)`` tells how far the
                run has come.
            frame: What every image looks like.
        """

    def operate(self, sample: Sample, plan: MixPlan, frame: Frame, /) -> Sample:
        """Apply a plan to the samples of a batch. DALI operators only.

        Masks change as the image does: see `Sample.change`.

        Args:
            sample: The batch before this mix.
            plan: What `draw` returned, with CPU nodes in the place of arrays. In a loader a plan
                with rectangles has neither ``weight`` nor ``lam`` here, which no operator reads.
            frame: What every image looks like.
        """


class LookingMix(Mix, Protocol):
    """Complete a plan by looking at the images.

    `draw` returns a plan that is valid, mixes nothing and has ``pending`` set. The plan is
    completed in the graph, once images are decoded and augmented. Labels are weighed afterwards.
    """

    def look(self, sample: Sample, frame: Frame, /) -> Any:
        """Return what the plan depends on, small and of one shape for all samples.

        Args:
            sample: The batch before this mix.
            frame: What every image looks like.

        Returns:
            A tree of nodes, CPU or GPU: a node, or tuples of them. They are copied to the host: a
            few KB per sample at most.
        """

    def complete(self, plan: MixPlan, seen: Any, frame: Frame, /) -> MixPlan:
        """Complete the plan of one batch, on the host. A pure function.

        Args:
            plan: What `draw` returned.
            seen: What `look` returned, with arrays in the place of nodes. They have a batch axis
                in front.
            frame: What every image looks like.

        Returns:
            A plan with the fields of ``plan``, but ``pending`` is None.
        """


def operated(mix: Mix, sample: Sample, plan: MixPlan, frame: Frame) -> Sample:
    """Apply a mix's plan to the samples of a batch.

    Raises:
        TypeError: The mix moves pixels of the image and leaves a mask as it was.
    """
    result = mix.operate(sample, plan, frame)
    moves = plan.taken is not None or plan.owner is not None
    if not moves or not isinstance(result, Sample) or result.image is sample.image:
        return result
    if any(mask is before for mask, before in zip(result.masks, sample.masks, strict=False)):
        raise TypeError(
            f"{type(mix).__name__}.operate: must mix masks as it mixes the image, since its plan "
            "has rectangles or cells. Write `sample.change(lambda pixels: paste(pixels, plan))`. "
            "A mix that only changes colours draws `put` without `taken`."
        )
    return result


def looks(mix: Any) -> bool:
    """Tell whether a mix, or one that it is made of, completes its plan by looking at images."""
    inner = _inside(mix)
    return hasattr(mix, "look") and (not inner or any(map(looks, inner)))


def in_torch(mix: Any) -> bool:
    """Tell whether only the training step can complete the plans of a mix."""
    return bool(getattr(mix, "in_torch", False))


def is_mix(value: object) -> bool:
    """Tell whether a value has the members of `Mix`."""
    names = ("num_sources", "draw", "operate")
    return not isinstance(value, type) and all(hasattr(value, name) for name in names)


def min_batch_size(mix: Mix) -> int:
    """Return how many samples a batch needs: what the mix says, or 2 where labels are mixed."""
    return int(getattr(mix, "min_batch_size", 2 if mix.num_sources > 1 else 1))


def inner_mixes(mix: Any) -> Iterator[Any]:
    """Yield a mix and the mixes that it is made of, at any depth."""
    yield mix
    for part in _inside(mix):
        yield from inner_mixes(part)


def _inside(mix: Any) -> list[Any]:
    """Return the mixes that a mix is made of: those in its `mixes` or `mix`."""
    mixes = getattr(mix, "mixes", None)
    parts = mixes if isinstance(mixes, (tuple, list)) else [getattr(mix, "mix", None)]
    return [part for part in parts if is_mix(part)]


def is_weighted(mix: Any) -> bool:
    """Return whether a mix draws partners by weights."""
    partner = getattr(mix, "partner", None)
    return isinstance(partner, str) and partner == "weighted"


def needs_labels(mix: Any) -> bool:
    """Return whether a mix, or a mix inside, draws partners by the weights of their classes."""
    return any(
        is_weighted(part) and getattr(part, "sample_weights", None) is None
        for part in inner_mixes(mix)
    )


def check_num_weights(mix: Any, num_classes: int, num_samples: int) -> None:
    """Refuse a mix whose weights are not as many as there are classes, or samples."""
    for part in inner_mixes(mix):
        for of, num in (("class", num_classes), ("sample", num_samples)):
            weights = getattr(part, f"{of}_weights", None) if is_weighted(part) else None
            if weights is not None and len(weights) != num:
                rule = f"hold {num} weights, one for each {of} of the source"
                refuse(type(part).__name__, f"{of}_weights", rule, Told(f"{len(weights)} weights"))


def check_plan(mix: Mix, plan: Any, num_samples: int, frame: Frame) -> None:
    """Refuse what a mix drew on the host, if it is not a plan of its batch.

    Raises:
        TypeError, ValueError: The class of the mix, the field, and its fault.
    """
    where = f"{type(mix).__name__}.draw"
    if not isinstance(plan, MixPlan):
        raise TypeError(f"{where}: must return a MixPlan, got {type(plan).__name__}.")
    shape = (num_samples, int(mix.num_sources))
    _check_array(where, "source", plan.source, np.int32, shape)
    _check_array(where, "weight", plan.weight, np.float32, shape)
    for index in (int(plan.source.min()), int(plan.source.max())):
        if not 0 <= index < num_samples:
            refuse(where, "source", f"be at least 0 and below the {num_samples} samples", index)
    if (plan.source[:, 0] != np.arange(num_samples)).any():
        refuse(where, "source", "name the sample itself in its first region", plan.source[:, 0])
    if not plan.weight.min() >= 0:  # NaN too
        refuse(where, "weight", "be at least 0", float(plan.weight.min()))
    if abs(plan.weight.sum(axis=1) - 1).max() > WEIGHT_TOLERANCE:
        sums = plan.weight.sum(axis=1).round(4).tolist()
        refuse(where, "weight", "sum to 1 per sample", Told(f"sums {sums}"))
    if tuple(plan.size) != tuple(frame.size):
        refuse(where, "size", f"be the frame's {frame.size}", plan.size)
    _check_owner(where, plan)
    for name, rect in (("taken", plan.taken), ("put", plan.put)):
        if rect is None:
            continue
        for part in ("anchor", "extent"):
            _check_array(where, f"{name}.{part}", getattr(rect, part), np.int32, (*shape, 2))
        end = rect.anchor + rect.extent
        if rect.anchor.min() < 0 or rect.extent.min() < 0 or (end > frame.size).any():
            rule = f"lie inside the image of {frame.size}"
            corners = end.reshape(-1, 2).max(axis=0).tolist()
            refuse(where, name, rule, Told(f"corners to {corners}"))
    _check_sides(where, plan)
    if not plan.is_complete and not looks(mix) and not any(map(in_torch, inner_mixes(mix))):
        rule = "be None where a mix has no `look` and `complete`, or the mix inside has none"
        refuse(where, "pending", rule, Told("a plan that nothing would complete"))


def _check_sides(where: str, plan: MixPlan) -> None:
    """Refuse rectangles of which operators would read or fill others than the plan says."""
    taken, put = plan.taken, plan.put
    if taken is None or put is None or taken is put:
        return
    if not plan.resizes:
        if not np.array_equal(taken.extent, put.extent):
            way_out = "To make a whole partner smaller, set `resizes`."
            rule = "have the sides of `put`, since pixels are copied"
            refuse(where, "taken", rule, Told("other sides"), way_out)
        return
    num_regions, size = plan.source.shape[1], np.array(plan.size)
    if num_regions != 2:
        way_out = "One partner of each sample is resized. `Chain` puts several mixes in a row."
        refuse(where, "resizes", f"be False in a plan of {num_regions} regions", True, way_out)
    if taken.anchor.any() or (taken.extent != size).any() or (put.extent[:, 0] != size).any():
        way_out = "Parts are copied by a plan without `resizes`."
        rule = "be the whole image in both regions of a plan that resizes, the first put whole"
        refuse(where, "taken", rule, Told("a part of it"), way_out)
    if not put.extent.all():
        rule, way_out = "have no side of 0 where a plan resizes", "Put an unmixed sample on itself."
        refuse(where, "put", rule, Told("one"), way_out)


def _check_owner(where: str, plan: MixPlan) -> None:
    """Refuse cells that do not tile the image, owners that are no regions, and rectangles too."""
    if plan.owner is None:
        return
    if plan.put is not None or plan.taken is not None or plan.fill is not None:
        refuse(where, "owner", "be None where a plan has rectangles", plan.owner.shape)
    if min(plan.cell) < 1:
        refuse(where, "cell", "be whole pixels above 0", plan.cell)
    num_samples, num_regions = plan.source.shape
    grid = tuple(-(-side // step) for side, step in zip(plan.size, plan.cell, strict=True))
    _check_array(where, "owner", plan.owner, np.uint8, (num_samples, *grid))
    if plan.owner.max() >= num_regions:
        refuse(where, "owner", f"be below the {num_regions} regions", int(plan.owner.max()))


def check_completed(mix: Mix, plan: Any, num_samples: int, frame: Frame) -> None:
    """Refuse what a mix completed on the host, if it is not the complete plan of its batch."""
    check_plan(mix, plan, num_samples, frame)
    if not plan.is_complete:
        raise ValueError(
            f"{type(mix).__name__}.complete: must return a complete plan, whose `pending` is None."
        )


def _check_array(where: str, name: str, value: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        is_array = isinstance(value, np.ndarray)
        got = f"{value.dtype} {list(value.shape)}" if is_array else type(value).__name__
        rule = f"be a NumPy array {np.dtype(dtype)} {list(shape)}"
        raise ValueError(f"{where}: `{name}` must {rule}, got {got}.")
