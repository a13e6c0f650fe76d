"""Resizing on the CPU: torchvision's pixels, whatever the image, its size and the threads."""

from __future__ import annotations

import os
import resource
import threading
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from dali_cutmix import EvalTransform
from dali_cutmix.core.threads import NAME
from dali_cutmix.transforms.decode import Pixels, Stored
from dali_cutmix.transforms.resample import Resampler
from graphs import soon

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
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(224, 224), (5, 7), (1, 1), (96, 400)])
def test_resized_pixels_are_torchvisions_to_the_bit(size: tuple[int, int]) -> None:
    given = images()
    made = resized(lambda resampler, image: resampler.resize(image, size), given)
    for image, one in zip(given, made, strict=True):
        wanted = v2.functional.resize(as_tensor(image), list(size), antialias=True)
        np.testing.assert_array_equal(as_tensor(one), wanted)


@pytest.mark.parametrize("size", [(96, 80), (5, 7), (300, 400)])
@pytest.mark.parametrize("kernel", ["nearest", "bicubic", "lanczos", "box", "hamming"])
def test_other_kernels_are_pillows_or_to_the_bit_torchvisions(
    kernel: Any, size: tuple[int, int], photos: list[np.ndarray]
) -> None:
    """torchvision's bytes are within a level of Pillow's but where a filter overshoots."""
    given = [*map(np.array, photos), *images()]
    made = resized(lambda resampler, image: resampler.resize(image, size, kernel=kernel), given)
    mode = v2.InterpolationMode(kernel)
    for image, one in zip(given, made, strict=True):
        if kernel == "bicubic":
            wanted = v2.functional.resize(as_tensor(image), list(size), mode, antialias=True)
            np.testing.assert_array_equal(as_tensor(one), wanted)
        else:
            by_pillow = v2.functional.resize(Image.fromarray(image), list(size), mode)
            np.testing.assert_array_equal(one, np.asarray(by_pillow))


@pytest.mark.parametrize("num_threads", [2, None], ids=["cpu", "as a gpu"])
@pytest.mark.parametrize("size", [(96, 80), (300, 400)])
def test_without_antialiasing_pixels_are_those_of_torchvisions_tensors(
    size: tuple[int, int], num_threads: int | None, photos: list[np.ndarray]
) -> None:
    given = [*map(np.array, photos), *images()]
    made = resized(
        lambda resampler, image: resampler.resize(image, size, kernel="bilinear-aliased"),
        given,
        num_threads,
    )
    for image, one in zip(given, made, strict=True):
        wanted = v2.functional.resize(as_tensor(image), list(size), antialias=False)
        difference = (as_tensor(one).int() - wanted.int()).abs().max()
        assert difference <= (0 if num_threads else 1)


def test_kernels_that_dali_lacks_are_refused_on_a_gpu() -> None:
    with pytest.raises(ValueError, match="on a GPU, got 'box'"):
        resized(lambda resampler, image: resampler.resize(image, (4, 4), kernel="box"), [], None)


@pytest.mark.parametrize("num_threads", [2, None], ids=["cpu", "as a gpu"])
def test_each_sample_takes_its_kernel(num_threads: int | None) -> None:
    given = images()
    mirrored = np.array([1, 1, 0, 0, 1, 0, 1], np.int32)

    def of_kernel(is_bicubic: np.ndarray | None, name: Any = None) -> list[np.ndarray]:
        def define(resampler: Resampler, image: Any) -> Any:
            turn = fn.external_source(lambda _: mirrored, batch=True)
            kernel = name or fn.external_source(lambda _: is_bicubic, batch=True)
            return resampler.resize(image, (32, 24), turn, kernel)

        return resized(define, given, num_threads)

    bicubic, bilinear = of_kernel(None, "bicubic"), of_kernel(None, "bilinear")
    for chosen in (np.arange(7) % 2 == 0, np.ones(7, bool), np.zeros(7, bool)):
        for i, one in enumerate(of_kernel(chosen)):
            np.testing.assert_array_equal(one, (bicubic if chosen[i] else bilinear)[i])


@pytest.mark.parametrize("kernel", ["nearest", "bicubic", "lanczos"])
def test_what_a_gpu_resizes_with_is_near_pillow_but_at_the_edge(
    kernel: Any, photos: list[np.ndarray]
) -> None:
    made = resized(
        lambda resampler, image: resampler.resize(image, (96, 80), kernel=kernel),
        list(map(np.array, photos)),
        None,
    )
    inside = ~ring((96, 80))
    for image, one in zip(photos, made, strict=True):
        wanted = Image.fromarray(image).resize((80, 96), Image.Resampling[kernel.upper()])
        difference = np.abs(one.astype(int) - np.asarray(wanted))[inside]
        # A filter overshoots beside hard edges, and a point may be as far from two pixels.
        assert (difference > 2).mean() < (0.1 if kernel == "nearest" else 0.005)
        assert difference.mean() < 1


@pytest.mark.parametrize("size", [(224, 224), (5, 7), (40, 12_000)])
def test_mirrored_pixels_are_the_resized_ones_from_right_to_left(size: tuple[int, int]) -> None:
    given = images()
    mirrored = np.arange(len(given)) % 2 == 0

    def define(resampler: Resampler, image: Any) -> Any:
        return resampler.resize(
            image, size, fn.external_source(lambda _: mirrored.astype(np.int32), batch=True)
        )

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


def test_what_a_gpu_resizes_with_is_within_a_level_of_torchvision_but_at_the_edge(
    photos: list[np.ndarray],
) -> None:
    given = [photos[0], np.array(photos[1][:, 31:500]), np.array(photos[2])]
    mirrored = np.array([True, False, True])

    def define(resampler: Resampler, image: Any) -> Any:
        return resampler.resize(
            image, (96, 80), fn.external_source(lambda _: mirrored.astype(np.int32), batch=True)
        )

    edge = torch.from_numpy(ring((96, 80)))
    for image, turn, one in zip(given, mirrored, resized(define, given, None), strict=True):
        wanted = v2.functional.resize(as_tensor(image), [96, 80], antialias=True).int()
        difference = (as_tensor(one).int() - (wanted.flip(2) if turn else wanted)).abs()
        assert difference[:, ~edge].max() <= 1
        assert difference[:, edge].max() <= 16
        assert difference.float().mean() < 0.3


def test_the_centre_of_a_gpu_is_within_a_level_of_torchvisions(photos: list[np.ndarray]) -> None:
    transform = EvalTransform(resize=64, size=(48, 56))

    def define(resampler: Resampler, image: Any) -> Any:
        return transform.operate(Stored(Pixels(image, "cpu")), (), transform.frame, resampler).image

    reference = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop((48, 56))])
    for image, one in zip(photos, resized(define, photos, None), strict=True):
        difference = (as_tensor(one).int() - reference(as_tensor(image)).int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.3


@pytest.mark.parametrize("num_threads", [2, None], ids=["cpu", "as a gpu"])
def test_each_image_is_resized_to_sides_of_its_own(
    num_threads: int | None, photos: list[np.ndarray]
) -> None:
    given = [np.array(photo[:200, :150]) for photo in photos] * 2
    extents = np.array([(20, 31), (400, 7), (1, 1), (200, 150), (63, 300), (2, 90)], np.int32)

    def define(resampler: Resampler, image: Any) -> Any:
        extent = fn.external_source(lambda _: extents, batch=True)
        return resampler.resize_each(image, extent)

    for image, extent, made in zip(
        given, extents, resized(define, given, num_threads), strict=True
    ):
        assert made.shape == (*extent, 3)
        wanted = interpolate(
            as_tensor(image)[None], size=tuple(extent), mode="bilinear", antialias=True
        )[0]
        difference = (as_tensor(made).int() - wanted.int()).abs()
        if num_threads is None:
            # DALI repeats the edge where torch leaves the filter's part beyond the edge out.
            assert difference.float().mean() < (1 if extent.min() > 2 else 8)
        else:
            assert not difference.any()


def test_the_short_side_of_images_of_any_size_gets_its_length_as_on_a_gpu(
    photos: list[np.ndarray],
) -> None:
    given = [np.array(photos[0]), np.array(photos[1][:, :333]), np.array(photos[2][:301])]

    def define(resampler: Resampler, image: Any) -> Any:
        return resampler.resize_short(image, 61)

    for image, made in zip(given, resized(define, given, None), strict=True):
        wanted = v2.functional.resize(as_tensor(image), [61], antialias=True)
        assert as_tensor(made).shape == wanted.shape
        assert (as_tensor(made).int() - wanted.int()).abs().float().mean() < 0.5


def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())  # a loader that nobody has collected yet has threads too
    for _ in range(3):
        resized(lambda resampler, image: resampler.resize(image, (4, 4)), images(), 3)
    assert soon(lambda: not [t for t in set(threading.enumerate()) - before if t.name == NAME])


@pytest.mark.parametrize(
    "kernel", ["bilinear", "bicubic", "lanczos", "nearest", "bilinear-aliased"]
)
@pytest.mark.parametrize("size", [(512, 512), (600, 600)], ids=["resized", "of that size"])
def test_resizing_and_mirroring_start_no_threads_of_torchs_own(
    size: tuple[int, int], kernel: Any
) -> None:
    """Each would spin beside the graph's, and there would be some for every thread here."""
    given = [np.zeros((600, 600, 3), np.uint8)] * 16

    def num_threads(size: tuple[int, int], mirrored: int) -> int:
        resampler, pipeline = Resampler(2), Pipeline(16, 1, None)
        turned = np.full(16, mirrored, np.int32)
        with pipeline:
            image = fn.external_source(source=lambda _: given, batch=True, layout="HWC")
            turn = fn.external_source(source=lambda _: turned, batch=True)
            pipeline.set_outputs(resampler.resize(image, size, turn, kernel))
        for _ in range(3):
            pipeline.run()
        num_threads = len(os.listdir("/proc/self/task"))
        pipeline._shutdown()
        resampler.close()
        return num_threads

    few = num_threads((8, 8), 0)
    assert num_threads(size, 1) <= few


@pytest.mark.parametrize("shape", [(10, 160), (10, 161), (161, 10), (3, 101), (2, 4000)])
def test_the_middle_of_a_very_long_image_is_torchvisions_within_a_level(
    shape: tuple[int, int],
) -> None:
    # Levels rise along the image, so that a middle off by half a pixel shows.
    levels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    given = [np.sort(levels, axis=int(np.argmax(shape)))]
    (made,) = resized(lambda resampler, one: resampler.resize_centre(one, 64, (48, 48)), given)
    reference = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop(48)])
    difference = as_tensor(made).int() - reference(as_tensor(given[0])).int()
    assert difference.abs().max() <= 1


def test_a_very_long_image_takes_no_more_memory_than_its_middle() -> None:
    image = [np.zeros((2, 40_001, 3), np.uint8)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    resized(lambda resampler, one: resampler.resize_centre(one, 256, (224, 224)), image)
    # The whole image would take 3.9 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


def ring(size: tuple[int, int]) -> np.ndarray:
    """Which pixels are the outermost ones."""
    outer = np.ones(size, bool)
    outer[1:-1, 1:-1] = False
    return outer
