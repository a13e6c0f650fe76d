"""timm's automatic augmentations and erasing, as augmentations of a graph.

timm need not be installed: objects are read by their attributes.
"""

from __future__ import annotations

from math import exp
from typing import Any

from dali_cutmix.from_torch.report import NoCounterpartError, mode_name
from dali_cutmix.transforms.augmix import TIMM_AUGMIX, TimmAugMix
from dali_cutmix.transforms.erasing import RandomErasing
from dali_cutmix.transforms.timm import OPERATIONS, TimmAutoAugment, TimmRandAugment


def rand_augment(part: Any) -> TimmRandAugment:
    """Translate timm's ``RandAugment``, as its ``create_transform`` makes."""
    names = tuple(op.name for op in part.ops)
    weights = part.choice_weights
    magnitude, prob = _common(part.ops, "magnitude"), _common(part.ops, "prob")
    return TimmRandAugment(
        float(magnitude),
        num_layers=int(part.num_layers),
        prob=float(prob),
        operations=None if names == OPERATIONS else names,
        weights=None if weights is None else tuple(map(float, weights)),
        **_settings(part.ops),
    )


def auto_augment(part: Any) -> TimmAutoAugment:
    """Translate timm's ``AutoAugment``."""
    policy = tuple(
        tuple((op.name, float(op.prob), float(op.magnitude)) for op in sequence)
        for sequence in part.policy
    )
    return TimmAutoAugment(policy, **_settings([op for sequence in part.policy for op in sequence]))


def augmix(part: Any) -> TimmAugMix:
    """Translate timm's ``AugMixAugment``."""
    if part.blended:
        raise NoCounterpartError(
            "the graph blends all chains at once. Leave `b1` out of the string."
        )
    names = tuple(op.name for op in part.ops)
    if sorted(names) != sorted(TIMM_AUGMIX) or any(op.prob != 1 for op in part.ops):
        raise NoCounterpartError("the graph has timm's operations for AugMix only.")
    return TimmAugMix(
        float(_common(part.ops, "magnitude")),
        width=int(part.width),
        depth=int(part.depth) if part.depth > 0 else -1,
        alpha=float(part.alpha),
        **_settings(part.ops),
    )


def erasing(part: Any, color: tuple[int, ...], prob: float) -> RandomErasing:
    """Translate timm's ``RandomErasing``.

    Args:
        part: timm's object.
        color: Levels R, G, B that are 0 here.
        prob: Probability that ``part`` is applied.
    """
    if part.min_count != 1:
        raise NoCounterpartError(
            f"the graph erases 1 to `max_count` rectangles, got min_count={part.min_count}."
        )
    low, high = part.log_aspect_ratio
    settings: dict[str, Any] = {"value": color}
    if part.mode in ("rand", "pixel"):
        settings = {"mode": part.mode}
    return RandomErasing(
        prob * part.probability,
        (float(part.min_area), float(part.max_area)),
        (float(f"{exp(low):.6g}"), float(f"{exp(high):.6g}")),
        max_count=int(part.max_count),
        **settings,
    )


def _settings(ops: list[Any]) -> dict[str, Any]:
    """Return what all operations have in common."""
    resample = _common(ops, "kwargs").get("resample")
    fill = _common(ops, "kwargs").get("fillcolor", 128)
    return {
        "magnitude_std": float(_common(ops, "magnitude_std")),
        "magnitude_max": float(_common(ops, "magnitude_max") or 10),
        "interpolation": "random" if isinstance(resample, (tuple, list)) else mode_name(resample),
        "fill": tuple(fill) if isinstance(fill, (tuple, list)) else fill,
        "translate": float(_common(ops, "hparams").get("translate_pct", 0.45)),
    }


def _common(ops: list[Any], name: str) -> Any:
    values = [getattr(op, name) for op in ops]
    if any(value != values[0] for value in values):
        raise NoCounterpartError(f"the operations differ in their `{name}`.")
    return values[0]
