"""torchvision's transforms become one transform of the graph, with equal arguments."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from dali_cutmix import (
    Compose,
    DataLoader,
    EvalTransform,
    RandomChoice,
    TrainTransform,
    augmentations,
)
from torch_loaders import (
    CROP,
    CUTMIX,
    FLOATS,
    MEAN,
    MIXUP,
    PLAIN,
    SCALED,
    STD,
    UNSEEN,
    cifar,
    closure,
    notes,
    over,
    refusal,
    silently,
    train,
)

PRESET = ImageClassification(crop_size=32, resize_size=40)


GEOMETRY = [
    ([CROP, *FLOATS], train(mean=MEAN, std=STD)),
    ([CROP, v1.ToTensor()], train()),
    ([CROP, v2.ToTensor()], train()),
    ([CROP, v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)], train()),
    ([CROP, v2.PILToTensor(), v2.ConvertImageDtype()], train()),
    ([v2.Compose([CROP]), nn.Sequential(v2.Identity(), nn.Identity()), *SCALED], train()),
    ([v2.RGB(), CROP, *SCALED, v2.ToPureTensor()], train()),
    (
        [*SCALED, v2.RandomResizedCrop((20, 30), (0.1, 1), (0.8, 1.5))],
        train(size=(20, 30), scale=(0.1, 1.0), ratio=(0.8, 1.5)),
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
    (
        [v1.ToTensor(), v1.Resize((40, 32), antialias=None)],
        EvalTransform((40, 32), (40, 32), interpolation="bilinear-aliased", **PLAIN),
    ),
    (
        [*SCALED, v2.RandomResizedCrop(32, antialias=False)],
        train(interpolation="bilinear-aliased"),
    ),
    (
        [v2.Resize(40, v2.InterpolationMode.BOX), v2.CenterCrop(32), *SCALED],
        EvalTransform(40, 32, interpolation="box", **PLAIN),
    ),
]


@pytest.mark.parametrize(("parts", "expected"), GEOMETRY)
def test_crops_and_conversions_become_arguments(
    photo_folder: Path, parts: list[Any], expected: TrainTransform | EvalTransform
) -> None:
    assert silently(over(photo_folder, parts)).transform == expected


def test_crops_that_often_fit_nowhere_are_central_then(photo_folder: Path) -> None:
    """Of images of 3 : 2 torchvision crops the center, by which CLIP's scripts train."""
    transform = v2.Compose([v2.RandomResizedCrop(32, (0.9, 1)), *SCALED])
    reference = TorchLoader(cifar(transform, (40, 60)), batch_size=12)
    loader = silently(reference, device="cpu")
    image, expected = next(iter(loader))[0], next(iter(reference))[0]
    assert (image - expected).abs().max() < 2.01 / 255
    crop = augmentations.RandomResizedCrop(32, (0.9, 1.0))
    assert silently(over(photo_folder, transform)).transform == Compose((crop,), **PLAIN)


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
        augmentations.ColorJitter((0.6, 1.4), (0.5, 1.2), 0, (-0.1, 0.1)),
    ),
    (v1.ColorJitter(saturation=0.3), augmentations.ColorJitter(saturation=(0.7, 1.3))),
    (v2.RandomGrayscale(0.2), augmentations.Grayscale(0.2)),
    (v1.Grayscale(3), augmentations.Grayscale(1.0)),
    (v2.RandomApply([v2.Grayscale(3)], 0.3), augmentations.Grayscale(0.3)),
    (v2.TrivialAugmentWide(), augmentations.TrivialAugment()),
    (
        v1.TrivialAugmentWide(num_magnitude_bins=11, fill=[0, 0, 0]),
        augmentations.TrivialAugment(11),
    ),
    (v2.RandAugment(3, 7, 10), augmentations.RandAugment(3, 7, 10)),
    (v1.RandAugment(), augmentations.RandAugment()),
    (v2.AutoAugment(), augmentations.AutoAugment()),
    (v1.AutoAugment(v1.AutoAugmentPolicy.CIFAR10), augmentations.AutoAugment("cifar10")),
    (v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, fill=0), augmentations.AutoAugment("svhn")),
    (v2.RandAugment(0), augmentations.RandAugment(0)),
    (
        v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
        augmentations.TrivialAugment(interpolation="bilinear"),
    ),
    (
        v1.RandAugment(interpolation=v1.InterpolationMode.BILINEAR),
        augmentations.RandAugment(interpolation="bilinear"),
    ),
    (v2.RandAugment(1, interpolation=2), augmentations.RandAugment(1, interpolation="bilinear")),
    (
        v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, interpolation="bilinear"),
        augmentations.AutoAugment("svhn", interpolation="bilinear"),
    ),
    (v1.RandAugment(fill=[128.0, 128.0, 128.0]), augmentations.RandAugment(fill=128)),
    (v2.AutoAugment(fill=(1, 2, 3)), augmentations.AutoAugment(fill=(1, 2, 3))),
    (
        v2.TrivialAugmentWide(fill={Image.Image: 7, "others": 9}),
        augmentations.TrivialAugment(fill=7),
    ),
    (
        v2.RandomErasing(0.1, (0.1, 0.2), (0.5, 2)),
        augmentations.RandomErasing(0.1, (0.1, 0.2), (0.5, 2), (0, 0, 0)),
    ),
]


@pytest.mark.parametrize(("part", "expected"), POLICIES, ids=lambda part: type(part).__name__)
def test_colors_and_policies_become_augmentations(
    photo_folder: Path, part: Any, expected: Any
) -> None:
    assert silently(over(photo_folder, [CROP, part, *SCALED])).transform == train(expected)


def test_augmentations_keep_their_order(photo_folder: Path) -> None:
    """Grayscale commutes with the crop, and flips commute with all but shears."""
    gray, jitter = v2.RandomGrayscale(0.2), v2.ColorJitter(0.5)
    parts = [gray, CROP, jitter, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(), *FLOATS]
    transform = silently(over(photo_folder, parts)).transform
    expected = (
        augmentations.Grayscale(0.2),
        augmentations.ColorJitter((0.5, 1.5)),
        augmentations.TrivialAugment(),
    )
    assert transform == train(*expected, flip=0.5, mean=MEAN, std=STD)
    assert silently(over(photo_folder, [CROP, v2.ColorJitter(), *SCALED])).transform == train()


class Preset:
    """A preset as in torchvision's references."""

    def __init__(self) -> None:
        self.transforms = v1.Compose([v1.RandomResizedCrop(32), v1.ToTensor()])

    def __call__(self, image: Any) -> Any:
        return self.transforms(image)


def test_object_that_only_calls_its_list_becomes_that_list(photo_folder: Path) -> None:
    listed = v2.Compose([CROP, v2.RandomHorizontalFlip(), *SCALED])
    assert silently(over(photo_folder, Preset())).transform == train()
    assert silently(over(photo_folder, lambda image: listed(image))).transform == train(flip=0.5)

    def darkened(image: Any) -> Any:
        return listed(image) * (1 if random.random() < 0.9 else 0.5)

    assert notes(over(photo_folder, Preset()), "synthetic") == [
        "Preset was compared with the Compose inside on 30 synthetic images only."
    ]
    line = darkened.__code__.co_firstlineno
    assert refusal(over(photo_folder, darkened)).splitlines()[1:] == [
        f"  - `darkened (test_torch_transforms.py:{line})` at transform: {UNSEEN}"
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
def test_object_that_treats_some_sizes_differently_is_refused(
    photo_folder: Path, differs: Any
) -> None:
    crop, resized = v2.Compose([CROP, *SCALED]), v2.Compose([v2.Resize((32, 32)), *SCALED])

    def by_size(image: Any) -> Any:
        return resized(image) if differs(*image.size) else crop(image)

    line = by_size.__code__.co_firstlineno
    assert refusal(over(photo_folder, by_size)).splitlines()[1:] == [
        f"  - `by_size (test_torch_transforms.py:{line})` at transform: {UNSEEN}"
    ]


def test_object_is_read_although_its_list_fails_on_small_images(photo_folder: Path) -> None:
    listed = v2.Compose([v2.RandomCrop(32), *SCALED])
    loader = silently(over(photo_folder, lambda image: listed(image)))
    assert loader.transform == train(pad=0)

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "back_end", "policy", "expected"),
    [
        (v2, "pil", v2.TrivialAugmentWide, augmentations.TrivialAugment),
        (v1, "tensor", v1.AutoAugment, augmentations.AutoAugment),
    ],
    ids=["v2-pil", "v1-tensor"],
)
def test_torchvisions_recipe_is_translated(
    photo_folder: Path, version: Any, back_end: str, policy: Any, expected: Any
) -> None:
    mixes = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=3), v2.CutMix(num_classes=3)])
    reference = over(
        photo_folder, Recipe(version, back_end, policy), collate_fn=closure(mixes), shuffle=True
    )
    lines: list[str] = []
    loader = DataLoader.from_torch(reference, report=lines.append)
    erased = augmentations.RandomErasing(0.1, value=(124, 116, 104))
    augment = (expected(interpolation="bilinear"), erased)
    assert loader.transform == TrainTransform(176, flip=0.5, mean=MEAN, std=STD, augment=augment)
    assert loader.mix == RandomChoice((MIXUP, CUTMIX))
    image, target = next(iter(loader))
    wanted_image, wanted_target = next(iter(reference))
    assert (image.shape, image.dtype) == (wanted_image.shape, wanted_image.dtype)
    assert (target.shape, target.dtype) == (wanted_target.shape, wanted_target.dtype)
    results = dict(line.strip().split("->") for line in lines if "->" in line)
    results = {part.rstrip(): result for part, result in results.items()}
    (key,) = (part for part in results if f"{policy.__name__}(" in part)
    assert results[key] == f"  augment: {expected.__name__}(interpolation='bilinear')"
    if version is v2:
        assert results["transform[7]  ToPureTensor()"] == "  nothing to do"
    fades = "Sheared and rotated images fade to black over one pixel"
    assert any(fades in line for line in lines) == (back_end == "pil")
