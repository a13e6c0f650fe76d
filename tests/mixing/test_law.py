"""The law of every mix: the label weight of a class equals the share of pixels that class owns.

Nobody is asked for a box here. In the graph each pixel names its owner, row and column. From files
each class has a colour of its own, and the pixels are counted in the tensors that a loader yields.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reference
from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    MixUp,
    RandomChoice,
    TrainTransform,
    dense_target,
    mixed_target,
)
from graphs import BACK_ENDS, on, run

PARTNERS: list[Any] = ["derangement", "permutation", "roll", "flip"]
PLACEMENTS: list[Any] = ["clipped", "clipped_whole", "inside", "uniform"]

_LISTED = [
    CutMix(),
    CutMix(alpha=0.2),
    CutMix(alpha=4.0),
    CutMix(prob=0.0),
    CutMix(prob=0.5),
    CutMix(per="batch", prob=0.5),
    CutMix(per="pair", partner="flip", prob=0.5),
    CutMix(min_kept=0.3, max_kept=0.7),
    CutMix(min_kept=0.5, per="batch", partner="permutation", placement="inside"),
    CutMix(sides=(0.2, 0.9)),
    CutMix(sides=(0.0, 0.5), max_kept=0.95, per="pair", partner="flip"),
    *(CutMix(partner=partner, placement=where) for partner in PARTNERS for where in PLACEMENTS),
    CutMix.paper(),
    CutMix.torchvision(),
    CutMix.composer_uniform(),
    CutMix.inside(),
    *(CutMix.timm(mode=mode) for mode in ("batch", "pair", "elem")),
    CutMix.timm(mode="pair", minmax=(0.2, 0.8), prob=0.5),
]
CUTMIXES = list(dict.fromkeys(_LISTED))  # some presets are what is listed above them
MIXUPS = [
    MixUp(),
    MixUp(alpha=0.2, prob=0.5),
    MixUp(prob=0.0),
    MixUp(per="batch", partner="permutation"),
    MixUp.torchvision(),
    *(MixUp.timm(mode=mode) for mode in ("batch", "pair", "elem")),
]
CHOICES = [
    RandomChoice([CutMix.torchvision(), MixUp.torchvision()]),
    RandomChoice([CutMix(), MixUp(prob=0.5), CutMix(prob=0.0)], weights=[0.5, 0.3, 0.2]),
    RandomChoice([CutMix(per="pair", partner="flip"), RandomChoice([CutMix.inside(), MixUp()])]),
    RandomChoice([CutMix(), CutMix.composer_uniform()]),
    RandomChoice([MixUp(), MixUp.paper(0.2)]),
]


def named(mix: Any) -> str:
    """A mix by the settings that differ from its class's own."""
    if isinstance(mix, RandomChoice):
        return f"RandomChoice-{'-or-'.join(map(named, mix.mixes))}"
    usual = type(mix)() if type(mix) is not Cutout else Cutout(side=2)
    given = {name: value for name, value in vars(mix).items() if value != getattr(usual, name)}
    return type(mix).__name__ + "".join(f"-{name}={value}" for name, value in given.items())


# --- In the graph -------------------------------------------------------------------------------

SIZES = [(16, 24), (24, 16), (15, 15)]
# One graph sees them all in turn: odd and even ones, and what an epoch may end with.
BATCH_SIZES = [8, 7, 3, 8, 2, 1, 8, 5]


def batches(size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number, batch_size in enumerate(BATCH_SIZES):
        owners = np.arange(batch_size) + 10 * number
        yield reference.identified(owners, size), owners


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("size", SIZES, ids=repr)
@pytest.mark.parametrize("mix", CUTMIXES, ids=named)
def test_every_label_weight_equals_the_share_of_pixels_its_class_owns(
    mix: CutMix, size: tuple[int, int], back_end: str
) -> None:
    given = list(batches(size))
    pixels = size[0] * size[1]

    def define(image: Any, label: Any) -> Any:
        plan = mix.plan(size)
        image = on(back_end, image)
        # At prob 0 nothing is applied, and an input of the graph cannot be its output.
        mixed = mix.apply(image, plan) if mix.prob else image + 0
        return mixed, *mixed_target(label, plan), plan.kept

    foreign = 0
    for (_, owners), (mixed, label, weight, kept) in zip(
        given, run(define, given, back_end), strict=True
    ):
        assert label[:, 0].tolist() == owners.tolist()
        for own, image, classes, weights, one in zip(
            owners, mixed, label, weight, kept, strict=True
        ):
            shares = reference.shares(image)
            assert set(shares) <= set(classes.tolist())
            kept_share = shares.get(own, Fraction(0))
            # The nearest float32 to a quotient of counts, to the bit; the other weight is what
            # this leaves of 1, and rounded to whole pixels the count of the others.
            assert weights[0] == np.float32(kept_share)
            assert Fraction(round(float(weights[1]) * pixels), pixels) == 1 - kept_share
            assert abs(float(weights[1]) - (1 - kept_share)) < 2**-24
            assert one == weights[0]
            foreign += kept_share < 1
    assert (foreign > 0) == (mix.prob > 0)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("size", SIZES, ids=repr)
@pytest.mark.parametrize("mix", [mix for mix in CUTMIXES if mix.prob], ids=named)
def test_every_foreign_pixel_comes_from_the_drawn_partner_and_its_own_place(
    mix: CutMix, size: tuple[int, int], back_end: str
) -> None:
    given = list(batches(size))

    def define(image: Any, _label: Any) -> Any:
        plan = mix.plan(size)
        return mix.apply(on(back_end, image), plan), plan.partner, plan.anchor, plan.extent

    for (images, owners), (mixed, partner, anchor, extent) in zip(
        given, run(define, given, back_end), strict=True
    ):
        assert reference.strays(mixed) == 0  # row and column of every pixel are where it is
        for own, other, image in zip(owners, owners[partner], mixed, strict=True):
            assert set(np.unique(image[..., 0])) <= {own, other}
        wanted = reference.pasted(images, partner, anchor, extent)
        np.testing.assert_array_equal(mixed, wanted)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("mix", MIXUPS, ids=named)
def test_every_label_weight_equals_the_share_of_each_blended_pixel(
    mix: MixUp, back_end: str
) -> None:
    # One channel per sample of the batch: in a blended pixel it holds that sample's share.
    size, level = (6, 10), 200
    given = []
    for batch_size in BATCH_SIZES:
        images = np.zeros((batch_size, *size, max(BATCH_SIZES)), np.uint8)
        for owner in range(batch_size):
            images[owner, ..., owner] = level
        given.append((images, np.arange(batch_size)))

    def define(image: Any, label: Any) -> Any:
        plan = mix.plan(size)
        image = on(back_end, image)
        mixed = mix.apply(image, plan) if mix.prob else image + 0
        return mixed, *mixed_target(label, plan), plan.kept, plan.lam

    blended = 0
    for mixed, label, weight, kept, lam in run(define, given, back_end):
        target = np.zeros((len(mixed), max(BATCH_SIZES)))
        np.add.at(target, (np.arange(len(mixed))[:, None], label), weight)
        # Three roundings of numbers up to 200: the two products and the sum.
        wanted = np.broadcast_to(level * target[:, None, None], mixed.shape)
        np.testing.assert_allclose(mixed, wanted, rtol=0, atol=3 * level * 2**-24)
        np.testing.assert_array_equal(weight[:, 0], kept)
        alone = kept == 1
        np.testing.assert_array_equal(kept[~alone], lam[~alone])
        blended += (~alone).sum()
    assert (blended > 0) == (mix.prob > 0)


def owner_channels() -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches whose images have one channel per sample, at level 200 in its own and 0 in others."""
    given = []
    for batch_size in BATCH_SIZES:
        images = np.zeros((batch_size, 6, 10, max(BATCH_SIZES)), np.uint8)
        for owner in range(batch_size):
            images[owner, ..., owner] = 200
        given.append((images, np.arange(batch_size)))
    return given


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("mix", CHOICES, ids=named)
def test_whichever_mix_is_chosen_weights_are_the_mean_shares_of_pixels(
    mix: RandomChoice, back_end: str
) -> None:
    def define(image: Any, label: Any) -> Any:
        plan = mix.plan((6, 10))
        mixed = mix.apply(on(back_end, image), plan)
        return mixed, *mixed_target(label, plan), plan.kept, plan.own, plan.partner

    for _ in range(3):
        for mixed, label, weight, kept, own, partner in run(
            define, owner_channels(), back_end, seed=mix.mixes_labels
        ):
            target = np.zeros((len(mixed), max(BATCH_SIZES)))
            np.add.at(target, (np.arange(len(mixed))[:, None], label), weight)
            shares = mixed.astype(np.float64).mean(axis=(1, 2)) / 200
            # Two roundings of a weight, and three of each blended value.
            np.testing.assert_allclose(shares, target, rtol=0, atol=5 * 2**-24)
            np.testing.assert_array_equal(own, np.arange(len(mixed)))
            np.testing.assert_array_equal(weight[:, 0], np.where(partner == own, 1, kept))


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_erasing_takes_pixels_and_no_label_weight(
    size: tuple[int, int], prob: float, back_end: str
) -> None:
    mix = Cutout(side=8, prob=prob, fill=255)
    given = list(batches(size))

    def define(image: Any, label: Any) -> Any:
        plan = mix.plan(size)
        image = on(back_end, image)
        mixed = mix.apply(image, plan) if mix.prob else image + 0
        return mixed, *mixed_target(label, plan), plan.kept

    for (images, owners), (erased, label, weight, kept) in zip(
        given, run(define, given, back_end), strict=True
    ):
        assert label.tolist() == [[own, own] for own in owners]
        assert weight.tolist() == [[1, 0]] * len(owners)
        left = (erased == images).all(axis=-1)
        assert (erased[~left] == 255).all()
        np.testing.assert_array_equal(kept, left.mean(axis=(1, 2)).astype(np.float32))
        assert prob == 1 or (kept == 1).any() or len(owners) < 8
        assert (kept < 1).all() if prob == 1 else prob > 0 or (kept == 1).all()


# --- From files to the tensors a loader yields --------------------------------------------------

# Far apart: at least 112 of 255 in some channel, where JPEG is off by less than 5.
COLOURS = np.array(list(itertools.product((16, 128, 240), repeat=3)), np.uint8)[::2]
assert len(COLOURS) == 14


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """13 JPEGs, each of one colour and a size of its own."""
    root: Path = tmp_path_factory.mktemp("coloured")
    paths = []
    for number, colour in enumerate(COLOURS[:13]):
        height, width = 30 + 3 * number, 70 - 2 * number
        image = Image.fromarray(np.broadcast_to(colour, (height, width, 3)).copy())
        path = root / f"{number:02d}.jpg"
        image.save(path, quality=95, subsampling=0)
        paths.append(str(path))
    return paths


def owners_of(image: torch.Tensor) -> np.ndarray:
    """Number of the file that each pixel of ``[B, 3, H, W]`` uint8 shows: ``[B, H, W]``."""
    pixels = image.cpu().numpy().transpose(0, 2, 3, 1).astype(int)
    distance = np.abs(pixels[..., None, :] - COLOURS.astype(int)).max(axis=-1)
    assert distance.min(axis=-1).max() < 8, "a pixel has none of the colours: it was blended"
    return distance.argmin(axis=-1)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [2, 3, 4, 5, 13])
@pytest.mark.parametrize("mix", CUTMIXES, ids=named)
def test_loader_from_files_weighs_each_class_by_the_pixels_it_shows(
    coloured: list[str], mix: CutMix, batch_size: int, device: str
) -> None:
    # 13 files: batches of 2, 3 and 4 leave one file for the last, batches of 5 leave three.
    size = (12, 20) if batch_size % 2 else (20, 12)
    with DataLoader(
        [(path, number) for number, path in enumerate(coloured)],
        batch_size,
        shuffle=True,
        transform=TrainTransform(size),
        mix=mix,
        dtype=torch.uint8,
        target="pair",
        device=device,
        num_workers=1,
        seed=1,
    ) as loader:
        seen: list[int] = []
        foreign = 0
        for image, target in loader:
            counts = np.stack([np.bincount(one.ravel(), minlength=13) for one in owners_of(image)])
            assert counts.shape == (len(image), 13)
            row = dense_target(target, 13).cpu().numpy()
            # The share of pixels of each class, as a number of pixels, without a tolerance.
            np.testing.assert_array_equal(np.rint(row * 240), counts)
            np.testing.assert_allclose(row, counts / 240, rtol=0, atol=2**-24)
            label, weight = target.label.cpu().numpy(), target.weight.cpu().numpy()
            assert sorted(label[:, 0]) == sorted(label[:, 1])  # partners are of the same batch
            own = counts[np.arange(len(counts)), label[:, 0]]
            np.testing.assert_array_equal(weight[:, 0], (own / 240).astype(np.float32))
            seen.extend(label[:, 0])
            foreign += int((240 - own).sum())
    assert 0 < mix.prob < 1 or (foreign > 0) == (mix.prob > 0)
    assert sorted(seen) == list(range(13))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_classes", [1, 2, 5])
@pytest.mark.parametrize("mix", [CutMix(), CutMix.paper(), CutMix.timm(mode="pair")], ids=named)
def test_loader_adds_the_weights_of_partners_that_are_of_one_class(
    coloured: list[str], mix: CutMix, num_classes: int, device: str
) -> None:
    classes = np.arange(13) % num_classes
    with DataLoader(
        list(zip(coloured, classes.tolist(), strict=True)),
        4,
        shuffle=True,
        transform=EvalTransform(resize=24, size=(12, 20)),
        mix=mix,
        dtype=torch.uint8,
        device=device,
        num_workers=1,
    ) as loader:
        for _ in range(2):
            for image, row in loader:
                shown = classes[owners_of(image)].reshape(len(image), -1)
                counts = [np.bincount(one, minlength=num_classes) for one in shown]
                np.testing.assert_allclose(row.cpu(), np.array(counts) / 240, rtol=0, atol=2**-23)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normalised_tensors_hold_the_same_cuts_as_bytes(
    coloured: list[str], dtype: torch.dtype, device: str
) -> None:
    settings: dict[str, Any] = {
        "transform": TrainTransform((12, 20)),
        "mix": CutMix(),
        "device": device,
        "num_workers": 1,
        "seed": 3,
    }
    source = [(path, number) for number, path in enumerate(coloured)]
    with (
        DataLoader(source, 4, dtype=torch.uint8, **settings) as plain,
        DataLoader(source, 4, dtype=dtype, channels_last=True, **settings) as normalised,
    ):
        mean, std = (
            torch.tensor(getattr(plain.transform, name), device=device)[:, None, None]
            for name in ("mean", "std")
        )
        for (bytes_, row), (image, same_row) in zip(plain, normalised, strict=True):
            assert image.dtype == dtype
            wanted = (bytes_.float() / 255 - mean) / std
            # Values are below 4, where the type's step is 2 * eps; float32 takes some roundings.
            atol = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(image.float(), wanted, rtol=0, atol=atol)
            torch.testing.assert_close(row, same_row, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [2, 3, 5])
@pytest.mark.parametrize("mix", MIXUPS, ids=named)
def test_loader_from_files_weighs_each_class_as_it_weighs_its_colour(
    coloured: list[str], mix: MixUp, batch_size: int, device: str
) -> None:
    settings: dict[str, Any] = {
        # Neither mean nor deviation, so that a tensor holds pixels / 255.
        "transform": TrainTransform((12, 20), mean=(0, 0, 0), std=(1, 1, 1)),
        "device": device,
        "num_workers": 1,
    }
    source = [(path, number) for number, path in enumerate(coloured)]
    with DataLoader(source, 13, **settings) as plain:
        ((image, label),) = plain
        assert label.tolist() == list(range(13))
        decoded = image[:, :, 0, 0].double()
        assert (image == image[:, :, :1, :1]).all()
    settings |= {"shuffle": True, "mix": mix}
    with (
        DataLoader(source, batch_size, **settings) as loader,
        DataLoader(source, batch_size, dtype=torch.uint8, **settings) as rounded,
    ):
        for (image, row), (bytes_, same_row) in zip(loader, rounded, strict=True):
            wanted = (row.double() @ decoded)[:, :, None, None].expand(image.shape)
            # Half a dozen roundings of numbers up to 1.
            torch.testing.assert_close(image.double(), wanted, rtol=0, atol=6 * 2**-24)
            assert (mix.prob > 0) or ((row == 1).sum(dim=1) == 1).all()
            # As bytes a pixel is rounded once, to the nearest.
            torch.testing.assert_close(bytes_ / 255, image, rtol=0, atol=0.501 / 255)
            torch.testing.assert_close(row, same_row, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [2, 3, 5])
@pytest.mark.parametrize("mix", CHOICES, ids=named)
def test_loader_from_files_weighs_classes_alike_whichever_mix_is_chosen(
    coloured: list[str], mix: RandomChoice, batch_size: int, device: str
) -> None:
    settings: dict[str, Any] = {
        "transform": TrainTransform((12, 20), mean=(0, 0, 0), std=(1, 1, 1)),
        "device": device,
        "num_workers": 1,
    }
    source = [(path, number) for number, path in enumerate(coloured)]
    with DataLoader(source, 13, **settings) as plain:
        ((image, _),) = plain
        decoded = image[:, :, 0, 0].double()
    with DataLoader(source, batch_size, shuffle=True, mix=mix, **settings) as loader:
        for _ in range(2):
            for image, row in loader:
                shown = image.double().mean(dim=(2, 3))
                # Half a dozen roundings of numbers up to 1.
                torch.testing.assert_close(shown, row.double() @ decoded, rtol=0, atol=6 * 2**-24)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_loader_from_files_keeps_labels_whole_where_squares_are_erased(
    coloured: list[str], prob: float, device: str
) -> None:
    with DataLoader(
        [(path, number) for number, path in enumerate(coloured)],
        3,
        shuffle=True,
        transform=TrainTransform((12, 20)),
        mix=Cutout(side=8, prob=prob, fill=COLOURS[13].tolist()),
        dtype=torch.uint8,
        device=device,
        with_plan=True,
        num_workers=1,
    ) as loader:
        for image, label, plan in loader:
            assert label.dtype == torch.int64
            owners = owners_of(image)
            own = owners == label.cpu().numpy()[:, None, None]
            assert (owners[~own] == 13).all()
            np.testing.assert_array_equal(plan.kept, own.mean(axis=(1, 2)).astype(np.float32))
