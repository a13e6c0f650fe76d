"""GuidedCutMix: boxes painted into the images tell what a cut covers and what it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import (
    Boxes,
    Chain,
    Compose,
    CutMix,
    DataLoader,
    Deferred,
    GuidedCutMix,
    ImageArrays,
    RandomChoice,
    Scheduled,
    TrainTransform,
    Views,
    draw_plan,
    mix_batch,
)
from dali_cutmix.augmentations import CenterCrop, Pad

STORED = (60, 90)
SIZE = (48, 64)
INSIDE = 255  # of the green channel in a box, and of the blue one in a box of class 7


def painted(num: int, seed: int = 0) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Return images whose red channel is the owner, with up to three boxes each, and the boxes."""
    rng = np.random.default_rng(seed)
    images = np.zeros((num, *STORED, 3), np.uint8)
    images[..., 0] = np.arange(num)[:, None, None]
    annotations = []
    for image in images:
        boxes, labels = [], []
        for number in range(rng.integers(0, 4)):
            width, height = rng.integers(8, 24, 2)
            x, y = rng.integers(0, STORED[1] - width), rng.integers(0, STORED[0] - height)
            image[y : y + height, x : x + width, 1] = INSIDE
            boxes.append([x, y, x + width, y + height])
            labels.append(7 if number == 0 else 2)
        if boxes:  # the first is painted last: others must not hide it
            x, y, right, bottom = boxes[0]
            image[y:bottom, x:right, 2] = INSIDE
        shape = (len(boxes), 4)
        annotations.append(
            {"boxes": np.array(boxes, np.float32).reshape(shape), "labels": np.array(labels, int)}
        )
    return images, annotations


def loader_of(images: np.ndarray, mix: Any, **settings: Any) -> DataLoader:
    arguments: dict[str, Any] = {
        "transform": TrainTransform(SIZE, pad=8),
        "dtype": torch.uint8,
        "device": "cpu",
        "num_workers": 1,
        "with_plan": True,
        "target": "pair",
        "shuffle": True,
    }
    arguments = {"batch_size": 7, **arguments, **settings}
    return DataLoader(ImageArrays(images, range(len(images))), mix=mix, **arguments)


def cuts_of(plan: Any) -> list[tuple[slice, slice]]:
    """Return the cut of each sample as slices; of no pixels where nothing is cut."""
    corners = zip(plan.anchor.tolist(), plan.extent.tolist(), strict=True)
    return [(slice(y, y + height), slice(x, x + width)) for (y, x), (height, width) in corners]


#: A crop that keeps pixels as they are, and one that resizes: there a pixel beside a box is mixed
#: from both sides, and half of it is the box's at most.
CROPS = [(TrainTransform(SIZE, pad=8), 0), (TrainTransform(SIZE, scale=(0.3, 1)), 128)]


@pytest.mark.parametrize(("transform", "most"), CROPS)
def test_cut_covers_no_object_of_the_image_where_boxes_are_avoided(
    transform: Any, most: int
) -> None:
    images, boxes = painted(60)
    num_cut = num_beside = num_complete = 0
    with loader_of(images, Deferred(GuidedCutMix(boxes)), transform=transform) as loader:
        for _ in range(3):
            for image, _, plan in loader:
                half = (torch.tensor(SIZE) * (1 - plan.lam.double()).sqrt()[:, None]).int() // 2
                is_cut = plan.extent.prod(dim=1) > 0
                assert (plan.extent <= 2 * half)[is_cut].all()
                num_complete += int((plan.extent == 2 * half)[is_cut].all(dim=1).sum())
                for pixels, cut in zip(image, cuts_of(plan), strict=True):
                    assert pixels[(1, *cut)].numel() == 0 or pixels[(1, *cut)].max() <= most
                    num_cut += pixels[(1, *cut)].numel() > 0
                    num_beside += bool((pixels[1] == INSIDE).any()) and pixels[1][cut].numel() > 0
    assert num_cut > 0.9 * 180
    assert num_beside > 90
    assert num_complete > 30


@pytest.mark.parametrize(("transform", "most"), CROPS)
@pytest.mark.parametrize("avoid", [False, True])
def test_cut_is_a_box_of_the_class_in_the_partner(transform: Any, most: int, avoid: bool) -> None:
    images, boxes = painted(60)
    mix = GuidedCutMix(boxes, avoid=avoid, target=7, min_visible=0.5, partner="roll")
    num_cut = 0
    with loader_of(images, Deferred(mix), transform=transform) as loader:
        for image, target, plan in [batch for _ in range(2) for batch in loader]:
            for sample, cut in enumerate(cuts_of(plan)):
                other = sample - 1
                of_class = (image[other, 2] > 127).nonzero()
                if plan.extent[sample].prod():
                    low, high = of_class.min(dim=0).values, of_class.max(dim=0).values + 1
                    ends = plan.anchor[sample] + plan.extent[sample]
                    assert (plan.anchor[sample] - low).abs().max() <= (most > 0)
                    assert (ends - high).abs().max() <= (most > 0)
                    assert not avoid or image[(sample, 1, *cut)].max() <= most
                    num_cut += 1
                if not most and len(of_class):
                    x0, y0, x1, y1 = boxes[target.label[other, 0]]["boxes"][0]
                    is_visible = len(of_class) >= 0.5 * (x1 - x0) * (y1 - y0)
                    assert is_visible or not plan.extent[sample].prod()
                    assert avoid or is_visible == bool(plan.extent[sample].prod())
    assert num_cut > (20 if avoid else 45)


def test_object_that_was_cropped_away_is_no_cut_and_in_no_way_on_padding() -> None:
    """The one box of each image is as large as the padding that a later step puts there."""
    images = np.zeros((6, 40, 40, 3), np.uint8)
    boxes = [{"boxes": np.array([[30, 30, 40, 40]]), "labels": np.array([7])}] * 6
    transform = Compose([CenterCrop(20), Pad(10)])
    mix = GuidedCutMix(boxes, target=7, avoid=False, min_visible=0.0)
    with loader_of(images, mix, transform=transform) as loader:
        for _, _, plan in loader:
            assert not plan.extent.any()
    with loader_of(images, GuidedCutMix(boxes), transform=transform) as loader:
        ends = torch.cat([plan.anchor + plan.extent for _ in range(20) for *_, plan in loader])
    assert (ends > 32).all(dim=1).any()  # a cut where the box would be


@pytest.mark.parametrize(
    "mix",
    [
        lambda boxes: GuidedCutMix(boxes),
        lambda boxes: GuidedCutMix(boxes, target=7, avoid=False, prob=0.8),
        lambda boxes: Chain([GuidedCutMix(boxes, target=7), CutMix()]),
        lambda boxes: RandomChoice([CutMix(), GuidedCutMix(boxes)]),
        lambda boxes: Scheduled(GuidedCutMix(boxes), num_epochs=2, prob=lambda t: 0.5 + t / 2),
    ],
)
def test_weights_are_shares_of_pixels(mix: Any) -> None:
    images, boxes = painted(23)
    foreign = 0
    with loader_of(images, mix(boxes), transform=TrainTransform(STORED, pad=0)) as loader:
        for image, target, _ in loader:
            for pixels, labels, weights in zip(
                image[:, 0], target.label, target.weight, strict=True
            ):
                owners, counts = pixels.unique(return_counts=True)
                shares = torch.zeros(23).scatter_add_(0, labels, weights)
                assert torch.equal(shares.nonzero()[:, 0], owners.long())
                wanted = counts / pixels.numel()
                torch.testing.assert_close(shares[owners.long()], wanted, rtol=0, atol=2**-22)
                foreign += int((owners != labels[0]).sum())
    assert foreign > 10


@pytest.mark.parametrize(
    ("before", "during"),
    [
        ({"target": 7}, {"target": 2}),
        ({"target": 7}, {"target": 7, "avoid": False}),
        ({"target": 7, "min_visible": 0.0}, {"target": 7, "min_visible": 0.95}),
        ({"target": 7}, {"target": 7, "boxes": 1}),
    ],
    ids=["target", "avoid", "min_visible", "boxes"],
)
@pytest.mark.parametrize(
    "inside",
    [lambda mix: mix, lambda mix: RandomChoice([mix]), lambda mix: Chain([mix]), Deferred],
    ids=["alone", "in a choice", "in a chain", "deferred"],
)
def test_schedule_changes_what_completes_the_plan(before: Any, during: Any, inside: Any) -> None:
    images, annotations = painted(28)
    if "boxes" in during:
        during = during | {"boxes": painted(28, during["boxes"])[1]}
    mix = GuidedCutMix(annotations, **before)
    scheduled = Scheduled(
        mix, 2, **{name: lambda _, value=value: value for name, value in during.items()}
    )
    plans = []
    for each in (mix, scheduled, GuidedCutMix(**{"boxes": annotations, **during})):
        with loader_of(images, inside(each)) as loader:
            plans.append([plan for _, _, plan in loader])
    extents = [
        torch.cat([(plan.plans[0] if hasattr(plan, "plans") else plan).extent for plan in of_mix])
        for of_mix in plans
    ]
    assert torch.equal(extents[1], extents[2])
    assert not torch.equal(extents[0], extents[1])


def test_every_box_of_the_class_is_cut_out_as_often() -> None:
    boxes = [[10.0 * n, 5.0, 10.0 * n + 8.2, 30.7] for n in range(5)]
    annotations = [{"boxes": boxes, "labels": [1, 1, 0, 1, 1]}] * 200
    images = np.zeros((200, *STORED, 3), np.uint8)
    mix = GuidedCutMix(annotations, avoid=False, target=1)
    settings: dict[str, Any] = {
        "transform": TrainTransform(STORED, pad=0, flip=0),
        "batch_size": 50,
    }
    with loader_of(images, mix, **settings) as loader:
        anchors = torch.cat([plan.anchor for _ in range(4) for _, _, plan in loader])
        extents = torch.cat([plan.extent for _, _, plan in loader])
    assert (anchors[:, 0] == 5).all()
    assert (extents == torch.tensor([26, 9])).all()
    columns, counts = anchors[:, 1].unique(return_counts=True)
    assert columns.tolist() == [0, 10, 30, 40]
    assert (counts - 200).abs().max() < 4.5 * np.sqrt(800 * 3 / 16)


def test_sample_without_a_cut_that_fits_stays_as_it_is() -> None:
    images, _ = painted(14)
    everywhere = [{"boxes": [[0, 0, 90, 60]], "labels": [1]}] * 14
    for mix in (GuidedCutMix(everywhere), GuidedCutMix(everywhere, target=1)):
        with loader_of(images, mix, transform=TrainTransform(STORED, pad=0, flip=0)) as loader:
            for image, target, plan in loader:
                assert target.weight.tolist() == [[1, 0]] * 7
                assert torch.equal(image[:, 0, 0, 0].long(), target.label[:, 0])
                assert (plan.extent == 0).all()


def test_cuts_are_those_of_cutmix_where_there_are_no_boxes() -> None:
    images = np.zeros((700, 8, 12, 3), np.uint8)
    empty = [{"boxes": np.zeros((0, 4))}] * 700
    settings: dict[str, Any] = {"transform": TrainTransform((8, 12), pad=0), "batch_size": 175}
    with loader_of(images, GuidedCutMix(empty), **settings) as loader:
        kept = torch.cat([plan.kept for _ in range(3) for _, _, plan in loader])
    with loader_of(images, CutMix(), **settings) as loader:
        wanted = torch.cat([plan.kept for _ in range(6) for _, _, plan in loader])
    wanted = wanted[wanted < 1]  # an empty cut is no cut that fits
    assert (kept < 1).all()
    error = kept.std() / np.sqrt(2100) + wanted.std() / np.sqrt(len(wanted))
    assert abs(kept.mean() - wanted.mean()) < 4.5 * error


def test_resumed_run_serves_the_same_batches_and_other_boxes_are_another_run() -> None:
    images, boxes = painted(30)
    mix = GuidedCutMix(boxes, target=7, avoid=False)
    with loader_of(images, mix) as loader:
        wanted = list(loader)
    with loader_of(images, mix, num_workers=3) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with loader_of(images, GuidedCutMix(boxes, target=7, avoid=False)) as loader:
        loader.load_state_dict(state)
        for (image, target, plan), (same, other, planned) in zip(loader, wanted[1:], strict=True):
            assert torch.equal(image, same)
            assert torch.equal(target.weight, other.weight)
            assert torch.equal(plan.put.anchor, planned.put.anchor)
    others = painted(30, seed=1)[1]
    with (
        loader_of(images, GuidedCutMix(others, target=7, avoid=False)) as loader,
        pytest.raises(ValueError, match=r"mix\.boxes"),
    ):
        loader.load_state_dict(state)


def test_pixels_mixed_later_are_those_of_the_loader() -> None:
    images, boxes = painted(20)
    mix = GuidedCutMix(boxes)
    with loader_of(images, mix) as loader, loader_of(images, Deferred(mix)) as later:
        for (mixed, target, _), (image, _, plan) in zip(loader, later, strict=True):
            result, weight = mix_batch(image, plan)
            assert torch.equal(result, mixed)
            assert torch.equal(weight, target.weight)


def test_boxes_of_the_image_stay_as_visible_as_the_crop_left_them() -> None:
    images, annotations = painted(40)
    boxes = Boxes(*([of_image[name] for of_image in annotations] for name in ("boxes", "labels")))
    settings: dict[str, Any] = {"target": {"boxes": boxes, "class": "pair"}, "batch_size": 8}
    mix = GuidedCutMix(boxes)
    num_boxes = num_cut = 0
    with (
        loader_of(images, mix, **settings) as loader,
        loader_of(images, CutMix(prob=0), **settings) as plain,
    ):
        for (_, target, _), (_, unmixed, _) in zip(loader, plain, strict=True):
            for mixed, alone in zip(target["boxes"], unmixed["boxes"], strict=True):
                rows = torch.cat([mixed["boxes"], mixed["visible"][:, None]], dim=1).tolist()
                wanted = torch.cat([alone["boxes"], alone["visible"][:, None]], dim=1).tolist()
                assert all(row in rows for row in wanted)
                num_boxes += len(wanted)
            num_cut += int((target["class"].weight[:, 1] > 0).sum())
    assert num_boxes > 30
    assert num_cut > 30


def test_each_view_spares_its_own_boxes_by_a_plan_of_its_own() -> None:
    images, annotations = painted(20)
    views = Views([TrainTransform(SIZE, pad=8)] * 2, plan="each")
    num_cut = 0
    with (
        loader_of(images, GuidedCutMix(annotations), transform=views, batch_size=5) as loader,
        loader_of(images, CutMix(prob=0), transform=views, batch_size=5) as plain,
    ):
        for (mixed, targets, _), (unmixed, _, _) in zip(loader, plain, strict=True):
            for image, target, alone in zip(mixed, targets, unmixed, strict=True):
                is_inside = (alone[:, 1:2] == INSIDE).expand(image.shape)
                assert torch.equal(image[is_inside], alone[is_inside])
                num_cut += int((target.weight[:, 1] > 0).sum())
    assert num_cut > 20


IMAGES, BOXES = painted(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GuidedCutMix(BOXES, avoid=False),
            "GuidedCutMix: `avoid` must be True, or `target` a class, got False. Without either it "
            "is `CutMix()`.",
        ),
        (
            lambda: GuidedCutMix(BOXES, target=3),
            "GuidedCutMix: `target` must be the class index of a box, got 3.",
        ),
        (
            lambda: GuidedCutMix(BOXES, target=7, alpha=2.0),
            "GuidedCutMix: `alpha` must be left out with `target`, whose boxes are cut, got 2.0.",
        ),
        (
            lambda: GuidedCutMix([[0, 0, 1, 1]]),
            "GuidedCutMix: `boxes[0]` must be a dictionary with `boxes`, got [0, 0, 1, 1]. Pass a "
            "`Boxes`, or a list of dictionaries of `boxes` [n, 4] and `labels` [n].",
        ),
        (
            lambda: GuidedCutMix([{"boxes": [[0, 0, float("nan"), 1]]}]),
            "GuidedCutMix: `boxes[0]['boxes']` must be finite, with x0 <= x1 and y0 <= y1, got "
            "[[0.0, 0.0, nan, 1.0]].",
        ),
        (
            lambda: GuidedCutMix([{"boxes": [[3, 0, 1, 1]]}]),
            "GuidedCutMix: `boxes[0]['boxes']` must be finite, with x0 <= x1 and y0 <= y1, got",
        ),
        (
            lambda: GuidedCutMix([{"boxes": [[0, 1, 1]]}]),
            "GuidedCutMix: `boxes[0]['boxes']` must be of shape [n, 4], got [1, 3].",
        ),
        (
            lambda: GuidedCutMix([{"boxes": [[0, 0, 1, 1]], "labels": [1, 2]}]),
            "GuidedCutMix: `boxes[0]['labels']` must be 1 class indices, got [1, 2].",
        ),
        (
            lambda: GuidedCutMix([]),
            "GuidedCutMix: `boxes` must hold a dictionary of boxes for each image, got [].",
        ),
        (
            lambda: loader_of(IMAGES[:9], GuidedCutMix(BOXES)),
            "DataLoader: `mix` must have boxes of the 9 images of the source, got boxes of 10 "
            "images.",
        ),
        (
            lambda: loader_of(IMAGES[:9], Chain([GuidedCutMix(BOXES), CutMix()])),
            "DataLoader: `mix` must have boxes of the 9 images of the source, got boxes of 10 "
            "images.",
        ),
        (
            lambda: loader_of(
                IMAGES,
                RandomChoice([CutMix(), GuidedCutMix(BOXES)]),
                transform=Views([TrainTransform(SIZE)] * 2),
            ),
            "DataLoader: `mix` must not go by boxes where views share a plan, since each view "
            "shows boxes elsewhere, got RandomChoice(",
        ),
        (
            lambda: draw_plan(GuidedCutMix(BOXES), 4, SIZE, seed=0, epoch=0, batch=0),
            "GuidedCutMix: which images a batch holds is not known here. Give the mix to "
            "`DataLoader(mix=...)`.",
        ),
    ],
)
def test_guidedcutmix_refuses_what_it_cannot_mix(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        make()
    assert str(caught.value).startswith(message)
