"""The mix in a collate function: search the function, then compare batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.utils.data import default_collate

from dali_cutmix.from_torch.comparison import are_equal, call, held, remembers
from dali_cutmix.from_torch.report import NoCounterpartError, transform_name
from dali_cutmix.mixing.choice import RandomChoice
from dali_cutmix.mixing.cutmix import CutMix
from dali_cutmix.mixing.mix import Mix
from dali_cutmix.mixing.mixup import MixUp

_PRESETS: dict[str | None, Callable[[float], Mix]] = {
    "CutMix": CutMix.torchvision,
    "MixUp": MixUp.torchvision,
}
#: Makes samples of a batch of images.
Form = Callable[[torch.Tensor], list[Any]]

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
    collate: Callable[..., Any], batches: Iterable[tuple[torch.Tensor, list[int]]]
) -> Collated:
    """Read a ``collate_fn`` that is ``default_collate``, alone or with one mix behind.

    The function is called on each batch. Its result, and the random states behind the call, must be
    those of ``default_collate`` and the mix. Random states are put back.

    Args:
        collate: Takes a list of ``(image, label)``.
        batches: Synthetic batches, at least one: images ``[B, channels, height, width]`` of the
            transform's dtype and range, and ``B`` class indices.

    Raises:
        NoCounterpartError: The function does something else, or holds several mixes.
    """
    if type(collate).__module__ == "timm.data.mixup":
        raise NoCounterpartError(_lines_of_timm(collate))
    mixes = held(collate, _is_mix)
    if len(mixes) > 1:
        raise NoCounterpartError(
            f"the function holds {_names_of(mixes)}. Choose by a single v2.RandomChoice, or pass "
            "`mix=`."
        )
    in_channels_last: set[bool] = set()
    forms: Sequence[Form] = (_as_tensors, _as_pillow)
    for images, labels in batches:
        if images.dtype != torch.uint8:
            forms = (_as_tensors,)
        forms, image = _compared(collate, mixes, forms, images, labels)
        if image.numel() > 1:
            is_last = image.is_contiguous(memory_format=torch.channels_last)
            in_channels_last.add(is_last and not image.is_contiguous())
    samples = list(zip(forms[0](images), labels, strict=True))
    if remembers(collate, lambda: call(collate, samples)):
        raise NoCounterpartError(f"the function changes what it holds at each call. {_WAY_OUT}")
    if len(in_channels_last) > 1:
        raise NoCounterpartError(f"batches come in two memory orders. {_WAY_OUT}")
    channels_last = in_channels_last == {True}
    if not mixes:
        return Collated(None, None, None, channels_last)
    (mix,) = mixes
    num_classes = {end.num_classes for end in _ends(mix)}
    if len(num_classes) != 1:
        raise NoCounterpartError(
            f"`num_classes` must be equal in all mixes, got {sorted(num_classes, key=str)}."
        )
    return Collated(_translated(mix), mix, num_classes.pop(), channels_last)


def classes_of_mixes(collate: Callable[..., Any]) -> int | None:
    """Return how many classes the mixes in a ``collate_fn`` take; None without a mix."""
    ends = [end for mix in held(collate, _is_mix) for end in _ends(mix)]
    return min((end.num_classes for end in ends if end.num_classes), default=None)


def _as_tensors(images: torch.Tensor) -> list[Any]:
    return list(images.clone())


def _as_pillow(images: torch.Tensor) -> list[Any]:
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return [Image.fromarray(image) for image in pixels]


def _compared(
    collate: Callable[..., Any],
    mixes: Sequence[Any],
    forms: Sequence[Form],
    images: torch.Tensor,
    labels: list[int],
) -> tuple[Sequence[Form], torch.Tensor]:
    """Compare a batch with that of ``default_collate`` and the mix.

    Returns:
        The form of images that the function takes, and the images of its batch.

    Raises:
        NoCounterpartError: The batches differ, in each form.
    """

    def expected(samples: Any) -> Any:
        collated = default_collate(samples)
        return mixes[0](*collated) if mixes else collated

    def called(function: Callable[..., Any], samples: Sequence[Any]) -> Any:
        return call(function, list(zip(samples, labels, strict=True)))

    reasons = []
    for form in forms:
        try:
            batch, states = called(collate, form(images))
            expected_batch, expected_states = called(expected, _as_tensors(images))
        except Exception as error:  # whatever the user's code raises
            reasons.append(f"a synthetic batch fails: {str(error).rstrip('.')}. {_WAY_OUT}")
            continue
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = type(batch).__name__
            reasons.append(f"the batch is a {kind}, not (images, targets). {_WAY_OUT}")
        elif states == expected_states and all(map(are_equal, batch, expected_batch)):
            return [form], batch[0]
        elif mixes:
            other = "the function does something else than default_collate"
            reasons.append(f"{other} and its {_names_of(mixes)}. {_WAY_OUT}")
        else:
            reasons.append(f"{_why_no_mix(collate)} {_WAY_OUT}")
    raise NoCounterpartError(reasons[0])


def _why_no_mix(collate: Callable[..., Any]) -> str:
    """Return what speaks against a function that holds no mix that could be taken."""
    inside = held(collate, lambda part: transform_name(part) in _PRESETS, in_sequences=True)
    if inside:
        return (
            f"the function's {_names_of(inside)} is inside a list or another transform. Hold the "
            "mix alone, or a v2.RandomChoice of mixes, behind default_collate."
        )
    return (
        "the function does more than default_collate, and no v2.CutMix, v2.MixUp or "
        "v2.RandomChoice of these was found in its closure, globals and attributes."
    )


def _names_of(mixes: Sequence[Any]) -> str:
    return " and ".join(str(transform_name(mix)) for mix in mixes)


def _lines_of_timm(mixup: Any) -> str:
    """Return why timm's ``FastCollateMixup`` is refused, with the lines that do the same."""
    arguments = f", mode={mixup.mode!r}" if mixup.mode != "batch" else ""
    arguments += f", prob={mixup.mix_prob:g}" if mixup.mix_prob != 1 else ""
    minmax = f", minmax={tuple(mixup.cutmix_minmax)}" if mixup.cutmix_minmax else ""
    codes = []
    if mixup.mixup_alpha > 0:
        codes.append(f"MixUp.timm({mixup.mixup_alpha:g}{arguments})")
    if mixup.cutmix_alpha > 0:
        codes.append(f"CutMix.timm({mixup.cutmix_alpha:g}{arguments}{minmax})")
    code = codes[0] if codes else "None"
    if len(codes) == 2:
        chances = f"({1 - mixup.switch_prob:g}, {mixup.switch_prob:g})"
        code = f"RandomChoice(({', '.join(codes)}), {chances})"
    return (
        "the loader mixes, and the loss smooths labels. Pass `mix="
        f"{code}, num_classes={mixup.num_classes}`, and take `mixed_cross_entropy(logits, target, "
        f"label_smoothing={mixup.label_smoothing:g})`."
    )


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
