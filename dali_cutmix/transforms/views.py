"""`Views`: several images of every stored image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dali_cutmix.core.checks import check_choice, check_count, refuse
from dali_cutmix.transforms.transform import Transform


@dataclass(frozen=True)
class Views:
    """Make several images of every stored image, each by a transform with draws of its own.

    A loader with ``transform=Views([first, second])`` yields ``(images, target)``. ``images`` is a
    list with a tensor ``[B, 3, height, width]`` for each transform, in order. Sizes may differ.

    - A stored image is read and decoded once for all views.
    - Views share no draws, also where their transforms are equal.
    - The first view is bit-identical to the images of a loader with the first transform alone, and
      further views change nothing in the views before.
    - With a mix and ``plan="shared"`` one plan mixes all views: the same partners and the same
      rectangles, behind each view's own crop. Views have one size, and batches one target.
      `SaliencyMix` looks at the first view, and `GuidedCutMix` is refused.
    - With ``plan="each"`` every view draws a plan of its own. Batches are
      ``(images, targets)``, lists with an item for each view; with ``with_plan=True`` the plans are
      a list too. Where ``target`` is a dictionary, each of its values is a list.
    - The first view and its target are those of a loader with the first transform alone.

    ``Views([TrainTransform(224)] * 2)`` makes the two views of SimCLR, MoCo and SimSiam, and
    ``Views([large] * 2 + [small] * 8)`` the crops of DINO and SwAV. Views by one transform that
    share a plan are also ``DataLoader(transform=transform, views=2)``.

    Args:
        transforms: A `TrainTransform`, `EvalTransform` or `Compose` for each view, in order; at
            least one.
        plan: ``"shared"`` or ``"each"``. Without a mix there is no difference.

    Source:
        Chen et al. 2020, arXiv:2002.05709, section 2.1; Caron et al. 2020, arXiv:2006.09882,
        section 3.2.
    """

    transforms: Sequence[Transform]
    plan: Literal["shared", "each"] = "shared"

    def __post_init__(self) -> None:
        check_choice("Views", "plan", self.plan, ("shared", "each"))
        if not isinstance(self.transforms, (list, tuple)) or not self.transforms:
            way_out = "Two views by one transform are `Views([transform] * 2)`."
            refuse("Views", "transforms", "be a list of transforms", self.transforms, way_out)
        for transform in self.transforms:
            if isinstance(transform, type) or not isinstance(transform, Transform):
                rule = "hold a TrainTransform, EvalTransform or Compose for each view"
                refuse("Views", "transforms", rule, transform)
        # As a tuple: a list that changes later would change nothing, or half of the loader.
        object.__setattr__(self, "transforms", tuple(self.transforms))


def repeated(where: str, transform: Any, views: int) -> Any:
    """Return views by one transform, as an argument ``views`` beside ``transform`` asks for.

    Args:
        where: Public function or class that was called, for messages.
        transform: What every view is made by.
        views: Number of images to make of every stored image, at least 1.

    Returns:
        `Views`; or what is not a transform as it is, for the caller to refuse.

    Raises:
        ValueError: ``views`` is not such a number, or ``transform`` is `Views` or makes volumes.
    """
    check_count(where, "views", views, 1, "None makes one image, and no list.")
    if isinstance(transform, Views):
        way_out = "`transform` has a transform for each view already."
        refuse(where, "views", "be left out with Views", views, way_out)
    if hasattr(transform, "windows"):
        rule = "be left out with a VolumeTransform"
        refuse(where, "views", rule, views, "Views of volumes are not made.")
    if isinstance(transform, type) or not isinstance(transform, Transform):
        return transform
    return Views([transform] * int(views))
