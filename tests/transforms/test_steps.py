"""Steps of `Compose`: torchvision's pixels for the numbers drawn, and its distributions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn
from PIL import Image
from scipy.stats import chi2_contingency, chisquare, ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dali_cutmix import (
    Compose,
    CutMix,
    DataLoader,
    EvalTransform,
    FMix,
    ImageArrays,
    Masks,
    TrainTransform,
)
from dali_cutmix.augmentations import (
    ADMCrop,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    Frame,
    GaussianBlur,
    Grayscale,
    Lighting,
    Pad,
    RandAugment,
    RandomAdjustSharpness,
    RandomAffine,
    RandomApply,
    RandomAutocontrast,
    RandomChoice,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomHorizontalFlip,
    RandomInvert,
    RandomOrder,
    RandomPerspective,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    RandomSolarize,
    RandomVerticalFlip,
    Resize,
    ResizeKeepRatio,
    SquareCrop,
    SquarePad,
    TimmRandAugment,
    TrimBorder,
    TrivialAugment,
)
from graphs import BACK_ENDS
from steps import applied, as_tensor, draw

SIZES = [(60, 84), (33, 32), (7, 12), (2, 3), (1, 1), (25, 90)]

#: Where an augmentation has two implementations: threads on the CPU, or operators as on a GPU.
ON_THREADS = pytest.mark.parametrize("on_threads", [True, False], ids=["threads", "operators"])


@pytest.fixture(scope="module")
def images(photos: list[np.ndarray]) -> list[np.ndarray]:
    """Photographs and noise of different sizes, some tiny."""
    rng = np.random.default_rng(0)
    cut = [photos[i % 3][150 : 150 + h, 200 : 200 + w] for i, (h, w) in enumerate(SIZES)]
    return [*map(np.array, cut), rng.integers(0, 256, (40, 31, 3), dtype=np.uint8)]


def as_array(image: Any) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        return image.permute(1, 2, 0).numpy()
    return np.asarray(image)


def assert_near(
    found: Sequence[np.ndarray], wanted: Sequence[Any], most: int = 0, share: float = 0.0
) -> None:
    """Values differ by so much at most, and no larger share of an image's values does."""
    for one, other in zip(found, map(as_array, wanted), strict=True):
        assert one.shape == other.shape
        apart = np.abs(one.astype(int) - other)
        if apart.size > 100:
            assert (apart > most).mean() <= share
        else:
            assert apart.max() <= max(most, 1)


# --- Pixels -------------------------------------------------------------------------------------

ADJUSTMENTS: list[tuple[Any, Any, int]] = [
    (RandomInvert(1.0), F.invert, 0),
    (RandomSolarize(100.5, 1.0), lambda image: F.solarize(image, 100.5), 0),
    (RandomPosterize(3, 1.0), lambda image: F.posterize(image, 3), 0),
    (RandomAdjustSharpness(2.5, 1.0), lambda image: F.adjust_sharpness(image, 2.5), 1),
    (RandomAdjustSharpness(0.0, 1.0), lambda image: F.adjust_sharpness(image, 0.0), 1),
    (RandomAutocontrast(1.0), F.autocontrast, 0),
    (RandomEqualize(1.0), F.equalize, 2),
    (RandomHorizontalFlip(1.0), F.horizontal_flip, 0),
    (RandomVerticalFlip(1.0), F.vertical_flip, 0),
    (GaussianBlur((3, 5), 1.3), lambda image: F.gaussian_blur(image, [3, 5], [1.3, 1.3]), 1),
    (CenterCrop((40, 33)), lambda image: F.center_crop(image, [40, 33]), 0),
    (Resize(21), lambda image: F.resize(image, [21]), 0),
    (Resize(21, max_size=30), lambda image: F.resize(image, [21], max_size=30), 0),
    (Resize((30, 19)), lambda image: F.resize(image, [30, 19]), 0),
    (Pad(1), lambda image: F.pad(image, [1]), 0),
    (Pad((1, 2, 3, 0), 7), lambda image: F.pad(image, [1, 2, 3, 0], 7), 0),
    (Pad((3, 1), (9, 8, 7)), lambda image: F.pad(image, [3, 1], [9, 8, 7]), 0),
    (Pad((5, 2, 0, 9), 0, "edge"), lambda image: F.pad(image, [5, 2, 0, 9], 0, "edge"), 0),
]


def step_id(value: Any) -> str:
    """Name a step, and no function by its address, which differs from process to process."""
    return "" if callable(value) else str(value)[:40]


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(("step", "theirs", "most"), ADJUSTMENTS, ids=step_id)
def test_step_makes_torchvisions_pixels_of_images_of_any_size(
    step: Any, theirs: Any, most: int, back_end: str, images: list[np.ndarray]
) -> None:
    if isinstance(step, GaussianBlur):
        images = [image for image in images if min(image.shape[:2]) > 3]  # torchvision's own limit
    found = applied(step, images, draw(step, len(images)), back_end=back_end)
    wanted = [theirs(as_tensor(image)) for image in images]
    if back_end == "gpu" and isinstance(step, Resize):
        return
    assert_near(found, wanted, most, share=0.0 if back_end == "cpu" else 0.01)


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
def test_borders_that_mirror_the_image_are_torchvisions(
    mode: Any, images: list[np.ndarray]
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 6]
    step = Pad((5, 2, 0, 6), padding_mode=mode)
    wanted = [F.pad(as_tensor(image), [5, 2, 0, 6], padding_mode=mode) for image in images]
    assert_near(applied(step, images, ()), wanted)


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
def test_mirrors_go_on_where_a_border_is_wider_than_the_image(mode: Any) -> None:
    rng = np.random.default_rng(0)
    shapes = [(20, 30), (7, 1), (1, 9), (31, 4), (48, 70)]
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    theirs = v2.Pad([5, 32, 70, 6], padding_mode=mode)
    found = applied(Pad((5, 32, 70, 6), padding_mode=mode), images, ())
    assert_near(found, [as_tensor(np.array(theirs(Image.fromarray(i)))) for i in images])
    small = images[0][:8, :2].copy()
    centred = v2.Pad([29, 20, 29, 20], padding_mode=mode)(Image.fromarray(small))
    found = applied(CenterCrop((48, 60), padding_mode=mode), [small], ())
    assert_near(found, [as_tensor(np.array(centred))])
    masks = [image[..., 0] for image in images]
    transform = Compose([RandomCrop(48, padding_mode=mode)])
    loader = DataLoader(
        ImageArrays(images, [0] * 5),
        5,
        transform=transform,
        target=Masks(masks, ignore=-100),
        device="cpu",
        dtype=torch.uint8,
    )
    for image, mask in loader:
        assert (image[:, 0] == mask).all()


@pytest.mark.parametrize("turn", [90, 180, 270, -90])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_quarter_turns_that_keep_all_of_an_image_move_whole_pixels(
    turn: int, interpolation: Any, images: list[np.ndarray]
) -> None:
    step = RandomRotation((turn, turn), interpolation, expand=True)
    found = applied(step, images, draw(step, len(images)))
    for image, turned in zip(images, found, strict=True):
        assert np.array_equal(turned, np.rot90(image, turn // 90))


def test_numbers_of_numpy_and_lists_of_one_level_are_taken() -> None:
    images = ImageArrays([np.full((30, 20, 3), 200, np.uint8)] * 4, [0] * 4)
    two, side = np.int64(2), np.int64(36)
    steps: list[Any] = [
        [Resize(side), CenterCrop(32)],
        [Pad(two, fill=[5]), Pad([two] * 4), CenterCrop(32)],
        [TrimBorder(two), CenterCrop(32), RandomRotation(10, fill=(5,)), TrivialAugment(fill=[5])],
    ]
    transforms: list[Any] = [
        *map(Compose, steps),
        TrainTransform(32, pad=two, resize=side),
        EvalTransform(side, np.int64(32)),
        TrainTransform(
            32, mean=[0.5] * 3, std=[0.5] * 3, augment=[RandomErasing(1.0, mode="pixel")]
        ),
        Compose([CenterCrop(32), RandomErasing(1.0, mode="pixel")], mean=[0.5], std=[0.5]),
    ]
    for transform in transforms:
        mix = FMix(resolution=np.int64(8))
        loader = DataLoader(images, 4, transform=transform, mix=mix, device="cpu", num_classes=1)
        assert [image.shape[2:] for image, _ in loader] == [(32, 32)]


def test_masks_of_very_long_images_follow_the_middle() -> None:
    rng = np.random.default_rng(0)
    masks = [np.kron(rng.integers(0, 9, (2, 100)), np.ones((8, 8))).astype(np.uint8)] * 2
    images = [np.repeat(mask[..., None], 3, axis=2) for mask in masks]
    loader = DataLoader(
        ImageArrays(images, [0, 0]),
        2,
        transform=EvalTransform(64, 48, interpolation="nearest"),
        target=Masks(masks),
        device="cpu",
        dtype=torch.uint8,
    )
    for image, mask in loader:
        assert (image[:, 0] == mask).all()


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("size", [21, (30, 19)])
def test_resize_takes_torchvisions_kernels(
    size: Any, interpolation: Any, images: list[np.ndarray]
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 20]
    theirs = v2.Resize(size, v2.InterpolationMode(interpolation))
    found = applied(Resize(size, interpolation), images, None)
    if interpolation == "bicubic":
        assert_near(found, [theirs(as_tensor(image)) for image in images])
    else:
        assert_near(found, [theirs(Image.fromarray(image)) for image in images])


@pytest.mark.parametrize("height", range(38, 46))
def test_the_centre_of_images_of_any_size_is_torchvisions(height: int) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(1, 256, (height, width, 3), np.uint8) for width in range(27, 36)]
    for size in ((40, 31), (41, 30)):
        wanted = [F.center_crop(as_tensor(image), list(size)) for image in images]
        assert_near(applied(CenterCrop(size), images, ()), wanted)
        for image in images[::4]:  # the same where the size is known before
            known = applied(CenterCrop(size), [image], (), Frame(image.shape[:2]))
            assert_near(known, [F.center_crop(as_tensor(image), list(size))])


@ON_THREADS
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("fill", [0, (90, 10, 200)])
def test_turns_are_those_of_the_angles_drawn(
    interpolation: Any, fill: Any, on_threads: bool, images: list[np.ndarray]
) -> None:
    """On threads Pillow's to the bit; by operators torchvision's tensors', as on a GPU."""
    images = [image for image in images if min(image.shape[:2]) > 6]
    step = RandomRotation((20, 70), interpolation, fill=fill)
    plan = draw(step, len(images))
    found = applied(step, images, plan, on_threads=on_threads)
    mode = v2.InterpolationMode("bilinear" if not on_threads else interpolation)
    mode = v2.InterpolationMode.NEAREST if interpolation == "nearest" else mode
    angles = [math.degrees(math.atan2(-linear[0, 1], linear[0, 0])) for linear in plan.linear]
    if on_threads:
        wanted = [
            F.rotate(Image.fromarray(image), angle, mode, fill=fill)
            for image, angle in zip(images, angles, strict=True)
        ]
        assert_near(found, wanted, share=0.002)
    else:
        wanted = [
            F.rotate(as_tensor(image), angle, mode, fill=fill or None)
            for image, angle in zip(images, angles, strict=True)
        ]
        assert_near(found, wanted, most=1, share=0.005)


@ON_THREADS
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_turns_that_expand_keep_all_of_an_image(
    interpolation: Any, on_threads: bool, images: list[np.ndarray]
) -> None:
    step = RandomRotation(180, interpolation, fill=(90, 10, 200), expand=True)
    plan = draw(step, len(images))
    angles = np.degrees(np.arctan2(plan.linear[:, 0, 1], plan.linear[:, 0, 0]))
    theirs = [
        F.rotate(
            Image.fromarray(image),
            -float(angle),
            v2.InterpolationMode(interpolation),
            expand=True,
            fill=[90, 10, 200],
        )
        for image, angle in zip(images, angles, strict=True)
    ]
    found = applied(step, images, plan, on_threads=on_threads)
    if on_threads:
        assert_near(found, theirs)
    for ours, picture in zip(found, theirs, strict=True):
        wanted = as_array(picture)
        assert ours.shape == wanted.shape
        if interpolation != "bicubic" and ours.size > 3000:  # within a pixel at the border
            assert (np.abs(ours.astype(int) - wanted) > 60).mean() < 0.06


@ON_THREADS
@pytest.mark.parametrize("center", [None, (3.0, 10.5)])
def test_affine_maps_are_those_of_the_numbers_drawn(
    center: Any, on_threads: bool, images: list[np.ndarray]
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 6]
    step = RandomAffine(
        (33, 33), (0.3, 0.2), (1.2, 1.2), (10, 10, -7, -7), "bilinear", center=center
    )
    plan = draw(step, len(images))
    found = applied(step, images, plan, on_threads=on_threads)
    for image, shift, one in zip(images, plan.shift, found, strict=True):
        height, width, _ = image.shape
        translate = [round(shift[0] * width), round(shift[1] * height)]
        arguments: Any = (33, translate, 1.2, [10, -7], v2.InterpolationMode.BILINEAR)
        given = Image.fromarray(image) if on_threads else as_tensor(image)
        wanted = F.affine(given, *arguments, center=center)
        assert_near([one], [wanted], most=1, share=0.005)


@ON_THREADS
def test_perspectives_are_those_of_the_corners_drawn(
    on_threads: bool, images: list[np.ndarray]
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 20]
    step = RandomPerspective(0.6, 1.0, fill=(90, 10, 200))
    plan = draw(step, len(images))
    found = applied(step, images, plan, on_threads=on_threads)
    wanted = []
    for image, share in zip(images, plan.corner, strict=True):
        height, width, _ = image.shape
        last = np.array([width, height]) - 1
        start = [[0, 0], [last[0], 0], last.tolist(), [0, last[1]]]
        bound = [int(0.6 * (width // 2)), int(0.6 * (height // 2))]
        moves = np.floor(share * (np.array(bound) + 1)).astype(int)
        signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        end = (np.array(start) + signs * moves).tolist()
        given: Any = Image.fromarray(image)
        wanted.append(F.perspective(given, start, end, fill=[90, 10, 200]))
    # An operator blends with the colour at the border, where Pillow takes the colour itself.
    assert_near(found, wanted, most=2, share=0.001 if on_threads else 0.12)


def test_corners_are_distributed_as_torchvisions() -> None:
    num, picture = 2000, torch.zeros(3, 40, 61)
    step, theirs = RandomPerspective(0.5, 0.3), v2.RandomPerspective(0.5, 0.3)
    plan = draw(step, num)
    assert abs(plan.is_applied.mean() - 0.3) < 4.5 * (0.21 / num) ** 0.5
    drawn = with_torchs_seed(lambda: theirs.make_params([picture])["coefficients"], num)
    ours = corners_of(plan.corner, (40, 61))
    wanted = corners_from(drawn, (40, 61))
    for column in range(8):
        assert ks_2samp(ours[:, column], wanted[:, column]).pvalue > 0.001


def corners_of(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Moves of the four corners in pixels, by the bound of torchvision."""
    bound = np.array([int(0.5 * (size[1] // 2)), int(0.5 * (size[0] // 2))])
    return np.floor(share * (bound + 1)).reshape(len(share), 8)


def corners_from(coefficients: list[list[float]], shape: tuple[int, ...]) -> np.ndarray:
    """The same, of torchvision's coefficients: points that the map sends to the corners."""
    last = np.array([shape[1], shape[0]]) - 1
    corners = np.array([[0, 0], [last[0], 0], last, [0, last[1]]], float)
    rows = []
    for a, b, c, d, e, f, g, h in coefficients:
        inverse = np.linalg.inv([[a, b, c], [d, e, f], [g, h, 1]])
        points = np.column_stack([corners, np.ones(4)]) @ inverse.T
        rows.append(np.abs(np.rint(points[:, :2] / points[:, 2:]) - corners).ravel())
    return np.array(rows)


@pytest.mark.parametrize(
    "step",
    [TrivialAugment(), RandAugment(3, interpolation="bilinear"), AutoAugment()],
    ids=["trivial", "rand", "auto"],
)
def test_automatic_augmentations_do_the_same_where_sizes_vary(
    step: Any, images: list[np.ndarray]
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 6] * 30
    found = applied(step, images, draw(step, len(images)))
    num_equal = 0
    for size in {image.shape[:2] for image in images}:
        # Of each size the samples at the same places, so that draws are the same.
        resized = [i if i.shape[:2] == size else np.zeros((*size, 3), np.uint8) for i in images]
        frame = Frame(size)
        wanted = applied(step, resized, draw(step, len(images), frame), frame)
        for image, one, other in zip(images, found, wanted, strict=True):
            if image.shape[:2] == size:
                apart = np.abs(one.astype(int) - other)
                # Maps of the two differ in the last bit. So a bilinear value halfway between two
                # levels may be rounded to either: one or two values of an image, if any.
                num_equal += apart.max() <= 1 and (apart > 0).sum() <= 2
                assert (apart > 2).mean() < 0.03
    # A product of float32 may fall below a whole pixel where another does not.
    assert num_equal > 0.97 * len(images)


def test_lighting_adds_a_colour_along_the_principal_components(images: list[np.ndarray]) -> None:
    num = 2000
    plan = draw(Lighting(0.2), num) / 255
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    alpha = plan @ np.linalg.inv((vectors * values).T)
    normal = 0.2 * np.random.default_rng(0).normal(size=num)
    for component in range(3):
        assert ks_2samp(alpha[:, component], normal).pvalue > 0.001
    assert np.abs(np.corrcoef(alpha.T) - np.eye(3)).max() < 0.1
    given = images[:3]
    for image, one, colour in zip(
        given, applied(Lighting(), given, plan[:3].astype(np.float32) * 255), plan, strict=False
    ):
        wanted = np.clip(np.rint(image + 255 * colour), 0, 255)
        assert np.abs(one - wanted).max() <= 1


def test_of_a_shape_of_its_own_each_sample_is_blurred_by_the_deviation_drawn(
    images: list[np.ndarray],
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 6]
    step = GaussianBlur(7, (0.1, 3.0))
    plan = draw(step, len(images))
    wanted = [
        F.gaussian_blur(as_tensor(image), [7, 7], [float(sigma)] * 2)
        for image, sigma in zip(images, plan, strict=True)
    ]
    assert_near(applied(step, images, plan), wanted, most=1)


# --- Distributions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        RandomHorizontalFlip,
        RandomVerticalFlip,
        RandomInvert,
        lambda prob: RandomSolarize(128, prob),
        lambda prob: RandomApply([RandomInvert()], prob),
    ],
)
def test_samples_change_with_the_probability_given(make: Any) -> None:
    num = 5000
    for prob in (0.0, 0.3, 1.0):
        plan = draw(make(prob), num)
        share = np.mean(getattr(plan, "is_applied", plan))
        assert abs(share - prob) <= 4.5 * (prob * (1 - prob) / num) ** 0.5


def with_torchs_seed(draw_one: Any, num: int) -> list[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [draw_one() for _ in range(num)]


@pytest.mark.parametrize(("height", "width"), [(150, 240), (60, 31)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.8, 1.0)])
def test_resized_crops_are_distributed_as_torchvisions_also_where_none_fits(
    height: int, width: int, scale: tuple[float, float]
) -> None:
    num = 3000
    step, theirs = RandomResizedCrop(16, scale), v2.RandomResizedCrop(16, scale)
    plan = draw(step, num)
    sides = np.array([height, width, 3])
    pipeline = Pipeline(num, 1, None)
    with pipeline:
        leaves = [
            fn.external_source(source=[leaf], cycle="quiet", batch=True)
            for leaf in (np.tile(sides, (num, 1)), plan.shape, plan.place)
        ]
        plan = type(plan)(*leaves[1:])
        pipeline.set_outputs(*step.window(leaves[0], plan))
    anchor, extent = (np.array(part.as_tensor()) for part in pipeline.run())
    ours = np.concatenate([anchor, extent, anchor + extent], axis=1)
    picture = torch.zeros(3, height, width)
    drawn = with_torchs_seed(lambda: theirs.make_params([picture]), num)
    wanted = np.array([[one[key] for key in ("top", "left", "height", "width")] for one in drawn])
    wanted = np.concatenate([wanted, wanted[:, :2] + wanted[:, 2:]], axis=1)
    for column in range(6):
        assert ks_2samp(ours[:, column], wanted[:, column]).pvalue > 0.001, column
    # Where no crop fits the centre is taken, as often.
    centre = Counter(map(tuple, wanted.tolist())).most_common(1)[0]
    if centre[1] > 100:
        counts = [(rows == centre[0]).all(axis=1).sum() for rows in (ours, wanted)]
        rests = [num - count for count in counts]
        assert rests == [0, 0] or chi2_contingency([counts, rests]).pvalue > 0.001


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crops_of_the_padded_image_start_at_every_place_equally_often(mode: Any) -> None:
    image = np.random.default_rng(0).integers(1, 256, (9, 8, 3), np.uint8)
    border, num = (3, 1, 0, 2), 600
    step = RandomCrop((10, 9), border, (1, 2, 3), mode)
    crops = applied(step, [image] * num, draw(step, num))
    fill: Any = [1, 2, 3] if mode == "constant" else 0
    wide = as_array(F.pad(as_tensor(image), list(border), fill, mode))
    windows = {wide[y : y + 10, x : x + 9].tobytes(): (y, x) for y in range(3) for x in range(3)}
    found = Counter(windows[crop.tobytes()] for crop in crops)
    assert len(found) == 9
    assert chisquare(list(found.values())).pvalue > 0.001


def test_angles_scales_shears_and_shifts_are_distributed_as_torchvisions() -> None:
    num = 3000
    settings: dict[str, Any] = {
        "degrees": (-10, 50),
        "translate": (0.4, 0.1),
        "scale": (0.5, 1.5),
        "shear": (-5, 30),
    }
    step, theirs = RandomAffine(**settings), v2.RandomAffine(**settings)
    plan = draw(step, num)
    picture = torch.zeros(3, 300, 200)
    drawn = with_torchs_seed(lambda: theirs.make_params([picture]), num)
    x, y = np.rint(plan.shift * [200, 300]).T
    wanted = np.array([one["translate"] for one in drawn])
    assert ks_2samp(x, wanted[:, 0]).pvalue > 0.001
    assert ks_2samp(y, wanted[:, 1]).pvalue > 0.001
    # Of the inverse the determinant tells the scale, the second row the angle alone.
    scale = np.linalg.det(plan.linear) ** -0.5
    assert ks_2samp(scale, [one["scale"] for one in drawn]).pvalue > 0.001
    angle = np.degrees(np.arctan2(-plan.linear[:, 1, 0], plan.linear[:, 1, 1]))
    assert ks_2samp(angle, [one["angle"] for one in drawn]).pvalue > 0.001
    turns = draw(RandomRotation((-10, 50)), num).linear
    rotation = with_torchs_seed(lambda: v2.RandomRotation((-10, 50)).make_params([]), num)
    angle = np.degrees(np.arctan2(-turns[:, 0, 1], turns[:, 0, 0]))
    assert ks_2samp(angle, [one["angle"] for one in rotation]).pvalue > 0.001


def test_blurs_are_distributed_as_torchvisions() -> None:
    plan = draw(GaussianBlur(3, (0.5, 2.5)), 3000)
    drawn = with_torchs_seed(lambda: v2.GaussianBlur(3, (0.5, 2.5)).make_params([]), 3000)
    assert ks_2samp(plan, [one["sigma"][0] for one in drawn]).pvalue > 0.001


# --- Some samples, some augmentations, some order -----------------------------------------------


@ON_THREADS
def test_random_apply_is_the_chain_for_some_samples_and_nothing_for_others(
    on_threads: bool, images: list[np.ndarray]
) -> None:
    images = [image for image in images if min(image.shape[:2]) > 6] * 6
    chain = [RandomAdjustSharpness(3.0, 1.0), RandomRotation(90, "bilinear", fill=(9, 5, 1))]
    some, everywhere = RandomApply(chain, 0.4), RandomApply(chain, 1.0)
    plans = [draw(step, len(images)) for step in (some, everywhere)]
    found, wanted = (
        applied(step, images, plan, on_threads=on_threads)
        for step, plan in zip((some, everywhere), plans, strict=True)
    )
    is_applied = plans[0].is_applied
    assert 0 < is_applied.sum() < len(images)
    for image, one, other, applies in zip(images, found, wanted, is_applied, strict=True):
        np.testing.assert_array_equal(one, other if applies else image)


def test_random_apply_takes_augmentations_of_one_size(images: list[np.ndarray]) -> None:
    """Their operators make constants of the batch, of which the part is taken."""
    size, num = (24, 24), 40
    images = [np.array(images[0][:24, :24])] * num
    for inner in (RandAugment(), TrivialAugment(), RandomErasing(1.0), ColorJitter(0.5)):
        step = RandomApply([RandomApply([inner], 0.5)], 0.5)
        plan = draw(step, num, Frame(size))
        found = applied(step, images, plan, Frame(size))
        alone = applied(inner, images, plan.plans[0].plans[0], Frame(size))
        is_applied = plan.is_applied & plan.plans[0].is_applied
        for image, one, other, applies in zip(images, found, alone, is_applied, strict=True):
            np.testing.assert_array_equal(one, other if applies else image)


def test_random_choice_takes_each_with_its_probability(images: list[np.ndarray]) -> None:
    num = 400
    step = RandomChoice(
        [RandomInvert(1.0), RandomVerticalFlip(1.0), RandomHorizontalFlip(1.0)], [3, 0, 1]
    )
    image = images[0]
    plan = draw(step, num)
    kinds = {
        (255 - image).tobytes(): "invert",
        image[::-1].tobytes(): "vertical",
        image[:, ::-1].tobytes(): "horizontal",
    }
    found = Counter(kinds[one.tobytes()] for one in applied(step, [image] * num, plan))
    assert set(found) == {"invert", "horizontal"}
    assert abs(found["invert"] / num - 0.75) < 4.5 * (0.1875 / num) ** 0.5
    equal = draw(RandomChoice(step.transforms), 3000).is_chosen
    assert chisquare([chosen.sum() for chosen in equal]).pvalue > 0.001


def test_random_order_draws_every_order_equally_often(images: list[np.ndarray]) -> None:
    num = 240
    image = np.array(images[0])
    steps = [RandomSolarize(90, 1.0), RandomInvert(1.0), RandomPosterize(2, 1.0)]
    functions = [lambda i: F.solarize(i, 90), F.invert, lambda i: F.posterize(i, 2)]
    results: Counter[bytes] = Counter()
    for order in itertools.permutations(functions):
        wanted = as_tensor(image)
        for function in order:
            wanted = function(wanted)
        results[as_array(wanted).tobytes()] += 1
    step = RandomOrder(steps)
    found = Counter(one.tobytes() for one in applied(step, [image] * num, draw(step, num)))
    assert set(found) == set(results)
    expected = [results[key] * num / 6 for key in found]
    assert chisquare(list(found.values()), expected).pvalue > 0.001


# --- Compose in a loader ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, photos: list[np.ndarray]) -> list[Any]:
    """Twelve PNG files of different sizes, with classes."""
    folder: Path = tmp_path_factory.mktemp("steps")
    pairs = []
    for number in range(12):
        piece = photos[number % 3][100 : 150 + 5 * number, 90 : 180 - 3 * number]
        Image.fromarray(piece).save(folder / f"{number}.png")
        pairs.append((str(folder / f"{number}.png"), number % 3))
    return pairs


def served(source: Any, transforms: Any, **settings: Any) -> torch.Tensor:
    given = {"dtype": torch.uint8, "seed": 4, "device": "cpu", **settings}
    with DataLoader(source, 6, transform=Compose(transforms), **given) as loader:
        return torch.cat([batch[0] for batch in loader])


ALL = [
    RandomRotation(30),
    RandomRotation(30, expand=True),
    RandomPerspective(0.3),
    Resize(70, max_size=90),
    TimmRandAugment.from_config("rand-m9-mstd0.5-inc1"),
    RandAugment(),
    RandomApply([GaussianBlur(5), RandomAdjustSharpness(2.0)], 0.5),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    TrimBorder(1),
    SquarePad((1, 2, 3), position="start"),
    SquareCrop(),
    ResizeKeepRatio((60, 50), 0.5, "random", 0.5, (0.8, 1.0), 0.5),
    CenterCrop((64, 48), padding_mode="reflect"),
    ADMCrop(50, (0.8, 1.0)),
    RandomResizedCrop(48, interpolation="random"),
    RandomAffine(5, (0.1, 0.1), (0.9, 1.1), 5, "bilinear"),
    RandomChoice([RandomInvert(), RandomSolarize(128), RandomPosterize(4)]),
    RandomOrder([RandomAutocontrast(), RandomEqualize(), Grayscale(0.2)]),
    RandomCrop(40, 4, padding_mode="symmetric"),
    RandomHorizontalFlip(),
    RandomVerticalFlip(),
    TrivialAugment(),
    RandomErasing(),
    RandomErasing(mode="pixel", max_count=2),
    RandomErasing(mode="rand"),
    Lighting(),
    Pad(2),
    CenterCrop((42, 44)),
    Resize((32, 24), "bicubic"),
]


def test_steps_run_in_the_order_of_the_list(files: list[Any]) -> None:
    first = served(files, [Resize(50), RandomInvert(1.0), Pad(4, 200), CenterCrop(64)])
    last = served(files, [Resize(50), Pad(4, 200), RandomInvert(1.0), CenterCrop(64)])
    for image, (path, _), fill in ((first, files[0], 200), (last, files[0], 55)):
        assert image.shape == (12, 3, 64, 64)
        theirs = v2.Compose([v2.Resize(50), v2.RandomInvert(1.0), v2.Pad(4, fill)])
        wanted = F.center_crop(theirs(as_tensor(np.asarray(Image.open(path)))), [64, 64])
        assert torch.equal(image[0], wanted)


def test_batches_of_all_steps_do_not_depend_on_threads_or_resuming(files: list[Any]) -> None:
    settings: dict[str, Any] = {
        "transform": Compose(ALL),
        "mix": CutMix(),
        "shuffle": True,
        "device": "cpu",
    }
    with DataLoader(files, 3, num_workers=1, prefetch=1, **settings) as loader:
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
        wanted = [image for image, _ in iterator]
    with DataLoader(files, 3, num_workers=3, prefetch=4, **settings) as loader:
        loader.load_state_dict(state)
        found = [image for image, _ in loader]
    assert len(wanted) == 3
    assert all(torch.equal(one, same) for one, same in zip(wanted, found, strict=True))


def test_a_crop_that_comes_first_is_decoded_alone_and_is_the_same(files: list[Any]) -> None:
    """A step that changes nothing in front has the whole image decoded."""
    crop = RandomResizedCrop(24, interpolation="lanczos")
    assert Compose([crop]).takes_part
    assert not Compose([RandomInvert(0.0), crop]).takes_part
    arrays = [np.asarray(Image.open(path)) for path, _ in files]
    images = served(files, [crop])
    plan = draw(crop, 12)
    assert applied(crop, arrays, plan)[0].shape == (24, 24, 3)
    stacked = ImageArrays(np.stack([arrays[0]] * 6), np.zeros(6, int))
    first = served([files[0]] * 6, [crop])
    assert torch.equal(first, served(stacked, [crop]))
    assert images.shape == (12, 3, 24, 24)
    # Steps behind know the size of the crop: noise fills a part, and the rest is the crop.
    noisy = served(files, [crop, RandomErasing(1.0, mode="pixel")])
    assert 0.02 < (noisy != images).float().mean() < 0.4


@pytest.mark.gpu
@pytest.mark.parametrize("step", ALL, ids=str)
def test_a_gpu_takes_steps_as_the_cpu_does(files: list[Any], step: Any) -> None:
    steps = [Resize((64, 64)), step, Resize((32, 32))]
    ours = served(files, steps, device="cuda").cpu().float()
    wanted = served(files, steps).float()
    assert ((ours - wanted).abs() > 40).float().mean() < 0.05


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Compose([RandomInvert()]),
            "Compose: `transforms` must give all images one size, got (RandomInvert(prob=0.5),). "
            "Images of different sizes cannot make a batch. Add `RandomResizedCrop`, or `Resize` "
            "and `CenterCrop`.",
        ),
        (
            lambda: Compose([Resize(4), RandomErasing(), CenterCrop(4)]),
            "Compose: `transforms` must give all images one size before RandomErasing, got "
            "[Resize(size=4, interpolation='bilinear', max_size=None), RandomErasing(prob=0.5, "
            "scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0, mode='const', max_count=1, "
            "log_ratio=True), CenterCrop(size=4, fill=0, padding_mode='constant')]. Put a crop or "
            "`Resize((height, width))` before it.",
        ),
        (
            lambda: Compose([v2.CenterCrop(3)]),
            "Compose: `transforms` must hold augmentations of the graph, got CenterCrop(size="
            "(3, 3)). Take augmentations of dali_cutmix.augmentations; torchvision's cannot run "
            "in a graph.",
        ),
        (
            lambda: TrainTransform(8, augment=[CenterCrop(4)]),
            "TrainTransform: `augment` must keep the size of images, got (CenterCrop(size=4, "
            "fill=0, padding_mode='constant'),). `Compose` takes augmentations that change sizes.",
        ),
        (
            lambda: RandomOrder([Pad(1)]),
            "RandomOrder: `transforms` must keep sizes of images, got Pad(padding=1, fill=0, "
            "padding_mode='constant').",
        ),
        (
            lambda: RandomApply(RandomInvert()),  # type: ignore[arg-type]
            "RandomApply: `transforms` must be a list of augmentations, got "
            "RandomInvert(prob=0.5). A single augmentation goes into a list: "
            "`transforms=[TrivialAugment()]`.",
        ),
        (
            lambda: RandomChoice([RandomInvert()], [0.0]),
            "RandomChoice: `prob` must be 1 numbers of at least 0, one above, got [0.0].",
        ),
        (lambda: RandomInvert(2), "RandomInvert: `prob` must be in [0, 1], got 2."),
        (
            lambda: RandomSolarize(257),
            "RandomSolarize: `threshold` must be a level, a number in [0, 256], got 257.",
        ),
        (
            lambda: RandomPosterize(2.5),  # type: ignore[arg-type]
            "RandomPosterize: `bits` must be a whole number from 0 to 8, got 2.5.",
        ),
        (
            lambda: RandomAdjustSharpness(-1),
            "RandomAdjustSharpness: `sharpness_factor` must be a number of at least 0, got -1.",
        ),
        (
            lambda: GaussianBlur(4),
            "GaussianBlur: `kernel_size` must be an odd number of pixels, or (horizontal, "
            "vertical), got 4.",
        ),
        (lambda: GaussianBlur(3, 0), "GaussianBlur: `sigma` must be a number above 0, got 0."),
        (
            lambda: RandomRotation(-3),
            "RandomRotation: `degrees` must be at least 0, or (min, max), got -3.",
        ),
        (
            lambda: RandomRotation(3, fill=300),
            "RandomRotation: `fill` must be a level in [0, 255], or (R, G, B), got 300.",
        ),
        (
            lambda: RandomAffine(3, translate=(2, 0)),
            "RandomAffine: `translate` must be (horizontal, vertical) in [0, 1], got (2, 0).",
        ),
        (
            lambda: RandomAffine(3, shear=(1, 2, 3)),
            "RandomAffine: `shear` must be a bound, (min, max) or (min x, max x, min y, max y), "
            "got (1, 2, 3).",
        ),
        (
            lambda: Pad(-1),
            "Pad: `padding` must be whole pixels, (left and right, top and bottom) or (left, "
            "top, right, bottom), got -1.",
        ),
        (
            lambda: RandomCrop(3, 1, padding_mode="wrap"),  # type: ignore[arg-type]
            "RandomCrop: `padding_mode` must be one of 'constant', 'edge', 'reflect', "
            "'symmetric', got 'wrap'.",
        ),
    ],
)
def test_bad_steps_are_refused_with_the_way_out(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        make()
    assert str(caught.value) == message
