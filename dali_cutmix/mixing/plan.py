"""Plans: everything about a mix that is random, drawn once and read by pixels and labels alike.

A plan divides each sample of a batch into ``k`` regions and says whose each region is. It is a few
bytes per sample on the CPU. The module also holds the draw of who is mixed with whom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from dali_cutmix.core.checks import check_choice, refuse
from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import Draws, Math
from dali_cutmix.core.frame import map_leaves
from dali_cutmix.mixing.weighted import (
    checked_class_weights,
    checked_sample_weights,
    weighted_partners,
    weights_of,
)

Per = Literal["sample", "pair", "batch"]
Partner = Literal["derangement", "permutation", "roll", "flip", "weighted"]


@dataclass(frozen=True, eq=False)
class Rect:
    """Rectangles of whole pixels, one for each of ``k`` regions.

    Attributes:
        anchor: Top left corners: ``[k, 2]`` int32 (y, x), in pixels.
        extent: Sides: ``[k, 2]`` int32 (y, x), in pixels. 0 where a region is empty.
    """

    anchor: Any
    extent: Any


class _Position:
    """Hold the position of a batch; see `MixPlan`."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch


@dataclass(frozen=True, eq=False)
class MixPlan:
    """Say who owns which pixels of each sample, and what each owner's label weighs.

    Fields that vary by sample are nodes in a graph, with the shapes below. On the host, where the
    loader draws, they are NumPy arrays with a batch axis in front. ``DataLoader(with_plan=True)``
    and `draw_plan` give tensors of the same shapes.

    The weight of a source is the share of the result that the source owns, counted in whole pixels
    or, where a mix blends, in parts of every pixel. Erased pixels keep their owner.

    Attributes:
        source: Index in the batch of the sample that each region shows: ``[k]`` int32. The first
            is the sample itself.
        weight: Share of the label of each source, in [0, 1], summing to 1: ``[k]`` float32.
        size: ``(height, width)`` of every image, in pixels.
        taken: Rectangle that each region reads from its source. None where nothing is read from
            a rectangle: the mix blends whole images, or erases.
        put: Rectangle that each region fills. Later regions cover earlier ones. None where the mix
            blends, and where ``owner`` says which pixels a region fills.
        lam: Kept fraction as drawn, in [0, 1]: scalar float32. None where nothing like it is drawn.
        fill: Colour R, G, B, in [0, 255], that the rectangles of ``put`` are filled with where
            ``taken`` is None.
        resizes: Whether the second of two regions reads its whole source, and resizes what it reads
            to the sides of ``put``. In other plans ``taken`` and ``put`` have equal sides.
        num_regions: Regions, ``k``. Counted where ``source`` is an array or a tensor.
        owner: Region that owns each cell of a grid over the image, below ``k``: ``[rows, columns]``
            uint8. The region shows its source there, at the same place. ``put`` and ``taken`` are
            None then. None where rectangles or a blend say what a region shows.
            `dali_cutmix.mixing.cells.owner_of_pixels` makes ``[height, width]`` of the cells.
        cell: ``(height, width)`` of the cells of ``owner``, in pixels. Cells start at the top left
            corner, and the border cuts off the cells at the end.
        pending: What `Mix.complete` needs to know of the draws. None in a complete plan. A plan
            that is not complete mixes nothing yet.
        position: Epoch of the plan's batch, and its number in the epoch, each from 0. A loader and
            `draw_plan` set the position of the plans that they hand out, and a changed copy keeps
            it. None in other plans.
    """

    source: Any
    weight: Any
    size: tuple[int, int]
    taken: Rect | None = None
    put: Rect | None = None
    lam: Any = None
    fill: tuple[float, float, float] | None = None
    resizes: bool = False
    num_regions: int = 0
    owner: Any = None
    cell: tuple[int, int] = (1, 1)
    pending: Any = None
    # An object, since a compiler that traces `replace` would compile anew for other numbers.
    _position: _Position | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, (np.ndarray, torch.Tensor)):  # anew in a changed copy
            object.__setattr__(self, "num_regions", self.source.shape[-1])

    @property
    def position(self) -> tuple[int, int] | None:
        """Return the epoch of the plan's batch and its number; see the class."""
        return None if self._position is None else (self._position.epoch, self._position.batch)

    @property
    def blends(self) -> bool:
        """Tell whether pixels are weighed sums, float32, and not copies."""
        return self.put is None and self.owner is None

    @property
    def is_complete(self) -> bool:
        """Tell whether the plan says who owns which pixels, before anybody looks at images."""
        return self.pending is None and all(part.is_complete for part in getattr(self, "plans", ()))

    @cached_property
    def own(self) -> Any:
        """Index of the sample in its batch: scalar int32."""
        return _region(self.source, 0)

    @cached_property
    def partner(self) -> Any:
        """Index in the batch of the other sample of a plan of two regions: scalar int32.

        The sample itself where it has no partner.
        """
        self._needs_at_most_two("partner")
        return _region(self.source, -1)

    @cached_property
    def kept(self) -> Any:
        """Share of the image that stays the sample's own, in [0, 1]: scalar float32.

        1 where nothing is mixed, also because the partner is the sample itself. Of a plan that
        erases, the share of pixels that are left.
        """
        self._needs_at_most_two("kept")
        return self.lam if self.fill is not None else _region(self.weight, 0)

    @cached_property
    def anchor(self) -> Any:
        """Top left corner of the cut of a plan of two regions: ``[2]`` int32 (y, x), in pixels.

        None where the mix blends, or owns cells.
        """
        self._needs_at_most_two("anchor")
        return None if self.put is None else _region(self.put.anchor, -1)

    @cached_property
    def extent(self) -> Any:
        """Sides of the cut of a plan of two regions: ``[2]`` int32 (y, x), in pixels.

        0 where nothing is cut. None where the mix blends, or owns cells.
        """
        self._needs_at_most_two("extent")
        return None if self.put is None else _region(self.put.extent, -1)

    def for_operators(self) -> MixPlan:
        """Return the plan without what only labels need: `Mix.operate` is given this."""
        if self.blends:
            return replace(self, lam=None)
        shows_sources = self.taken is not None or self.owner is not None
        source = self.source if shows_sources else None
        return replace(self, source=source, weight=None, lam=None)

    def look_up(self) -> None:
        """Look up the properties of a plan of two regions, so that ``vars(plan)`` shows them."""
        if self.num_regions <= 2:
            for name in ("own", "partner", "kept", "anchor", "extent"):
                getattr(self, name)

    def to(self, device: torch.device | str) -> MixPlan:
        """Return a plan of tensors on a device. Trainers that move batches call this."""
        plan = map_leaves(lambda tensor: tensor.to(device), self)
        plan.look_up()
        return plan

    def _needs_at_most_two(self, name: str) -> None:
        if self.num_regions > 2:
            raise AttributeError(
                f"MixPlan: `{name}` must be asked of a plan of two regions, got one of "
                f"{self.num_regions}. Read `source`, `weight`, `taken` and `put`."
            )


def has_blends(plan: MixPlan) -> bool:
    """Tell whether a plan, or a plan that is a part of it, blends images."""
    return plan.blends or any(map(has_blends, getattr(plan, "plans", None) or ()))


def erases(plan: MixPlan) -> bool:
    """Tell whether the plan of a single mix fills rectangles without a source.

    Each pixel keeps its owner then, whether the mix erases the rectangles or changes their colours.
    """
    return plan.put is not None and plan.taken is None


def at_position(plan: MixPlan, position: tuple[int, int] | None) -> MixPlan:
    """Return a copy of a plan with the position of its batch; see `MixPlan`."""
    return replace(plan, _position=None if position is None else _Position(*position))


def finished(plan: MixPlan) -> MixPlan:
    """Return the plan without ``pending``, in the structure that a complete plan has."""
    if (parts := getattr(plan, "plans", None)) is not None:
        plans: Any = tuple(map(finished, parts))
        return replace(plan, plans=plans, pending=None)  # type: ignore[call-arg]
    return replace(plan, pending=None)


def check_partner(where: str, per: str, partner: str, more: tuple[str, ...] = ()) -> None:
    """Refuse unknown names, and a draw per pair where samples are not paired.

    Args:
        where: The mix, for messages.
        per: Who shares a draw.
        partner: Who is mixed with whom.
        more: Names of partners that `pair_up` does not draw and the mix does.
    """
    check_choice(where, "per", per, ("sample", "pair", "batch"))
    check_choice(where, "partner", partner, (*_PARTNERS, *more))
    if per == "pair" and partner != "flip":
        way_out = "Only there is a sample its partner's partner, so that two can share a draw."
        refuse(where, "partner", "be 'flip' when per='pair'", partner, way_out)


def keep_weights(where: str, mix: Any, per: str) -> None:
    """Refuse what `check_partner` refuses, and weights that cannot be drawn by.

    Weights are kept as numbers: ``class_weights`` as a tuple, ``sample_weights`` as
    `SampleWeights`.

    Args:
        where: The mix, for messages.
        mix: A frozen dataclass with ``partner``, ``class_weights`` and ``sample_weights``.
        per: Who shares a draw.
    """
    of_classes, of_samples = mix.class_weights, mix.sample_weights
    if mix.partner != "weighted" or per == "pair":
        check_partner(where, per, mix.partner, ("weighted",))
        for name in ("class_weights", "sample_weights"):
            if (weights := getattr(mix, name)) is not None:
                way_out = "They say how often who is pasted with `partner='weighted'`."
                refuse(where, name, f"be left out with partner={mix.partner!r}", weights, way_out)
        return
    check_partner(where, per, "derangement")
    if of_samples is None:
        weights = checked_class_weights(where, of_classes)
        object.__setattr__(mix, "class_weights", weights)
        return
    if of_classes is not None:
        way_out = "The weight of a sample's class may be a factor of `sample_weights`."
        refuse(where, "class_weights", "be left out with `sample_weights`", of_classes, way_out)
    object.__setattr__(mix, "sample_weights", checked_sample_weights(where, of_samples))


def partners_of(mix: Any, draws: Draws, name: str) -> tuple[Any, Any]:
    """Give every sample a partner, as a mix's ``partner`` and its weights say.

    Returns:
        See `pair_up`, and `weighted_partners` for ``partner="weighted"``.
    """
    if mix.partner == "weighted":
        return weighted_partners(weights_of(type(mix).__name__, mix, draws), draws, name)
    return pair_up(mix.partner, draws, name)


def pair_up(partner: Partner, draws: Draws, name: str) -> tuple[Any, Any]:
    """Give every sample of a batch a partner.

    Args:
        partner: How partners are found:

            - ``"derangement"``: by a random permutation that is a single cycle through the batch.
              Every other sample is equally likely. A batch of a single sample keeps to itself;
            - ``"permutation"``: by a random permutation, which may leave samples where they are;
            - ``"roll"``: the sample before;
            - ``"flip"``: the batch read backwards.
        draws: Where the permutation comes from.
        name: The permutation's stream.

    Returns:
        Index in the batch of the sample itself and of its partner. Scalar int32 each (``[B, 1]`` on
        the host), CPU.
    """
    # A roll and a flip draw nothing: there the permutation tells the size of the batch only.
    permutation = draws.permutation(name, cycle=partner == "derangement")
    return draws.math.positions(_PARTNERS[partner], permutation)


def leader(per: Per, sample: Any, partner: Any, math: Math) -> Any:
    """Return the index of the sample whose draws count for this sample: scalar int32, CPU."""
    if per == "batch":
        return sample * 0
    if per == "pair":
        return math.minimum(sample, partner)
    return sample


def share(value: Any, per: Per, leader: Any, math: Math) -> Any:
    """Replace each sample's draw, of any shape, by its leader's."""
    return value if per == "sample" else math.of_sample(value, leader)


def _indices(permutation: np.ndarray) -> np.ndarray:
    return np.arange(len(permutation), dtype=np.int32)[:, None]


_PARTNERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "derangement": lambda permutation: permutation,
    "permutation": lambda permutation: permutation,
    "roll": lambda permutation: np.roll(_indices(permutation), 1, axis=0),
    "flip": lambda permutation: _indices(permutation)[::-1],
}


def check_nodes(where: str, plan: object) -> None:
    """Refuse all but a plan of a graph's nodes."""
    if not isinstance(plan, MixPlan):
        refuse(where, "plan", "be a MixPlan", type(plan).__name__)
    rect = plan.put if plan.put is not None else plan.taken
    leaf = plan.source if rect is None else rect.anchor
    if not plan.is_complete:
        way_out = "Call `complete_plan(mix, image, plan)` first."
        refuse(where, "plan", "be complete", "one that depends on what images show", way_out)
    if getattr(plan, "plans", None) and where != "mix_images" and where != "mixed_target":
        way_out = "Apply it with `mix_images(mix, image, plan)`."
        refuse(where, "plan", "be of one mix", type(plan).__name__, way_out)
    if leaf is not None and not isinstance(leaf, DataNode):
        way_out = "In torch, call `mix_batch(x, plan)`."
        refuse(where, "plan", "hold nodes of a graph", type(leaf).__name__, way_out)


def _region(value: Any, index: int) -> Any:
    """Return the value of one region: of a node, or of an array or tensor with a batch axis."""
    return value[index] if isinstance(value, DataNode) else value[:, index]
