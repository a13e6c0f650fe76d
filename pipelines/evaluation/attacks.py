"""Accuracy under white-box attacks: FGSM and PGD within a box around every pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from evaluation.predictions import Images, hits_of_changes, means
from evaluation.refusal import refuse
from evaluation.result import Result
from evaluation.subject import Subject


def measure_attacks(
    subject: Subject,
    images: Images,
    *,
    eps: float = 8 / 255,
    num_steps: int = 20,
    step: float | None = None,
    seed: int = 0,
) -> Result:
    """Measure top-1 on images that were changed to mislead this classifier.

    Args:
        subject: The classifier. Its normalization must be known, since ``eps`` is in pixels.
        images: The images.
        eps: Largest change of a pixel, in units of the full range [0, 1]; above 0.
        num_steps: Steps of PGD, at least 1.
        step: Size of a step of PGD, in the units of ``eps``; None takes a quarter of ``eps``.
        seed: Seed of PGD's random starts.

    Returns:
        Numbers ``clean``, ``fgsm`` and ``pgd``: top-1 without an attack and under each.

    Raises:
        SystemExit: The normalization is not known, or an argument is out of range.

    Source:
        FGSM: Goodfellow et al. 2015, arXiv:1412.6572. PGD: Madry et al. 2018, arXiv:1706.06083.
        The paper's ``eps`` is 8 / 255: arXiv:1905.04899, section 4.4.
    """
    check_attacks(subject, eps, num_steps)
    step = eps / 4 if step is None else step
    generator = torch.Generator(subject.device).manual_seed(seed)

    def attack_once(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return subject.normalized(fgsm(subject, subject.pixels(image), label, eps))

    def attack_repeatedly(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        pixels = subject.pixels(image)
        pixels = pgd(subject, pixels, label, eps, step, num_steps, generator)
        return subject.normalized(pixels)

    changes = {"clean": lambda image, _: image, "fgsm": attack_once, "pgd": attack_repeatedly}
    samples = hits_of_changes(subject, images, "attacks", changes)
    return Result(
        "attacks",
        "Adversarial attacks",
        means(samples),
        samples,
        notes=(
            f"Largest change of a pixel {255 * eps:g}/255. PGD makes {num_steps} steps of "
            f"{255 * step:g}/255 from a random start.",
        ),
        settings={
            "eps": eps,
            "num_steps": num_steps,
            "step": step,
            "seed": seed,
            "batch_size": images.batch_size,  # which the random starts depend on
        },
    )


def check_attacks(subject: Subject, eps: float, num_steps: int) -> None:
    """Refuse attacks that cannot be made; arguments as of `measure_attacks`."""
    if not subject.knows_normalization:
        refuse(
            f"`attack_eps` needs the normalization of {subject.name} to be known. Pass `--mean` "
            "and `--std` as the model was trained with, in units of [0, 1].",
        )
    if not 0 < eps <= 1:
        refuse(
            f"`attack_eps` must be in (0, 1], where 1 is the full range, got {eps}. Divide by 255 "
            "what counts from 0 to 255.",
        )
    if num_steps < 1:
        refuse(
            f"`attack_steps` must be at least 1, got {num_steps}. Choose `--measures` without "
            "attacks to attack nothing.",
        )


def fgsm(subject: Subject, pixels: torch.Tensor, label: torch.Tensor, eps: float) -> torch.Tensor:
    """Return pixels after one step of ``eps`` up the loss, clipped to [0, 1].

    Args:
        subject: The classifier that is attacked.
        pixels: Images in [0, 1], ``[B, 3, height, width]``.
        label: Class of each image, ``[B]`` int64.
        eps: Size of the step.
    """
    return (pixels + eps * _gradient(subject, pixels, label).sign()).clamp(0, 1)


def pgd(
    subject: Subject,
    pixels: torch.Tensor,
    label: torch.Tensor,
    eps: float,
    step: float,
    num_steps: int,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Return pixels after steps up the loss, each projected into ``eps`` around the image.

    Args:
        subject: The classifier that is attacked.
        pixels: Images in [0, 1], ``[B, 3, height, width]``.
        label: Class of each image, ``[B]`` int64.
        eps: Largest change of a pixel.
        step: Size of a step.
        num_steps: Number of steps.
        generator: Draws the start, uniform within ``eps``; on the device of ``pixels``. None
            starts at the image.
    """
    attacked = pixels
    if generator is not None:
        start = torch.empty_like(pixels).uniform_(-eps, eps, generator=generator)
        attacked = (pixels + start).clamp(0, 1)
    for _ in range(num_steps):
        attacked = attacked + step * _gradient(subject, attacked, label).sign()
        attacked = (pixels + (attacked - pixels).clamp(-eps, eps)).clamp(0, 1)
    return attacked


def _gradient(subject: Subject, pixels: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        logits = subject.model(subject.normalized(pixels))
        # Summed, so that an image's gradient depends on no other image of the batch.
        loss = F.cross_entropy(logits, label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient
