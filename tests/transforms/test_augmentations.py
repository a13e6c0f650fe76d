"""Augmentations: torchvision's pixels for the same numbers, and its distributions of numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import AutoAugmentPolicy, v2
from torchvision.transforms.v2 import functional as F

from dali_cutmix import (
    IMAGENET_STD,
    CutMix,
    DataLoader,
    ImageArrays,
    TrainTransform,
)
from dali_cutmix.augmentations import (
    AutoAugment,
    ColorJitter,
    Frame,
    Grayscale,
    RandAugment,
    RandomErasing,
    TrivialAugment,
)
from dali_cutmix.core.frame import Sample, Structure
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.transforms import color_ops, tables
from dali_cutmix.transforms.affine import WARPS
from dali_cutmix.transforms.blends import blended
from dali_cutmix.transforms.operations import (
    OPERATIONS,
    SIGNED,
    levels,
    operate,
    operate_in_turn,
    plan_operations,
)
from dali_cutmix.transforms.policies import POLICIES
from graphs import BACK_ENDS, on, run
from steps import same_distribution

SIZES = [(60, 84), (33, 32)]

#: The first size, and in the full tests the other one too.
EACH_SIZE = pytest.mark.parametrize(
    "size", [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.full)], ids=repr
)
MEAN = (0.485, 0.456, 0.406)

# By operation: the most levels a value may differ by, and the share of values that may differ.
TOLERANCES = {
    "Rotate": (255, 0.001),
    "Brightness": (1, 0.01),
    "Color": (1, 0.05),
    "Contrast": (1, 0.01),
    "Sharpness": (1, 0.01),
    "Equalize": (2, 0.5),
}

# The same of warps that interpolate: halves of a level are rounded otherwise.
BILINEAR_TOLERANCES = {"ShearX": (1, 0.04), "ShearY": (1, 0.04), "Rotate": (1, 0.01)}


@pytest.fixture(scope="module")
def pictures(photos: list[np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
    """By size a batch of photographs, noise, one level, a gray ramp, and dark and pale noise."""
    rng = np.random.default_rng(0)
    found = {}
    for height, width in SIZES:
        noise = rng.integers(0, 256, (height, width, 3))
        ramp = np.arange(height * width).reshape(height, width, 1) * 256 // (height * width)
        found[height, width] = np.stack(
            [
                photos[0][100 : 100 + height, 100 : 100 + width],
                photos[1][200 : 200 + height, 300 : 300 + width],
                photos[2][150 : 150 + height, 200 : 200 + width],
                noise,
                np.full_like(noise, 77),
                np.repeat(ramp, 3, axis=2),
                noise // 8,
                200 + noise // 8,
            ]
        ).astype(np.uint8)
    return found


def by_torch(function: Any, images: np.ndarray, *arguments: Any) -> np.ndarray:
    """Run torchvision's function on a batch of HWC images."""
    batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    return function(batch, *arguments).permute(0, 2, 3, 1).numpy()


def by_graph(
    function: Any, images: np.ndarray, plans: Sequence[Any], back_end: str
) -> list[np.ndarray]:
    """Run a graph function of images and a plan on one batch, once for each plan."""
    structure = Structure(plans[0])

    def define(image: Any, *leaves: Any) -> Any:
        image = fn.reshape(on(back_end, image), layout="HWC")
        return [fn.copy(function(image, structure.build(leaves)))]

    batches = [(images, *structure.leaves(plan)) for plan in plans]
    return [made for (made,) in run(define, batches, back_end)]


def by_augmentation(
    augmentation: Any, images: np.ndarray, plan: Any, back_end: str = "cpu"
) -> np.ndarray:
    """Run an augmentation on one batch, by a plan that was drawn."""
    size = Frame(images.shape[1:3], MEAN)

    def function(image: Any, nodes: Any) -> Any:
        return augmentation.operate(Sample(image), nodes, size).image

    return by_graph(function, images, [plan], back_end)[0]


def difference(found: np.ndarray, wanted: np.ndarray) -> tuple[int, float]:
    """The most levels by which two differ, and the share of values that do."""
    apart = np.abs(found.astype(int) - wanted)
    return int(apart.max()), float((apart > 0).mean())


# --- Pixels -------------------------------------------------------------------------------------


def strengths_of(name: str, size: tuple[int, int], bins: Iterable[tuple[bool, int]]) -> list[float]:
    """List strengths of an operation with both signs, by range (wide or not) and bin."""
    return [
        sign * levels(31, size, wide=wide)[name][bin_]
        for wide, bin_ in bins
        for sign in ((1, -1) if name in SIGNED else (1,))
    ]


def check_operation(
    name: str,
    interpolation: Any,
    images: np.ndarray,
    strengths: Sequence[float],
    back_end: str,
    fill: Any = 0,
) -> None:
    size = images.shape[1], images.shape[2]
    theirs, mode = v2.TrivialAugmentWide(), v2.InterpolationMode(interpolation)
    everywhere = np.zeros(len(images), int)
    plans = [
        plan_operations([name], everywhere, np.full(len(images), strength), size)
        for strength in strengths
    ]
    results = by_graph(
        lambda image, plan: (
            operate(Sample(image), [name], plan, Frame(size), interpolation, fill).image
        ),
        images,
        plans,
        back_end,
    )
    tolerances = BILINEAR_TOLERANCES if interpolation == "bilinear" else TOLERANCES
    fills = {torch.Tensor: np.atleast_1d(fill).tolist()} if fill else {}
    for strength, result in zip(strengths, results, strict=True):
        wanted = by_torch(
            theirs._apply_image_or_video_transform, images, name, float(strength), mode, fills
        )
        assert result.dtype == np.uint8
        most, share = tolerances.get(name, (0, 0.0))
        if name == "Rotate" and abs(strength) == 135 and interpolation == "nearest":
            # Points that are as far from two pixels, where float32 decides, are many here.
            most, share = 255, 0.02
        found_most, found_share = difference(result, wanted)
        assert found_most <= most, strength
        assert found_share <= share, strength
        if name in WARPS and strength == 0:
            np.testing.assert_array_equal(result, images)


EACH_OPERATION = pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        *((name, "nearest") for name in [*OPERATIONS, "Invert"]),
        *((name, "bilinear") for name in WARPS),
    ],
)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@EACH_OPERATION
def test_operation_makes_torchvisions_pixels_from_weakest_to_strongest(
    name: str, interpolation: Any, back_end: str, pictures: dict[Any, np.ndarray]
) -> None:
    """On one of the sizes, by turns; every strength and size is in the full test."""
    size = SIZES[(len(name) + (interpolation == "bilinear")) % 2]
    strengths = strengths_of(name, size, [(True, 0), (False, 17), (True, 30)])
    check_operation(name, interpolation, pictures[size], strengths, back_end)


@pytest.mark.full
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("size", SIZES, ids=repr)
@EACH_OPERATION
def test_operation_makes_torchvisions_pixels_at_every_strength(
    name: str,
    interpolation: Any,
    size: tuple[int, int],
    back_end: str,
    pictures: dict[Any, np.ndarray],
) -> None:
    strengths = strengths_of(name, size, itertools.product((True, False), range(31)))
    check_operation(name, interpolation, pictures[size], strengths, back_end)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    ("name", "interpolation", "fill"),
    [
        ("ShearX", "nearest", 128),
        ("ShearY", "bilinear", 128),
        ("Rotate", "nearest", (10, 200, 255)),
        ("Rotate", "bilinear", (124, 116, 104)),
        ("TranslateX", "bilinear", (10, 200, 255)),
        ("TranslateY", "nearest", 255),
    ],
)
def test_pixels_from_outside_have_the_color_of_torchvisions(
    name: str, interpolation: Any, fill: Any, back_end: str, pictures: dict[Any, np.ndarray]
) -> None:
    strengths = strengths_of(name, SIZES[0], [(False, 17), (True, 30)])
    check_operation(name, interpolation, pictures[SIZES[0]], strengths, back_end, fill)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("size", [*SIZES, (2, 40)], ids=repr)
def test_one_chain_blends_as_torchvision_whatever_with(
    size: tuple[int, int], back_end: str, pictures: dict[Any, np.ndarray]
) -> None:
    """A GPU runs the chain, in whose batches all four operations and others meet."""
    height, width = size
    images = np.repeat(pictures[SIZES[0]][:, :height, :width], 5, axis=0)
    names = ["Brightness", "Color", "Contrast", "Sharpness", "Identity"]
    chosen = np.arange(len(images)) % 5
    strengths = strengths_of("Color", size, [(False, 17), (True, 30), (True, 1)])
    plans = [
        plan_operations(names, chosen, np.full(len(images), strength), size).blend
        for strength in strengths
    ]
    results = by_graph(
        lambda image, plan: blended(image, plan, Frame(size)), images, plans, back_end
    )
    theirs, mode = v2.TrivialAugmentWide(), v2.InterpolationMode("nearest")
    for strength, result in zip(strengths, results, strict=True):
        for number, name in enumerate(names):
            wanted = by_torch(
                theirs._apply_image_or_video_transform,
                images[number::5],
                name,
                float(strength),
                mode,
                {},
            )
            found_most, found_share = difference(result[number::5], wanted)
            most, share = TOLERANCES.get(name, (0, 0.0))
            assert found_most <= most, (name, strength)
            # Of two rows, pixels that are whole but for rounding can be most: gray ones, if blended
            # with their gray. Sharpness changes none there.
            if height > 2 or name in ("Sharpness", "Identity"):
                assert found_share <= share, (name, strength)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_bilinear_warps_take_in_black_from_beyond_the_border(back_end: str) -> None:
    """As torchvision's tensors do; Pillow, and DALI without a fill, repeat the outermost pixel."""
    size = (40, 30)
    images = np.full((1, *size, 3), 200, np.uint8)
    fed = [plan_operations(["ShearX"], np.zeros(1, int), np.full(1, 0.3), size)]
    (found,) = by_graph(
        lambda image, plan: operate(Sample(image), ["ShearX"], plan, Frame(size), "bilinear").image,
        images,
        fed,
        back_end,
    )
    # Row 10, whose middle is at 10.5, comes from 3.15 pixels to the right.
    assert found[0, 10, 25:, 0].tolist() == [200, 0.85 * 200, 0, 0, 0]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_equalize_is_right_for_small_and_for_uneven_images(back_end: str) -> None:
    """Few pixels per step, and levels that many pixels share, are where formulas differ."""
    rng = np.random.default_rng(1)
    images = np.stack(
        [
            rng.integers(0, 256, (32, 32, 3)),
            np.where(rng.random((32, 32, 3)) < 0.7, 30, rng.integers(0, 256, (32, 32, 3))),
            np.where(rng.random((32, 32, 3)) < 0.7, 250, rng.integers(0, 256, (32, 32, 3))),
            np.where(rng.random((32, 32, 3)) < 0.9, 250, 3),
            np.full((32, 32, 3), 0),
        ]
    ).astype(np.uint8)
    (found,) = by_graph(lambda image, _: tables.equalize(image), images, [()], back_end)
    wanted = by_torch(F.equalize, images)
    assert difference(found, wanted)[0] <= 2


FACTORS = [0.0, 0.31, 0.9, 1.0, 1.37, 2.0]
TURNS = [-0.5, -0.3, -0.01, 0.0, 0.1, 1 / 3, 0.5]


def saturate_by_matrix(image: Any, *, matrix: Any, **_: Any) -> Any:
    return color_ops.saturate_by_matrix(image, matrix)


def contrast_by_shift(image: Any, *, factor: Any, rest: Any, **_: Any) -> Any:
    return color_ops.contrast_by_shift(image, factor, rest)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@EACH_SIZE
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (color_ops.adjust_brightness, F.adjust_brightness),
        (color_ops.adjust_saturation, F.adjust_saturation),
        (color_ops.adjust_contrast, F.adjust_contrast),
        # What a GPU runs in their places.
        (saturate_by_matrix, F.adjust_saturation),
        (contrast_by_shift, F.adjust_contrast),
    ],
    ids=["brightness", "saturation", "contrast", "saturation by matrix", "contrast by shift"],
)
def test_blends_are_within_a_level_of_torchvisions(
    ours: Any, theirs: Any, size: tuple[int, int], back_end: str, pictures: dict[Any, np.ndarray]
) -> None:
    images = pictures[size]
    named = [{"factor": np.full(len(images), factor, np.float32)} for factor in FACTORS]
    if ours in (saturate_by_matrix, contrast_by_shift):
        for fed in named:
            fed |= {"matrix": color_ops.saturation_matrix(fed["factor"]), "rest": 1 - fed["factor"]}
    found = by_graph(lambda image, fed: ours(image, **fed), images, named, back_end)
    for factor, made in zip(FACTORS, found, strict=True):
        wanted = by_torch(theirs, images, factor)
        most, apart = difference(made, wanted)
        # A gray picture blended with its gray is whole but for rounding: torchvision may cut a
        # level off there, in no more than some of the pictures.
        assert most <= 1, factor
        assert apart <= 0.05, factor
        if factor == 1:
            np.testing.assert_array_equal(made, images)


@pytest.mark.slow
@pytest.mark.parametrize("by_matrix", [False, True])
@pytest.mark.parametrize("back_end", BACK_ENDS)
@EACH_SIZE
def test_hues_are_within_a_level_of_torchvisions(
    size: tuple[int, int], back_end: str, by_matrix: bool, pictures: dict[Any, np.ndarray]
) -> None:
    images = pictures[size]
    turns = [np.full(len(images), turn, np.float32) for turn in TURNS]
    if by_matrix:
        plans, function = list(map(color_ops.hue_matrix, turns)), color_ops.turn_hue_by_matrix
    else:
        plans, function = turns, color_ops.adjust_hue
    found = by_graph(function, images, plans, back_end)
    for turn, made in zip(TURNS, found, strict=True):
        wanted = by_torch(F.adjust_hue, images, turn)
        most, apart = difference(made, wanted)
        assert most <= 1, turn
        assert apart <= 0.01, turn
        if turn == 0:
            np.testing.assert_array_equal(made, images)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_gray_is_torchvisions(back_end: str, pictures: dict[Any, np.ndarray]) -> None:
    for images in pictures.values():
        (found,) = by_graph(lambda image, _: color_ops.grayscale(image), images, [()], back_end)
        wanted = by_torch(F.rgb_to_grayscale, images, 3)
        most, apart = difference(found, wanted)
        assert (most, apart) == (0, 0.0) or (most <= 1 and apart < 0.001)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_what_is_neutral_leaves_every_byte(
    interpolation: Any, pictures: dict[Any, np.ndarray]
) -> None:
    size = SIZES[0]
    images = pictures[size]
    names = [name for name in OPERATIONS if name not in ("AutoContrast", "Equalize")]
    neutral = {"Posterize": 8.0, "Solarize": 255.001 / 255}
    named = []
    for place, name in enumerate(names):
        chosen = np.full(len(images), place)
        strength = np.full(len(images), neutral.get(name, 0.0))
        named.append(plan_operations(names, chosen, strength, size))
    named.append(plan_operations(names, np.full(len(images), -1), np.ones(len(images)), size))
    for made in by_graph(
        lambda image, plan: operate(Sample(image), names, plan, Frame(size), interpolation).image,
        images,
        named,
        "cpu",
    ):
        np.testing.assert_array_equal(made, images)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("num", [1, 2, 3])
def test_turns_that_share_an_autocontrast_keep_each_samples_order(
    num: int, back_end: str, pictures: dict[Any, np.ndarray]
) -> None:
    """torchvision's functions, one behind another, make the same bytes of every row of names."""
    names = ("Identity", "TranslateX", "Posterize", "Solarize", "AutoContrast")
    strength = dict(zip(names, (0.0, 7.0, 3.0, 0.5, 0.0), strict=True))
    rows = list(itertools.product(range(len(names)), repeat=num))
    # Of few levels, of which a stretch makes others.
    images = np.repeat(pictures[SIZES[0]][:1] // 2 + 40, len(rows), axis=0)
    plans = tuple(
        plan_operations(names, chosen, np.array([*strength.values()])[chosen], SIZES[0])
        for chosen in np.array(rows).T
    )
    (found,) = by_graph(
        lambda image, plan: operate_in_turn(Sample(image), names, plan, Frame(SIZES[0])).image,
        images,
        [plans],
        back_end,
    )
    theirs, mode = v2.TrivialAugmentWide(), v2.InterpolationMode("nearest")
    for row, image, result in zip(rows, images, found, strict=True):
        wanted = image[None]
        for name in (names[index] for index in row):
            wanted = by_torch(
                theirs._apply_image_or_video_transform, wanted, name, strength[name], mode, {}
            )
        assert difference(result, wanted[0]) == (0, 0.0), row


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_every_threshold_and_number_of_bits_makes_torchvisions_levels(back_end: str) -> None:
    """Of images in which each level is once in every channel."""
    codes = [tables.solarize_code(threshold) for threshold in range(257)]
    codes += [tables.posterize_code(bits) for bits in range(9)]
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    image = np.concatenate([image, image[::-1], image.transpose(1, 0, 2)], axis=2)
    images = np.stack([image] * len(codes))
    (found,) = by_graph(tables.change_levels, images, [np.array(codes)], back_end)
    for threshold in range(256):
        wanted = by_torch(F.solarize, images[:1], threshold)
        np.testing.assert_array_equal(found[threshold], wanted[0], f"threshold {threshold}")
    np.testing.assert_array_equal(found[256], image)
    for bits in range(9):
        wanted = by_torch(F.posterize, images[:1], bits)
        np.testing.assert_array_equal(found[257 + bits], wanted[0], f"{bits} bits")
    np.testing.assert_array_equal(found[0], by_torch(F.invert, images[:1])[0])


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("num", [2, 5, 8])
def test_each_sample_of_a_batch_takes_its_own_operation(
    num: int, back_end: str, pictures: dict[Any, np.ndarray]
) -> None:
    """Split and merged again, a batch is what its samples are alone."""
    size = SIZES[1]
    images = pictures[size][:num]
    rng = np.random.default_rng(num)
    table = levels(31, size, wide=True)
    chosen = [rng.integers(0, len(OPERATIONS), num) for _ in range(6)]
    strengths = [np.array([table[OPERATIONS[one]][20] for one in row]) for row in chosen]
    structure = Structure(plan_operations(OPERATIONS, chosen[0], strengths[0], size))

    def batch(row: np.ndarray, strength: np.ndarray, images: np.ndarray) -> list[np.ndarray]:
        plan = plan_operations(OPERATIONS, row, strength, size)
        return [images, *structure.leaves(plan)]

    def define(image: Any, *leaves: Any) -> Any:
        image = fn.reshape(on(back_end, image), layout="HWC")
        return [
            fn.copy(operate(Sample(image), OPERATIONS, structure.build(leaves), Frame(size)).image)
        ]

    rows = list(zip(chosen, strengths, strict=True))
    together = [batch(row, strength, images) for row, strength in rows]
    alone = [
        batch(row[[i]], strength[[i]], images[[i]]) for row, strength in rows for i in range(num)
    ]
    results = [result for (result,) in run(define, together + alone, back_end)]
    np.testing.assert_array_equal(
        np.concatenate(results[: len(rows)]), np.concatenate(results[len(rows) :])
    )


def test_jitter_applies_all_that_was_drawn_in_the_order_drawn(
    pictures: dict[Any, np.ndarray],
) -> None:
    """torchvision's four functions in the drawn order make the same image within four levels."""
    size = SIZES[0]
    images = np.concatenate([pictures[size][:3]] * 8)
    jitter, frame = ColorJitter(0.4, 0.4, 0.4, 0.2), Frame(size, MEAN)
    drawn = jitter.draw(HostDraws(len(images), 1, 0, 0, 0), frame)
    found = by_augmentation(jitter, images, drawn)
    orders = set()
    for place, image in enumerate(images):
        wanted, order = image, []
        for step in drawn:
            if not step.is_here[place]:
                continue
            order.append(step.name)
            number = float(step.number[place])
            wanted = by_torch(getattr(F, f"adjust_{step.name}"), wanted[None], number)[0]
        assert sorted(order) == ["brightness", "contrast", "hue", "saturation"]
        orders.add(tuple(order))
        # A level of one is up to 1.4 squared levels of the last, and hue moves levels about.
        apart = np.abs(found[place].astype(int) - wanted)
        assert apart.mean() < 0.05
        assert np.quantile(apart, 0.999) <= 4
    assert len(orders) > 8


# --- Distributions ------------------------------------------------------------------------------


def frame(size: tuple[int, int] = (60, 84)) -> Frame:
    return Frame(size, MEAN)


def test_jitter_draws_factors_and_orders_as_torchvision_does() -> None:
    settings: dict[str, Any] = {
        "brightness": 0.4,
        "contrast": (0.5, 0.9),
        "saturation": 1.5,
        "hue": 0.1,
    }
    num = 6000
    drawn = ColorJitter(**settings).draw(HostDraws(num, 3, 0, 0, 0), frame())
    theirs = v2.ColorJitter(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = [theirs.make_params([]) for _ in range(3000)]
    taken: dict[str, np.ndarray] = {}
    orders = np.empty(num, object)
    orders[:] = [()] * num
    for step in drawn:
        taken[step.name] = np.concatenate(
            [taken.get(step.name, np.zeros(0)), step.number[step.is_here]]
        )
        for sample in np.flatnonzero(step.is_here):
            orders[sample] += (step.name,)
    assert all(sorted(order) == sorted(settings) for order in orders)
    counts = Counter(orders)
    for name in settings:
        wanted = [one[f"{name}_factor"] for one in reference]
        assert len(taken[name]) == num
        assert ks_2samp(taken[name], wanted).pvalue > 0.001, name
    # Each of 24 orders is equally likely: five standard errors of a count.
    assert len(counts) == 24
    assert all(abs(count - num / 24) < 5 * (num * 23) ** 0.5 / 24 for count in counts.values())


def test_jitter_of_nothing_draws_and_changes_nothing() -> None:
    assert ColorJitter().draw(HostDraws(3, 0, 0, 0, 0), frame()) == ()
    assert ColorJitter(brightness=(1, 1)).ranges == {}
    assert ColorJitter(brightness=1.5).ranges == {"brightness": (0.0, 2.5)}
    assert ColorJitter(hue=(-0.1, 0.3)).ranges == {"hue": (-0.1, 0.3)}


Operation = tuple[str, float]


class Reader:
    """Read operations and strengths back from a plan.

    Operations that are one and the same, as every warp of strength 0, are read as one of them.
    """

    def __init__(self, names: Sequence[str], num_bins: int, wide: bool) -> None:
        self._operations: dict[bytes, Operation] = {}
        self._same: dict[Operation, Operation] = {}
        strengths = levels(num_bins, SIZE, wide=wide)
        for number, name in enumerate(names):
            for level in (*strengths[name], *(-strengths[name] if name in SIGNED else ())):
                plan = plan_operations(names, np.array([number]), np.array([level]), SIZE)
                (key,) = self._keys(plan)
                self._same[name, level] = self._operations.setdefault(key, (name, level))

    def read(self, plan: Any) -> list[Operation | None]:
        """What each sample takes; None where the plan says nothing to do."""
        pairs = zip(self._keys(plan), plan.kind, strict=True)
        return [self._operations[key] if kind else None for key, kind in pairs]

    def __contains__(self, operation: Operation) -> bool:
        return operation in self._same

    def same(self, operation: Operation) -> Operation:
        """How an operation with a strength is read."""
        return self._same[operation]

    def _keys(self, plan: Any) -> list[bytes]:
        leaves = Structure(plan).leaves(plan)
        # Adding 0 makes -0.0 of a negated nothing 0.0.
        return [b"".join((leaf[i] + 0).tobytes() for leaf in leaves) for i in range(len(plan.kind))]


SIZE = (60, 84)


def readers_of(augmentation: Any) -> list[Reader]:
    """One reader for each turn of an augmentation."""
    if isinstance(augmentation, TrivialAugment):
        return [Reader(OPERATIONS, augmentation.num_bins, wide=True)]
    if isinstance(augmentation, RandAugment):
        return [Reader(OPERATIONS, augmentation.num_bins, wide=False)] * augmentation.num_ops
    pairs = POLICIES[augmentation.policy]
    turns = [dict.fromkeys(pair[turn].operation for pair in pairs) for turn in (0, 1)]
    return [Reader(tuple(names), 10, wide=False) for names in turns]


def read(augmentation: Any, plan: Any) -> list[tuple[Operation | None, ...]]:
    """For each sample what each turn does."""
    plans = plan if isinstance(plan, tuple) else (plan,)
    turns = zip(readers_of(augmentation), plans, strict=True)
    return list(zip(*(reader.read(plan) for reader, plan in turns), strict=True))


def theirs_of(augmentation: Any, size: tuple[int, int], num: int) -> Iterator[tuple[Any, ...]]:
    """What torchvision's class gives an image: operations and strengths in turn."""
    taken: list[tuple[str, float]] = []

    def record(image: Any, name: str, magnitude: float, **_: Any) -> Any:
        taken.append((name, magnitude))
        return image

    augmentation._apply_image_or_video_transform = record
    image = torch.zeros((3, *size), dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(num):
            taken.clear()
            augmentation(image)
            yield tuple(taken)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (TrivialAugment(), v2.TrivialAugmentWide()),
        (RandAugment(2, 5, 10), v2.RandAugment(2, 5, 10)),
        (AutoAugment(), v2.AutoAugment()),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in (
                (TrivialAugment(num_bins=7), v2.TrivialAugmentWide(num_magnitude_bins=7)),
                (RandAugment(1), v2.RandAugment(1)),
                (AutoAugment("cifar10"), v2.AutoAugment(AutoAugmentPolicy.CIFAR10)),
                (AutoAugment("svhn"), v2.AutoAugment(AutoAugmentPolicy.SVHN)),
            )
        ),
    ],
    ids=lambda one: str(one) if not isinstance(one, v2.Transform) else "",
)
def test_operations_strengths_and_signs_come_as_often_as_torchvisions(
    ours: Any, theirs: Any
) -> None:
    num = 6000
    plan = ours.draw(HostDraws(num, 5, 0, 0, 0), Frame(SIZE))
    found = [tuple(filter(None, row)) for row in read(ours, plan)]
    readers = readers_of(ours)

    def same(operation: Operation) -> Operation:
        return next(reader.same(operation) for reader in readers if operation in reader)

    # A strength that is not ours to the bit is read by nobody.
    reference = [
        tuple(same(operation) for operation in row if operation[0] != "Identity")
        for row in theirs_of(theirs, SIZE, num)
    ]

    def strengths(rows: list[Any]) -> set[Operation]:
        return {(name, abs(level)) for row in rows for name, level in row}

    # With 6000 draws each comes up.
    assert strengths(found) == strengths(reference)
    same_distribution(Counter(map(len, found)), Counter(map(len, reference)))
    for view in (
        lambda row: tuple(name for name, _ in row),
        lambda row: row,
        lambda row: tuple((name, level > 0) for name, level in row if name in SIGNED),
    ):
        same_distribution(Counter(map(view, found)), Counter(map(view, reference)))


@pytest.mark.parametrize(
    "augment",
    [TrivialAugment, RandAugment, partial(AutoAugment, "svhn"), partial(AutoAugment, "imagenet")],
    ids=["trivial", "rand", "svhn", "imagenet"],
)
def test_interpolation_changes_those_images_that_are_sheared_or_turned(augment: Any) -> None:
    """In each of the turns, and no others."""
    size, num = (20, 31), 200  # not both even: a quarter turn would move pixels onto pixels
    images = np.random.default_rng(0).integers(0, 256, (num, *size, 3)).astype(np.uint8)
    plan = augment().draw(HostDraws(num, 8, 0, 0, 0), frame(size))
    nearest, bilinear = (
        by_augmentation(augment(interpolation=interpolation), images, plan)
        for interpolation in ("nearest", "bilinear")
    )
    changed = (nearest != bilinear).any(axis=(1, 2, 3))
    plans = plan if isinstance(plan, tuple) else (plan,)
    # A shear or a turn is neither a shift nor nothing.
    wanted = np.any([(one.matrix[:, :, :2] != np.eye(2)).any(axis=(1, 2)) for one in plans], axis=0)
    assert changed.tolist() == wanted.tolist()
    assert 0.1 < np.mean(wanted) < 0.9


def test_erased_rectangles_are_distributed_as_torchvisions() -> None:
    size, num = (40, 64), 6000
    settings: dict[str, Any] = {"scale": (0.05, 0.9), "ratio": (0.3, 1.5)}
    (drawn,) = RandomErasing(prob=1.0, **settings).draw(HostDraws(num, 2, 0, 0, 0), frame(size))
    theirs = v2.RandomErasing(p=1.0, **settings)
    picture = torch.zeros(3, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = [theirs.make_params([picture]) for _ in range(num // 2)]
    reference = [one for one in reference if one["v"] is not None]
    taken = drawn.is_erased
    assert taken.mean() > 0.95  # ten rectangles are tried
    assert (drawn.extent[~taken] == 0).all()
    shape, anchor = drawn.extent[taken], drawn.anchor[taken]
    assert (anchor >= 0).all()
    assert (anchor + shape <= size).all()
    tall, wide = shape.T
    ours = {
        "area": tall * wide,
        "ratio": np.log(tall / wide),
        "top": anchor[:, 0],
        "left": anchor[:, 1],
        "bottom": anchor[:, 0] + tall,
        "right": anchor[:, 1] + wide,
    }
    i, j, h, w = np.array([[one[key] for key in "ijhw"] for one in reference]).T
    wanted = (h * w, np.log(h / w), i, j, i + h, j + w)
    for (name, values), one in zip(ours.items(), wanted, strict=True):
        assert ks_2samp(values, one).pvalue > 0.001, name


@pytest.mark.parametrize(
    "make", [Grayscale, lambda prob: RandomErasing(prob)], ids=["gray", "erasing"]
)
def test_probabilities_are_those_given(make: Any) -> None:
    num = 5000
    for prob in (0.0, 0.3, 1.0):
        drawn = make(prob).draw(HostDraws(num, 1, 0, 0, 0), frame())
        share = np.mean(drawn[0].is_erased if isinstance(drawn, tuple) else drawn)
        assert abs(share - prob) <= 4.5 * (prob * (1 - prob) / num) ** 0.5


# --- In a loader --------------------------------------------------------------------------------

ALL = [
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    Grayscale(0.3),
    TrivialAugment(),
    RandAugment(interpolation="bilinear"),
    AutoAugment(),
    RandomErasing(),
]


@pytest.fixture(scope="module")
def arrays() -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (29, 40, 36, 3)).astype(np.uint8)
    return ImageArrays(images, np.arange(29) % 4)


def served(source: Any, augment: Any, batch_size: int = 6, **settings: Any) -> list[torch.Tensor]:
    transform = TrainTransform((24, 32), augment=augment)
    given = {"dtype": torch.uint8, "seed": 4, "shuffle": True, **settings}
    with DataLoader(source, batch_size, transform=transform, **given) as loader:
        return [batch[0] for batch in loader]


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment", [*(pytest.param([one], marks=pytest.mark.full) for one in ALL), ALL], ids=str
)
def test_batches_do_not_depend_on_threads_or_prefetch(arrays: ImageArrays, augment: Any) -> None:
    plain = served(arrays, augment, num_workers=1, prefetch=1)
    for one, same in zip(plain, served(arrays, augment, num_workers=3, prefetch=4), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(plain[0], served(arrays, augment, seed=5)[0])


@pytest.mark.parametrize("augment", ALL, ids=str)
def test_every_batch_epoch_seed_and_shard_draws_anew(augment: Any) -> None:
    plans = [
        augment.draw(HostDraws(12, *place), frame())
        for place in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    ]
    structure = Structure(plans[0])
    for plan, other in itertools.combinations(plans, 2):
        pairs = zip(structure.leaves(plan), structure.leaves(other), strict=True)
        assert any((leaf != other_leaf).any() for leaf, other_leaf in pairs)


def test_a_resumed_loader_augments_as_it_would_have(arrays: ImageArrays) -> None:
    settings: dict[str, Any] = {
        "transform": TrainTransform((24, 32), augment=ALL),
        "mix": CutMix(),
        "shuffle": True,
        "seed": 1,
    }
    with DataLoader(arrays, 6, **settings) as loader:
        first = iter(loader)
        for _ in range(2):
            next(first)
        state = loader.state_dict()
        wanted = [image for image, _ in first]
    with DataLoader(arrays, 6, **settings) as loader:
        loader.load_state_dict(state)
        found = [image for image, _ in loader]
    assert all(torch.equal(one, same) for one, same in zip(wanted, found, strict=True))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_samples_that_nothing_was_drawn_for_are_served_as_without(
    arrays: ImageArrays, batch_size: int
) -> None:
    """Crops and flips have streams of their own, so that augmenting shifts none."""
    plain = torch.cat(served(arrays, (), batch_size))
    erased = torch.cat(served(arrays, [RandomErasing(0.5, value=(1, 2, 3))], batch_size))
    changed = (plain != erased).any(dim=1)
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None]
    for one, mask in zip(erased, changed, strict=True):
        if mask.any():
            assert (one[:, mask] == colour).all()
    touched = changed.flatten(1).any(dim=1)
    # 29 coins: fewer than 4 or more than 25 heads come once in 40 000.
    assert 4 <= touched.sum() <= 25
    gray = torch.cat(served(arrays, [Grayscale(0.5)], batch_size))
    is_gray = (gray == gray[:, :1]).flatten(1).all(dim=1)
    assert 4 <= is_gray.sum() <= 25
    assert torch.equal(gray[~is_gray], plain[~is_gray])


def test_erasing_with_0_is_0_after_normalisation_within_half_a_level(arrays: ImageArrays) -> None:
    settings: dict[str, Any] = {"prob": 1.0, "scale": (0.3, 0.3), "ratio": (1.0, 1.0)}
    transform = TrainTransform((24, 32), augment=[RandomErasing(**settings)])
    with DataLoader(arrays, 29, transform=transform) as loader:
        ((image, _),) = loader
    bound = torch.tensor([0.5 / 255 / one for one in IMAGENET_STD])[:, None, None]
    is_erased = (image.abs() <= bound * 1.001).all(dim=1)
    # Of 768 pixels: 15 rows of 15.
    assert (is_erased.flatten(1).sum(dim=1) >= 15 * 15).all()
    assert (is_erased.flatten(1).sum(dim=1) < 15 * 15 + 10).all()


def test_no_operations_change_nothing(arrays: ImageArrays) -> None:
    """torchvision's RandAugment takes 0 as well."""
    for one, same in zip(served(arrays, [RandAugment(num_ops=0)]), served(arrays, ()), strict=True):
        assert torch.equal(one, same)


def test_augmentations_apply_in_the_order_given(arrays: ImageArrays) -> None:
    black = RandomErasing(1.0, value=(255, 0, 0))
    first, last = (
        served(arrays, order, 29)[0] for order in ([black, Grayscale(1.0)], [Grayscale(1.0), black])
    )
    assert (first == first[:, :1]).all()
    assert (last[:, 0] > last[:, 1]).flatten(1).any(dim=1).all()


@pytest.mark.slow
@pytest.mark.parametrize("pad", [None, 3])
def test_arrays_and_files_are_augmented_alike(tmp_path: Path, pad: int | None) -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (24, 40, 36, 3)).astype(np.uint8)
    pairs = []
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        pairs.append((str(tmp_path / f"{number}.png"), 0))
    transform = TrainTransform((24, 32), augment=ALL, pad=pad)
    batches = []
    for source in (pairs, ImageArrays(images, np.zeros(24, int))):
        with DataLoader(source, 24, transform=transform, dtype=torch.uint8) as loader:
            batches.append(next(iter(loader))[0])
    assert torch.equal(*batches)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [[one] for one in ALL], ids=str)
def test_a_gpu_augments_as_the_cpu_does(arrays: ImageArrays, augment: Any) -> None:
    """What is drawn is the same; resizing, and where a turn falls on a border, may differ."""
    ours = torch.cat(served(arrays, augment, device="cuda")).cpu().float()
    wanted = torch.cat(served(arrays, augment, device="cpu")).float()
    assert ((ours - wanted).abs() > 40).float().mean() < 0.05


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ColorJitter(brightness=-0.1),
            "ColorJitter: `brightness` must be at least 0, or (min, max), got -0.1.",
        ),
        (
            lambda: ColorJitter(contrast=(0.5, 0.2)),
            "ColorJitter: `contrast` must be (min, max) with 0 <= min <= max <= inf, got "
            "(0.5, 0.2).",
        ),
        (
            lambda: ColorJitter(hue=0.6),
            "ColorJitter: `hue` must be in [0, 0.5], or (min, max), got 0.6.",
        ),
        (
            lambda: ColorJitter(hue=(-0.7, 0)),
            "ColorJitter: `hue` must be (min, max) with -0.5 <= min <= max <= 0.5, got (-0.7, 0).",
        ),
        (lambda: Grayscale(1.5), "Grayscale: `prob` must be in [0, 1], got 1.5."),
        (
            lambda: TrivialAugment(num_bins=1),
            "TrivialAugment: `num_bins` must be a whole number of at least 2, got 1.",
        ),
        (
            lambda: RandAugment(magnitude=31),
            "RandAugment: `magnitude` must be a whole number from 0 to num_bins - 1 = 30, got 31.",
        ),
        (
            lambda: RandAugment(num_ops=-1),
            "RandAugment: `num_ops` must be a whole number of at least 0, got -1.",
        ),
        *(
            (
                lambda one=one: one(interpolation="bicubic"),
                f"{one.__name__}: `interpolation` must be one of 'nearest', 'bilinear', got "
                "'bicubic'.",
            )
            for one in (TrivialAugment, RandAugment, AutoAugment)
        ),
        (
            lambda: AutoAugment("imagenette"),  # type: ignore[arg-type]
            "AutoAugment: `policy` must be one of 'imagenet', 'cifar10', 'svhn', got 'imagenette'.",
        ),
        (
            lambda: RandomErasing(scale=(0.5, 1.5)),
            "RandomErasing: `scale` must be (min, max) with 0 <= min <= max <= 1, got (0.5, 1.5).",
        ),
        (
            lambda: RandomErasing(ratio=(0, 1)),
            "RandomErasing: `ratio` must start above 0, got (0, 1).",
        ),
        *(
            (
                lambda value=value: RandomErasing(value=value),
                "RandomErasing: `value` must be 0, or R, G, B in [0, 255], got "
                f"{value!r}. 0 is the mean of the data. `mode=` fills with noise.",
            )
            for value in ("random", 0.5, (0, 0, 256), (1, 2), None)
        ),
        (
            lambda: TrainTransform(augment=TrivialAugment()),  # type: ignore[arg-type]
            "TrainTransform: `augment` must be a list of augmentations, got "
            "TrivialAugment(num_bins=31, interpolation='nearest', fill=0). A single augmentation "
            "goes into a list: `augment=[TrivialAugment()]`.",
        ),
        (
            lambda: TrainTransform(augment=[v2.RandomGrayscale(0.1)]),  # type: ignore[list-item]
            "TrainTransform: `augment` must hold augmentations of the graph, got "
            "RandomGrayscale(p=0.1). Take augmentations of dali_cutmix.augmentations; "
            "torchvision's cannot run in a graph.",
        ),
    ],
)
def test_bad_augmentations_are_refused_with_the_way_out(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        make()
    assert str(caught.value) == message


def test_the_policies_are_torchvisions() -> None:
    for policy in AutoAugmentPolicy:
        theirs = v2.AutoAugment(policy)._policies
        ours = POLICIES[policy.value]
        assert len(ours) == len(theirs) == 25
        for step, (name, prob, level) in zip(
            itertools.chain(*ours), itertools.chain(*theirs), strict=True
        ):
            assert step == (name, prob, level or 0)
