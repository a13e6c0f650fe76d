"""`FMix`: areas of any shape, from low-frequency noise, show another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch

from dali_cutmix.core.checks import check_alpha, check_count, check_prob, is_number, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import key, random_words
from dali_cutmix.mixing.cells import cell_areas, weights_of
from dali_cutmix.mixing.paste import paste_cells
from dali_cutmix.mixing.plan import (
    MixPlan,
    Partner,
    Per,
    keep_weights,
    leader,
    partners_of,
    share,
)


@dataclass(frozen=True)
class FMix:
    """Fill areas of any shape from another image, and weigh the labels by pixels.

    The sample keeps the places where low-frequency noise is largest. Their share is ``lam``, drawn
    from Beta(alpha, alpha), rounded up or down to whole cells with equal chance. Masks are hard:
    the authors' ``max_soft`` is 0.

    Args:
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0.
        decay: How fast the amplitude of a frequency ``f`` falls, as ``1 / f**decay``, at least 0.
            Larger values make larger areas with smoother borders.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`. With ``"batch"`` all samples have the same areas.
        partner: As in `cutmix_plan`; or ``"weighted"``, as in `CutMix`.
        resolution: Cells along the longer side of an image, at most. A larger image is divided into
            square cells of several pixels: of 4 x 4 at 224 px with 64. None takes pixels, as the
            authors do, which at 224 px takes ten times as long to draw.
        class_weights: With ``partner="weighted"``, a weight for each class of the source.
        sample_weights: The same for each sample of the source, in place of ``class_weights``.

    Source:
        Harris et al. 2020, FMix, arXiv:2002.12047; ``fmix.py`` in the authors' code.
    """

    alpha: float = 1.0
    decay: float = 3.0
    prob: float = 1.0
    per: Per = "sample"
    partner: Partner = "derangement"
    resolution: int | None = 64
    class_weights: Sequence[float] | None = None
    sample_weights: Sequence[float] | None = None

    num_sources: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_alpha("FMix", self.alpha)
        if not is_number(self.decay) or not 0 <= self.decay < float("inf"):
            refuse("FMix", "decay", "be a number, finite and at least 0", self.decay)
        check_prob("FMix", self.prob)
        keep_weights("FMix", self, self.per)
        if self.resolution is not None:
            check_count("FMix", "resolution", self.resolution, 1, "None takes pixels.")
            object.__setattr__(self, "resolution", int(self.resolution))

    @classmethod
    def paper(cls, alpha: float = 1.0, decay: float = 3.0) -> FMix:
        """Mix as the authors' code: a mask of pixels per batch, partners by a permutation."""
        return cls(alpha, decay, per="batch", partner="permutation", resolution=None)

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan, on the host; see `Mix`."""
        side = -(-max(frame.size) // (self.resolution or max(frame.size)))
        areas = cell_areas((side, side), frame.size)
        lam = draws.beta("fmix/lam", self.alpha, [1])
        is_rounded_up = draws.chance("fmix/round", 0.5)
        noise_key = key(draws, "fmix/noise")[0]
        chance = draws.chance("fmix/prob", self.prob)
        sample, partner = partners_of(self, draws, "fmix/partner")
        first = leader(self.per, sample, partner, draws.math)
        lam, chance = (share(value, self.per, first, draws.math) for value in (lam, chance))
        # Samples that share a draw share a mask, which is made once.
        leaders, mask_of_sample = np.unique(first.reshape(-1), return_inverse=True)
        noise = low_frequency_noise(noise_key, len(leaders), areas.shape, self.decay)
        masks = binarised(noise, lam[leaders, 0], is_rounded_up[leaders, 0] > 0, areas)
        # A last mask gives nothing away: for samples that are not mixed.
        masks = np.concatenate([masks, np.zeros_like(masks[:1])])
        is_mixed = (chance > 0) & (sample != partner)
        mask = np.where(is_mixed[:, 0], mask_of_sample.reshape(-1), len(leaders))
        return MixPlan(
            source=np.concatenate([sample, partner], axis=1).astype(np.int32),
            weight=weights_of(masks, areas, 2)[mask],
            size=frame.size,
            owner=masks[mask],
            cell=(side, side),
            lam=lam.reshape(-1),
        )

    def operate(self, sample: Sample, plan: MixPlan, _frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        return paste_cells(sample, plan) if self.prob > 0 else sample


def low_frequency_noise(
    key: np.ndarray, num: int, shape: tuple[int, ...], decay: float
) -> np.ndarray:
    """Draw noise whose amplitude falls with the frequency.

    Args:
        key: Of `random_words`.
        num: Independent fields of noise, at least 1.
        shape: ``(rows, columns)`` of each.
        decay: Power of the frequency that the amplitude is divided by. Frequencies below that of
            one wave along the longer side count as that one.

    Returns:
        ``[num, rows, columns]`` float64, of any scale.
    """
    rows, columns = shape
    vertical, horizontal = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)
    frequency = np.maximum(np.hypot(vertical, horizontal), 1 / max(shape))
    amplitude = (frequency * max(shape)) ** -decay  # at most 1, of whatever power
    words = random_words(key, num * frequency.size * 2)
    normal = _quantiles().take(words).reshape(num, *frequency.shape, 2)
    normal *= amplitude[..., None].astype(np.float32)
    # Transformed in double precision, so that no order of cells depends on a machine's rounding.
    spectrum = normal.astype(np.float64).view(np.complex128)[..., 0]
    return np.fft.irfft2(spectrum, s=shape, axes=(1, 2))


@cache
def _quantiles() -> np.ndarray:
    """Return 2**16 equally likely normal numbers: float32 within 4.4 of 0."""
    share = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    return torch.special.ndtri(share).float().numpy()


def binarised(
    noise: np.ndarray, lam: np.ndarray, is_rounded_up: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """Give the cells with the largest noise to the sample, until it has its share of the pixels.

    Args:
        noise: ``[num, rows, columns]`` float64.
        lam: Share to keep, in [0, 1]: ``[num]`` float32.
        is_rounded_up: Whether the share is rounded up to whole cells, and not down: ``[num]`` bool.
        areas: Pixels of each cell: ``[rows, columns]`` int64.

    Returns:
        0 where the sample keeps a cell, 1 where its partner has the cell: ``[num, rows, columns]``
        uint8.
    """
    flat, areas = noise.reshape(len(noise), -1), areas.reshape(-1)
    targets = lam.astype(np.float64) * areas.sum()
    is_of_partner = np.zeros(flat.shape, bool)
    for values, target, up, is_partner_cell in zip(
        flat, targets, is_rounded_up, is_of_partner, strict=True
    ):
        if areas[0] == areas[-1]:  # cells of one size need no complete order, which takes longer
            last = areas.size - int((np.ceil if up else np.floor)(target / areas[0])) - 1
            if last >= 0:
                np.less_equal(values, np.partition(values, last)[last], out=is_partner_cell)
            continue
        order = np.argsort(values)[::-1]
        kept = np.concatenate([[0], np.cumsum(areas[order])])
        below, above = (np.searchsorted(kept, target, side) for side in ("left", "right"))
        is_partner_cell[order[below if up else above - 1 :]] = True
    return is_of_partner.view(np.uint8).reshape(noise.shape)
