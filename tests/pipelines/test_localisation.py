"""Maps of classes, and the boxes that they find."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from timm.models import VisionTransformer
from torch import nn

from dali_cutmix import Boxes, FileList
from evaluation.box_files import read_boxes
from evaluation.cam import Cam, heat
from evaluation.localisation import IOUS, THRESHOLDS, boxes_of, ious, measure_localisation, overlaps
from evaluation.mixed_cam import measure_mixed_cam, mixed_images
from subjects import HEIGHT, WIDTH, images_of, noise, subject_of

SIZE = (48, 64)


class Pooled(nn.Module):
    """A classifier of the mean of a grid, without a module for the mean."""

    def __init__(self, num_classes: int = 4, *, relu: bool = False, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 5, 4, stride=4)
        self.head = nn.Linear(5, num_classes)
        self.relu, self.last = relu, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.features(x)
        if self.relu:
            grid = F.relu(grid, inplace=True)
        return self.head(grid.mean((2, 3)))


# Maps


@pytest.mark.parametrize("relu", [False, True])
def test_cam_is_the_classifier_applied_at_every_place(relu: bool) -> None:
    model = Pooled(relu=relu).eval()
    image = torch.randn(3, 3, *SIZE)
    classes = torch.tensor([2, 0, 3])

    cam = Cam(model, SIZE)
    logits, maps = cam(image, classes)

    grid = F.conv2d(image, model.features.weight, model.features.bias, stride=4)
    grid = grid.clamp(min=0) if relu else grid
    everywhere = F.conv2d(grid, model.head.weight[:, :, None, None])
    assert (cam.kind, cam.layer, cam.grid) == ("CAM", "features", (12, 16))
    torch.testing.assert_close(maps, everywhere[torch.arange(3), classes])
    torch.testing.assert_close(logits, model(image))
    by_class = maps.mean((1, 2)) + model.head.bias[classes]
    torch.testing.assert_close(by_class, logits[torch.arange(3), classes])


def test_grad_cam_of_two_linear_layers_is_that_of_their_product() -> None:
    """Behind the mean, two layers: the slope at each place is their product over the places."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 4, stride=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 6),
        nn.Linear(6, 4),
    ).eval()
    model.requires_grad_(False)
    image = torch.randn(2, 3, *SIZE)
    classes = torch.tensor([1, 3])

    cam = Cam(model, SIZE)
    logits, maps = cam(image, classes)

    grid = model[0](image)
    product = model[4].weight @ model[3].weight
    expected = (grid * product[classes][:, :, None, None] / (12 * 16)).sum(1).clamp(min=0)
    assert (cam.kind, cam.layer, cam.grid) == ("Grad-CAM", "0", (12, 16))
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(logits, model(image))
    assert not maps.requires_grad


def test_the_named_layer_is_mapped_and_its_activations_in_place_change_nothing() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 4, stride=4),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 5, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()
    image = torch.randn(2, 3, *SIZE)
    classes = torch.tensor([1, 3])

    cam = Cam(model, SIZE, "0")
    maps = cam(image, classes)[1]

    grid = model[0](image).detach().requires_grad_()
    model[1:](grid.clone()).gather(1, classes[:, None]).sum().backward()
    assert grid.grad is not None
    expected = (grid * grid.grad.mean((2, 3), keepdim=True)).sum(1).clamp(min=0)
    assert cam.kind == "Grad-CAM"
    torch.testing.assert_close(maps, expected.detach())


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("resnet18", "CAM", "layer4"),
        ("mobilenet_v3_small", "Grad-CAM", "features"),  # two linear layers
    ],
)
def test_layers_before_the_classifiers_of_torchvision_are_taken(
    name: str, kind: str, layer: str
) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    cam = Cam(model, (64, 96))
    assert (cam.kind, cam.layer, cam.grid) == (kind, layer, (2, 3))


def small_transformer() -> nn.Module:
    return VisionTransformer(SIZE, embed_dim=24, depth=2, num_heads=2, num_classes=4).eval()


def test_a_transformer_is_asked_for_its_layer_and_told_which_layers_can_be_mapped() -> None:
    with pytest.raises(SystemExit) as refusal:
        Cam(small_transformer(), SIZE)
    assert str(refusal.value) == (
        "evaluate: `cam_layer` must be named, since tokens stand between the last grid and the "
        "classifier. Pass `--cam-layer` with a layer whose output has a grid for images of "
        "48 x 64 px, such as 'blocks.1.norm1', 'blocks.0', 'blocks.0.drop_path2'."
    )


def test_tokens_of_the_named_layer_are_a_grid_without_the_class_token() -> None:
    model = small_transformer()
    cam = Cam(model, SIZE, "blocks.1.norm1")
    assert (cam.kind, cam.grid) == ("Grad-CAM", (3, 4))
    image = torch.randn(2, 3, *SIZE)
    classes = torch.tensor([0, 2])
    maps = cam(image, classes)[1]
    kept = []
    hook = model.blocks[1].norm1.register_forward_hook(lambda _m, _x, y: kept.append(y))
    chosen = model(image.requires_grad_()).gather(1, classes[:, None]).sum()
    hook.remove()
    (slope,) = torch.autograd.grad(chosen, kept[0])
    expected = (kept[0][:, 1:] * slope[:, 1:].mean(1, keepdim=True)).sum(2).clamp(min=0)
    torch.testing.assert_close(maps, expected.detach().reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        ("blocks.9", "name a layer that runs, got 'blocks.9'"),
        ("head", "have a grid of pixels, got 'head'"),
        ("blocks.1", "reach the logits by its grid, got 'blocks.1'"),  # its class token alone
    ],
)
def test_layers_that_cannot_be_mapped_are_refused(layer: str, rule: str) -> None:
    with pytest.raises(SystemExit, match=rule) as refusal:
        Cam(small_transformer(), SIZE, layer)
    assert "such as 'blocks.1.norm1'" in str(refusal.value)


def test_heat_spans_zero_to_one_and_a_constant_map_is_zero() -> None:
    maps = torch.stack([torch.tensor([[-2.0, 6.0], [2.0, 2.0]]), torch.full((2, 2), 3.0)])
    large = heat(maps, (4, 6))
    assert large.shape == (2, 4, 6)
    assert (large[0].min(), large[0].max()) == (0, 1)
    assert large[0, 0, 0] == 0
    assert large[0, 0, 5] == 1
    assert not large[1].any()


# Boxes of maps


def brute_pieces(mask: np.ndarray) -> list[tuple[tuple[int, int, int, int], int]]:
    """Boxes and sizes of pieces connected by sides or corners, by flooding."""
    height, width = mask.shape
    left = {(y, x) for y in range(height) for x in range(width) if mask[y, x]}
    pieces = []
    while left:
        edge, piece = [left.pop()], []
        while edge:
            y, x = edge.pop()
            piece.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        ys, xs = zip(*piece, strict=True)
        pieces.append(((min(xs), min(ys), max(xs) + 1, max(ys) + 1), len(piece)))
    return pieces


@cache
def brute_iou(box: tuple[int, ...], other: tuple[int, ...]) -> float:
    def pixels(corners: tuple[int, ...]) -> set[tuple[int, int]]:
        x0, y0, x1, y1 = corners
        return {(y, x) for y in range(y0, y1) for x in range(x0, x1)}

    return len(pixels(box) & pixels(other)) / len(pixels(box) | pixels(other))


def blobs(rng: np.random.Generator) -> np.ndarray:
    small = torch.from_numpy(rng.random((1, 4, 5))).float()
    return heat(small, (14, 19))[0].numpy()


def test_boxes_lie_around_pieces_connected_by_sides_or_corners() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        image_heat = rng.random((9, 13)).round(2)
        boxes, sizes = boxes_of(image_heat, 0.7)
        pieces = [(tuple(box), size) for box, size in zip(boxes.tolist(), sizes, strict=True)]
        assert sorted(pieces) == sorted(brute_pieces(image_heat > 0.7))
    assert boxes_of(np.zeros((4, 5)), 0.0)[0].shape == (0, 4)


def test_ious_are_shares_of_pixels() -> None:
    rng = np.random.default_rng(1)
    low = rng.integers(0, 6, (8, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 7, (8, 2))], axis=1)
    expected = [[brute_iou(tuple(a), tuple(b)) for b in boxes[:3]] for a in boxes]
    np.testing.assert_allclose(ious(boxes, boxes[:3]), expected)


def test_numbers_equal_those_of_a_search_through_every_threshold_and_piece() -> None:
    pixels, label = noise(7)
    subject = subject_of(Pooled().eval())
    rng = np.random.default_rng(3)
    corners = []
    for count in rng.integers(1, 3, 7):
        low = rng.integers(0, (WIDTH // 8, HEIGHT // 8), (count, 2))
        sides = rng.integers((9, 9), (7 * WIDTH // 8, 7 * HEIGHT // 8), (count, 2))
        corners.append(np.concatenate([low, low + sides], axis=1))
    boxes = Boxes(corners, [[0] * len(row) for row in corners])

    result = measure_localisation(subject, images_of(pixels, label), boxes)

    shares = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255).float()
    image = (shares - subject.mean) / subject.std
    logits, maps = Cam(subject.model, subject.size)(image, torch.from_numpy(label))
    heats = heat(maps, subject.size).numpy()
    complete = (0, 0, WIDTH, HEIGHT)
    of_image = np.array([max(brute_iou(complete, tuple(t)) for t in c.tolist()) for c in corners])
    every = np.zeros((7, len(THRESHOLDS)))
    largest, fixed = every.copy(), np.zeros(7)
    for row, (image_heat, truth) in enumerate(zip(heats, corners, strict=True)):
        for column, threshold in [*enumerate(THRESHOLDS), (-1, 0.2)]:
            pieces = brute_pieces(image_heat > threshold)
            hits = [max(brute_iou(box, tuple(t)) for t in truth.tolist()) for box, _ in pieces]
            main = hits[int(np.argmax([size for _, size in pieces]))]
            if column == -1:
                fixed[row] = main
            else:
                every[row, column], largest[row, column] = max(hits), main
    is_right = (logits.argmax(1).numpy() == label) & (fixed >= 0.5)
    parts = [(every >= iou).mean(0).max() for iou in (0.3, 0.5, 0.7)]
    expected = {
        "gt_known": (fixed >= 0.5).mean(),
        "top1_localisation": is_right.mean(),
        "max_box_acc": (largest >= 0.5).mean(0).max(),
        "max_box_acc_v2": np.mean(parts),
        "whole_image_v2": np.mean([(of_image >= iou).mean() for iou in (0.3, 0.5, 0.7)]),
        **{f"max_box_acc_v2_iou{100 * i:.0f}": p for i, p in zip(IOUS, parts, strict=True)},
    }
    assert dict(result.numbers) == pytest.approx(expected)
    assert 0 < expected["gt_known"] < 1
    for name, values in result.samples.items():
        assert values.shape == (7,)
        assert values.mean() == pytest.approx(result.numbers[name])
    assert result.notes[0] == "CAM of layer features, a grid of 6 x 8."


def test_a_box_outside_its_image_is_never_met() -> None:
    image_heat = blobs(np.random.default_rng(0))
    best, largest = overlaps(image_heat, np.zeros((0, 4)), [0.2, 0.5])
    assert not best.any()
    assert not largest.any()


class Bright(nn.Module):
    """A classifier that sees every class where the image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Identity()
        self.head = nn.Linear(3, 2)
        nn.init.ones_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pixels(x).mean((2, 3)))


def test_boxes_follow_the_resizing_of_images_of_other_shapes(tmp_path: Path) -> None:
    """Bright rectangles are found at every shape; a crop of the centre would lose some."""
    rng = np.random.default_rng(5)
    lines = ["path,x0,y0,x1,y1"]
    for number in range(6):
        height, width = rng.integers(60, 200, 2)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        tall, wide = rng.integers(20, height // 2), rng.integers(20, width // 2)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[top : top + tall, left : left + wide] = 255
        path = tmp_path / "val" / f"class_{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        name = path.relative_to(tmp_path / "val")
        lines.append(f"{name},{left},{top},{left + wide},{top + tall}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    source, boxes = read_boxes(tmp_path / "boxes.csv", FileList.from_folder(tmp_path / "val"))
    images = type(images_of(*noise(2)))(source, 4, 1)

    result = measure_localisation(subject_of(Bright().eval()), images, boxes, threshold=0.5)

    assert result.numbers["gt_known"] == 1
    assert result.numbers["max_box_acc_v2"] == 1
    with Image.open(io.BytesIO(result.pictures[0].png)) as picture:
        assert picture.format == "PNG"


# Mixed images


def test_a_mixed_image_shows_the_other_class_in_half_of_its_area() -> None:
    image, other = torch.full((3, 40, 60), 1.0), torch.full((3, 40, 60), 3.0)
    plain, blended, erased, cut = mixed_images(image, other)
    assert torch.equal(plain, image)
    assert torch.equal(blended, torch.full_like(image, 2.0))
    assert torch.equal(erased == 0, cut == 3)
    assert float((cut == 3).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(image, torch.full((3, 40, 60), 1.0))


def test_mixed_images_of_each_pair_of_classes_are_drawn() -> None:
    pixels, label = noise(12)
    result = measure_mixed_cam(subject_of(Pooled().eval()), images_of(pixels, label), num_pairs=2)
    assert len(result.pictures) == len(set(label.tolist())) // 2
    assert not result.numbers


def test_mixed_images_of_one_class_are_refused() -> None:
    pixels, label = noise(4)
    with pytest.raises(SystemExit, match="images of at least two classes, got images of 1"):
        measure_mixed_cam(subject_of(Pooled().eval()), images_of(pixels, 0 * label))
