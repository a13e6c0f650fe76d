"""Whether a classifier's confidence tells its own kind of images from noise and other data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from dali_cutmix import TrainTransform
from evaluation.predictions import Images, Predictions, predict
from evaluation.result import Curve, Result
from evaluation.subject import Subject

#: Share of a classifier's own images that must be accepted where outliers are counted.
TPR = 0.95


def measure_outliers(
    subject: Subject, images: Images, *, other: Images | None = None, seed: int = 0
) -> Result:
    """Measure how well the largest probability tells a classifier's own images from outliers.

    Outliers are as many images of noise as there are images, and the images of ``other``, resized
    as the classifier's own and as random crops of its input size.

    Args:
        subject: The classifier.
        images: Images of the classifier's classes.
        other: Images of none of the classes. Their labels do not matter. None: noise alone.
        seed: Of noise and crops.

    Returns:
        Numbers ``KIND_auroc``, ``KIND_fpr95`` (the share of outliers that are accepted where 95 %
        of the own images are) and ``KIND_detection_error``, for the kinds ``uniform``,
        ``gaussian``, ``other`` and ``crops``; and the three means over the kinds.

    Source:
        The score: Hendrycks and Gimpel 2017, arXiv:1610.02136. Measures and noises: Liang et al.
        2018, ODIN, arXiv:1706.02690, section 4, as the paper, arXiv:1905.04899, section 4.4, which
        reports the complements of FPR and detection error.
    """
    accepted = predict(subject, images, "own images").confidence
    scores = {
        name: noise_confidence(subject, draw, len(accepted), images.batch_size, seed)
        for name, draw in (("uniform", uniform_pixels), ("gaussian", gaussian_pixels))
    }
    if other is not None:
        crop = TrainTransform(
            subject.size, pad=0, flip=0, mean=subject.transform.mean, std=subject.transform.std
        )
        scores["other"] = confidence_of_any(subject, other, subject.transform)
        scores["crops"] = confidence_of_any(subject, replace(other, seed=seed), crop)
    rows = {name: separation(accepted, rejected) for name, rejected in scores.items()}
    numbers = {f"{name}_{key}": value for name, row in rows.items() for key, value in row.items()}
    for key in ("auroc", "fpr95", "detection_error"):
        numbers[key] = float(np.mean([row[key] for row in rows.values()]))
    return Result(
        "outliers",
        "Out-of-distribution detection",
        numbers,
        curves=(_histogram({"own images": accepted, **scores}),),
        notes=("The score is the largest softmax probability.",),
        settings={"seed": seed, "batch_size": images.batch_size},  # of noise and crops
    )


def separation(accepted: torch.Tensor, rejected: torch.Tensor) -> dict[str, float]:
    """Measure how well a score is larger for what is to be accepted.

    Args:
        accepted: Scores in [0, 1] of what is to be accepted, ``[N]``.
        rejected: Scores in [0, 1] of what is to be rejected, ``[M]``.

    Returns:
        ``auroc``; ``fpr95``, the share of ``rejected`` at or above the highest threshold that
        accepts at least 95 % of ``accepted``; ``detection_error``, the least mean of both error
        rates over all thresholds.
    """
    score = torch.cat([accepted, rejected])
    target = torch.cat([torch.ones(len(accepted)), torch.zeros(len(rejected))]).long()
    thresholds = torch.cat([score.unique(), torch.tensor([torch.inf], dtype=score.dtype)])
    tpr = _share_from(accepted, thresholds)
    fpr = _share_from(rejected, thresholds)
    return {
        "auroc": binary_auroc(score, target).item(),
        "fpr95": fpr[tpr >= TPR].min().item(),
        "detection_error": ((1 - tpr + fpr) / 2).min().item(),
    }


def uniform_pixels(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Draw pixels uniform in [0, 1), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def gaussian_pixels(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Draw pixels from a normal distribution of mean 0.5 and variance 1, clipped to [0, 1]."""
    return (0.5 + torch.randn(shape, generator=generator, device=generator.device)).clamp(0, 1)


@torch.no_grad()
def noise_confidence(
    subject: Subject,
    draw: Callable[[tuple[int, ...], torch.Generator], torch.Tensor],
    count: int,
    batch_size: int,
    seed: int,
) -> torch.Tensor:
    """Return a classifier's confidence in images of noise, ``[count]`` float64."""
    generator = torch.Generator(subject.device).manual_seed(seed)
    parts = []
    for start in range(0, count, batch_size):
        shape = (min(batch_size, count - start), 3, *subject.size)
        logits = subject.model(subject.normalized(draw(shape, generator))).float().cpu()
        parts.append(Predictions(logits, torch.zeros(len(logits))).confidence)
    return torch.cat(parts)


@torch.no_grad()
def confidence_of_any(subject: Subject, images: Images, transform: object) -> torch.Tensor:
    """Return a classifier's confidence in images of whatever classes, ``[N]`` float64."""
    parts = []
    for image, label in images.batches(subject, "other images", transform):
        logits = subject.model(image).float().cpu()
        parts.append(Predictions(logits, label.cpu()).confidence)
    return torch.cat(parts)


def _share_from(score: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Return the share of scores at or above each threshold."""
    below = torch.searchsorted(score.sort().values, thresholds)
    return 1 - below.double() / len(score)


def _histogram(scores: dict[str, torch.Tensor]) -> Curve:
    edges = np.linspace(0, 1, 21)
    middle = ((edges[:-1] + edges[1:]) / 2).tolist()
    series = {
        name: (middle, (np.histogram(score.numpy(), edges)[0] / len(score)).tolist())
        for name, score in scores.items()
    }
    return Curve("Confidence", "largest probability", "share of images", series)
