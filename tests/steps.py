"""Runs augmentations by plans that were drawn, and compares counts of what is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn
from scipy.stats import chi2_contingency

from dali_cutmix.augmentations import Frame
from dali_cutmix.core.frame import Sample, Structure
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.transforms.resample import Resampler
from graphs import on

#: Sizes of images vary where a step does not know them.
ANY = Frame((0, 0), varies=True)


def applied(
    augmentation: Any,
    images: Sequence[np.ndarray],
    plan: Any,
    frame: Frame = ANY,
    *,
    on_threads: bool = True,
    back_end: str = "cpu",
) -> list[np.ndarray]:
    """Run an augmentation on images of any sizes by a plan that was drawn."""
    structure = Structure(plan)
    resampler = Resampler(2 if on_threads and back_end == "cpu" else None)
    if resampler.has_threads:
        settings: dict[str, Any] = {"on_threads": resampler.on_threads}
        frame = Frame(
            frame.size, frame.mean, resampler.resize_each, frame.std, frame.varies, **settings
        )
    pipeline = Pipeline(len(images), 1, None if back_end == "cpu" else 0, prefetch_queue_depth=1)
    with pipeline:
        image = fn.external_source(source=lambda _: list(images), batch=True, layout="HWC")
        leaves = [
            fn.external_source(source=[np.ascontiguousarray(leaf)], cycle="quiet", batch=True)
            for leaf in structure.leaves(plan)
        ]
        sample = Sample(on(back_end, fn.copy(image)))
        result = augmentation.operate(sample, structure.build(leaves), frame)
        pipeline.set_outputs(fn.copy(result.image))
    (results,) = pipeline.run()
    results = results.as_cpu()
    arrays = [np.array(results.at(i)) for i in range(len(images))]
    pipeline._shutdown()
    resampler.close()
    return arrays


def draw(augmentation: Any, num: int, frame: Frame = ANY, seed: int = 1) -> Any:
    return augmentation.draw(HostDraws(num, seed, 0, 0, 0), frame)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def same_distribution(ours: Counter[Any], theirs: Counter[Any]) -> None:
    """Two counts of the same things: alike but for one right implementation in a thousand."""
    both = ours + theirs
    common = [key for key in both if both[key] >= 20]
    rows = [[counts[key] for key in common] for counts in (ours, theirs)]
    for row, counts in zip(rows, (ours, theirs), strict=True):
        if rest := sum(counts.values()) - sum(row):
            row.append(rest)
    assert len(rows[0]) == len(rows[1])
    if len(rows[0]) > 1:
        assert chi2_contingency(rows).pvalue > 0.001
