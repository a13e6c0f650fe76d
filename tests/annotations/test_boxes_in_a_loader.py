"""Boxes that a loader serves, compared with boxes that are painted into the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from dali_cutmix import (
    RICAP,
    Boxes,
    Chain,
    Compose,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    FMix,
    GridMix,
    ImageArrays,
    MixUp,
    ResizeMix,
    Shard,
    TrainTransform,
    Views,
    mix_batch,
)
from dali_cutmix.augmentations import (
    CenterCrop,
    Pad,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    SquarePad,
)

SIZE = (48, 64)
NUM = 11
#: Copies pixels, so that painted boxes keep their edges.
COPYING = Compose([RandomCrop(SIZE, padding=5), RandomHorizontalFlip(), RandomVerticalFlip()])


class Scene:
    """Images with up to three boxes, which no box of the image meets; red names the box.

    Attributes:
        pixels: The images, upright, of different sizes.
        corners: Boxes of each image, in whole pixels.
        rows: Number of each box, which is its red level; every other pixel has red 0.
    """

    def __init__(self, seed: int = 0, num: int = NUM) -> None:
        rng = np.random.default_rng(seed)
        self.pixels: list[np.ndarray] = []
        self.corners: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        row = 0
        for _ in range(num):
            height, width = rng.integers(70, 110, 2)
            image = np.zeros((height, width, 3), np.uint8)
            image[..., 2] = 200
            strip = width // 3
            boxes = []
            for place in range(rng.integers(0, 4)):
                x0 = place * strip + rng.integers(0, 8)
                x1 = (place + 1) * strip - rng.integers(0, 8)
                y0, y1 = rng.integers(0, 30), rng.integers(40, height + 1)
                row += 7
                image[y0:y1, x0:x1] = row, 255, 0
                boxes.append((x0, y0, x1, y1))
            self.pixels.append(image)
            self.corners.append(np.array(boxes).reshape(-1, 4))
            self.rows.append(np.arange(row - 7 * len(boxes) + 7, row + 1, 7))

    def boxes(self, **settings: Any) -> Boxes:
        labels = [np.full(len(rows), image) for image, rows in enumerate(self.rows)]
        return Boxes(self.corners, labels, fields={"row": self.rows}, **settings)

    def images(self) -> ImageArrays:
        return ImageArrays(self.pixels, np.zeros(len(self.pixels), int))

    def area(self, row: int) -> int:
        (x0, y0, x1, y1) = np.concatenate(self.corners)[row // 7 - 1]
        return int((x1 - x0) * (y1 - y0))


def painted(image: torch.Tensor) -> dict[int, tuple[list[int], int]]:
    """Rectangle around the pixels of each box in a served image, and their number."""
    red, green, blue = image.numpy()
    seen = {}
    for row in np.unique(red[(green == 255) & (blue == 0)]):
        rows, columns = np.nonzero((red == row) & (green == 255) & (blue == 0))
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        seen[int(row)] = ([int(corner) for corner in corners], len(rows))
    return seen


def loader_of(scene: Scene, transform: Any = COPYING, **settings: Any) -> DataLoader:
    settings = {"source": scene.images(), "batch_size": 4, "target": scene.boxes(), **settings}
    return DataLoader(
        settings.pop("source"),
        settings.pop("batch_size"),
        transform=transform,
        dtype=torch.uint8,
        device="cpu",
        shuffle=settings.pop("shuffle", True),
        **settings,
    )


def assert_painted(scene: Scene, image: torch.Tensor, target: list[dict[str, Any]]) -> int:
    """Every box that is painted is served, where it is painted, and no other."""
    assert len(image) == len(target)
    for pixels, of_image in zip(image, target, strict=True):
        expected = painted(pixels)
        assert sorted(of_image["row"].tolist()) == sorted(expected)
        columns = (of_image[name].tolist() for name in ("row", "boxes", "visible"))
        for row, corners, visible in zip(*columns, strict=True):
            assert corners == expected[row][0]
            assert visible == pytest.approx(expected[row][1] / scene.area(row), abs=1e-6)
    return sum(len(of_image["row"]) for of_image in target)


@pytest.mark.parametrize(
    "mix",
    [
        None,
        CutMix(),
        RICAP(),
        GridMix(3),
        FMix(),
        Chain([CutMix(), Cutout(2, prob=0.0), CutMix(partner="roll")]),
    ],
    ids=lambda mix: type(mix).__name__,
)
def test_boxes_are_where_they_are_painted(mix: Any) -> None:
    scene = Scene()
    loader = loader_of(
        scene, mix=mix, target=scene.boxes(min_visible=0), batch_size=5, drop_last=True
    )
    assert sum(assert_painted(scene, *batch) for batch in loader) > 10


@pytest.mark.parametrize(
    "steps",
    [
        [RandomCrop((40, 50)), Pad(9)],
        [RandomCrop((40, 50)), RandomHorizontalFlip(), RandomCrop(SIZE, padding=8)],
        [CenterCrop((30, 60)), SquarePad(), RandomVerticalFlip(), CenterCrop((40, 80))],
        [RandomCrop((40, 50)), RandomAffine(0, translate=(0.2, 0.2))],
        [RandomCrop((40, 50)), RandomRotation((180, 180)), Pad(4)],
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
def test_what_one_step_crops_away_no_later_step_brings_back(steps: list[Any]) -> None:
    scene = Scene()
    target = scene.boxes(min_visible=0)
    loader = loader_of(scene, Compose(steps), mix=CutMix(), target=target)
    assert sum(assert_painted(scene, *batch) for batch in loader) > 10


def test_boxes_end_where_the_stored_image_ends() -> None:
    images = ImageArrays([np.full((40, 60, 3), 9, np.uint8)] * 2, [0, 0])
    boxes = Boxes([[[-20, 10, 30, 90]]] * 2, [[0]] * 2, min_visible=0.2)
    transform = TrainTransform((60, 80), pad=10, resize=(40, 60), flip=0.0)
    (_, target), *_ = DataLoader(images, 2, transform=transform, target=boxes, device="cpu")
    for of_image in target:
        assert of_image["boxes"].tolist() == [[10, 20, 40, 50]]
        assert of_image["visible"].tolist() == pytest.approx([30 * 30 / (50 * 80)])


def test_boxes_of_a_short_last_batch_are_where_they_are_painted() -> None:
    scene = Scene()
    for batch_size in (2, 3, 10):
        target = {"boxes": scene.boxes(min_visible=0), "class": "dense"}
        loader = loader_of(scene, mix=CutMix(), target=target, batch_size=batch_size)
        assert len([assert_painted(scene, image, t["boxes"]) for image, t in loader]) >= 2


@pytest.mark.parametrize(
    "transform",
    [
        TrainTransform(SIZE),
        TrainTransform(SIZE, pad=4, resize=80),
        EvalTransform(66, SIZE),
        Compose([SquarePad(), Resize((50, 60))]),
        Compose([RandomResizedCrop(SIZE), RandomHorizontalFlip(), RandomVerticalFlip()]),
        Compose([Pad((3, 5, 7, 9)), Resize(70), CenterCrop(SIZE)]),
    ],
    ids=str,
)
def test_edges_of_boxes_lie_within_a_pixel_of_resized_ones(transform: Any) -> None:
    scene, num_seen = Scene(), 0
    for image, target in loader_of(scene, transform):
        for pixels, of_image in zip(image, target, strict=True):
            for row, corners in zip(*(of_image[n].tolist() for n in ("row", "boxes")), strict=True):
                red, green, _ = pixels.numpy().astype(int)
                rows, columns = np.nonzero((abs(red - row) <= 2) & (green > 250))
                if len(rows) < 16:
                    continue
                num_seen += 1
                ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert ends == pytest.approx(corners, abs=2.5)
    assert num_seen > 5


def test_resized_partner_brings_its_boxes() -> None:
    scene, num_seen = Scene(), 0
    for image, target in loader_of(scene, mix=ResizeMix(scale=(0.4, 0.8))):
        for pixels, of_image in zip(image, target, strict=True):
            own = of_image["labels"].mode().values if len(of_image["labels"]) else -1
            for label, row, corners in zip(
                *(of_image[name].tolist() for name in ("labels", "row", "boxes")), strict=True
            ):
                red, green, _ = pixels.numpy().astype(int)
                rows, columns = np.nonzero((abs(red - row) <= 2) & (green > 250))
                if label != own and len(rows) > 16:
                    num_seen += 1
                    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                    assert ends == pytest.approx(corners, abs=2.5)
    assert num_seen > 3


def test_boxes_of_a_deferred_mix_are_those_of_the_mixed_images() -> None:
    scene = Scene()
    target = scene.boxes(min_visible=0)
    loader = loader_of(scene, mix=Deferred(CutMix()), target=target, with_plan=True)
    for image, of_batch, plan in loader:
        assert_painted(scene, mix_batch(image, plan)[0], of_batch)


def test_blend_serves_boxes_of_both_images() -> None:
    scene = Scene()
    target = {"boxes": scene.boxes(min_visible=0.2), "pair": "pair"}
    loader = loader_of(scene, EvalTransform(SIZE, SIZE), mix=MixUp(), target=target)
    for _, served in loader:
        weights = served["pair"].weight
        indices = loader.batch_indices
        for sample, of_image in enumerate(served["boxes"]):
            for label, visible in zip(
                of_image["labels"].tolist(), of_image["visible"].tolist(), strict=True
            ):
                is_own = label == indices[sample]
                expected = weights[sample, 0 if is_own else 1]
                assert visible == pytest.approx(expected.item(), abs=1e-4)
                assert visible >= 0.2 - 1e-4


def saved(scene: Scene, folder: Path) -> list[Path]:
    """PNG files, each turned by another orientation of EXIF; upright they are the scene."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    paths = []
    for number, pixels in enumerate(scene.pixels):
        orientation = number % 8 + 1
        image, turn = Image.fromarray(pixels), back[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        paths.append(folder / f"{number}.png")
        (image if turn is None else image.transpose(turn)).save(paths[-1], exif=exif)
    return paths


def test_boxes_of_files_that_exif_turns_are_in_upright_pixels(tmp_path: Path) -> None:
    scene = Scene()
    loader = loader_of(
        scene, source=saved(scene, tmp_path), mix=CutMix(), target=scene.boxes(min_visible=0)
    )
    assert sum(assert_painted(scene, *batch) for batch in loader) > 10


def test_boxes_of_a_bad_file_are_replaced_with_the_image(tmp_path: Path) -> None:
    scene = Scene()
    paths = saved(scene, tmp_path)
    for number in (1, 6):
        paths[number].write_bytes(paths[number].read_bytes()[:60])
    # Without a mix, as the image in the place of another may be in its batch twice.
    target = scene.boxes(min_visible=0)
    loader = loader_of(scene, source=paths, target=target, on_error="replace")
    with pytest.warns(RuntimeWarning, match="replaced"):
        assert sum(assert_painted(scene, *batch) for batch in loader) > 10
    assert len(loader.bad_files) == 2
    assert sum(assert_painted(scene, *batch) for batch in loader) > 10


def flat(batches: Iterator[Any]) -> list[list[Any]]:
    return [
        [image.tolist(), [{n: v.tolist() for n, v in t.items()} for t in target]]
        for image, target in batches
    ]


def test_boxes_resume_to_the_bit() -> None:
    scene = Scene()
    first, other = (loader_of(scene, mix=CutMix(), seed=3) for _ in range(2))
    batches = iter(first)
    next(batches)
    state = first.state_dict()
    rest = flat(batches) + flat(iter(first))
    other.load_state_dict(state)
    assert flat(iter(other)) + flat(iter(other)) == rest


def test_ranks_serve_boxes_of_their_images() -> None:
    scene = Scene()
    seen: list[int] = []
    for rank in range(2):
        loader = loader_of(
            scene,
            shard=Shard(rank, 2),
            batch_size=3,
            mix=CutMix(),
            target=scene.boxes(min_visible=0),
        )
        for batch in loader:
            assert_painted(scene, *batch)
            seen += loader.batch_indices
    assert set(seen) == set(range(NUM))


def test_views_have_boxes_each() -> None:
    scene = Scene()
    views = Views([COPYING, Compose([RandomCrop((40, 50)), RandomHorizontalFlip()])])
    loader = loader_of(scene, views, target=scene.boxes(min_visible=0))
    for images, targets in loader:
        assert [assert_painted(scene, *view) for view in zip(images, targets, strict=True)]


def test_detection_model_of_torchvision_takes_what_is_served() -> None:
    torch.manual_seed(0)
    scene = Scene()
    backbone: Any = torch.nn.Conv2d(3, 8, 8, stride=8)
    backbone.out_channels = 8
    model = FasterRCNN(
        backbone,
        num_classes=NUM,
        min_size=48,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
    )
    transform = TrainTransform(SIZE, mean=(0, 0, 0), std=(255, 255, 255))
    loader = DataLoader(
        scene.images(), 4, transform=transform, mix=CutMix(), target=scene.boxes(), device="cpu"
    )
    image, target = next(iter(loader))
    losses = model.train()(list(image), target)
    assert all(torch.isfinite(loss) for loss in losses.values())
