"""Each part of a torch loader, as an argument of the loader or refused by its name and place."""

from __future__ import annotations

import random
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    IterableDataset,
    Subset,
    default_collate,
)
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    MixUp,
    RandomChoice,
    TrainTransform,
)
from dali_cutmix import augmentations as colours
from torch_loaders import (
    CROP,
    FLOATS,
    MEAN,
    PLAIN,
    RAW,
    SCALED,
    STD,
    as_dict,
    choice,
    cifar,
    closure,
    cutmix,
    mixup,
    over,
    refusal,
    silently,
    train,
)

# Each class of torchvision's, as arguments


def scaled(*before: Any) -> list[Any]:
    return [*before, CROP, *SCALED]


PRESET = ImageClassification(crop_size=32, resize_size=40)

FLOAT_IMAGES = {tv_tensors.Image: torch.float32, "others": None}

GEOMETRY = [
    ([CROP, *FLOATS], train(mean=MEAN, std=STD)),
    ([CROP, v1.ToTensor()], train()),
    ([CROP, v2.ToTensor()], train()),
    ([CROP, v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)], train()),
    ([CROP, v2.PILToTensor(), v2.ConvertImageDtype()], train()),
    ([v2.Compose([CROP]), nn.Sequential(v2.Identity(), nn.Identity()), *SCALED], train()),
    ([v2.RGB(), CROP, *SCALED, v2.ToPureTensor()], train()),
    (
        [*SCALED, v2.RandomResizedCrop((20, 30), (0.5, 1), (1, 2))],
        train(size=(20, 30), scale=(0.5, 1.0), ratio=(1.0, 2.0)),
    ),
    ([v2.RandomHorizontalFlip(), CROP, *SCALED], train(flip=0.5)),
    ([CROP, *FLOATS, v1.RandomHorizontalFlip(0.2)], train(flip=0.2, mean=MEAN, std=STD)),
    ([v2.RandomHorizontalFlip(), CROP, v2.RandomHorizontalFlip(0.1), *SCALED], train(flip=0.5)),
    ([v2.RandomApply([v2.RandomHorizontalFlip(0.5)], 0.5), CROP, *SCALED], train(flip=0.25)),
    ([CROP, v2.CenterCrop(32), v2.Resize(32), v2.RandomCrop(32), *SCALED], train()),
    ([v2.ToImage(), v2.ToPILImage(), CROP, *SCALED], train()),
    ([v2.Resize(40), v2.RandomCrop(32), *SCALED], train(resize=40, pad=0)),
    ([v2.RandomCrop(32, padding=4), *SCALED], train(pad=4)),
    ([v2.RandomCrop(32, pad_if_needed=True), *SCALED], train(pad=0)),
    ([v1.RandomCrop(32, padding=(4, 4)), *SCALED], train(pad=4)),
    ([v2.Resize((40, 50)), v2.RandomCrop(32), *SCALED], train(resize=(40, 50), pad=0)),
    (
        [v1.Resize((32, 32)), v1.RandomHorizontalFlip(), v1.ToTensor()],
        train(resize=(32, 32), pad=0, flip=0.5),
    ),
    ([v1.PILToTensor(), PRESET], EvalTransform(40, 32, mean=MEAN, std=STD)),
    ([v2.Pad(3), v2.RandomCrop(32, padding=[1]), *SCALED], train(pad=4)),
    ([v1.Resize(40), v1.CenterCrop((32, 24)), *SCALED], EvalTransform(40, (32, 24), **PLAIN)),
    ([v2.Resize([40]), v2.CenterCrop(32), *SCALED], EvalTransform(40, 32, **PLAIN)),
    ([v2.Resize((40, 50)), v2.CenterCrop(32), *SCALED], EvalTransform((40, 50), 32, **PLAIN)),
    ([v2.Resize((40, 50), interpolation=2), *SCALED], EvalTransform((40, 50), (40, 50), **PLAIN)),
    ([v2.Resize(40, antialias=False), v2.CenterCrop(32), *SCALED], EvalTransform(40, 32, **PLAIN)),
]


@pytest.mark.parametrize(("parts", "expected"), GEOMETRY)
def test_crops_and_numbers_become_arguments(
    photo_folder: Path, parts: list[Any], expected: TrainTransform | EvalTransform
) -> None:
    assert silently(over(photo_folder, parts)).transform == expected


def test_images_of_a_known_size_are_taken_whole() -> None:
    def of(parts: list[Any], size: tuple[int, int] = (32, 32)) -> Any:
        return silently(TorchLoader(cifar(v2.Compose(parts), size), batch_size=2)).transform

    assert of(SCALED) == EvalTransform((32, 32), 32, **PLAIN)
    assert of([v2.CenterCrop(24), *SCALED]) == EvalTransform((32, 32), 24, **PLAIN)
    assert of([v2.Resize(32), *SCALED]) == EvalTransform((32, 32), 32, **PLAIN)
    assert of([v2.Resize(224), *SCALED]) == EvalTransform(224, 224, **PLAIN)
    assert of([v2.Resize(20), *SCALED], (24, 43)) == EvalTransform((20, 35), (20, 35), **PLAIN)
    flips = v2.RandomHorizontalFlip()
    assert of([flips, *SCALED]) == train(pad=0, flip=0.5)
    assert of([v2.Resize((64, 64)), flips, *SCALED]) == train(
        size=64, pad=0, resize=(64, 64), flip=0.5
    )
    assert of([v2.RandomCrop(30, pad_if_needed=True), *SCALED]) == train(size=30, pad=0)


POLICIES = [
    (
        v2.ColorJitter(0.4, (0.5, 1.2), 0, 0.1),
        colours.ColorJitter((0.6, 1.4), (0.5, 1.2), 0, (-0.1, 0.1)),
    ),
    (v1.ColorJitter(saturation=0.3), colours.ColorJitter(saturation=(0.7, 1.3))),
    (v2.RandomGrayscale(0.2), colours.Grayscale(0.2)),
    (v1.Grayscale(3), colours.Grayscale(1.0)),
    (v2.RandomApply([v2.Grayscale(3)], 0.3), colours.Grayscale(0.3)),
    (v2.TrivialAugmentWide(), colours.TrivialAugment()),
    (v1.TrivialAugmentWide(num_magnitude_bins=11, fill=[0, 0, 0]), colours.TrivialAugment(11)),
    (v2.RandAugment(3, 7, 10), colours.RandAugment(3, 7, 10)),
    (v1.RandAugment(), colours.RandAugment()),
    (v2.AutoAugment(), colours.AutoAugment()),
    (v1.AutoAugment(v1.AutoAugmentPolicy.CIFAR10), colours.AutoAugment("cifar10")),
    (v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, fill=0), colours.AutoAugment("svhn")),
    (v2.RandAugment(0), colours.RandAugment(0)),
    (
        v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
        colours.TrivialAugment(interpolation="bilinear"),
    ),
    (
        v1.RandAugment(interpolation=v1.InterpolationMode.BILINEAR),
        colours.RandAugment(interpolation="bilinear"),
    ),
    (v2.RandAugment(1, interpolation=2), colours.RandAugment(1, interpolation="bilinear")),
    (
        v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, interpolation="bilinear"),
        colours.AutoAugment("svhn", interpolation="bilinear"),
    ),
    (
        v2.RandomErasing(0.1, (0.1, 0.2), (0.5, 2)),
        colours.RandomErasing(0.1, (0.1, 0.2), (0.5, 2), (0, 0, 0)),
    ),
]


@pytest.mark.parametrize(("part", "expected"), POLICIES, ids=lambda one: type(one).__name__)
def test_colours_and_policies_become_augmentations(
    photo_folder: Path, part: Any, expected: Any
) -> None:
    loader = silently(over(photo_folder, [CROP, part, *SCALED]))
    assert loader.transform == train(expected)
    assert next(iter(loader))[0].shape == (4, 3, 32, 32)


def test_augmentations_keep_their_order(photo_folder: Path) -> None:
    """What commutes with the crop may stand before it; flips behind all that shears nothing."""
    gray, jitter = v2.RandomGrayscale(0.2), v2.ColorJitter(0.5)
    parts = [gray, CROP, jitter, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(), *FLOATS]
    ours = silently(over(photo_folder, parts)).transform
    expected = (colours.Grayscale(0.2), colours.ColorJitter((0.5, 1.5)), colours.TrivialAugment())
    assert ours == train(*expected, flip=0.5, mean=MEAN, std=STD)
    assert silently(over(photo_folder, [CROP, v2.ColorJitter(), *SCALED])).transform == train()


@pytest.mark.parametrize(
    ("before", "value", "levels"),
    [
        (FLOATS, 0, (124, 116, 104)),
        (FLOATS, (1, -1, 0.5), (182, 59, 132)),
        (SCALED, 0.2, (51, 51, 51)),
        (RAW, (3, 2, 1), (3, 2, 1)),
    ],
)
def test_erased_pixels_have_the_colour_that_torchvisions_have(
    photo_folder: Path, before: list[Any], value: Any, levels: tuple[int, ...]
) -> None:
    erase = v2.RandomErasing(1.0, (0.3, 0.3), (1, 1), value)
    theirs = over(photo_folder, [CROP, *before, erase])
    ours = silently(theirs)
    (augmentation,) = ours.transform.augment
    assert augmentation.value == levels

    def colour(loader: Any) -> torch.Tensor:
        """The commonest number of each channel."""
        pixels = next(iter(loader))[0].permute(1, 0, 2, 3).flatten(1)
        return pixels.double().mode(dim=1).values

    tolerance = 0.51 / 255 / min(STD) if before is FLOATS else 1e-6
    assert (colour(ours) - colour(theirs)).abs().max() < tolerance


@pytest.mark.parametrize(
    ("parts", "mean", "std", "dtype"),
    [
        ([*SCALED, v2.Normalize([0.5], [0.25])], (0.5,) * 3, (0.25,) * 3, torch.float32),
        (
            [*RAW, v2.ToDtype(torch.float32), v2.Normalize([127.5, 51, 0], [255, 51, 25.5])],
            (0.5, 0.2, 0.0),
            (1.0, 0.2, 0.1),
            torch.float32,
        ),
        (
            [*SCALED, v2.Normalize([0.5], [0.5]), v2.Normalize([1], [2])],
            (1.0,) * 3,
            (1.0,) * 3,
            torch.float32,
        ),
        ([*FLOATS, v2.ToDtype(torch.float16)], MEAN, STD, torch.float16),
        ([*FLOATS, v2.ConvertImageDtype(torch.float16)], MEAN, STD, torch.float16),
        ([*RAW, v2.ConvertImageDtype(torch.float16)], (0.0,) * 3, (1.0,) * 3, torch.float16),
        ([*RAW, v2.ToDtype(FLOAT_IMAGES, True)], (0.0,) * 3, (1.0,) * 3, torch.float32),
        (
            [v2.ToPILImage(), v2.ToPureTensor(), v2.ToTensor()],
            (0.0,) * 3,
            (1.0,) * 3,
            torch.float32,
        ),
        ([v2.PILToTensor(), v2.ToDtype(FLOAT_IMAGES, True)], (0.0,) * 3, (1.0,) * 3, torch.float32),
        ([*RAW, v2.ToPureTensor(), v2.ToDtype(FLOAT_IMAGES, True)], None, None, torch.uint8),
        ([*RAW, v2.ToDtype({"others": None, torch.Tensor: torch.uint8})], None, None, torch.uint8),
    ],
)
def test_numbers_mean_what_they_meant(
    photo_folder: Path, parts: list[Any], mean: Any, std: Any, dtype: torch.dtype
) -> None:
    theirs = over(photo_folder, [*RAW, v2.Resize((40, 40)), *parts])
    ours = silently(theirs)
    image, expected = next(iter(ours))[0], next(iter(theirs))[0]
    assert image.dtype == expected.dtype == dtype
    if mean is not None:
        assert ours.transform.mean == pytest.approx(mean)
        assert ours.transform.std == pytest.approx(std)
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.uint8: 0}[dtype]
    largest = expected.double().abs().max().item()
    assert (image.double() - expected.double()).abs().max() <= tolerance * largest


# Collate functions


def mixed(batch: Any) -> Any:
    return cutmix(*default_collate(batch))


def mixed_by(batch: Any, *, by: Any = mixup) -> Any:
    image, label = default_collate(batch)
    return by(image, label)


class Collator:
    def __init__(self, mix: Any) -> None:
        self.settings = {"mix": mix}

    def __call__(self, batch: Any) -> Any:
        return self.settings["mix"](*default_collate(batch))

    def collate(self, batch: Any) -> Any:
        return self(batch)


def stacked(batch: Any) -> Any:
    images, numbers = zip(*batch, strict=True)
    return torch.stack(images), torch.tensor(numbers)


def kept_in_channels_last(batch: Any) -> Any:
    image, target = mixed(batch)
    return image.contiguous(memory_format=torch.channels_last), target


def collated(root: Path, collate: Any, **settings: Any) -> DataLoader:
    return silently(over(root, [v2.Resize((16, 16)), *SCALED], collate_fn=collate), **settings)


TV_CUTMIX, TV_MIXUP = CutMix.torchvision(), MixUp.torchvision(0.2)


@pytest.mark.parametrize(
    ("collate", "expected"),
    [
        (None, None),
        (default_collate, None),
        (stacked, None),
        (lambda batch: default_collate(batch), None),
        (mixed, TV_CUTMIX),
        (mixed_by, TV_MIXUP),
        (lambda batch: mixup(*default_collate(batch)), TV_MIXUP),
        (lambda batch, mix=cutmix: mix(*default_collate(batch)), TV_CUTMIX),
        (partial(mixed_by, by=cutmix), TV_CUTMIX),
        (closure(mixup), TV_MIXUP),
        (Collator(cutmix), TV_CUTMIX),
        (Collator(mixup).collate, TV_MIXUP),
        (closure(choice), RandomChoice((TV_CUTMIX, TV_MIXUP), (0.25, 0.75))),
        (closure(v2.RandomChoice([cutmix])), TV_CUTMIX),
        (closure(v2.RandomApply([cutmix], 0.0)), None),
        (closure(v2.RandomApply([cutmix], 0.25)), CutMix(prob=0.25, per="batch", partner="roll")),
        (
            closure(v2.RandomChoice([cutmix, v2.Identity(), mixup], p=[1, 2, 1])),
            RandomChoice(
                (
                    CutMix(prob=0.5, per="batch", partner="roll"),
                    MixUp(alpha=0.2, prob=0.5, per="batch", partner="roll"),
                )
            ),
        ),
    ],
)
def test_mix_is_found_wherever_the_collate_function_holds_it(
    photo_folder: Path, collate: Any, expected: Any
) -> None:
    ours = collated(photo_folder, collate)
    assert ours.mix == expected
    assert not ours.channels_last
    assert next(iter(ours))[1].shape == ((4,) if expected is None else (4, 3))


def test_columns_of_the_target_are_the_mixes(photo_folder: Path) -> None:
    ours = collated(photo_folder, closure(v2.CutMix(alpha=0.5, num_classes=10)))
    assert ours.mix == CutMix.torchvision(0.5)
    assert next(iter(ours))[1].shape == (4, 10)


def test_memory_order_is_the_collate_functions(photo_folder: Path) -> None:
    ours = collated(photo_folder, kept_in_channels_last)
    assert ours.channels_last
    assert next(iter(ours))[0].is_contiguous(memory_format=torch.channels_last)


def test_trying_a_collate_function_leaves_generators_as_they_were(photo_folder: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    def shuffling(batch: Any) -> Any:
        random.shuffle(batch)
        np.random.rand()
        return mixed(batch)

    collated(photo_folder, mixed)
    with pytest.raises(ValueError, match="and the CutMix it holds"):
        collated(photo_folder, shuffling)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def now_and_then(batch: Any) -> Any:
    return mixed(batch) if random.random() < 0.9 else default_collate(batch)


def of_whole_batches(batch: Any) -> Any:
    return mixed(batch) if len(batch) == 4 else default_collate(batch)


def one_of_two(batch: Any) -> Any:
    return random.choice([cutmix, mixup])(*default_collate(batch))


def made_anew(batch: Any) -> Any:
    return v2.CutMix(num_classes=3)(*default_collate(batch))


def halved(batch: Any) -> Any:
    image, target = mixed(batch)
    return image.half(), target


def doubled(batch: Any) -> Any:
    image, target = mixed(batch)
    return image, target.double()


HOLDS_ONE = (
    "it does something else than default_collate and the CutMix it holds. Pass `mix=`, or "
    "`mix=None` for none."
)


@pytest.mark.parametrize(
    ("collate", "why"),
    [
        (now_and_then, HOLDS_ONE),
        (of_whole_batches, HOLDS_ONE),
        (halved, HOLDS_ONE),
        (doubled, HOLDS_ONE),
        (
            one_of_two,
            "it does something else than default_collate and one of the CutMix, MixUp it holds. "
            "Choose among them by v2.RandomChoice, or pass `mix=`.",
        ),
        (
            made_anew,
            "it does something else than default_collate, and holds no v2.CutMix, v2.MixUp or "
            "v2.RandomChoice of them. Make the mix once, outside of it, or pass `mix=`.",
        ),
        (
            as_dict,
            "it yields dict and no pair of images and targets. Pass `mix=`, or `mix=None` for "
            "none.",
        ),
        (
            closure(v2.CutMix(num_classes=2)),
            "it fails on images as `transform` makes them: Class values must be smaller than "
            "num_classes. Pass `mix=`, or `mix=None` for none.",
        ),
    ],
)
def test_collate_function_that_does_more_is_refused(
    photo_folder: Path, collate: Any, why: str
) -> None:
    name = collate.__qualname__.rpartition(".")[2]
    file, line = Path(collate.__code__.co_filename).name, collate.__code__.co_firstlineno
    with pytest.raises(ValueError, match="from_torch: cannot translate") as refused:
        collated(photo_folder, collate)
    assert str(refused.value) == (
        "from_torch: cannot translate 1 of the loader's 8 parts:\n"
        f"  - `{name} ({file}:{line})` at collate_fn: {why}"
    )
    assert collated(photo_folder, collate, mix=None).mix is None


# Refused, by class and place


NO_OPERATOR = "the graph has no such operator. Leave it out, or pass `transform=`."
UNSEEN = (
    "what a function does cannot be seen. Leave it out if it converts to RGB, as the graph does; "
    "else pass `transform=`."
)
ONE_CUT = (
    "the graph resizes and cuts an image once, and it was cut before. Leave one of the two out."
)
LEVELS_ONLY = (
    "the graph changes colours of uint8 levels. Move it before ToTensor, ToDtype and Normalize."
)
NOT_BEFORE = (
    "it comes after ColorJitter at transform[0]; the graph crops and resizes first, which gives "
    "other images. Move ColorJitter behind it."
)


def test_all_that_cannot_be_translated_is_named_at_once(photo_folder: Path) -> None:
    parts = [
        v2.GaussianBlur(3),
        v2.Compose([v2.Lambda(str), CROP]),
        nn.Sequential(v2.RandomVerticalFlip(), v2.Identity()),
        *SCALED,
    ]
    loader = over(photo_folder, parts, collate_fn=as_dict)
    loader.dataset.target_transform = str
    assert refusal(loader) == (
        "from_torch: cannot translate 5 of the loader's 13 parts:\n"
        "  - `str` at dataset.target_transform: labels are taken as stored. Leave it out, and pass "
        "`source=` a list of (path, class).\n"
        f"  - `GaussianBlur` at transform[0]: {NO_OPERATOR}\n"
        f"  - `Lambda` at transform[1].transforms[0]: {UNSEEN}\n"
        f"  - `RandomVerticalFlip` at transform[2][0]: {NO_OPERATOR}\n"
        f"  - `as_dict (torch_loaders.py:{as_dict.__code__.co_firstlineno})` at collate_fn: it "
        "yields dict and no pair of images and targets. Pass `mix=`, or `mix=None` for none."
    )


@pytest.mark.parametrize("bounds", [(0, 1), (-2.2, 2.7), (-1, None), (None, 1)])
def test_collate_function_is_tried_on_images_as_the_transform_makes_them(
    photo_folder: Path, bounds: Any
) -> None:
    """Normalised, they are from -2.12 to 2.64."""

    def clamped(batch: Any) -> Any:
        image, target = mixed(batch)
        return image.clamp(*bounds), target

    theirs = over(photo_folder, [v2.Resize((16, 16)), *FLOATS], collate_fn=clamped)
    if bounds == (-2.2, 2.7):
        assert silently(theirs).mix == TV_CUTMIX
    else:
        assert HOLDS_ONE in refusal(theirs)
    plain = over(photo_folder, [v2.Resize((16, 16)), *SCALED], collate_fn=clamped)
    if bounds == (0, 1):
        assert silently(plain).mix == TV_CUTMIX


def test_collate_function_is_tried_with_as_many_samples_as_batches_have(photo_folder: Path) -> None:
    """Also where a batch sampler of the user's does not say how many."""

    class Batches:
        def __iter__(self) -> Any:
            return iter([[0, 1, 2, 3, 4, 5]] * 3)

    def of_six(batch: Any) -> Any:
        return mixed(batch) if len(batch) == 6 else default_collate(batch)

    data = ImageFolder(str(photo_folder), v2.Compose([v2.Resize((16, 16)), *SCALED]))
    ours = silently(TorchLoader(data, batch_sampler=Batches(), collate_fn=of_six))
    assert (ours.mix, ours.batch_size) == (TV_CUTMIX, 6)


def test_only_the_cause_of_a_refusal_is_named(photo_folder: Path) -> None:
    """What makes no tensor here may be what the own class is for."""
    parts = [CROP, Own(), v2.Normalize(MEAN, STD), v2.GaussianBlur(3)]
    message = refusal(over(photo_folder, parts))
    assert message.splitlines() == [
        "from_torch: cannot translate 2 of the loader's 9 parts:",
        "  - `Own` at transform[1]: it is no transform of torchvision's, and the graph runs no "
        "other code. Pass `transform=`.",
        f"  - `GaussianBlur` at transform[3]: {NO_OPERATOR}",
    ]
    parts = [CROP, v2.GaussianBlur(3), v2.Normalize(MEAN, STD)]
    assert "it takes floats. Put ToTensor" in refusal(over(photo_folder, parts))


def test_mix_of_torchvisions_is_refused_with_ours(photo_folder: Path) -> None:
    theirs = over(photo_folder, [CROP, *SCALED])
    rule = "DataLoader: `mix` must be a CutMix, MixUp, Cutout or RandomChoice of dali_cutmix, got "
    for mix, rest in [
        (
            v2.CutMix(alpha=0.5, num_classes=3),
            '"torchvision\'s CutMix". Pass `dali_cutmix.CutMix.torchvision(0.5)`, which does the '
            "same.",
        ),
        (
            choice,
            '"torchvision\'s RandomChoice". `DataLoader.from_torch` translates a loader that has '
            "it.",
        ),
    ]:
        with pytest.raises(ValueError, match="`mix` must be") as refused:
            silently(theirs, mix=mix)
        assert str(refused.value) == rule + rest


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [((0.08, 1), (3 / 4, 4 / 3)), ((0.9, 1), (3 / 4, 4 / 3)), ((0.5, 1), (1, 1))],
)
def test_report_says_how_many_images_random_resized_crop_finds_no_crop_in(
    photo_folder: Path, scale: Any, ratio: Any
) -> None:
    said: list[str] = []
    theirs = over(photo_folder, [v2.RandomResizedCrop(32, scale, ratio), *SCALED])
    DataLoader.from_torch(theirs, report=said.append)
    (note,) = [one for one in said if "ten draws" in one]
    start = (
        "  * An image in which ten draws find no crop is cut at a random place, where torchvision "
        "cuts its centre"
    )
    assert note.startswith(start + ("." if scale[0] < 0.1 else "; so are "))
    shares = {name: int(share) / 100 for share, name in re.findall(r"(\d+)% of (\d+:\d+)", note)}
    torch.manual_seed(0)
    for name in ("1:1", "4:3", "3:2", "16:9", "3:4", "2:3"):
        width, height = (300 * int(side) for side in name.split(":"))
        image = [torch.empty(3, height, width)]
        # torchvision's own draws; five times the image's area fits nowhere.
        centre = v2.RandomResizedCrop(32, (5, 5), ratio).make_params(image)
        crop = v2.RandomResizedCrop(32, scale, ratio)
        found = np.mean([crop.make_params(image) == centre for _ in range(500)])
        # A standard error is at most 0.022; what is below 5 % is left out.
        assert abs(shares.get(name, 0.025) - found) < 0.03 + 4 * 0.022, name


def test_refusal_reads_no_image(tmp_path: Path, photo_folder: Path) -> None:
    root = shutil.copytree(photo_folder, tmp_path / "gone")
    loader = over(root, [v2.GaussianBlur(3), CROP, *SCALED], collate_fn=as_dict)
    shutil.rmtree(root)
    assert f"`GaussianBlur` at transform[0]: {NO_OPERATOR}" in refusal(loader)


class Own(nn.Module):
    def forward(self, image: Any) -> Any:
        return image


class Darker(v2.ColorJitter):
    pass


def brighter(image: Any) -> Any:
    return image


REFUSED = [
    (
        0,
        [Own()],
        "it is no transform of torchvision's, and the graph runs no other code. Pass `transform=`.",
    ),
    (
        0,
        [Darker()],
        "it is no transform of torchvision's, and the graph runs no other code. Pass `transform=`.",
    ),
    (0, [brighter], UNSEEN),
    (0, [v2.RandomChoice([CROP, v2.Resize(3)])], NO_OPERATOR),
    (0, [v2.AugMix()], NO_OPERATOR),
    (
        0,
        [v2.RandomApply([v2.RandomHorizontalFlip(), v2.Identity()])],
        "the graph draws for each operator alone. Apply them one by one.",
    ),
    (
        0,
        [v2.RandomApply([v2.ColorJitter(0.1)])],
        "the graph applies it to all images. Take it out of RandomApply.",
    ),
    (0, [v2.RandomApply([CROP])], NO_OPERATOR),
    (
        0,
        [v2.RandomResizedCrop(32, interpolation=v2.InterpolationMode.BICUBIC)],
        "the graph resizes bilinearly, got interpolation='bicubic'.",
    ),
    (
        0,
        [v2.Resize(32, interpolation=0)],
        "the graph resizes bilinearly, got interpolation='nearest'.",
    ),
    (
        1,
        [v2.ToImage(), v2.RandomResizedCrop(32, antialias=False)],
        "the graph resizes with antialiasing. Pass `antialias=True`, or resize before the "
        "image becomes a tensor.",
    ),
    (
        0,
        [v2.Resize(32, max_size=50)],
        "the graph has no `max_size`. Use Resize(side) or Resize((h, w)).",
    ),
    (
        0,
        [v2.Resize(None, max_size=50)],
        "the graph has no `max_size`. Use Resize(side) or Resize((h, w)).",
    ),
    (
        1,
        [v2.Resize(64), CROP],
        "a random resized crop is cut from the stored image, and the list resizes or pads it "
        "before. Leave that out; the crop's share of the image stays the same.",
    ),
    (1, [CROP, v2.Resize(64)], ONE_CUT),
    (1, [CROP, v2.CenterCrop(24)], ONE_CUT),
    (1, [CROP, v2.RandomCrop(24)], ONE_CUT),
    (
        1,
        [CROP, v2.RandomCrop(32, padding=4)],
        "the graph pads before it cuts. Move it before the crop.",
    ),
    (1, [CROP, v2.Pad(4)], "the graph pads before it cuts. Move it before the crop."),
    (
        1,
        [v2.Resize(64), v2.Resize(32)],
        "the graph resizes an image once, before it pads. Leave it out.",
    ),
    (
        1,
        [v2.Pad(64), v2.CenterCrop(32)],
        "the graph pads for random crops only. Use RandomCrop, or no Pad.",
    ),
    (0, [v2.Pad((1, 2))], "the graph pads all sides alike, got padding=[1, 2]."),
    (
        0,
        [v2.Pad(1, fill=255)],
        "the graph pads with black only, got padding_mode='constant', fill=255.",
    ),
    (
        0,
        [v2.RandomCrop(32, 4, padding_mode="reflect")],
        "the graph pads with black only, got padding_mode='reflect', fill=0.",
    ),
    (
        3,
        [*FLOATS, v2.RandomCrop(32, padding=4)],
        "what it pads with after Normalize is not black. Move it before.",
    ),
    (
        2,
        [CROP, v2.RandAugment(), v2.RandomHorizontalFlip()],
        "it comes after RandAugment at transform[1]; the graph flips first, which gives other "
        "images where RandAugment shears. Move it before RandAugment.",
    ),
    (1, [v2.ColorJitter(0.1), CROP], NOT_BEFORE),
    (1, [v2.ColorJitter(0.1), v2.Resize(32)], NOT_BEFORE),
    (1, [v2.ColorJitter(0.1), v2.CenterCrop(32)], NOT_BEFORE),
    (1, [v2.ColorJitter(0.1), v2.RandomCrop(32)], NOT_BEFORE),
    (1, [v2.ColorJitter(0.1), v2.Pad(2)], NOT_BEFORE),
    (3, [*FLOATS, v2.ColorJitter(0.1)], LEVELS_ONLY),
    (2, [*SCALED, v2.TrivialAugmentWide()], LEVELS_ONLY),
    (0, [v2.Grayscale()], "images have three channels. Pass `num_output_channels=3`."),
    (0, [v2.RandAugment(fill=128)], "the graph fills with black, got fill=128."),
    (
        0,
        [v1.AutoAugment(interpolation=v1.InterpolationMode.BICUBIC)],
        "the graph turns and shears to the nearest pixel or bilinearly, got "
        "interpolation='bicubic'. Pass `interpolation=InterpolationMode.BILINEAR`.",
    ),
    (
        2,
        [*SCALED, v2.RandomErasing(value="random")],
        "the graph erases with one colour. Pass `value=0`.",
    ),
    (
        2,
        [*SCALED, v2.RandomErasing(value=2)],
        "no colour of the graph becomes [2.0] here. Pass `value=0`.",
    ),
    (0, [v2.ToPILImage("L")], "the graph makes RGB images, got mode='L'."),
    (3, [*FLOATS, v2.ToPILImage()], "its pixels are not in [0, 1]. Move it before Normalize."),
    (
        1,
        [v2.ToImage(), v2.ToDtype(torch.float64, scale=True)],
        "the graph makes no torch.float64. Use torch.float32.",
    ),
    (
        2,
        [*SCALED, v2.ToDtype(torch.uint8)],
        "it cuts numbers off to whole ones. Pass `scale=True`.",
    ),
    (
        1,
        [v2.ToImage(), v2.Normalize(MEAN, STD)],
        "it takes floats. Put ToTensor, or ToDtype, before it.",
    ),
    (2, [*SCALED, v2.Normalize([0.1, 0.2], [1, 1])], "images have three channels, got 2 numbers."),
    (
        0,
        [v2.RandomResizedCrop(32, (0, 1))],
        "TrainTransform: `scale` must start above 0, got (0.0, 1.0).",
    ),
    (
        1,
        [v2.Resize(20), v2.CenterCrop(32)],
        "EvalTransform: `resize` must be at least size=32, got 20. `resize=32` takes the "
        "whole short side.",
    ),
]


@pytest.mark.parametrize(
    ("place", "parts", "why"),
    REFUSED,
    ids=[f"{type(p[n]).__name__}{i}" for i, (n, p, _) in enumerate(REFUSED)],
)
def test_part_without_a_counterpart_is_refused_by_its_place(
    photo_folder: Path, place: int, parts: list[Any], why: str
) -> None:
    message = refusal(over(photo_folder, [*parts, *SCALED]))
    name = "brighter" if parts == [brighter] else type(parts[place]).__name__
    whole = "TrainTransform:" in why or "EvalTransform:" in why
    lines = message.splitlines()
    assert lines[0].startswith("from_torch: cannot translate 1 of the loader's ")
    if whole:
        assert lines[1] == f"  - `Compose` at transform: {why}"
    else:
        assert lines[1].startswith(f"  - `{name}")
        assert lines[1].endswith(f"` at transform[{place}]: {why}" if name != "brighter" else why)
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (
            SCALED,
            "images of several sizes stay so, of which no batch can be made. Add "
            "RandomResizedCrop, or Resize and CenterCrop.",
        ),
        (
            [v2.Resize(40), *SCALED],
            "images of several sizes stay so, of which no batch can be made. Add "
            "RandomResizedCrop, or Resize and CenterCrop.",
        ),
        (
            [v2.CenterCrop(40), *SCALED],
            "CenterCrop of images whose sizes are not known before they are read. Add Resize "
            "before it.",
        ),
        (
            [v2.Resize(40), v2.CenterCrop(32), v2.RandomHorizontalFlip(), *SCALED],
            "CenterCrop with flips has no counterpart: the graph cuts centres out for evaluation "
            "only, without flips. Use RandomCrop or RandomResizedCrop instead of CenterCrop, or "
            "pass `transform=`.",
        ),
        (
            [v2.Resize(40), v2.CenterCrop(32), v2.ColorJitter(0.1), *SCALED],
            "CenterCrop with colours has no counterpart: the graph cuts centres out for evaluation "
            "only, without colours. Use RandomCrop or RandomResizedCrop instead of CenterCrop, or "
            "pass `transform=`.",
        ),
        (
            [v2.Pad(4), v2.RandomHorizontalFlip(), *SCALED],
            "Pad without RandomCrop: the graph pads for random crops only.",
        ),
        ([CROP], "images stay Pillow's, of which torch makes no batch. End with ToTensor."),
        (None, "images stay Pillow's, of which torch makes no batch. End with ToTensor."),
    ],
)
def test_list_without_a_counterpart_is_refused_as_a_whole(
    photo_folder: Path, parts: Any, why: str
) -> None:
    name = "Compose" if parts else "None"
    message = refusal(over(photo_folder, parts))
    assert message.splitlines()[1:] == [f"  - `{name}` at transform: {why}"]


class Weighed(ImageFolder):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)


class Halved(ImageFolder):
    def __len__(self) -> int:
        return super().__len__() // 2


class Several(DatasetFolder):
    def __getitems__(self, indices: list[int]) -> Any:
        return [self[0] for _ in indices]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class Twice(TorchLoader[Any]):
    def __iter__(self) -> Any:
        yield from super().__iter__()


def opened(path: str) -> Any:
    return Image.open(path)


def test_data_that_the_graph_cannot_read_is_refused(photo_folder: Path) -> None:
    root, transform = str(photo_folder), v2.Compose([CROP, *SCALED])
    kinds = (
        "only ImageFolder, DatasetFolder, CIFAR10, CIFAR100 and Subsets of them can be translated. "
        "Pass `source=`, such as a folder or a list of (path, class)."
    )
    plain = ImageFolder(root, transform)
    line = opened.__code__.co_firstlineno
    for dataset, place, why in [
        (ConcatDataset([plain, plain]), "`ConcatDataset` at dataset", kinds),
        (Endless(), "`Endless` at dataset", "it has no indices, by which the graph takes images."),
        (
            Subset(Weighed(root, transform), [0, 1]),
            "`Weighed` at dataset.dataset",
            "it has a `__getitem__` of its own, which the graph does not call. Pass a plain "
            "ImageFolder.",
        ),
        (
            Halved(root, transform),
            "`Halved` at dataset",
            "it has a `__len__` of its own, which the graph does not call. Pass a plain "
            "ImageFolder.",
        ),
        (
            Several(root, opened, (".jpg",)),
            "`Several` at dataset",
            "it has a `__getitems__` of its own, which the graph does not call. Pass a plain "
            "DatasetFolder.",
        ),
        (
            ImageFolder(root, transform, loader=opened),
            "`ImageFolder` at dataset",
            f"it reads files by a `loader` of its own, opened (test_translation.py:{line}), and "
            "DALI decodes them instead. Leave `loader` out.",
        ),
    ]:
        assert refusal(TorchLoader(dataset)).splitlines()[1:] == [f"  - {place}: {why}"]
    assert refusal(Twice(plain)).splitlines()[1:] == [
        "  - `Twice` at loader: it has an `__iter__` of its own. Build a plain DataLoader."
    ]
    assert refusal(TorchLoader(plain, batch_size=None)).splitlines()[1:] == [
        "  - `None` at batch_size: torch makes no batches then. Pass a `batch_size`."
    ]
    with pytest.raises(TypeError) as refused:
        silently(DataLoader(root, transform=TrainTransform()))  # type: ignore[arg-type]
    assert str(refused.value) == (
        "from_torch: `loader` must be a torch.utils.data.DataLoader, got "
        "dali_cutmix.loader.DataLoader."
    )


class Preset:
    """As torchvision's references have it."""

    def __init__(self) -> None:
        self.transforms = v1.Compose([v1.RandomResizedCrop(32), v1.ToTensor()])

    def __call__(self, image: Any) -> Any:
        return self.transforms(image)


def test_object_that_calls_a_list_it_holds_is_that_list(photo_folder: Path) -> None:
    listed = v2.Compose([CROP, v2.RandomHorizontalFlip(), *SCALED])
    assert silently(over(photo_folder, Preset())).transform == train()
    assert silently(over(photo_folder, lambda image: listed(image))).transform == train(flip=0.5)

    def darkened(image: Any) -> Any:
        return listed(image) * (1 if random.random() < 0.9 else 0.5)

    said: list[str] = []
    DataLoader.from_torch(over(photo_folder, Preset()), report=said.append)
    assert "  * Preset was tried on 60 made-up images: no proof for others." in said
    line = darkened.__code__.co_firstlineno
    assert refusal(over(photo_folder, darkened)).splitlines()[1:] == [
        f"  - `darkened (test_translation.py:{line})` at transform: {UNSEEN}"
    ]


@pytest.mark.parametrize(
    "differs",
    [
        lambda width, height: min(width, height) < 64,
        lambda width, height: width * height > 2_000_000,
        lambda width, height: max(width, height) > 4 * min(width, height),
        lambda width, height: width == height,
    ],
    ids=["small", "large", "long", "square"],
)
def test_object_that_treats_some_sizes_otherwise_is_refused(
    photo_folder: Path, differs: Any
) -> None:
    crop, whole = v2.Compose([CROP, *SCALED]), v2.Compose([v2.Resize((32, 32)), *SCALED])

    def by_size(image: Any) -> Any:
        return whole(image) if differs(*image.size) else crop(image)

    line = by_size.__code__.co_firstlineno
    assert refusal(over(photo_folder, by_size)).splitlines()[1:] == [
        f"  - `by_size (test_translation.py:{line})` at transform: {UNSEEN}"
    ]


def test_object_is_seen_through_though_its_list_fails_on_small_images(photo_folder: Path) -> None:
    listed = v2.Compose([v2.RandomCrop(32), *SCALED])
    ours = silently(over(photo_folder, lambda image: listed(image)))
    assert ours.transform == train(pad=0)

    def padded(image: Any) -> Any:
        return listed(v2.functional.pad(image, [40]) if min(image.size) < 32 else image)

    assert UNSEEN in refusal(over(photo_folder, padded))


class Recipe:
    """The list that torchvision's references build for their newest ImageNet weights."""

    def __init__(self, version: Any, back_end: str, policy: Any) -> None:
        bilinear, parts = v2.InterpolationMode.BILINEAR, []
        to_tensor = [version.PILToTensor()]
        to_float = version.ConvertImageDtype(torch.float)
        if version is v2:
            to_float = v2.ToDtype(torch.float, scale=True)
        parts += to_tensor if back_end == "tensor" else []
        parts += [version.RandomResizedCrop(176, interpolation=bilinear, antialias=True)]
        parts += [version.RandomHorizontalFlip(0.5), policy(interpolation=bilinear)]
        parts += to_tensor if back_end == "pil" else []
        parts += [to_float, version.Normalize(MEAN, STD), version.RandomErasing(p=0.1)]
        parts += [v2.ToPureTensor()] if version is v2 else []
        self.transforms = version.Compose(parts)

    def __call__(self, image: Any) -> Any:
        return self.transforms(image)


@pytest.mark.parametrize(
    ("version", "back_end", "policy", "expected"),
    [
        (v2, "pil", v2.TrivialAugmentWide, colours.TrivialAugment),
        (v2, "tensor", v2.RandAugment, colours.RandAugment),
        (v1, "pil", v1.AutoAugment, colours.AutoAugment),
        (v1, "tensor", v1.TrivialAugmentWide, colours.TrivialAugment),
    ],
    ids=["v2-pil", "v2-tensor", "v1-pil", "v1-tensor"],
)
def test_torchvisions_own_recipe_is_translated_as_a_whole(
    photo_folder: Path, version: Any, back_end: str, policy: Any, expected: Any
) -> None:
    mixes = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=3), v2.CutMix(num_classes=3)])
    theirs = over(
        photo_folder, Recipe(version, back_end, policy), collate_fn=closure(mixes), shuffle=True
    )
    lines: list[str] = []
    ours = DataLoader.from_torch(theirs, report=lines.append)
    erased = colours.RandomErasing(0.1, value=(124, 116, 104))
    augment = (expected(interpolation="bilinear"), erased)
    assert ours.transform == TrainTransform(176, flip=0.5, mean=MEAN, std=STD, augment=augment)
    assert ours.mix == RandomChoice((TV_MIXUP, TV_CUTMIX))
    image, target = next(iter(ours))
    wanted_image, wanted_target = next(iter(theirs))
    assert (image.shape, image.dtype) == (wanted_image.shape, wanted_image.dtype)
    assert (target.shape, target.dtype) == (wanted_target.shape, wanted_target.dtype)
    became = {
        part.strip(): ours for part, ours in (line.split("->") for line in lines if "->" in line)
    }
    (place,) = (part for part in became if f"{policy.__name__}(" in part)
    assert became[place] == f"  augment: {expected.__name__}(interpolation='bilinear')"
    if version is v2:
        assert became["transform[7]  ToPureTensor()"] == "  nothing to do"
    fades = "What is sheared or turned fades to black over a pixel, as tensors do"
    assert any(fades in line for line in lines) == (back_end == "pil")
