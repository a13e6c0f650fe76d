"""Targets of a loader: annotations, several by name, and the way from a stored image to a view."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    Compose,
    CutMix,
    DataLoader,
    EvalTransform,
    ImageArrays,
    Masks,
    MixedTarget,
    MixUp,
    TrainTransform,
    Views,
)
from dali_cutmix.augmentations import (
    AugMix,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    Pad,
    RandAugment,
    RandomAffine,
    RandomApply,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    ResizeKeepRatio,
    SquareCrop,
    SquarePad,
    TrimBorder,
    TrivialAugment,
)

SIZE = (48, 64)
CROP = TrainTransform(SIZE)
RESIZE = Resize((90, 100))


def places(num_images: int = 10) -> ImageArrays:
    """Images whose red and green levels are the column and the row of each pixel."""
    rng, images = np.random.default_rng(0), []
    for _ in range(num_images):
        height, width = rng.integers(100, 180, 2)
        row, column = np.mgrid[:height, :width]
        images.append(np.stack([column, row, np.full_like(row, 255)], axis=2).astype(np.uint8))
    return ImageArrays(images, np.arange(num_images) % 3)


@dataclass(frozen=True)
class Seen:
    """A user's annotation: hands on what it is told."""

    num: int
    needs_matrix: bool = True
    takes_blends: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.num

    def target(self, shown: Any, /) -> Any:
        return shown


@pytest.mark.parametrize(
    "transform",
    [
        CROP,
        TrainTransform(SIZE, pad=4),
        TrainTransform(SIZE, pad=4, resize=80),
        TrainTransform(SIZE, pad=0, resize=SIZE),
        EvalTransform(80, SIZE),
        EvalTransform((81, 90), SIZE),
        Compose([RandomResizedCrop(SIZE), RandomHorizontalFlip(), RandomVerticalFlip()]),
        Compose([Resize(80), RandomCrop(SIZE, padding=6)]),
        Compose([Resize(81), CenterCrop(SIZE)]),
        Compose([RandomApply([Resize((90, 100))]), CenterCrop((110, 120))]),
        Compose([Pad((3, 5, 7, 9)), Resize((60, 70))]),
        Compose([SquarePad(), Resize((60, 60)), RandomApply([RandomVerticalFlip(1.0)])]),
        Compose([SquareCrop(), TrimBorder(4), ResizeKeepRatio(60), CenterCrop((50, 60))]),
        TrainTransform(SIZE, augment=[RandomRotation(30, "bilinear")]),
        Compose([RandomRotation(30, "bilinear", expand=True), Resize((90, 100))]),
        Compose([RandomApply([RandomAffine(20, (0.1, 0.2), (0.8, 1.2), (-9, 9, -5, 5))]), RESIZE]),
    ],
    ids=str,
)
def test_matrix_says_where_each_point_of_a_stored_image_is_shown(transform: Any) -> None:
    images = places()
    loader = DataLoader(
        images, 4, transform=transform, target=Seen(10), dtype=torch.uint8, device="cpu"
    )
    for served, shown in loader:
        height, width = shown.size
        assert (height, width) == served.shape[2:]
        rows, columns = (axis.ravel() for axis in np.mgrid[3 : height - 3, 3 : width - 3])
        points = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)])
        for image, matrix in zip(served.numpy(), shown.matrix, strict=True):
            inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
            column, row, _ = inverse @ points - 0.5
            level = image[:, rows, columns].astype(float)
            inside = level[2] == 255  # beyond the image there is black
            # Levels are rounded, by Pillow's turns down, and blurred where a border was added.
            levels = 1.6 if "Rotation" in str(transform) or "Affine" in str(transform) else 0.8
            tolerance = levels * max(1, np.abs(inverse[:2, :2]).max())
            assert np.percentile(np.abs(level[0] - column)[inside], 99) < tolerance
            assert np.percentile(np.abs(level[1] - row)[inside], 99) < tolerance
            assert inside.mean() > 0.2


def test_target_of_several_annotations_is_a_dictionary_in_the_order_of_their_names() -> None:
    masks = Masks([np.full(image.shape[:2], 7, np.uint8) for image in stored(places())])
    target = {"mask": masks, "classes": "dense", "pair": "pair"}
    loader = DataLoader(
        places(), 4, transform=CROP, mix=CutMix(), target=target, device="cpu", with_plan=True
    )
    for image, served, plan in loader:
        assert list(served) == ["mask", "classes", "pair"]
        assert served["mask"].shape == (len(image), *SIZE)
        assert served["mask"].dtype == torch.int64
        assert (served["mask"] == 7).all()
        assert served["classes"].shape == (len(image), 3)
        assert isinstance(served["pair"], MixedTarget)
        assert torch.equal(served["pair"].weight, plan.weight)


def stored(images: ImageArrays) -> list[np.ndarray]:
    return [images.stored(index) for index in range(len(images))]


def test_views_have_a_mask_each_and_share_a_target_that_no_crop_changes() -> None:
    masks = Masks([image[..., 0] // 2 for image in stored(places())])
    views = Views([CROP, EvalTransform(70, (40, 50), interpolation="nearest")])
    target = {"mask": masks, "place": Seen(10), "label": "label", "ids": Seen(10, False)}
    loader = DataLoader(places(), 4, transform=views, target=target, device="cpu")
    for image, served in loader:
        assert [mask.shape[1:] for mask in served["mask"]] == [SIZE, (40, 50)]
        assert [shown.size for shown in served["place"]] == [SIZE, (40, 50)]
        assert served["label"].shape == (len(image[0]),)
        assert served["ids"].indices.tolist() == loader.batch_indices


@pytest.mark.parametrize("ignore", [255, 0, 60_000])
def test_masks_follow_every_operation_that_moves_pixels(ignore: int) -> None:
    """Images show their mask: ten levels a class, in blocks larger than a pixel's neighbourhood."""
    rng = np.random.default_rng(1)
    dtype = np.uint16 if ignore > 255 else np.uint8
    blocks = [np.kron(rng.integers(1, 9, (9, 12)), np.ones((16, 16), int)) for _ in range(6)]
    masks = [mask.astype(dtype) for mask in blocks]
    images = [np.repeat(mask[..., None] * 20, 3, axis=2).astype(np.uint8) for mask in blocks]
    warps = (RandomRotation, RandomAffine)
    moving = [
        [RandomRotation(40)],
        [RandomAffine(20, (0.1, 0.2), (0.8, 1.2), 9)],
        [RandomApply([RandomAffine(0, (0.3, 0.2))]), RandomHorizontalFlip()],
        [TrivialAugment()],
        [RandAugment(2)],
        [AutoAugment()],
    ]
    num_ignored = 0
    for augment in moving:
        loader = DataLoader(
            ImageArrays(images, np.zeros(6, int)),
            3,
            transform=TrainTransform((100, 140), augment=augment, scale=(0.5, 1)),
            target={"mask": Masks(masks, ignore=ignore), "place": Seen(6)},
            dtype=torch.uint8,
            device="cpu",
        )
        for image, served in loader:
            indices, matrices = served["place"].indices, served["place"].matrix
            for pixels, mask, index, matrix in zip(
                image[:, 0].numpy(), served["mask"].numpy(), indices, matrices, strict=True
            ):
                rows, columns = (axis.ravel() for axis in np.mgrid[:100, :140])
                points = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)])
                column, row, _ = np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ points
                is_between = [np.abs((axis + 8) % 16 - 8) < 2 for axis in (row, column)]
                is_shown, classes = mask.ravel() != ignore, mask.ravel()
                is_sure = is_shown & ~is_between[0] & ~is_between[1]
                block = blocks[index][row[is_sure].astype(int), column[is_sure].astype(int)]
                assert (classes[is_sure] == block).all()
                num_ignored += (~is_shown).sum()
                if all(isinstance(step, warps) for step in augment):
                    # Beyond the image pixels are black. A border may be one pixel off.
                    assert np.mean(is_shown == (pixels.ravel() > 0)) > 0.97
    assert num_ignored > 1000


def test_mask_is_resized_by_the_pixel_whose_centre_is_nearest() -> None:
    mask = np.random.default_rng(0).integers(0, 200, (70, 90), np.uint8)
    images = ImageArrays(np.zeros((2, 70, 90, 3), np.uint8), [0, 0])
    for size in ((48, 64), (140, 45), (35, 200)):
        loader = DataLoader(
            images, 2, transform=EvalTransform(size, size), target=Masks([mask] * 2), device="cpu"
        )
        ((_, served),) = loader
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(mask)[None, None], size, mode="nearest-exact"
        )
        assert torch.equal(served[1], expected[0, 0].long())


def test_paths_without_classes_serve_annotations_and_nothing_that_needs_a_class(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(path)
    masks = Masks([np.full((20, 30), number, np.uint8) for number in range(3)])
    keep = EvalTransform((20, 30), (20, 30))
    loader = DataLoader(
        paths, 2, transform=keep, target=masks, dtype=torch.uint8, shuffle=True, device="cpu"
    )
    for image, mask in loader:
        assert torch.equal(image[:, 0].long(), mask)
    folder = DataLoader(
        tmp_path, 2, transform=keep, target=masks, dtype=torch.uint8, shuffle=True, device="cpu"
    )
    assert len(folder) == 2
    for image, mask in folder:
        assert torch.equal(image[:, 0].long(), mask)
    with pytest.raises(FileNotFoundError, match=r"holds images \(3\) and no subfolder"):
        DataLoader(tmp_path, 2, transform=keep)
    message = (
        f"DataLoader: `source[0]` must be (path, class), got {str(paths[0])!r}. "
        "An annotation as `target`, such as Masks, needs no class."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DataLoader(paths, 2, transform=keep)


def test_annotation_of_other_images_is_refused() -> None:
    message = (
        "DataLoader: `target['few']` must belong to the 10 images of the source, got Seen of 9 "
        "images. An annotation holds an item for each image, in the order of the source."
    )
    target = {"all": Seen(10), "few": Seen(9)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DataLoader(places(), 4, transform=CROP, target=target, device="cpu")


@pytest.mark.parametrize("target", [{}, {3: "label"}, 5, "classes", Seen, {"mask": None}], ids=str)
def test_what_is_no_target_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match=r"^DataLoader: `target"):
        DataLoader(places(), 4, transform=CROP, target=target, device="cpu")


@dataclass(frozen=True)
class Mirror:
    """A user's augmentation from before there were masks."""

    def draw(self, draws: Any, _frame: Any) -> Any:
        return np.zeros(draws.num_samples, np.int32)

    def operate(self, sample: Any, _plan: Any, _frame: Any) -> Any:
        return sample


@pytest.mark.parametrize(
    "step", [RandomPerspective(), AugMix(), Mirror(), RandomApply([Mirror()])], ids=str
)
def test_steps_that_would_leave_masks_behind_are_refused(step: Any) -> None:
    transform = TrainTransform(SIZE, augment=[ColorJitter(0.4), step, RandomErasing()])
    with pytest.raises(ValueError, match=re.escape(f"got [{step!r}]")):
        DataLoader(places(), 4, transform=transform, target=Seen(10), device="cpu")
    DataLoader(places(), 4, transform=transform, target=Seen(10, False), device="cpu")


def test_mix_that_blends_is_refused_with_masks() -> None:
    masks = Masks([np.zeros(image.shape[:2], np.uint8) for image in stored(places())])
    with pytest.raises(ValueError, match="`mix` must copy pixels where `target` holds Masks"):
        DataLoader(places(), 4, transform=CROP, mix=MixUp(), target=masks, device="cpu")


@dataclass(frozen=True)
class Forgetful(CutMix):
    """A mix that makes a sample of the image alone."""

    def operate(self, sample: Any, plan: Any, frame: Any) -> Any:
        return replace(super().operate(sample, plan, frame), masks=())


def test_mix_that_drops_the_masks_is_refused() -> None:
    masks = Masks([np.zeros(image.shape[:2], np.uint8) for image in stored(places())])
    loader = DataLoader(places(), 4, transform=CROP, mix=Forgetful(), target=masks, device="cpu")
    with pytest.raises(TypeError, match=r"^Forgetful\.operate: must return a Sample with the mask"):
        next(iter(loader))
