"""Whether a classifier sees either class in an image between two classes, blended or cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from evaluation.predictions import Images, means
from evaluation.result import Curve, Result
from evaluation.subject import NAME, Subject
from harness.processes import stop

#: Kept fractions of the first image.
LAMS = tuple(tenths / 10 for tenths in range(11))


@torch.no_grad()
def measure_in_between(
    subject: Subject, images: Images, *, lams: Sequence[float] = LAMS, seed: int = 0
) -> Result:
    """Measure how often the largest logit belongs to either class of a mixed image.

    Every image is mixed with one from a random permutation of all. Pairs of one class are left
    out.

    Args:
        subject: The classifier.
        images: The images.
        lams: Kept fractions of the first image, in [0, 1].
        seed: Of the pairs and of the cuts' positions.

    Returns:
        Numbers ``mixup_LAM`` and ``cutmix_LAM``, and ``mixup`` and ``cutmix``, their means over all
        fractions strictly between 0 and 1. Values per image belong to the pairs.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, section 4.4, figure 4 (b), which shows the
        complement: the share of images in which neither class is seen.
    """
    rng = np.random.default_rng(seed)
    with images.loader(subject) as loader:
        order = rng.permutation(len(loader.sampler)).tolist()
    others = replace(images, sampler=order)
    mixes: dict[str, Callable[..., torch.Tensor]] = {"mixup": blended, "cutmix": cut}
    hits: dict[str, list[np.ndarray]] = {f"{kind}_{lam:g}": [] for kind in mixes for lam in lams}
    pairs = zip(images.batches(subject, "in between"), others.batches(subject, ""), strict=True)
    for (image, label), (other, other_label) in pairs:
        differs = label != other_label
        a, b = image[differs], other[differs]
        both = torch.stack([label, other_label], dim=1)[differs]
        corner = torch.from_numpy(rng.random(2))
        for kind, mix in mixes.items():
            for lam in lams if len(a) else ():
                seen = subject.model(mix(a, b, lam, corner)).argmax(1)
                hits[f"{kind}_{lam:g}"].append((seen[:, None] == both).any(1).cpu().numpy())
    if not any(hits.values()):
        stop(NAME, "`data` must hold images of two classes to measure what lies between them.")
    samples = {name: np.concatenate(parts).astype(np.float64) for name, parts in hits.items()}
    series = {}
    for kind in mixes:
        each = [samples[f"{kind}_{lam:g}"] for lam in lams]
        mixed = [hit for hit, lam in zip(each, lams, strict=True) if 0 < lam < 1]
        if mixed:
            samples[kind] = np.mean(mixed, axis=0)
        series[kind] = (list(lams), [float(hit.mean()) for hit in each])
    return Result(
        "in_between",
        "Between two classes",
        means(samples),
        samples,
        curves=(
            Curve("Top-1 in either class", "kept fraction of the first image", "share", series),
        ),
        notes=(f"{len(next(iter(samples.values())))} pairs of different classes, seed {seed}.",),
    )


def blended(
    image: torch.Tensor, other: torch.Tensor, lam: float, _corner: torch.Tensor
) -> torch.Tensor:
    """Return ``lam * image + (1 - lam) * other``."""
    return lam * image + (1 - lam) * other


def cut(image: torch.Tensor, other: torch.Tensor, lam: float, corner: torch.Tensor) -> torch.Tensor:
    """Return images with a rectangle of others, which lies inside.

    Args:
        image: Images ``[B, C, height, width]``.
        other: Images of the same shape.
        lam: Kept fraction of ``image``, in [0, 1]. The rectangle's sides are those of the image by
            the root of ``1 - lam``, rounded to whole pixels.
        corner: Position of the rectangle among those where it fits, in [0, 1): ``[2]``, (y, x).
    """
    mixed = image.clone()
    window = []
    for side, position in zip(image.shape[-2:], corner.tolist(), strict=True):
        extent = round(side * (1 - lam) ** 0.5)
        start = int(position * (side - extent + 1))
        window.append(slice(start, start + extent))
    mixed[..., window[0], window[1]] = other[..., window[0], window[1]]
    return mixed
