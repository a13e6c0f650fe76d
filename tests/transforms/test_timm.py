"""timm's augmentations: the pixels and the distributions of the installed timm."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from timm.data import auto_augment as timm
from timm.data import random_erasing as erasing

from dali_cutmix import IMAGENET_MEAN, IMAGENET_STD, Compose, DataLoader, ImageArrays
from dali_cutmix.augmentations import (
    Frame,
    RandomErasing,
    Resize,
    TimmAutoAugment,
    TimmRandAugment,
)
from dali_cutmix.transforms import tables
from dali_cutmix.transforms.timm import INCREASING, OPERATIONS
from steps import applied, draw, same_distribution

NAMES = sorted({*OPERATIONS, *INCREASING, "PosterizeOriginal", "Desaturate", "GaussianBlur"})

#: By operation: the most levels by which a value differs from Pillow's, and the share beyond.
LEVELS = {"Equalize": (2, 0.01), "GaussianBlur": (0, 0.0)}


@contextmanager
def seeds() -> Iterator[None]:
    """Fixed seeds of the generators that timm draws from, put back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def timms_op(name: str, magnitude: float, kernel: int, fill: Any, **settings: Any) -> Any:
    hparams = {"img_mean": fill, "interpolation": kernel, **settings}
    return timm.AugmentOp(name, 1.0, magnitude, hparams)


@pytest.mark.parametrize(
    ("name", "on_threads"),
    [(name, True) for name in NAMES] + [(name, False) for name in NAMES if "Blur" not in name],
)
def test_each_operation_makes_timms_pixels_with_one_sign_or_the_other(
    name: str, on_threads: bool, photos: list[np.ndarray]
) -> None:
    images = [np.array(photo[150:230, 200:260]) for photo in photos] * 4
    fill = (124, 116, 104)
    kernel = "bicubic" if on_threads else "nearest"
    for magnitude in (3.3, 9.0):
        step = TimmRandAugment(magnitude, 0, 1, 1.0, [name], interpolation=kernel, fill=fill)
        plan = draw(step, len(images))
        found = applied(step, images, plan, on_threads=on_threads)
        op = timms_op(name, magnitude, Image.Resampling[kernel.upper()], fill)
        signs = set()
        for image, one in zip(images, found, strict=True):
            apart = []
            for sign in (1, -1):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(timm, "_randomly_negate", lambda v, sign=sign: sign * v)
                    wanted = np.asarray(op(Image.fromarray(image)))
                apart.append(np.abs(one.astype(int) - wanted))
            most, share = LEVELS.get(name, (2, 0.0 if on_threads else 0.01))
            beyond = [(values > most).mean() for values in apart]
            assert min(beyond) <= share, magnitude
            signs.add(int(np.argmin(beyond)))
        is_signed = "Increasing" in name and name[0] in "CBS" and "Solarize" not in name
        is_signed |= name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
        assert not is_signed or signs == {0, 1}


# --- Distributions ------------------------------------------------------------------------------

Numbers = dict[str, list[Any]]


def timms_numbers(transform: Any, num: int) -> list[list[tuple[str, Any]]]:
    """What timm does to each of several images: names and arguments, in turn."""
    taken: list[tuple[str, Any]] = []
    ops = (
        transform.ops
        if hasattr(transform, "ops")
        else [op for ops in transform.policy for op in ops]
    )
    for op in ops:

        def record(image: Any, *arguments: Any, name: str = op.name, **kwargs: Any) -> Any:
            kernel = timm._interpolation(dict(kwargs))
            taken.append((name, (*arguments, kernel)))
            return image

        op.aug_fn = record
    rows = []
    image = Image.new("RGB", (100, 100))
    with seeds():
        for _ in range(num):
            taken.clear()
            transform(image)
            rows.append(list(taken))
    return rows


def our_numbers(step: Any, num: int) -> list[list[tuple[str, Any]]]:
    """The same of ours, read back from the plan."""
    plans = draw(step, num)
    rows: list[list[tuple[str, Any]]] = [[] for _ in range(num)]
    for plan in plans:
        for sample, row in enumerate(rows):
            if plan.kind[sample]:
                row.append(number_of(plan, sample))
    return rows


def number_of(plan: Any, sample: int) -> tuple[str, Any]:
    """The operation of a sample, named by its kind, and the number that says how strong."""
    kind = int(plan.kind[sample])
    if kind == 1:
        (_, right), (down, _) = plan.warp.linear[sample]
        x, y = plan.warp.shift[sample]
        if plan.warp.pivot[sample, 0] == 0:
            return ("ShearX", right) if right else ("ShearY", down)
        if right:
            return "Rotate", np.degrees(np.arcsin(down))
        return ("TranslateXRel", -x) if x else ("TranslateYRel", -y)
    if kind in (2, 3, 4, 5):
        return ("Brightness", "Color", "Contrast", "Sharpness")[kind - 2], plan.factor[sample]
    if kind == 6:
        code = plan.code[sample]
        for bits in range(9):
            if code == tables.posterize_code(bits):
                return "Posterize", bits
        (threshold,) = (t for t in range(257) if tables.solarize_code(t) == code)
        return ("Invert", 0) if threshold == 0 else ("Solarize", threshold)
    if kind == 7:
        return "SolarizeAdd", int(plan.added[sample])
    return ("AutoContrast", "Equalize", "GaussianBlur")[kind - 8], 0


CONFIGS = [
    "rand-m9-mstd0.5-inc1",
    "rand-m7-n3-p0.8",
    "rand-m4-mstd101-inc1",
    "rand-m6-n2-mstd1-tweights",
]


@pytest.mark.parametrize("config", CONFIGS)
def test_operations_and_strengths_are_distributed_as_timms(config: str) -> None:
    num = 3000
    reference = timms_numbers(timm.rand_augment_transform(config), num)
    ours = our_numbers(TimmRandAugment.from_config(config), num)
    # A solarization from 0 on is an inversion, and one from 256 on, or by 8 bits, nothing.
    skipped = ("Invert", "Solarize", "Posterize")

    def names(rows: Any) -> Counter[Any]:
        return Counter(
            tuple(sorted(name.removesuffix("Increasing") for name, _ in row)) for row in rows
        )

    def lengths(rows: Any) -> Counter[Any]:
        return Counter(map(len, rows))

    same_distribution(lengths(ours), lengths(reference))
    if "mstd101" not in config:
        same_distribution(names(ours), names(reference))
    strengths: dict[str, tuple[list[float], list[float]]] = {}
    for side, rows in enumerate((ours, reference)):
        for name, number in (item for row in rows for item in row):
            short = name.removesuffix("Increasing")
            value = number[0] if isinstance(number, tuple) and len(number) > 1 else number
            if short not in skipped and not isinstance(value, tuple):
                strengths.setdefault(short, ([], []))[side].append(float(value))
    checked = 0
    for name, (mine, theirs) in strengths.items():
        if len(mine) > 30 and len(theirs) > 30 and len(set(theirs)) > 1:
            # Rounded, since one strength is drawn for many samples without noise.
            both = (np.round(mine, 4), np.round(theirs, 4))
            assert ks_2samp(*both).pvalue > 0.001, name
            checked += 1
    assert checked >= 4
    kernels = Counter(number[-1] for row in reference for _, number in row)
    assert len(kernels) == 2
    plan = draw(TimmRandAugment.from_config(config), num)[0]
    assert abs(plan.is_bicubic.mean() - 0.5) < 4.5 * (0.25 / num) ** 0.5


def test_a_policy_is_distributed_as_timms() -> None:
    num = 3000
    theirs = timm.auto_augment_transform("original-mstd0.5")
    policy = [[(op.name, op.prob, op.magnitude) for op in ops] for ops in theirs.policy]
    ours = our_numbers(TimmAutoAugment(policy, magnitude_std=0.5), num)
    reference = timms_numbers(theirs, num)

    def names(rows: Any) -> Counter[Any]:
        # With noise a posterization may keep 8 bits, and a solarization be an inversion.
        unclear = ("PosterizeOriginal", "Posterize", "Solarize", "Invert")
        return Counter(tuple(name for name, _ in row if name not in unclear) for row in rows)

    same_distribution(names(ours), names(reference))


@pytest.mark.parametrize("magnitude", [-1, float("nan"), float("inf"), None])
def test_a_policy_refuses_magnitudes_below_0(magnitude: Any) -> None:
    message = f"TimmAutoAugment: `policy` must hold magnitudes of at least 0, got {magnitude}"
    with pytest.raises(ValueError, match=re.escape(message)):
        TimmAutoAugment([[("Rotate", 0.5, magnitude)]])


@pytest.mark.parametrize("policy", ["original", [[("Rotate", 1.0)]], ["Rotate"]])
def test_policy_of_another_form_is_refused(policy: Any) -> None:
    message = f"TimmAutoAugment: `policy` must be lists of (name, prob, magnitude), got {policy!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TimmAutoAugment(policy)


def test_timms_strings_are_read_and_unknown_parts_refused() -> None:
    assert TimmRandAugment.from_config("rand-m9-mstd0.5-inc1", fill=3) == TimmRandAugment(
        9.0, 0.5, operations=INCREASING, fill=3
    )
    assert TimmRandAugment.from_config("rand-n3-p0.25-mmax20-mstd101") == TimmRandAugment(
        10.0, inf, 3, 0.25, OPERATIONS, magnitude_max=20.0
    )
    assert TimmRandAugment.from_config("rand-t3a").operations == tuple(timm._RAND_3A)
    for name, theirs in (("3aw", timm._RAND_WEIGHTED_3A), ("weights", timm._RAND_WEIGHTED_0)):
        step = TimmRandAugment.from_config(f"rand-t{name}")
        assert dict(zip(step.operations or (), step.weights or (), strict=True)) == theirs
    message = (
        "TimmRandAugment.from_config: `config` must hold known parts only, not 'x3', got 'rand-x3'."
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        TimmRandAugment.from_config("rand-x3")
    assert str(caught.value) == message


def test_blurs_are_pillows_on_the_cpu_and_near_pillows_on_a_gpu(photos: list[np.ndarray]) -> None:
    image = np.array(photos[0][100:180, 100:200])
    step = TimmRandAugment(5.0, 0, 1, 1.0, ["GaussianBlur"])
    plan = draw(step, 1)
    wanted = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.05)))
    threads, operators = (
        applied(step, [image], plan, on_threads=on_threads)[0] for on_threads in (True, False)
    )
    np.testing.assert_array_equal(threads, wanted)
    assert np.abs(operators.astype(int) - wanted).mean() < 1


# --- Erasing ------------------------------------------------------------------------------------

SIZE = (48, 64)


def served(step: Any, num: int, **settings: Any) -> torch.Tensor:
    """Gray images, erased."""
    source = ImageArrays(np.full((num, *SIZE, 3), 100, np.uint8), np.zeros(num, int))
    transform = Compose([Resize(SIZE), step])
    with DataLoader(source, num, transform=transform, device="cpu", **settings) as loader:
        return next(iter(loader))[0]


def is_erased(image: torch.Tensor) -> torch.Tensor:
    gray = [(100 / 255 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return ((image - torch.tensor(gray)[:, None, None]).abs() > 1e-3).any(dim=1)


@pytest.mark.parametrize("mode", ["rand", "pixel"])
def test_noise_is_normal_after_normalization_as_timms(mode: Any) -> None:
    num = 400
    step = RandomErasing(1.0, (0.1, 0.3), mode=mode)
    image = served(step, num)
    const = is_erased(served(RandomErasing(1.0, (0.1, 0.3), value=(255, 0, 0)), num))
    mask = is_erased(image)
    # The same rectangles; one of a few thousand noisy pixels is gray by chance.
    assert (mask & ~const).sum() == 0
    assert mask.sum() > 0.99 * const.sum()
    if mode == "pixel":
        values = image.permute(1, 0, 2, 3)[:, const]
        assert len({tuple(one[:, 0].tolist()) for one in (values[:, :50].T[:, :, None])}) > 40
    else:
        places = [torch.nonzero(one)[0] for one in const]
        values = torch.stack([one[:, y, x] for one, (y, x) in zip(image, places, strict=True)], 1)
        for one, inside in zip(image, const, strict=True):
            assert (one[:, inside] == one[:, inside][:, :1]).all()
    rng = np.random.default_rng(0)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        normal = rng.normal(size=20_000)
        # Levels cannot be below 0 or above 255.
        wanted = np.clip(np.rint(255 * (mean + std * normal)), 0, 255)
        drawn = np.rint(255 * (values[channel].numpy() * std + mean))
        drawn = rng.choice(drawn, min(len(drawn), 20_000), replace=False)
        assert ks_2samp(drawn, wanted).pvalue > 0.001


def test_several_rectangles_erase_as_many_pixels_as_timms() -> None:
    num = 1500
    step = RandomErasing(0.7, (0.05, 0.4), (0.3, 1 / 0.3), value=(255, 0, 0), max_count=3)
    ours = is_erased(served(step, num)).flatten(1).sum(dim=1)
    theirs = erasing.RandomErasing(0.7, 0.05, 0.4, max_count=3, device="cpu")
    with seeds():
        wanted = [int((theirs(torch.ones(1, *SIZE)) == 0).sum()) for _ in range(num)]
    assert ks_2samp(ours, wanted).pvalue > 0.001
    plan = draw(step, num, Frame(SIZE))
    counts = np.sum([part.is_erased for part in plan], axis=0)
    assert set(counts.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("step", [RandomErasing(mode="rand"), RandomErasing(mode="pixel")], ids=str)
def test_noise_is_the_same_whatever_the_threads(step: Any) -> None:
    one, same = (served(step, 20, num_workers=n, prefetch=n, seed=3) for n in (1, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, served(step, 20, seed=4))
