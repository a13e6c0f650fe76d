"""Classifiers that were trained before, to begin other trainings with."""

from __future__ import annotations

from evaluation.refusal import NAME as EVALUATE
from evaluation.subject import Subject, load_subject
from harness.processes import stop


def load_classifier(recipe: str, backbone: str) -> Subject:
    """Load a classifier of any classes, on the CPU; averaged weights where there are some.

    Args:
        recipe: Name of the recipe that asks, for messages.
        backbone: The checkpoint of a recipe that classifies images, ``torchvision:NAME``, or
            ``torchvision:NAME:FILE`` with weights for the library's classes. ``timm`` likewise.

    Returns:
        The classifier in evaluation mode, without gradients, and how its images are normalized.

    Raises:
        SystemExit: With a sentence that begins with the recipe's name and `backbone`.
    """
    try:
        return load_subject(backbone, None)
    except SystemExit as error:
        problem = str(error).removeprefix(f"{EVALUATE}: ")
        stop(recipe, problem.replace("`checkpoint`", "`backbone`", 1))
