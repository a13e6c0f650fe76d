"""The paper's claims about CutMix, and what the numbers of a study say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.compare import Interval, welch_interval

#: Share of whole images from which on there is little to localise, and no claim is judged.
MOST_OF_WHOLE_IMAGES = 0.2


@dataclass(frozen=True)
class Claim:
    """Hold what is asked of CutMix: whether a number is better than that of another method.

    Attributes:
        text: What is asked, and the section of the paper, arXiv:1905.04899, that claims it.
        number: Name of the number.
        worse: Method that CutMix is compared with.
        lower: Whether a lower number is better.
    """

    text: str
    number: str
    worse: str = "none"
    lower: bool = False


GT_KNOWN, MAX_BOX_ACC = "localisation/gt_known", "localisation/max_box_acc_v2"
TOP1, OVERCONFIDENCE = "classification/top1", "classification/overconfidence"
CLAIMS = (
    Claim("classifies better than no mix (4.1.2)", TOP1),
    Claim("classifies better than Cutout (4.1.2)", TOP1, worse="cutout"),
    Claim("classifies better than MixUp (4.1.2)", TOP1, worse="mixup"),
    # The paper's threshold is fixed. Tuned ones, of MaxBoxAccV2, can order methods otherwise.
    Claim("localises better than no mix: GT-known (4.2)", GT_KNOWN),
    Claim("localises better than MixUp: GT-known (4.2)", GT_KNOWN, worse="mixup"),
    Claim("localises better than Cutout: GT-known (4.2)", GT_KNOWN, worse="cutout"),
    Claim("localises better than no mix: MaxBoxAccV2 (4.2)", MAX_BOX_ACC),
    Claim("localises better than MixUp: MaxBoxAccV2 (4.2)", MAX_BOX_ACC, worse="mixup"),
    Claim("localises better than Cutout: MaxBoxAccV2 (4.2)", MAX_BOX_ACC, worse="cutout"),
    Claim("is right more often behind a hole in the centre (4.4)", "occlusion/center"),
    Claim("is right more often where the border is hidden (4.4)", "occlusion/border"),
    Claim("names a class of a cut image more often (4.4)", "in_between/cutmix"),
    Claim("withstands FGSM better (4.4)", "attacks/fgsm"),
    Claim("errs less on corrupted images (abstract)", "corruptions/mean_error", lower=True),
    Claim("tells uniform noise from test images (4.4)", "outliers/uniform_auroc"),
    Claim("tells other images from test images (4.4)", "outliers/other_auroc"),
    Claim("is less over-confident (4.4)", OVERCONFIDENCE, lower=True),
    Claim("gains by a uniform centre (4.1.3)", TOP1, worse="centre_gaussian"),
    Claim("gains by sizes that differ (4.1.3)", TOP1, worse="fixed_size"),
    Claim("gains by labels of both parts (4.1.3)", TOP1, worse="one_hot"),
    Claim("gains by labels by area (4.1.3)", TOP1, worse="complete_label"),
    Claim("gains by a constant probability (4.1.3)", TOP1, worse="scheduled"),
    Claim(
        "gains by mixing images, not features of any layer (4.1.3)", TOP1, worse="feature_cutmix"
    ),
)
#: Questions that the paper does not answer.
QUESTIONS = (
    Claim("is better calibrated than no mix: ECE", "classification/ece", lower=True),
    Claim("has a lower NLL than no mix", "classification/nll", lower=True),
    Claim("names a class of a blended image more often than no mix", "in_between/mixup"),
    *(
        Claim(f"is right more often than {name} {where}", number, worse)
        for name, worse in (("Cutout", "cutout"), ("MixUp", "mixup"))
        for where, number in (
            ("behind a hole", "occlusion/center"),
            ("where the border is hidden", "occlusion/border"),
        )
    ),
    Claim("errs less than MixUp on corrupted images", "corruptions/mean_error", "mixup", True),
    Claim("withstands FGSM better than MixUp", "attacks/fgsm", worse="mixup"),
    Claim("gains by the right weights of labels", TOP1, worse="swapped_labels"),
)
#: Numbers in units of their own, not shares.
NO_SHARES = ("classification/nll",)


def verdict(claim: Claim, methods: Mapping[str, Any], words: tuple[str, str]) -> list[str] | None:
    """Return the row of a claim, or None where the study has no such numbers.

    Args:
        claim: The claim.
        methods: ``numbers`` of each method, lists over training runs, and intervals over images.
        words: For a difference that is clear: on the claimed side of zero, and on the other.

    Returns:
        The claim, the difference, its intervals over runs and over images, and the verdict.
    """
    sides = [
        methods.get(method, {"numbers": {}})["numbers"].get(claim.number)
        for method in (claim.worse, "cutmix")
    ]
    if any(values is None or None in values for values in sides):
        return None
    difference = float(np.mean(sides[1]) - np.mean(sides[0]))
    is_share = claim.number not in NO_SHARES
    over_runs = welch_interval(*sides)
    over_images = methods[claim.worse].get("cutmix_minus_this_over_images", {}).get(claim.number)
    judged_by = [interval for interval in (over_runs, over_images) if interval is not None]
    reason = doubt(claim, methods, sides, over_runs)
    return [
        claim.text,
        f"{100 * difference:+.1f} points" if is_share else f"{difference:+.3f}",
        ends(over_runs, is_share),
        ends(over_images, is_share),
        judged(judged_by, claim.lower, words) if reason is None else f"not judged: {reason}",
    ]


def doubt(
    claim: Claim,
    methods: Mapping[str, Any],
    sides: Sequence[Sequence[float]],
    over_runs: Interval | None,
) -> str | None:
    """Return why numbers say nothing of a claim, or None."""
    if over_runs is None:
        return "one run" if min(map(len, sides)) < 2 else "equal in all runs"
    whole = methods["cutmix"]["numbers"].get("localisation/whole_image_v2", [0.0])
    if claim.number.startswith("localisation/") and max(whole) > MOST_OF_WHOLE_IMAGES:
        return "objects fill their images"
    if claim.number == OVERCONFIDENCE and np.mean(sides[0]) <= 0:
        return "the baseline is not over-confident"
    if claim.number.endswith("_auroc") and max(np.mean(side) for side in sides) < 0.5:
        return "both are worse than a guess"
    return None


def ends(interval: Interval | None, is_share: bool) -> str:
    """Return an interval as text, in percentage points where it is of shares."""
    if interval is None:
        return "-"
    scale, digits = (100, 1) if is_share else (1, 3)
    return f"{scale * interval[0]:+.{digits}f} to {scale * interval[1]:+.{digits}f}"


def judged(intervals: Sequence[Interval], lower: bool, words: tuple[str, str]) -> str:
    """Return what intervals say of a claim that a difference is above, or below, zero."""
    if lower:
        intervals = [(-high, -low) for low, high in intervals]
    if all(low > 0 for low, _ in intervals):
        return words[0]
    return words[1] if all(high < 0 for _, high in intervals) else "open"
