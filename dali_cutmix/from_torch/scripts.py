"""Classes that training scripts write themselves, and what does the same in the graph.

The classes are known by name and attributes, which prove nothing: the user is shown the line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def own_class(part: Any) -> str | None:
    """Return why a script's own class is not run, with the line that replaces it; else None.

    Args:
        part: An object of a class that is neither torchvision's nor timm's.
    """
    if type(part).__module__.partition(".")[0] == "albumentations":
        names = [type(each).__name__ for each in getattr(part, "transforms", ())]
        listed = f" ({', '.join(names)})" if names else ""
        return (
            f"the graph does not run albumentations{listed}. Write the list with torchvision's "
            "transforms, or pass `transform=`."
        )
    name = type(part).__name__.lower()
    for word, line_of in _LINES.items():
        if word in name:
            try:
                line = line_of(part)
            except (AttributeError, TypeError, ValueError, IndexError, StopIteration):
                continue
            return f"from_torch cannot see what the class does. {line}"
    return None


def _cutout(part: Any) -> str:
    side = 2 * (int(first_of(part, "length", "size", "mask_size")) // 2)
    arguments = [str(side)]
    if (count := int(getattr(part, "n_holes", 1))) > 1:
        arguments.append(f"count={count}")
    if (prob := prob_of(part)) < 1:
        arguments.append(f"prob={prob:g}")
    line = f"EraseSquares({', '.join(arguments)})"
    return (
        f"To fill squares of that side with black, pass `transform=` with `augmentations.{line}`."
    )


def _auto_augment(part: Any) -> str:
    name = type(part).__name__.lower()
    policy = next(each for each in ("imagenet", "cifar10", "svhn") if each in name)
    return f"torchvision's `AutoAugment(AutoAugmentPolicy.{policy.upper()})` has a counterpart."


def _rand_augment(part: Any) -> str:
    num_ops, magnitude = first_of(part, "n", "num_ops"), first_of(part, "m", "magnitude")
    return f"torchvision's `RandAugment({int(num_ops)}, {int(magnitude)})` has a counterpart."


def _blur(part: Any) -> str:
    sigma = getattr(part, "sigma", None)
    if sigma is None:
        sigma = part.radius_min, part.radius_max
    low, high = (float(bound) for bound in sigma)
    side = 2 * round(3 * high) + 1
    line = f"GaussianBlur({side}, ({low:g}, {high:g}))"
    if (prob := prob_of(part)) < 1:
        line = f"RandomApply([{line}], {prob:g})"
    return f"torchvision's `{line}` has a counterpart."


def _solarize(part: Any) -> str:
    threshold = float(part.threshold)  # else it may be drawn
    return f"torchvision's `RandomSolarize({threshold:g}, {prob_of(part):g})` has a counterpart."


def _erasing(part: Any) -> str:
    low, high, ratio = (float(first_of(part, name)) for name in ("sl", "sh", "r1"))
    line = f"RandomErasing({prob_of(part):g}, ({low:g}, {high:g}), ({ratio:g}, {1 / ratio:.4g}))"
    return f"torchvision's `{line}` has a counterpart."


def _lighting(part: Any) -> str:
    deviation = float(first_of(part, "alphastd", "alpha_std", "std"))
    line = f"`transform=` with `augmentations.Lighting({deviation:g})`"
    return f"Where the noise is normal, along ImageNet's components, pass {line}."


def _shift(part: Any) -> str:
    pixels = int(first_of(part, "max_translation"))
    line = f'RandomCrop(side, padding={pixels}, padding_mode="reflect")'
    return f"torchvision's `{line}`, with the side of the images, has a counterpart."


def prob_of(part: Any) -> float:
    """Return the probability that an object says, or 1."""
    return float(first_of(part, "p", "prob", "probability", default=1.0))


def first_of(part: Any, *names: str, default: Any = None) -> Any:
    """Return the first of some attributes that a part has."""
    for name in names:
        if (value := getattr(part, name, None)) is not None:
            return value
    if default is None:
        raise AttributeError(names[0])
    return default


#: By a word in the name of the class.
_LINES: dict[str, Callable[[Any], str]] = {
    "cutout": _cutout,
    "policy": _auto_augment,
    "autoaugment": _auto_augment,
    "randaugment": _rand_augment,
    "blur": _blur,
    "solariz": _solarize,
    "erasing": _erasing,
    "lighting": _lighting,
    "pca": _lighting,
    "translatewithreflect": _shift,
}
