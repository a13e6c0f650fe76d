"""Settings that change over the epochs: a function of t, and t a function of the batch's place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline

from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    GuidedCutMix,
    ImageArrays,
    MixUp,
    Scheduled,
    TrainTransform,
    draw_plan,
    mix_plan,
)

SIZE = (16, 24)
#: The drawn fraction of each cut tells the t that the schedule was given.
TELLING = Scheduled(CutMix(), num_epochs=3, lam=lambda t: t)


def loader_of(mix: Any, batch_size: int = 4) -> DataLoader:
    images = np.random.default_rng(0).integers(0, 256, (13, *SIZE, 3)).astype(np.uint8)
    return DataLoader(
        ImageArrays(images, range(13)),
        batch_size,
        shuffle=True,
        transform=TrainTransform(SIZE, pad=2),
        mix=mix,
        dtype=torch.uint8,
        with_plan=True,
        device="cpu",
        num_workers=1,
    )


def plan_at(mix: Any, epoch: int, batch: int, num_samples: int = 8) -> Any:
    return draw_plan(mix, num_samples, SIZE, seed=0, epoch=epoch, batch=batch, num_batches=4)


def test_t_is_the_share_of_the_run_before_the_batch_and_stays_below_one() -> None:
    with loader_of(TELLING) as loader:
        for epoch in range(5):
            for number, (_, _, plan) in enumerate(loader):
                t = (min(epoch, 2) + number / 4) / 3  # epochs after the last repeat it
                assert 0 <= t < 1
                assert (plan.lam == np.float32(t)).all()
                assert torch.equal(plan.lam, plan_at(TELLING, epoch, number, len(plan.lam)).lam)


def test_resumed_run_mixes_as_the_first_run_would_have() -> None:
    mix = Scheduled(CutMix(), num_epochs=2, prob=lambda t: t, max_kept=lambda t: 1 - t / 2)
    with loader_of(mix) as loader:
        for _ in loader:
            pass
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        wanted = list(batches)
    with loader_of(mix) as resumed:
        resumed.load_state_dict(state)
        found = list(resumed)
    assert len(found) == len(wanted) == 3
    for (image, target, plan), (same_image, same_target, same_plan) in zip(
        found, wanted, strict=True
    ):
        assert torch.equal(image, same_image)
        assert torch.equal(target, same_target)
        assert torch.equal(plan.put.extent, same_plan.put.extent)


def test_prob_that_rises_mixes_t_of_the_samples() -> None:
    mix = Scheduled(MixUp(), num_epochs=4, prob=lambda t: t)
    for epoch, batch in ((0, 0), (0, 3), (1, 2), (3, 0), (3, 3)):
        t = (epoch + batch / 4) / 4
        plan = plan_at(mix, epoch, batch, 4000)
        found = float((plan.kept < 1).float().mean())
        assert found == pytest.approx(t, abs=4.5 * (t * (1 - t) / 4000) ** 0.5)


def test_settings_of_each_batch_are_those_of_a_mix_made_with_them() -> None:
    mix = Scheduled(
        CutMix(placement="inside"),
        num_epochs=2,
        alpha=lambda t: 1 + t,
        max_kept=lambda t: 1 - t / 2,
        per=lambda t: "sample" if t < 0.5 else "batch",
    )
    for epoch, batch in ((0, 0), (0, 2), (1, 3)):
        t = (epoch + batch / 4) / 2
        made = CutMix(
            placement="inside",
            alpha=1 + t,
            max_kept=1 - t / 2,
            per="sample" if t < 0.5 else "batch",
        )
        assert mix.at(t) == made
        plan, wanted = plan_at(mix, epoch, batch), plan_at(made, epoch, batch)
        assert torch.equal(plan.put.anchor, wanted.put.anchor)
        assert torch.equal(plan.weight, wanted.weight)


def test_operators_are_in_the_graph_although_the_first_batches_mix_nothing() -> None:
    mix = Scheduled(CutMix(prob=0), num_epochs=1, prob=lambda t: float(t > 0.4))
    with loader_of(mix) as loader, loader_of(None) as plain:
        has_mixed = [
            not torch.equal(image, unmixed)
            for (image, _, _), (unmixed, _, _) in zip(loader, plain, strict=True)
        ]
    assert has_mixed[:3] == [False, False, True]


def test_schedule_needs_what_its_mix_needs() -> None:
    mix = Scheduled(RICAP(), num_epochs=1, prob=lambda t: t)
    assert (mix.num_sources, mix.min_batch_size) == (4, 4)
    assert Scheduled(Cutout(side=2), num_epochs=1, prob=lambda t: t).min_batch_size == 1


def identity(t: float) -> float:
    return t


BOXES = [{"boxes": [[0, 0, 4, 4]], "labels": [1]}]
WEIGHTED = CutMix(partner="weighted", class_weights=[1, 1])
SETTINGS = (
    "alpha, prob, per, partner, placement, min_kept, max_kept, sides, lam, axes, class_weights, "
    "sample_weights"
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Scheduled(CutMix(), 5, side=identity),
            f"Scheduled: `side` must be a setting of CutMix that can change, got {identity!r}. "
            f"These can: {SETTINGS}.",
        ),
        (
            lambda: Scheduled(Cutout(side=2), 5, fill=identity),
            f"Scheduled: `fill` must be a setting of Cutout that can change, got {identity!r}. "
            "These can: side, prob.",
        ),
        (
            lambda: Scheduled(CutMix(), 5),
            f"Scheduled: `schedules` must name at least one setting, got (). CutMix has "
            f"{SETTINGS}.",
        ),
        (
            lambda: Scheduled(CutMix(), 5, prob=0.5),  # type: ignore[arg-type]
            "Scheduled: `prob` must be a function of t, got 0.5. A constant belongs into "
            "CutMix(prob=...).",
        ),
        (
            lambda: Scheduled(CutMix(), 0, prob=identity),
            "Scheduled: `num_epochs` must be a whole number of at least 1, got 0.",
        ),
        (
            lambda: Scheduled("CutMix", 5, prob=identity),  # type: ignore[arg-type]
            "Scheduled: `mix` must be a mix with settings, got 'CutMix'. Pass one such as "
            "`CutMix()`.",
        ),
        (
            lambda: Scheduled(CutMix(), 5, prob=lambda t: 2 * t),
            "Scheduled: the schedules must give settings that CutMix takes, got "
            "prob=1.0078125 at t=0.503906. CutMix: `prob` must be in [0, 1], got 1.0078125.",
        ),
        (
            lambda: Scheduled(CutMix(), 5, prob=lambda _: None),
            "Scheduled: the schedules must give settings that CutMix takes, got prob=None at "
            "t=0. CutMix: `prob` must be a number in [0, 1], got None.",
        ),
        (
            lambda: Scheduled(CutMix(), 5, min_kept=lambda t: t, max_kept=lambda t: 1 - t),
            "Scheduled: the schedules must give settings that CutMix takes, got min_kept=0.5, "
            "max_kept=0.5 at t=0.5. CutMix: `min_kept` must be below max_kept=0.5, got 0.5.",
        ),
        (
            lambda: Scheduled(
                GuidedCutMix(BOXES, target=1), 5, target=lambda t: 1 if t < 0.5 else None
            ),
            "Scheduled: the schedules must keep a `target`, as GuidedCutMix has, got no `target` "
            "with target=None at t=0.5.",
        ),
        (
            lambda: Scheduled(GuidedCutMix(BOXES), 5, target=lambda t: None if t < 0.5 else 1),
            "Scheduled: the schedules must keep no `target`, as GuidedCutMix has, got a `target` "
            "with target=1 at t=0.5.",
        ),
        (
            lambda: Scheduled(WEIGHTED, 5, class_weights=lambda t: [1, t, 1]),
            "Scheduled: the schedules must keep 2 `class_weights`, as CutMix has, got 3 "
            "`class_weights` with class_weights=[1, 0.0, 1] at t=0.",
        ),
        (
            lambda: Scheduled(
                WEIGHTED, 5, class_weights=lambda _: None, sample_weights=lambda _: [1, 2]
            ),
            "Scheduled: the schedules must keep 2 `class_weights`, as CutMix has, got no "
            "`class_weights` with class_weights=None, sample_weights=[1, 2] at t=0.",
        ),
        (
            lambda: Scheduled(
                CutMix(), 5, partner=lambda _: "weighted", class_weights=lambda _: [1, 2]
            ),
            "Scheduled: the schedules must keep partners without weights, as CutMix has, got "
            "partners by weights with partner='weighted', class_weights=[1, 2] at t=0.",
        ),
        (
            lambda: Scheduled(GuidedCutMix(BOXES), 5, boxes=lambda _: BOXES * 2),
            "Scheduled: the schedules must keep boxes of 1 images, as GuidedCutMix has, got boxes "
            f"of 2 images with boxes={BOXES * 2} at t=0.",
        ),
    ],
)
def test_schedules_that_say_nothing_sensible_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        make()
    assert str(caught.value) == message


def test_schedule_that_fails_between_the_trials_names_the_t_of_its_batch() -> None:
    mix = Scheduled(CutMix(), 3, prob=lambda t: 7.0 if abs(t - 1 / 3) < 1e-9 else 1.0)
    plan_at(mix, 0, 3)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        plan_at(mix, 1, 0)
    assert str(caught.value) == (
        "Scheduled: the schedules must give settings that CutMix takes, got prob=7.0 at "
        "t=0.333333. CutMix: `prob` must be in [0, 1], got 7.0."
    )


def test_batch_without_a_place_in_its_epoch_is_refused() -> None:
    draw_plan(TELLING, 4, SIZE, seed=0, epoch=1, batch=0)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        draw_plan(TELLING, 4, SIZE, seed=0, epoch=1, batch=2)
    assert str(caught.value) == (
        "Scheduled: how much of the epoch lies before batch 2 is not known here. Pass "
        "`num_batches=` to `draw_plan`."
    )


@pytest.mark.parametrize("mix", [TELLING, Chain([TELLING])], ids=["scheduled", "in a chain"])
def test_graph_of_ones_own_knows_no_epoch(mix: Any) -> None:
    with (
        Pipeline(batch_size=2, num_threads=1, device_id=None),
        pytest.raises(ValueError) as caught,  # noqa: PT011 - the whole text is compared
    ):
        mix_plan(mix, SIZE)
    assert str(caught.value) == (
        "Scheduled: a graph of your own does not know its epoch, so that num_epochs=3 says "
        "nothing there. Give the schedule to `DataLoader(mix=...)`."
    )
