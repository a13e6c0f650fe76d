"""`GuidedCutMix`: cuts that spare the objects of an image, or show an object of the other image.

Boxes are known for the stored image, and where they are after crop and flip is known in the graph
only. So candidates are drawn on the host, and the plan is completed where the crop is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_prob, is_whole, refuse
from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing import cutmix
from dali_cutmix.mixing.completion import unmixed_plan, with_cut
from dali_cutmix.mixing.objects import ObjectTable, covers, cuts_of
from dali_cutmix.mixing.paste import paste_regions
from dali_cutmix.mixing.plan import MixPlan, Partner, keep_weights, partners_of

WHERE = "GuidedCutMix"


@dataclass(frozen=True)
class GuidedCutMix:
    """Cut where boxes say: beside the objects of the image, or around an object of the other image.

    - ``avoid=True``: the cut covers no box of the image, not even in part, so that the image's
      objects stay visible. Of 64 cuts drawn as `CutMix` draws them the first that fits is taken.
    - ``target=17``: the cut is the box of an object of class 17 of the other image, at the same
      place, out to whole pixels. Several such boxes are equally likely.
    - Both: the first such box, in a random order, that covers no box of the image.

    Where no cut fits, the sample stays as it is, with all the weight. Boxes follow crop and flip,
    and a loader with this mix refuses transforms that boxes cannot follow. `Views` need
    ``plan="each"``.

    Args:
        boxes: Boxes of every image of the source: a `Boxes`, or a list that holds for each image a
            dictionary: ``boxes`` ``[n, 4]`` (x0, y0, x1, y1) in pixels of the upright image, and
            ``labels`` ``[n]``, class indices, which only ``target`` reads.
        avoid: Whether the cut has to spare the boxes of the image.
        target: Class index of the objects that are cut out; None cuts as `CutMix`.
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0; only without
            ``target``.
        prob: Probability in [0, 1] that a sample is mixed at all.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        min_visible: Least share of a box of class ``target`` that the crop has left, in [0, 1].
            Boxes below are not cut out.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Raises:
        ValueError: An argument is outside its range, ``target`` is not the class of a box, or
            neither ``avoid`` nor ``target`` is set.
    """

    boxes: Any
    avoid: bool = True
    target: int | None = None
    alpha: float = 1.0
    prob: float = 1.0
    partner: Partner = "derangement"
    min_visible: float = 0.3
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2
    needs_matrix: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.boxes, ObjectTable):
            object.__setattr__(self, "boxes", ObjectTable(self.boxes))
        check_alpha(WHERE, self.alpha)
        check_prob(WHERE, self.prob)
        keep_weights(WHERE, self, "sample")
        check_prob(WHERE, self.min_visible, "min_visible")
        if self.target is None and not self.avoid:
            way_out = "Without either it is `CutMix()`."
            refuse(WHERE, "avoid", "be True, or `target` a class", self.avoid, way_out)
        if self.target is None:
            return
        if not is_whole(self.target) or self.target not in self.boxes.labels:
            refuse(WHERE, "target", "be the class index of a box", self.target)
        if self.alpha != 1:
            refuse(WHERE, "alpha", "be left out with `target`, whose boxes are cut", self.alpha)

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw partners and candidates, on the host; see `Mix`."""
        index = getattr(draws, "indices", None)
        if index is None:
            raise ValueError(
                f"{WHERE}: which images a batch holds is not known here. Give the mix to "
                "`DataLoader(mix=...)`."
            )
        chance = draws.chance("guidedcutmix/prob", self.prob)
        sample, partner = partners_of(self, draws, "guidedcutmix/partner")
        partner = np.where(chance > 0, partner, sample)
        if self.target is not None:
            start = draws.uniform("guidedcutmix/first", [1])[:, 0]
            return unmixed_plan(sample, partner, frame.size, None, pending=(index, start))
        lam = draws.beta("guidedcutmix/lam", self.alpha, [cutmix.NUM_CANDIDATES, 1])
        point = draws.uniform("guidedcutmix/place", [cutmix.NUM_CANDIDATES, 2])
        candidates = (lam[..., 0], *cutmix.clipped(lam, point, frame.size, draws.math))
        pending = (index, *candidates)
        return unmixed_plan(sample, partner, frame.size, lam[:, 0, 0], pending=pending)

    def look(self, sample: Sample, _frame: Frame) -> tuple[DataNode | None, DataNode | None]:
        """Return the maps and the parts of the samples; see `LookingMix` and `Sample`."""
        return sample.matrix, sample.part

    def complete(self, plan: MixPlan, seen: tuple[np.ndarray, np.ndarray], frame: Frame) -> MixPlan:
        """Take the first candidate that fits; see `LookingMix`.

        Args:
            plan: As drawn.
            seen: Maps and parts of the samples: ``[B, 2, 3]`` and ``[B, 2, 2]`` float32; see
                `Sample`.
            frame: What every image looks like.
        """
        sample, partner = plan.source.T
        index, *drawn = plan.pending
        objects = self.boxes.shown(index, *seen)
        if self.target is None:
            lam, anchor, extent = drawn
            fits = (extent > 0).all(axis=2)
        else:
            targets = objects.visible(self.target, self.min_visible, frame.size)
            cuts = cuts_of(targets, len(sample), drawn[0], frame.size)
            anchor, extent, fits = (values[partner] for values in cuts)
        fits = fits & (sample != partner)[:, None]
        if self.avoid:
            fits &= ~covers(anchor, extent, objects)
        rows, first = np.arange(len(sample)), fits.argmax(axis=1)
        is_cut = fits[rows, first][:, None]
        if self.target is None:
            plan = replace(plan, lam=lam[rows, first])
        return with_cut(plan, anchor[rows, first], extent[rows, first] * is_cut)

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        return sample.change(partial(paste_regions, plan=plan))
