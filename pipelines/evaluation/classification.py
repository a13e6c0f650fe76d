"""Accuracy, loss, calibration, and what a classifier gains by leaving doubtful images out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from evaluation.predictions import Images, Predictions, means, predict
from evaluation.refusal import refuse
from evaluation.result import Curve, Result, Table
from evaluation.subject import Subject

#: Points of a curve over all images.
NUM_POINTS = 101


def measure_classification(
    subject: Subject,
    images: Images,
    *,
    groups: Sequence[str] | None = None,
    num_bins: int = 15,
) -> Result:
    """Measure how often, how surely and for whom a classifier is right.

    Args:
        subject: The classifier.
        images: The images.
        groups: Name of each image's group, in the order of the images; None: no groups.
        num_bins: Bins of confidence, of equal width, for the calibration error.

    Returns:
        Numbers ``top1``, ``top5``, ``nll`` (the mean cross entropy in nats), ``confidence`` (the
        mean), ``overconfidence`` (``confidence`` minus ``top1``, below 0 of a classifier that is
        too modest), ``ece``, ``aurc``, ``mean_class`` and ``worst_class`` (accuracies over
        classes), and with groups ``worst_group``.

    Source:
        ECE: Guo et al. 2017, arXiv:1706.04599, section 3. Risk and coverage: Geifman and El-Yaniv
        2017, arXiv:1705.08500; their area: Geifman et al. 2019, arXiv:1805.08206.
    """
    predictions = predict(subject, images, "classification")
    samples = _samples(predictions)
    risk = risk_by_coverage(1 - samples["top1"], samples["confidence"])
    names = np.array(list(subject.classes))[predictions.label.numpy()]
    of_classes = _accuracies("class", names, samples["top1"])
    numbers = means(samples) | {
        "ece": _calibration_error(predictions, num_bins),
        "aurc": float(risk.mean()),
        "mean_class": float(np.mean([row[1] for row in of_classes.rows])),
        "worst_class": float(of_classes.rows[0][1]),
    }
    tables = [of_classes]
    if groups is not None:
        if len(groups) < len(names):
            refuse(f"`groups` must name a group per image, got {len(groups)} of {len(names)}.")
        tables.append(_accuracies("group", np.array(groups[: len(names)]), samples["top1"]))
        numbers["worst_group"] = float(tables[1].rows[0][1])
    return Result(
        "classification",
        "Accuracy and calibration",
        numbers,
        samples,
        curves=(
            _reliability(samples["confidence"], samples["top1"], num_bins),
            _risk_and_coverage(risk),
        ),
        tables=tuple(tables),
        notes=(
            f"ECE has {num_bins} bins of equal width over the largest probability.",
            "AURC is the mean error over all coverages, the most confident images first.",
        ),
    )


def risk_by_coverage(error: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the mean error of the k most confident images, for every k.

    Images of equal confidence count with their mean error, so that their order says nothing.

    Args:
        error: 1 for an image that is classified wrongly, else 0: ``[N]``.
        confidence: Confidence of each image: ``[N]``.

    Returns:
        ``[N]`` float64; item k - 1 belongs to a coverage of ``k / N``.
    """
    _, tie, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean_of_tie = np.bincount(tie, weights=error) / count
    return np.cumsum(np.repeat(mean_of_tie, count)) / np.arange(1, len(error) + 1)


def _samples(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return the values of each image whose means are numbers of the measure."""
    top1, confidence = _hits(predictions, 1), predictions.confidence.numpy()
    nll = F.cross_entropy(predictions.logits.double(), predictions.label, reduction="none")
    return {
        "top1": top1,
        "top5": _hits(predictions, 5),
        "nll": nll.numpy(),
        "confidence": confidence,
        "overconfidence": confidence - top1,
    }


def _calibration_error(predictions: Predictions, num_bins: int) -> float:
    """Return ECE; a confidence of 1 belongs to the last bin, as all others above its low end."""
    # torchmetrics would give a bin of its own to a confidence that float32 rounds to 1.
    shares = predictions.logits.double().softmax(1).clamp(max=1 - 2.0**-24)
    num_classes = predictions.logits.shape[1]
    return multiclass_calibration_error(
        shares, predictions.label, num_classes, num_bins, "l1"
    ).item()


def _hits(predictions: Predictions, k: int) -> np.ndarray:
    """Return 1 for each image whose label is among the k largest logits, else 0.

    Of equal logits the first is the largest, as `argmax` and the calibration error have it.
    """
    largest = predictions.logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    return (largest == predictions.label[:, None]).any(1).double().numpy()


def _accuracies(kind: str, names: np.ndarray, hits: np.ndarray) -> Table:
    """Return top-1 of the images of each name, the worst first."""
    rows = []
    for name in np.unique(names):
        part = hits[names == name]
        rows.append((str(name), float(part.mean()), len(part)))
    rows.sort(key=lambda row: row[1])
    return Table(f"Top-1 per {kind}", (kind, "top-1", "images"), tuple(rows))


def _reliability(confidence: np.ndarray, hits: np.ndarray, num_bins: int) -> Curve:
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    filled = np.unique(bins)
    x = [float(confidence[bins == number].mean()) for number in filled]
    y = [float(hits[bins == number].mean()) for number in filled]
    share = [float((bins == number).mean()) for number in filled]
    return Curve(
        "Reliability",
        "confidence",
        "top-1",
        {"top-1": (x, y), "calibrated": ([0.0, 1.0], [0.0, 1.0]), "share of images": (x, share)},
    )


def _risk_and_coverage(risk: np.ndarray) -> Curve:
    at = np.unique(np.linspace(0, len(risk) - 1, NUM_POINTS).astype(int))
    series = ((at + 1) / len(risk)).tolist(), risk[at].tolist()
    return Curve("Risk and coverage", "coverage", "top-1 error", {"error": series})
