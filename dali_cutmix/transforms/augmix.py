"""Blend images that several chains of operations made with the image itself: AugMix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf as INFINITY
from typing import Any, ClassVar, Literal

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_choice, check_count, is_number, refuse
from dali_cutmix.core.dali import UINT8, DataNode, fn
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import below, dirichlet
from dali_cutmix.transforms.affine import INTERPOLATIONS, WARPS, Interpolation
from dali_cutmix.transforms.color_ops import TRUNCATE
from dali_cutmix.transforms.operations import (
    OPERATIONS,
    SIGNED,
    OperationPlan,
    levels,
    operate,
    plan_operations,
)
from dali_cutmix.transforms.timm import INCREASING, OfTimm, TimmPlan
from dali_cutmix.transforms.warps import WarpKernel, check_fill

#: Operations of a chain where their number is drawn, at most.
_MAX_DEPTH = 3

#: Strengths that torchvision's severity counts.
_NUM_BINS = 10

#: torchvision's operations, of which the first do not overlap with corruptions that are tested on.
_PARTIAL = (*WARPS, "Posterize", "Solarize", "AutoContrast", "Equalize")
_ALL = tuple(name for name in OPERATIONS if name != "Identity")

#: timm's operations.
TIMM_AUGMIX = tuple(name for name in INCREASING if name not in ("Invert", "SolarizeAdd"))


@dataclass(frozen=True)
class AugMixPlan:
    """Hold what AugMix draws.

    Attributes:
        kept: Share of the image itself: scalar float32 per sample.
        weights: Share of each chain among the chains: scalar float32 per sample.
        chains: Plan of each operation of each chain.
    """

    kept: Any
    weights: tuple[Any, ...]
    chains: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class AugMix:
    """Blend each image with some images that chains of operations make of it.

    Shares of the chains, and the share of the image itself, are drawn for each sample. The cost is
    that of ``mixture_width`` times ``chain_depth`` operations, 9 by default.

    Args:
        severity: Number of strengths to choose from, of ten that grow, from 1.
        mixture_width: Number of chains, at least 1.
        chain_depth: Operations of a chain, at least 1. -1 draws 1, 2 or 3 for each chain.
        alpha: Parameter of the Dirichlet distribution of shares, above 0.
        all_ops: Take brightness, color, contrast and sharpness too.
        interpolation: How shears and turns make a pixel, ``"nearest"`` or ``"bilinear"``.
        fill: Level of pixels from outside the image, in [0, 255], or ``(R, G, B)``.

    Source:
        Hendrycks et al. 2019, AugMix, arXiv:1912.02781; torchvision ``v2.AugMix``, within a level.
    """

    takes_any_size: ClassVar[bool] = True

    severity: int = 3
    mixture_width: int = 3
    chain_depth: int = -1
    alpha: float = 1.0
    all_ops: bool = True
    interpolation: Interpolation = "bilinear"
    fill: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        where = "AugMix"
        check_count(where, "severity", self.severity, at_least=1)
        if self.severity > _NUM_BINS:
            refuse(where, "severity", f"be at most {_NUM_BINS}", self.severity)
        _check_chains(where, self.mixture_width, self.chain_depth, self.alpha)
        check_choice(where, "interpolation", self.interpolation, INTERPOLATIONS)
        check_fill(where, self.fill)

    @property
    def _names(self) -> tuple[str, ...]:
        return _ALL if self.all_ops else _PARTIAL

    def draw(self, draws: Draws, frame: Frame, /) -> AugMixPlan:
        """Draw shares, and a plan for each operation of each chain; see `Augmentation`."""
        size = None if frame.varies else frame.size
        strengths = _strengths(size or (1, 1))
        table = np.stack([strengths[name] for name in self._names])
        is_signed = np.array([name in SIGNED for name in self._names])

        def plan(turn_draws: Draws, chosen: np.ndarray) -> OperationPlan:
            bins = below(turn_draws.uniform("bin", []), self.severity)
            level = table[chosen, bins]
            is_negated = is_signed[chosen] & (turn_draws.chance("sign", 0.5)[:, 0] > 0)
            level = np.where(is_negated, -level, level)
            return plan_operations(self._names, chosen, level, size)

        shape = self.mixture_width, self.chain_depth
        return _draw(draws, *shape, self.alpha, len(self._names), plan)

    def operate(self, sample: Sample, plan: AugMixPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        mixed = sample.image * plan.kept
        for weight, chain in zip(plan.weights, plan.chains, strict=True):
            image = sample.image
            for turn in chain:
                image = operate(
                    Sample(image), self._names, turn, frame, self.interpolation, self.fill
                ).image
            mixed = mixed + image * (weight * (1.0 - plan.kept))
        return replace(sample, image=_truncated(mixed))


@dataclass(frozen=True)
class TimmAugMix(OfTimm):
    """Blend each image with some images that chains of timm's operations make of it.

    Args:
        magnitude: Mean magnitude, at least 0; 10 is full strength.
        magnitude_std: As of `TimmRandAugment`.
        width: Number of chains, at least 1.
        depth: Operations of a chain, at least 1. -1 draws 1, 2 or 3 for each chain.
        alpha: Parameter of the Dirichlet distribution of shares, above 0.
        magnitude_max, interpolation, fill, translate: As of `TimmRandAugment`.

    Source:
        timm 1.0, ``data/auto_augment.py``, ``AugMixAugment``, within two levels of Pillow's.
    """

    magnitude: float = 3.0
    magnitude_std: float = 0.0
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    magnitude_max: float = 10.0
    interpolation: WarpKernel | Literal["random"] = "random"
    fill: float | Sequence[float] = 128
    translate: float = 0.45

    def __post_init__(self) -> None:
        where = "TimmAugMix"
        if not is_number(self.magnitude) or not 0 <= self.magnitude < INFINITY:
            refuse(where, "magnitude", "be a number of at least 0", self.magnitude)
        _check_chains(where, self.width, self.depth, self.alpha)
        self._check_settings(TIMM_AUGMIX)

    def draw(self, draws: Draws, _frame: Frame, /) -> AugMixPlan:
        """Draw shares, and a plan for each operation of each chain; see `Augmentation`."""

        def plan(turn_draws: Draws, chosen: np.ndarray) -> TimmPlan:
            magnitude = np.full(len(chosen), float(self.magnitude))
            always = np.ones(len(chosen))
            return self._draw_turn(turn_draws, TIMM_AUGMIX, chosen, magnitude, always)

        return _draw(draws, self.width, self.depth, self.alpha, len(TIMM_AUGMIX), plan)

    def operate(self, sample: Sample, plan: AugMixPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        chains: Any = 0.0
        for weight, chain in zip(plan.weights, plan.chains, strict=True):
            image = sample.image
            for turn in chain:
                image = self._operate_turn(image, TIMM_AUGMIX, turn, frame)
            chains = image * weight + chains
        # As timm, which makes bytes of the blended chains first.
        mixed = sample.image * plan.kept + _truncated(chains) * (1.0 - plan.kept)
        return replace(sample, image=_truncated(mixed))


def _check_chains(where: str, width: int, depth: int, alpha: float) -> None:
    is_timms = where.startswith("Timm")
    check_count(where, "width" if is_timms else "mixture_width", width, at_least=1)
    name = "depth" if is_timms else "chain_depth"
    if depth != -1:
        check_count(where, name, depth, at_least=1, way_out="-1 draws 1, 2 or 3.")
    check_alpha(where, alpha)


def _draw(
    draws: Draws,
    width: int,
    depth: int,
    alpha: float,
    num_operations: int,
    plan: Callable[[Draws, np.ndarray], Any],
) -> AugMixPlan:
    """Draw shares and operations.

    Args:
        draws: The batch's random numbers.
        width: Number of chains.
        depth: Operations of each; -1 draws their number.
        alpha: Parameter of the Dirichlet distributions.
        num_operations: Number of operations to choose from.
        plan: Takes draws and each sample's operation, -1 for none; returns the operation's plan.
    """
    kept = dirichlet(draws, "kept", alpha, 2)[:, 0]
    weights = dirichlet(draws, "weight", alpha, width)
    chains = []
    for number in range(width):
        of_chain = draws.under(f"{number}/")
        depths = np.full(len(kept), depth)
        if depth == -1:
            depths = 1 + below(of_chain.uniform("depth", []), _MAX_DEPTH)
        turns = []
        for turn in range(_MAX_DEPTH if depth == -1 else depth):
            of_turn = of_chain.under(f"{turn}/")
            chosen = below(of_turn.uniform("operation", []), num_operations)
            turns.append(plan(of_turn, np.where(turn < depths, chosen, -1)))
        chains.append(tuple(turns))
    columns = tuple(weights[:, number].astype(np.float32) for number in range(width))
    return AugMixPlan(kept.astype(np.float32), columns, tuple(chains))


def _strengths(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return how strong each of torchvision's operations is in each bin; see `levels`."""
    height, width = size
    ratio = np.linspace(0, 1, _NUM_BINS)
    return {
        **levels(_NUM_BINS, size, wide=False),
        "TranslateX": width / 3 * ratio,
        "TranslateY": height / 3 * ratio,
        "Posterize": np.rint(4 - 4 * ratio),
    }


def _truncated(image: DataNode) -> DataNode:
    return fn.cast(image + TRUNCATE, dtype=UINT8)
