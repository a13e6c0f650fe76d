"""Steps that bring images into shape: the pixels of timm's classes and of scripts."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from timm.data import transforms as timm_transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dali_cutmix.augmentations import (
    ADMCrop,
    CenterCrop,
    RandomCrop,
    ResizeKeepRatio,
    SquareCrop,
    SquarePad,
    TrimBorder,
)
from steps import applied, as_tensor, draw, same_distribution

SIZES = [(60, 84), (33, 32), (48, 31), (29, 90), (64, 64), (131, 97)]


@pytest.fixture(scope="module")
def images(photos: list[np.ndarray]) -> list[np.ndarray]:
    """Photographs of different sizes."""
    cut = [photos[i % 3][150 : 150 + h, 200 : 200 + w] for i, (h, w) in enumerate(SIZES)]
    return list(map(np.array, cut))


def assert_equal(ours: Sequence[np.ndarray], theirs: Sequence[Any]) -> None:
    for image, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(image, np.asarray(expected))


def center_crop_arr(image: Image.Image, size: int) -> Image.Image:
    """As guided-diffusion's function of this name."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(
        tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC
    )
    array = np.array(image)
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return Image.fromarray(array[y : y + size, x : x + size])


def random_crop_arr(image: Image.Image, size: int, low: float = 0.8, high: float = 1.0) -> Any:
    """As guided-diffusion's function of this name, and the numbers drawn."""
    short = random.randrange(math.ceil(size / high), math.ceil(size / low) + 1)
    while min(*image.size) >= 2 * short:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = short / min(*image.size)
    image = image.resize(
        tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC
    )
    array = np.array(image)
    y = random.randrange(array.shape[0] - size + 1)
    x = random.randrange(array.shape[1] - size + 1)
    return array[y : y + size, x : x + size], short


def square_pad(image: Image.Image, fill: int = 0, mode: str = "constant") -> Image.Image:
    """As the class of many scripts, which leaves one pixel out where a side is odd."""
    side = max(image.size)
    x, y = (int((side - each) / 2) for each in image.size)
    return F.pad(image, [x, y, x, y], fill, mode)


def expand2square(image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """As LLaVA's function of this name."""
    width, height = image.size
    side = max(width, height)
    result = Image.new("RGB", (side, side), color)
    result.paste(image, ((side - width) // 2, (side - height) // 2))
    return result


SHAPES: list[tuple[Any, Any]] = [
    (TrimBorder(4), timm_transforms.TrimBorder(4)),
    *(
        (ResizeKeepRatio(size, longest, kernel), timm_transforms.ResizeKeepRatio(size, *settings))
        for size, longest, kernel in [
            (40, 0.0, "lanczos"),
            ((40, 33), 1.0, "lanczos"),
            (50, 0.4, "box"),
        ]
        for settings in [(longest, kernel)]
    ),
    *(
        (CenterCrop(size, *border), timm_transforms.CenterCropOrPad(size, *border))
        for size in [(50, 37), (71, 44)]
        for border in [(), ((9, 8, 7),), (0, "edge"), (0, "reflect"), (0, "symmetric")]
    ),
    (SquarePad(position="equal"), square_pad),
    (SquarePad(5, "edge", "equal"), lambda image: square_pad(image, mode="edge")),
    (SquarePad((1, 2, 3)), lambda image: expand2square(image, (1, 2, 3))),
    (
        SquarePad(7, position="start"),
        lambda image: F.pad(image, [0, 0, *(max(image.size) - s for s in image.size)], 7),
    ),
    (
        SquareCrop("even"),
        lambda image: F.center_crop(image, [min(image.size)] * 2),
    ),
    (
        SquareCrop(),
        lambda image: np.asarray(image)[
            (image.height - min(image.size)) // 2 : (image.height + min(image.size)) // 2,
            (image.width - min(image.size)) // 2 : (image.width + min(image.size)) // 2,
        ],
    ),
    (ADMCrop(24), lambda image: center_crop_arr(image, 24)),
    (ADMCrop(9), lambda image: center_crop_arr(image, 9)),
    (ADMCrop(80), lambda image: center_crop_arr(image, 80)),
]


def step_id(value: Any) -> str:
    return "" if callable(value) else str(value)


@pytest.mark.parametrize(("step", "theirs"), SHAPES, ids=step_id)
def test_step_makes_the_pixels_of_its_source_of_images_of_any_size(
    step: Any, theirs: Any, images: list[np.ndarray]
) -> None:
    wanted = [theirs(Image.fromarray(image)) for image in images]
    ours = applied(step, images, draw(step, len(images)))
    assert_equal(ours, wanted)
    for image, result in zip(images, ours, strict=True):
        assert step.size_behind(image.shape[:2]) in (None, result.shape[:2])


@pytest.mark.parametrize("size", [24, 9, 80])
def test_operators_of_a_gpu_halve_and_crop_as_pillow(size: int, images: list[np.ndarray]) -> None:
    images = [*images, np.array(images[0][:48, :72])]
    step = ADMCrop(size)
    ours = applied(step, images, draw(step, len(images)), on_threads=False)
    for image, result in zip(images, ours, strict=True):
        wanted = np.asarray(center_crop_arr(Image.fromarray(image), size))
        difference = np.abs(result.astype(int) - wanted)[1:-1, 1:-1]
        assert difference.mean() < 3


def test_ratio_and_scale_are_distributed_as_timms() -> None:
    num, image = 1500, np.zeros((60, 80, 3), np.uint8)
    settings: dict[str, Any] = {
        "random_scale_prob": 0.5,
        "random_scale_range": (0.5, 1.0),
        "random_aspect_prob": 0.6,
        "random_aspect_range": (0.8, 1.3),
    }
    step = ResizeKeepRatio(64, scale_prob=0.5, scale=(0.5, 1.0), aspect_prob=0.6, aspect=(0.8, 1.3))
    random.seed(0)
    theirs = [
        timm_transforms.ResizeKeepRatio.get_params(
            as_tensor(image), (64, 64), 0.0, random_scale_area=True, **settings
        )
        for _ in range(num)
    ]
    ours = [result.shape[:2] for result in applied(step, [image] * num, draw(step, num))]
    for numbers in (lambda s: s[0], lambda s: s[1], lambda s: s[0] / s[1], lambda s: s[0] * s[1]):
        assert ks_2samp(list(map(numbers, ours)), list(map(numbers, theirs))).pvalue > 0.001


def test_random_crops_of_halved_images_are_distributed_as_the_scripts(
    images: list[np.ndarray],
) -> None:
    """Every crop of ours is one of theirs, as often."""
    num, size = 600, 9
    picture = Image.fromarray(images[0][:24, :20])
    random.seed(0)
    theirs = Counter(random_crop_arr(picture, size)[0].tobytes() for _ in range(5 * num))
    step = ADMCrop(size, (0.8, 1.0))
    ours = Counter(
        crop.tobytes() for crop in applied(step, [np.asarray(picture)] * num, draw(step, num))
    )
    assert set(ours) <= set(theirs)
    same_distribution(ours, theirs)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_an_image_that_is_too_small_lands_anywhere_in_a_continued_crop(
    mode: Any, images: list[np.ndarray]
) -> None:
    image, num = np.array(images[0][:9, :20]), 400
    step = RandomCrop(12, padding_mode=mode)
    crops = applied(step, [image] * num, draw(step, num))
    wide = np.asarray(F.pad(Image.fromarray(image), [0, 3, 0, 3], padding_mode=mode))
    windows = {wide[y : y + 12, x : x + 12].tobytes(): (y, x) for y in range(4) for x in range(9)}
    counts = Counter(windows[crop.tobytes()] for crop in crops)
    assert len(counts) == 36
    assert chisquare(list(counts.values())).pvalue > 0.001
    theirs = v2.RandomCrop(12, pad_if_needed=True, padding_mode=mode)
    assert np.asarray(theirs(Image.fromarray(image))).tobytes() in windows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SquarePad(padding_mode="reflect"),  # type: ignore[arg-type]
            "SquarePad: `padding_mode` must be one of 'constant', 'edge', got 'reflect'.",
        ),
        (
            lambda: ADMCrop(8, (0, 1)),
            "ADMCrop: `scale` must start above 0, got (0, 1).",
        ),
        (
            lambda: ResizeKeepRatio(8, 1.5),
            "ResizeKeepRatio: `longest` must be in [0, 1], got 1.5.",
        ),
    ],
)
def test_bad_shapes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        make()
    assert str(caught.value) == message
