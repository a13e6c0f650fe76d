"""Check the batches of a contestant before the contestant is timed."""

# Imports nothing of this package: interpreters without the package load this file.
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

#: Levels of black and white, normalised with ImageNet's mean and deviation, with a margin.
LOWEST, HIGHEST = -2.2, 2.7
#: Weight: how far the sum of a row of class weights may be from 1.
TOLERANCE = 1e-3


def check_batches(batches: list[tuple[Any, Any]], work: Work) -> None:
    """Refuse batches that do not do the work.

    Args:
        batches: Pairs ``(image, target)`` on ``work.device``: ``[B, 3, size, size]`` float32,
            normalised; and ``[B, num_classes]`` float32 with a mix, else ``[B]`` int64.
        work: The work. Without ``check_values`` only shapes, types and devices are looked at.

    Raises:
        ValueError: Says what is wrong.
    """
    for image, target in batches:
        _check_form(image, target, work)
        if work.check_values:
            _check_image(image)
            _check_target(target, work)
    if work.mix != "none" and work.check_values:
        _check_mixed([target for _, target in batches])


def _check_form(image: Any, target: Any, work: Work) -> None:
    import torch

    _equal("shape of image", tuple(image.shape), (work.batch_size, 3, work.size, work.size))
    _equal("dtype of image", image.dtype, torch.float32)
    _equal("device of image", image.device.type, work.device)
    mixed = work.mix != "none"
    shape = (work.batch_size, work.num_classes) if mixed else (work.batch_size,)
    _equal("device of target", target.device.type, work.device)
    _equal("shape of target", tuple(target.shape), shape)
    _equal("dtype of target", target.dtype, torch.float32 if mixed else torch.int64)


def _check_image(image: Any) -> None:
    import torch

    if not bool(torch.isfinite(image).all()):
        raise ValueError("image: not all values are finite")
    low, high = float(image.min()), float(image.max())
    if low < LOWEST or high > HIGHEST:
        raise ValueError(
            f"image: values from {low:.3g} to {high:.3g}, outside [{LOWEST}, {HIGHEST}]"
        )
    if low >= 0:
        raise ValueError(f"image: the least value is {low:.3g}: the mean was not subtracted")
    if len(image) > 1 and bool((image == image[:1]).all()):
        raise ValueError("image: all images of a batch are the same")


def _check_target(target: Any, work: Work) -> None:
    if work.mix == "none":
        if int(target.min()) < 0 or int(target.max()) >= work.num_classes:
            raise ValueError(f"target: classes outside [0, {work.num_classes})")
        return
    if bool((target < 0).any()):
        raise ValueError("target: weights below 0")
    worst = float((target.sum(1) - 1).abs().max())
    if not worst <= TOLERANCE:
        raise ValueError(f"target: the weights of an image sum to 1 within {worst:.3g} only")


def _check_mixed(targets: list[Any]) -> None:
    """Refuse batches of several classes in which no image has weight in two classes."""
    classes = {int(label) for target in targets for label in target.argmax(1)}
    if len(classes) > 1 and not any(bool((target.max(1).values < 1).any()) for target in targets):
        raise ValueError("target: no image is mixed with an image of another class")


def _equal(name: str, value: object, expected: object) -> None:
    if value != expected:
        raise ValueError(f"{name}: {value}, and {expected} was asked for")
