"""Resizing on the CPU: torchvision's pixels, whatever the image, its size and the threads."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from graphs import soon
from nvidia.dali import Pipeline, fn
from torchvision.transforms import v2

from dali_cutmix import EvalTransform
from dali_cutmix.decode import Pixels
from dali_cutmix.resample import Resampler

SIZES = [(300, 200), (37, 61), (224, 224), (1, 1), (1, 500), (9, 4), (700, 501)]


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def resized(define: Any, given: list[np.ndarray], num_threads: int | None = 2) -> list[np.ndarray]:
    """What a graph with this resampler makes of images of any sizes.

    Without threads it is the one of a GPU, whose operators run on the CPU just as well.
    """
    resampler = Resampler(num_threads)
    pipeline = Pipeline(batch_size=len(given), num_threads=2, device_id=None)
    with pipeline:
        image = fn.external_source(source=lambda _: given, batch=True, layout="HWC")
        pipeline.set_outputs(define(resampler, image))
    (made,) = pipeline.run()
    result = [np.array(made.at(i)) for i in range(len(given))]
    pipeline._shutdown()
    resampler.close()
    return result


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(224, 224), (5, 7), (1, 1), (96, 400)])
def test_resized_pixels_are_torchvisions_to_the_bit(size: tuple[int, int]) -> None:
    given = images()
    made = resized(lambda resampler, image: resampler.resize(image, size), given)
    for image, one in zip(given, made, strict=True):
        wanted = v2.functional.resize(as_tensor(image), list(size), antialias=True)
        np.testing.assert_array_equal(as_tensor(one), wanted)


@pytest.mark.parametrize("size", [(224, 224), (5, 7), (40, 12_000)])
def test_mirrored_pixels_are_the_resized_ones_from_right_to_left(size: tuple[int, int]) -> None:
    given = images()
    mirrored = np.arange(len(given)) % 2 == 0
    start = np.stack([0 * mirrored, mirrored], axis=1).astype(np.float32)

    def define(resampler: Resampler, image: Any) -> Any:
        return resampler.resize(image, size, fn.external_source(lambda _: start, batch=True))

    plain = resized(lambda resampler, image: resampler.resize(image, size), given)
    for turn, one, other in zip(mirrored, resized(define, given), plain, strict=True):
        np.testing.assert_array_equal(one, other[:, ::-1] if turn else other)


@pytest.mark.parametrize(("short", "size"), [(256, (224, 224)), (32, (32, 31)), (8, (3, 8))])
def test_the_centre_is_torchvisions_to_the_bit(short: int, size: tuple[int, int]) -> None:
    given = images()
    made = resized(lambda resampler, image: resampler.resize_centre(image, short, size), given)
    reference = v2.Compose([v2.Resize(short, antialias=True), v2.CenterCrop(size)])
    for image, one in zip(given, made, strict=True):
        np.testing.assert_array_equal(as_tensor(one), reference(as_tensor(image)))


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("num_images", [1, 2, 7, 41])
def test_any_number_of_threads_and_images_keeps_the_order(
    num_threads: int, num_images: int
) -> None:
    given = [np.full((8 + i, 9, 3), i, np.uint8) for i in range(num_images)]
    made = resized(lambda resampler, image: resampler.resize(image, (4, 4)), given, num_threads)
    assert [one.max() for one in made] == list(range(num_images))
    assert [one.min() for one in made] == list(range(num_images))


def test_what_a_gpu_resizes_with_is_within_a_level_of_torchvision_and_mirrors_alike() -> None:
    given = images()
    mirrored = np.arange(len(given)) % 2 == 0
    start = np.stack([0 * mirrored, mirrored], axis=1).astype(np.float32)

    def define(resampler: Resampler, image: Any) -> Any:
        assert not resampler.is_on_cpu
        return resampler.resize(image, (96, 80), fn.external_source(lambda _: start, batch=True))

    for image, turn, one in zip(given, mirrored, resized(define, given, None), strict=True):
        wanted = v2.functional.resize(as_tensor(image), [96, 80], antialias=True).int()
        difference = as_tensor(one).int() - (wanted.flip(2) if turn else wanted)
        assert difference.abs().max() <= 1
        assert difference.abs().float().mean() < 0.3


def test_the_centre_of_a_gpu_is_within_a_level_of_torchvisions() -> None:
    given = [one for one in images() if min(one.shape[:2]) > 30]
    transform = EvalTransform(resize=64, size=(48, 56))

    def define(resampler: Resampler, image: Any) -> Any:
        return transform(Pixels(image, "cpu"), {}, resampler)

    reference = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop((48, 56))])
    for image, one in zip(given, resized(define, given, None), strict=True):
        difference = as_tensor(one).int() - reference(as_tensor(image)).int()
        # Where a photograph is 1 apart, noise may be 2: the filter is cut off elsewhere.
        assert difference.abs().max() <= 2
        assert difference.abs().float().mean() < 0.4


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    for _ in range(3):
        resized(lambda resampler, image: resampler.resize(image, (4, 4)), images(), 3)
    # Python lists a thread of DALI's that called it until that thread ends.
    assert soon(lambda: threading.active_count() <= before + 3)
    assert not [t for t in threading.enumerate() if t.name.startswith("resize")]


def test_mirroring_starts_no_threads_of_torchs_own() -> None:
    """Each would spin beside the graph's, and there would be some for every thread here."""
    given = images() * 4
    start = np.tile(np.float32([0, 1]), (len(given), 1))
    seen: list[int] = []

    def define(resampler: Resampler, image: Any) -> Any:
        return resampler.resize(image, (512, 512), fn.external_source(lambda _: start, batch=True))

    def count() -> int:
        from pathlib import Path

        return len(list(Path("/proc/self/task").iterdir()))

    resampler = Resampler(2)
    pipeline = Pipeline(batch_size=len(given), num_threads=1, device_id=None)
    with pipeline:
        image = fn.external_source(source=lambda _: given, batch=True, layout="HWC")
        pipeline.set_outputs(define(resampler, image))
    pipeline.build()
    for _ in range(5):
        pipeline.run()
        seen.append(count())
    pipeline._shutdown()
    resampler.close()
    assert seen[-1] == seen[0]
