"""`ClipCutMix`: how much each kind keeps, and what its cuts look like, without a graph."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import Chain, ClipCutMix, CutMix, MixPlan, RandomChoice, draw_plan, mix_batch

SIZE = (16, 96, 80)
KINDS: list[Any] = ["tube", "temporal", "cuboid", "moving"]


def drawn(mix: Any, num_samples: int, size: Any = SIZE, **where: int) -> Any:
    return draw_plan(mix, num_samples, size, **({"seed": 0, "epoch": 0, "batch": 0} | where))


@pytest.mark.parametrize(
    ("kind", "wanted"), [("tube", 0.679), ("temporal", 0.583), ("cuboid", 0.756), ("moving", 0.64)]
)
def test_mean_kept_is_that_of_sides_by_the_root_of_as_many_axes_as_are_cut(
    kind: Any, wanted: float
) -> None:
    kept = drawn(ClipCutMix(kind), 8000, (64, 200, 160)).kept
    # The deviation of a share is at most 0.3 here, so that of the mean 0.0034. Even sides lose a
    # pixel of 160, which keeps 0.004 more.
    assert abs(kept.mean().item() - wanted) < 0.015


def test_moving_cut_keeps_what_a_tube_keeps_where_no_border_clips() -> None:
    tube, moving = (drawn(ClipCutMix(kind), 500) for kind in ("tube", "moving"))
    assert torch.equal(moving.anchors[:, 0], tube.anchors[:, 0])
    assert torch.equal(moving.extents[:, 0], tube.extents[:, 0])
    inside = (moving.extents == moving.extents.amax(1, keepdim=True)).all(2)
    largest = moving.extents.amax(1)
    assert (largest >= tube.extents[:, 0]).all()
    assert inside.float().mean() > 0.3


def test_moving_cut_walks_on_a_straight_line() -> None:
    plan = drawn(ClipCutMix("moving", alpha=0.5), 300, (9, 101, 83))
    high = plan.anchors + plan.extents
    is_whole = (plan.anchors > 0) & (high < torch.tensor([101, 83])) & (plan.extents > 0)
    rows = is_whole.all(1).all(1)  # nowhere clipped: the centre is the middle
    centre = (plan.anchors + high)[rows].double() / 2
    assert len(centre) > 20
    first, last = centre[:, :1], centre[:, -1:]
    wanted = first + (last - first) * (torch.arange(9) / 8)[None, :, None]
    assert (abs(centre - wanted) <= 0.5 + 1e-9).all()
    assert (first != last).any()


def test_tube_draws_what_cutmix_draws() -> None:
    for settings in ({}, {"alpha": 0.3, "prob": 0.5}, {"per": "pair", "partner": "flip"}):
        clips: Any = drawn(ClipCutMix("tube", **settings), 33)
        images: Any = drawn(CutMix(**settings), 33, SIZE[1:])
        assert torch.equal(clips.source, images.source)
        assert torch.equal(clips.weight, images.weight)
        assert torch.equal(clips.lam, images.lam)
        shown = images.extent.amin(1) > 0
        assert torch.equal(clips.extents[shown, 3], images.extent[shown])
        assert torch.equal(clips.anchors[shown, 15], images.anchor[shown])


@pytest.mark.parametrize("kind", KINDS)
def test_plans_stay_as_they_are(kind: Any) -> None:
    """Frozen: equal seeds have to mix alike in each version."""
    plan = drawn(ClipCutMix(kind), 3, (6, 20, 28), seed=7, epoch=1, batch=2)
    assert plan.source.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert (plan.extents.prod(2).sum(1).tolist(), plan.anchors.sum((1, 2)).tolist()) == {
        "tube": ([840, 2400, 288], [96, 42, 78]),
        "temporal": ([560, 2800, 560], [0, 0, 0]),
        "cuboid": ([432, 2000, 288], [78, 42, 60]),
        "moving": ([840, 1959, 288], [75, 59, 72]),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_one_draw_for_all_where_asked_for(kind: Any) -> None:
    plan = drawn(ClipCutMix(kind, per="batch", partner="roll"), 5)
    assert (plan.extents == plan.extents[:1]).all()
    assert (plan.anchors == plan.anchors[:1]).all()
    assert plan.partner.tolist() == [4, 0, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_weights_count_the_voxels_that_torch_pastes(kind: Any, num_samples: int) -> None:
    size = (7, 15, 22)
    plan = drawn(ClipCutMix(kind, prob=0.8), num_samples, size)
    owner = torch.arange(num_samples).reshape(-1, 1, 1, 1, 1).expand(-1, 2, *size)
    mixed, weight = mix_batch(owner, plan)
    assert torch.equal(weight, plan.weight)
    for sample, (own, partner) in enumerate(plan.source.tolist()):
        counted = (mixed[sample] == own).double().mean().item() if own != partner else 1.0
        assert abs(counted - plan.kept[sample].item()) < 2**-24
        assert set(mixed[sample].unique().tolist()) <= {own, partner}


@pytest.mark.parametrize("kind", KINDS)
def test_torch_pastes_features_of_fewer_pixels_and_counts_there(kind: Any) -> None:
    plan = drawn(RandomChoice([ClipCutMix(kind), CutMix()], weights=[1, 0]), 6, (4, 32, 48))
    owner = torch.arange(6.0).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 4, 8, 6)
    mixed, weight = mix_batch(owner, plan)
    for sample in range(6):
        share = (mixed[sample] == plan.source[sample, 1]).double().mean()
        assert abs(share - weight[sample, 1]) < 2**-23
    with pytest.raises(ValueError, match=r"`x` must be \[B, channels, 4, height, width\]"):
        mix_batch(owner[:, :, :3], plan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "ball"},
            "ClipCutMix: `kind` must be one of 'tube', 'temporal', 'cuboid', 'moving', got 'ball'.",
        ),
        (
            {"alpha": 0},
            "ClipCutMix: `alpha` must be finite and above 0, got 0. To mix nothing, pass "
            "`prob=0.0`.",
        ),
        ({"prob": 1.5}, "ClipCutMix: `prob` must be in [0, 1], got 1.5."),
        (
            {"per": "pair"},
            "ClipCutMix: `partner` must be 'flip' when per='pair', got 'derangement'.",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ClipCutMix(**settings)


def test_images_and_chains_are_refused() -> None:
    message = (
        "ClipCutMix: samples must be clips or volumes, as of `Clips` and `Volumes`, and the source "
        "has images. `CutMix()` mixes images."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        drawn(ClipCutMix(), 4, (16, 16))
    with pytest.raises(ValueError, match="`mixes` must cut all frames of a clip alike"):
        drawn(Chain([CutMix(), ClipCutMix()]), 4)
    with pytest.raises(ValueError, match=r"`size\[0\]` must be a whole number of at least 1"):
        drawn(ClipCutMix(), 4, (0, 16, 16))


def test_plan_of_nothing_mixed_keeps_everything() -> None:
    plan = drawn(ClipCutMix("cuboid", prob=0.0), 4)
    assert isinstance(plan, MixPlan)
    assert plan.kept.tolist() == [1] * 4
    assert not np.any(plan.extents.numpy())
