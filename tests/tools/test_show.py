"""The contact sheet: what is drawn where, found again in the pixels of the sheet."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    FMix,
    GridMix,
    MixedTarget,
    MixPlan,
    MixUp,
    RandomChoice,
    Rect,
    ResizeMix,
    dense_target,
    draw_plan,
)
from dali_cutmix.mixing.chain import ChainPlan
from dali_cutmix.pictures.contact_sheet import class_weights, contact_sheet
from dali_cutmix.pictures.tiles import OTHER, OWN, REGIONS
from sheets import written

NAMES = ("coffee", "cat", "dog")


def telling(num: int, size: tuple[int, int]) -> torch.Tensor:
    """Images whose channels are owner, row and column: ``[num, 3, height, width]`` uint8."""
    height, width = size
    owner, row, column = np.meshgrid(
        100 + 20 * np.arange(num), 5 * np.arange(height), 5 * np.arange(width), indexing="ij"
    )
    return torch.from_numpy(np.stack([owner, row, column], 1).astype(np.uint8))


def plan(size: tuple[int, int], cuts: list[tuple[int, int, int, int]]) -> MixPlan:
    """A plan with the given cuts, ``(top, left, height, width)``, from the next sample."""
    own = torch.arange(len(cuts), dtype=torch.int32)
    cut = torch.tensor(cuts, dtype=torch.int32)
    back = torch.tensor([0, 0, *size], dtype=torch.int32).expand(len(cuts), 4)
    rect = Rect(*torch.stack([back, cut], 1).split(2, dim=2))
    share = cut[:, 2:].prod(1) / (size[0] * size[1])
    source, weight = torch.stack([own, own.roll(-1)], 1), torch.stack([1 - share, share], 1)
    return MixPlan(source, weight, size, taken=rect, put=rect)


def pair(labels: list[tuple[int, int]], kept: list[float]) -> MixedTarget:
    weight = torch.tensor([(share, 1 - share) for share in kept])
    return MixedTarget(torch.tensor(labels), weight)


def pixels(sheet: Image.Image) -> np.ndarray:
    return np.asarray(sheet).astype(int)


def places(sheet: Image.Image, image: torch.Tensor) -> list[tuple[int, int]]:
    """Top left corner on the sheet of every image, told by the colour of its first pixel."""
    at = pixels(sheet)
    found = (np.argwhere((at == one[:, 0, 0].numpy()).all(2)) for one in image)
    return [tuple(points[0].tolist()) for points in found]


# Pixels


@pytest.mark.parametrize("size", [(32, 32), (24, 16), (9, 30), (170, 200)])
def test_images_are_shown_whole_and_enlarged_without_smoothing(size: tuple[int, int]) -> None:
    image = telling(5, (min(size[0], 50), min(size[1], 50)))
    if size[0] > 50:  # no more than 50 values of 5 fit in a byte
        image = torch.nn.functional.pad(image, (0, size[1] - 50, 0, size[0] - 50))
    sheet = contact_sheet(image, torch.zeros(5, dtype=torch.int64), classes=NAMES)
    factor = max(1, -(-160 // max(size)))
    for one, (top, left) in zip(image, places(sheet, image), strict=True):
        large = one.permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1)
        shown = pixels(sheet)[top : top + factor * size[0], left : left + factor * size[1]]
        assert np.array_equal(shown, large)


def test_images_stand_in_reading_order_on_a_white_margin() -> None:
    image = telling(5, (32, 32))
    sheet = contact_sheet(image, torch.zeros(5, dtype=torch.int64), classes=NAMES, columns=2)
    assert places(sheet, image) == sorted(places(sheet, image))
    assert len({left for _, left in places(sheet, image)}) == 2
    frame = pixels(sheet).copy()
    frame[12:-12, 12:-12] = 255
    assert (frame == 255).all()


@pytest.mark.parametrize("size", [(24, 16), (40, 48)])
def test_outline_runs_around_the_plans_cut_and_covers_none_of_it(size: tuple[int, int]) -> None:
    height, width = size
    cuts = [(5, 3, 8, 6), (0, 0, 7, 9), (height - 6, width - 5, 6, 5), (0, 0, *size), (4, 0, 1, 1)]
    image, with_cuts = telling(5, size), plan(size, cuts)
    target = torch.zeros(5, dtype=torch.int64)
    sheet = contact_sheet(image, target, with_cuts, classes=NAMES)
    bare = contact_sheet(image, target, replace(with_cuts, taken=None, put=None), classes=NAMES)
    changed = (pixels(sheet) != pixels(bare)).any(2)
    factor = -(-160 // max(size))
    for (y, x, cut_height, cut_width), (top, left) in zip(cuts, places(bare, image), strict=True):
        y0, x0 = top + factor * y, left + factor * x
        y1, x1 = y0 + factor * cut_height, x0 + factor * cut_width
        assert not changed[y0:y1, x0:x1].any()
        # The second and third pixel outside are the coloured line, on all four sides.
        ring = np.zeros_like(changed)
        ring[y0 - 3 : y1 + 3, x0 - 3 : x1 + 3] = True
        ring[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = False
        assert changed[ring].all()
        changed[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4] = False
    assert not changed.any()


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), OTHER])
def test_outline_stands_out_from_any_background(colour: tuple[int, int, int]) -> None:
    image = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].repeat(2, 1, 32, 32)
    target = torch.zeros(2, dtype=torch.int64)
    sheet = contact_sheet(image, target, plan((32, 32), [(8, 8, 16, 16)] * 2), classes=NAMES)
    bare = contact_sheet(image, target, plan((32, 32), [(0, 0, 0, 0)] * 2), classes=NAMES)
    contrast = np.abs(pixels(sheet) - pixels(bare)).max(2)
    lines = contrast[: contrast.shape[0] // 2 + 60]
    assert lines.max() >= 125
    rows, columns = np.nonzero(lines >= 125)
    assert np.ptp(rows) >= 5 * 16
    assert np.ptp(columns) >= 5 * 16


def test_blended_and_unmixed_batches_have_no_outline() -> None:
    image, target = telling(3, (32, 32)), pair([(0, 1)] * 3, [0.7] * 3)
    empty = replace(plan((32, 32), [(0, 0, 0, 0)] * 3), weight=target.weight)
    blended = replace(empty, taken=None, put=None)
    sheets = [contact_sheet(image, target, one, classes=NAMES) for one in (blended, empty, None)]
    assert sheets[0] == sheets[1] == sheets[2]


# Weights


def test_weights_of_both_classes_are_written_under_their_image() -> None:
    image = telling(2, (32, 32))
    target = pair([(0, 1), (2, 0)], [0.68, 0.25])
    sheet = contact_sheet(image, target, plan((32, 32), [(4, 4, 9, 9)] * 2), classes=NAMES)
    for (top, left), own, other in zip(
        places(sheet, image), (("coffee", "0.68"), ("dog", "0.25")), ("0.32", "0.75"), strict=True
    ):
        under = sheet.crop((left, top + 160, left + 160, sheet.height))
        assert written(under, own[0], OWN)
        assert written(under, own[1], OWN)
        assert written(under, other, OTHER)


def test_bar_is_divided_as_the_weights_are() -> None:
    image = telling(3, (32, 32))
    kept = [0.68, 0.25, 0.999]
    target = pair([(0, 1)] * 3, kept)
    sheet = contact_sheet(image, target, plan((32, 32), [(4, 4, 9, 9)] * 3), classes=NAMES)
    for (top, left), share in zip(places(sheet, image), kept, strict=True):
        bar = pixels(sheet)[top + 160 + 10, left : left + 160]
        own, other = (bar == OWN).all(1), (bar == OTHER).all(1)
        assert (own | other).all()
        assert abs(own.mean() - share) <= 0.5 / 160 + 1e-6
        assert not (np.diff(own.astype(int)) > 0).any()


def named(target: MixedTarget) -> list[list[tuple[str, float]]]:
    return [[share[:2] for share in row] for row in class_weights(target, NAMES)]


def test_weight_of_one_class_in_both_places_is_added_up() -> None:
    assert named(pair([(1, 1)], [0.75])) == [[("cat", 1.0)]]


def test_class_without_weight_is_not_written() -> None:
    assert named(pair([(1, 2), (1, 2)], [1.0, 0.0])) == [[("cat", 1.0)], [("dog", 1.0)]]


def test_every_form_of_target_draws_the_same_sheet() -> None:
    image = telling(2, (32, 32))
    cuts = plan((32, 32), [(4, 4, 24, 25), (4, 4, 9, 9)])
    target = MixedTarget(torch.tensor([(2, 1), (0, 0)]), cuts.weight)
    assert target.weight[0, 0] < 0.5  # the heaviest class is not the sample's own
    dense = dense_target(target, 3)
    sheets = [contact_sheet(image, form, cuts, classes=NAMES) for form in (target, dense)]
    assert sheets[0] == sheets[1]
    label = torch.tensor([2, 0])
    alone = dense_target(pair([(2, 2), (0, 0)], [1.0, 1.0]), 3)
    assert contact_sheet(image, label, classes=NAMES) == contact_sheet(image, alone, classes=NAMES)


def test_unmixed_sample_has_its_class_without_a_number() -> None:
    image, label = telling(1, (32, 32)), torch.tensor([1])
    unmixed = contact_sheet(image, label, plan((32, 32), [(0, 0, 0, 0)]), classes=NAMES)
    assert written(unmixed, "cat")
    assert not written(unmixed, "1.00")
    cut = contact_sheet(image, label, plan((32, 32), [(0, 0, 9, 9)]), classes=NAMES)
    assert written(cut, "1.00", OWN)


def test_class_with_a_part_never_reads_as_none_nor_as_all() -> None:
    image, target = telling(1, (32, 32)), pair([(0, 1)], [0.999])
    sheet = contact_sheet(image, target, plan((32, 32), [(0, 0, 1, 1)]), classes=NAMES)
    assert written(sheet, "> 0.99", OWN)
    assert written(sheet, "< 0.01", OTHER)


def test_long_class_names_stay_under_their_own_image() -> None:
    image = telling(3, (32, 32))
    target = pair([(0, 1)] * 3, [0.5] * 3)
    settings = {"classes": NAMES, "columns": 3}
    short = contact_sheet(image, target, **settings)
    long = contact_sheet(
        image, target, **{**settings, "classes": ("w" * 200, "two\nlines and more " * 20)}
    )
    assert long.size == short.size
    changed = (pixels(long) != pixels(short)).any(2)
    under = np.zeros_like(changed)
    for top, left in places(short, image):
        under[top + 160 :, left : left + 160] = True
        values = slice(left + 160 - 30, left + 160)
        assert not changed[:, values].any()
    under[-30:] = False  # a name of two lines would reach into the margin
    assert changed.any()
    assert not changed[~under].any()


# Plans of other numbers of regions


def test_every_region_is_named_weighed_and_outlined_in_its_own_colour() -> None:
    put = torch.tensor([[[0, 0, 32, 32], [4, 4, 8, 8], [18, 18, 10, 8]]], dtype=torch.int32)
    rect = Rect(*put.split(2, dim=2))
    share = torch.tensor([[1024 - 64 - 80, 64, 80]]) / 1024
    regions = MixPlan(torch.zeros(1, 3, dtype=torch.int32), share, (32, 32), rect, rect)
    image, target = telling(1, (32, 32)), MixedTarget(torch.tensor([[0, 1, 2]]), share)
    sheet = contact_sheet(image, target, regions, classes=NAMES)
    bare = contact_sheet(image, target, classes=NAMES)
    changed = (pixels(sheet) != pixels(bare)).any(2)
    ((top, left),) = places(bare, image)
    for (y, x, height, width), colour in zip(put[0, 1:].tolist(), REGIONS[1:3], strict=True):
        y0, x0 = top + 5 * y, left + 5 * x
        y1, x1 = y0 + 5 * height, x0 + 5 * width
        assert not changed[y0:y1, x0:x1].any()
        ring = pixels(sheet)[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2]
        for side in (ring[0], ring[-1], ring[:, 0], ring[:, -1]):
            assert (side == colour).all()
        changed[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4] = False
    assert not changed.any()
    for name, value, colour in zip(NAMES, ("0.86", "0.06", "0.08"), REGIONS, strict=False):
        assert written(sheet, name, colour)
        assert written(sheet, value, colour)
    bar = pixels(sheet)[top + 160 + 10, left : left + 160]
    for weight, colour in zip(share[0].tolist(), REGIONS, strict=False):
        assert abs((bar == colour).all(1).mean() - weight) <= 1 / 160


QUARTERS = [(0, 0, 16, 16), (0, 16, 16, 16), (16, 0, 16, 16), (16, 16, 16, 16)]


def quarters(labels: list[int], empty: int | None = None) -> tuple[MixPlan, MixedTarget]:
    """A plan as of RICAP, of four quarters; or with one empty and its neighbour twice as wide."""
    put = torch.tensor([QUARTERS], dtype=torch.int32)
    if empty is not None:
        put[0, empty, 3], put[0, empty ^ 1, 1], put[0, empty ^ 1, 3] = 0, 0, 32
    share = put[..., 2:].prod(2) / 1024
    rect = Rect(*put.split(2, dim=2))
    regions = MixPlan(torch.arange(4, dtype=torch.int32)[None], share, (32, 32), rect, rect)
    return regions, MixedTarget(torch.tensor([labels]), share)


def colours_at_corners(sheet: Image.Image, image: torch.Tensor) -> list[tuple[int, ...]]:
    """Colours of the frames of the four quarters, outside of the image's corners."""
    bare = contact_sheet(image, torch.zeros(1, dtype=torch.int64), classes=NAMES)
    ((top, left),) = places(bare, image)
    points = [(y, x) for y in (top - 2, top + 161) for x in (left - 2, left + 161)]
    return [tuple(pixels(sheet)[point].tolist()) for point in points]


def test_regions_of_one_class_have_one_frame_colour_which_bar_and_caption_share() -> None:
    image = telling(1, (32, 32))
    regions, target = quarters([0, 1, 1, 0])
    sheet = contact_sheet(image, target, regions, classes=NAMES)
    assert colours_at_corners(sheet, image) == [OWN, OTHER, OTHER, OWN]
    for name, colour in ((NAMES[0], OWN), (NAMES[1], OTHER)):
        assert written(sheet, name, colour)
        assert written(sheet, "0.50", colour)
    ((top, left),) = places(sheet, image)
    bar = pixels(sheet)[top + 160 + 10, left : left + 160]
    assert {tuple(colour) for colour in bar.tolist()} == {OWN, OTHER}


def test_class_of_a_sample_that_does_not_show_itself_keeps_gray_from_the_others() -> None:
    image = telling(1, (32, 32))
    for labels, colours in (
        ([0, 1, 2, 1], [OTHER, OTHER, REGIONS[2], OTHER]),
        ([0, 1, 0, 1], [OTHER, OTHER, OWN, OTHER]),
    ):
        regions, target = quarters(labels, empty=0)
        sheet = contact_sheet(image, target, regions, classes=NAMES)
        assert colours_at_corners(sheet, image) == colours
        assert written(sheet, NAMES[1], OTHER)
        assert written(sheet, NAMES[labels[2]], colours[2])
    above, below = written(sheet, NAMES[0], OWN), written(sheet, NAMES[1], OTHER)
    assert above[0][0] < below[0][0]  # the own class is named first


def test_areas_are_outlined_outside_of_their_pixels() -> None:
    owner = torch.zeros(1, 4, 4, dtype=torch.uint8)
    owner[0, 1, 1:3] = owner[0, 2, 2] = 1
    owner[0, 3, 0] = 2
    share = torch.tensor([[12, 3, 1]]) / 16
    cells = MixPlan(torch.zeros(1, 3, dtype=torch.int32), share, (32, 32), owner=owner, cell=(8, 8))
    image, target = telling(1, (32, 32)), MixedTarget(torch.tensor([[0, 1, 2]]), share)
    bare = contact_sheet(image, target, classes=NAMES)
    ((top, left),) = places(bare, image)
    sheet, bare = (
        pixels(picture)[top : top + 160, left : left + 160]
        for picture in (contact_sheet(image, target, cells, classes=NAMES), bare)
    )
    changed = (sheet != bare).any(2)
    shown = np.repeat(np.repeat(owner[0].numpy(), 40, 0), 40, 1)
    assert not changed[shown > 0].any()
    # Pixels of the sample at a distance of 2 and 5 from the first area, and from the second.
    assert (sheet[60, 40 - 2] == REGIONS[1]).all()
    assert (sheet[80 + 2, 60] == REGIONS[1]).all()
    assert (sheet[120 - 2, 20] == REGIONS[2]).all()
    assert not changed[60, 40 - 5]
    assert not changed[120 - 5, 20]


MIXES = [RICAP(), ResizeMix(), Cutout(16), Chain([CutMix(), CutMix()]), Chain([CutMix(), MixUp()])]
MIXES += [FMix(), GridMix(3), Chain([CutMix(), FMix()])]
MIXES += [RandomChoice([CutMix(), MixUp(), Cutout(16)]), RandomChoice([RICAP(), CutMix()])]


@pytest.mark.parametrize("mix", MIXES, ids=repr)
def test_every_mix_is_drawn_with_the_weights_of_its_dense_target(mix: Any) -> None:
    names = [f"class {number}" for number in range(8)]
    for batch in range(4):
        drawn = draw_plan(mix, 8, (32, 32), seed=1, epoch=0, batch=batch)
        target = MixedTarget(torch.arange(8)[drawn.source.long()], drawn.weight)
        contact_sheet(telling(8, (32, 32)), target, drawn, classes=names)
        for row, shares in zip(dense_target(target, 8), class_weights(target, names), strict=True):
            expected = {
                name: weight for name, weight in zip(names, row.tolist(), strict=True) if weight
            }
            assert {share.name: share.weight for share in shares} == pytest.approx(expected)


def test_chain_outlines_the_cuts_of_each_of_its_mixes() -> None:
    cuts = [plan((32, 32), [(2, 2, 6, 6)] * 2), plan((32, 32), [(20, 20, 8, 8)] * 2)]
    image, label = telling(2, (32, 32)), torch.zeros(2, dtype=torch.int64)
    bare = pixels(contact_sheet(image, label, classes=NAMES))
    chain = ChainPlan(cuts[0].source, cuts[0].weight, (32, 32), plans=tuple(cuts))
    changed = (pixels(contact_sheet(image, label, chain, classes=NAMES)) != bare).any(2)
    for one in cuts:
        alone = (pixels(contact_sheet(image, label, one, classes=NAMES)) != bare).any(2)
        assert (changed | ~alone).all()


# What is refused


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (torch.zeros(2, 3, 8, 8), "torch.float32 [2, 3, 8, 8]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "torch.uint8 [3, 8, 8]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), "torch.uint8 [2, 8, 8, 3]"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "torch.uint8 [0, 3, 8, 8]"),
    ],
)
def test_images_of_another_type_or_shape_are_refused(image: torch.Tensor, got: str) -> None:
    message = (
        f"contact_sheet: `image` must be uint8 [B, 3, height, width], got {got}. "
        "Make the loader with `dtype=torch.uint8`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(image, torch.zeros(len(image), dtype=torch.int64), classes=NAMES)


def test_volumes_of_several_channels_are_refused_with_the_way_out() -> None:
    volumes = torch.zeros(2, 2, 8, 8, 8)
    label = torch.zeros(2, dtype=torch.int64)
    message = (
        "contact_sheet: `image` must be uint8 [B, 3, T, height, width] of clips, or [B, 1, D, "
        "height, width] of volumes, got torch.float32 [2, 2, 8, 8, 8]. Make the loader with "
        "`dtype=torch.uint8`. Of volumes pick a channel: `image[:, :1]`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(volumes, label, classes=NAMES)
    contact_sheet(volumes[:, :1], label, classes=NAMES)


def test_class_without_a_name_is_refused() -> None:
    message = "contact_sheet: `classes` must name every class, and class 3 occurs, got 3 names."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(telling(2, (8, 8)), torch.tensor([0, 3]), classes=NAMES)


@pytest.mark.parametrize("num_rows", [1, 3])
def test_target_of_another_batch_is_refused(num_rows: int) -> None:
    message = f"contact_sheet: `target` must have one row for each of 2 images, got {num_rows}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(telling(2, (8, 8)), torch.zeros(num_rows, dtype=torch.int64), classes=NAMES)


def test_plan_of_another_batch_is_refused() -> None:
    message = "contact_sheet: `plan` must be of 2 samples, got 3."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(
            telling(2, (8, 8)),
            torch.zeros(2, dtype=torch.int64),
            plan((8, 8), [(0, 0, 1, 1)] * 3),
            classes=NAMES,
        )


def test_row_without_any_weight_is_refused() -> None:
    message = "contact_sheet: `target` must have a class with weight in each row, got 0."
    empty = MixedTarget(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(telling(1, (8, 8)), empty, classes=NAMES)
