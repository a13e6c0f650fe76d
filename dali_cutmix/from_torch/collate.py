"""The mix in a collate function: search the function, then compare one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.utils.data import default_collate

from dali_cutmix.from_torch.comparison import are_equal, call, held
from dali_cutmix.from_torch.report import NoCounterpartError, transform_name
from dali_cutmix.mixing.choice import RandomChoice
from dali_cutmix.mixing.cutmix import CutMix
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.mixing.plan import Mix

_PRESETS: dict[str | None, Callable[[float], Mix]] = {
    "CutMix": CutMix.torchvision,
    "MixUp": MixUp.torchvision,
}
_WAY_OUT = "Pass `mix=`, or `mix=None` to mix nothing."


@dataclass(frozen=True)
class Collated:
    """The meaning of a ``collate_fn``.

    Attributes:
        mix: The mix behind ``default_collate``; None where nothing is mixed.
        torchvision_mix: torchvision's object that became ``mix``, or None.
        num_classes: Columns of the dense target; None without a mix.
        channels_last: Whether images come in the memory order of ``torch.channels_last``.
    """

    mix: Mix | None
    torchvision_mix: Any
    num_classes: int | None
    channels_last: bool


def translate_collate(
    collate: Callable[..., Any], images: torch.Tensor, labels: list[int]
) -> Collated:
    """Read a ``collate_fn`` that is ``default_collate``, alone or with one mix behind.

    The function is called once, on a synthetic batch. Its result, and the random states behind the
    call, must be those of ``default_collate`` and the mix. Random states are put back.

    Args:
        collate: Takes a list of ``(image, label)``.
        images: The synthetic batch: ``[B, 3, height, width]``, of the transform's dtype and range.
        labels: Class indices of the synthetic batch, ``B`` of them.

    Raises:
        NoCounterpartError: The function does something else, or holds several mixes.
    """
    mixes = held(collate, _is_mix)
    names = " and ".join(str(transform_name(mix)) for mix in mixes)
    if len(mixes) > 1:
        raise NoCounterpartError(
            f"the function holds {names}. Choose by a single v2.RandomChoice, or pass `mix=`."
        )
    mix: Any = mixes[0] if mixes else None

    def expected(samples: Any) -> Any:
        return default_collate(samples) if mix is None else mix(*default_collate(samples))

    def called(function: Callable[..., Any], samples: Sequence[Any]) -> Any:
        return call(function, list(zip(samples, labels, strict=True)))

    forms = [list(images.clone())]
    if images.dtype == torch.uint8:  # the function may take Pillow images
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        forms.append([Image.fromarray(image) for image in pixels])
    reasons = []
    for samples in forms:
        try:
            batch, states = called(collate, samples)
            expected_batch, expected_states = called(expected, list(images.clone()))
        except Exception as error:  # whatever the user's code raises
            reasons.append(f"a synthetic batch fails: {str(error).rstrip('.')}. {_WAY_OUT}")
            continue
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = type(batch).__name__
            reasons.append(f"the batch is a {kind}, not (images, targets). {_WAY_OUT}")
        elif states == expected_states and all(map(are_equal, batch, expected_batch)):
            break
        elif mixes:
            does_more = "the function does more than default_collate"
            reasons.append(f"{does_more} and its {names}. {_WAY_OUT}")
        else:
            reasons.append(
                "the function does more than default_collate, and no v2.CutMix, v2.MixUp or "
                "v2.RandomChoice of these was found in its closure, globals and attributes. "
                f"{_WAY_OUT}"
            )
    else:
        raise NoCounterpartError(reasons[0])
    image = batch[0]
    in_channels_last = image.is_contiguous(memory_format=torch.channels_last)
    channels_last = in_channels_last and not image.is_contiguous()
    if mix is None:
        return Collated(None, None, None, channels_last)
    num_classes = {end.num_classes for end in _ends(mix)}
    if len(num_classes) != 1:
        raise NoCounterpartError(
            f"`num_classes` must be equal in all mixes, got {sorted(num_classes, key=str)}."
        )
    return Collated(_translated(mix), mix, num_classes.pop(), channels_last)


def _ends(part: Any) -> list[Any]:
    return list(part.transforms) if transform_name(part) == "RandomChoice" else [part]


def _is_mix(part: Any) -> bool:
    names = [transform_name(end) for end in _ends(part)]
    return bool(names) and all(name in _PRESETS for name in names)


def _translated(part: Any) -> Mix:
    mixes = [_PRESETS[type(end).__name__](end.alpha) for end in _ends(part)]
    if len(mixes) == 1:
        return mixes[0]
    is_uniform = part.p is None or max(part.p) - min(part.p) < 1e-9
    return RandomChoice(tuple(mixes), None if is_uniform else tuple(part.p))
