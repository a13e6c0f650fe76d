"""ResizeMix: the whole partner, made smaller, against torch's own resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import interpolate

from dali_cutmix import (
    DataLoader,
    ImageArrays,
    ResizeMix,
    TrainTransform,
    draw_plan,
    mix_plan,
    paste,
)
from graphs import BACK_ENDS, on, operated, run

SIZE = (24, 40)
LEAST_P = 1e-4  # below this p-value a law counts as broken; seeds are fixed


def photos_of(num: int) -> np.ndarray:
    """Smooth images with some noise: ``[num, 24, 40, 3]`` uint8."""
    rng = np.random.default_rng(0)
    smooth = torch.from_numpy(rng.integers(0, 256, (num, 3, 4, 5)).astype(np.float32))
    smooth = interpolate(smooth, size=SIZE, mode="bilinear").permute(0, 2, 3, 1).numpy()
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def resized(image: np.ndarray, size: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    """One image ``[H, W, 3]`` by torch's bilinear antialiased resizing."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype)
    result = interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return result[0].permute(1, 2, 0).numpy()


def assert_partner_is_resized(
    mixed: np.ndarray, images: np.ndarray, plan: Any, dtype: torch.dtype, atol: float
) -> None:
    for sample, (y, x), (height, width) in zip(
        range(len(mixed)), plan.anchor.tolist(), plan.extent.tolist(), strict=True
    ):
        inside = np.zeros(SIZE, bool)
        inside[y : y + height, x : x + width] = True
        partner = images[int(plan.partner[sample])]
        if plan.kept[sample] == 1:
            np.testing.assert_array_equal(mixed[sample], images[sample])
            continue
        np.testing.assert_array_equal(mixed[sample][~inside], images[sample][~inside])
        found = mixed[sample][y : y + height, x : x + width].astype(np.float64)
        wanted = resized(partner, (height, width), dtype)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)
        assert float(plan.weight[sample, 1]) == np.float32(height * width / (24 * 40))


def test_loader_puts_the_whole_partner_resized_as_torch_does_to_the_bit() -> None:
    images = photos_of(9)
    with DataLoader(
        ImageArrays(images, range(9)),
        5,
        transform=TrainTransform(SIZE, pad=0, flip=0),
        mix=ResizeMix(scale=(0.1, 1), prob=0.9),
        dtype=torch.uint8,
        device="cpu",
        with_plan=True,
    ) as loader:
        for _ in range(3):
            for number, (image, _, plan) in enumerate(loader):
                batch = images[number * 5 : number * 5 + 5]
                mixed = image.permute(0, 2, 3, 1).numpy()
                assert_partner_is_resized(mixed, batch, plan, torch.uint8, 0)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_graph_of_ones_own_resizes_as_torch_does_but_for_rounding(back_end: str) -> None:
    images = photos_of(6)
    mix = ResizeMix(scale=(0.2, 1), prob=0.9)
    for batch in range(3):
        plan = draw_plan(mix, 6, SIZE, seed=0, epoch=0, batch=batch)
        mixed = operated(mix, plan, images, back_end)
        assert mixed.dtype == np.uint8
        # DALI's antialiasing is a triangle as torch's; its filter's table is coarser.
        assert_partner_is_resized(mixed, images, plan, torch.float32, 2)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_paste_by_the_nearest_pixel_makes_no_class_between_two(back_end: str) -> None:
    size = (23, 39)  # of odd sides no two pixels are equally near
    masks = np.random.default_rng(0).choice(np.uint8([0, 20, 255]), (6, *size, 1))

    def define(mask: Any) -> Any:
        plan = mix_plan(ResizeMix(scale=(0.2, 1)), size)
        pasted = paste(on(back_end, mask), plan, nearest=True)
        return pasted, plan.source, plan.put.anchor, plan.put.extent

    ((mixed, source, anchor, extent),) = run(define, [(masks,)], back_end)
    wanted = masks.copy()
    for sample in range(6):
        (y, x), sides = anchor[sample, 1], extent[sample, 1]
        rows, columns = (
            (2 * np.arange(side) + 1) * full // (2 * side)
            for side, full in zip(sides, size, strict=True)
        )
        partner = masks[source[sample, 1]]
        wanted[sample, y : y + sides[0], x : x + sides[1]] = partner[rows[:, None], columns]
    np.testing.assert_array_equal(mixed, wanted)


@pytest.mark.parametrize("scale", [(0.1, 0.8), (0.5, 0.5), (0.9, 1)], ids=repr)
def test_side_is_a_uniform_share_and_every_place_inside_is_as_likely(
    scale: tuple[float, float],
) -> None:
    size = (1000, 2000)
    plan = draw_plan(ResizeMix(scale=scale), 4000, size, seed=1, epoch=0, batch=0)
    anchor, extent = plan.anchor.numpy(), plan.extent.numpy()
    assert (anchor >= 0).all()
    assert (anchor + extent <= size).all()
    share = (extent + 0.5) / size
    # One scale for both sides: the aspect ratio stays, but for whole pixels.
    np.testing.assert_allclose(share[:, 0], share[:, 1], rtol=0, atol=1e-3)
    assert share.min() >= scale[0]
    assert share.max() <= scale[1] + 1e-3
    if scale[0] < scale[1]:
        law = stats.uniform(scale[0], scale[1] - scale[0])
        assert stats.kstest(share[:, 1], law.cdf).pvalue > LEAST_P
    else:
        assert (extent == np.array(size) // 2).all()
    jitter = np.random.default_rng(0).random(anchor.shape)
    place = (anchor + jitter) / (np.array(size) - extent + 1)
    for axis in (0, 1):
        assert stats.kstest(place[:, axis], "uniform").pvalue > LEAST_P
    np.testing.assert_allclose(plan.lam, 1 - share[:, 1] ** 2, rtol=0, atol=2e-3)


def test_scale_of_a_whole_product_loses_no_pixel() -> None:
    for side in range(1, 11):
        mix = ResizeMix(scale=(side / 10, side / 10))
        plan = draw_plan(mix, 2, (10, 70), seed=0, epoch=0, batch=0)
        assert plan.extent.tolist() == [[side, 7 * side]] * 2


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_prob_is_the_share_of_mixed_samples(prob: float) -> None:
    plan = draw_plan(ResizeMix(prob=prob), 4000, SIZE, seed=0, epoch=0, batch=0)
    is_mixed = plan.kept.numpy() < 1
    error = np.sqrt(prob * (1 - prob) / 4000)
    assert is_mixed.mean() == pytest.approx(prob, abs=4.5 * error)
    assert (plan.partner == plan.own).numpy().tolist() == (~is_mixed).tolist()


@pytest.mark.parametrize("per", ["pair", "batch"])
def test_pair_and_batch_share_one_draw(per: Any) -> None:
    plan = draw_plan(ResizeMix(per=per, partner="flip"), 8, (200, 200), seed=0, epoch=0, batch=0)
    boxes = np.hstack([plan.anchor, plan.extent])
    np.testing.assert_array_equal(boxes, boxes[::-1])
    assert len(np.unique(boxes, axis=0)) == (4 if per == "pair" else 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scale": (0, 2)},
            "ResizeMix: `scale` must be (min, max) with 0 <= min <= max <= 1, got (0, 2).",
        ),
        ({"scale": (0, 0.5)}, "ResizeMix: `scale` must start above 0, got (0, 0.5)."),
        ({"prob": -1}, "ResizeMix: `prob` must be in [0, 1], got -1."),
        (
            {"per": "pair"},
            "ResizeMix: `partner` must be 'flip' when per='pair', got 'derangement'. Only there is "
            "a sample its partner's partner, so that two can share a draw.",
        ),
    ],
)
def test_resizemix_refuses_what_it_cannot_draw(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        ResizeMix(**settings)
    assert str(caught.value) == message
