"""Plans applied to pixels: each pixel says which sample, row and column it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn

import reference
from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    Deferred,
    FMix,
    GridMix,
    MixPlan,
    MixUp,
    ResizeMix,
    SaliencyMix,
    blend,
    complete_plan,
    cutmix_plan,
    cutout_plan,
    draw_plan,
    erase,
    mix_plan,
    mixup_plan,
    paste,
)
from dali_cutmix.core.frame import Frame, Sample
from graphs import BACK_ENDS, define_in_a_graph, on, plan_of, run

SIZES = [(16, 24), (24, 16), (5, 1)]


def some_plan(size: tuple[int, int], batch_size: int = 40) -> SimpleNamespace:
    """Random partners and cuts, the empty and the full one and those at each border among them."""
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(0, np.add(size, 1), (2, batch_size, 2)), axis=0)
    ends[0, 0], ends[1, 0] = 0, size  # everything
    ends[:, 1] = 0  # nothing, at the top left
    ends[:, 2] = size  # nothing, beyond the bottom right
    ends[1, 3] = size  # up to the last row and column
    ends[0, 4] = 0  # from the first ones
    ends[1, 5, 0] = ends[0, 5, 0]  # no height but a width
    anchor, extent = ends[0].astype(np.int32), (ends[1] - ends[0]).astype(np.int32)
    own = np.arange(batch_size, dtype=np.int32)
    partner = rng.permutation(own)
    partner[6] = 6
    pixels = size[0] * size[1]
    kept = ((pixels - extent.prod(axis=1)) / pixels).astype(np.float32)
    return SimpleNamespace(own=own, partner=partner, kept=kept, anchor=anchor, extent=extent)


def applied(
    act: Callable[[Any, MixPlan], Any], images: np.ndarray, plan: SimpleNamespace, back_end: str
) -> np.ndarray:
    """What a graph makes of images and of a plan that is not drawn but given."""
    size = (images.shape[1], images.shape[2])

    def define(image: Any, own: Any, partner: Any, kept: Any, anchor: Any, extent: Any) -> Any:
        return [act(on(back_end, image), plan_of(size, own, partner, kept, anchor, extent))]

    given = (plan.own, plan.partner, plan.kept, plan.anchor, plan.extent)
    return run(define, [(images, *given)], back_end)[0][0]


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("size", SIZES)
def test_cut_is_the_partners_at_the_same_place_and_the_rest_is_untouched(
    size: tuple[int, int], back_end: str
) -> None:
    plan = some_plan(size)
    images = reference.identified(plan.own + 100, size)
    mixed = applied(paste, images, plan, back_end)
    assert mixed.dtype == np.uint8
    assert reference.strays(mixed) == 0
    np.testing.assert_array_equal(
        mixed, reference.pasted(images, plan.partner, plan.anchor, plan.extent)
    )


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_masks_and_other_types_are_pasted_bit_for_bit(
    dtype: Any, channels: int, back_end: str
) -> None:
    size = (16, 24)
    plan = some_plan(size)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 250, (40, *size, channels)).astype(dtype)
    if dtype != np.uint8:
        images = (images * 123 - 7).astype(dtype)  # negative, and past a byte
    mixed = applied(paste, images, plan, back_end)
    assert mixed.dtype == dtype
    np.testing.assert_array_equal(
        mixed, reference.pasted(images, plan.partner, plan.anchor, plan.extent)
    )


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_image_and_mask_take_the_same_cut_of_the_same_partner(back_end: str) -> None:
    size = (16, 24)
    images = reference.identified(range(8), size)
    masks = images[..., :1].astype(np.int32) * 1000

    def define(image: Any, mask: Any) -> Any:
        plan = cutmix_plan(size)
        return paste(on(back_end, image), plan), paste(on(back_end, mask), plan)

    for image, mask in run(define, [(images, masks)] * 3, back_end):
        assert (image[..., 0] != np.arange(8)[:, None, None]).any()
        np.testing.assert_array_equal(mask[..., 0], image[..., 0].astype(np.int32) * 1000)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_paste_reads_the_partner_as_it_was_before_mixing(back_end: str) -> None:
    # All of the first sample goes to the second, and all of the second to the third.
    size = (6, 10)
    images = reference.identified([10, 20, 30], size)
    own, partner = np.arange(3, dtype=np.int32), np.array([2, 0, 1], np.int32)
    anchor, extent = np.zeros((3, 2), np.int32), np.tile(np.int32(size), (3, 1))
    kept = np.zeros(3, np.float32)
    plan = SimpleNamespace(own=own, partner=partner, kept=kept, anchor=anchor, extent=extent)
    mixed = applied(paste, images, plan, back_end)
    np.testing.assert_array_equal(mixed, images[[2, 0, 1]])


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_blended_pixel_is_the_weighted_sum_of_own_and_partner(dtype: Any, back_end: str) -> None:
    size = (16, 24)
    plan = some_plan(size)
    rng = np.random.default_rng(2)
    plan.kept = rng.random(40, np.float32)
    plan.kept[:2] = 0, 1
    images = rng.integers(0, 256, (40, *size, 3)).astype(dtype)
    mixed = applied(blend, images, plan, back_end)
    assert mixed.dtype == np.float32
    kept = plan.kept.astype(np.float64)[:, None, None, None]
    wanted = kept * images + (1 - kept) * images[plan.partner]
    # Four roundings (the weight, two products, a sum) of numbers up to 256, each of at most 2^-24.
    np.testing.assert_allclose(mixed, wanted, rtol=0, atol=4 * 256 * 2**-24)
    assert not (mixed == np.round(mixed)).all(), "blended pixels must not be rounded"
    np.testing.assert_array_equal(mixed[1], images[1])  # kept of 1
    np.testing.assert_array_equal(mixed[0], images[plan.partner[0]])  # and of 0


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("fill", [0, 7, 250.0, (124, 116, 104)], ids=repr)
@pytest.mark.parametrize("size", SIZES)
def test_erased_pixels_have_the_fill_and_the_rest_is_untouched(
    size: tuple[int, int], fill: Any, back_end: str
) -> None:
    plan = some_plan(size)
    images = reference.identified(plan.own + 100, size)

    def act(image: Any, plan: MixPlan) -> Any:
        return erase(fn.reshape(image, layout="HWC"), plan, fill=fill)  # as decoders lay it out

    erased = applied(act, images, plan, back_end)
    assert erased.dtype == np.uint8
    filled = np.zeros_like(images) + np.asarray(fill, np.uint8)
    for image, fill_of, one, (y, x), (height, width) in zip(
        images, filled, erased, plan.anchor, plan.extent, strict=True
    ):
        inside = np.zeros(size, bool)
        inside[y : y + height, x : x + width] = True
        np.testing.assert_array_equal(one, np.where(inside[..., None], fill_of, image))


@pytest.mark.parametrize(
    "mix",
    [
        CutMix(prob=0.0),
        MixUp(prob=0.0),
        Cutout(side=8, prob=0.0),
        RICAP(prob=0.0),
        ResizeMix(prob=0.0),
        Chain([CutMix(prob=0.0), MixUp(prob=0.0)]),
        Deferred(CutMix()),
    ],
    ids=repr,
)
def test_mix_that_mixes_nothing_leaves_its_operator_out_of_the_graph(mix: Any) -> None:
    image: Any = object()
    plan = draw_plan(mix, 4, SIZES[0], seed=0, epoch=0, batch=0)
    assert mix.operate(Sample(image), plan, Frame(SIZES[0])).image is image


@pytest.mark.parametrize(
    ("act", "define", "message"),
    [
        (
            paste,
            mixup_plan,
            "paste: `plan` must have rectangles, got one that blends. Apply it with "
            "`blend(image, plan)`.",
        ),
        (
            erase,
            mixup_plan,
            "erase: `plan` must have rectangles, got one that blends. Apply it with "
            "`blend(image, plan)`.",
        ),
        (
            paste,
            lambda size: cutout_plan(size, side=4),
            "paste: `plan` must read pixels, got one that erases. Apply it with "
            "`erase(image, plan)`.",
        ),
    ],
    ids=["paste a blend", "erase a blend", "paste an erasure"],
)
def test_plan_of_another_kind_is_refused_with_the_function_that_applies_it(
    act: Any, define: Any, message: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        define_in_a_graph(lambda: act(None, define((16, 24))))


def test_an_empty_cut_names_the_sample_itself_as_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DALI's GPU kernel shows the source of a region of no area (see ``paste``).

    Its CPU's does not, so that pixels cannot tell here: what the operator is given has to.
    """
    given: list[Any] = []
    multi_paste = fn.multi_paste

    def record(image: Any, **arguments: Any) -> Any:
        given.append(arguments["in_ids"])
        return multi_paste(image, **arguments)

    monkeypatch.setattr(fn, "multi_paste", record)
    pipeline = Pipeline(batch_size=64, num_threads=1, device_id=None, seed=3)
    with pipeline:
        pixels = np.zeros((64, 16, 24, 3), np.uint8)
        image = fn.external_source(source=lambda _: pixels, batch=True, layout="HWC")
        # Small images: cuts of one empty side, of two, and others, and samples not chosen.
        plan = cutmix_plan((16, 24), prob=0.7)
        pasted = paste(image, plan)
        pipeline.set_outputs(pasted, given[0], plan.extent, plan.partner)
    _, in_ids, extent, partner = (np.array(out.as_array()) for out in pipeline.run())
    empty = extent.prod(axis=1) == 0
    assert 10 < empty.sum() < 40
    assert (in_ids[:, 0] == np.arange(64)).all()
    assert (in_ids[empty, 1] == np.arange(64)[empty]).all()
    assert (in_ids[~empty, 1] == partner[~empty]).all()


#: The last two have as many pixels as images of the plan's size.
OTHER_SIZES = [(15, 24), (17, 24), (16, 25), (17, 25), (15, 23), (24, 16), (8, 48), (12, 48)]


@pytest.mark.parametrize("size", OTHER_SIZES, ids=repr)
@pytest.mark.parametrize(
    ("act", "mix"),
    [
        (paste, CutMix()),
        (paste, RICAP()),
        (paste, ResizeMix()),
        (paste, FMix()),
        (paste, GridMix((2, 3))),
        (blend, MixUp()),
        (blend, CutMix()),
        (erase, Cutout(side=8)),
        (erase, CutMix()),
        (partial(complete_plan, SaliencyMix()), SaliencyMix()),
    ],
    ids=lambda part: getattr(part, "__name__", type(part).__name__),
)
def test_images_of_another_size_than_the_plans_fail_in_the_first_batch(
    act: Any, mix: Any, size: tuple[int, int]
) -> None:
    def define(image: Any) -> Any:
        plan = mix_plan(mix, (16, 24))
        if isinstance(act, partial):
            return [act(image, plan).weight]
        return [act(image, plan)]

    with pytest.raises(RuntimeError, match=r"operator `nvidia.dali.fn.reshape`"):
        run(define, [(np.zeros((4, *size, 3), np.uint8),)])


def test_erase_fills_channels_also_without_a_layout() -> None:
    pipeline = Pipeline(batch_size=2, num_threads=1, device_id=None, seed=3)
    with pipeline:
        pixels = np.zeros((2, 16, 24, 3), np.uint8)
        image = fn.external_source(source=lambda _: pixels, batch=True)
        plan = cutmix_plan((16, 24), sides=(0.5, 0.9))
        pipeline.set_outputs(erase(image, plan, fill=(1, 2, 3)), plan.extent)
    image, extent = (np.array(out.as_array()) for out in pipeline.run())
    assert ((image == (1, 2, 3)).all(-1).sum((1, 2)) == extent.prod(1)).all()
