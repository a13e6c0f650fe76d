"""torch's global settings: nothing of a batch depends on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler

from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    FMix,
    MixUp,
    ResizeMix,
    TrainTransform,
    draw_plan,
    mix_batch,
)
from dali_cutmix.augmentations import AutoAugment, ColorJitter, RandAugment, TrivialAugment

pytestmark = pytest.mark.slow  # many loaders under many settings

CROP = TrainTransform((24, 32))
MIXES = [CutMix(), MixUp(), ResizeMix(), RICAP(), Cutout(side=8), FMix()]
MIXES += [Chain([CutMix(), ResizeMix()])]

LOADERS: dict[str, dict[str, Any]] = {
    "trivial": {"transform": TrainTransform((24, 32), augment=[TrivialAugment()]), "shuffle": True},
    "automatic": {
        "transform": TrainTransform((24, 32), augment=[AutoAugment(), RandAugment(), ColorJitter()])
    },
    "resizemix": {"transform": CROP, "mix": ResizeMix(), "with_plan": True},
    "pair": {"transform": CROP, "mix": Chain([CutMix(), MixUp()]), "target": "pair"},
    "dense": {"transform": CROP, "target": "dense", "dtype": torch.bfloat16},
    "bytes": {"transform": CROP, "dtype": torch.uint8, "channels_last": True},
}


def is_default(dtype: Any) -> bool:
    """Whether torch takes a type as its default."""
    try:
        with default_dtype(dtype):
            return True
    except TypeError:
        return False


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_tensor_type(kind: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        torch.set_default_tensor_type(kind)
        try:
            yield
        finally:
            torch.set_default_tensor_type(torch.FloatTensor)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


DTYPES = sorted({d for d in vars(torch).values() if isinstance(d, torch.dtype)}, key=str)
SETTINGS: dict[str, Any] = {
    **{
        str(dtype): lambda dtype=dtype: default_dtype(dtype) for dtype in filter(is_default, DTYPES)
    },
    "meta": lambda: default_device("meta"),
    "with meta": lambda: torch.device("meta"),
    "doubles": lambda: default_tensor_type(torch.DoubleTensor),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
    "one thread": lambda: threads(1),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in flat(part)]
    return flat([value.source, value.weight, value.taken.anchor, value.put.extent])


def everything(folder: Path) -> dict[str, list[torch.Tensor]]:
    served = {
        name: flat(list(DataLoader(folder, 8, device="cpu", num_classes=3, seed=1, **settings)))
        for name, settings in LOADERS.items()
    }
    samplers: dict[str, dict[str, Any]] = {
        "random": {"sampler": RandomSampler(range(21)), "batch_size": 8},
        "batches": {"batch_sampler": BatchSampler(RandomSampler(range(21)), 8, False)},
    }
    for name, settings in samplers.items():
        loader = DataLoader(folder, transform=CROP, device="cpu", **settings)
        served[name] = flat(list(loader))
    return served


@pytest.fixture(scope="module")
def expected(photo_folder: Path) -> dict[str, list[torch.Tensor]]:
    return everything(photo_folder)


def assert_equal(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for tensor, other in zip(found, wanted, strict=True):
        assert tensor.dtype == other.dtype
        assert tensor.device == other.device
        assert torch.equal(tensor, other)


def test_every_floating_point_type_is_among_the_settings() -> None:
    assert {"torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"} <= set(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_batches_do_not_depend_on_a_global_setting_of_torch(
    photo_folder: Path, expected: dict[str, list[torch.Tensor]], setting: str
) -> None:
    with SETTINGS[setting]():
        served = everything(photo_folder)
    for name, wanted in expected.items():
        assert_equal(served[name], wanted)


def mixed(images: torch.Tensor) -> list[torch.Tensor]:
    results: list[torch.Tensor] = []
    for mix in MIXES:
        plan = draw_plan(mix, 8, (24, 32), seed=0, epoch=0, batch=0)
        results += mix_batch(images, plan)
    return results


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(24, 32), (15, 13)])
def test_mixing_in_torch_does_not_depend_on_them_either(
    dtype: torch.dtype, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, *size), generator=generator).to(dtype)
    wanted = mixed(images)
    for setting in SETTINGS.values():
        with setting():
            found = mixed(images)
        assert_equal(found, wanted)
