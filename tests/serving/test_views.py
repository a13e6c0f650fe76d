"""Several views of every image: each as its transform alone would make them, drawn apart."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn

from dali_cutmix import (
    RICAP,
    Chain,
    Compose,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    ImageArrays,
    Masks,
    MixedTarget,
    MixUp,
    Notes,
    RandomChoice,
    Record,
    Rows,
    SaliencyMix,
    Shard,
    TrainTransform,
    Views,
    contact_sheet,
    dense_target,
    mix_batch,
)
from dali_cutmix.augmentations import (
    ColorJitter,
    RandomCrop,
    RandomErasing,
    RandomRotation,
    Resize,
)
from dali_cutmix.core.frame import Frame, Sample
from graphs import note_pipelines
from record_rows import rows_in

CROP = TrainTransform(size=(24, 16), augment=[ColorJitter(0.4), RandomErasing()])
SMALL = TrainTransform(size=8, scale=(0.05, 0.4), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
PADDED = TrainTransform(size=20, pad=2, resize=24)
CENTRE = EvalTransform(resize=40, size=32)
STEPS = Compose([RandomRotation(10), Resize(40), RandomCrop(24), ColorJitter(0.4)])
TINY = EvalTransform(resize=8, size=8)


def batches(root: Any, *transforms: Any, **settings: Any) -> list[tuple[Any, ...]]:
    """The batches of an epoch with these views, in the order of the data unless told otherwise."""
    if transforms:
        settings["transform"] = Views(transforms)
    with DataLoader(root, **{"batch_size": 5, "seed": 2, **settings}) as loader:
        return list(loader)


def alone(root: Any, transform: Any, **settings: Any) -> list[torch.Tensor]:
    """The images of an epoch's batches with one transform and no views."""
    return [image for image, _ in batches(root, transform=transform, **settings)]


def view(batches: list[tuple[Any, ...]], number: int) -> list[torch.Tensor]:
    return [images[number] for images, _ in batches]


def endless(loader: DataLoader) -> Iterator[tuple[Any, ...]]:
    while True:
        yield from loader


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for image, wanted in zip(found, expected, strict=True):
        assert image.dtype == wanted.dtype
        assert image.stride() == wanted.stride()
        assert torch.equal(image, wanted)


# What a batch holds


def test_batch_is_a_list_of_a_tensor_per_view_and_the_classes(photo_folder: Path) -> None:
    found = batches(photo_folder, CROP, SMALL, CENTRE)
    assert [label.tolist() for _, label in found] == [
        label.tolist() for _, label in batches(photo_folder, transform=TINY)
    ]
    assert len(found) == 5
    for images, label in found:
        assert type(images) is list
        size = len(label)
        assert [tuple(image.shape) for image in images] == [
            (size, 3, 24, 16),
            (size, 3, 8, 8),
            (size, 3, 32, 32),
        ]
    assert len(found[-1][1]) == 1  # 21 images in batches of 5


def test_one_view_is_a_list_too(numbered_folder: Path) -> None:
    ((images, _), *_) = batches(numbered_folder, TINY)
    assert len(images) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dtype": torch.uint8},
        {"dtype": torch.bfloat16},
        {"channels_last": True},
        {"num_workers": 1, "prefetch": 1},
    ],
)
def test_every_view_is_what_its_transform_alone_makes(
    photo_folder: Path, settings: dict[str, Any]
) -> None:
    """Transforms for evaluation draw nothing, so that any place in the list gives the same."""
    coloured = EvalTransform(resize=(20, 30), size=16, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    found = batches(photo_folder, TINY, coloured, CENTRE, **settings)
    for number, transform in enumerate((TINY, coloured, CENTRE)):
        assert_same(view(found, number), alone(photo_folder, transform, **settings))


@pytest.mark.parametrize("transform", [CROP, SMALL, PADDED, STEPS])
def test_first_view_is_bit_identical_to_the_images_of_its_transform_alone(
    photo_folder: Path, transform: TrainTransform
) -> None:
    settings = {"shuffle": True, "on_error": "replace"}
    found = batches(photo_folder, transform, CENTRE, CROP, **settings)
    assert_same(view(found, 0), alone(photo_folder, transform, **settings))


def test_a_view_does_not_depend_on_the_other_views(photo_folder: Path) -> None:
    expected = view(batches(photo_folder, CROP, SMALL), 1)
    for others in ([STEPS, SMALL], [SMALL, SMALL, SMALL], [TINY, SMALL, CROP, CENTRE]):
        assert_same(view(batches(photo_folder, *others), 1), expected)


def test_images_in_memory_have_views_too() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 40, 48, 3), np.uint8)
    source = ImageArrays(pixels, list(range(7)))
    found = batches(source, CROP, CENTRE)
    assert_same(view(found, 0), alone(source, CROP))
    assert_same(view(found, 1), alone(source, CENTRE))


# Draws


def test_equal_transforms_draw_apart_in_every_view(photo_folder: Path) -> None:
    (images, _), *_ = batches(photo_folder, *[CROP] * 4, batch_size=21)
    for first in range(4):
        for second in range(first):
            same = (images[first] == images[second]).flatten(1).all(1)
            assert not same.any()


def test_flips_of_two_views_are_independent() -> None:
    """400 images, dark on the left, whole in both views: each of four pairs of flips is a quarter.

    The tolerance is five standard deviations of a share of 400.
    """
    pixels = np.zeros((400, 8, 8, 3), np.uint8)
    pixels[:, :, 4:] = 200
    whole = TrainTransform(size=8, pad=0, resize=(8, 8))
    source = ImageArrays(pixels, [0] * 400)
    ((images, _),) = batches(source, whole, whole, batch_size=400, dtype=torch.uint8)
    first, second = ((image[:, 0, 0, 0] > 100) for image in images)
    for pair in (first & second, first & ~second, ~first & second, ~first & ~second):
        assert abs(pair.float().mean().item() - 0.25) < 5 * (0.25 * 0.75 / 400) ** 0.5


# Mixing

FLIPPED = TrainTransform(size=(24, 16), augment=[RandomErasing()], flip=0.9)
VIEWS = [CROP, FLIPPED, CROP]
MIXES: list[Any] = [
    CutMix(),
    CutMix(prob=0.5),
    MixUp(),
    RICAP(),
    Cutout(side=6),
    Chain([CutMix(), CutMix()]),
    RandomChoice([CutMix(), MixUp()]),
]


def mixed(root: Any, mix: Any, plan: Any, **settings: Any) -> list[tuple[Any, ...]]:
    """The batches of two epochs with a mix, and their plans."""
    views = Views(settings.pop("views", VIEWS), plan=plan)
    settings = {"batch_size": 5, "shuffle": True, "seed": 2, **settings}
    with DataLoader(root, transform=views, mix=mix, with_plan=True, **settings) as loader:
        return [batch for _ in range(2) for batch in loader]


def assert_close(image: torch.Tensor, wanted: torch.Tensor, plan: Any) -> None:
    """Copies are bit-identical. torch and DALI round blends apart, and the mean to a level."""
    if plan.fill is not None:
        torch.testing.assert_close(image, wanted, atol=0.01, rtol=0)
    elif plan.blends:
        torch.testing.assert_close(image, wanted, atol=1e-5, rtol=0)
    else:
        assert torch.equal(image, wanted)


@pytest.mark.parametrize("plan", ["shared", "each"])
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: type(mix).__name__)
def test_first_view_and_its_target_are_those_of_a_loader_with_its_transform(
    photo_folder: Path, mix: Any, plan: Any
) -> None:
    found = mixed(photo_folder, mix, plan)
    settings = {"transform": CROP, "mix": mix, "with_plan": True, "shuffle": True}
    with DataLoader(photo_folder, 5, seed=2, **settings) as loader:
        expected = [batch for _ in range(2) for batch in loader]
    assert len(found) == len(expected) == 10
    for (images, targets, plans), (image, target, wanted) in zip(found, expected, strict=True):
        assert torch.equal(images[0], image)
        assert torch.equal(targets[0] if plan == "each" else targets, target)
        first = plans[0] if plan == "each" else plans
        assert torch.equal(first.source, wanted.source)
        assert torch.equal(first.weight, wanted.weight)


@pytest.mark.parametrize("mix", MIXES[:-1], ids=lambda mix: type(mix).__name__)
def test_each_view_is_mixed_by_its_plan(photo_folder: Path, mix: Any) -> None:
    """Against views without a mix, which are mixed in torch."""
    plain = mixed(photo_folder, None, "shared")
    for plan in ("shared", "each"):
        for (images, target, plans), (unmixed, label, _) in zip(
            mixed(photo_folder, mix, plan), plain, strict=True
        ):
            for number, image in enumerate(images):
                of_view = plans[number] if plan == "each" else plans
                assert_close(image, mix_batch(unmixed[number], of_view)[0], of_view)
                if mix.num_sources > 1:
                    pair = MixedTarget(label[of_view.source.long()], of_view.weight)
                    of_view_target = target[number] if plan == "each" else target
                    assert torch.equal(of_view_target, dense_target(pair, 3))


def test_shared_plan_mixes_views_as_two_loaders_of_one_seed(photo_folder: Path) -> None:
    """Transforms for evaluation draw nothing, so that a loader of the second is the second view."""
    views = [EvalTransform(40, (24, 32)), EvalTransform(60, (24, 32))]
    for mix in MIXES:
        found = mixed(photo_folder, mix, "shared", views=views)
        for number, transform in enumerate(views):
            settings = {"transform": transform, "mix": mix, "shuffle": True, "seed": 2}
            with DataLoader(photo_folder, 5, **settings) as loader:
                expected = [batch for _ in range(2) for batch in loader]
            assert_same([images[number] for images, _, _ in found], [i for i, _ in expected])
            for (_, target, _), (_, wanted) in zip(found, expected, strict=True):
                assert torch.equal(target, wanted)


def test_each_view_draws_partners_and_cuts_of_its_own(photo_folder: Path) -> None:
    for images, targets, plans in mixed(
        photo_folder, CutMix(), "each", batch_size=21, views=[CROP, SMALL, CROP]
    ):
        assert len(images) == len(targets) == len(plans) == 3
        assert [plan.size for plan in plans] == [(24, 16), (8, 8), (24, 16)]
        for first in range(3):
            for second in range(first):
                assert not torch.equal(plans[first].source, plans[second].source)
                assert not torch.equal(plans[first].weight, plans[second].weight)


def test_a_view_with_a_plan_of_its_own_does_not_depend_on_the_other_views(
    photo_folder: Path,
) -> None:
    expected = mixed(photo_folder, CutMix(), "each", views=[CROP, SMALL])
    found = mixed(photo_folder, CutMix(), "each", views=[STEPS, SMALL, PADDED])
    for (images, targets, _), (wanted, wanted_targets, _) in zip(found, expected, strict=True):
        assert torch.equal(images[1], wanted[1])
        assert torch.equal(targets[1], wanted_targets[1])


def test_targets_of_views_tell_the_pixels_that_each_view_shows() -> None:
    """Levels name their image, so that shares, classes, masks and notes are counted in pixels."""
    num = 13
    pixels = np.zeros((num, 12, 20, 3), np.uint8)
    pixels[:] = np.arange(num)[:, None, None, None]
    target = {
        "classes": "dense",
        "pair": "pair",
        "rows": Rows(np.eye(num)),
        "notes": Notes(range(num)),
        "mask": Masks(pixels[..., 0].copy()),
    }
    views = Views([EvalTransform((12, 20), (12, 20)), EvalTransform((9, 7), (9, 7))], plan="each")
    source = ImageArrays(pixels, list(range(num)))
    settings = {"transform": views, "mix": CutMix(), "target": target, "dtype": torch.uint8}
    for images, parts in DataLoader(source, 4, True, device="cpu", **settings):
        assert {name: len(part) for name, part in parts.items()} == dict.fromkeys(target, 2)
        for number, image in enumerate(images):
            levels = image[:, 0].long()
            shares = torch.nn.functional.one_hot(levels, num).double().mean(dim=(1, 2)).float()
            assert torch.equal(parts["mask"][number], levels)
            for rows in (
                parts["rows"][number],
                parts["classes"][number],
                dense_target(parts["pair"][number], num),
            ):
                torch.testing.assert_close(rows, shares, atol=1e-6, rtol=0)
            for row, pairs in zip(shares, parts["notes"][number], strict=True):
                assert {note for note, _ in pairs} == set(row.nonzero().flatten().tolist())


def test_targets_keep_their_form_in_an_epoch_without_mixing(photo_folder: Path) -> None:
    views = Views(VIEWS, plan="each")
    with DataLoader(photo_folder, 5, transform=views, mix=CutMix(), with_plan=True) as loader:
        loader.mixup_enabled = False
        for _, targets, plans in loader:
            assert plans == [None] * 3
            assert len(targets) == 3
            assert all((target.max(dim=1).values == 1).all() for target in targets)


@pytest.mark.parametrize("plan", ["shared", "each"])
def test_resumed_loader_mixes_views_as_it_would_have(photo_folder: Path, plan: Any) -> None:
    def loader() -> DataLoader:
        return DataLoader(photo_folder, 5, True, transform=Views(VIEWS, plan), mix=CutMix(), seed=1)

    expected = list(loader())
    first = loader()
    list(islice(first, 2))
    second = loader()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for (images, targets), (wanted, wanted_targets) in zip(second, expected[2:], strict=True):
        assert_same(images, wanted)
        assert_same(list(targets), list(wanted_targets))
    other = DataLoader(photo_folder, 5, True, transform=Views(VIEWS), mix=CutMix(), seed=1)
    if plan == "each":
        with pytest.raises(ValueError, match=r"transform\.plan is 'shared' here and 'each' in the"):
            other.load_state_dict(first.state_dict())


@pytest.mark.parametrize("plan", ["shared", "each"])
def test_views_are_mixed_in_torch_by_deferred_plans(photo_folder: Path, plan: Any) -> None:
    now = mixed(photo_folder, CutMix(), plan)
    later = mixed(photo_folder, Deferred(CutMix()), plan)
    for (images, _, _), (unmixed, _, plans) in zip(now, later, strict=True):
        for number, image in enumerate(unmixed):
            of_view = plans[number] if plan == "each" else plans
            assert torch.equal(mix_batch(image, of_view)[0], images[number])


@pytest.mark.parametrize("plan", ["shared", "each"])
def test_a_record_has_rows_for_each_view(photo_folder: Path, plan: Any, tmp_path: Path) -> None:
    views = Views([CROP, SMALL] if plan == "each" else VIEWS[:2], plan)
    loader = DataLoader(photo_folder, 5, True, transform=views, mix=CutMix())
    list(Record(loader, tmp_path / "mixed"))
    rows = rows_in(tmp_path / "mixed")
    of_view = [[row for row in rows if row["view"] == number] for number in range(2)]
    for part in of_view:
        assert sum(row["weight"] for row in part) == pytest.approx(21)
    pairs = [[(row["sample"], row["weight"]) for row in part] for part in of_view]
    assert (pairs[0] == pairs[1]) == (plan == "shared")


@pytest.mark.parametrize("plan", ["shared", "each"])
def test_a_mix_that_looks_completes_the_plans_of_views(photo_folder: Path, plan: Any) -> None:
    found = mixed(photo_folder, SaliencyMix(), plan)
    plain = mixed(photo_folder, None, plan)
    settings = {"transform": CROP, "mix": SaliencyMix(), "shuffle": True, "seed": 2}
    with DataLoader(photo_folder, 5, **settings) as loader:
        alone = [batch for _ in range(2) for batch in loader]
    for (images, target, plans), (unmixed, _, _), (image, wanted) in zip(
        found, plain, alone, strict=True
    ):
        assert torch.equal(images[0], image)
        assert torch.equal(target[0] if plan == "each" else target, wanted)
        for number in range(3):
            of_view = plans[number] if plan == "each" else plans
            assert torch.equal(images[number], mix_batch(unmixed[number], of_view)[0])


# Epochs, resuming, bad files


def test_views_of_a_sample_are_of_one_image_on_every_shard(numbered_folder: Path) -> None:
    shown: Counter[int] = Counter()
    for index in range(3):
        found = batches(
            numbered_folder,
            *[TINY] * 2,
            shuffle=True,
            shard=Shard(index, 3),
            remainder="exact",
            dtype=torch.uint8,
        )
        for first, second in (images for images, _ in found):
            assert torch.equal(first, second)
            shown.update((first[:, 0, 0, 0].long() // 10).tolist())
    assert shown == dict.fromkeys(range(23), 1)


@pytest.mark.parametrize("num_served", [1, 5, 7])
def test_resumed_loader_serves_the_views_it_would_have_served(
    photo_folder: Path, num_served: int
) -> None:
    """21 images in batches of 5: five batches an epoch, the last of one image."""

    def loader(**settings: Any) -> DataLoader:
        views = Views([CROP, SMALL, SMALL])
        return DataLoader(photo_folder, 5, True, transform=views, seed=3, **settings)

    expected = list(islice(endless(loader()), 10))
    first = loader(num_workers=2, prefetch=3)
    found = list(islice(endless(first), num_served))
    second = loader(num_workers=1, prefetch=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += islice(endless(second), 10 - num_served)
    for (images, label), (wanted, wanted_label) in zip(found, expected, strict=True):
        assert_same(images, wanted)
        assert torch.equal(label, wanted_label)


def test_state_of_other_views_is_refused_by_the_view(photo_folder: Path) -> None:
    def loader(*transforms: Any) -> DataLoader:
        return DataLoader(photo_folder, 5, transform=Views(transforms))

    state = loader(CROP, SMALL).state_dict()
    message = "transform.transforms[1].size is 12 here and 8 in the state"
    with pytest.raises(ValueError, match=re.escape(message)):
        loader(CROP, replace(SMALL, size=12)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"transform is 'TrainTransform' here and 'Views' in the"):
        DataLoader(photo_folder, 5, transform=CROP).load_state_dict(state)


def test_a_bad_file_is_replaced_in_every_view_and_nothing_else_changes(
    tmp_path: Path, numbered_folder: Path
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(numbered_folder, root)
    (root / "b" / "11.png").write_bytes(b"no image")
    with pytest.warns(RuntimeWarning, match="replaced .*11.png"):
        found = batches(root, TINY, PADDED, TINY, on_error="replace")
    expected = batches(numbered_folder, TINY, PADDED, TINY)
    for number, ((images, label), (wanted, wanted_label)) in enumerate(
        zip(found, expected, strict=True)
    ):
        assert torch.equal(images[0], images[2])
        for image, wanted_image in zip(images, wanted, strict=True):
            changed = (image != wanted_image).flatten(1).any(1).nonzero().flatten().tolist()
            assert changed == ([1] if number == 2 else [])
        assert label.tolist()[2:] == wanted_label.tolist()[2:]


# The graph


@pytest.mark.parametrize("views", [[CROP, SMALL], [CROP, SMALL, CENTRE, SMALL, PADDED]])
def test_every_image_is_read_and_decoded_once(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch, views: list[Any]
) -> None:
    pipelines = note_pipelines(monkeypatch)
    batches(photo_folder, *views)
    assert pipelines
    for pipeline in pipelines:
        names = Counter(type(operator._op).__name__ for operator in pipeline._ops)
        assert (names["Read"], names["Image"], names["ImageSlice"]) == (1, 1, 0)


class Halves:
    """A transform written outside the package: the image in half of its size, without a draw."""

    output_size, takes_part, mean, std = (16, 12), False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    frame = Frame(output_size)

    def draw(self, _draws: Any, _frame: Frame, /) -> tuple[()]:
        return ()

    def operate(self, stored: Any, _plan: Any, _frame: Frame, _resampler: Any, /) -> Sample:
        sample = stored.whole()
        half = fn.slice(sample.image, start=[4, 4], shape=[16, 12], axes=[0, 1])
        return replace(sample, image=half)


def test_a_transform_written_outside_the_package_needs_no_base_class(photo_folder: Path) -> None:
    found = batches(photo_folder, CROP, Halves())
    assert_same(view(found, 1), alone(photo_folder, Halves()))


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"dtype": torch.float16, "channels_last": True}])
def test_gpu_loader_yields_every_view_on_the_gpu(
    photo_folder: Path, settings: dict[str, Any]
) -> None:
    views = [CROP, SMALL, CENTRE]
    on_cpu = batches(photo_folder, *views, device="cpu", **settings)
    on_gpu = batches(photo_folder, *views, device="cuda", **settings)
    for (images, label), (wanted, wanted_label) in zip(on_gpu, on_cpu, strict=True):
        assert label.tolist() == wanted_label.tolist()
        for image, wanted_image in zip(images, wanted, strict=True):
            assert image.device.type == "cuda"
            assert image.dtype == wanted_image.dtype
            assert image.stride() == wanted_image.stride()
    for (images, _), (wanted, _) in zip(on_gpu, on_cpu, strict=True):
        difference = (images[2].cpu().float() - wanted[2].float()).abs().mean()
        assert difference < 0.1


# Refusals


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SMALL, "size to share a plan, and view 0 has (24, 16), got '(8, 8) in view 1'"),
        (
            replace(CROP, std=(0.5,) * 3),
            f"std to share a plan, and view 0 has {CROP.std}, got '(0.5, 0.5, 0.5) in view 1'",
        ),
    ],
)
def test_views_that_differ_share_no_plan(numbered_folder: Path, other: Any, message: str) -> None:
    expected = (
        f"DataLoader: `transform` must have views of one {message}. `Views([...], plan='each')` "
        "mixes each view by a plan of its own."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        batches(numbered_folder, CROP, other, mix=CutMix())
    batches(numbered_folder, CROP, other)


def test_a_plan_is_none_with_views(numbered_folder: Path) -> None:
    assert batches(numbered_folder, TINY, with_plan=True)[0][2] is None


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            CROP,
            f"Views: `transforms` must be a list of transforms, got {CROP!r}. Two views by one "
            "transform are `Views([transform] * 2)`.",
        ),
        (
            [],
            "Views: `transforms` must be a list of transforms, got []. Two views by one transform "
            "are `Views([transform] * 2)`.",
        ),
        (
            [CROP, TrainTransform],
            "Views: `transforms` must hold a TrainTransform, EvalTransform or Compose for each "
            f"view, got {TrainTransform!r}.",
        ),
        (
            [Views([TINY])],
            "Views: `transforms` must hold a TrainTransform, EvalTransform or Compose for each "
            f"view, got {Views([TINY])!r}.",
        ),
    ],
)
def test_what_is_no_list_of_transforms_is_refused(transforms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Views(transforms)


def test_an_unknown_plan_is_refused() -> None:
    message = "Views: `plan` must be one of 'shared', 'each', got 'one'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Views([CROP], plan="one")  # type: ignore[arg-type]


def test_a_bare_list_of_transforms_is_refused_with_views(numbered_folder: Path) -> None:
    message = (
        "DataLoader: `transform` must be a TrainTransform, EvalTransform, Compose or Views, got "
        f"{[TINY, TINY]!r}. `Views([...])` makes an image by each transform of a list."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        batches(numbered_folder, transform=[TINY, TINY])


def test_a_list_that_changes_later_changes_nothing() -> None:
    transforms = [TINY, TINY]
    views = Views(transforms)
    transforms.append(CROP)
    assert views == Views([TINY, TINY])


def test_contact_sheet_of_all_views_is_refused_with_the_way_out(numbered_folder: Path) -> None:
    images, label = batches(numbered_folder, TINY, TINY, dtype=torch.uint8)[0]
    message = (
        "contact_sheet: `image` must be a tensor, got a list of 2. Pass one view of the list: "
        "`image[0]`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        contact_sheet(images, label, classes=["a", "b", "c"])
    assert contact_sheet(images[0], label, classes=["a", "b", "c"]).width > 0
