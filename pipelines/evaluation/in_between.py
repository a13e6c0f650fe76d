"""Whether a classifier sees either class in an image between two classes, blended or cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from evaluation.predictions import Images, line_of, means
from evaluation.refusal import refuse
from evaluation.result import Curve, Result
from evaluation.subject import Subject

#: Kept fractions of the first image.
LAMS = tuple(tenths / 10 for tenths in range(11))


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
        seed: Seed of the pairs and of the cuts' positions.

    Returns:
        Numbers ``mixup_LAM`` and ``cutmix_LAM``, and ``mixup`` and ``cutmix``, their means over all
        fractions strictly between 0 and 1. Values per image belong to the pairs.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, section 4.4, figure 4 (b), which shows the
        complement: the share of images in which neither class is seen.
    """
    samples = _hits_of_pairs(subject, images, lams, seed)
    between = [lam for lam in lams if 0 < lam < 1]
    series = {kind: line_of(samples, kind, lams, between) for kind in MIXES}
    return Result(
        "in_between",
        "Between two classes",
        means(samples),
        samples,
        curves=(
            Curve("Top-1 in either class", "kept fraction of the first image", "share", series),
        ),
        notes=(f"{len(next(iter(samples.values())))} pairs of different classes, seed {seed}.",),
        settings={"lams": list(lams), "seed": seed},
    )


@torch.no_grad()
def _hits_of_pairs(
    subject: Subject, images: Images, lams: Sequence[float], seed: int
) -> dict[str, np.ndarray]:
    """Return whether either class is seen, ``[pairs]`` float64 for ``KIND_LAM``."""
    rng = np.random.default_rng(seed)
    with images.loader(subject) as loader:
        order = rng.permutation(len(loader.sampler)).tolist()
    corners = torch.from_numpy(rng.random((len(order), 2))).to(subject.device)
    hits: dict[str, list[np.ndarray]] = {f"{kind}_{lam:g}": [] for kind in MIXES for lam in lams}
    others = replace(images, sampler=order).labelled(subject, "")
    for (image, label), (other, other_label) in zip(
        images.labelled(subject, "in between"), others, strict=True
    ):
        corner, corners = corners[: len(label)], corners[len(label) :]
        differs = label != other_label
        pair = image[differs], other[differs]
        classes = torch.stack([label, other_label], dim=1)[differs]
        for kind, mix in MIXES.items():
            for lam in lams if len(classes) else ():
                seen = subject.model(mix(*pair, lam, corner[differs])).argmax(1)
                hits[f"{kind}_{lam:g}"].append((seen[:, None] == classes).any(1).cpu().numpy())
    if not any(hits.values()):
        refuse(
            "`data` must hold images of two classes to measure what lies between them, got pairs "
            "of one class. Pass more images, or `--measures` without in_between.",
        )
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in hits.items()}


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
        corner: Position of each rectangle among those where it fits, in [0, 1): ``[B, 2]``, (y, x).
    """
    inside = []
    for side, position in zip(image.shape[-2:], corner.unbind(1), strict=True):
        extent = round(side * (1 - lam) ** 0.5)
        start = (position * (side - extent + 1)).long()[:, None]
        pixel = torch.arange(side, device=image.device)
        inside.append((start <= pixel) & (pixel < start + extent))
    rows, columns = inside
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], other, image)


#: How a pair of images becomes one image, by name.
MIXES: Mapping[str, Callable[..., torch.Tensor]] = {"mixup": blended, "cutmix": cut}
