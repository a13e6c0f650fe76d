"""Parts without a counterpart are refused by class and path, with the way out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import dali_cutmix
from dali_cutmix import DataLoader, TrainTransform
from torch_loaders import (
    CROP,
    FLOATS,
    MEAN,
    SCALED,
    STD,
    UNSEEN,
    as_dict,
    cifar,
    over,
    refusal,
    silently,
)

NO_OPERATOR = "the graph has no such operator. Remove it, or pass `transform=`."
NOT_TORCHVISION = (
    "the graph runs transforms of torchvision and timm only, and this class is another. Pass "
    "`transform=`."
)
BICUBIC = v2.InterpolationMode.BICUBIC


def levels_only(name: str) -> str:
    return (
        f"the graph changes colors of uint8 levels. Move {name} before ToTensor, ToDtype and "
        "Normalize."
    )


def test_all_parts_without_a_counterpart_are_named_at_once(photo_folder: Path) -> None:
    parts = [
        v2.ElasticTransform(),
        v2.Compose([v2.Lambda(str), CROP]),
        nn.Sequential(v2.ElasticTransform(), v2.Identity()),
        *SCALED,
    ]
    loader = over(photo_folder, parts, collate_fn=as_dict)
    loader.dataset.target_transform = str
    assert refusal(loader) == (
        "from_torch: cannot translate 5 of the loader's 13 parts:\n"
        "  - `str` at dataset.target_transform: classes become '0', and the graph serves class "
        "indices of at least 0. Remove `target_transform`, and change the labels of a batch.\n"
        f"  - `ElasticTransform` at transform[0]: {NO_OPERATOR}\n"
        f"  - `Lambda` at transform[1].transforms[0]: {UNSEEN}\n"
        f"  - `ElasticTransform` at transform[2][0]: {NO_OPERATOR}\n"
        f"  - `as_dict (torch_loaders.py:{as_dict.__code__.co_firstlineno})` at collate_fn: the "
        "batch is a dict, not (images, targets). Pass `mix=`, or `mix=None` to mix nothing."
    )


class UserModule(nn.Module):
    def forward(self, image: Any) -> Any:
        return v2.functional.gaussian_blur(image, [3, 3])


class Darker(v2.ColorJitter):
    pass


def brighter(image: Any) -> Any:
    return image.point(lambda level: level + 1)


def test_only_the_cause_of_a_refusal_is_named(photo_folder: Path) -> None:
    """Normalize is not to blame behind a class that may make the tensor."""
    parts = [CROP, UserModule(), v2.Normalize(MEAN, STD), v2.ElasticTransform()]
    message = refusal(over(photo_folder, parts))
    assert message.splitlines() == [
        "from_torch: cannot translate 2 of the loader's 9 parts:",
        f"  - `UserModule` at transform[1]: {NOT_TORCHVISION}",
        f"  - `ElasticTransform` at transform[3]: {NO_OPERATOR}",
    ]
    parts = [CROP, v2.ElasticTransform(), v2.Normalize(MEAN, STD)]
    assert "Normalize takes floats. Put ToTensor" in refusal(over(photo_folder, parts))


def test_refusal_reads_no_image(tmp_path: Path, photo_folder: Path) -> None:
    root = shutil.copytree(photo_folder, tmp_path / "gone")
    loader = over(root, [v2.ElasticTransform(), CROP, *SCALED], collate_fn=as_dict)
    shutil.rmtree(root)
    assert f"`ElasticTransform` at transform[0]: {NO_OPERATOR}" in refusal(loader)


#: Position of the refused part, the parts in front of the scaling, and the reason.
REFUSED: list[tuple[int, list[Any], str]] = [
    (0, [UserModule()], NOT_TORCHVISION),
    (0, [Darker(0.1)], NOT_TORCHVISION),
    (0, [v2.ElasticTransform()], NO_OPERATOR),
    (
        0,
        [v2.RandomApply([v2.RandomHorizontalFlip(), v2.ElasticTransform()])],
        f"ElasticTransform inside: {NO_OPERATOR}",
    ),
    (
        0,
        [v2.RandomChoice([v2.RandomOrder([v2.JPEG(50)])])],
        f"RandomOrder inside: JPEG inside: {NO_OPERATOR}",
    ),
    (
        1,
        [v2.ToImage(), v2.Resize(32, BICUBIC, antialias=False), v2.CenterCrop(32)],
        "the graph resizes by bicubic with antialiasing. Pass `antialias=True`, or resize before "
        "the image becomes a tensor.",
    ),
    (
        1,
        [v2.ToImage(), v2.Resize((32, 32), interpolation=0)],
        "the graph resizes to the nearest pixel as Pillow does, and torchvision's NEAREST of a "
        "tensor takes other pixels. Resize before the image becomes a tensor.",
    ),
    (
        1,
        [v2.ToImage(), v2.RandomResizedCrop(32, interpolation=v2.InterpolationMode.LANCZOS)],
        "the graph resizes by lanczos as Pillow does. Pass BICUBIC, or resize before the image "
        "becomes a tensor.",
    ),
    (
        2,
        [*SCALED, v2.RandomResizedCrop(32, interpolation=BICUBIC)],
        "bicubic floats overshoot the range of levels, and the graph clips these. Resize before "
        "ToTensor or ToDtype.",
    ),
    (
        0,
        [v2.Resize(None, max_size=50)],
        "the graph resizes by the short side. Pass Resize(side).",
    ),
    (
        0,
        [v2.TenCrop(32)],
        "the graph has no such operator. Use CenterCrop(size), or pass `transform=Views([...])`.",
    ),
    (0, [v2.RandomZoomOut()], "the graph has no such operator. Pass `transform=`."),
    (
        0,
        [v2.RandomResizedCrop(32, (0, 1))],
        "RandomResizedCrop: `scale` must start above 0, got (0.0, 1.0).",
    ),
    (
        0,
        [v2.RandomRotation(9, expand=True, center=(1.0, 2.0))],
        "RandomRotation: `center` must be None with `expand`, got (1.0, 2.0).",
    ),
    (
        0,
        [v2.RandomRotation(9, interpolation=v2.InterpolationMode.LANCZOS)],
        "the graph turns images to the nearest pixel, bilinearly or bicubically, got "
        "interpolation='lanczos'.",
    ),
    (3, [*FLOATS, v2.Pad(3, fill=9)], "no uint8 color becomes fill=9 here. Pass `fill=0`."),
    (3, [*FLOATS, v2.RandomInvert()], levels_only("RandomInvert")),
    (2, [*SCALED, v2.RandomPosterize(3)], levels_only("RandomPosterize")),
    (3, [*FLOATS, v2.ColorJitter(0.1)], levels_only("ColorJitter")),
    (2, [*SCALED, v2.TrivialAugmentWide()], levels_only("TrivialAugmentWide")),
    (
        0,
        [v2.RandomApply([v2.Grayscale()])],
        "Grayscale inside: images of a batch have equally many channels. Take Grayscale out of "
        "RandomApply, or pass `num_output_channels=3`.",
    ),
    (0, [v2.RandAugment(fill=300)], "no color of 8 bits is fill=300."),
    (
        0,
        [v1.AutoAugment(interpolation=BICUBIC)],
        "the graph rotates and shears to the nearest pixel or bilinearly, got "
        "interpolation='bicubic'. Pass `interpolation=InterpolationMode.BILINEAR`.",
    ),
    (
        2,
        [*SCALED, v2.RandomErasing(value=2)],
        "no uint8 color becomes value=[2.0] here. Pass `value=0`.",
    ),
    (0, [v2.ToPILImage("L")], "images are RGB here, got mode='L'."),
    (
        3,
        [*FLOATS, v2.ToPILImage()],
        "pixels are outside [0, 1] here. Convert before Normalize.",
    ),
    (
        1,
        [v2.ToImage(), v2.ToDtype(torch.float64, scale=True)],
        "the graph does not make torch.float64. Use torch.float32.",
    ),
    (
        2,
        [*SCALED, v2.ToDtype(torch.uint8)],
        "without scaling, uint8 drops fractions. Pass `scale=True` to ToDtype.",
    ),
    (
        1,
        [v2.ToImage(), v2.Normalize(MEAN, STD)],
        "Normalize takes floats. Put ToTensor or ToDtype before it.",
    ),
    (2, [*SCALED, v2.Normalize([0.1, 0.2], [1, 1])], "images have three channels, got 2 numbers."),
]


@pytest.mark.parametrize(
    ("position", "parts", "reason"),
    REFUSED,
    ids=[f"{type(parts[n]).__name__}{i}" for i, (n, parts, _) in enumerate(REFUSED)],
)
def test_part_without_a_counterpart_is_refused_by_its_path(
    photo_folder: Path, position: int, parts: list[Any], reason: str
) -> None:
    header, *lines = refusal(over(photo_folder, [*parts, *SCALED])).splitlines()
    assert header.startswith("from_torch: cannot translate 1 of the loader's ")
    (line,) = lines
    name = type(parts[position]).__name__
    assert line == f"  - `{name}` at transform[{position}]: {reason}"


#: The whole list, or None, and the reason.
REFUSED_LISTS: list[tuple[list[Any] | None, str]] = [
    *(
        (
            parts,
            "images keep different sizes, and cannot make a batch. Add RandomResizedCrop, or "
            "Resize and CenterCrop.",
        )
        for parts in (
            SCALED,
            [v2.Resize(40), *SCALED],
            [v2.Pad(4), v2.RandomHorizontalFlip(), *SCALED],
            [v2.RandomApply([CROP]), *SCALED],
            [v2.RandomChoice([CROP, v2.Resize(3)]), *SCALED],
        )
    ),
    (
        [*SCALED, v2.RandomErasing(), CROP],
        "RandomErasing takes images of one size in the graph. Put the crop before RandomErasing.",
    ),
    *(
        (parts, "the list ends in Pillow images, which cannot make a batch. End with ToTensor.")
        for parts in ([CROP], None)
    ),
]


@pytest.mark.parametrize(("parts", "reason"), REFUSED_LISTS)
def test_list_without_a_counterpart_is_refused_as_a_list(
    photo_folder: Path, parts: Any, reason: str
) -> None:
    name = "Compose" if parts else "None"
    message = refusal(over(photo_folder, parts))
    assert message.splitlines()[1:] == [f"  - `{name}` at transform: {reason}"]


@pytest.mark.parametrize("scaling", [SCALED, [v1.ToTensor()]])
def test_turns_that_widen_images_of_one_size_are_refused_as_a_list(scaling: Any) -> None:
    loader = TorchLoader(cifar(v2.Compose([v2.RandomRotation(20, expand=True), *scaling])))
    (line,) = refusal(loader).splitlines()[1:]
    assert line == (
        "  - `Compose` at transform: images keep different sizes, and cannot make a batch. Add "
        "RandomResizedCrop, or Resize and CenterCrop."
    )


def test_readme_shows_the_refusal_of_two_parts(photo_folder: Path) -> None:
    def turned(image: Any) -> Any:
        return image.rotate(20)

    parts = [CROP, v2.ElasticTransform(), v2.Lambda(turned), *SCALED]
    text = (Path(dali_cutmix.__file__).parent / "from_torch" / "README.md").read_text()
    (shown,) = re.findall(r"```\nValueError: (from_torch:.*?)\n```", text, re.DOTALL)
    assert refusal(over(photo_folder, parts)) == shown


def test_function_in_a_list_is_refused_by_its_line(photo_folder: Path) -> None:
    line = brighter.__code__.co_firstlineno
    message = refusal(over(photo_folder, [brighter, CROP, *SCALED]))
    assert f"`brighter (test_refusals.py:{line})` at transform[0]: {UNSEEN}" in message


def square_if_wide(image: Any) -> Any:
    missing = max(0, image.width - image.height)
    return v2.functional.pad(image, [0, missing // 2, 0, missing - missing // 2])


def halved_bicubically(image: Any) -> Any:
    while min(image.size) >= 128:
        image = image.resize((image.width // 2, image.height // 2))
    scale = 64 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    x, y = (image.width - 64) // 2, (image.height - 64) // 2
    return image.crop((x, y, x + 64, y + 64))


@pytest.mark.parametrize("function", [square_if_wide, halved_bicubically])
def test_function_that_only_nearly_makes_a_square_is_refused(
    photo_folder: Path, function: Any
) -> None:
    message = refusal(over(photo_folder, [v2.Lambda(function), v2.Resize((32, 32)), *SCALED]))
    assert f"`Lambda` at transform[0]: {UNSEEN}" in message


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class Twice(TorchLoader[Any]):
    def __iter__(self) -> Any:
        yield from super().__iter__()


def test_loader_that_is_not_torchs_plain_loader_is_refused(photo_folder: Path) -> None:
    plain = ImageFolder(str(photo_folder), v2.Compose([CROP, *SCALED]))
    assert refusal(Twice(plain)).splitlines()[1:] == [
        "  - `Twice` at loader: the class overrides `__iter__`. Pass a plain torch DataLoader."
    ]
    assert refusal(TorchLoader(plain, batch_size=None)).splitlines()[1:] == [
        "  - `None` at batch_size: torch's loader makes no batches then. Pass a `batch_size`."
    ]
    with pytest.raises(TypeError) as refused:
        silently(DataLoader(str(photo_folder), transform=TrainTransform()))  # type: ignore[arg-type]
    assert str(refused.value) == (
        "from_torch: `loader` must be a torch.utils.data.DataLoader, got "
        "dali_cutmix.loader.DataLoader."
    )
