"""Accuracy on images that noise, blur, light or compression changed, by operators of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, types

from dali_cutmix import EvalTransform, Views
from evaluation.predictions import Images, means
from evaluation.refusal import refuse
from evaluation.result import Curve, Result, fingerprint
from evaluation.subject import Subject

#: Strengths of severities 1 to 5, for inputs of 64 px or more: see `measure_corruptions`.
IMAGENET: Mapping[str, Sequence[float]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "jpeg_compression": (25, 18, 15, 10, 7),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
}

#: Strengths of severities 1 to 5, for inputs below 64 px.
CIFAR: Mapping[str, Sequence[float]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
}

UINT8 = types.DALIDataType.UINT8
FLOAT = types.DALIDataType.FLOAT


def measure_corruptions(
    subject: Subject,
    images: Images,
    *,
    baseline: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Result:
    """Measure the error on corrupted images, five severities of eight corruptions.

    A stored image is decoded once for the five severities of a corruption.

    Args:
        subject: The classifier.
        images: The images.
        baseline: Numbers of another classifier's result on the same images and corruptions, which
            become the unit; see `check_baseline`.
        seed: Seed of noise.

    Returns:
        Numbers: the top-1 errors ``clean_error``, ``CORRUPTION_SEVERITY``, ``CORRUPTION`` (the mean
        over the severities), ``mean_error`` (the mean over the corruptions); with ``baseline`` also
        ``mean_corruption_error``, the mean of the corruptions' errors divided by the baseline's.

    Raises:
        SystemExit: ``baseline`` lacks a corruption, or has an error of 0.

    Source:
        Hendrycks and Dietterich 2019, arXiv:1903.12261; strengths from their ``make_imagenet_c.py``
        and ``make_cifar_c.py``, github.com/hendrycks/robustness.
    """
    published, strengths = strengths_of(subject)
    # The noise is a function of seed and batch.
    settings = {"strengths": published, "seed": seed, "batch_size": images.batch_size}
    if baseline is not None:
        check_baseline(baseline)
        settings["baseline"] = fingerprint([baseline[name] for name in strengths])
    samples = {"clean_error": _errors(subject, images, "clean", [subject.transform], seed)[0]}
    numbers: dict[str, float] = {}
    series = {}
    for name, levels in strengths.items():
        views = [Corrupted(subject.transform, name, level) for level in levels]
        errors = _errors(subject, images, name, views, seed)
        severity = {f"{name}_{k}": float(error.mean()) for k, error in enumerate(errors, 1)}
        samples[name] = np.mean(errors, axis=0)
        numbers |= severity
        clean = float(samples["clean_error"].mean())
        series[name] = ([float(k) for k in range(6)], [clean, *severity.values()])
    samples["mean_error"] = np.mean([samples[name] for name in strengths], axis=0)
    numbers |= means(samples)
    if baseline is not None:
        shares = [numbers[name] / baseline[name] for name in strengths]
        numbers["mean_corruption_error"] = float(np.mean(shares))
    return Result(
        "corruptions",
        "Corruptions",
        numbers,
        samples,
        curves=(Curve("Top-1 error by severity", "severity", "top-1 error", series),),
        notes=(
            f"Strengths of {published}, by DALI's "
            "operators: pixels differ from those of the published images, so that errors are not "
            "comparable with published ones. Pixelate reduces by a triangle filter, not by a box.",
        ),
        settings=settings,
    )


def strengths_of(subject: Subject) -> tuple[str, Mapping[str, Sequence[float]]]:
    """Return the strengths for a classifier's input, and the published data they are from."""
    return ("ImageNet-C", IMAGENET) if min(subject.size) >= 64 else ("CIFAR-10-C", CIFAR)


def check_baseline(baseline: Mapping[str, float]) -> None:
    """Refuse numbers that errors cannot be divided by: a corruption is missing, or without error.

    Args:
        baseline: Numbers of another classifier's result.
    """
    for name in IMAGENET:
        error = baseline.get(name, 0)
        if not error > 0:
            refuse(
                f"`baseline` must have an error above 0 for {name}, got {error}. Leave "
                "`--baseline` out for errors as they are.",
            )


@dataclass(frozen=True)
class Corrupted:
    """Make a classifier's input and corrupt it: a transform for `DataLoader`.

    Attributes:
        clean: Transform that makes the input.
        name: Corruption, a key of `IMAGENET`.
        strength: The strength, in the units of `IMAGENET`.
    """

    clean: EvalTransform
    name: str
    strength: float

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""
        return self.clean.output_size

    @property
    def takes_part(self) -> bool:
        """False: the whole image is decoded."""
        return self.clean.takes_part

    @property
    def frame(self) -> Any:
        """Describe every output."""
        return self.clean.frame

    @property
    def mean(self) -> Any:
        """Mean per channel that is subtracted in the end."""
        return self.clean.mean

    @property
    def std(self) -> Any:
        """Standard deviation per channel that is divided by in the end."""
        return self.clean.std

    def draw(self, draws: Any, _frame: Any) -> np.ndarray:
        """Return the state of the noise's generator: ``[B, 7]`` uint32."""
        return draws.state(f"corruption/{self.name}")

    def operate(self, stored: Any, state: Any, frame: Any, resampler: Any) -> Any:
        """Decode, resize, cut out the centre, corrupt."""
        sample = self.clean.operate(stored, (), frame, resampler)
        image = fn.reshape(sample.image, layout="HWC")  # which stored arrays do not tell
        corrupted = OPERATORS[self.name](image, self.strength, state, frame.size)
        return replace(sample, image=corrupted)


# Operators take images [height, width, 3] uint8, the strength, the state of the noise and
# (height, width), and return images of the same shape and type. The state makes noise a function of
# seed and batch; the argument is DALI's own, and not documented (see
# dali_cutmix/core/host_draws.py).


def _gaussian_noise(image: Any, deviation: float, state: Any, _: Any) -> Any:
    return fn.noise.gaussian(image, stddev=255 * deviation, _random_state=state)


def _shot_noise(image: Any, photons: float, state: Any, _: Any) -> Any:
    return fn.noise.shot(image, factor=255 / photons, _random_state=state)


def _impulse_noise(image: Any, share: float, state: Any, _: Any) -> Any:
    return fn.noise.salt_and_pepper(image, prob=share, per_channel=True, _random_state=state)


def _gaussian_blur(image: Any, sigma: float, _: Any, __: Any) -> Any:
    return fn.gaussian_blur(image, sigma=sigma)


def _brightness(image: Any, added: float, _: Any, __: Any) -> Any:
    """Add to the value of HSV, hue and saturation unchanged: all channels by one factor."""
    value = fn.cast(fn.reductions.max(image, axes=[2], keep_dims=True), dtype=FLOAT)
    brighter = math.min(value + 255 * added, 255.0)
    is_black = fn.cast(value == 0, dtype=FLOAT)  # black has no factor, and becomes gray
    return _rounded((image + is_black) * (brighter / (value + is_black)))


def _contrast(image: Any, kept: float, _: Any, __: Any) -> Any:
    mean = fn.reductions.mean(image, axes=[0, 1], keep_dims=True)
    return _rounded((image - mean) * kept + mean)


def _jpeg_compression(image: Any, quality: float, _: Any, __: Any) -> Any:
    return fn.jpeg_compression_distortion(image, quality=int(quality))


def _pixelate(image: Any, share: float, _: Any, size: tuple[int, int]) -> Any:
    small = [int(side * share) for side in size]
    few = fn.resize(
        image, size=small, interp_type=types.DALIInterpType.INTERP_TRIANGULAR, antialias=True
    )
    return fn.resize(few, size=list(size), interp_type=types.DALIInterpType.INTERP_NN)


def _rounded(image: Any) -> Any:
    return fn.cast(math.clamp(image, 0.0, 255.0), dtype=UINT8)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg_compression": _jpeg_compression,
    "pixelate": _pixelate,
}


@torch.no_grad()
def _errors(
    subject: Subject, images: Images, title: str, views: Sequence[Any], seed: int
) -> list[np.ndarray]:
    """Return whether each image is classified wrongly, ``[N]`` float64 for each transform."""
    errors: list[list[torch.Tensor]] = [[] for _ in views]
    transform = Views(list(views))
    for several, label in replace(images, seed=seed).labelled(subject, title, transform):
        for error, image in zip(errors, several, strict=True):
            error.append((subject.model(image).argmax(1) != label).cpu())
    return [torch.cat(parts).double().numpy() for parts in errors]
