"""A mask follows crop, flip, size and mix of its image, pixel by pixel.

Levels of the images are nearest pixels too, and tell class, image and place: what the loader does
to the image is the oracle of what has to happen to the mask.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import mask_kinds
from dali_cutmix import (
    RICAP,
    BadFileError,
    Boxes,
    Chain,
    Compose,
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    FMix,
    ImageArrays,
    Masks,
    MixPlan,
    RandomChoice,
    Rect,
    ResizeMix,
    Scheduled,
    Shard,
    TrainTransform,
    Views,
    draw_plan,
    mix_batch,
    mix_masks,
    paste,
)
from dali_cutmix.augmentations import (
    CenterCrop,
    ColorJitter,
    EraseSquares,
    Pad,
    RandomApply,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
    SquarePad,
)

# Where the centre of a pixel lies between two others, Pillow takes the upper left for images, and
# DALI the lower right for masks, as torch. Odd sides of whole images have no such pixels, nor have
# powers of 2 above all sides of crops.
SIZE = (64, 128)
NUM = 11  # images: batches of 4 end with one of 3
NEAREST = TrainTransform(SIZE, interpolation="nearest")


def mask_of(number: int) -> np.ndarray:
    """A mask of 20 classes by chance, with 71 to 109 rows and columns."""
    rng = np.random.default_rng(number)
    height, width = 2 * rng.integers(35, 55, 2) + 1
    return rng.integers(0, 20, (height, width))


def image_of(number: int) -> np.ndarray:
    """Levels are the class, the number of the image, and a level that is never 0."""
    mask = mask_of(number)
    levels = [mask, np.full_like(mask, number + 1), np.full_like(mask, 200)]
    return np.stack(levels, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """Paths of images and of masks, which are gray and of a palette by turns."""
    folder = tmp_path_factory.mktemp("files")
    images, masks = [], []
    for number in range(NUM):
        images.append(str(folder / f"{number}.png"))
        Image.fromarray(image_of(number)).save(images[-1])
        masks.append(str(folder / f"{number}.mask.png"))
        Path(masks[-1]).write_bytes(mask_kinds.png(mask_of(number), 8, palette=bool(number % 2)))
    return images, masks


def make(
    files: tuple[Sequence[str], Sequence[str]], batch_size: int = 4, **settings: Any
) -> DataLoader:
    images, masks = files
    target = settings.pop("target", Masks(masks))
    settings = {
        "shuffle": True,
        "transform": NEAREST,
        "dtype": torch.uint8,
        "device": "cpu",
        "num_workers": 2,
        **settings,
    }
    return DataLoader(images, batch_size, target=target, **settings)


def epoch(loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks of an epoch."""
    with loader:
        batches = list(loader)
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))  # type: ignore[return-value]


TRANSFORMS = [
    NEAREST,
    TrainTransform(SIZE, scale=(0.01, 0.1), interpolation="nearest"),
    TrainTransform(SIZE, pad=4, interpolation="nearest"),
    TrainTransform((90, 120), pad=30, resize=40, interpolation="nearest"),
    TrainTransform(SIZE, pad=0, resize=SIZE, interpolation="nearest"),
    EvalTransform(130, SIZE, interpolation="nearest"),
    EvalTransform((70, 140), SIZE, interpolation="nearest"),
    Compose(
        [
            RandomResizedCrop(SIZE, interpolation="nearest"),
            RandomHorizontalFlip(),
            RandomVerticalFlip(),
        ]
    ),
    Compose([Resize(60, interpolation="nearest"), RandomCrop(SIZE, padding=9)]),
    Compose([Pad((3, 5, 7, 9), fill=50), Resize(SIZE, interpolation="nearest")]),
    Compose([Pad(9, padding_mode="reflect"), CenterCrop(SIZE)]),
    Compose([Pad(9, padding_mode="edge"), CenterCrop((120, 30))]),
    Compose([SquarePad(), Resize((60, 40), interpolation="nearest")]),
    Compose([RandomApply([Resize((90, 100), interpolation="nearest")]), CenterCrop((110, 120))]),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_mask_shows_the_class_of_every_pixel_and_ignores_borders(
    files: tuple[list[str], list[str]], transform: Any
) -> None:
    image, mask = epoch(make(files, transform=transform))
    assert mask.shape == (NUM, *image.shape[2:])
    is_border = image[:, 2] != 200
    assert torch.equal(mask, torch.where(is_border, 255, image[:, 0].long()))


def test_largest_crops_keep_the_oracle_honest(files: tuple[list[str], list[str]]) -> None:
    """Without a crop and at their own size masks are those of the files, in the order served."""
    for number in range(NUM):
        size = mask_of(number).shape
        loader = make(
            ([files[0][number]], [files[1][number]]),
            1,
            transform=EvalTransform(size, size),
        )
        image, mask = epoch(loader)
        assert np.array_equal(mask[0].numpy(), mask_of(number))
        assert np.array_equal(image[0].permute(1, 2, 0).numpy(), image_of(number))


PASTING = [
    CutMix(),
    CutMix(prob=0.5, partner="flip"),
    RICAP(),
    Chain([CutMix(), CutMix()]),
    RandomChoice([CutMix(), RICAP()]),
    Scheduled(CutMix(), 1, prob=lambda t: t),
]


@pytest.mark.parametrize("mix", PASTING, ids=lambda mix: type(mix).__name__)
@pytest.mark.parametrize("transform", [NEAREST, TRANSFORMS[3]], ids=str)
def test_mask_is_pasted_where_the_image_is(
    files: tuple[list[str], list[str]], mix: Any, transform: Any
) -> None:
    image, mask = epoch(make(files, 5, mix=mix, transform=transform))
    is_border = image[:, 2] != 200
    assert torch.equal(mask, torch.where(is_border, 255, image[:, 0].long()))
    assert any(len(numbers.unique()) > 1 for numbers in image[:, 1])


ERASING = [Cutout(20), Chain([Cutout(20), CutMix()]), Chain([CutMix(), Cutout(20)])]


@pytest.mark.parametrize("mix", ERASING, ids=str)
def test_mask_keeps_its_classes_under_erased_pixels(
    files: tuple[list[str], list[str]], mix: Any
) -> None:
    image, mask = epoch(make(files, 5, mix=mix))
    is_erased = image[:, 2] != 200
    assert 0.02 < is_erased.float().mean() < 0.3
    assert torch.equal(mask[~is_erased], image[:, 0][~is_erased].long())
    assert (mask[is_erased] < 20).all()
    if isinstance(mix, Cutout):
        _, unmixed = epoch(make(files, 5))
        assert torch.equal(mask, unmixed)


@dataclass(frozen=True)
class ImageAlone:
    """A mix of a user that forgets the masks."""

    num_sources: ClassVar[int] = 2
    min_batch_size: ClassVar[int] = 2

    inner: Any
    unused: float = 0.0

    def draw(self, draws: Any, frame: Any) -> Any:
        return self.inner.draw(draws, frame)

    def operate(self, sample: Any, plan: Any, _frame: Any) -> Any:
        return replace(sample, image=paste(sample.image, plan))


@pytest.mark.parametrize("inner", [CutMix(), FMix()], ids=["rectangles", "cells"])
@pytest.mark.parametrize(
    "inside",
    [
        lambda mix: mix,
        lambda mix: RandomChoice([mix, CutMix()]),
        lambda mix: RandomChoice([CutMix(), mix]),
        lambda mix: Chain([CutMix(), mix]),
        lambda mix: Chain([mix, Cutout(side=2)]),
        lambda mix: Scheduled(mix, 2, unused=lambda t: t),
    ],
    ids=["alone", "chosen first", "chosen last", "chained last", "chained first", "scheduled"],
)
def test_mix_that_leaves_masks_where_they_were_is_refused(
    files: tuple[list[str], list[str]], inside: Any, inner: Any
) -> None:
    message = (
        "ImageAlone.operate: must mix masks as it mixes the image, since its plan has rectangles "
        "or cells. Write `sample.change(lambda pixels: paste(pixels, plan))`. A mix that only "
        "changes colours draws `put` without `taken`."
    )
    with (
        make(files, mix=inside(ImageAlone(inner))) as loader,
        pytest.raises(TypeError, match=f"^{re.escape(message)}$"),
    ):
        next(iter(loader))


@dataclass(frozen=True)
class Negative:
    """A mix of a user that changes colours only."""

    num_sources: ClassVar[int] = 1

    def draw(self, draws: Any, frame: Any) -> MixPlan:
        num_samples = draws.num_samples
        corner, sides = np.zeros((2, num_samples, 1, 2), np.int32)
        sides += frame.size
        source = np.arange(num_samples, dtype=np.int32)[:, None]
        weight = np.ones((num_samples, 1), np.float32)
        return MixPlan(source, weight, frame.size, put=Rect(corner, sides))

    def operate(self, sample: Any, _plan: Any, frame: Any) -> Any:
        return replace(sample, image=sample.image ^ frame.constant(np.uint8(255)))


@pytest.mark.parametrize(
    "inside",
    [
        lambda mix: mix,
        lambda mix: RandomChoice([mix, CutMix()]),
        lambda mix: Chain([mix, CutMix()]),
        lambda mix: Chain([CutMix(), RandomChoice([mix, CutMix()])]),
    ],
    ids=["alone", "chosen", "chained", "chosen in a chain"],
)
def test_masks_boxes_and_labels_stay_where_a_mix_only_changes_colours(
    files: tuple[list[str], list[str]], inside: Any
) -> None:
    def batches(mix: Any) -> tuple[torch.Tensor, list[Any]]:
        pairs = [(path, number % 3) for number, path in enumerate(images)]
        boxes = Boxes([[[0, 0, 40, 30]]] * len(images), [[1]] * len(images))
        target = {"mask": Masks(masks), "boxes": boxes, "label": "dense"}
        with make((pairs, masks), target=target, mix=inside(mix)) as loader:
            served = list(loader)
        targets = [[t["mask"].tolist(), t["label"].tolist(), str(t["boxes"])] for _, t in served]
        return torch.cat([image for image, _ in served]), targets

    images, masks = files
    (image, targets), (unchanged, wanted) = batches(Negative()), batches(Cutout(2, prob=0.0))
    assert targets == wanted
    is_negative = (image != unchanged).flatten(1).any(1)
    assert is_negative.any()
    assert torch.equal(image[is_negative], 255 - unchanged[is_negative])


def test_a_plan_that_does_not_say_its_colour_is_refused_in_torch_and_leaves_masks() -> None:
    plan = draw_plan(Negative(), 3, (4, 6), seed=0, epoch=0, batch=0)
    pixels = torch.full((3, 3, 4, 6), 9, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^mix_batch: `plan` must say what fills its rectangles"):
        mix_batch(pixels, plan)
    assert torch.equal(mix_masks(pixels[:, 0], plan), pixels[:, 0])


def test_resized_partner_is_resized_by_the_nearest_pixel(
    files: tuple[list[str], list[str]],
) -> None:
    settings = {"mix": ResizeMix(), "with_plan": True}
    with make(files, 5) as plain, make(files, 5, **settings) as mixing:
        for (_, unmixed), (_, mask, plan) in zip(plain, mixing, strict=True):
            want, is_tie = unmixed.clone(), torch.zeros_like(unmixed, dtype=torch.bool)
            for number, (source, anchor, extent) in enumerate(
                zip(plan.source[:, 1], plan.put.anchor[:, 1], plan.put.extent[:, 1], strict=True)
            ):
                (y, x), (height, width) = anchor.tolist(), extent.tolist()
                rows, tied_rows = nearest(SIZE[0], height)
                columns, tied_columns = nearest(SIZE[1], width)
                inside = number, slice(y, y + height), slice(x, x + width)
                want[inside] = unmixed[source][rows][:, columns]
                is_tie[inside] = tied_rows[:, None] | tied_columns
            assert torch.equal(mask[~is_tie], want[~is_tie])
            assert is_tie.float().mean() < 0.1


def nearest(side: int, new: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Index of the pixel nearest to each new one, and whether another is as near."""
    twice = (2 * torch.arange(new) + 1) * side
    return twice // (2 * new), twice % (2 * new) == 0


@pytest.mark.parametrize(
    "steps",
    [
        [ColorJitter(0.4, 0.4, 0.4, 0.1)],
        [RandomErasing(1.0), EraseSquares(8, 2)],
    ],
    ids=str,
)
def test_steps_that_move_no_pixel_leave_the_mask(
    files: tuple[list[str], list[str]], steps: Any
) -> None:
    transform = TrainTransform(SIZE, interpolation="nearest", augment=steps)
    plain_image, plain = epoch(make(files))
    image, mask = epoch(make(files, transform=transform))
    assert torch.equal(mask, plain)
    assert not torch.equal(image, plain_image)


def test_ignored_pixels_travel_with_a_mix() -> None:
    masks = [np.full((60, 70), number, np.uint8) for number in range(4)]
    for mask in masks:
        mask[::3] = 255
    images = [np.stack([mask] * 3, axis=2) for mask in masks]
    loader = make((ImageArrays(images, [0] * 4), masks), mix=CutMix(), transform=NEAREST)
    image, mask = epoch(loader)
    assert torch.equal(mask, image[:, 0].long())
    assert (mask == 255).float().mean() > 0.2


@pytest.mark.parametrize("most", [255, 60_000, 2**31])
def test_masks_of_each_depth_are_cropped_flipped_and_pasted(most: int) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, most + 1, (71, 80 + n)).astype(np.uint32) for n in range(6)]
    # Levels of an image tell the upper 8 bits of a class, and its lower 16.
    levels = [[mask >> 24, mask >> 8 & 255, mask & 255] for mask in masks]
    images = ImageArrays([np.stack(parts, 2).astype(np.uint8) for parts in levels], [0] * 6)
    loader = make((images, masks), 5, target=Masks(masks, bits=32), mix=CutMix())
    image, mask = epoch(loader)
    high, middle, low = image.long().unbind(1)
    assert torch.equal(mask & ~0xFF0000, high << 24 | middle << 8 | low)


def test_views_have_masks_of_their_own_crops(files: tuple[list[str], list[str]]) -> None:
    small = TrainTransform((128, 64), interpolation="nearest")
    with make(files, transform=Views([NEAREST, small, NEAREST])) as loader:
        for images, masks in loader:
            for image, mask in zip(images, masks, strict=True):
                assert torch.equal(mask, image[:, 0].long())
            assert not torch.equal(masks[0], masks[2])


def test_masks_and_classes_come_together(files: tuple[list[str], list[str]]) -> None:
    images, masks = files
    pairs = [(path, number % 3) for number, path in enumerate(images)]
    both = {"mask": Masks(masks), "again": Masks(masks, -1), "label": "dense"}
    with make((pairs, masks), 5, target=both, mix=CutMix(), with_plan=True) as loader:
        for image, target, plan in loader:
            assert torch.equal(target["mask"], image[:, 0].long())
            assert torch.equal(target["mask"], target["again"])
            labels = torch.tensor(loader.batch_indices) % 3
            want = torch.zeros(len(image), 3)
            want.scatter_add_(1, labels[plan.source.long()], plan.weight)
            torch.testing.assert_close(target["label"], want)


def test_masks_change_neither_images_nor_plans(files: tuple[list[str], list[str]]) -> None:
    pairs = [(path, 0) for path in files[0]]
    settings = {"mix": CutMix(), "with_plan": True}
    with (
        make((pairs, files[1]), **settings) as with_masks,
        make((pairs, files[1]), target="dense", **settings) as without,
    ):
        for (image, _, plan), (image_without, _, plan_without) in zip(
            with_masks, without, strict=True
        ):
            assert torch.equal(image, image_without)
            assert torch.equal(plan.put.extent, plan_without.put.extent)


def test_masks_are_equal_for_any_threads_and_prefetch(files: tuple[list[str], list[str]]) -> None:
    image, mask = epoch(make(files, mix=CutMix()))
    for num_workers, prefetch in ((1, 1), (3, 2), (1, 7)):
        loader = make(files, mix=CutMix(), num_workers=num_workers, prefetch=prefetch)
        again_image, again = epoch(loader)
        assert torch.equal(image, again_image)
        assert torch.equal(mask, again)


def test_run_is_resumed_bit_identical_with_masks(files: tuple[list[str], list[str]]) -> None:
    with make(files, mix=CutMix()) as loader:
        batches = [batch for _ in range(2) for batch in loader]
    with make(files, mix=CutMix()) as first:
        for number, _ in enumerate(first, 1):
            if number == 2:
                state = first.state_dict()
                break
    with make(files, mix=CutMix(), num_workers=1) as resumed:
        resumed.load_state_dict(state)
        rest = [batch for _ in range(2) for batch in resumed]
    assert len(rest) == len(batches) - 2
    for (image, mask), (again_image, again) in zip(batches[2:], rest, strict=True):
        assert torch.equal(image, again_image)
        assert torch.equal(mask, again)


def test_cache_of_masks_changes_no_batch_and_no_state(files: tuple[list[str], list[str]]) -> None:
    with make(files, mix=CutMix()) as loader:
        batches = [batch for _ in range(2) for batch in loader]
    cached = Masks(files[1], cache=True)
    with make(files, mix=CutMix(), target=cached) as first:
        for number, _ in enumerate(first, 1):
            if number == 2:
                state = first.state_dict()
                break
    for masks in (cached, Masks(files[1])):
        with make(files, mix=CutMix(), target=masks) as resumed:
            resumed.load_state_dict(state)
            rest = [batch for _ in range(2) for batch in resumed]
        assert len(rest) == len(batches) - 2
        for (image, mask), (again_image, again) in zip(batches[2:], rest, strict=True):
            assert torch.equal(image, again_image)
            assert torch.equal(mask, again)


def test_copies_of_masks_begin_with_an_empty_cache(files: tuple[list[str], list[str]]) -> None:
    masks = Masks(files[1], cache=True)
    before = len(pickle.dumps(masks))
    loader = make(files, target=masks)
    epoch(loader)
    assert len(pickle.dumps(masks)) < before + 1000
    twins = [pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks), masks.take(range(NUM))]
    for twin in twins:
        image, mask = epoch(make(files, target=twin))
        assert torch.equal(mask, image[:, 0].long())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_share_a_cache_by_a_fork_keep_masks_of_their_own(
    files: tuple[list[str], list[str]],
) -> None:
    masks = Masks(files[1], cache=True)
    masks.stored(0)

    def keep(numbers: list[int]) -> None:
        for number in numbers:
            masks.stored(number)

    def are_right(numbers: list[int]) -> bool:
        return all(np.array_equal(masks.stored(n)[..., 0], mask_of(n)) for n in numbers)

    child = os.fork()
    if not child:
        status = 1
        try:
            keep([4, 5, 6])
            status = not are_right([0, 4, 5, 6])
        finally:
            os._exit(status)
    keep([1, 2, 3])
    assert os.waitpid(child, 0)[1] == 0
    assert are_right([0, 1, 2, 3])
    masks.close()


def test_state_of_a_run_with_other_masks_is_refused(files: tuple[list[str], list[str]]) -> None:
    with make(files) as loader:
        next(iter(loader))
        state = loader.state_dict()
    make(files).load_state_dict(state)
    others = [Masks(files[1][::-1]), Masks(files[1], 0), Masks(files[1], classes={3: 1})]
    for masks in others:
        with pytest.raises(ValueError, match="data"):
            make(files, target=masks).load_state_dict(state)


def test_ranks_serve_the_masks_of_their_own_images(files: tuple[list[str], list[str]]) -> None:
    served = []
    for rank in range(2):
        loader = make(files, 3, mix=CutMix(), shard=Shard(rank, 2), remainder="exact")
        image, mask = epoch(loader)
        assert torch.equal(mask, image[:, 0].long())
        served.append(len(mask))
    assert served == [6, 5]


def test_loader_with_masks_is_copied_and_pickled(files: tuple[list[str], list[str]]) -> None:
    loader = make(files, mix=CutMix())
    twin = pickle.loads(pickle.dumps(loader))
    image, mask = epoch(loader)
    again_image, again = epoch(twin)
    assert torch.equal(image, again_image)
    assert torch.equal(mask, again)


@pytest.mark.parametrize("cache", [False, True])
def test_masks_turned_by_exif_and_images_turned_by_exif_meet_upright(
    tmp_path: Path, cache: bool
) -> None:
    mask = mask_of(0).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(mask))  # what a turn by 270 degrees makes upright
    rgb = Image.fromarray(np.stack([turned] * 3, 2))
    palette = mask_kinds.with_palette(turned)
    rgb.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(turned).save(tmp_path / "a.mask.png", exif=exif)
    palette.save(tmp_path / "b.mask.png", exif=exif)
    Image.fromarray(mask).save(tmp_path / "c.mask.png")
    images = [str(tmp_path / "a.png")] * 3
    masks = [str(tmp_path / f"{name}.mask.png") for name in "abc"]
    image, target = epoch(make((images, masks), target=Masks(masks, cache=cache)))
    assert torch.equal(target, image[:, 0].long())


# Bad masks


def bad_masks() -> dict[str, bytes | None]:
    """Masks of image 3 that a loader has to find bad; None: a missing file."""
    whole = mask_kinds.png(mask_of(3), 8)
    palette = mask_kinds.png(mask_of(3), 8, palette=True)
    header = bytearray(palette)
    header[20] ^= 1
    pixels = bytearray(whole)
    pixels[len(whole) // 2] ^= 255
    height, width = mask_of(3).shape
    return {
        "missing": None,
        "empty": b"",
        "text": b"not a mask",
        "half": whole[: len(whole) // 2],
        "half of a palette's": palette[: len(palette) // 2],
        "without pixels": palette[:200],
        "a header": palette[:33],
        "half a header": palette[:20],
        "signature": palette[:8],
        "damaged header": bytes(header),
        "damaged pixels": bytes(pixels),
        "no pixels by its header": whole[:16] + bytes(8) + whole[24:],
        "huge by its header": whole[:16] + b"\x7f\xff\xff\xff" * 2 + whole[24:],
        "turned": mask_kinds.png(mask_of(3).T.copy(), 8),
        "a row less": mask_kinds.png(mask_of(3)[1:], 8),
        "a column more": mask_kinds.png(np.pad(mask_of(3), ((0, 0), (0, 1))), 8),
        "colors": mask_kinds.save(Image.fromarray(image_of(3)), "PNG"),
        "JPEG": mask_kinds.save(mask_kinds.gray(mask_of(3)), "JPEG"),
        "TIFF, half": mask_kinds.save(mask_kinds.gray(mask_of(3)), "TIFF")[: height * width // 2],
        "NumPy of another size": mask_kinds.saved_array(mask_of(4).astype(np.uint8)),
    }


def with_bad(
    files: tuple[list[str], list[str]], folder: Path, data: bytes | None, number: int = 3
) -> tuple[list[str], list[str]]:
    bad = folder / "bad.png"
    if data is not None:
        bad.write_bytes(data)
    masks = list(files[1])
    masks[number] = str(bad)
    return files[0], masks


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("name", bad_masks())
def test_bad_mask_is_named(
    files: tuple[list[str], list[str]], tmp_path: Path, name: str, cache: bool
) -> None:
    bad = with_bad(files, tmp_path, bad_masks()[name])
    start = f"DataLoader: cannot decode {files[0][3]}: its mask {bad[1][3]}: "
    masks = Masks(bad[1], cache=cache)
    with (
        make(bad, target=masks) as loader,
        pytest.raises(BadFileError, match=f"^{re.escape(start)}."),
    ):
        list(loader)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("name", bad_masks())
def test_bad_mask_is_replaced_together_with_its_image(
    files: tuple[list[str], list[str]], tmp_path: Path, name: str, cache: bool
) -> None:
    bad = with_bad(files, tmp_path, bad_masks()[name])
    masks = Masks(bad[1], cache=cache)
    settings = {"mix": CutMix(), "target": masks, "on_error": "replace"}
    with make(files, mix=CutMix()) as clean, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with make(bad, **settings) as loader:
            for (clean_image, clean_mask), (image, mask) in zip(clean, loader, strict=True):
                assert torch.equal(mask, image[:, 0].long())
                others = (image[:, 1] != 4).all() & (clean_image[:, 1] != 4).all()
                same = image[:, 1] == clean_image[:, 1]
                assert torch.equal(mask[same], clean_mask[same])
                assert others or not torch.equal(image, clean_image)
                assert (image[:, 1] != 4).all()
            ((path, reason),) = loader.bad_files
    assert path == files[0][3]
    assert reason.startswith(f"its mask {bad[1][3]}: ")


def test_bad_mask_of_a_mixed_batch_changes_no_other_sample(
    files: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    bad = with_bad(files, tmp_path, b"")
    clean_image, clean_mask = epoch(make(files, 1))
    with pytest.warns(RuntimeWarning, match=r"replaced .*: its mask .*bad\.png: the file is empty"):
        image, mask = epoch(make(bad, 1, on_error="replace"))
    changed = [not torch.equal(a, b) for a, b in zip(image, clean_image, strict=True)]
    assert sum(changed) == 1
    same = ~torch.tensor(changed)
    assert torch.equal(mask[same], clean_mask[same])
    assert torch.equal(mask, image[:, 0].long())


def test_resumed_run_knows_the_bad_masks(
    files: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    bad = with_bad(files, tmp_path, b"")
    settings = {"on_error": "replace", "shuffle": False}
    with pytest.warns(RuntimeWarning, match="its mask"):
        image, mask = epoch(make(bad, **settings))
    loader = make(bad, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        next(iter(loader))
        state = loader.state_dict()
    loader.close()
    Path(bad[1][3]).write_bytes(mask_kinds.png(mask_of(3), 8))
    with make(bad, **settings) as resumed:
        resumed.load_state_dict(state)
        rest = [torch.cat(parts) for parts in zip(*resumed, strict=True)]
        assert len(resumed.bad_files) == 1
    assert torch.equal(image[4:], rest[0])
    assert torch.equal(mask[4:], rest[1])


def test_every_mask_bad_ends_the_run(files: tuple[list[str], list[str]], tmp_path: Path) -> None:
    missing = [str(tmp_path / f"{number}.png") for number in range(NUM)]
    message = r"its mask .*: No such file or directory; so are"
    with (
        make((files[0], missing), on_error="replace") as loader,
        pytest.raises(BadFileError, match=message),
    ):
        list(loader)


@pytest.mark.parametrize("name", ["half", "signature", "a header", "no pixels by its header"])
def test_bad_masks_in_large_batches_end_no_process(
    files: tuple[list[str], list[str]], tmp_path: Path, name: str
) -> None:
    """DALI 2.4.0 may end the process at a broken header among 31 files or more."""
    data = bad_masks()[name]
    assert data is not None
    bad = with_bad((files[0] * 6, files[1] * 6), tmp_path, data)
    with make(bad, 66, on_error="replace", num_workers=3) as loader:
        with pytest.warns(RuntimeWarning, match="its mask"):
            ((image, mask),) = loader
        assert torch.equal(mask, image[:, 0].long())


def test_bad_images_are_replaced_with_their_masks(
    files: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    images = list(files[0])
    images[3] = str(tmp_path / "bad.png")
    Path(images[3]).write_bytes(Path(files[0][3]).read_bytes()[:99])
    with pytest.warns(RuntimeWarning, match=r"replaced .*bad\.png"):
        image, mask = epoch(make((images, files[1]), mix=CutMix(), on_error="replace"))
    assert torch.equal(mask, image[:, 0].long())


@pytest.mark.parametrize("kind", ["TIFF", "arrays", "encoded arrays"])
def test_masks_belong_to_images_of_every_kind(
    files: tuple[list[str], list[str]], tmp_path: Path, kind: str
) -> None:
    images: Any = [image_of(number) for number in range(NUM)]
    if kind == "TIFF":
        paths = [str(tmp_path / f"{number}.tif") for number in range(NUM)]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        images = paths
    elif kind == "arrays":
        images = ImageArrays(images, [0] * NUM)
    else:
        encoded = [mask_kinds.save(Image.fromarray(image), "PNG") for image in images]
        images = ImageArrays(encoded, [0] * NUM)
    image, mask = epoch(make((images, files[1]), mix=CutMix()))
    assert torch.equal(mask, image[:, 0].long())
    bad = with_bad((files[0], files[1]), tmp_path, mask_kinds.png(mask_of(4), 8))
    message = r"its mask .*bad\.png: \d+ x \d+ pixels, and its image has \d+ x \d+\."
    with make((images, bad[1])) as loader, pytest.raises(BadFileError, match=message):
        list(loader)


def test_part_of_the_masks_belongs_to_a_part_of_the_images(
    files: tuple[list[str], list[str]],
) -> None:
    chosen = [7, 2, 2, 9]
    images = [files[0][index] for index in chosen]
    image, mask = epoch(make((images, files[1]), target=Masks(files[1]).take(chosen)))
    assert torch.equal(mask, image[:, 0].long())
