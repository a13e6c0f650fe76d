"""``DataLoader(views=)``: so many views by one transform, as `Views` of a list makes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    ImageArrays,
    Masks,
    MixUp,
    Rows,
    SaliencyMix,
    TrainTransform,
    Views,
    Volumes,
    VolumeTransform,
)
from dali_cutmix.augmentations import ColorJitter

CROP = TrainTransform(size=(24, 16), augment=[ColorJitter(0.4)])
WHOLE = EvalTransform(resize=(24, 16), size=(24, 16))
VOLUME = VolumeTransform((4, 6, 8))
NUM = 13


def arrays() -> ImageArrays:
    """Images of 30 x 44 pixels, wider than high, whose 13 samples make a short last batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (NUM, 30, 44, 3), np.uint8)
    return ImageArrays(pixels, list(np.arange(NUM) % 3))


def loader_of(transform: Any, **settings: Any) -> DataLoader:
    settings = {"shuffle": True, "seed": 4, "device": "cpu", "num_workers": 1, **settings}
    return DataLoader(arrays(), 5, transform=transform, **settings)


def tensors(part: Any) -> list[torch.Tensor]:
    """The tensors of a batch, or of a part of one, in order."""
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, dict):
        part = part.values()
    return [tensor for inner in part for tensor in tensors(inner)]


def assert_same(batches: list[Any], wanted: list[Any]) -> None:
    assert len(batches) == len(wanted)
    for batch, other in zip(map(tensors, batches), map(tensors, wanted), strict=True):
        assert len(batch) == len(other) > 0
        assert all(map(torch.equal, batch, other))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mix": CutMix(), "dtype": torch.uint8},
        {"mix": MixUp(), "channels_last": True},
        {"mix": SaliencyMix(), "target": "pair"},
        {
            "mix": CutMix(),
            "target": {
                "mask": Masks(np.indices((NUM, 30, 44)).sum(0).astype(np.uint8)),
                "rows": Rows(np.eye(NUM)),
            },
        },
    ],
    ids=["plain", "cutmix", "mixup", "saliency", "annotations"],
)
def test_a_number_of_views_is_a_list_of_so_many_equal_transforms(
    count: int, settings: dict[str, Any]
) -> None:
    with loader_of(CROP, views=count, **settings) as loader:
        batches = list(loader)
        assert loader.views == count
        assert loader.transform == Views([CROP] * count)
    for images, *_ in batches:
        assert type(images) is list
        assert len(images) == count
    with loader_of(Views([CROP] * count), **settings) as loader:
        assert_same(batches, list(loader))


@pytest.mark.parametrize("mix", [None, CutMix(), SaliencyMix()])
def test_two_views_are_two_loaders_of_one_seed(mix: Any) -> None:
    """This transform draws nothing, so that a loader alone makes the second view too."""
    with loader_of(WHOLE, views=2, mix=mix) as loader, loader_of(WHOLE, mix=mix) as other:
        for (images, target), (image, label) in zip(loader, other, strict=True):
            assert torch.equal(images[0], image)
            assert torch.equal(images[1], image)
            assert torch.equal(target, label)


def test_the_first_view_is_that_of_a_loader_without_views_and_the_second_draws_apart() -> None:
    with loader_of(CROP, views=2, mix=CutMix()) as loader, loader_of(CROP, mix=CutMix()) as other:
        for (images, target), (image, label) in zip(loader, other, strict=True):
            assert torch.equal(images[0], image)
            assert torch.equal(target, label)
            assert not (images[0] == images[1]).flatten(1).all(1).any()


def test_without_a_number_views_are_as_the_transform_says() -> None:
    assert loader_of(CROP).views is None
    assert loader_of(Views([CROP, WHOLE, CROP])).views == 3
    image, _ = next(iter(loader_of(CROP, views=None)))
    assert image.shape == (5, 3, 24, 16)


def test_states_of_both_spellings_are_those_of_one_run() -> None:
    with loader_of(CROP, views=2) as loader, loader_of(Views([CROP] * 2)) as other:
        wanted = list(other)[1:]
        next(iter(loader))
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert_same(list(other), wanted)
        with pytest.raises(ValueError, match="transform is 'TrainTransform' here and 'Views' in"):
            loader_of(CROP).load_state_dict(loader.state_dict())


def test_a_translated_loader_takes_a_number_of_views(photo_folder: Path) -> None:
    steps = [v2.RandomResizedCrop((24, 16)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    dataset = ImageFolder(photo_folder, v2.Compose(steps))
    lines: list[str] = []
    settings = {"report": lines.append, "device": "cpu", "views": 2}
    with DataLoader.from_torch(TorchLoader(dataset, 5), **settings) as loader:
        images, label = next(iter(loader))
    assert [tuple(image.shape) for image in images] == [(5, 3, 24, 16)] * 2
    assert label.tolist() == [0] * 5
    report = "\n".join(lines)
    assert "Yields a list of 2 images" in report
    assert "views=2," in report


def test_the_number_of_views_cannot_be_changed_later() -> None:
    loader = loader_of(CROP, views=2)
    with pytest.raises(AttributeError, match=r"^DataLoader: `views` cannot be changed after"):
        loader.views = 3


@pytest.mark.parametrize(
    ("views", "transform", "message"),
    [
        *[
            (
                views,
                CROP,
                f"`views` must be a whole number of at least 1, got {views!r}. None makes one "
                "image, and no list.",
            )
            for views in (0, -2, 2.0, True, "2", [CROP, CROP])
        ],
        (
            2,
            Views([WHOLE]),
            "`views` must be left out with Views, got 2. `transform` has a transform for each "
            "view already.",
        ),
        (
            2,
            [WHOLE, WHOLE],
            "`transform` must be a TrainTransform, EvalTransform, Compose or Views, got "
            f"{[WHOLE, WHOLE]!r}. `Views([...])` makes an image by each transform of a list.",
        ),
        (
            2,
            TrainTransform,
            "`transform` must be a TrainTransform, EvalTransform, Compose or Views, got "
            f"{TrainTransform!r}. torchvision's cannot run in the graph: `DataLoader.from_torch` "
            "translates them.",
        ),
    ],
)
def test_views_that_cannot_be_made_are_refused(views: Any, transform: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'DataLoader: {message}')}$"):
        loader_of(transform, views=views)


def test_views_of_volumes_are_refused() -> None:
    source = Volumes([np.zeros((6, 8, 10), np.uint8)] * 3)
    message = (
        "DataLoader: `views` must be left out with a VolumeTransform, got 2. Views of volumes are "
        "not made."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DataLoader(source, 2, transform=VOLUME, views=2)
