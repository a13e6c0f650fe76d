"""Lists of public scripts translate, and evaluate to the pixels of the torch loader."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Subset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import dali_cutmix
import public_lists
import research_lists
from public_lists import PublicList
from torch_loaders import cifar, refusal, silently

TRAINING = [*public_lists.TRAINING, *research_lists.TRAINING]
EVALUATION = [*public_lists.EVALUATION, *research_lists.EVALUATION]


@pytest.fixture(scope="module")
def square_folder(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two square photographs of equal size."""
    root = tmp_path_factory.mktemp("squares")
    for name in ("china", "flower"):
        (root / name).mkdir()
        for path in sorted((photo_folder / name).glob("*.jpg"))[:2]:
            Image.open(path).resize((64, 64)).save(root / name / path.name)
    return root


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Equal draws of the torch loaders: timm asks Pillow 13 for no bits once in 500 images."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def loader_of(entry: PublicList, transform: Any, photos: Path, squares: Path) -> TorchLoader[Any]:
    if entry.data == "arrays":
        return TorchLoader(Subset(cifar(transform), range(4)), batch_size=4)
    root = squares if entry.data == "squares" else photos
    return TorchLoader(Subset(ImageFolder(root, transform), range(4)), batch_size=4)


def names(entries: Sequence[PublicList]) -> list[str]:
    assert len({entry.repository for entry in entries}) == len(entries)
    return [entry.repository for entry in entries]


@pytest.mark.parametrize("entry", TRAINING, ids=names(TRAINING))
def test_public_training_list_translates_or_shows_the_way_out(
    photo_folder: Path, square_folder: Path, entry: PublicList
) -> None:
    reference = loader_of(entry, entry.transform(), photo_folder, square_folder)
    if entry.refusal is not None:
        assert entry.refusal in refusal(reference)
        return
    loader = silently(reference)
    expected = reference.dataset[0][0]
    assert (loader.transform.output_size, loader.dtype) == (expected.shape[1:], expected.dtype)


TRANSLATED = [entry for entry in TRAINING if entry.refusal is None]


def parts_of(transform: Any) -> list[type]:
    """Return the class of a transform, followed by those of its parts."""
    parts = getattr(transform, "transforms", ())
    return [type(transform), *(kind for part in parts for kind in parts_of(part))]


def covered() -> list[Any]:
    """Return ``TRANSLATED``; lists without a new pair of neighbouring parts are ``full``.

    Tests of each part have what its settings change.
    """
    marked = []
    seen: set[Any] = set()
    for entry in TRANSLATED:
        pairs = {*pairwise([entry.data, *parts_of(entry.transform()), None])}
        marks = () if pairs - seen else pytest.mark.full
        marked.append(pytest.param(entry, marks=marks, id=entry.repository))
        seen |= pairs
    return marked


@pytest.mark.slow
@pytest.mark.parametrize("entry", covered())
def test_public_training_list_serves_images_like_the_torch_loaders(
    photo_folder: Path, square_folder: Path, entry: PublicList
) -> None:
    reference = loader_of(entry, entry.transform(), photo_folder, square_folder)
    loader = silently(reference, device="cpu")
    image, label = next(iter(loader))
    expected, expected_label = next(iter(reference))
    assert torch.equal(label, expected_label)
    assert (image.shape, image.dtype) == (expected.shape, expected.dtype)
    mean = torch.tensor(loader.transform.mean).view(-1, 1, 1)
    std = torch.tensor(loader.transform.std).view(-1, 1, 1)
    pixels = image * std + mean
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    assert (pixels.amax((1, 2, 3)) > pixels.amin((1, 2, 3))).any()


def statistics_of(entry: PublicList) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation, ``[channels, 1, 1]``, that a list makes black and white images of."""
    side = {"photos": 300, "squares": 64, "arrays": 32}[entry.data]
    black, white = (
        entry.transform()(Image.new("RGB", (side, side), (level,) * 3)) for level in (0, 255)
    )
    middle = np.s_[:, black.shape[1] // 2, black.shape[2] // 2]
    std = 1 / (white[middle].double() - black[middle].double())
    return (-black[middle] * std).view(-1, 1, 1), std.view(-1, 1, 1)


@pytest.mark.parametrize("entry", EVALUATION, ids=names(EVALUATION))
def test_public_evaluation_list_gives_the_torch_loaders_pixels(
    photo_folder: Path, square_folder: Path, entry: PublicList
) -> None:
    reference = loader_of(entry, entry.transform(), photo_folder, square_folder)
    if entry.refusal is not None:
        assert entry.refusal in refusal(reference)
        return
    loader = silently(reference, device="cpu")
    image, label = next(iter(loader))
    expected, expected_label = next(iter(reference))
    assert torch.equal(label, expected_label)
    assert (image.shape, image.dtype) == (expected.shape, expected.dtype)
    mean, std = statistics_of(entry)
    if ((image - expected).abs() * std * 255).max() < 2.01:
        return
    geometry = [
        v2.Resize(part.size, part.interpolation) if hasattr(part, "antialias") else part
        for part in entry.transform().transforms
        if isinstance(part, (v1.Resize, v1.CenterCrop, v2.Resize, v2.CenterCrop))
    ]
    scaling = v1.Normalize(mean.flatten().tolist(), std.flatten().tolist())
    parts = [v1.PILToTensor(), *geometry, v1.ConvertImageDtype(torch.float32), scaling]
    on_tensors = loader_of(entry, v1.Compose(parts), photo_folder, square_folder)
    assert ((image - next(iter(on_tensors))[0]).abs() * std * 255).max() < 0.01


def test_readme_says_how_many_public_lists_translate() -> None:
    readme = (Path(dali_cutmix.__file__).parent / "from_torch" / "README.md").read_text()
    for name, entries in (("training", TRAINING), ("evaluation", EVALUATION)):
        num_translated = sum(entry.refusal is None for entry in entries)
        assert f"{num_translated} of {len(entries)} {name} lists" in readme
