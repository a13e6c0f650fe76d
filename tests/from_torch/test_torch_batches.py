"""`DataLoader.from_torch` yields the batches of the torch loader, or their distribution."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    Subset,
    default_collate,
)
from torchvision import models, tv_tensors
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

from dali_cutmix import EvalTransform
from torch_loaders import (
    CROP,
    FLOATS,
    MEAN,
    RAW,
    SCALED,
    STD,
    choice,
    cifar,
    cutmix,
    labels,
    over,
    silently,
)


@pytest.mark.parametrize("back_end", ["PIL", "tensor"])
@pytest.mark.parametrize(
    "geometry",
    [
        [v2.Resize(96), v2.CenterCrop(64)],
        [v2.Resize((80, 70)), v2.CenterCrop(64)],
        [v2.Resize((60, 90))],
    ],
    ids=["short side", "both sides, center", "both sides"],
)
def test_evaluation_yields_the_torch_loaders_batches(
    photo_folder: Path, geometry: list[Any], back_end: str
) -> None:
    parts = [*geometry, *FLOATS] if back_end == "PIL" else [*RAW, *geometry, *FLOATS]
    reference = over(photo_folder, parts, batch_size=8)
    loader = silently(reference)
    assert len(loader) == len(reference)
    for (image, label), (expected, expected_label) in zip(loader, reference, strict=True):
        assert torch.equal(label, expected_label)
        assert image.dtype == expected.dtype
        assert image.shape == expected.shape
        levels = (image - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255
        assert levels.max() < (1.01 if back_end == "PIL" else 1e-3)


@pytest.mark.parametrize("size", [(32, 48), 64])
def test_flipped_whole_images_are_the_torch_loaders(photo_folder: Path, size: Any) -> None:
    """The list of most tutorials: each image is one of the two that torchvision draws from."""
    size = (size, size) if isinstance(size, int) else size
    parts = [v1.Resize(size), v1.RandomHorizontalFlip(), v1.ToTensor()]
    loader = silently(over(photo_folder, v1.Compose(parts), batch_size=21), seed=1)
    plain = over(photo_folder, v1.Compose([parts[0], parts[2]]), batch_size=21)
    expected = next(iter(plain))[0]
    flipped = []
    for _ in range(4):
        image = next(iter(loader))[0]
        apart = [(image - one).abs().amax((1, 2, 3)) * 255 for one in (expected, expected.flip(3))]
        assert torch.minimum(*apart).max() < 1.01
        flipped += (apart[1] < apart[0]).tolist()
    # Of 84 flips, the number has a standard deviation of 4.6.
    assert abs(sum(flipped) - 42) < 4 * 4.6


def test_pretrained_weights_preset_yields_its_pixels(photo_folder: Path) -> None:
    preset = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    reference = over(photo_folder, preset)
    loader = silently(reference)
    assert loader.transform == EvalTransform(256, 224, mean=MEAN, std=STD)
    image, expected = next(iter(loader))[0], next(iter(reference))[0]
    assert ((image - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255).max() < 1.01


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [4, 7, 21])
def test_length_and_order_are_the_torch_loaders(
    photo_folder: Path, batch_size: int, drop_last: bool
) -> None:
    reference = over(
        photo_folder, [v2.Resize((8, 8)), *RAW], batch_size=batch_size, drop_last=drop_last
    )
    loader = silently(reference)
    assert len(loader) == len(reference)
    assert labels(loader) == labels(reference)


def test_images_of_one_size_in_memory_need_no_resize() -> None:
    reference = TorchLoader(cifar(v1.ToTensor(), (24, 32)), batch_size=5)
    loader = silently(reference)
    for (image, label), (expected, expected_label) in zip(loader, reference, strict=True):
        assert torch.allclose(image, expected, atol=1e-6)
        assert torch.equal(label, expected_label)


def test_folder_that_is_read_by_pillow_by_name_is_taken(numbered_folder: Path) -> None:
    transform = v2.Compose([v2.Resize((8, 8)), *RAW])
    reference = TorchLoader(ImageFolder(str(numbered_folder), transform, loader=pil_loader))
    loader = silently(reference)
    assert labels(loader) == labels(reference)
    assert reference.dataset.transform is transform
    assert reference.dataset.loader is pil_loader


def test_part_of_a_dataset_stays_that_part(photo_folder: Path) -> None:
    data = ImageFolder(str(photo_folder), v2.Compose([v2.Resize((8, 8)), *RAW]))
    part = Subset(Subset(data, range(3, 18)), [14, 0, 0, 7])
    reference = TorchLoader(part, batch_size=3)
    loader = silently(reference)
    assert labels(loader) == labels(reference) == [[2, 0, 0], [1]]


FLOAT_IMAGES = {tv_tensors.Image: torch.float32, "others": None}


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
    reference = over(photo_folder, [*RAW, v2.Resize((40, 40)), *parts])
    loader = silently(reference)
    image, expected = next(iter(loader))[0], next(iter(reference))[0]
    assert image.dtype == expected.dtype == dtype
    if mean is not None:
        assert loader.transform.mean == pytest.approx(mean)
        assert loader.transform.std == pytest.approx(std)
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.uint8: 0}[dtype]
    largest = expected.double().abs().max().item()
    assert (image.double() - expected.double()).abs().max() <= tolerance * largest


@pytest.mark.parametrize(
    ("before", "value", "levels"),
    [
        (FLOATS, 0, (124, 116, 104)),
        (FLOATS, (1, -1, 0.5), (182, 59, 132)),
        (SCALED, 0.2, (51, 51, 51)),
        (RAW, (3, 2, 1), (3, 2, 1)),
    ],
)
def test_erased_pixels_have_torchvisions_color(
    photo_folder: Path, before: list[Any], value: Any, levels: tuple[int, ...]
) -> None:
    erase = v2.RandomErasing(1.0, (0.3, 0.3), (1, 1), value)
    reference = over(photo_folder, [CROP, *before, erase])
    loader = silently(reference)
    (augmentation,) = loader.transform.augment
    assert augmentation.value == levels

    def color(loader: Any) -> torch.Tensor:
        """The most frequent number of each channel."""
        pixels = next(iter(loader))[0].permute(1, 0, 2, 3).flatten(1)
        return pixels.double().mode(dim=1).values

    tolerance = 0.51 / 255 / min(STD) if before is FLOATS else 1e-6
    assert (color(loader) - color(reference)).abs().max() < tolerance


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixels tell their place: red is the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 128)], 2).astype(np.uint8)


@pytest.fixture(scope="module")
def place_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image, 200 times in each of three classes, whose pixels tell their place."""
    root = tmp_path_factory.mktemp("places")
    for name in "abc":
        (root / name).mkdir()
        for number in range(200):
            path = root / name / f"{number}.png"
            if name == "a" and number == 0:
                Image.fromarray(coordinates(150, 240)).save(path, compress_level=1)
            else:
                shutil.copy(root / "a" / "0.png", path)
    return root


def corners(image: torch.Tensor) -> dict[str, np.ndarray]:
    """Area, log of the ratio and centre of crops, and which are mirrored, from corner pixels."""
    rows, columns = image[:, 0].double().numpy(), image[:, 1].double().numpy()
    mirrored = columns[:, 0, 0] > columns[:, 0, -1]
    num = rows.shape[1]
    # An output pixel's value is the mean place it covers: a crop is one step more than they span.
    tall = (rows[:, -1, 0] - rows[:, 0, 0]) * num / (num - 1)
    wide = np.abs(columns[:, 0, -1] - columns[:, 0, 0]) * num / (num - 1)
    return {
        "area": tall * wide,
        "ratio": np.log(wide / tall),
        "y": (rows[:, -1, 0] + rows[:, 0, 0]) / 2,
        "x": (columns[:, 0, -1] + columns[:, 0, 0]) / 2,
        "mirrored": mirrored,
    }


@pytest.mark.parametrize(
    "crop",
    [
        v2.RandomResizedCrop(16),
        pytest.param(
            v1.RandomResizedCrop(16, (0.3, 0.6), (0.5, 1.0)), marks=pytest.mark.slow, id="arguments"
        ),
    ],
)
def test_crops_and_flips_have_the_torch_loaders_distribution(place_folder: Path, crop: Any) -> None:
    reference = over(place_folder, [crop, v2.RandomHorizontalFlip(0.3), *RAW], batch_size=600)
    loader = silently(reference, seed=3)
    torch.manual_seed(0)
    num = 2
    measured = [
        corners(torch.cat([next(iter(one))[0] for _ in range(num)])) for one in (loader, reference)
    ]
    mine, other = measured
    share, wanted = mine.pop("mirrored").mean(), other.pop("mirrored").mean()
    # The share of 1200 flips has a standard error of 0.0132, the difference 0.0187.
    assert abs(share - 0.3) < 4 * 0.0132
    assert abs(share - wanted) < 4 * 0.0187
    for name, found in mine.items():
        # Fixed seeds: at this threshold a right implementation fails for one seed in 1000.
        assert ks_2samp(found, other[name]).pvalue > 0.001, name


@pytest.mark.slow
def test_resized_random_crops_have_the_torch_loaders_distribution(place_folder: Path) -> None:
    reference = over(place_folder, [v2.Resize(64), v2.RandomCrop((32, 48)), *RAW], batch_size=600)
    loader = silently(reference)
    torch.manual_seed(0)
    mine, other = (corners(next(iter(one))[0]) for one in (loader, reference))
    # 33 rows and 55 columns to start from, each 150 / 64 of the stored pixels apart.
    for name, num in (("y", 33), ("x", 55)):
        places = np.round(mine[name] * 64 / 150 * 2) / 2
        assert len(np.unique(places)) > 0.95 * num
        assert ks_2samp(places, np.round(other[name] * 64 / 150 * 2) / 2).pvalue > 0.001, name


def test_padded_crops_have_the_torch_loaders_distribution() -> None:
    """CIFAR's recipe: each of 9 x 9 places, read from where the black border lies."""
    data = cifar(v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *RAW]))
    data.data = np.tile(coordinates(32, 32)[None] + 50, (2000, 1, 1, 1)).astype(np.uint8)
    data.targets = [0] * 2000
    reference = TorchLoader(data, batch_size=2000)
    loader = silently(reference)
    torch.manual_seed(0)
    places = []
    for each in (loader, reference):
        image = next(iter(each))[0].int()
        middle = image[:, :2, 16, 16]
        step = image[:, 1, 16, 17] - image[:, 1, 16, 16]
        places.append([middle[:, 0], middle[:, 1], step])
        # What lies beyond the border is black.
        black = (image[:, 2] == 0).sum(dim=(1, 2))
        assert black.max() == 32 * 32 - 28 * 28
    for mine, other in zip(*places, strict=True):
        assert mine.unique().tolist() == other.unique().tolist()
        assert ks_2samp(mine.numpy(), other.numpy()).pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("mix", [cutmix, choice], ids=["CutMix", "RandomChoice"])
def test_mixing_has_the_collate_functions_distribution(photo_folder: Path, mix: Any) -> None:
    """How much is kept, as the targets tell, and whose pixels are there."""
    reference = over(
        photo_folder,
        [v2.Resize((16, 16)), *SCALED],
        batch_size=3,
        drop_last=True,
        sampler=[0, 7, 14] * 100,
        collate_fn=lambda batch: mix(*default_collate(batch)),
    )
    loader = silently(reference)
    torch.manual_seed(0)
    kept = []
    for each in (loader, reference):
        targets = torch.cat([next_target for _, next_target in each])
        assert targets.shape == (300, 3)
        assert torch.allclose(targets.sum(1), torch.ones(300))
        rows = targets.reshape(100, 3, 3)
        # The partner is the sample before, and one number goes for the whole batch.
        own = rows[:, range(3), range(3)]
        before = rows[:, range(3), [2, 0, 1]]
        assert torch.allclose(own + before, torch.ones(100, 3))
        assert torch.allclose(own, own[:, :1].expand(100, 3))
        kept.append(own[:, 0].numpy())
    assert ks_2samp(*kept).pvalue > 0.001


FILL = {Image.Image: 127, tv_tensors.Image: 90, torch.Tensor: 60, "others": 0}


@pytest.mark.parametrize(
    ("first", "color"), [([], 127), ([v2.ToImage()], 90), ([v2.PILToTensor()], 60)]
)
@pytest.mark.parametrize(
    "part",
    [
        v2.Pad(3, fill=FILL),
        v2.RandomRotation((30, 30), fill=FILL),
        v2.RandomCrop((30, 38), padding=3, fill=FILL),
        v2.RandomAffine((20, 20), fill=FILL),
    ],
    ids=lambda part: type(part).__name__,
)
def test_colors_by_class_of_image_are_those_of_the_torch_loader(
    first: Any, color: int, part: Any
) -> None:
    parts = [*first, part, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    reference = TorchLoader(cifar(v2.Compose(parts), (24, 32)), batch_size=12)
    for image in (next(iter(each))[0].cpu() for each in (silently(reference), reference)):
        assert image.shape[2:] in ((24, 32), (30, 38))
        assert ((image[..., 0, 0] * 255).round() == color).all()


@pytest.mark.parametrize("size", [(24, 32), (40, 50)])
def test_centre_beyond_the_border_behind_normalize_is_the_mean(size: Any) -> None:
    parts = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD), v1.CenterCrop(size)])
    reference = TorchLoader(cifar(parts, (24, 32)), batch_size=12)
    image, expected = (next(iter(each))[0] for each in (silently(reference), reference))
    assert (image.cpu() - expected).abs().max() < 0.51 / 255 / min(STD)
