"""Blending after normalising gives the pixels of blending before, in every form of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    Chain,
    Clips,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    ImageArrays,
    MixUp,
    RandomChoice,
    Scheduled,
    Views,
    blend,
    mix_batch,
)

# Images of 12,288 values are blended in two parts of different sizes.
SIZE = (64, 64)
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)
TRANSFORM = EvalTransform(SIZE, SIZE, mean=MEAN, std=STD)

#: A few roundings of values up to 6, one of bfloat16, two of float16, and one of bytes.
TOLERANCE = {
    torch.float32: 4e-6,
    torch.bfloat16: 1.01 * 2**-6,
    torch.float16: 2**-8,
    torch.uint8: 0.501,
}


@dataclass(frozen=True)
class Wrapped:
    """A mix of a user, which blends as `MixUp` does."""

    num_sources: ClassVar[int] = 2

    def draw(self, draws: Any, frame: Any) -> Any:
        return MixUp().draw(draws, frame)

    def operate(self, sample: Any, plan: Any, _frame: Any) -> Any:
        return replace(sample, image=blend(sample.image, plan))


class Shown(MixUp):
    """A `MixUp` that does more than blend: it adds 1 to every pixel."""

    def operate(self, sample: Any, plan: Any, _frame: Any) -> Any:
        return replace(sample, image=blend(sample.image, plan) + 1.0)


class Three(MixUp):
    """A `MixUp` of three samples."""

    num_sources = 3

    def draw(self, draws: Any, frame: Any) -> Any:
        plan = super().draw(draws, frame)
        third = draws.permutation("third", cycle=True)
        weight = np.concatenate([plan.weight * 2, np.ones_like(plan.weight[:, :1])], axis=1) / 3
        source = np.concatenate([plan.source, third], axis=1)
        return replace(plan, source=source, weight=weight.astype(np.float32))


class WrappedThree(Wrapped):
    """The same without a base class of the package."""

    num_sources = 3

    def draw(self, draws: Any, frame: Any) -> Any:
        return Three().draw(draws, frame)


class Bright(RandomChoice):
    """A `RandomChoice` that does more: it makes the brighter half of all values white."""

    def operate(self, sample: Any, plan: Any, frame: Any) -> Any:
        mixed = super().operate(sample, plan, frame)
        return replace(mixed, image=255.0 * (mixed.image > 127.0))


@pytest.fixture(scope="module")
def source() -> ImageArrays:
    images = np.random.default_rng(1).integers(0, 256, (14, *SIZE, 3)).astype(np.uint8)
    return ImageArrays(images, range(14))


def batches(source: Any, mix: Any, **settings: Any) -> list[Any]:
    given: dict[str, Any] = {"transform": TRANSFORM, "device": "cpu", "num_workers": 1, "seed": 5}
    with DataLoader(source, 4, mix=mix, shuffle=True, with_plan=True, **given | settings) as loader:
        return list(loader)


def normalised(image: torch.Tensor, *numbers: Sequence[float]) -> torch.Tensor:
    mean, std = (torch.tensor(part).reshape(-1, *[1] * (image.ndim - 2)) for part in numbers)
    return (image / 255 - mean) / std


def assert_as_if_blended_first(source: Any, mix: Any, dtype: torch.dtype, **settings: Any) -> None:
    """Compare with bytes that are mixed in torch, and normalised then."""
    mixed = batches(source, mix, dtype=dtype, **settings)
    unmixed = batches(source, Deferred(mix), dtype=torch.uint8, **settings)
    blends = 0
    for (image, _, _), (stored, _, plan) in zip(mixed, unmixed, strict=True):
        assert image.dtype == dtype
        assert image.stride() == stored.stride()
        wanted, _ = mix_batch(stored, plan)
        blends += wanted.is_floating_point() and not (wanted == wanted.round()).all()
        if dtype != torch.uint8:
            wanted = normalised(wanted, MEAN, STD)
        difference = (image.double() - wanted.double()).abs().max()
        assert difference <= TOLERANCE[dtype]
    assert blends > 0


MIXES = {
    "mixup": MixUp(),
    "flipped partners": MixUp(0.3, prob=0.5, partner="flip"),
    "weighted partners": MixUp(partner="weighted", sample_weights=list(range(1, 15))),
    "choice": RandomChoice([CutMix(), MixUp()], [1, 2]),
    "choice with a mix of one's own": RandomChoice([Wrapped(), MixUp()]),
    "choice of a chain": RandomChoice([Chain([CutMix(), MixUp()]), Cutout(8)]),
    "chain of a choice": Chain([Cutout(16), RandomChoice([MixUp(), CutMix()])]),
    "chain that cuts last": Chain([MixUp(), CutMix()]),
    "chain of blends": Chain([MixUp(), CutMix(), MixUp(0.2)]),
    "scheduled alpha": Scheduled(MixUp(), 2, alpha=lambda t: 0.5 + t),
    "scheduled prob": Scheduled(MixUp(), 1, prob=lambda t: t),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_images_are_those_of_blending_before_normalising(source: ImageArrays, mix: Any) -> None:
    for number, dtype in enumerate(TOLERANCE):
        assert_as_if_blended_first(source, mix, dtype, channels_last=number % 2 == 1)


def test_mixes_of_ones_own_blend_once(source: ImageArrays) -> None:
    for own, mix in ((Wrapped(), MixUp()), (RandomChoice([Wrapped()]), RandomChoice([MixUp()]))):
        for (image, *_), (wanted, *_) in zip(
            batches(source, own), batches(source, mix), strict=True
        ):
            torch.testing.assert_close(image, wanted, rtol=0, atol=TOLERANCE[torch.float32])


def test_a_class_derived_from_mixup_does_what_it_says(source: ImageArrays) -> None:
    step = 1 / 255 / torch.tensor(STD).reshape(3, 1, 1)
    for (image, *_), (wanted, *_) in zip(
        batches(source, Shown()), batches(source, MixUp()), strict=True
    ):
        torch.testing.assert_close(image - step, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "mix", [Three(), WrappedThree(), RandomChoice([Three(), MixUp()]), Chain([Cutout(8), Three()])]
)
def test_blends_of_three_samples_are_those_of_their_plan(source: ImageArrays, mix: Any) -> None:
    assert_as_if_blended_first(source, mix, torch.float32)


def test_what_a_class_derived_from_randomchoice_does_comes_after_the_blend(
    source: ImageArrays,
) -> None:
    for image, *_ in batches(source, Bright([MixUp()]), dtype=torch.uint8):
        assert set(image.unique().tolist()) == {0, 255}


def test_frames_of_a_clip_are_blended_with_those_of_one_partner(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for clip in range(14):
        folder = tmp_path / f"class{clip % 2}" / f"clip{clip:02}"
        folder.mkdir(parents=True)
        for frame in range(3):
            pixels = random.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame}.png")
    source = Clips(tmp_path, frames=3, stride=1)
    for channels_last in (False, True):
        assert_as_if_blended_first(source, MixUp(), torch.float32, channels_last=channels_last)


def test_each_view_is_blended_by_its_plan(source: ImageArrays) -> None:
    views = [TRANSFORM, EvalTransform(SIZE, SIZE, mean=(0.5,), std=(0.5,))]
    mixed = batches(source, MixUp(), transform=Views(views, plan="each"))
    stored = batches(
        source, Deferred(MixUp()), transform=Views(views, plan="each"), dtype=torch.uint8
    )
    for (images, _, plans), (others, *_) in zip(mixed, stored, strict=True):
        assert not torch.equal(plans[0].weight, plans[1].weight)
        for image, other, plan, (mean, std) in zip(
            images, others, plans, [(MEAN, STD), ((0.5,), (0.5,))], strict=True
        ):
            wanted = normalised(mix_batch(other, plan)[0], mean, std)
            torch.testing.assert_close(image, wanted, rtol=0, atol=TOLERANCE[torch.float32])


@pytest.mark.parametrize("num_workers", [1, 16])
def test_threads_blend_alike_in_inference_mode_too(source: ImageArrays, num_workers: int) -> None:
    alone = batches(source, MixUp(), num_workers=1)
    with torch.inference_mode():
        threaded = batches(source, MixUp(), num_workers=num_workers)
    for (image, *_), (wanted, *_) in zip(threaded, alone, strict=True):
        assert image.is_inference()
        assert torch.equal(image, wanted)
