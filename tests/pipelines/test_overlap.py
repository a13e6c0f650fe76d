"""Overlap of predicted and true masks: IoU, boundary IoU and Dice against other arithmetic."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from dali_cutmix import DataLoader, EvalTransform, Shard, read_masks
from harness import overlap
from harness.overlap import Overlap, boundaries_of, boundary_of, confusion_of, measure_overlap
from harness.pictures import make_ellipses
from harness.processes import Processes
from runs import recipe

#: Classes, images, and their height and width.
NUM_CLASSES, COUNT, SIZE = 4, 5, (50, 70)


def blobs(seed: int, num_classes: int = NUM_CLASSES) -> Tensor:
    """Masks of smooth regions: ``[COUNT, *SIZE]`` int64."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(num_classes, COUNT, *SIZE)), (0, 0, 5, 5))
    return torch.from_numpy(noise.argmax(0))


def ignoring(mask: Tensor) -> Tensor:
    """The same masks with a frame of pixels without a class."""
    mask = mask.clone()
    mask[:, :7] = mask[:, :, -9:] = overlap.IGNORED
    return mask


def of_confusion(confusion: Tensor, boundary: Tensor | None = None) -> Overlap:
    return Overlap(confusion, boundary, 0.0, (confusion, confusion, confusion))


def counted(predicted: Tensor, mask: Tensor) -> Overlap:
    return of_confusion(
        confusion_of(predicted, mask, NUM_CLASSES), boundaries_of(predicted, mask, NUM_CLASSES)
    )


def test_iou_of_every_class_is_that_of_torchmetrics() -> None:
    predicted, mask = blobs(0), ignoring(blobs(1))
    metric = MulticlassJaccardIndex(NUM_CLASSES, average="none", ignore_index=overlap.IGNORED)
    torch.testing.assert_close(
        counted(predicted, mask).iou, metric(predicted, mask).double(), atol=1e-6, rtol=0
    )


def test_dice_is_twice_the_shared_pixels_by_the_pixels_of_both() -> None:
    predicted, mask = blobs(2), blobs(3)
    expected = [
        2
        * int(((predicted == c) & (mask == c)).sum())
        / (int((predicted == c).sum()) + int((mask == c).sum()))
        for c in range(NUM_CLASSES)
    ]
    assert counted(predicted, mask).dice.tolist() == pytest.approx(expected)


def test_pixels_of_all_images_count_in_one_sum_and_not_as_a_mean_over_images() -> None:
    mask = torch.zeros(2, 10, 10, dtype=torch.int64)
    mask[0], mask[1, 0, 0] = 1, 1  # 100 pixels of class 1, and a single one
    predicted = mask.clone()
    predicted[1, 0, 0] = 0  # which is missed: 100 of 101 pixels, but 1 and 0 of the images
    iou = of_confusion(confusion_of(predicted, mask, 2)).iou
    assert iou[1].item() == pytest.approx(100 / 101)


def test_classes_that_are_nowhere_are_left_out_of_the_mean() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.int64)
    predicted = mask.clone()
    predicted[0, 0] = 2  # of four classes 1 and 3 are nowhere
    iou = of_confusion(confusion_of(predicted, mask, 4)).iou
    assert [math.isnan(value) for value in iou.tolist()] == [False, True, False, True]
    assert overlap.mean_of(iou) == pytest.approx((12 / 16 + 0) / 2)


# Boundaries


@pytest.mark.parametrize("width", [1, 2, 5])
def test_boundary_holds_the_pixels_near_the_contour_by_chessboard_distance(width: int) -> None:
    region = blobs(4, 2) == 1
    for part, found in zip(region, boundary_of(region, width), strict=True):
        # The border of the image is contour too.
        framed = np.pad(part.numpy(), 1)
        distance = ndimage.distance_transform_cdt(framed, metric="chessboard")[1:-1, 1:-1]
        np.testing.assert_array_equal(found.numpy(), (distance >= 1) & (distance <= width))


def test_boundary_is_that_of_repeated_erosions_as_the_authors_erode() -> None:
    region = blobs(5, 2) == 1
    for part, found in zip(region, boundary_of(region, 3), strict=True):
        eroded = ndimage.binary_erosion(part.numpy(), np.ones((3, 3)), iterations=3)
        np.testing.assert_array_equal(found.numpy(), part.numpy() & ~eroded)


@pytest.mark.parametrize(
    ("size", "width"), [((480, 640), 16), ((1024, 2048), 46), ((128, 128), 4), ((9, 9), 1)]
)
def test_boundaries_are_as_wide_as_2_percent_of_the_diagonal(
    size: tuple[int, int], width: int
) -> None:
    assert overlap.boundary_width(size) == width


def test_boundary_iou_of_shifted_squares_is_that_of_a_calculation_by_hand() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.int64)  # boundaries are 3 px wide
    predicted = mask.clone()
    mask[0, 40:60, 40:60] = 1
    predicted[0, 40:60, 43:63] = 1
    # Rings of 20**2 - 14**2 pixels each, of which the second lies 3 px to the right. Shared are, of
    # the upper and lower bars, 2 * 3 * 17, and no pixel of the sides: columns 40 to 42 and 57 to 59
    # of one ring face columns 43 to 45 and 60 to 62 of the other.
    shared, ring = 2 * 3 * 17, 20**2 - 14**2
    counts = boundaries_of(predicted, mask, 2)
    assert counts[1].tolist() == [shared, 2 * ring - shared]


def test_boundary_iou_punishes_a_shifted_contour_more_than_iou() -> None:
    mask = torch.zeros(1, 200, 200, dtype=torch.int64)
    predicted = mask.clone()
    mask[0, 20:180, 20:180], predicted[0, 22:182, 22:182] = 1, 1
    found = of_confusion(confusion_of(predicted, mask, 2), boundaries_of(predicted, mask, 2))
    assert found.iou[1] > 0.9
    assert found.boundary_iou[1] < 0.55


def test_pixels_without_a_class_change_no_number_of_a_perfect_prediction() -> None:
    truth = blobs(6)
    mask = ignoring(truth)
    predicted = torch.where(mask == overlap.IGNORED, 0, truth)
    found = counted(predicted, mask)
    assert found.iou.tolist() == [1] * NUM_CLASSES
    assert found.boundary_iou.tolist() == [1] * NUM_CLASSES
    assert int(found.confusion.sum()) == int((mask != overlap.IGNORED).sum())
    perfect = boundaries_of(truth, mask, NUM_CLASSES)
    width = overlap.boundary_width(SIZE)
    counts = [
        int((boundary_of(truth == index, width) & (mask != overlap.IGNORED)).sum())
        for index in range(NUM_CLASSES)
    ]
    assert perfect.tolist() == [[count, count] for count in counts]


# A validation


class Threshold(nn.Module):
    """Call pixels above a level class 1, by logits."""

    def __init__(self, level: float, as_dict: bool) -> None:
        super().__init__()
        self.level, self.as_dict = level, as_dict

    def forward(self, image: Tensor) -> Any:
        margin = 10 * (image[:, :1] - self.level)
        logits = torch.cat([-margin, margin], 1)
        return {"out": logits} if self.as_dict else logits


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> DataLoader:
    """Five images of ellipses, in batches of two."""
    folder = tmp_path_factory.mktemp("ellipses")
    make_ellipses(folder, 5, 48, seed=0)
    images, masks = read_masks(folder / "images", folder / "masks")
    transform = EvalTransform(48, 48, mean=(0.0,) * 3, std=(1.0,) * 3)
    return DataLoader(images, 2, transform=transform, target=masks, device="cpu")


def measured(model: nn.Module, val: DataLoader, *more: Any, **settings: Any) -> Overlap:
    processes = Processes("test", torch.device("cpu"))
    autocast = torch.autocast("cpu", enabled=False)
    return measure_overlap(model, val, processes, autocast, *more, num_classes=2, **settings)


@pytest.mark.parametrize("as_dict", [True, False])
def test_a_validation_counts_every_pixel_of_every_image_once(
    val: DataLoader, as_dict: bool
) -> None:
    model = Threshold(0.5, as_dict).train()
    found = measured(model, val, with_boundary=True)
    image, mask = (torch.cat(parts) for parts in zip(*val, strict=True))
    said = (image[:, 0] > 0.5).long()
    assert torch.equal(found.confusion, confusion_of(said, mask, 2))
    assert int(found.confusion.sum()) == 5 * 48 * 48
    assert found.boundary is not None
    assert torch.equal(found.boundary, boundaries_of(said, mask, 2))
    logits = model(image)
    expected = nn.functional.cross_entropy(logits["out"] if as_dict else logits, mask)
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert model.training
    assert found.shown is not None
    assert [len(part) for part in found.shown] == [2, 2, 2]
    assert torch.equal(found.shown[2], said[:2])


def test_a_process_without_images_adds_nothing_and_shows_none(val: DataLoader) -> None:
    empty = DataLoader(
        val.dataset,
        2,
        transform=val.transform,
        target=val.target,
        device="cpu",
        shard=Shard(5, 6),
    )
    assert len(empty) == 0
    found = measured(Threshold(0.5, False), empty)
    assert int(found.confusion.sum()) == 0
    assert found.shown is None


def test_iou_of_class_1_is_that_of_the_small_example(val: DataLoader) -> None:
    model = Threshold(0.4, as_dict=False)
    expected = recipe("annotations/segmentation").validate(model, val)
    assert measured(model, val).iou[1].item() == pytest.approx(expected)


def test_a_validation_ends_after_the_batches_asked_for_and_when_asked_to_stop(
    val: DataLoader,
) -> None:
    assert int(measured(Threshold(0.5, False), val, 1).confusion.sum()) == 2 * 48 * 48
    processes = Processes("test", torch.device("cpu"))
    with processes.listening():
        signal.raise_signal(signal.SIGTERM)
    autocast = torch.autocast("cpu", enabled=False)
    with pytest.raises(SystemExit) as stopped:
        measure_overlap(Threshold(0.5, False), val, processes, autocast, num_classes=2)
    assert stopped.value.code == 128 + signal.SIGTERM


# The number of classes


def test_classes_are_counted_from_all_masks_and_unreadable_ones_left_to_the_loader() -> None:
    masks = [np.array([[0, 3]], np.uint8), np.array([[255, 1]], np.uint8)]

    def read(index: int) -> np.ndarray:
        if index == 2:
            raise OSError("broken")
        return masks[index]

    assert overlap.count_classes("test", ["a", "b", "c"], read, None) == 4
    assert overlap.count_classes("test", ["a", "b", "c"], read, 7) == 7
    assert overlap.count_classes("test", ["b"], lambda _: masks[1] * 0, None) == 2
    with pytest.raises(SystemExit) as refused:
        overlap.count_classes("test", ["a", "b", "c"], read, 3)
    assert str(refused.value) == (
        "test: `num_classes` must be above the largest class of all masks, got 3, and a has class "
        "3. Pass `--num-classes 4`, or correct the mask."
    )


def test_picture_shows_masks_above_and_predictions_below(tmp_path: Path) -> None:
    image = torch.full((2, 3, 32, 32), 120, dtype=torch.uint8)
    mask = torch.zeros(2, 32, 32, dtype=torch.int64)
    overlap.draw_masks(tmp_path / "a" / "blank.png", (image, mask, mask))
    overlap.draw_masks(tmp_path / "a" / "said.png", (image, mask, mask + 1))
    blank, said = (np.asarray(Image.open(tmp_path / f"a/{n}.png").convert("RGB")).astype(int)
                   for n in ("blank", "said"))  # fmt: skip
    assert blank.shape == said.shape
    differs = (abs(blank - said).sum(2) > 60).any(1)
    assert not differs[: len(differs) // 2].any()
    assert differs[len(differs) // 2 :].any()
