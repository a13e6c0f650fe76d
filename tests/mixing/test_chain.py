"""Chains: weights of several mixes in a row against owners that were painted pixel by pixel."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import reference
from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    Deferred,
    MixPlan,
    MixUp,
    RandomChoice,
    Rect,
    ResizeMix,
    draw_plan,
)
from graphs import BACK_ENDS, operated, steps

SIZE = (12, 20)
CHAINS: list[Any] = [
    Chain([CutMix()]),
    Chain([CutMix(), CutMix()]),
    Chain([CutMix(), CutMix.paper(), CutMix(per="pair", partner="flip")]),
    Chain([Cutout(side=8), CutMix()]),
    Chain([CutMix(), Cutout(side=8)]),
    Chain([Cutout(side=8, prob=0.5), MixUp()]),
    Chain([CutMix(), MixUp()]),
    Chain([MixUp(), CutMix()]),
    Chain([MixUp(), Cutout(side=4), MixUp(0.2)]),
    Chain([RICAP(), CutMix()]),
    Chain([RICAP(), RICAP(beta=2)]),
    Chain([CutMix(), Chain([MixUp(), CutMix()])]),
    Chain([RandomChoice([CutMix(), MixUp(), RICAP()]), CutMix()]),
    Chain([CutMix(), RandomChoice([Chain([CutMix(), CutMix()]), Cutout(side=8)])]),
]


def blends(mix: Any) -> bool:
    return isinstance(mix, MixUp) or any(map(blends, getattr(mix, "mixes", ())))


def named(mix: Any) -> str:
    parts = getattr(mix, "mixes", ())
    return type(mix).__name__ + "".join(f"-{named(part)}" for part in parts)


@pytest.mark.parametrize("num_samples", [2, 3, 7])
@pytest.mark.parametrize("chain", CHAINS, ids=named)
def test_weights_of_a_chain_are_the_shares_of_painted_owners(
    chain: Chain, num_samples: int
) -> None:
    for batch in range(6):
        plan = draw_plan(chain, num_samples, SIZE, seed=0, epoch=0, batch=batch)
        assert plan.source.shape == plan.weight.shape == (num_samples, chain.num_sources)
        assert plan.source[:, 0].tolist() == list(range(num_samples))
        assert (plan.source.dtype, plan.weight.dtype) == (torch.int32, torch.float32)
        found = np.zeros((num_samples, num_samples))
        rows = np.arange(num_samples)[:, None]
        np.add.at(found, (rows, plan.source.numpy()), plan.weight.numpy().astype(np.float64))
        wanted = reference.owned(steps(plan), num_samples, SIZE)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=chain.num_sources * 2**-24)
        if not blends(chain):
            counts = [Fraction(round(share * 240), 240) for share in found.ravel()]
            assert counts == [Fraction(round(share * 240), 240) for share in wanted.ravel()]


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("chain", [c for c in CHAINS if c.num_sources <= 16], ids=named)
def test_pixels_of_a_chain_are_those_of_its_mixes_one_after_another(
    chain: Chain, back_end: str
) -> None:
    images = reference.identified(range(7), SIZE)
    for batch in range(3):
        plan = draw_plan(chain, 7, SIZE, seed=0, epoch=0, batch=batch)
        mixed = operated(chain, plan, images, back_end)
        wanted = reference.followed(images, steps(plan), fill=(124, 116, 104))
        # Per blend three roundings of numbers up to 256; bytes are copied.
        atol = 6 * 256 * 2**-24 if blends(chain) else 0
        np.testing.assert_allclose(mixed.astype(np.float64), wanted, rtol=0, atol=atol)
        assert mixed.dtype == (np.float32 if blends(chain) else np.uint8)


def test_multiplied_weights_would_be_wrong_by_a_tenth_and_more() -> None:
    chain = Chain([CutMix(), CutMix()])
    worst = 0.0
    for batch in range(10):
        plan = draw_plan(chain, 8, SIZE, seed=0, epoch=0, batch=batch)
        first, second = (np.asarray(part.weight, np.float64) for part in plan.plans)
        partner = np.asarray(plan.plans[1].source)[:, 1]
        multiplied = np.stack([first[:, 0] * second[:, 0], first[partner][:, 0] * second[:, 1]], 1)
        exact = plan.weight.numpy()[:, [0, 2]]
        worst = max(worst, float(np.abs(multiplied - exact).max()))
    assert worst > 0.1


def test_a_partner_that_is_resized_brings_its_owners_along() -> None:
    chain = Chain([CutMix(), ResizeMix(scale=(0.5, 0.9))])
    plan = draw_plan(chain, 6, (60, 100), seed=0, epoch=0, batch=0)
    cut, resized = plan.plans
    owners = np.zeros((6, 60, 100, 6), np.float32)
    owners[range(6), ..., range(6)] = 1
    owners = reference.followed(owners, steps(cut))
    wanted = np.zeros((6, 6))
    for sample in range(6):
        (y, x), (height, width) = resized.anchor[sample].tolist(), resized.extent[sample].tolist()
        partner = torch.from_numpy(owners[int(resized.partner[sample])]).permute(2, 0, 1)[None]
        smaller = torch.nn.functional.interpolate(
            partner, size=(height, width), mode="bilinear", antialias=True
        )
        result = owners[sample].copy()
        result[y : y + height, x : x + width] = smaller[0].permute(1, 2, 0)
        wanted[sample] = result.mean(axis=(0, 1))
    found = np.zeros((6, 6))
    np.add.at(found, (np.arange(6)[:, None], plan.source.numpy()), plan.weight.numpy())
    # Antialiasing weighs pixels at the border of an image a little more than others.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01)


def test_mixes_of_a_chain_draw_apart() -> None:
    plan = draw_plan(Chain([CutMix(), CutMix()]), 64, SIZE, seed=0, epoch=0, batch=0)
    first, second = plan.plans
    assert (first.lam != second.lam).all()
    assert (first.partner != second.partner).any()


def test_a_chain_needs_what_its_mixes_need() -> None:
    chain = Chain([CutMix(), RICAP(), Cutout(side=2)])
    assert (chain.num_sources, chain.min_batch_size) == (8, 4)
    assert Chain([Cutout(side=2), Cutout(side=4)]).num_sources == 1


PAIRED = CutMix(per="pair", partner="flip")


@pytest.mark.parametrize(
    ("mixes", "message"),
    [
        ([], "Chain: `mixes` must be a list of at least one mix, got []."),
        (CutMix(), f"Chain: `mixes` must be a list of at least one mix, got {CutMix()!r}."),
        (
            [CutMix(), "MixUp"],
            "Chain: `mixes` must hold mixes, got 'MixUp'. Pass mixes of dali_cutmix, such as "
            "`CutMix()`.",
        ),
        (
            [PAIRED, CutMix(), PAIRED],
            f"Chain: `mixes` must hold at most one mix with per='pair', got "
            f"{(PAIRED, CutMix(), PAIRED)!r}. Pairs of samples are the same in all of them, so "
            "that the second mix would give a sample its own pixels back. Draw one of them per "
            "sample or per batch.",
        ),
        (
            [CutMix(), Deferred(MixUp())],
            f"Chain: `mixes` must mix in the graph, got {Deferred(MixUp())!r}. Defer all of "
            "them: `Deferred(Chain([...]))`.",
        ),
    ],
    ids=["empty", "no list", "no mix", "two per pair", "deferred"],
)
def test_chain_refuses_mixes_that_contradict(mixes: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        Chain(mixes)
    assert str(caught.value) == message


class Columns:
    """A mix of twelve regions: the sample, and columns of other samples ``step`` pixels apart."""

    num_sources = 12

    def __init__(self, step: int, width: int = 1) -> None:
        self.step, self.width = step, width

    def draw(self, draws: Any, frame: Any) -> MixPlan:
        shuffled = draws.permutation("columns", cycle=True)
        own = np.arange(len(shuffled), dtype=np.int32)[:, None]
        source = np.hstack([own, *[np.roll(shuffled, shift) for shift in range(11)]])
        x = np.array([0, *[self.step * column for column in range(11)]])
        wide = np.array([frame.size[1], *[self.width] * 11])
        anchor = np.stack([x * 0, x], axis=1)
        extent = np.stack([x * 0 + frame.size[0], wide], axis=1)
        rect = Rect(*(np.tile(v, (len(own), 1, 1)).astype(np.int32) for v in (anchor, extent)))
        weight = np.tile(np.float32([1 - 11 / frame.size[1], *[1 / frame.size[1]] * 11]), own.shape)
        return MixPlan(source.astype(np.int32), weight, frame.size, taken=rect, put=rect)

    def operate(self, sample: Any, _plan: MixPlan, _frame: Any) -> Any:
        return sample


def test_a_mix_of_many_regions_is_counted_where_they_do_not_overlap() -> None:
    chain = Chain([CutMix(), Columns(step=1), CutMix()])
    plan = draw_plan(chain, 5, SIZE, seed=0, epoch=0, batch=0)
    found = np.zeros((5, 5))
    np.add.at(found, (np.arange(5)[:, None], plan.source.numpy()), plan.weight.numpy())
    wanted = reference.owned(steps(plan), 5, SIZE)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=48 * 2**-24)


def test_a_mix_of_many_regions_that_overlap_is_refused() -> None:
    mix = Columns(step=1, width=2)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        draw_plan(Chain([CutMix(), mix]), 5, SIZE, seed=0, epoch=0, batch=0)
    assert str(caught.value) == (
        f"Chain: `mixes` must have at most 8 regions that overlap each other, got {mix!r}. Let the "
        "regions after the first not overlap."
    )


def test_chain_refuses_the_plan_of_another_mix() -> None:
    plan = draw_plan(CutMix(), 2, SIZE, seed=0, epoch=0, batch=0)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        operated(Chain([CutMix()]), plan, np.zeros((2, *SIZE, 3), np.uint8))
    assert str(caught.value) == "Chain: `plan` must be drawn by Chain, got 'MixPlan'."
