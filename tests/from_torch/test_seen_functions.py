"""Functions of scripts are recognised by what they do, and loaders of timm by their parts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data.loader import PrefetchLoader, fast_collate
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dali_cutmix import Compose, DataLoader, EvalTransform, augmentations
from public_lists import (
    EIGVAL,
    EIGVEC,
    IMAGENET,
    OwnBlur,
    OwnCutout,
    OwnLighting,
    OwnSolarization,
)
from torch_loaders import (
    CROP,
    MEAN,
    PLAIN,
    SCALED,
    STD,
    UNSEEN,
    cifar,
    notes,
    over,
    refusal,
    silently,
)

WHOLE = v1.Resize((24, 32))
HALF = (0.5,) * 3


def on_array(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("parts", "mean", "std"),
    [
        ([v1.Lambda(lambda image: image.convert("RGB")), v1.ToTensor()], (0.0,) * 3, (1.0,) * 3),
        ([v1.ToTensor(), v1.Lambda(lambda image: image * 2 - 1)], HALF, HALF),
        ([lambda image: on_array(image).float() / 255], (0.0,) * 3, (1.0,) * 3),
        ([lambda image: on_array(image) / 127.5 - 1], HALF, HALF),
        ([v1.PILToTensor(), lambda image: image.float().div(255)], (0.0,) * 3, (1.0,) * 3),
        (
            [v1.ToTensor(), lambda image: (image - torch.tensor(HALF)[:, None, None]) / 0.5],
            HALF,
            HALF,
        ),
    ],
)
def test_function_that_converts_or_scales_is_recognised(
    photo_folder: Path, parts: list[Any], mean: Any, std: Any
) -> None:
    reference = over(photo_folder, v1.Compose([WHOLE, *parts]))
    loader = silently(reference)
    size = (24, 32)
    assert loader.transform == EvalTransform(size, size, mean=mean, std=std)
    image, expected = next(iter(loader))[0], next(iter(reference))[0]
    assert (image - expected).abs().max() < 2.01 * (expected.max() - expected.min()) / 255


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_function_that_pads_is_recognised(mode: str) -> None:
    def padded(image: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(image[None], (4, 4, 4, 4), mode=mode)[0]

    reference = TorchLoader(cifar(v1.Compose([v1.ToTensor(), padded])), batch_size=4)
    image, expected = next(iter(silently(reference)))[0], next(iter(reference))[0]
    assert torch.allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda image: image.point(lambda level: level // 2),
        lambda image: image if min(image.size) > 20 else ImageOps.invert(image),
        lambda image: image if random.random() < 0.999 else ImageOps.invert(image),
        lambda image: ImageOps.posterize(image, random.randint(7, 8)),
        OwnSolarization.__call__,
    ],
)
def test_function_that_does_something_else_is_refused(photo_folder: Path, function: Any) -> None:
    assert "from_torch cannot see" in refusal(over(photo_folder, [CROP, function, *SCALED]))


def without_black_borders(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    is_light = pixels.max(2) > 7
    rows, columns = is_light.any(1), is_light.any(0)
    return Image.fromarray(pixels[np.ix_(rows, columns)]) if rows.any() else image


def equalized_where_dim(image: Image.Image) -> Image.Image:
    return ImageOps.equalize(image) if image.getextrema()[0][1] < 240 else image


@pytest.mark.parametrize(
    "function",
    [
        lambda image: ImageOps.autocontrast(image, cutoff=0.1),
        v1.Lambda(lambda image: ImageOps.autocontrast(image, cutoff=0.1)),
        without_black_borders,
        equalized_where_dim,
        v1.Lambda(equalized_where_dim),
        lambda image: image.crop(image.getbbox()) if image.getbbox() else image,
        lambda image: image if np.asarray(image).mean() > 40 else ImageOps.invert(image),
        lambda image: image if np.asarray(image).mean() < 230 else ImageOps.invert(image),
        lambda image: ImageOps.mirror(image) if np.ptp(np.asarray(image), 2).max() == 0 else image,
    ],
)
def test_function_that_depends_on_content_is_refused(photo_folder: Path, function: Any) -> None:
    assert "from_torch cannot see" in refusal(over(photo_folder, [CROP, function, *SCALED]))


@pytest.mark.parametrize(
    "function",
    [
        lambda image: image if image.mean() > 0.3 else 1 - image,
        lambda image: (image - image.min()) / (image.max() - image.min()),
        lambda image: image / image.max(),
        lambda image: image.clamp(0.05, 1),
        lambda image: image if image.std() > 0.1 else image * 0.5,
    ],
)
def test_function_of_tensors_that_depends_on_content_is_refused(
    photo_folder: Path, function: Any
) -> None:
    assert "from_torch cannot see" in refusal(over(photo_folder, [CROP, *SCALED, function]))


class Every:
    """Change an image at every so manieth call."""

    def __init__(self, period: int, change: Any) -> None:
        self.period, self.change, self.num_calls = period, change, 0

    def __call__(self, image: Any) -> Any:
        self.num_calls += 1
        return image if self.num_calls % self.period else self.change(image)


NUM_CALLS = {"function": 0}


def counting(image: Any) -> Any:
    NUM_CALLS["function"] += 1
    return image if NUM_CALLS["function"] < 10**6 else ImageOps.invert(image)


class Cropping(Every):
    """A list, and after many calls something else."""

    def __init__(self, list_of_parts: Any) -> None:
        super().__init__(10**6, lambda image: image)
        self.inner = list_of_parts

    def __call__(self, image: Any) -> Any:
        return self.inner(super().__call__(image))


@pytest.mark.parametrize(
    "function",
    [
        Every(3, ImageOps.invert),
        Every(10**6, ImageOps.invert),
        Every(10**6, lambda image: image),
        counting,
    ],
)
def test_function_that_counts_its_calls_is_refused(photo_folder: Path, function: Any) -> None:
    message = refusal(over(photo_folder, [CROP, function, *SCALED]))
    assert "at transform[1]: " in message
    assert "Pass `transform=`." in message or UNSEEN in message
    cropping = Cropping(v1.Compose([CROP, *SCALED]))
    assert "`Cropping` at transform: " in refusal(over(photo_folder, cropping))


class PairOf(Every):
    """Two views, and after many calls other ones."""

    def __call__(self, image: Any) -> Any:
        super().__call__(image)
        return [self.change(image), self.change(image)]


def test_function_of_views_that_counts_its_calls_is_refused(photo_folder: Path) -> None:
    pairs = PairOf(10**6, v1.Compose([CROP, *SCALED]))
    message = refusal(over(photo_folder, pairs))
    assert message.endswith(
        "`PairOf` at transform: changes what it holds at each call. Pass `transform=Views([...])`."
    )


class Thresholded(OwnSolarization):
    """Pillow's solarize by a threshold of its own."""

    threshold = 99

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image, self.threshold) if random.random() < self.p else image


def test_changes_by_chance_are_recognised(photo_folder: Path) -> None:
    parts = [CROP, OwnBlur(0.5), OwnSolarization(0.2), *SCALED]
    reference = over(photo_folder, parts)
    blur = augmentations.RandomApply([augmentations.PillowGaussianBlur((0.1, 2.0))], 0.5)
    steps = augmentations.RandomResizedCrop(32), blur, augmentations.RandomSolarize(128.0, 0.2)
    assert silently(reference).transform == Compose(steps, **PLAIN)
    assert (
        "OwnSolarization was compared with RandomSolarize(threshold=128, prob=0.2) from 256 random "
        "states only."
    ) in notes(reference)
    thresholded = Thresholded(0.2)
    transform = silently(over(photo_folder, [CROP, thresholded, *SCALED])).transform
    assert transform.transforms[1] == augmentations.RandomSolarize(99.0, 0.2)
    claimed = OwnSolarization(0.9)
    claimed.prob, claimed.p = 0.0, 0.5  # changes half of the images
    assert silently(over(photo_folder, [CROP, claimed, *SCALED]))
    lying = OwnBlur(0.5)
    lying.p = 0.1
    assert "`OwnBlur` at" in refusal(over(photo_folder, [CROP, lying, *SCALED]))


class Blur:
    """A blur that says its probability, and not its radii."""

    def __init__(self, p: float, *bounds: float) -> None:
        self.p, self.bounds = p, bounds

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.bounds)))


@pytest.mark.parametrize(
    ("prob", "bounds"),
    [(0.5, (0.1, 1.5)), (0.5, (0.5, 2.0)), (1.0, (0.4, 1.8)), (1.0, (0.1, 1.8)), (0.1, (0.1, 1.5))],
)
def test_blur_by_radii_of_another_range_is_refused(
    photo_folder: Path, prob: float, bounds: tuple[float, float]
) -> None:
    assert "`Blur` at" in refusal(over(photo_folder, [CROP, Blur(prob, *bounds), *SCALED]))


@pytest.mark.parametrize("prob", [0.1, 0.5, 1.0])
def test_blur_by_the_usual_radii_is_recognised(photo_folder: Path, prob: float) -> None:
    transform = silently(over(photo_folder, [CROP, Blur(prob, 0.1, 2.0), *SCALED])).transform
    blur: Any = augmentations.PillowGaussianBlur((0.1, 2.0))
    blur = blur if prob == 1 else augmentations.RandomApply([blur], prob)
    assert transform == Compose((augmentations.RandomResizedCrop(32), blur), **PLAIN)


class DrawnBlur:
    """A blur by a chance and a radius that are drawn by the functions in the test."""

    def __init__(self, is_drawn: Any, radius: Any, **said: Any) -> None:
        self.is_drawn, self.radius = is_drawn, radius
        vars(self).update(said)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(self.radius())) if self.is_drawn() else image


@pytest.mark.parametrize(
    ("is_drawn", "radius"),
    [
        (lambda: random.random() < 0.3, lambda: random.random() * 1.5 + 0.5),
        (lambda: np.random.rand() < 0.3, lambda: random.uniform(0.5, 2.0)),
        (lambda: np.random.uniform() <= 0.3, lambda: np.random.rand() * 1.5 + 0.5),
        (lambda: torch.rand(1).item() < 0.3, lambda: float(torch.rand(1) * 1.5 + 0.5)),
        (lambda: torch.bernoulli(torch.tensor(0.3)), lambda: float(torch.rand(1) * 1.5 + 0.5)),
    ],
    ids=["Barlow Twins", "SwAV", "VICReg", "torch", "MSN"],
)
def test_blur_by_the_chance_and_radii_that_its_class_says_is_recognised(
    photo_folder: Path, is_drawn: Any, radius: Any
) -> None:
    blur = augmentations.RandomApply([augmentations.PillowGaussianBlur((0.5, 2.0))], 0.3)
    for said in ({"sigma": (0.5, 2)}, {"radius_min": 0.5}):
        part = DrawnBlur(is_drawn, radius, prob=0.3, **said)
        transform = silently(over(photo_folder, [CROP, part, *SCALED])).transform
        assert transform == Compose((augmentations.RandomResizedCrop(32), blur), **PLAIN)
    for said in ({"prob": 0.3, "sigma": (0.1, 2)}, {"prob": 0.35, "sigma": (0.5, 2)}):
        part = DrawnBlur(is_drawn, radius, **said)
        assert "`DrawnBlur` at" in refusal(over(photo_folder, [CROP, part, *SCALED]))


@pytest.mark.parametrize("threshold", [None, -1, 0.5, np.array([1, 2]), "high"])
def test_threshold_that_the_function_does_not_take_is_no_hindrance(
    photo_folder: Path, threshold: Any
) -> None:
    part = OwnSolarization(0.4)
    part.threshold = threshold
    transform = silently(over(photo_folder, [CROP, part, *SCALED])).transform
    assert transform.transforms[1] == augmentations.RandomSolarize(128.0, 0.4)


class OwnInvert:
    """Inverts images below a chance, and says a probability."""

    def __init__(self, draw: Any, chance: float, prob: float) -> None:
        self.draw, self.chance, self.p = draw, chance, prob

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.invert(image) if self.draw() < self.chance else image


@pytest.mark.parametrize(
    "draw", [lambda: random.random(), lambda: np.random.rand(), lambda: torch.rand(1)]
)
@pytest.mark.parametrize("prob", [0.0, 0.001, 0.5, 1.0])
def test_chance_is_told_from_the_next_one(photo_folder: Path, draw: Any, prob: float) -> None:
    for chance in {max(prob - 0.0004, 0), min(prob + 0.0004, 1)} - {prob}:
        part = OwnInvert(draw, chance, prob)
        assert "`OwnInvert` at" in refusal(over(photo_folder, [CROP, part, *SCALED]))
    part = OwnInvert(draw, prob, prob)
    transform = silently(over(photo_folder, [CROP, part, *SCALED])).transform
    changes = (augmentations.RandomInvert(prob),) if prob else ()
    steps = getattr(transform, "transforms", (None,))
    assert steps[1:] == changes


class OwnTwo(OwnInvert):
    """Mirrors images by the rare last numbers of a chance."""

    def __call__(self, image: Image.Image) -> Image.Image:
        number = self.draw()
        if number > 0.9995:
            return ImageOps.mirror(image)
        return ImageOps.invert(image) if number < self.chance else image


def test_change_with_a_rare_exception_is_refused(photo_folder: Path) -> None:
    part = OwnTwo(lambda: random.random(), 0.5, 0.5)
    assert "`OwnTwo` at" in refusal(over(photo_folder, [CROP, part, *SCALED]))


class Raising:
    """A function whose attribute raises."""

    @property
    def sigma(self) -> float:
        raise RuntimeError("no sigma")

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.posterize(image, 3)


def test_attribute_that_raises_is_no_error_of_the_translation(photo_folder: Path) -> None:
    assert "`Raising` at" in refusal(over(photo_folder, [CROP, Raising(), *SCALED]))


@pytest.mark.parametrize("prob", [0.4, 0.45, 0.6])
def test_change_with_the_inverse_of_its_probability_is_refused(
    photo_folder: Path, prob: float
) -> None:
    class Inverse(OwnSolarization):
        def __call__(self, image: Image.Image) -> Image.Image:
            return ImageOps.solarize(image) if random.random() > self.p else image

    assert "`Inverse` at" in refusal(over(photo_folder, [CROP, Inverse(prob), *SCALED]))


@pytest.mark.parametrize(
    ("function", "augmentation"),
    [
        (ImageOps.autocontrast, augmentations.RandomAutocontrast(1.0)),
        (ImageOps.equalize, augmentations.RandomEqualize(1.0)),
        (ImageOps.solarize, augmentations.RandomSolarize(128.0, 1.0)),
        (lambda image: ImageOps.invert(image), augmentations.RandomInvert(1.0)),
    ],
)
def test_changes_of_every_image_are_recognised(
    photo_folder: Path, function: Any, augmentation: Any
) -> None:
    for part in (function, v1.Lambda(function), v2.Lambda(function)):
        transform = silently(over(photo_folder, [CROP, part, *SCALED])).transform
        assert transform == Compose((augmentations.RandomResizedCrop(32), augmentation), **PLAIN)


def test_a_lambda_by_chance_is_recognised_by_its_function(photo_folder: Path) -> None:
    by_chance = v1.RandomApply([v1.Lambda(ImageOps.solarize)], 0.3)
    parts = [CROP, v1.Lambda(OwnSolarization(0.2)), by_chance, *SCALED]
    transform = silently(over(photo_folder, parts)).transform
    solarize = augmentations.RandomSolarize(128.0, 1.0)
    assert transform.transforms[1:] == (
        augmentations.RandomSolarize(128.0, 0.2),
        augmentations.RandomApply((solarize,), 0.3),
    )
    of_tensors = v2.RandomApply([v2.Lambda(ImageOps.solarize, torch.Tensor)], 0.3)
    assert "`RandomApply` at" in refusal(over(photo_folder, [CROP, of_tensors, *SCALED]))


class DrawnCutout(OwnCutout):
    """A square of a side that is drawn."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return OwnCutout(self.n_holes, random.randint(1, self.length))(image)


class UniformLighting(OwnLighting):
    """Noise that is uniform."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.rand(3)[:, None, None] * self.alphastd


def test_own_classes_are_refused_with_the_line_that_does_the_same(photo_folder: Path) -> None:
    own = [DrawnCutout(2, 7), UniformLighting(0.1, EIGVAL, EIGVEC)]
    message = refusal(over(photo_folder, [CROP, *SCALED, *own]))
    assert message.splitlines()[1:] == [
        "  - `DrawnCutout` at transform[3]: from_torch cannot see what the class does. To fill "
        "squares of that side with black, pass `transform=` with "
        "`augmentations.EraseSquares(6, count=2)`.",
        "  - `UniformLighting` at transform[4]: from_torch cannot see what the class does. Where "
        "the noise is normal, along ImageNet's components, pass `transform=` with "
        "`augmentations.Lighting(0.1)`.",
    ]


def test_images_of_one_size_need_no_resize(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = np.random.default_rng(ord(name)).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / name / "0.png")
    for parts in ([v1.ToTensor()], [v1.Resize(12), v1.ToTensor()]):
        reference = over(tmp_path, v1.Compose(parts), batch_size=2)
        image, expected = next(iter(silently(reference)))[0], next(iter(reference))[0]
        assert (image - expected).abs().max() * 255 < 2.01
        assert "All images have 24 x 32 pixels, by their headers." in notes(reference)
    Image.new("RGB", (32, 25)).save(tmp_path / "b" / "1.png")
    assert "images keep different sizes" in refusal(over(tmp_path, v1.ToTensor()))


def collated(samples: Any) -> Any:
    """Apex's function: Pillow images become a batch of uint8."""
    images = torch.stack([on_array(image) for image, _ in samples])
    return images, torch.tensor([label for _, label in samples])


def test_collate_function_may_take_pillow_images(photo_folder: Path) -> None:
    reference = over(photo_folder, v1.Compose([WHOLE]), collate_fn=collated)
    loader = silently(reference)
    image, expected = next(iter(loader))[0], next(iter(reference))[0]
    assert image.dtype == expected.dtype == torch.uint8
    assert (image.int() - expected.int()).abs().max() <= 2


def test_prefetch_loader_of_timm_normalizes_behind_the_list(photo_folder: Path) -> None:
    data = ImageFolder(photo_folder, v1.Compose([WHOLE, v1.PILToTensor()]))
    inner = TorchLoader(data, 4, collate_fn=fast_collate)
    reference = PrefetchLoader(inner, *IMAGENET, device=torch.device("cpu"))
    loader = silently(reference)  # type: ignore[arg-type]
    assert loader.transform.mean == pytest.approx(MEAN)
    assert loader.transform.std == pytest.approx(STD)
    image, expected = next(iter(loader))[0], next(iter(reference))[0]
    assert ((image - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255).max() < 2.01
    erasing = PrefetchLoader(inner, device=torch.device("cpu"), re_prob=0.5, re_mode="pixel")
    transform = silently(erasing).transform  # type: ignore[arg-type]
    assert transform.augment[-1].mode == "pixel"
    lines: list[str] = []
    DataLoader.from_torch(erasing, report=lines.append)  # type: ignore[arg-type]
    assert "        device='cpu'," in lines
    spared = PrefetchLoader(
        inner, device=torch.device("cpu"), re_prob=0.5, re_mode="pixel", re_num_splits=2
    )
    assert (
        "`RandomErasing` at loader: of 2 parts of a batch the first is not erased, and the graph "
        "erases all images alike. Pass `re_split=False` to create_loader."
    ) in refusal(spared)  # type: ignore[arg-type]


def test_noise_is_refused_before_normalize_and_clipped_behind(photo_folder: Path) -> None:
    noise = v2.RandomErasing(value="random")
    message = refusal(over(photo_folder, [CROP, *SCALED, noise, v2.Normalize(MEAN, STD)]))
    assert "noise is of deviation 1 at the end. Move RandomErasing behind Normalize." in message
    reference = over(photo_folder, [CROP, *SCALED, v2.Normalize(MEAN, STD), noise])
    assert silently(reference).transform.augment[-1].mode == "pixel"
    assert notes(reference, "Noise") == [
        "Noise is clipped to colors in [0, 255], which are numbers from -2.12 to 2.64 here."
    ]


def test_long_sides_have_a_limit_and_perspectives_are_drawn(photo_folder: Path) -> None:
    parts = [v2.Resize(63, max_size=64), v2.RandomPerspective(0.2, 0.7, fill=9), CROP, *SCALED]
    assert silently(over(photo_folder, parts)).transform == Compose(
        (
            augmentations.Resize(63, max_size=64),
            augmentations.RandomPerspective(0.2, 0.7, fill=9),
            augmentations.RandomResizedCrop(32),
        ),
        **PLAIN,
    )


def thumbnail(image: Image.Image) -> Image.Image:
    image.thumbnail((2048, 2048))
    return image


def turned_where_large(image: Image.Image) -> Image.Image:
    return image if min(image.size) <= 2000 else image.rotate(180)


@pytest.mark.parametrize("function", [thumbnail, turned_where_large])
def test_function_that_changes_images_above_2000_pixels_alone_is_refused(
    photo_folder: Path, function: Any
) -> None:
    assert UNSEEN in refusal(over(photo_folder, [function, CROP, *SCALED]))
