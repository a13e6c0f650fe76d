"""Functions that make several views of an image by torchvision's lists become `Views`."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageOps
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import default_collate
from torchvision import transforms as v1
from torchvision.transforms import v2

from dali_cutmix import EvalTransform, TrainTransform, Views
from dali_cutmix.augmentations import Grayscale
from torch_loaders import CROP, MEAN, PLAIN, SCALED, STD, cifar, over, refusal, reported, silently
from torch_loaders import train as train_transform

FLIP, GRAY = v1.RandomHorizontalFlip(0.5), v1.RandomGrayscale(0.2)
FIRST = v1.Compose([CROP, FLIP, v1.ToTensor()])
SECOND = v2.Compose([CROP, GRAY, v1.ToTensor(), v1.Normalize(MEAN, STD)])
LOCAL = v1.Compose([v1.RandomResizedCrop(16, (0.05, 0.4)), FLIP, v1.ToTensor()])
CENTRE = v1.Compose([v1.Resize(40), v1.CenterCrop(32), v1.ToTensor()])

#: What the lists become.
OURS = {
    "first": train_transform(flip=0.5),
    "second": train_transform(Grayscale(0.2), mean=MEAN, std=STD),
    "weak": train_transform(flip=0.5, mean=MEAN, std=STD),
    "local": train_transform(size=16, scale=(0.05, 0.4), flip=0.5),
    "centre": EvalTransform(40, 32, **PLAIN),
}


class TwoCrops:
    """As MoCo's and SimSiam's."""

    def __init__(self, base_transform: Any) -> None:
        self.base_transform = base_transform

    def __call__(self, x: Any) -> list[torch.Tensor]:
        q = self.base_transform(x)
        k = self.base_transform(x)
        return [q, k]


class TwoTransforms:
    """As MoCo v3's, BYOL's and Barlow Twins', which return tuples."""

    def __init__(self, transform: Any, transform_prime: Any) -> None:
        self.transform, self.transform_prime = transform, transform_prime

    def __call__(self, x: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(x), self.transform_prime(x)


class MultiCrop(nn.Module):
    """As DINO's, with lists that are made inside."""

    def __init__(self, local_crops_number: int) -> None:
        super().__init__()
        self.global_transfo1, self.global_transfo2, self.local_transfo = FIRST, SECOND, LOCAL
        self.local_crops_number = local_crops_number

    def forward(self, image: Any) -> list[torch.Tensor]:
        crops = [self.global_transfo1(image), self.global_transfo2(image)]
        for _ in range(self.local_crops_number):
            crops.append(self.local_transfo(image))
        return crops


class ManyLists:
    """As SwAV's and lightly's, with the lists in a list."""

    def __init__(self, *transforms: Any) -> None:
        self.transforms = list(transforms)

    def __call__(self, x: Any) -> list[torch.Tensor]:
        return [transform(x) for transform in self.transforms]


class Repeated:
    """As SimCLR's ContrastiveLearningViewGenerator."""

    def __init__(self, base_transform: Any, n_views: int) -> None:
        self.base_transform, self.n_views = base_transform, n_views

    def __call__(self, x: Any) -> list[torch.Tensor]:
        return [self.base_transform(x) for _ in range(self.n_views)]


class WeakAndStrong:
    """As FixMatch's: both views go through one more list."""

    def __init__(self) -> None:
        self.weak = v1.Compose([CROP, FLIP])
        self.strong = v1.Compose([CROP, GRAY])
        self.normalize = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])

    def __call__(self, x: Any) -> tuple[torch.Tensor, torch.Tensor]:
        weak, strong = self.weak(x), self.strong(x)
        return self.normalize(weak), self.normalize(strong)


def pair(image: Any, first: Any, second: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return first(image), second(image)


@pytest.mark.parametrize(
    ("transform", "views"),
    [
        (TwoCrops(FIRST), ["first"] * 2),
        (Repeated(SECOND, 3), ["second"] * 3),
        (TwoTransforms(FIRST, SECOND), ["first", "second"]),
        (TwoTransforms(SECOND, FIRST), ["second", "first"]),
        (MultiCrop(4), ["first", "second", *["local"] * 4]),
        (ManyLists(LOCAL, CENTRE, LOCAL), ["local", "centre", "local"]),
        (partial(pair, first=FIRST, second=CENTRE), ["first", "centre"]),
        (lambda image: [FIRST(image) for _ in range(2)], ["first"] * 2),
        (v1.Lambda(lambda image: (CENTRE(image), FIRST(image))), ["centre", "first"]),
        (TwoTransforms(v1.Compose([CENTRE]), v1.Compose([CENTRE])), ["centre"] * 2),
        (ManyLists(FIRST), ["first"]),
        (WeakAndStrong(), ["weak", "second"]),
    ],
)
def test_lists_called_in_turn_become_views(
    photo_folder: Path, transform: Any, views: list[str]
) -> None:
    expected = Views([OURS[name] for name in views])
    assert silently(over(photo_folder, transform)).transform == expected


def test_batches_have_the_form_of_the_torch_loaders(photo_folder: Path) -> None:
    torch_loader = over(photo_folder, ManyLists(CENTRE, LOCAL, CENTRE))
    (images, label), (wanted, wanted_label) = (
        next(iter(loader)) for loader in (silently(torch_loader), torch_loader)
    )
    assert type(images) is type(wanted) is list
    assert [image.shape for image in images] == [image.shape for image in wanted]
    assert [image.dtype for image in images] == [image.dtype for image in wanted]
    assert torch.equal(label, wanted_label)
    for number in (0, 2):  # nothing is drawn, and pixels are within 2 levels of Pillow's
        assert (images[number] - wanted[number]).abs().max() <= 2.01 / 255


def test_images_of_one_size_in_memory_have_views() -> None:
    crop = v2.RandomCrop(32, padding=4)
    dataset = cifar(TwoCrops(v2.Compose([crop, *SCALED])))
    transform = silently(TorchLoader(dataset, batch_size=4)).transform
    assert transform == Views([TrainTransform(32, flip=0.0, pad=4, **PLAIN)] * 2)  # type: ignore[arg-type]


def test_report_says_which_list_makes_which_view_and_its_code_makes_the_same(
    photo_folder: Path,
) -> None:
    loader = over(photo_folder, MultiCrop(4))
    lines = reported(loader)
    rows = [" ".join(line.split()) for line in lines]
    assert (
        "transform MultiCrop, 6 views -> Views: transform.global_transfo1, "
        "transform.global_transfo2, 4 x transform.local_transfo"
    ) in rows
    assert (
        "transform.global_transfo2[1] RandomGrayscale(p=0.2) -> augment: Grayscale(prob=0.2)"
        in rows
    )
    sentence = "  * MultiCrop was compared with the lists inside on 16 synthetic images only."
    assert sentence in lines
    assert (
        "  Yields a list of 6 images, 2 x [B, 3, 32, 32], 4 x [B, 3, 16, 16] float32 and label [B] "
        "int64, on cpu."
    ) in lines
    code = next(line for line in lines if line.strip().startswith("transform=Views("))
    expression = code.strip().removeprefix("transform=").removesuffix(",")
    names = {"Views": Views, "TrainTransform": TrainTransform, "Grayscale": Grayscale}
    assert eval(expression, names) == silently(loader).transform


def test_comparison_of_views_leaves_random_states_as_they_were(photo_folder: Path) -> None:
    before = torch.get_rng_state(), random.getstate()
    silently(over(photo_folder, TwoTransforms(FIRST, SECOND)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_views_are_compared_alike_whatever_the_random_states_are(photo_folder: Path) -> None:
    """Lists that differ in one probability need many images to be told apart."""
    rare, frequent = (
        v1.Compose([CROP, v1.RandomGrayscale(prob), v1.ToTensor()]) for prob in (0.1, 0.5)
    )
    expected = Views([train_transform(Grayscale(prob)) for prob in (0.5, 0.1)])
    for seed in range(3):
        torch.manual_seed(seed)
        loader = over(photo_folder, TwoTransforms(frequent, rare))
        assert silently(loader).transform == expected


def shared_crop(image: Any) -> list[torch.Tensor]:
    cropped = CROP(image)
    return [LAST(cropped), LAST(cropped)]


def shared_draws(image: Any) -> list[torch.Tensor]:
    state = torch.get_rng_state()
    first = FIRST(image)
    torch.set_rng_state(state)
    return [first, FIRST(image)]


def noisy(image: Any) -> list[torch.Tensor]:
    return [FIRST(image) + 0.01 * torch.randn(()), FIRST(image)]


def different_for_wide_images(image: Any) -> list[torch.Tensor]:
    return [FIRST(image), (FIRST if image.width > image.height else SECOND)(image)]


def different_for_dark_images(image: Any) -> list[torch.Tensor]:
    return [FIRST(image), (FIRST if image.convert("L").getextrema()[1] > 50 else SECOND)(image)]


def of_all_levels(image: Any) -> list[torch.Tensor]:
    return [FIRST(ImageOps.autocontrast(image)), FIRST(image)]


def seldom_different(image: Any) -> list[torch.Tensor]:
    return [FIRST(image), (SECOND if random.random() < 1e-9 else FIRST)(image)]


LAST = v1.ToTensor()


@pytest.mark.parametrize(
    "function",
    [
        shared_crop,
        shared_draws,
        noisy,
        different_for_wide_images,
        different_for_dark_images,
        of_all_levels,
        seldom_different,
    ],
)
def test_views_that_are_not_lists_called_in_turn_are_refused(
    photo_folder: Path, function: Callable[[Any], Any]
) -> None:
    message = refusal(over(photo_folder, function))
    assert f"`{function.__name__} (test_torch_views.py:" in message
    assert (
        "makes 2 images of one, and torchvision's lists inside, called in turn, do not make the "
        "same. Pass `transform=Views([...])`, with a transform for each image."
    ) in message


def test_a_part_without_a_counterpart_is_named_by_its_list(photo_folder: Path) -> None:
    second = v1.Compose([CROP, v1.ToTensor(), v1.Lambda(lambda image: 1 - image)])
    message = refusal(over(photo_folder, TwoTransforms(FIRST, second)))
    assert "`Lambda` at transform.transform_prime[2]: from_torch cannot see" in message


def test_lists_that_cannot_be_told_apart_are_refused(photo_folder: Path) -> None:
    """The second list differs on images that are never seen here."""
    seldom = v1.Compose([CROP, v1.RandomGrayscale(1e-9), v1.ToTensor()])
    always = v1.Compose([CROP, v1.RandomGrayscale(1e-8), v1.ToTensor()])
    message = refusal(over(photo_folder, TwoTransforms(seldom, always)))
    assert (
        "holds lists that differ, though 40 synthetic images do not tell which list makes which "
        "view. Pass `transform=Views([...])`, with a transform for each view."
    ) in message


def test_views_of_several_types_are_refused(photo_folder: Path) -> None:
    levels = v1.Compose([CROP, v1.PILToTensor()])
    message = refusal(over(photo_folder, TwoTransforms(FIRST, levels)))
    assert (
        "makes views of several types, torch.float32 and torch.uint8, and a batch has one. "
        "Convert all to one type."
    ) in message


def test_collate_function_of_views_is_refused_until_it_is_left_out(photo_folder: Path) -> None:
    def collate(samples: Any) -> Any:
        return default_collate(samples)

    loader = over(photo_folder, TwoCrops(FIRST), collate_fn=collate)
    assert (
        "with several views of an image, only torch's default_collate has a counterpart. Pass "
        "`mix=None`, which collates as default_collate does."
    ) in refusal(loader)
    assert silently(loader, mix=None).transform == Views([OURS["first"]] * 2)
