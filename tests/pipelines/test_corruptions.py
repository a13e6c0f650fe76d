"""Corrupted images and what is measured on them, against formulas, SciPy, Pillow, matplotlib."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import gaussian_filter

from dali_cutmix import DataLoader, EvalTransform, ImageArrays
from evaluation.corruptions import CIFAR, IMAGENET, Corrupted, measure_corruptions
from subjects import HEIGHT, MEAN, STD, WIDTH, Function, images_of, linear, noise, subject_of

SIZE = (HEIGHT, WIDTH)
CLEAN = EvalTransform(SIZE, SIZE, MEAN, STD)


def corrupted(pixels: np.ndarray, name: str, strength: float, seed: int = 0) -> np.ndarray:
    """Images as a loader corrupts them, [N, height, width, 3] as floats in [0, 255]."""
    size = pixels.shape[1:3]
    loader = DataLoader(
        ImageArrays(pixels, np.zeros(len(pixels), int)),
        4,
        transform=Corrupted(EvalTransform(size, size), name, strength),
        dtype=torch.uint8,
        device="cpu",
        num_workers=1,
        seed=seed,
    )
    with loader:
        image = torch.cat([image for image, _ in loader])
    return image.permute(0, 2, 3, 1).double().numpy()


def smooth(count: int = 6) -> np.ndarray:
    """Images like photographs: colours that change slowly."""
    rng = np.random.default_rng(1)
    blobs = gaussian_filter(rng.normal(size=(count, HEIGHT, WIDTH, 3)), (0, 3, 3, 0))
    return (128 + 60 * blobs / blobs.std()).clip(0, 255).astype(np.uint8)


def gray(count: int = 40) -> np.ndarray:
    return np.full((count, HEIGHT, WIDTH, 3), 128, np.uint8)


# Single corruptions


def test_gaussian_noise_has_its_deviation_and_is_drawn_for_every_sample() -> None:
    noisy = corrupted(gray(), "gaussian_noise", 0.1) - 128
    assert noisy.std() == pytest.approx(25.5, rel=0.01)
    assert noisy.mean() == pytest.approx(0, abs=0.3)
    assert len(np.unique(noisy.reshape(len(noisy), -1), axis=0)) == len(noisy)


def test_shot_noise_has_the_variance_of_counted_photons() -> None:
    noisy = corrupted(gray(), "shot_noise", 60)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert noisy.var() == pytest.approx(128 * 255 / 60, rel=0.03)


def test_impulse_noise_makes_so_many_channels_black_or_white() -> None:
    noisy = corrupted(gray(), "impulse_noise", 0.2)
    black, white = (noisy == 0).mean(), (noisy == 255).mean()
    assert black == pytest.approx(0.1, abs=0.006)
    assert white == pytest.approx(0.1, abs=0.006)
    assert (noisy == 128).mean() == pytest.approx(1 - black - white)
    hit = (noisy != 128).any(-1).mean()  # each channel by itself
    assert hit == pytest.approx(1 - 0.8**3, abs=0.015)


def test_blur_is_that_of_scipy_within_a_level() -> None:
    pixels, _ = noise(3)
    for sigma in (0.7, 2.0):
        blurred = gaussian_filter(
            pixels.astype(float), (0, sigma, sigma, 0), mode="mirror", truncate=3
        )
        np.testing.assert_allclose(corrupted(pixels, "gaussian_blur", sigma), blurred, atol=1)


def test_brightness_adds_to_the_value_of_hsv_and_keeps_hue_and_saturation() -> None:
    pixels, _ = noise(3)
    pixels[0, :5] = 0
    hsv = rgb_to_hsv(pixels / 255)
    hsv[..., 2] = (hsv[..., 2] + 0.3).clip(0, 1)
    expected = 255 * hsv_to_rgb(hsv)
    np.testing.assert_allclose(corrupted(pixels, "brightness", 0.3), expected, atol=1)


def test_contrast_shrinks_the_distance_from_the_mean_of_each_channel() -> None:
    pixels = smooth()
    mean = pixels.mean((1, 2), keepdims=True)
    expected = mean + 0.2 * (pixels - mean)
    np.testing.assert_allclose(corrupted(pixels, "contrast", 0.2), expected, atol=1)


def test_jpeg_loses_what_pillows_jpeg_of_the_quality_loses() -> None:
    pixels = smooth()
    for quality in (80, 7):
        theirs = []
        for image in pixels:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "jpeg", quality=quality)
            theirs.append(np.array(Image.open(file), float))
        ours = corrupted(pixels, "jpeg_compression", quality)
        lost = np.abs(np.array(theirs) - pixels).mean()
        assert np.abs(ours - pixels).mean() == pytest.approx(lost, rel=0.15)
        assert np.abs(ours - np.array(theirs)).mean() < 0.3 * lost + 1


def test_pixels_are_so_many_blocks_as_large_as_the_image() -> None:
    pixels, _ = noise(3)
    blocks = corrupted(pixels, "pixelate", 0.25)
    assert blocks.shape == pixels.shape
    for index in range(4):  # blocks of 4 x 4 pixels show one colour
        np.testing.assert_array_equal(blocks[:, index::4], blocks[:, ::4])
        np.testing.assert_array_equal(blocks[:, :, index::4], blocks[:, :, ::4])
    colours = blocks[:, ::4, ::4]
    assert len(np.unique(colours)) > 20
    assert colours.mean() == pytest.approx(pixels.mean(), abs=3)
    assert (gray(2) == corrupted(gray(2), "pixelate", 0.3)).all()


def test_severities_of_a_corruption_differ_more_and_more_from_the_image() -> None:
    pixels = smooth()
    for strengths in (IMAGENET, CIFAR):
        for name, levels in strengths.items():
            distances = [np.abs(corrupted(pixels, name, level) - pixels).mean() for level in levels]
            assert np.all(np.diff(distances) > -0.3), (name, distances)
            assert distances[-1] > 1.2 * distances[0] > 0, (name, distances)


def test_a_corruption_depends_on_its_seed_alone() -> None:
    pixels = smooth()
    once = corrupted(pixels, "gaussian_noise", 0.1)
    assert (once == corrupted(pixels, "gaussian_noise", 0.1)).all()
    assert (once != corrupted(pixels, "gaussian_noise", 0.1, seed=1)).mean() > 0.8


# The measure


def test_errors_are_those_of_corrupted_images_and_their_means_those_of_severities() -> None:
    """A classifier of contrast: flat images are of class 1.

    Noise differs from call to call of a loader, so that its errors are those of the images that the
    classifier saw: two batches, each of five severities in turn.
    """
    pixels = np.concatenate([smooth(7), gray(3)])
    label = np.zeros(10, int)
    label[7:] = 1
    seen: list[np.ndarray] = []

    def flat(image: torch.Tensor) -> torch.Tensor:
        spread = subject.pixels(image).std((1, 2, 3))
        seen.append(spread.numpy())
        return torch.stack([spread - 0.1, 0.1 - spread], dim=1)

    subject = subject_of(Function(flat), 2)
    result = measure_corruptions(subject, images_of(pixels, label))

    numbers = result.numbers
    assert numbers["clean_error"] == 0
    for number, (name, levels) in enumerate(CIFAR.items()):  # inputs are below 64 px
        errors = []
        for severity, level in enumerate(levels, 1):
            spread = np.concatenate(seen[2 + 10 * number :][severity - 1 : 10 : 5])
            if name not in ("gaussian_noise", "shot_noise", "impulse_noise"):
                spread = corrupted(pixels, name, level).std((1, 2, 3)) / 255
            wrong = ((spread < 0.1) != label).mean()
            assert numbers[f"{name}_{severity}"] == pytest.approx(wrong), (name, severity)
            errors.append(numbers[f"{name}_{severity}"])
        assert numbers[name] == pytest.approx(np.mean(errors))
        assert result.curves[0].series[name] == ([0, 1, 2, 3, 4, 5], [0, *errors])
    assert numbers["contrast_5"] == pytest.approx(0.7)  # all that is not gray looks flat
    assert numbers["impulse_noise_5"] == pytest.approx(0.3)  # and here nothing is flat
    assert numbers["mean_error"] == pytest.approx(np.mean([numbers[name] for name in CIFAR]))
    for name, values in result.samples.items():
        assert values.shape == (10,)
        assert values.mean() == pytest.approx(numbers[name])


def test_errors_relative_to_a_baseline_are_means_of_ratios() -> None:
    pixels, label = noise(8)
    images, subject = images_of(pixels, label), subject_of(linear())
    baseline = {name: 0.5 + index / 20 for index, name in enumerate(CIFAR)}

    numbers = measure_corruptions(subject, images, baseline=baseline).numbers

    ratios = [numbers[name] / baseline[name] for name in CIFAR]
    assert numbers["mean_corruption_error"] == pytest.approx(np.mean(ratios))
    assert measure_corruptions(subject, images).numbers.get("mean_corruption_error") is None
    for bad in ({}, baseline | {"contrast": 0.0}):
        with pytest.raises(SystemExit, match="evaluate: `baseline` must have an error above 0 for"):
            measure_corruptions(subject, images, baseline=bad)
