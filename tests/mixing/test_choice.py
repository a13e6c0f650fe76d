"""One of several mixes for each batch: which, and all of it, as torchvision's ``RandomChoice``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from dali_cutmix import (
    RICAP,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    GridMix,
    ImageArrays,
    MixUp,
    RandomChoice,
    ResizeMix,
    TrainTransform,
    blend,
    contact_sheet,
    draw_plan,
    erase,
    mix_images,
    mix_plan,
    paste,
)
from dali_cutmix.core.frame import Frame
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.mixing.choice import ChosenPlan
from graphs import BACK_ENDS, full, operated, run

SIZE = (16, 24)
PIXELS = np.zeros((2, *SIZE, 3), np.uint8)
BOTH = RandomChoice([CutMix.torchvision(), MixUp.torchvision(0.4)])


def plans(mix: RandomChoice, num: int, batch_size: int = 4, seed: int = 0) -> list[ChosenPlan]:
    """As many plans as the loader would draw in an epoch."""
    return [mix.draw(HostDraws(batch_size, seed, 0, at, 0), Frame(SIZE)) for at in range(num)]


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, (1, 0), *full((0.2, 0.8), (3, 1))])
def test_mixes_come_as_often_and_keep_as_much_as_torchvisions(weights: Any) -> None:
    num, theirs_num = 1000, 400
    found = plans(RandomChoice(BOTH.mixes, weights), num)
    probs = None if weights is None else list(weights)
    theirs = v2.RandomChoice(
        [v2.CutMix(num_classes=4), v2.MixUp(num_classes=4, alpha=0.4)], p=probs
    )
    images = torch.zeros(4, 4, *SIZE)
    images[range(4), range(4)] = 1  # one channel per sample
    kept: dict[bool, list[float]] = {True: [], False: []}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(theirs_num):
            mixed, target = theirs(images, torch.arange(4))
            is_pasted = bool(((mixed == 0) | (mixed == 1)).all())
            kept[is_pasted].append(float(target[0, 0]))
    chosen = np.array([one.choice[0] for one in found])
    share = 0.5 if weights is None else weights[0] / sum(weights)
    for measured, count in (
        (np.mean(chosen == 0), num),
        (len(kept[True]) / theirs_num, theirs_num),
    ):
        # Four and a half standard errors of a share of coins, of torchvision's as of ours; and
        # one in a thousand of its pastes fills the image or nothing, as a blend may.
        assert abs(measured - share) <= 4.5 * (share * (1 - share) / count) ** 0.5 + 0.001
    for which, is_pasted in ((0, True), (1, False)):
        ours = [float(one.kept[0]) for one, c in zip(found, chosen, strict=True) if c == which]
        assert bool(ours) == bool(kept[is_pasted])
        if ours:
            assert ks_2samp(ours, kept[is_pasted]).pvalue > 0.001


def test_all_samples_of_a_batch_take_the_same_mix_and_its_plan() -> None:
    mix = RandomChoice([CutMix(), MixUp(), Cutout(side=4)])
    seen = set()
    for one in plans(mix, 60, batch_size=5):
        assert len(set(one.choice.tolist())) == 1
        which = int(one.choice[0])
        seen.add(which)
        for name in ("own", "partner", "lam", "kept"):
            value = getattr(one, name)
            np.testing.assert_array_equal(value, getattr(one.plans[which], name))
            assert value.dtype == getattr(one.plans[which], name).dtype
        for name in ("anchor", "extent"):
            wanted = getattr(one.plans[which], name)
            wanted = np.zeros((5, 2)) if wanted is None else wanted
            np.testing.assert_array_equal(getattr(one, name), wanted)
            assert getattr(one, name).dtype == np.int32
    assert seen == {0, 1, 2}
    assert plans(RandomChoice([MixUp(), MixUp(0.2)]), 1)[0].extent is None


def test_regions_of_the_chosen_plan_line_up() -> None:
    for plan in plans(RandomChoice([CutMix(), RICAP()]), 8):
        area = plan.put.extent.prod(axis=2) / (SIZE[0] * SIZE[1])
        if plan.choice[0] == 0:
            area[:, 0] -= area[:, 1]  # which the cut covers
        owned = np.where(plan.weight > 0, area, 0)  # empty regions of RICAP repeat another one
        np.testing.assert_allclose(owned, plan.weight, rtol=0, atol=1e-6)


def test_two_mixes_of_one_kind_draw_apart() -> None:
    (one,) = plans(RandomChoice([CutMix(), CutMix()]), 1)
    assert (one.plans[0].lam != one.plans[1].lam).all()


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_chosen_mix_makes_the_pixels_that_it_makes_alone(back_end: str) -> None:
    mix = RandomChoice([CutMix(), MixUp(), Cutout(side=6, fill=9), RICAP()])
    images = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3)).astype(np.uint8)
    seen = set()
    for plan in plans(mix, 16, batch_size=5):
        which = int(plan.choice[0])
        seen.add(which)
        alone = mix.mixes[which]
        pixels = operated(mix, plan, images, back_end)
        assert pixels.dtype == np.float32
        wanted = operated(alone, plan.plans[which], images, back_end)
        np.testing.assert_array_equal(pixels, wanted)
    assert seen == {0, 1, 2, 3}


class Own:
    """Draw as another mix, and change pixels by what mixes of users call."""

    def __init__(self, mix: Any, change: Callable[[Any, Any, Frame], Any]) -> None:
        self.mix, self.num_sources, self.change = mix, mix.num_sources, change

    def draw(self, draws: Any, frame: Frame) -> Any:
        return self.mix.draw(draws, frame)

    def operate(self, sample: Any, plan: Any, frame: Frame) -> Any:
        return sample.change(lambda pixels: self.change(pixels, plan, frame))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("inner", "change"),
    [
        (CutMix(), lambda pixels, plan, _: paste(pixels, plan)),
        (GridMix((2, 3)), lambda pixels, plan, _: paste(pixels, plan)),
        (ResizeMix(), lambda pixels, plan, _: paste(pixels, plan)),
        (CutMix(), lambda pixels, plan, _: mix_images(CutMix(), pixels, plan)),
        (MixUp(), lambda pixels, plan, _: blend(pixels, plan)),
        (Cutout(side=6), lambda pixels, plan, _: erase(pixels, plan)),
        (CutMix(), lambda pixels, _, frame: pixels ^ frame.constant(np.uint8(255))),
    ],
    ids=["rectangles", "cells", "resized", "mix_images", "blend", "erase", "constant"],
)
def test_own_mix_makes_the_pixels_that_it_makes_alone(
    inner: Any, change: Any, is_first: bool
) -> None:
    own = Own(inner, change)
    mix = RandomChoice([own, RICAP()] if is_first else [RICAP(), own])
    images = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3)).astype(np.uint8)
    by_choice = {int(plan.choice[0]): plan for plan in plans(mix, 16, batch_size=5)}
    for which, plan in by_choice.items():
        wanted = operated(mix.mixes[which], plan.plans[which], images)
        np.testing.assert_array_equal(operated(mix, plan, images), wanted)
    assert set(by_choice) == {0, 1}


def test_bytes_stay_bytes_where_no_mix_blends() -> None:
    for mixes, is_float in (
        ([CutMix(), Cutout(side=4)], False),
        ([CutMix(), MixUp()], True),
    ):
        mix = RandomChoice(mixes)

        def define(image: Any, mix: Any = mix) -> Any:
            return [mix_images(mix, image, mix_plan(mix, SIZE))]

        ((made,),) = run(define, [(np.zeros((3, *SIZE, 3), np.uint8),)])
        assert (made.dtype == np.float32) == is_float


@pytest.mark.parametrize("size", [(15, 24), (17, 24), (16, 23), (20, 30)])
def test_images_of_another_size_than_the_plans_fail_in_the_first_batch(
    size: tuple[int, int],
) -> None:
    def define(image: Any) -> Any:
        return [mix_images(BOTH, image, mix_plan(BOTH, SIZE))]

    with pytest.raises(RuntimeError, match=r"operator `nvidia.dali.fn.reshape`"):
        run(define, [(np.zeros((3, *size, 3), np.uint8),)])


def test_a_choice_of_what_only_erases_leaves_labels_alone() -> None:
    source = ImageArrays(np.full((9, 16, 16, 3), 200, np.uint8), np.arange(9))
    mix = RandomChoice([Cutout(side=4, fill=0), Cutout(side=8, fill=0)])
    assert mix.num_sources == 1
    with DataLoader(
        source, 3, transform=EvalTransform(16, 16), mix=mix, dtype=torch.uint8, with_plan=True
    ) as loader:
        for image, label, plan in loader:
            assert label.dtype == torch.int64
            assert torch.equal((image[:, 0] == 200).float().mean(dim=(1, 2)), plan.kept)


def test_a_batch_that_is_erased_keeps_its_labels_beside_others_that_are_mixed() -> None:
    source = ImageArrays(np.full((64, 16, 16, 3), 200, np.uint8), np.arange(64))
    mix = RandomChoice([CutMix(), Cutout(side=8, fill=0)])
    seen = set()
    with DataLoader(
        source, 4, transform=TrainTransform(16, pad=0), mix=mix, dtype=torch.uint8, target="pair"
    ) as loader:
        for image, target in loader:
            is_erased = bool((image == 0).any())
            seen.add(is_erased)
            if is_erased:
                assert torch.equal(target.weight, torch.tensor([[1.0, 0.0]]).expand(4, 2))
                assert torch.equal(target.label[:, 0], target.label[:, 1])
            else:
                assert (target.label[:, 0] != target.label[:, 1]).all()
    assert seen == {True, False}


def test_loader_serves_the_same_choices_whatever_the_threads_and_shows_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    source = ImageArrays(images, np.arange(24) % 3)
    mix = RandomChoice([CutMix(), MixUp()])
    runs = []
    for num_workers, prefetch in ((1, 1), (3, 4)):
        with DataLoader(
            source,
            4,
            shuffle=True,
            transform=TrainTransform(16, pad=2),
            mix=mix,
            with_plan=True,
            num_workers=num_workers,
            prefetch=prefetch,
            dtype=torch.uint8,
        ) as loader:
            runs.append(list(loader))
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    for image, target, plan in runs[0][:3]:
        contact_sheet(image, target, plan, classes=list("abc"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RandomChoice([]),
            "RandomChoice: `mixes` must be a list of at least one mix, got [].",
        ),
        (
            lambda: RandomChoice(CutMix()),  # type: ignore[arg-type]
            f"RandomChoice: `mixes` must be a list of at least one mix, got {CutMix()!r}.",
        ),
        (
            lambda: RandomChoice([CutMix(), v2.MixUp(num_classes=3)]),
            f"RandomChoice: `mixes` must hold mixes, got {v2.MixUp(num_classes=3)!r}. Pass mixes "
            "of dali_cutmix, such as `CutMix()`.",
        ),
        (
            lambda: RandomChoice([Deferred(CutMix()), MixUp()]),
            f"RandomChoice: `mixes` must mix in the graph, got {Deferred(CutMix())!r}. Defer all "
            "of them: `Deferred(RandomChoice([...]))`.",
        ),
        *(
            (
                lambda weights=weights: RandomChoice([CutMix(), MixUp()], weights),
                "RandomChoice: `weights` must be 2 numbers of at least 0, one for each mix, and "
                f"not all 0, got {weights!r}.",
            )
            for weights in ([1], [1, -1], [0, 0], [1, float("inf")], 0.5)
        ),
        (
            lambda: operated(BOTH, draw_plan(CutMix(), 2, SIZE, seed=0, epoch=0, batch=0), PIXELS),
            "RandomChoice: `plan` must be drawn by RandomChoice, got 'MixPlan'.",
        ),
    ],
)
def test_bad_choices_are_refused_with_the_way_out(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        make()
    assert str(caught.value) == message
