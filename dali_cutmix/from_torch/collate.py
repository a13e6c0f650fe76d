"""A ``collate_fn`` that mixes, as a mix: found in the function, and proved by trying it.

Each made-up batch has to come out as from ``default_collate`` and the mix; see
`dali_cutmix.from_torch.proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import default_collate

from dali_cutmix.from_torch.proof import are_equal, generators_at, held
from dali_cutmix.from_torch.report import NoCounterpartError, torchvision_name
from dali_cutmix.mixing.choice import RandomChoice
from dali_cutmix.mixing.cutmix import CutMix
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.mixing.plan import Mix
from dali_cutmix.transforms.crop import Triple

#: Batches that are tried: one that differs with probability p passes with (1 - p) ** NUM_TRIALS.
NUM_TRIALS = 100
TRIED_SIDE = 4  # of these batches' images, in pixels
MOST_NUMBERS = 1 << 22  # of the one batch whose images have their real size; 17 MB

_WAY_OUT = "Pass `mix=`, or `mix=None` for none"

Samples = tuple[torch.Tensor, list[int]]


class _DiffersError(Exception):
    """A function does something else than a mix; the text says more, where there is more."""


@dataclass(frozen=True)
class Collated:
    """What a ``collate_fn`` turned out to be.

    Attributes:
        mix: The mix; None where nothing is mixed.
        found: torchvision's object that it was read from, or None.
        num_classes: Columns of the target that it makes; None without a mix.
        channels_last: Whether images come in that memory order.
        always_mixes: Whether targets are rows in each of its batches.
    """

    mix: Mix | None = None
    found: Any = None
    num_classes: int | None = None
    channels_last: bool = False
    always_mixes: bool = True


def translate_collate(
    collate: Callable[..., Any],
    *,
    num_classes: int,
    batch_sizes: Sequence[int],
    size: tuple[int, int],
    dtype: torch.dtype,
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
) -> Collated:
    """Find the mix in a function, and try whether it is all the function does.

    The function is called up to a hundred times for each mix in it. The states of torch's, NumPy's
    and Python's generators are put back.

    Args:
        collate: Takes a list of ``(image, label)``.
        num_classes: Of the data.
        batch_sizes: Numbers of samples that it is going to be given, at least one.
        size: ``(height, width)`` of the images that it is going to be given.
        dtype: Of the images that it is going to be given.
        mean: Subtracted from them, where they are floats, per channel in units of the full range.
        std: They were divided by it afterwards.

    Raises:
        NoCounterpartError: No mix was found in it that does the same.
    """
    if collate is default_collate:
        return Collated()
    found = held(collate, _is_mix)
    most = max(2, MOST_NUMBERS // (3 * size[0] * size[1]))

    def samples(number: int, size: tuple[int, int]) -> Samples:
        levels = _levels(number, size)
        if dtype != torch.uint8:
            levels = levels / 255 - torch.tensor(mean).view(3, 1, 1)
            levels /= torch.tensor(std).view(3, 1, 1)
        return levels.to(dtype), [7 * index % num_classes for index in range(number)]

    real = samples(min(batch_sizes[0], most), size)
    trials = [samples(number, (TRIED_SIDE, TRIED_SIDE)) for number in batch_sizes]
    reason = ""
    for one in [*found, None]:
        try:
            channels_last = _check_same(collate, one, real, trials)
        except _DiffersError as error:
            reason = reason or str(error)
        else:
            return _collated(one, channels_last)
    raise NoCounterpartError(f"{reason}. {_WAY_OUT}." if reason else _why_not(found))


def _why_not(found: Sequence[Any]) -> str:
    names = [str(torchvision_name(one)) for one in found]
    if not names:
        return (
            "it does something else than default_collate, and holds no v2.CutMix, v2.MixUp or "
            "v2.RandomChoice of them. Make the mix once, outside of it, or pass `mix=`."
        )
    if len(names) == 1:
        return (
            f"it does something else than default_collate and the {names[0]} it holds. {_WAY_OUT}."
        )
    return (
        f"it does something else than default_collate and one of the {', '.join(names)} it holds. "
        "Choose among them by v2.RandomChoice, or pass `mix=`."
    )


def _collated(found: Any, channels_last: bool) -> Collated:
    if found is None:
        return Collated(channels_last=channels_last)
    numbers = {one.num_classes for one in _ends(found) if hasattr(one, "num_classes")}
    if len(numbers) != 1:
        raise NoCounterpartError(
            f"its mixes have several `num_classes`: {sorted(numbers, key=str)}."
        )
    mixing = [(weight, mix) for weight, mix in _weighted(found, 1.0) if weight > 0 and mix]
    if not mixing:
        return Collated(channels_last=channels_last)
    prob = sum(weight for weight, _ in mixing)
    always = prob > 1 - 1e-9
    # What leaves some batches alone is a mix of all with a probability.
    ours = [mix if always else replace(mix, prob=prob) for _, mix in mixing]
    shares = tuple(weight / prob for weight, _ in mixing)
    weights = None if max(shares) - min(shares) < 1e-9 else shares
    mix = ours[0] if len(ours) == 1 else RandomChoice(tuple(ours), weights)
    return Collated(mix, found, numbers.pop(), channels_last, always)


def _ends(found: Any) -> Iterator[Any]:
    """The mixes inside, ``Identity`` included."""
    for inner in getattr(found, "transforms", None) or []:
        yield from _ends(inner)
    if not hasattr(found, "transforms"):
        yield found


def _weighted(found: Any, weight: float) -> Iterator[tuple[float, Any]]:
    """Each mix inside with its probability; None for no mix."""
    name = torchvision_name(found)
    if name == "RandomChoice":
        for inner, share in zip(found.transforms, found.p, strict=True):
            yield from _weighted(inner, weight * share)
    elif name == "RandomApply":
        yield from _weighted(found.transforms[0], weight * found.p)
        yield weight * (1 - found.p), None
    elif name == "Identity":
        yield weight, None
    else:
        yield weight, (CutMix if name == "CutMix" else MixUp).torchvision(found.alpha)


def _is_mix(one: Any) -> bool:
    """Whether it is one of torchvision's mixes, or a choice among them."""
    name = torchvision_name(one)
    if name in ("RandomChoice", "RandomApply"):
        single = name == "RandomChoice" or len(one.transforms) == 1
        inside = list(one.transforms)
        any_mix = any(map(_is_mix, inside))
        return (
            single
            and any_mix
            and all(_is_mix(inner) or torchvision_name(inner) == "Identity" for inner in inside)
        )
    return name in ("CutMix", "MixUp")


def _levels(number: int, size: tuple[int, int]) -> torch.Tensor:
    """Images of all levels from 0 to 255, without two equal pixels nearby."""
    count = number * 3 * size[0] * size[1]
    levels = torch.arange(count, dtype=torch.int32).mul_(97).remainder_(256)
    return levels.reshape(number, 3, *size)


def _check_same(
    collate: Callable[..., Any], mix: Any, real: Samples, trials: Sequence[Samples]
) -> bool:
    """Whether its images are in ``channels_last`` order; _DiffersError where it is not that mix."""

    def wanted(samples: Any) -> Any:
        batch = default_collate(samples)
        return batch if mix is None else mix(*batch)

    orders = set()
    for number in range(NUM_TRIALS):
        samples = real if number == 0 else trials[number % len(trials)]
        made, meant = (_called(one, samples, number) for one in (collate, wanted))
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            raise _DiffersError(
                f"it yields {type(made).__name__} and no pair of images and targets"
            )
        if not all(map(are_equal, made, meant)):
            raise _DiffersError
        image = made[0]
        orders.add(not image.is_contiguous() and _is_channels_last(image))
    return orders == {True}


def _called(function: Callable[..., Any], samples: Samples, number: int) -> Any:
    images, labels = samples
    try:
        with generators_at(number):
            return function(list(zip(images.clone().unbind(), labels, strict=True)))
    except Exception as error:
        text = str(error).rstrip(".")
        raise _DiffersError(f"it fails on images as `transform` makes them: {text}") from error


def _is_channels_last(image: torch.Tensor) -> bool:
    return image.ndim == 4 and image.is_contiguous(memory_format=torch.channels_last)
