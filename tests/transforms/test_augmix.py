"""AugMix blends chains of operations by the shares and with the images of torchvision and timm."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from timm.data.auto_augment import augment_and_mix_transform
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision.transforms import v2

from dali_cutmix import TrainTransform
from dali_cutmix.augmentations import AugMix, Frame, PillowGaussianBlur, TimmAugMix
from graphs import BACK_ENDS
from steps import applied, draw
from torch_loaders import cifar, refusal, silently

FRAME = Frame((24, 24))


def images_of(photos: list[np.ndarray], num: int, side: int = 24) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    cuts = []
    for number in range(num):
        photo = photos[number % len(photos)]
        top, left = (int(rng.integers(length - 4 * side)) for length in photo.shape[:2])
        cut = Image.fromarray(photo[top : top + 4 * side, left : left + 4 * side])
        cuts.append(np.asarray(cut.resize((side, side))))
    return cuts


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("step", [AugMix(5, 2), TimmAugMix(9.0, 0.5, 2)], ids=["plain", "timm"])
def test_image_and_chains_are_blended_by_their_shares(
    photos: list[np.ndarray], step: Any, back_end: str
) -> None:
    images = images_of(photos, 24)
    plan = draw(step, 24, FRAME)
    mixed = applied(step, images, plan, FRAME, back_end=back_end)
    ones, nothing = np.ones(24, np.float32), np.zeros(24, np.float32)
    wanted = [image * float(kept) for image, kept in zip(images, plan.kept, strict=True)]
    for number, weight in enumerate(plan.weights):
        shares = tuple(ones if each == number else nothing for each in range(2))
        alone = replace(plan, kept=nothing, weights=shares)
        chain = applied(step, images, alone, FRAME, back_end=back_end)
        assert sum(map(np.array_equal, chain, images)) < 12
        for index, image in enumerate(chain):
            wanted[index] = wanted[index] + image * float(weight[index] * (1 - plan.kept[index]))
    for image, exact in zip(mixed, wanted, strict=True):
        assert np.abs(image - exact).max() < 2.01  # truncated once, or by timm twice


def test_shares_and_depths_are_distributed_as_drawn_by_the_authors() -> None:
    rng = np.random.default_rng(0)
    for alpha in (1.0, 0.3):
        plan = draw(AugMix(mixture_width=3, alpha=alpha), 3000, FRAME)
        theirs = rng.dirichlet([alpha] * 3, 3000)
        assert ks_2samp(plan.kept, rng.beta(alpha, alpha, 3000)).pvalue > 0.001
        for number in range(3):
            assert ks_2samp(plan.weights[number], theirs[:, number]).pvalue > 0.001
    for chain in plan.chains:
        shares = [float((turn.kind > 0).mean()) for turn in chain]
        # Five standard errors.
        assert np.abs(np.array(shares) - [1, 2 / 3, 1 / 3]).max() < 5 * (0.25 / 3000) ** 0.5


CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "torchvision": (v2.AugMix, AugMix()),
    "torchvision v1": (
        lambda: v1.AugMix(6, 2, 2, 0.5, all_ops=False, fill=[9.0, 99.0, 199.0]),
        AugMix(6, 2, 2, 0.5, False, fill=(9, 99, 199)),
    ),
    "timm": (
        lambda: augment_and_mix_transform("augmix-m5-w4-d2", {"img_mean": (1, 2, 3)}),
        TimmAugMix(5.0, float("inf"), 4, 2, fill=(1, 2, 3)),
    ),
    "timm with noise": (
        lambda: augment_and_mix_transform("augmix-m3-w3-mstd0.5", {}),
        TimmAugMix(3.0, 0.5, fill=(128, 128, 128)),
    ),
}


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_images_are_distributed_as_torchvisions_and_timms(
    photos: list[np.ndarray], make: Callable[[], Any], expected: Any
) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    data = cifar(v1.Compose([make(), v1.ToTensor()]), (24, 24))
    data.data = np.stack(images_of(photos, 600))
    data.targets = [0] * 600
    reference = TorchLoader(data, batch_size=100)
    loader = silently(reference, device="cpu")
    assert isinstance(loader.transform, TrainTransform)
    assert loader.transform.augment == (expected,)
    plain = torch.from_numpy(data.data).permute(0, 3, 1, 2) / 255
    ours, theirs = (torch.cat([image for image, _ in each]) for each in (loader, reference))
    for statistic in (
        lambda image: image.mean((1, 2, 3)),
        lambda image: image.std((1, 2, 3)),
        lambda image: (image - plain).abs().mean((1, 2, 3)),
        lambda image: (image - plain)[:, :, 0].mean((1, 2)),
        lambda image: (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3)),
    ):
        assert ks_2samp(statistic(ours), statistic(theirs)).pvalue > 0.001


def test_augmix_that_blends_by_turns_is_refused() -> None:
    part = augment_and_mix_transform("augmix-m3-b1", {})
    reference = TorchLoader(cifar(v1.Compose([part, v1.ToTensor()])))
    assert "Leave `b1` out of the string." in refusal(reference)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AugMix(11), "AugMix: `severity` must be at most 10, got 11."),
        (lambda: AugMix(chain_depth=0), "AugMix: `chain_depth` must be a whole number"),
        (lambda: TimmAugMix(width=0), "TimmAugMix: `width` must be a whole number of at least 1"),
        (lambda: TimmAugMix(-1), "TimmAugMix: `magnitude` must be a number of at least 0, got -1."),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        make()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_blur_is_pillows_by_a_uniform_radius(photos: list[np.ndarray], back_end: str) -> None:
    step, images = PillowGaussianBlur((0.5, 1.5)), images_of(photos, 6)
    plan = draw(step, 6)
    for image, radius, result in zip(
        images, plan, applied(step, images, plan, back_end=back_end), strict=True
    ):
        wanted = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(radius))))
        difference = np.abs(result.astype(int) - wanted)
        assert difference.max() <= (0 if back_end == "cpu" else 40)
    radii = draw(step, 3000)
    assert ks_2samp(radii, np.random.default_rng(0).uniform(0.5, 1.5, 3000)).pvalue > 0.001
    with pytest.raises(ValueError, match="PillowGaussianBlur: `radius` must be"):
        PillowGaussianBlur((2.0, 1.0))
