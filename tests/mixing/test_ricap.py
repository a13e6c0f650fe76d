"""RICAP: four crops around one point, against a painting of the plan and the published laws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

import reference
from dali_cutmix import RICAP, DataLoader, ImageArrays, TrainTransform, draw_plan
from graphs import BACK_ENDS, operated, steps

SIZE = (24, 40)
LEAST_P = 1e-4  # below this p-value a law counts as broken; seeds are fixed


def drawn(mix: RICAP, num_samples: int, num: int = 1, size: tuple[int, int] = SIZE) -> Any:
    """A few plans in a row as arrays, and the point of each sample as shares of the sides."""
    plans = [
        draw_plan(mix, num_samples, size, seed=3, epoch=0, batch=batch) for batch in range(num)
    ]
    source, weight = (
        np.concatenate([np.asarray(getattr(plan, name)) for plan in plans])
        for name in ("source", "weight")
    )
    taken = np.concatenate([steps(plan)[0].taken for plan in plans])
    # Areas tell the point: the upper two are as high, the left two as wide as the point is.
    point = np.stack([weight[:, :2].sum(axis=1), weight[:, ::2].sum(axis=1)], axis=1)
    return SimpleNamespace(source=source, weight=weight, taken=taken, point=point, plans=plans)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("mix", [RICAP(), RICAP(prob=0.5), RICAP.paper(beta=2)], ids=repr)
def test_four_crops_lie_around_one_point_and_weigh_their_areas(
    mix: RICAP, num_samples: int, back_end: str
) -> None:
    images = reference.identified(range(num_samples), SIZE)
    for plan in drawn(mix, num_samples, 3).plans:
        mixed = operated(mix, plan, images, back_end)
        np.testing.assert_array_equal(mixed, reference.followed(images, steps(plan)))
        for image, source, weight in zip(mixed, plan.source, plan.weight, strict=True):
            y, x = (
                round(float(weight[0] + weight[1]) * 24),
                round(float(weight[0] + weight[2]) * 40),
            )
            tiles = image[:y, :x], image[:y, x:], image[y:, :x], image[y:, x:]
            for tile, owner, share in zip(tiles, source.tolist(), weight.tolist(), strict=True):
                area = tile.shape[0] * tile.shape[1]
                assert share == np.float32(area / (24 * 40))
                if not area:
                    continue
                # One owner per tile, whose rows and columns follow each other.
                assert (tile[..., 0] == owner).all()
                assert (np.diff(tile[..., 1].astype(int), axis=0) == 1).all()
                assert (np.diff(tile[..., 2].astype(int), axis=1) == 1).all()


def test_point_follows_the_beta_law_of_the_paper_in_both_axes() -> None:
    size = (4096, 4096)
    for beta in (0.3, 2.0):
        plan = drawn(RICAP(beta=beta), 4000, 5, size)
        wanted = np.rint(np.random.default_rng(0).beta(beta, beta, 20_000) * 4096)
        for axis in (0, 1):
            found = np.rint(plan.point[:, axis] * 4096)
            assert stats.ks_2samp(found, wanted).pvalue > LEAST_P
        assert abs(np.corrcoef(plan.point.T)[0, 1]) < 4.5 / np.sqrt(20_000)
        # Each of the four weighs as much on average. A weight's deviation is below .5.
        np.testing.assert_allclose(plan.weight.mean(axis=0), 0.25, atol=4.5 * 0.5 / 20_000**0.5)


def test_every_crop_is_taken_from_any_place_of_its_source_with_equal_probability() -> None:
    size = (4096, 2048)
    plan = drawn(RICAP(beta=4), 4000, 1, size)
    room = np.array(size) - plan.taken[:, :, 1] + 1
    place = (plan.taken[:, :, 0] + 0.5) / room
    columns = place.reshape(len(place), -1)
    for column in columns.T:
        assert stats.kstest(column, "uniform").pvalue > LEAST_P
    correlation = np.corrcoef(columns.T) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(4000)


def test_four_different_samples_are_patched_and_every_partner_is_as_likely() -> None:
    plan = drawn(RICAP(beta=4), 6, 2000)
    rows = plan.source
    assert (rows[:, 0] == np.tile(np.arange(6), 2000)).all()
    assert all(len(set(row)) == 4 for row in rows.tolist())
    for column in (1, 2, 3):
        distance = (rows[:, column] - rows[:, 0]) % 6
        assert stats.chisquare(np.bincount(distance, minlength=6)[1:]).pvalue > LEAST_P


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_partners_repeat_in_a_batch_of_fewer_than_four(num_samples: int) -> None:
    rows = drawn(RICAP(beta=4), num_samples, 20, (4096, 4096)).source
    for own, row in zip(np.tile(np.arange(num_samples), 20), rows, strict=True):
        assert row[0] == own
        assert set(row) == set(range(num_samples))


def test_batch_shares_point_and_places_and_not_partners() -> None:
    plan = drawn(RICAP(beta=4, per="batch", prob=0.5), 8, 40)
    point, taken = plan.point.reshape(40, 8, 2), plan.taken.reshape(40, -1, 4, 2, 2)
    assert (point == point[:, :1]).all()
    assert (taken == taken[:, :1]).all()
    assert len(np.unique(point[:, 0], axis=0)) > 10
    is_mixed = (plan.weight[:, 0] < 1).reshape(40, 8)
    assert 5 < is_mixed[:, 0].sum() < 35  # of 40 fair coins
    assert len(np.unique(plan.source[:8], axis=0)) == 8


def test_prob_is_the_share_of_mixed_samples() -> None:
    plan = drawn(RICAP(beta=4, prob=0.3), 4000)
    is_mixed = plan.weight[:, 0] < 1
    assert is_mixed.mean() == pytest.approx(0.3, abs=4.5 * np.sqrt(0.3 * 0.7 / 4000))
    assert (plan.weight[~is_mixed] == [1, 0, 0, 0]).all()


def test_paper_is_one_draw_per_batch() -> None:
    assert RICAP.paper() == RICAP(beta=0.3, per="batch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"beta": 0},
            "RICAP: `beta` must be finite and above 0, got 0. To mix nothing, pass `prob=0.0`.",
        ),
        ({"prob": 2}, "RICAP: `prob` must be in [0, 1], got 2."),
        ({"per": "pair"}, "RICAP: `per` must be one of 'sample', 'batch', got 'pair'."),
    ],
)
def test_ricap_refuses_what_it_cannot_draw(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        RICAP(**settings)
    assert str(caught.value) == message


def test_loader_refuses_batches_of_fewer_than_four() -> None:
    source = ImageArrays(np.zeros((8, 8, 8, 3), np.uint8), range(8))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        DataLoader(source, 3, transform=TrainTransform(8), mix=RICAP())
    assert str(caught.value) == (
        "DataLoader: `batch_size` must be at least 4 with `mix`, got 3. Partners come from the "
        "same batch; `mix=None` mixes nothing."
    )


def test_properties_of_two_regions_are_refused_with_the_fields_to_read() -> None:
    (plan,) = drawn(RICAP(), 4).plans
    for name in ("partner", "kept", "anchor", "extent"):
        with pytest.raises(AttributeError) as caught:
            getattr(plan, name)
        assert str(caught.value) == (
            f"MixPlan: `{name}` must be asked of a plan of two regions, got one of 4. Read "
            "`source`, `weight`, `taken` and `put`."
        )
    assert plan.own.tolist() == [0, 1, 2, 3]
