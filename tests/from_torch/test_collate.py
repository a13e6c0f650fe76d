"""A collate function becomes the mix that it holds, or is refused."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import FastCollateMixup
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import default_collate
from torchvision import transforms as v1
from torchvision.transforms import v2

from dali_cutmix import CutMix, DataLoader, MixUp, RandomChoice
from torch_loaders import (
    CROP,
    CUTMIX,
    FLOATS,
    MIXUP,
    SCALED,
    as_dict,
    choice,
    cifar,
    closure,
    cutmix,
    mixup,
    over,
    refusal,
    silently,
)


def mixed(batch: Any) -> Any:
    return cutmix(*default_collate(batch))


def mixed_by(batch: Any, by: Any) -> Any:
    image, label = default_collate(batch)
    return by(image, label)


def mixed_by_default(batch: Any, *, by: Any = mixup) -> Any:
    return mixed_by(batch, by)


class Collator:
    def __init__(self, mix: Any) -> None:
        self.settings = {"mix": mix}

    def __call__(self, batch: Any) -> Any:
        return self.settings["mix"](*default_collate(batch))

    def collate(self, batch: Any) -> Any:
        return self(batch)


class CollateModule(nn.Module):
    def __init__(self, mix: Any) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, batch: Any) -> Any:
        return self.mix(*default_collate(batch))


def stacked(batch: Any) -> Any:
    images, numbers = zip(*batch, strict=True)
    return torch.stack(images), torch.tensor(numbers)


def kept_in_channels_last(batch: Any) -> Any:
    image, target = mixed(batch)
    return image.contiguous(memory_format=torch.channels_last), target


def collated(root: Path, collate: Any, **settings: Any) -> DataLoader:
    return silently(over(root, [v2.Resize((16, 16)), *SCALED], collate_fn=collate), **settings)


@pytest.mark.parametrize(
    ("collate", "expected"),
    [
        (None, None),
        (default_collate, None),
        (stacked, None),
        (lambda batch: default_collate(batch), None),
        (mixed, CUTMIX),
        (mixed_by_default, MIXUP),
        (lambda batch: mixup(*default_collate(batch)), MIXUP),
        (lambda batch: mixed(batch), CUTMIX),
        (lambda batch, mix=cutmix: mix(*default_collate(batch)), CUTMIX),
        (partial(mixed_by, by=cutmix), CUTMIX),
        (closure(mixup), MIXUP),
        (Collator(cutmix), CUTMIX),
        (Collator(mixup).collate, MIXUP),
        (CollateModule(cutmix), CUTMIX),
        (closure(choice), RandomChoice((CUTMIX, MIXUP), (0.25, 0.75))),
        (closure(v2.RandomChoice([mixup, cutmix])), RandomChoice((MIXUP, CUTMIX))),
        (closure(v1.RandomChoice([mixup, cutmix])), RandomChoice((MIXUP, CUTMIX))),
        (closure(v2.RandomChoice([cutmix])), CUTMIX),
    ],
)
def test_mix_is_found_wherever_the_collate_function_holds_it(
    photo_folder: Path, collate: Any, expected: Any
) -> None:
    loader = collated(photo_folder, collate)
    assert loader.mix == expected
    assert not loader.channels_last
    assert loader.target == ("label" if expected is None else "dense")


def test_columns_of_the_target_are_the_mixes(photo_folder: Path) -> None:
    loader = collated(photo_folder, closure(v2.CutMix(alpha=0.5, num_classes=10)))
    assert loader.mix == CutMix.torchvision(0.5)
    assert next(iter(loader))[1].shape == (4, 10)


def test_memory_order_is_the_collate_functions(photo_folder: Path) -> None:
    loader = collated(photo_folder, kept_in_channels_last)
    assert loader.channels_last
    assert next(iter(loader))[0].is_contiguous(memory_format=torch.channels_last)


def test_comparison_leaves_random_states_as_they_were(photo_folder: Path) -> None:
    def shuffling(batch: Any) -> Any:
        random.shuffle(batch)
        np.random.rand()
        return mixed(batch)

    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    collated(photo_folder, mixed)
    with pytest.raises(ValueError, match="does something else than"):
        collated(photo_folder, shuffling)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def mostly_mixed(batch: Any) -> Any:
    return mixed(batch) if random.random() < 0.99 else default_collate(batch)


def chosen_by_python(batch: Any) -> Any:
    return random.choices([cutmix, mixup])[0](*default_collate(batch))


def mixed_anew(batch: Any) -> Any:
    return v2.CutMix(num_classes=3)(*default_collate(batch))


def in_half_precision(batch: Any) -> Any:
    image, target = mixed(batch)
    return image.half(), target


def in_double_precision(batch: Any) -> Any:
    image, target = mixed(batch)
    return image, target.double()


def with_other_labels(batch: Any) -> Any:
    image, target = mixed(batch)
    return image, target.roll(1, 0)


class Every:
    """A function that does another thing at every so manieth call."""

    def __init__(self, period: int) -> None:
        self.period, self.num_calls = period, 0

    def __call__(self, batch: Any) -> Any:
        self.num_calls += 1
        return mixed(batch) if self.num_calls % self.period else default_collate(batch)


def where_labels_differ(batch: Any) -> Any:
    image, label = default_collate(batch)
    return (image.flip(0), label) if len(set(label.tolist())) == 1 else (image, label)


def by_label(batch: Any) -> Any:
    return default_collate(sorted(batch, key=lambda sample: -sample[1]))


def without_black(batch: Any) -> Any:
    return default_collate([sample for sample in batch if sample[0].max() > 0] or batch[:1])


def without_copies(batch: Any) -> Any:
    image, label = default_collate(batch)
    return (image[:1], label[:1]) if (image == image[:1]).all() else (image, label)


def stretched(batch: Any) -> Any:
    image, label = default_collate(batch)
    return (image - image.amin()) / (image.amax() - image.amin()).clamp(min=1e-9), label


def in_pairs(batch: Any) -> Any:
    return default_collate(batch[: len(batch) // 2 * 2])


def full_only(batch: Any) -> Any:
    return default_collate(batch if len(batch) >= 4 else batch * 2)


WAY_OUT = "Pass `mix=`, or `mix=None` to mix nothing."
DOES_ELSE = f"the function does something else than default_collate and its CutMix. {WAY_OUT}"
INSIDE = (
    "the function's {} is inside a list or another transform. Hold the mix alone, or a "
    f"v2.RandomChoice of mixes, behind default_collate. {WAY_OUT}"
)
NO_MIX = (
    "the function does more than default_collate, and no v2.CutMix, v2.MixUp or v2.RandomChoice of "
    f"these was found in its closure, globals and attributes. {WAY_OUT}"
)


@pytest.mark.parametrize(
    ("collate", "reason"),
    [
        (mostly_mixed, DOES_ELSE),
        (in_half_precision, DOES_ELSE),
        (in_double_precision, DOES_ELSE),
        (with_other_labels, DOES_ELSE),
        (closure(v2.RandomApply([cutmix], 0.25)), INSIDE.format("CutMix")),
        (closure(v2.Compose([cutmix])), INSIDE.format("CutMix")),
        (
            closure(v2.RandomChoice([cutmix, v2.Identity(), mixup])),
            INSIDE.format("CutMix and MixUp"),
        ),
        (
            chosen_by_python,
            "the function holds CutMix and MixUp. Choose by a single v2.RandomChoice, or pass "
            "`mix=`.",
        ),
        (mixed_anew, NO_MIX),
        *(
            (function, NO_MIX)
            for function in (
                *(where_labels_differ, by_label, without_black, without_copies, stretched),
                full_only,
            )
        ),
        (in_pairs, f"a synthetic batch fails: list index out of range. {WAY_OUT}"),
        (as_dict, f"the batch is a dict, not (images, targets). {WAY_OUT}"),
        (
            closure(v2.CutMix(num_classes=2)),
            f"a synthetic batch fails: Class values must be smaller than num_classes. {WAY_OUT}",
        ),
        (
            closure(v2.RandomChoice([cutmix, v2.MixUp(num_classes=5)])),
            "`num_classes` must be equal in all mixes, got [3, 5].",
        ),
    ],
)
def test_collate_function_that_does_more_is_refused(
    photo_folder: Path, collate: Any, reason: str
) -> None:
    name = collate.__qualname__.rpartition(".")[2]
    file, line = Path(collate.__code__.co_filename).name, collate.__code__.co_firstlineno
    loader = over(photo_folder, [v2.Resize((16, 16)), *SCALED], collate_fn=collate)
    assert refusal(loader) == (
        "from_torch: cannot translate 1 of the loader's 8 parts:\n"
        f"  - `{name} ({file}:{line})` at collate_fn: {reason}"
    )
    assert silently(loader, mix=None).mix is None


def of_classes(targets: list[int]) -> Any:
    """Return a dataset of small images, without names of classes."""
    data = cifar(v2.Compose([v2.Resize((16, 16)), *SCALED]), (8, 8))
    data.data, data.targets = np.resize(data.data, (len(targets), 8, 8, 3)), targets
    del data.classes
    return data


@pytest.mark.parametrize(
    ("targets", "merged", "batch_size"),
    [
        *((list(range(10)) * 2, merged, 4) for merged in (2, 5, 9)),
        ([50, 51, 52] * 4, 51, 2),
        (list(range(1500)), 777, 8),
        (list(range(1500)), 777, 256),
    ],
)
def test_collate_function_that_merges_two_classes_is_refused(
    targets: list[int], merged: int, batch_size: int
) -> None:
    def merging(batch: Any) -> Any:
        image, label = default_collate(batch)
        return image, label.where(label != merged, targets[0])

    loader = TorchLoader(of_classes(targets), batch_size, collate_fn=merging)
    assert refusal(loader).endswith(f"at collate_fn: {NO_MIX}")


def test_collate_function_that_tells_pairs_of_labels_apart_is_refused() -> None:
    def by_pairs(batch: Any) -> Any:
        image, label = default_collate(batch)
        return image.flip(0) if len(set(label.tolist())) == 2 else image, label

    data = of_classes(list(range(10)))
    data.classes = list("abcdefghij")
    assert refusal(TorchLoader(data, 5, collate_fn=by_pairs)).endswith(f"at collate_fn: {NO_MIX}")


def test_source_at_a_path_has_the_classes_of_the_mix(photo_folder: Path) -> None:
    loader = TorchLoader(of_classes([0, 1]), 2, collate_fn=mixed)
    assert silently(loader, source=str(photo_folder)).num_classes == 3


@pytest.mark.parametrize("period", [3, 100, 10**6])
def test_collate_function_that_counts_its_calls_is_refused(photo_folder: Path, period: int) -> None:
    loader = over(photo_folder, [v2.Resize((16, 16)), *SCALED], collate_fn=Every(period))
    message = refusal(loader)
    counts = f"the function changes what it holds at each call. {WAY_OUT}"
    assert message.endswith(f"`Every` at collate_fn: {DOES_ELSE if period == 3 else counts}")


def test_collate_function_of_timm_is_refused_with_the_lines_that_do_the_same(
    photo_folder: Path,
) -> None:
    mixing = FastCollateMixup(0.8, 1.0, prob=0.9, switch_prob=0.25, num_classes=3)
    parts = [v2.Resize((16, 16)), v2.PILToTensor()]
    message = refusal(over(photo_folder, parts, collate_fn=mixing))
    assert message.endswith(
        "`FastCollateMixup` at collate_fn: the loader mixes, and the loss smooths labels. Pass "
        "`mix=RandomChoice((MixUp.timm(0.8, prob=0.9), CutMix.timm(1, prob=0.9)), (0.75, 0.25)), "
        "num_classes=3`, and take `mixed_cross_entropy(logits, target, label_smoothing=0.1)`."
    )
    mix = RandomChoice((MixUp.timm(0.8, prob=0.9), CutMix.timm(1, prob=0.9)), (0.75, 0.25))
    loader = silently(over(photo_folder, parts, collate_fn=mixing), mix=mix, num_classes=3)
    assert loader.mix == mix


@pytest.mark.parametrize("bounds", [(0, 1), (-2.2, 2.7), (-1, None), (None, 1)])
def test_synthetic_batch_has_the_range_of_the_transforms_images(
    photo_folder: Path, bounds: Any
) -> None:
    """From -2.12 to 2.64 with Normalize, from 0 to 1 without."""

    def clamped(batch: Any) -> Any:
        image, target = mixed(batch)
        return image.clamp(*bounds), target

    normalized = over(photo_folder, [v2.Resize((16, 16)), *FLOATS], collate_fn=clamped)
    if bounds == (-2.2, 2.7):
        assert silently(normalized).mix == CUTMIX
    else:
        assert DOES_ELSE in refusal(normalized)
    scaled = over(photo_folder, [v2.Resize((16, 16)), *SCALED], collate_fn=clamped)
    if bounds == (0, 1):
        assert silently(scaled).mix == CUTMIX


def test_mix_of_torchvision_is_refused_with_the_mix_to_pass_instead(photo_folder: Path) -> None:
    loader = over(photo_folder, [CROP, *SCALED])
    with pytest.raises(ValueError, match=r"Pass `dali_cutmix\.CutMix\.torchvision\(0\.5\)`"):
        silently(loader, mix=v2.CutMix(alpha=0.5, num_classes=3))
    with pytest.raises(ValueError, match=r"`DataLoader\.from_torch` translates"):
        silently(loader, mix=choice)
