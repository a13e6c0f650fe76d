"""The law of every mix: the label weight of a source equals the share of pixels the source owns.

Nobody is asked for a rectangle here. Each pixel names its owner, row and column, and pixels are
counted in what a graph or a loader gives. Where a mix blends, every owner has a channel, or a
colour, of its own.

Every mix runs once through each door, with sizes in turn; ``pytest -m full`` runs the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from PIL import Image

import reference
from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    FMix,
    GridMix,
    ImageArrays,
    MixUp,
    RandomChoice,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    TrainTransform,
    complete_plan,
    dense_target,
    mix_batch,
    mix_images,
    mix_plan,
    mixed_target,
)
from graphs import BACK_ENDS, on, run
from stripes import Stripes

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
PARTNERS: list[Any] = ["derangement", "permutation", "roll", "flip"]
PLACEMENTS: list[Any] = ["clipped", "clipped_whole", "inside", "uniform", "gaussian"]

_LISTED = [
    CutMix(),
    CutMix(alpha=0.2),
    CutMix(alpha=4.0),
    CutMix(prob=0.0),
    CutMix(prob=0.5),
    CutMix(lam=0.0),
    CutMix(lam=0.75),
    CutMix(per="batch", prob=0.5),
    CutMix(per="pair", partner="flip", prob=0.5),
    CutMix(min_kept=0.3, max_kept=0.7),
    CutMix(min_kept=0.5, per="batch", partner="permutation", placement="inside"),
    CutMix(sides=(0.2, 0.9)),
    CutMix(axes="y"),
    CutMix(axes="x", prob=0.5, per="batch", partner="roll"),
    CutMix(axes="x", placement="inside", min_kept=0.3, max_kept=0.7),
    CutMix(axes="y", sides=(0.2, 0.9)),
    CutMix(sides=(0.0, 0.5), max_kept=0.95, per="pair", partner="flip"),
    *(
        CutMix(partner=PARTNERS[(number + turn) % 4], placement=placement)
        for turn in (0, 1)
        for number, placement in enumerate(PLACEMENTS)
    ),
    CutMix.paper(),
    CutMix.torchvision(),
    CutMix.composer_uniform(),
    CutMix.inside(),
    *(CutMix.timm(mode=mode) for mode in ("batch", "pair", "elem")),
    CutMix.timm(mode="pair", minmax=(0.2, 0.8), prob=0.5),
]
CUTMIXES = list(dict.fromkeys(_LISTED))  # some presets are what is listed above them
PASTING: list[Any] = [
    *CUTMIXES,
    RICAP(),
    RICAP(prob=0.5),
    RICAP.paper(beta=2),
    ResizeMix(),
    ResizeMix(scale=(0.02, 1), prob=0.5, per="batch", partner="roll"),
    ResizeMix(per="pair", partner="flip"),
    FMix(),
    FMix(resolution=5, prob=0.5, per="batch", partner="roll"),
    FMix.paper(),
    GridMix(),
    GridMix(grid=(3, 5), prob=0.5, per="pair", partner="flip"),
    Chain([CutMix(), CutMix()]),
    Chain([CutMix(per="pair", partner="flip"), CutMix.paper(), CutMix(prob=0.5)]),
    Chain([RICAP(), CutMix()]),
    Chain([CutMix(), RICAP()]),
    Chain([ResizeMix(), CutMix()]),
    Chain([RandomChoice([CutMix(), RICAP()]), CutMix()]),
    Chain([CutMix(), FMix()]),
    RandomChoice([CutMix(), CutMix.composer_uniform()]),
    RandomChoice([CutMix(), GridMix(), FMix()]),
    RandomChoice([CutMix(), RICAP(), Chain([CutMix(), CutMix()]), CutMix(prob=0)]),
    Stripes(),
    SaliencyMix(),
    SaliencyMix(prob=0.5, per="pair", partner="flip"),
    SaliencyMix.paper(alpha=2.0),
    Chain([SaliencyMix(), CutMix()]),
    RandomChoice([CutMix(), SaliencyMix(), RICAP(), FMix()]),
    Chain([SaliencyMix(), GridMix()]),
    Chain([RandomChoice([SaliencyMix(), CutMix(prob=0)]), RICAP()]),
]
BLENDING: list[Any] = [
    MixUp(),
    MixUp(alpha=0.2, prob=0.5),
    MixUp(prob=0.0),
    MixUp(per="batch", partner="permutation"),
    MixUp.torchvision(),
    *(MixUp.timm(mode=mode) for mode in ("batch", "pair", "elem")),
    Chain([CutMix(), MixUp()]),
    Chain([MixUp(), CutMix()]),
    Chain([MixUp(), FMix()]),
    Chain([GridMix(), MixUp()]),
    Chain([MixUp(), MixUp(0.2), RICAP()]),
    Chain([RandomChoice([CutMix(), MixUp()]), CutMix()]),
    RandomChoice([CutMix.torchvision(), MixUp.torchvision()]),
    RandomChoice([CutMix(), MixUp(prob=0.5), CutMix(prob=0.0)], weights=[0.5, 0.3, 0.2]),
    RandomChoice([CutMix(per="pair", partner="flip"), RandomChoice([CutMix.inside(), MixUp()])]),
    RandomChoice([RICAP(), MixUp(), Cutout(side=4, prob=0)]),
]
# In the loader: an image of other channels than R, G and B has no saliency.
BLENDING_AND_LOOKING: list[Any] = [
    RandomChoice([SaliencyMix(), MixUp()]),
    Chain([SaliencyMix(), MixUp()]),
]


def named(mix: Any) -> str:
    """A mix by the settings that differ from its class's own."""
    if isinstance(mix, (RandomChoice, Chain)):
        return f"{type(mix).__name__}-{'-'.join(map(named, mix.mixes))}"
    usual = type(mix)() if type(mix) is not Cutout else Cutout(side=2)
    given = {name: value for name, value in vars(mix).items() if value != getattr(usual, name)}
    return type(mix).__name__ + "".join(f"-{name}={value}" for name, value in given.items())


def design(mixes: Sequence[Any], settings: Sequence[Any]) -> list[Any]:
    """Every mix with every setting it takes; all but one setting per mix are marked ``full``."""
    cases = []
    for number, mix in enumerate(mixes):
        least = getattr(mix, "min_batch_size", 2)
        taken = [one for one in settings if not isinstance(one, int) or one >= least]
        for place, setting in enumerate(taken):
            marks = () if place == number % len(taken) else pytest.mark.full
            name = f"{named(mix)}-{setting}"
            cases.append(pytest.param(mix, setting, marks=marks, id=name))
    return cases


def assert_weights_count_pixels(
    image: np.ndarray, owners: Sequence[int], label: np.ndarray, weight: np.ndarray
) -> int:
    """Compare weights of owners with identified pixels; return how many pixels are foreign."""
    num_pixels = image.shape[1] * image.shape[2]
    num_sources = label.shape[1]
    foreign = 0
    for own, shown, classes, weights in zip(owners, image, label, weight, strict=True):
        assert classes[0] == own
        shares = reference.shares(shown)
        assert set(shares) <= set(classes.tolist())
        for owner in set(classes.tolist()):
            total = sum(map(float, weights[classes == owner]))
            # The nearest float32 to a quotient of counts, once for each region of the owner.
            assert Fraction(round(total * num_pixels), num_pixels) == shares.get(owner, 0)
            assert abs(total - shares.get(owner, 0)) < num_sources * 2**-24
        foreign += num_pixels - int(shares.get(own, 0) * num_pixels)
    return foreign


# --- In a graph of one's own --------------------------------------------------------------------

SIZES = [(16, 24), (24, 16), (15, 15)]
# One graph sees them all in turn: odd and even ones, and what an epoch may end with.
BATCH_SIZES = [8, 7, 3, 8, 2, 1, 8, 5]


def batches(size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number, batch_size in enumerate(BATCH_SIZES):
        owners = np.arange(batch_size) + 10 * number
        yield reference.identified(owners, size), owners


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(("mix", "size"), design(PASTING, SIZES))
def test_every_label_weight_equals_the_share_of_pixels_its_source_owns(
    mix: Any, size: tuple[int, int], back_end: str
) -> None:
    given = list(batches(size))

    def define(image: Any, label: Any) -> Any:
        # Copied: at prob 0 nothing is applied, and an input of a graph cannot be its output.
        image = on(back_end, fn.copy(image))
        plan = complete_plan(mix, image, mix_plan(mix, size))
        return mix_images(mix, image, plan), *mixed_target(label, plan)

    foreign = 0
    for (_, owners), (mixed, label, weight) in zip(
        given, run(define, given, back_end), strict=True
    ):
        assert mixed.dtype == np.uint8
        assert weight.dtype == np.float32
        foreign += assert_weights_count_pixels(mixed, owners, label, weight)
    assert (foreign > 0) == (getattr(mix, "prob", 1) > 0)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(("mix", "size"), design([mix for mix in CUTMIXES if mix.prob], SIZES))
def test_every_foreign_pixel_comes_from_the_drawn_partner_and_its_own_place(
    mix: CutMix, size: tuple[int, int], back_end: str
) -> None:
    given = list(batches(size))

    def define(image: Any, _label: Any) -> Any:
        plan = mix_plan(mix, size)
        mixed = mix_images(mix, on(back_end, image), plan)
        return mixed, plan.partner, plan.anchor, plan.extent, plan.kept, plan.weight

    for (images, owners), (mixed, partner, anchor, extent, kept, weight) in zip(
        given, run(define, given, back_end), strict=True
    ):
        assert reference.strays(mixed) == 0  # row and column of every pixel are where it is
        for own, other, image in zip(owners, owners[partner], mixed, strict=True):
            assert set(np.unique(image[..., 0])) <= {own, other}
        wanted = reference.pasted(images, partner, anchor, extent)
        np.testing.assert_array_equal(mixed, wanted)
        counted = (mixed[..., 0] == owners[:, None, None]).mean(axis=(1, 2))
        np.testing.assert_array_equal(kept, counted.astype(np.float32))
        np.testing.assert_array_equal(weight[:, 0], kept)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("mix", BLENDING, ids=named)
def test_every_label_weight_equals_the_mean_share_of_its_source_in_blended_pixels(
    mix: Any, back_end: str
) -> None:
    # One channel per sample of the batch: in a blended pixel it holds that sample's share.
    size, level, num_channels = (6, 10), 200, max(BATCH_SIZES)
    given = []
    for batch_size in BATCH_SIZES * 2:
        images = np.zeros((batch_size, *size, num_channels), np.uint8)
        images[range(batch_size), ..., range(batch_size)] = level
        given.append((images, np.arange(batch_size)))

    def define(image: Any, label: Any) -> Any:
        plan = mix_plan(mix, size)
        return mix_images(mix, on(back_end, fn.copy(image)), plan), *mixed_target(label, plan)

    foreign = 0.0
    for mixed, label, weight in run(define, given, back_end):
        target = np.zeros((len(mixed), num_channels))
        np.add.at(target, (np.arange(len(mixed))[:, None], label), weight)
        shares = mixed.astype(np.float64).mean(axis=(1, 2)) / level
        # Per blend three roundings of each value and two of a weight; three blends at most.
        np.testing.assert_allclose(shares, target, rtol=0, atol=15 * 2**-24)
        assert label[:, 0].tolist() == list(range(len(mixed)))
        foreign += (1 - shares[range(len(mixed)), range(len(mixed))]).sum()
    assert (foreign > 0) == (getattr(mix, "prob", 1) > 0)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_erasing_takes_pixels_and_no_label_weight(
    size: tuple[int, int], prob: float, back_end: str
) -> None:
    mix = Cutout(side=8, prob=prob, fill=255)
    given = list(batches(size))

    def define(image: Any, label: Any) -> Any:
        plan = mix_plan(mix, size)
        mixed = mix_images(mix, on(back_end, fn.copy(image)), plan)
        return mixed, *mixed_target(label, plan), plan.kept

    for (images, owners), (erased, label, weight, kept) in zip(
        given, run(define, given, back_end), strict=True
    ):
        assert label.tolist() == [[own] for own in owners]
        assert weight.tolist() == [[1]] * len(owners)
        left = (erased == images).all(axis=-1)
        assert (erased[~left] == 255).all()
        np.testing.assert_array_equal(kept, left.mean(axis=(1, 2)).astype(np.float32))
        assert prob == 1 or (kept == 1).any() or len(owners) < 8
        assert (kept < 1).all() if prob == 1 else prob > 0 or (kept == 1).all()


# --- From a source to the tensors a loader yields -----------------------------------------------

# Of 13 samples, batches of 2, 3 and 4 leave one for the last, and batches of 5 leave three.
LOADER_BATCH_SIZES = [4, 5, 13, 2, 3]


def identified_source(size: tuple[int, int], classes: Sequence[int] = range(13)) -> ImageArrays:
    return ImageArrays(reference.identified(range(13), size), list(classes))


def unchanged(size: tuple[int, int]) -> TrainTransform:
    """A transform that leaves images as they are: [0, 1] where they become numbers."""
    return TrainTransform(size, pad=0, flip=0, mean=(0, 0, 0), std=(1, 1, 1))


def bytes_of(image: torch.Tensor) -> np.ndarray:
    """Images ``[B, 3, H, W]`` as ``[B, H, W, 3]``."""
    return image.cpu().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("mix", "batch_size"), design(PASTING, LOADER_BATCH_SIZES))
def test_loader_weighs_each_class_by_the_pixels_it_shows(
    mix: Any, batch_size: int, device: str
) -> None:
    size = (12, 20) if batch_size % 2 else (20, 12)
    foreign = 0
    with DataLoader(
        identified_source(size),
        batch_size,
        shuffle=True,
        transform=unchanged(size),
        mix=mix,
        dtype=torch.uint8,
        target="pair",
        device=device,
        num_workers=1,
        seed=1,
    ) as loader:
        seen: list[int] = []
        for image, target in loader:
            label, weight = target.label.cpu().numpy(), target.weight.cpu().numpy()
            owners = label[:, 0].tolist()
            foreign += assert_weights_count_pixels(bytes_of(image), owners, label, weight)
            if isinstance(mix, CutMix):
                assert reference.strays(bytes_of(image)) == 0
            seen.extend(owners)
    assert sorted(seen) == list(range(13))
    assert 0 < getattr(mix, "prob", 1) < 1 or (foreign > 0) == (getattr(mix, "prob", 1) > 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("mix", "num_classes"),
    [
        (CutMix(), 1),
        (CutMix.paper(), 2),
        (CutMix.timm(mode="pair"), 5),
        (RICAP(), 2),
        (ResizeMix(), 2),
        (Chain([CutMix(), CutMix()]), 3),
        (RandomChoice([CutMix(), RICAP()]), 2),
        (SaliencyMix(), 2),
    ],
    ids=str,
)
def test_loader_adds_the_weights_of_sources_that_are_of_one_class(
    mix: Any, num_classes: int, device: str
) -> None:
    size, classes = (12, 20), np.arange(13) % num_classes
    with DataLoader(
        identified_source(size, classes.tolist()),
        5,
        shuffle=True,
        transform=unchanged(size),
        mix=mix,
        dtype=torch.uint8,
        device=device,
        num_workers=1,
    ) as loader:
        for image, row in loader:
            shown = classes[bytes_of(image)[..., 0]].reshape(len(image), -1)
            counts = np.array([np.bincount(one, minlength=num_classes) for one in shown])
            np.testing.assert_array_equal(np.rint(row.cpu().numpy() * 240), counts)
            np.testing.assert_allclose(row.cpu(), counts / 240, rtol=0, atol=4 * 2**-24)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("mix", "batch_size"), design([*BLENDING, *BLENDING_AND_LOOKING], LOADER_BATCH_SIZES)
)
def test_loader_weighs_each_class_as_it_weighs_its_colour(
    mix: Any, batch_size: int, device: str
) -> None:
    size = (12, 20)
    colours = np.random.default_rng(0).integers(0, 256, (13, 3)).astype(np.uint8)
    images = np.tile(colours[:, None, None], (1, *size, 1))
    settings: dict[str, Any] = {
        "transform": unchanged(size),
        "device": device,
        "num_workers": 1,
        "shuffle": True,
        "mix": mix,
    }
    source = ImageArrays(images, range(13))
    with (
        DataLoader(source, batch_size, **settings) as loader,
        DataLoader(source, batch_size, dtype=torch.uint8, **settings) as rounded,
    ):
        for (image, row), (bytes_, same_row) in zip(loader, rounded, strict=True):
            wanted = row.cpu().double().numpy() @ (colours / 255.0)
            shown = image.cpu().double().mean(dim=(2, 3))
            # Per blend half a dozen roundings of numbers up to 1; three blends at most.
            np.testing.assert_allclose(shown, wanted, rtol=0, atol=18 * 2**-24)
            assert (getattr(mix, "prob", 1) > 0) or ((row == 1).sum(dim=1) == 1).all()
            # As bytes a pixel is rounded once, to the nearest.
            torch.testing.assert_close(bytes_ / 255, image, rtol=0, atol=0.501 / 255)
            torch.testing.assert_close(row, same_row, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_loader_keeps_labels_whole_where_squares_are_erased(prob: float, device: str) -> None:
    size = (12, 20)
    with DataLoader(
        identified_source(size),
        3,
        shuffle=True,
        transform=unchanged(size),
        mix=Cutout(side=8, prob=prob, fill=255),
        dtype=torch.uint8,
        device=device,
        with_plan=True,
        num_workers=1,
    ) as loader:
        for image, label, plan in loader:
            assert label.dtype == torch.int64
            pixels = bytes_of(image)
            own = pixels[..., 0] == label.cpu().numpy()[:, None, None]
            assert (pixels[~own] == 255).all()
            np.testing.assert_array_equal(plan.kept, own.mean(axis=(1, 2)).astype(np.float32))


@pytest.mark.parametrize(
    "mix",
    [
        Deferred(CutMix()),
        Deferred(RICAP()),
        Deferred(FMix()),
        Deferred(Chain([CutMix(), CutMix()])),
        Deferred(RandomChoice([CutMix(), RICAP()])),
        Deferred(SaliencyMix()),
        Deferred(Chain([SaliencyMix(), CutMix()])),
        Scheduled(SaliencyMix(), num_epochs=2, prob=lambda t: t),
        Scheduled(CutMix(), num_epochs=2, prob=lambda t: 0.5 + t / 2, min_kept=lambda t: t / 2),
        Scheduled(RICAP(), num_epochs=1, beta=lambda t: 1 + t),
        Deferred(Scheduled(CutMix(), num_epochs=1, alpha=lambda t: 1 + t)),
    ],
    ids=lambda mix: f"{type(mix).__name__}-{type(mix.mix).__name__}",
)
def test_pixels_mixed_later_and_settings_that_change_obey_the_law(mix: Any) -> None:
    size, foreign = (12, 20), 0
    with DataLoader(
        identified_source(size),
        5,
        shuffle=True,
        transform=unchanged(size),
        mix=mix,
        dtype=torch.uint8,
        target="pair",
        with_plan=True,
        num_workers=1,
    ) as loader:
        for _ in range(2):
            for image, target, plan in loader:
                if isinstance(mix, Deferred):
                    assert (image[:, 0] == target.label[:, :1, None]).all()
                    image, weight = mix_batch(image, plan)
                    assert torch.equal(weight, target.weight)
                label, weight = target.label.numpy(), target.weight.numpy()
                owners = label[:, 0].tolist()
                foreign += assert_weights_count_pixels(bytes_of(image), owners, label, weight)
    assert foreign > 0


# --- From files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """13 JPEGs of one colour and size each: red tells the number, 20 levels apart."""
    root: Path = tmp_path_factory.mktemp("coloured")
    files = []
    for number in range(13):
        colour = np.array([20 * number, 128, 128], np.uint8)
        image = np.broadcast_to(colour, (30 + 3 * number, 70 - 2 * number, 3))
        path = root / f"{number:02d}.jpg"
        Image.fromarray(image.copy()).save(path, quality=95, subsampling=0)
        files.append((str(path), number))
    return files


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mix", [CutMix(), RICAP(), Chain([CutMix(), CutMix()])], ids=named)
def test_loader_from_files_weighs_each_class_by_the_pixels_it_shows(
    coloured: list[tuple[str, int]], mix: Any, device: str
) -> None:
    with DataLoader(
        coloured,
        4,
        shuffle=True,
        transform=TrainTransform((12, 20)),
        mix=mix,
        dtype=torch.uint8,
        target="pair",
        device=device,
    ) as loader:
        for image, target in loader:
            owners = np.rint(bytes_of(image)[..., 0] / 20).astype(int)
            counts = (owners[..., None] == np.arange(13)).sum(axis=(1, 2))
            row = dense_target(target, 13).cpu().numpy()
            np.testing.assert_array_equal(np.rint(row * 240), counts)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normalised_tensors_hold_the_same_cuts_as_bytes(dtype: torch.dtype, device: str) -> None:
    size = (12, 20)
    settings: dict[str, Any] = {
        "transform": TrainTransform(size, pad=0),
        "mix": CutMix(),
        "device": device,
        "num_workers": 1,
        "seed": 3,
    }
    source = identified_source(size)
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
