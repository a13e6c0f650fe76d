"""What a torchvision part that resizes, crops or pads says of sizes and kernels."""

from __future__ import annotations

from typing import Any

from dali_cutmix.from_torch.levels import Levels
from dali_cutmix.from_torch.report import NoCounterpartError, OutOfPlaceError, Size, mode_of

#: By the name of torchvision's interpolation, of the graph's kernel.
_KERNELS = {name: name for name in ("bilinear", "bicubic", "lanczos", "random", "nearest")}
_KERNELS |= {"nearest-exact": "nearest", "box": "box", "hamming": "hamming"}


def kernel_of(part: Any, levels: Levels) -> str:
    """Return the name of the graph's kernel that resizes as a part does.

    Args:
        part: A transform that resizes.
        levels: What pixel numbers mean in front of ``part``.

    Raises:
        NoCounterpartError: The graph has no such kernel, or not for tensors.
    """
    mode = mode_of(part)
    if mode not in _KERNELS:
        names = "bilinear, bicubic, lanczos, box, hamming or nearest"
        raise NoCounterpartError(f"the graph resizes by {names}, got interpolation={mode!r}.")
    if not levels.is_tensor:
        return _KERNELS[mode]
    before = "resize before the image becomes a tensor."
    if mode == "nearest":
        raise OutOfPlaceError(
            "the graph resizes to the nearest pixel as Pillow does, and torchvision's NEAREST of a "
            f"tensor takes other pixels. {before.capitalize()}"
        )
    if mode == "lanczos":
        raise OutOfPlaceError(
            f"the graph resizes by lanczos as Pillow does. Pass BICUBIC, or {before}"
        )
    if not getattr(part, "antialias", True) and mode != "nearest-exact":
        if mode == "bilinear":
            return "bilinear-aliased"
        raise OutOfPlaceError(
            f"the graph resizes by {mode} with antialiasing. Pass `antialias=True`, or {before}"
        )
    if mode in ("bicubic", "random") and not levels.are_uint8:
        raise OutOfPlaceError(
            "bicubic floats overshoot the range of levels, and the graph clips these. Resize "
            "before ToTensor or ToDtype."
        )
    return _KERNELS[mode]


def resize_of(part: Any) -> int | Size:
    """Return the short side or ``(height, width)`` that ``Resize`` makes, in pixels."""
    size = part.size
    if isinstance(size, int):
        return size
    sides = [int(side) for side in size]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def sides_of(size: Any) -> Size:
    """Return a crop's ``(height, width)`` in pixels."""
    sides = [size] if isinstance(size, int) else [int(side) for side in size]
    return sides[0], sides[-1]
