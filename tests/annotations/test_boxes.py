"""Boxes follow crop, flip and plan: compared with boxes that are painted pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import painted
from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    FMix,
    GridMix,
    MixPlan,
    MixUp,
    RandomChoice,
    Rect,
    ResizeMix,
)
from dali_cutmix.annotations.base import Shown
from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.core.frame import Frame
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.mixing.clipcutmix import ClipPlan

SIZES = [(12, 16), (16, 12)]
Corners = list[np.ndarray]


def random_boxes(rng: np.random.Generator, num_images: int, size: tuple[int, int]) -> Corners:
    """Up to three boxes for each image, in whole pixels, some of them reaching beyond it."""
    boxes = []
    for _ in range(num_images):
        low = rng.integers(-3, np.array(size[::-1]) - 1, (rng.integers(0, 4), 2))
        boxes.append(np.concatenate([low, low + rng.integers(1, 12, low.shape)], axis=1))
    return boxes


def numbered(boxes: Corners, **settings: Any) -> Boxes:
    """Boxes whose label is the number of the image, and whose field `row` is that of the box."""
    counts = [len(of_image) for of_image in boxes]
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    labels = [np.full(count, image) for image, count in enumerate(counts)]
    return Boxes(boxes, labels, fields={"row": rows}, **settings)


def shown(
    num_samples: int, size: tuple[int, int], plan: MixPlan | None = None, matrix: Any = None
) -> Shown:
    return Shown(np.arange(num_samples), size, plan, matrix)


def listed(target: dict[str, torch.Tensor]) -> list[painted.Seen]:
    columns = (target[name].tolist() for name in ("row", "boxes", "visible"))
    return sorted(painted.Seen(r, tuple(c), v) for r, c, v in zip(*columns, strict=True))


def assert_seen(
    target: list[dict[str, torch.Tensor]], oracle: painted.Painted, boxes: Corners, least: float
) -> None:
    """Every sample has the boxes that are painted, and no other."""
    assert len(target) == len(oracle.pixels)
    for sample, of_sample in enumerate(target):
        expected, got = oracle.seen(boxes, sample, least), listed(of_sample)
        assert [seen.row for seen in got] == [seen.row for seen in expected]
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.corners == pytest.approx(theirs.corners, abs=1e-4)
            assert ours.share == pytest.approx(theirs.share, abs=1e-5)


def drawn(mix: Any, num_samples: int, size: tuple[int, int], seed: int) -> MixPlan:
    plan: MixPlan = mix.draw(HostDraws(num_samples, seed, 0, 0, 0), Frame(size))
    return plan


def paint(oracle: painted.Painted, plan: MixPlan) -> None:
    if plan.owner is not None:
        oracle.mix_cells(plan.source, plan.owner, plan.cell)
        return
    assert plan.taken is not None
    assert plan.put is not None
    taken, put = ((rect.anchor, rect.extent) for rect in (plan.taken, plan.put))
    oracle.mix(plan.source, taken, put)


@pytest.mark.parametrize(
    "mix",
    [
        CutMix(),
        CutMix(prob=0.5),
        CutMix(lam=0.0, placement="inside"),
        CutMix.paper(),
        CutMix(partner="flip", per="pair"),
        RICAP(),
        RICAP(prob=0.5),
        ResizeMix(),
        ResizeMix(prob=0.5, partner="permutation"),
        GridMix(),
        GridMix((3, 5), prob=0.5),
        FMix(),
    ],
    ids=lambda mix: f"{type(mix).__name__}-{mix.per}-{mix.prob}",
)
def test_boxes_of_a_mix_are_those_that_are_painted(mix: Any) -> None:
    for num_samples in (1, 2, 3, 4):
        for seed in range(2):
            size = SIZES[(num_samples + seed) % 2]
            rng = np.random.default_rng(seed)
            boxes = random_boxes(rng, num_samples, size)
            plan = drawn(mix, num_samples, size, seed)
            oracle = painted.Painted(num_samples, size, size if plan.resizes else (1, 1))
            paint(oracle, plan)
            least = float(rng.choice([0, 0.3, 0.5, 1]))
            target = numbered(boxes, min_visible=least).target(shown(num_samples, size, plan))
            assert_seen(target, oracle, boxes, least)


def random_plan(
    rng: np.random.Generator, num_samples: int, num_regions: int, size: tuple[int, int]
) -> MixPlan:
    """Regions anywhere, of any source, some of them empty or resized; the first is the sample."""
    shape = (num_samples, num_regions)
    source = rng.integers(0, num_samples, shape).astype(np.int32)
    source[:, 0] = np.arange(num_samples)
    # Sides that divide 12, which is how finely the oracle paints.
    sides = np.array([side for side in (2, 3, 4, 6, 12) if side <= min(size)])
    rects = []
    for is_put in (False, True):
        extent = rng.choice(sides, (*shape, 2))
        extent[:, 0] = size
        if is_put:
            extent[rng.random(shape) < 0.2] = 0
            extent[:, 0] = size
            extent = np.where(rng.random(shape)[..., None] < 0.5, extent, rects[0].extent)
        anchor = rng.integers(0, np.array(size) - extent + 1)
        rects.append(Rect(anchor.astype(np.int32), extent.astype(np.int32)))
    weight = np.full(shape, 1 / num_regions, np.float32)
    return MixPlan(source, weight, size, taken=rects[0], put=rects[1], resizes=True)


@pytest.mark.parametrize("num_regions", [1, 2, 3, 5])
@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_boxes_of_any_regions_are_those_that_are_painted(
    num_samples: int, num_regions: int
) -> None:
    for seed in range(3):
        rng = np.random.default_rng(100 * num_samples + 10 * num_regions + seed)
        size = SIZES[seed % 2]
        boxes = random_boxes(rng, num_samples, size)
        plan = random_plan(rng, num_samples, num_regions, size)
        oracle = painted.Painted(num_samples, size, (12, 12))
        paint(oracle, plan)
        target = numbered(boxes, min_visible=0.2).target(shown(num_samples, size, plan))
        assert_seen(target, oracle, boxes, 0.2)


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_of_crops_and_flips_are_those_that_are_painted(scale: int) -> None:
    num_samples = 5
    for seed in range(4):
        size = SIZES[seed % 2]
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, num_samples, (20, 24))
        shift = rng.integers(-6, 3, (num_samples, 2)) * scale
        matrix = np.zeros((num_samples, 2, 3), np.float32)
        matrix[:, [0, 1], [0, 1]], matrix[:, :, 2] = scale, shift
        is_flipped = rng.random(num_samples) < 0.5
        matrix[is_flipped, 0] *= -1
        matrix[is_flipped, 0, 2] += size[1]
        plan = drawn(CutMix(), num_samples, size, seed)
        oracle = painted.Painted(num_samples, size, (1, 1), matrix)
        annotation = numbered(boxes)
        target = annotation.target(shown(num_samples, size, None, matrix))
        assert_seen(target, oracle, boxes, 0.3)
        paint(oracle, plan)
        target = annotation.target(shown(num_samples, size, plan, matrix))
        assert_seen(target, oracle, boxes, 0.3)


@pytest.mark.parametrize(
    "mixes",
    [
        [CutMix(), CutMix()],
        [CutMix(), Cutout(4), CutMix(partner="roll")],
        [RICAP(), CutMix()],
        [CutMix(), ResizeMix(scale=(0.5, 0.75))],
        [CutMix(), GridMix(2)],
        [Chain([CutMix(), CutMix()]), RandomChoice([CutMix(), RICAP()])],
    ],
    ids=lambda mixes: "-".join(type(mix).__name__ for mix in mixes),
)
def test_boxes_of_a_chain_are_those_that_are_painted(mixes: list[Any]) -> None:
    def paint_all(oracle: painted.Painted, plan: Any) -> None:
        if plan.fill is not None:
            return
        if hasattr(plan, "choice"):
            paint_all(oracle, plan.plans[plan.choice[0]])
        elif hasattr(plan, "plans"):
            for part in plan.plans:
                paint_all(oracle, part)
        else:
            paint(oracle, plan)

    size = (8, 12)
    for seed, num_samples in enumerate((2, 3, 5, 2, 3, 4)):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, num_samples, size)
        plan = drawn(Chain(mixes), num_samples, size, seed)
        oracle = painted.Painted(num_samples, size, size)
        paint_all(oracle, plan)
        target = numbered(boxes, min_visible=0.25).target(shown(num_samples, size, plan))
        assert_seen(target, oracle, boxes, 0.25)


def test_own_box_keeps_what_the_cut_leaves_and_the_partner_brings_what_the_cut_shows() -> None:
    cut = Rect(
        np.array([[[0, 0], [2, 4]]] * 2, np.int32), np.array([[[8, 8], [4, 4]]] * 2, np.int32)
    )
    source = np.array([[0, 1], [1, 0]], np.int32)
    weight = np.array([[0.75, 0.25]] * 2, np.float32)
    plan = MixPlan(source, weight, (8, 8), taken=cut, put=cut)
    boxes = Boxes([[[0, 0, 8, 8]], [[6, 2, 10, 4]]], [[3], [5]])
    first, second = boxes.target(shown(2, (8, 8), plan))
    assert first["boxes"].tolist() == [[0, 0, 8, 8], [6, 2, 8, 4]]
    assert first["labels"].tolist() == [3, 5]
    assert first["visible"].tolist() == [0.75, 0.5]
    # The cut hides all of the second box, and shows a quarter of the first.
    assert second["labels"].tolist() == []
    assert second["boxes"].shape == (0, 4)
    types = [(value.dtype, value.shape[1:]) for value in second.values()]
    assert types == [(torch.float32, (4,)), (torch.int64, ()), (torch.float32, ())]


def test_split_box_is_the_rectangle_around_its_pieces() -> None:
    cut = Rect(np.array([[[0, 0], [0, 3]]], np.int32), np.array([[[4, 8], [4, 2]]], np.int32))
    cut = Rect(cut.anchor.repeat(2, 0), cut.extent.repeat(2, 0))
    source = np.array([[0, 1], [1, 0]], np.int32)
    plan = MixPlan(source, np.full((2, 2), 0.5, np.float32), (4, 8), taken=cut, put=cut)
    target, _ = Boxes([[[1, 0, 7, 2]], []], [[1], []]).target(shown(2, (4, 8), plan))
    assert target["boxes"].tolist() == [[1, 0, 7, 2]]
    assert target["visible"].tolist() == pytest.approx([4 / 6])


def test_boxes_of_bfloat16_are_those_of_float32() -> None:
    corners = [[1.0, 0.0, 7.0, 2.5]]
    (target,) = Boxes([torch.tensor(corners, dtype=torch.bfloat16)], [[1]]).target(shown(1, (4, 8)))
    assert target["boxes"].tolist() == corners


def test_box_across_cells_of_one_partner_is_one_box() -> None:
    anchor = np.array([[[0, 0], [0, 0], [0, 4]]] * 2, np.int32)
    extent = np.array([[[4, 8], [4, 3], [4, 4]]] * 2, np.int32)
    cells = Rect(anchor, extent)
    source = np.array([[0, 1, 1], [1, 0, 0]], np.int32)
    plan = MixPlan(source, np.full((2, 3), 1 / 3, np.float32), (4, 8), taken=cells, put=cells)
    target, _ = Boxes([[], [[1, 0, 7, 4]]], [[], [2]]).target(shown(2, (4, 8), plan))
    assert target["boxes"].tolist() == [[1, 0, 7, 4]]
    assert target["visible"].tolist() == pytest.approx([5 / 6])


def test_blend_keeps_boxes_of_both_images_and_weighs_what_is_visible() -> None:
    source = np.array([[0, 1], [1, 0]], np.int32)
    weight = np.array([[0.75, 0.25], [0.6, 0.4]], np.float32)
    boxes = Boxes([[[0, 0, 4, 4]], [[2, 2, 10, 4]]], [[1], [2]], min_visible=0.2)
    first, second = boxes.target(shown(2, (6, 6), MixPlan(source, weight, (6, 6))))
    assert first["labels"].tolist() == [1]  # the partner's half box weighs an eighth
    assert first["visible"].tolist() == pytest.approx([0.75])
    assert second["labels"].tolist() == [2, 1]
    assert second["boxes"].tolist() == [[2, 2, 6, 4], [0, 0, 4, 4]]
    assert second["visible"].tolist() == pytest.approx([0.3, 0.4])


def test_blend_of_a_sample_with_itself_shows_each_box_once() -> None:
    plan = drawn(MixUp(), 1, (6, 8), 0)
    (target,) = Boxes([[[0, 0, 4, 4]]], [[1]]).target(shown(1, (6, 8), plan))
    assert target["visible"].tolist() == [1]


def test_erased_pixels_leave_boxes_as_they_are() -> None:
    plan = drawn(Cutout(8), 3, (8, 10), 0)
    boxes = [np.array([[1, 1, 5, 5]])] * 3
    for target in numbered(boxes).target(shown(3, (8, 10), plan)):
        assert target["visible"].tolist() == [1]


def test_plan_of_clips_is_refused() -> None:
    clip = ClipPlan(np.zeros((1, 2), np.int32), np.full((1, 2), 0.5, np.float32), (4, 4))
    with pytest.raises(ValueError, match=r"^Boxes: `plan` must own rectangles or cells of images"):
        Boxes([[[0, 0, 2, 2]]], [[0]]).target(shown(1, (4, 4), clip))


def test_images_repeat_in_a_batch_and_come_in_any_order() -> None:
    boxes = Boxes([[[0, 0, 4, 4]], [], [[1, 1, 2, 2], [0, 1, 3, 3]]], [[5], [], [6, 7]])
    target = boxes.target(Shown(np.array([2, 0, 1, 2]), (4, 4), None, None))
    assert [of_image["labels"].tolist() for of_image in target] == [[6, 7], [5], [], [6, 7]]


def test_batch_without_any_box_has_empty_tensors() -> None:
    plan = drawn(CutMix(), 3, (4, 6), 0)
    boxes = Boxes([[], [], []], [[], [], []], fields={"iscrowd": [[], [], []]})
    for target in boxes.target(shown(3, (4, 6), plan)):
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].dtype == torch.int64
        assert list(target) == ["boxes", "labels", "visible", "iscrowd"]


def test_boxes_without_area_or_outside_are_never_served() -> None:
    degenerate = [[2, 2, 2, 4], [3, 1, 3, 1]]
    outside = [[-4, 0, 0, 4], [6, 0, 9, 4], [0, 4, 6, 8]]
    boxes = Boxes(
        [[*degenerate, *outside, [0, 0, 1, 1], [0, 0, 1e-7, 1]]], [range(7)], min_visible=0
    )
    (target,) = boxes.target(shown(1, (4, 6)))
    assert target["labels"].tolist() == [5, 6]
    # Behind a shift the last box has no area in float32.
    shift = np.array([[[1, 0, 2], [0, 1, 0]]], np.float32)
    (target,) = boxes.target(shown(1, (4, 6), None, shift))
    assert target["labels"].tolist() == [2, 5]


def test_complete_boxes_survive_the_rounding_of_a_map() -> None:
    matrix = np.array([[[224 / 375, 0, 0], [0, 224 / 333, 0]]], np.float32)
    boxes = Boxes([[[0, 0, 375, 333], [100, 7, 375, 200]]], [[0, 1]], min_visible=1.0)
    (target,) = boxes.target(shown(1, (224, 224), None, matrix))
    assert target["labels"].tolist() == [0, 1]


def test_rotated_box_is_the_rectangle_around_its_corners() -> None:
    turn = np.array([[[0.8, -0.6, 10.0], [0.6, 0.8, -2.0]]], np.float32)
    (target,) = Boxes([[[2, 1, 12, 6]]], [[0]]).target(shown(1, (40, 40), None, turn))
    corners = np.array([[2, 1], [12, 1], [2, 6], [12, 6]]) @ turn[0, :, :2].T + turn[0, :, 2]
    expected = [*corners.min(axis=0), *corners.max(axis=0)]
    assert target["boxes"][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_fields_travel_along_with_their_boxes() -> None:
    plan = drawn(CutMix(lam=0.25, placement="inside"), 2, (8, 8), 0)
    boxes = [np.array([[0, 0, 8, 8], [1, 1, 3, 3]]), np.array([[4, 4, 8, 8]])]
    fields = {
        "iscrowd": [[True, False], [True]],
        "score": [[0.5, 0.25], [0.125]],
        "keypoints": [np.arange(12).reshape(2, 2, 3), np.arange(6).reshape(1, 2, 3) + 100],
    }
    annotation = Boxes(boxes, [[0, 1], [2]], fields=fields, min_visible=0)
    seen = set()
    for target in annotation.target(shown(2, (8, 8), plan)):
        assert target["iscrowd"].dtype == torch.bool
        assert target["score"].dtype == torch.float32
        assert target["keypoints"].shape == (len(target["labels"]), 2, 3)
        for label, *values in zip(*(target[n].tolist() for n in ("labels", *fields)), strict=True):
            image, box = divmod(label, 2)
            assert values[0] == fields["iscrowd"][image][box]
            assert values[1] == fields["score"][image][box]
            assert values[2] == fields["keypoints"][image][box].tolist()
            seen.add(label)
    assert len(seen) >= 2


def test_boxes_of_an_image_are_handed_out_as_they_are_stored() -> None:
    boxes = Boxes([[[0, 0, 0, 4]], [[1, 2, 3, 4]]], [[5], [6]], fields={"iscrowd": [[0], [1]]})
    assert len(boxes) == 2
    assert {name: v.tolist() for name, v in boxes[-1].items()} == {
        "boxes": [[1, 2, 3, 4]],
        "labels": [6],
        "iscrowd": [1],
    }
    assert boxes[0]["boxes"].tolist() == [[0, 0, 0, 4]]
    taken = boxes.take([1, 1, 0])
    assert [int(taken[image]["labels"][0]) for image in range(3)] == [6, 6, 5]
    with pytest.raises(IndexError):
        boxes[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"boxes": []},
            "Boxes: `boxes` must hold the boxes of at least one image, got [].",
        ),
        (
            {"classes": [[0]]},
            "Boxes: `classes` must be as many as the 2 images of `boxes`, got 1.",
        ),
        (
            {"classes": [[0], [1, 2, 3]]},
            "Boxes: `classes[1]` must hold a value for each of the 2 boxes of boxes[1], got "
            "[1, 2, 3].",
        ),
        (
            {"boxes": [[[0, 0, 1, 1]], [[0, 0, 1, float("nan")], [0, 0, 1, 1]]]},
            "Boxes: `boxes[1][0]` must be finite, got [0.0, 0.0, 1.0, nan].",
        ),
        (
            {"boxes": [[[0, 0, 1, 1]], [[0, 0, 1, 1], [5, 0, 4, 1]]]},
            "Boxes: `boxes[1][1]` must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got "
            "[5.0, 0.0, 4.0, 1.0]. Boxes of (x, y, width, height) become corners by "
            "`torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')`.",
        ),
        (
            {"boxes": [[0, 0, 1, 1], [[0, 0, 1, 1], [0, 0, 4, 1]]]},
            "Boxes: `boxes[0]` must be of shape [n, 4], got [4]. A single box goes into a list: "
            "[[x0, y0, x1, y1]].",
        ),
        (
            {"boxes": [[["a", 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 4, 1]]]},
            "Boxes: `boxes[0]` must hold numbers, four for each box: x0, y0, x1, y1, got "
            "[['a', 0, 1, 1]].",
        ),
        (
            {"min_visible": 1.5},
            "Boxes: `min_visible` must be in [0, 1], got 1.5.",
        ),
        (
            {"min_visible": float("nan")},
            "Boxes: `min_visible` must be in [0, 1], got nan.",
        ),
        (
            {"classes": [[0], [1, -1]]},
            "Boxes: `classes[1][1]` must be a class index of at least 0 and below 16777216, got "
            "-1. Ids have to be mapped to 0, 1, 2, ... first.",
        ),
        (
            {"classes": [[0], [1, 2]], "names": ["a", "b"]},
            "Boxes: `classes[1][1]` must be a class index of at least 0 and below 2, the number "
            "of `names`, got 2. Ids have to be mapped to 0, 1, 2, ... first.",
        ),
        (
            {"classes": [["cat"], ["dog", "dog"]]},
            "Boxes: `classes` must hold a whole number for each box, got ['cat', 'dog', 'dog']. "
            "Names have to be mapped to 0, 1, 2, ... first.",
        ),
        (
            {"classes": [[0.5], [1.0, 2.0]]},
            "Boxes: `classes` must hold a whole number for each box, got [0.5, 1.0, 2.0]. "
            "Names have to be mapped to 0, 1, 2, ... first.",
        ),
        (
            {"fields": {"id": [[0], [1]]}},
            "Boxes: `fields['id'][1]` must hold a value for each of the 2 boxes of boxes[1], got "
            "[1].",
        ),
        (
            {"fields": {"id": [[0]]}},
            "Boxes: `fields['id']` must be as many as the 2 images of `boxes`, got 1.",
        ),
        (
            {"fields": {"labels": [[0], [1, 2]]}},
            "Boxes: `fields` must have other names than 'boxes', 'labels', 'visible', got "
            "'labels'.",
        ),
        (
            {"fields": {"id": [["a"], ["b", "c"]]}},
            "Boxes: `fields['id']` must hold numbers or bools, got ['a', 'b', 'c']. "
            "Map texts and objects to whole numbers, and look these up.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    fine = {"boxes": [[[0, 0, 1, 1]], [[0, 0, 2, 2], [1, 1, 2, 2]]], "classes": [[0], [1, 2]]}
    Boxes(**fine)
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole message is compared
        Boxes(**{**fine, **arguments})
    assert str(error.value) == message


def test_boxes_of_another_format_are_refused() -> None:
    from torchvision import tv_tensors

    def of(form: str) -> Any:
        return tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format=form, canvas_size=(8, 8))

    assert Boxes([of("XYXY")], [[0]])[0]["boxes"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"must be in the format XYXY, got 'CXCYWH'. Convert"):
        Boxes([of("CXCYWH")], [[0]])
