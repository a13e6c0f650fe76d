"""Channels come in the order that torchvision gives them."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from dali_cutmix import DataLoader, EvalTransform, ImageArrays
from dali_cutmix.augmentations import PermuteChannels, RandomApply, RandomChannelPermutation
from graphs import BACK_ENDS
from steps import applied, draw

ORDERS = list(itertools.permutations(range(3)))
IMAGES = [np.arange(3 * side * 5, dtype=np.uint8).reshape(side, 5, 3) for side in (2, 4, 3, 6)]


def permuted(image: np.ndarray, order: list[int]) -> np.ndarray:
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    return F.permute_channels(tensor, order).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_channels_are_torchvisions(back_end: str) -> None:
    for order in ORDERS:
        step = PermuteChannels(order)
        results = applied(step, IMAGES, draw(step, 4), back_end=back_end)
        assert all(map(np.array_equal, results, (permuted(each, [*order]) for each in IMAGES)))
    some = RandomApply([PermuteChannels((2, 1, 0)), RandomChannelPermutation()], 0.5)
    plan = draw(some, 4, seed=3)
    assert 0 < sum(plan.is_applied) < 4
    for number, result in enumerate(applied(some, IMAGES, plan, back_end=back_end)):
        wanted = IMAGES[number]
        if plan.is_applied[number]:
            wanted = permuted(permuted(wanted, [2, 1, 0]), plan.plans[1][number].tolist())
        assert np.array_equal(result, wanted)


def test_all_orders_are_equally_likely() -> None:
    counts = Counter(map(tuple, draw(RandomChannelPermutation(), 6000).tolist()))
    assert sorted(counts) == ORDERS
    # Five standard errors of a count.
    assert all(abs(count - 1000) < 5 * (6000 * 5 / 36) ** 0.5 for count in counts.values())


def test_order_that_is_not_one_of_three_channels_is_refused() -> None:
    message = "PermuteChannels: `permutation` must hold 0, 1 and 2 in any order, got (0, 1, 1)."
    with pytest.raises(ValueError, match=re.escape(message)):
        PermuteChannels((0, 1, 1))


def test_one_mean_keeps_the_first_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    transform = EvalTransform(8, 8, mean=(0.5,), std=(0.25,))
    source = ImageArrays(images, [0, 1, 2, 3])
    for channels_last in (False, True):
        settings = {"transform": transform, "channels_last": channels_last, "device": "cpu"}
        (image, _), *_ = DataLoader(source, 4, **settings)
        wanted = (torch.from_numpy(images[..., 0])[:, None] / 255 - 0.5) / 0.25
        assert torch.allclose(image, wanted, atol=1e-5)
        (image, _), *_ = DataLoader(source, 4, dtype=torch.uint8, **settings)
        assert torch.equal(image[:, 0], torch.from_numpy(images[..., 0]))
