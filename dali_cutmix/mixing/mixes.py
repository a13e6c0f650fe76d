"""The mixes a loader can be given, as settings: CutMix, MixUp, Cutout, one of several by chance.

Each names a plan and how pixels take it. A new one needs those methods and nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf as INFINITY
from typing import Any, ClassVar, Literal

from dali_cutmix.core.checks import are_numbers, check_choice, is_number, refuse
from dali_cutmix.core.dali import DataNode
from dali_cutmix.core.draws import Draws
from dali_cutmix.mixing import plan as plans
from dali_cutmix.mixing.choice import (
    MIX_NAMES,
    ChosenPlan,
    Mix,
    choose_plan,
    of_size,
    operate_chosen,
)
from dali_cutmix.mixing.partner import Partner, Per
from dali_cutmix.mixing.paste import (
    blend,
    blend_with,
    erase,
    erase_region,
    paste,
    paste_regions,
    region,
    regions,
)
from dali_cutmix.mixing.plan import MixPlan, Placement


@dataclass(frozen=True)
class CutMix:
    """Fill a rectangle of each image from another one, and weigh the labels by pixels.

    By default each sample has its own draw and a partner other than itself, the centre is uniform
    and the border clips the cut, as in the paper. The arguments are those of `cutmix_plan`.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899.
    """

    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    placement: Placement = "clipped"
    min_kept: float = 0.0
    max_kept: float = 1.0
    sides: tuple[float, float] | None = None

    mixes_labels: ClassVar[bool] = True
    makes_float: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plans.check_cutmix("CutMix", **vars(self))

    @classmethod
    def paper(cls, alpha: float = 1.0, prob: float = 1.0) -> CutMix:
        """The authors' code: one draw per batch, partners by a random permutation."""
        return cls(alpha=alpha, prob=prob, per="batch", partner="permutation")

    @classmethod
    def torchvision(cls, alpha: float = 1.0) -> CutMix:
        """``torchvision.transforms.v2.CutMix``: one draw per batch, partner the sample before."""
        return cls(alpha=alpha, per="batch", partner="roll")

    @classmethod
    def timm(
        cls,
        alpha: float = 1.0,
        mode: Literal["batch", "pair", "elem"] = "batch",
        minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
    ) -> CutMix:
        """``timm.data.Mixup(mixup_alpha=0, cutmix_alpha=alpha)`` of timm 1.0.31, without smoothing.

        Smoothing is the loss's: `mixed_cross_entropy(label_smoothing=0.1)` gives timm's targets.
        Sides are computed in double precision, as timm does in mode ``"batch"``; in its other modes
        it takes single precision, which differs by a pixel in some 6 of a million draws.
        """
        check_choice("CutMix.timm", "mode", mode, ("batch", "pair", "elem"))
        return cls(
            alpha=alpha if minmax is None else 1.0,
            prob=prob,
            per=_TIMM_MODES[mode],
            partner="flip",
            placement="clipped_whole",
            sides=minmax,
        )

    @classmethod
    def composer_uniform(cls, alpha: float = 1.0) -> CutMix:
        """Composer's ``cutmix_batch(uniform_sampling=True)``: all pixels equally likely."""
        return cls(alpha=alpha, per="batch", partner="permutation", placement="uniform")

    @classmethod
    def inside(cls, alpha: float = 1.0, prob: float = 1.0) -> CutMix:
        """Kornia's ``RandomCutMixV2``: a draw per sample, the cut never clipped.

        ``prob`` is per sample here; Kornia's ``p`` is for the whole batch.
        """
        return cls(alpha=alpha, prob=prob, partner="permutation", placement="inside")

    def plan(self, size: tuple[int, int], *, seed: int | Draws | None = None) -> MixPlan:
        """Draw the plan; see `Mix`."""
        return plans.cutmix_plan(size, **vars(self), seed=seed)

    def apply(self, image: DataNode, plan: MixPlan) -> DataNode:
        """Apply the plan to pixels; see `Mix`."""
        # A paste of nothing would still copy every image.
        return paste(image, plan) if self.prob > 0 else image

    def operands(self, plan: MixPlan) -> dict[str, Any]:
        """See `Mix`."""
        return regions(plan) if self.prob > 0 else {}

    def operate(self, image: DataNode, operands: Mapping[str, DataNode]) -> DataNode:
        """See `Mix`."""
        return paste_regions(image, **operands) if operands else image


@dataclass(frozen=True)
class MixUp:
    """Blend each image with another one, and weigh the labels alike.

    The arguments are those of `mixup_plan`.

    Source:
        Zhang et al. 2017, mixup, arXiv:1710.09412.
    """

    alpha: float = 1.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"

    mixes_labels: ClassVar[bool] = True

    @property
    def makes_float(self) -> bool:
        """See `Mix`."""
        return self.prob > 0

    def __post_init__(self) -> None:
        plans.check_mixup("MixUp", **vars(self))

    @classmethod
    def paper(cls, alpha: float = 1.0) -> MixUp:
        """The authors' code: one draw per batch, partners by a random permutation."""
        return cls(alpha=alpha, per="batch", partner="permutation")

    @classmethod
    def torchvision(cls, alpha: float = 1.0) -> MixUp:
        """``torchvision.transforms.v2.MixUp``: one draw per batch, partner the sample before."""
        return cls(alpha=alpha, per="batch", partner="roll")

    @classmethod
    def timm(
        cls,
        alpha: float = 1.0,
        mode: Literal["batch", "pair", "elem"] = "batch",
        prob: float = 1.0,
    ) -> MixUp:
        """``timm.data.Mixup(mixup_alpha=alpha)`` of timm 1.0.31, without smoothing."""
        check_choice("MixUp.timm", "mode", mode, ("batch", "pair", "elem"))
        return cls(alpha=alpha, prob=prob, per=_TIMM_MODES[mode], partner="flip")

    def plan(self, size: tuple[int, int], *, seed: int | Draws | None = None) -> MixPlan:
        """Draw the plan; see `Mix`."""
        return plans.mixup_plan(size, **vars(self), seed=seed)

    def apply(self, image: DataNode, plan: MixPlan) -> DataNode:
        """Apply the plan to pixels; see `Mix`."""
        return blend(image, plan) if self.prob > 0 else image

    def operands(self, plan: MixPlan) -> dict[str, Any]:
        """See `Mix`."""
        return {"partner": plan.partner, "kept": plan.kept} if self.prob > 0 else {}

    def operate(self, image: DataNode, operands: Mapping[str, DataNode]) -> DataNode:
        """See `Mix`."""
        return blend_with(image, **operands) if operands else image


@dataclass(frozen=True)
class Cutout:
    """Fill a square of each image with one colour. No label changes.

    Args:
        side: Side of the square in pixels, even.
        prob: Probability in [0, 1] that a sample is cut.
        fill: Value, or R, G, B values, in [0, 255], put in the square. The default is ImageNet's
            mean, which is 0 after normalisation as in the authors' code.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552.
    """

    side: int
    prob: float = 1.0
    fill: float | Sequence[float] = (124, 116, 104)

    mixes_labels: ClassVar[bool] = False
    makes_float: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plans.check_cutout("Cutout", side=self.side, prob=self.prob)
        fill = (self.fill,) * 3 if is_number(self.fill) else self.fill
        if not are_numbers(fill, 3) or not all(0 <= value <= 255 for value in fill):
            refuse("Cutout", "fill", "be one value or R, G, B in [0, 255]", self.fill)

    def plan(self, size: tuple[int, int], *, seed: int | Draws | None = None) -> MixPlan:
        """Draw the plan; see `Mix`."""
        return plans.cutout_plan(size, side=self.side, prob=self.prob, seed=seed)

    def apply(self, image: DataNode, plan: MixPlan) -> DataNode:
        """Apply the plan to pixels; see `Mix`."""
        return erase(image, plan, fill=self.fill) if self.prob > 0 else image

    def operands(self, plan: MixPlan) -> dict[str, Any]:
        """See `Mix`."""
        return region(plan) if self.prob > 0 else {}

    def operate(self, image: DataNode, operands: Mapping[str, DataNode]) -> DataNode:
        """See `Mix`."""
        return erase_region(image, self.fill, **operands) if operands else image


@dataclass(frozen=True)
class RandomChoice:
    """One of several mixes for each batch, as ``torchvision.transforms.v2.RandomChoice`` of them.

    Args:
        mixes: At least one, of any kinds; ``CutMix(prob=0)`` is one that mixes nothing. Pixels are
            float32 where one of them blends, else bytes.
        weights: How likely each is, at least 0 and not all 0; their sum does not matter. None makes
            all equally likely.
    """

    mixes: Sequence[Mix]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        where = "RandomChoice"
        if not isinstance(self.mixes, (tuple, list)) or not self.mixes:
            refuse(where, "mixes", "be a list of at least one mix", self.mixes)
        for one in self.mixes:
            if isinstance(one, type) or not all(hasattr(one, name) for name in MIX_NAMES):
                way_out = "Pass mixes of dali_cutmix, such as `CutMix()`."
                refuse(where, "mixes", "hold mixes", one, way_out)
        object.__setattr__(self, "mixes", tuple(self.mixes))
        if self.weights is None:
            return
        is_fine = are_numbers(self.weights, len(self.mixes))
        if not is_fine or min(self.weights) < 0 or not 0 < sum(self.weights) < INFINITY:
            rule = f"be {len(self.mixes)} numbers of at least 0, one for each mix, and not all 0"
            refuse(where, "weights", rule, self.weights)
        object.__setattr__(self, "weights", tuple(self.weights))

    @property
    def mixes_labels(self) -> bool:
        """See `Mix`."""
        return any(mix.mixes_labels for mix in self.mixes)

    @property
    def makes_float(self) -> bool:
        """See `Mix`."""
        return any(mix.makes_float for mix in self.mixes)

    def plan(self, size: tuple[int, int], *, seed: int | Draws | None = None) -> ChosenPlan:
        """Draw the plan; see `Mix`. Its fields are those of the mix that was chosen."""
        weights = self.weights or [1.0] * len(self.mixes)
        shares = [weight / sum(weights) for weight in weights]
        return choose_plan(self.mixes, shares, size, plans.draws_of("RandomChoice", seed))

    def apply(self, image: DataNode, plan: MixPlan) -> DataNode:
        """Apply the plan, which is one of this mix's, to pixels; see `Mix`."""
        return self.operate(of_size(image, plan.size), self.operands(plan))

    def operands(self, plan: MixPlan) -> dict[str, Any]:
        """See `Mix`."""
        if not isinstance(plan, ChosenPlan):
            refuse("RandomChoice", "plan", "be one of its own, by `plan`", type(plan).__name__)
        found = {"choice": plan.choice}
        for place, (mix, own) in enumerate(zip(self.mixes, plan.plans, strict=True)):
            found |= {f"{place}/{name}": one for name, one in mix.operands(own).items()}
        return found

    def operate(self, image: DataNode, operands: Mapping[str, DataNode]) -> DataNode:
        """See `Mix`."""
        return operate_chosen(self.mixes, image, operands, to_float=self.makes_float)


__all__ = ["CutMix", "Cutout", "Mix", "MixUp", "RandomChoice"]

_TIMM_MODES: dict[str, Per] = {"batch": "batch", "pair": "pair", "elem": "sample"}
