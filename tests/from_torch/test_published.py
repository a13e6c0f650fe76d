"""Scripts' copies of published classes are recognised by what they draw, and others refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.stats import ks_2samp
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1

from dali_cutmix import augmentations
from public_lists import (
    EIGVAL,
    EIGVEC,
    CIFAR10Policy,
    OwnCutout,
    OwnErasing,
    OwnLighting,
    OwnPolicy,
    SubPolicy,
)
from torch_loaders import CROP, FLOATS, SCALED, cifar, notes, over, refusal, silently


class SquareByTorch:
    """A square of some images, as of davda54/sam."""

    def __init__(self, size: int = 16, p: float = 0.5) -> None:
        self.size, self.half_size, self.p = size, size // 2, p

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if torch.rand([1]).item() > self.p:
            return image
        left = int(torch.randint(-self.half_size, image.size(1) - self.half_size, [1]))
        top = int(torch.randint(-self.half_size, image.size(2) - self.half_size, [1]))
        right = min(image.size(1), left + self.size)
        bottom = min(image.size(2), top + self.size)
        image[:, max(0, left) : right, max(0, top) : bottom] = 0
        return image


class LightingOfPillow:
    """The noise on Pillow images, as of JiahuiYu/slimmable_networks."""

    def __init__(self, alphastd: float) -> None:
        self.alphastd = alphastd

    def __call__(self, image: Image.Image) -> Image.Image:
        alpha = np.random.randn(3) * self.alphastd
        color = np.sum(EIGVEC.numpy() * alpha.astype("float32") * EIGVAL.numpy(), 1) * 255
        pixels = np.asarray(image).astype(np.float32) + color.astype(np.float32)
        return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


class ImageJitter:
    """Pillow's enhancements, as of wyharveychen/CloserLookFewShot."""

    def __init__(self, bounds: dict[str, float]) -> None:
        self.transforms = [(getattr(ImageEnhance, name), bounds[name]) for name in bounds]

    def __call__(self, image: Image.Image) -> Image.Image:
        shares = torch.rand(len(self.transforms))
        for number, (enhance, alpha) in enumerate(self.transforms):
            factor = alpha * (shares[number] * 2.0 - 1.0) + 1
            image = enhance(image).enhance(float(factor)).convert("RGB")
        return image


MEAN_COLOR = (124, 116, 104)
PUBLISHED = {
    "Cutout": ([*FLOATS, OwnCutout(1, 16)], [augmentations.EraseSquares(16, value=MEAN_COLOR)]),
    "Cutout, odd": (
        [*SCALED, OwnCutout(3, 7)],
        [augmentations.EraseSquares(6, 3, value=(0, 0, 0))],
    ),
    "Cutout by torch": (
        [*SCALED, SquareByTorch(15, 0.3)],
        [augmentations.EraseSquares(15, 1, 0.3, (0, 0, 0))],
    ),
    "Random Erasing": (
        [*SCALED, OwnErasing(0.4)],
        [
            augmentations.RandomErasing(
                0.4, (0.02, 0.4), (0.3, 1 / 0.3), (125, 123, 114), log_ratio=False
            )
        ],
    ),
    "Lighting": ([*SCALED, OwnLighting(0.2, EIGVAL, EIGVEC)], [augmentations.Lighting(0.2)]),
    "Lighting of Pillow images": (
        [LightingOfPillow(0.2), *SCALED],
        [augmentations.Lighting(0.2)],
    ),
    "ImageJitter": (
        [ImageJitter({"Brightness": 0.5, "Color": 0.25}), *SCALED],
        [
            augmentations.ColorJitter(brightness=(0.5, 1.5)),
            augmentations.ColorJitter(saturation=(0.75, 1.25)),
        ],
    ),
}


@pytest.mark.parametrize(("parts", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_class_becomes_augmentations(
    photo_folder: Path, parts: list[Any], expected: list[Any]
) -> None:
    reference = over(photo_folder, v1.Compose([CROP, *parts]))
    assert list(silently(reference).transform.transforms[1:]) == expected
    assert notes(reference, "from 256 random states only")


class Mutant(OwnCutout):
    """A square that is another one for some images, or some images' sizes."""

    def __init__(self, kind: str) -> None:
        super().__init__(1, 16)
        self.kind = kind

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self.kind == "rare" and random.random() < 0.001:
            return image
        if self.kind == "bright" and image.mean() > 0.9:
            return image
        if self.kind == "ones":
            return 1 - super().__call__(1 - image)
        if self.kind == "low":
            return super().__call__(image.flip(1)[:, 8:])
        side = self.length
        if self.kind == "growing":
            self.length = 16 + np.random.randint(2)
        if self.kind == "large" and image.shape[1] > 64:
            self.length = 64
        try:
            return super().__call__(image)
        finally:
            self.length = side


@pytest.mark.parametrize("kind", ["rare", "bright", "ones", "low", "growing", "large"])
def test_class_that_does_not_quite_do_the_same_is_refused(photo_folder: Path, kind: str) -> None:
    message = refusal(over(photo_folder, [CROP, *SCALED, Mutant(kind)]))
    assert "from_torch cannot see what the" in message or "this class is another" in message


def test_noise_of_other_components_is_refused(photo_folder: Path) -> None:
    other = OwnLighting(0.1, EIGVAL, EIGVEC.flip(1))
    assert "`augmentations.Lighting(0.1)`" in refusal(over(photo_folder, [CROP, *SCALED, other]))


def rectangles(loader: Any) -> dict[str, np.ndarray]:
    """Where pixels that were white are black: of each image area, sides and corner."""
    images = torch.cat([images for images, _ in loader])
    is_black = (images[:, 0] < 0.1).numpy()
    rows, columns = is_black.any(2), is_black.any(1)
    return {
        "area": is_black.sum((1, 2)),
        "height": rows.sum(1),
        "width": columns.sum(1),
        "top": rows.argmax(1),
        "left": columns.argmax(1),
    }


class BlackErasing(OwnErasing):
    """The authors' Random Erasing by black."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "part",
    [OwnCutout(1, 12), OwnCutout(2, 8), SquareByTorch(9, 0.7), BlackErasing()],
    ids=["one square", "two squares", "a square by torch", "Random Erasing"],
)
def test_rectangles_are_distributed_as_the_classes(part: Any) -> None:
    data = cifar(v1.Compose([v1.ToTensor(), part]), (24, 24))
    data.data = np.full((2000, 24, 24, 3), 255, np.uint8)
    data.targets = [0] * 2000
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    reference = TorchLoader(data, batch_size=500)
    ours, theirs = rectangles(silently(reference, device="cpu")), rectangles(reference)
    for name in ours:
        assert ks_2samp(ours[name], theirs[name]).pvalue > 0.001, name


class Policy(OwnPolicy):
    """A policy of the pairs in the test."""

    def __init__(self, pairs: Any, fillcolor: Any = (128, 128, 128)) -> None:
        self.policies = [SubPolicy(pair, fillcolor) for pair in pairs]
        self.fillcolor = fillcolor


#: Each operation alone, always, at a strength between.
EACH = [
    [(name, 1.0, index), ("Color", 0.0, 0)]
    for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    for index in (4, 9)
] + [
    [(name, 1.0, 6), ("Color", 0.0, 0)]
    for name in ("Color", "Contrast", "Sharpness", "Brightness", "Posterize", "Solarize")
]
UNSEEDED = [[(name, 1.0, 0), ("Color", 0.0, 0)] for name in ("AutoContrast", "Equalize", "Invert")]


@pytest.mark.parametrize("pair", [*EACH, *UNSEEDED], ids=lambda pair: f"{pair[0][0]} {pair[0][2]}")
def test_step_of_a_policy_makes_pillows_images(photos: list[np.ndarray], pair: Any) -> None:
    """Up to the sign, which both draw."""
    fill = (9, 99, 199) if pair[0][0] != "Rotate" else (128, 128, 128)
    assert_is_served_as_pillow(Policy([pair], fill), photos[0])


def assert_is_served_as_pillow(part: Any, photo: np.ndarray) -> None:
    data = cifar(v1.Compose([part, v1.PILToTensor()]), (40, 60))
    data.data = np.stack([photo[100:140, 200:260]] * 12)
    reference = TorchLoader(data, batch_size=12)
    random.seed(0)
    ours, theirs = (next(iter(each))[0] for each in (silently(reference, device="cpu"), reference))
    ours, theirs = (np.unique(each.numpy().astype(np.int16), axis=0) for each in (ours, theirs))
    assert len(ours) == len(theirs)
    for image in ours:
        differences = [np.abs(image - other) for other in theirs]
        nearest = min(differences, key=lambda each: float(each.mean()))
        # A turn may take other pixels where two are as near.
        assert np.quantile(nearest, 0.998) <= 2


def policy_of(name: str, magnitude: float) -> Policy:
    """A policy of one operation, always, at any magnitude."""
    policy = Policy([[(name, 1.0, 0), ("Color", 0.0, 0)]])
    policy.policies[0].magnitude1 = magnitude
    return policy


#: By operation, the least and the largest magnitude that the graph has; and magnitudes beyond.
EDGES = {
    "ShearX": ((0.0, 0.3), (-0.2, 0.31, 0.6)),
    "ShearY": ((0.0, 0.3), (-0.2, 0.6)),
    "TranslateX": ((0.0, 150 / 331), (-0.1, 0.9)),
    "TranslateY": ((0.0, 150 / 331), (-0.1, 0.9)),
    "Rotate": ((0.0, 30.0), (-20.0, 60.0)),
    "Color": ((0.0, 0.9), (-0.5, 1.8)),
    "Contrast": ((0.0, 0.9), (-0.5, 1.5)),
    "Sharpness": ((0.0, 0.9), (-0.5, 1.5)),
    "Brightness": ((0.0, 0.9), (-0.5, 1.5)),
    "Posterize": ((4, 8), (1, 3)),
    "Solarize": ((-3, 0, 0.5, 1, 128.5, 255, 256, 300), ()),
}


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [(name, magnitude) for name, (inside, _) in EDGES.items() for magnitude in inside],
)
def test_least_and_largest_magnitude_make_pillows_images(
    photos: list[np.ndarray], name: str, magnitude: float
) -> None:
    assert_is_served_as_pillow(policy_of(name, magnitude), photos[0])


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [(name, magnitude) for name, (_, beyond) in EDGES.items() for magnitude in beyond],
)
def test_magnitude_that_the_graph_would_clip_is_refused(name: str, magnitude: float) -> None:
    data = cifar(v1.Compose([policy_of(name, magnitude), v1.PILToTensor()]))
    assert "this class is another" in refusal(TorchLoader(data, batch_size=12), device="cpu")


@pytest.mark.parametrize("change", [-0.1, 0.01])
@pytest.mark.parametrize("number", [1, 2])
def test_policy_whose_pairs_say_another_probability_is_refused(number: int, change: float) -> None:
    class Other(SubPolicy):
        def __call__(self, image: Image.Image) -> Image.Image:
            for each in (1, 2):
                prob = getattr(self, f"p{each}") + (change if each == number else 0)
                if random.random() < prob:
                    operation = getattr(self, f"operation{each}")
                    image = operation(image, getattr(self, f"magnitude{each}"))
            return image

    part = OwnPolicy()
    steps = [("Posterize", 0.4, 8), ("Rotate", 0.6, 9)]
    part.policies[7] = Other(steps, (128, 128, 128))
    data = cifar(v1.Compose([part, v1.PILToTensor()]))
    assert "this class is another" in refusal(TorchLoader(data, batch_size=12), device="cpu")


def test_policy_that_leaves_large_images_as_they_are_is_refused() -> None:
    class OfSmall(OwnPolicy):
        def __call__(self, image: Image.Image) -> Image.Image:
            return super().__call__(image) if max(image.size) <= 64 else image

    data = cifar(v1.Compose([OfSmall(), v1.PILToTensor()]))
    refusal(TorchLoader(data, batch_size=12), device="cpu")


@pytest.mark.parametrize("make", [CIFAR10Policy, OwnPolicy], ids=["CIFAR-10", "ImageNet"])
def test_images_of_a_policy_are_distributed_as_the_scripts(
    photos: list[np.ndarray], make: Any
) -> None:
    num = 1200
    data = cifar(v1.Compose([make(), v1.ToTensor()]), (24, 24))
    rng = np.random.default_rng(0)
    corners = [(int(rng.integers(400)), int(rng.integers(400))) for _ in range(num)]
    data.data = np.stack(
        [photos[i % len(photos)][y : y + 24, x : x + 24] for i, (y, x) in enumerate(corners)]
    )
    data.targets = [0] * num
    random.seed(0)
    reference = TorchLoader(data, batch_size=200)
    loader = silently(reference, device="cpu")
    plain = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    ours, theirs = (
        (torch.cat([image for image, _ in each]) * 255).round() for each in (loader, reference)
    )
    for statistic in (
        lambda image: image.mean((1, 2, 3)),
        lambda image: image.std((1, 2, 3)),
        lambda image: (image - plain).abs().mean((1, 2, 3)),
        lambda image: (image - plain)[:, :, 0].mean((1, 2)),
        lambda image: (image - plain)[..., 0].mean((1, 2)),
        lambda image: (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3)),
    ):
        assert ks_2samp(statistic(ours), statistic(theirs)).pvalue > 0.001


def test_policy_with_another_operation_or_another_choice_is_refused(photo_folder: Path) -> None:
    class FirstOfCIFAR10Policy(CIFAR10Policy):
        def __call__(self, image: Image.Image) -> Image.Image:
            return self.policies[random.randint(0, len(self.policies) - 2)](image)

    bent = CIFAR10Policy()
    bent.policies[3].operation1 = lambda image, magnitude: image.rotate(magnitude + 1)
    for part in (FirstOfCIFAR10Policy(), bent):
        assert "AutoAugment" in refusal(over(photo_folder, [CROP, part, *SCALED]))

    class MyPolicy:
        def __call__(self, image: Image.Image) -> Image.Image:
            return image.rotate(random.random())

    assert "this class is another" in refusal(over(photo_folder, [CROP, MyPolicy(), *SCALED]))
