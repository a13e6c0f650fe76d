"""Rows and notes: what a batch gets, against shares counted from pixels that encode their owner."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import (
    RICAP,
    Boxes,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    FMix,
    GridMix,
    GuidedCutMix,
    ImageArrays,
    Masks,
    MixUp,
    Notes,
    RandomChoice,
    ResizeMix,
    Rows,
    SaliencyMix,
    Scheduled,
    VolumeMasks,
    Volumes,
    dense_target,
)
from dali_cutmix.sources.volumes import Window
from stripes import Stripes

SIZE = (12, 20)
NUM = 23

PASTING: list[Any] = [
    CutMix(),
    CutMix(prob=0.5, per="batch"),
    CutMix(lam=0.0),
    ResizeMix(),
    RICAP(),
    Stripes(),
    Chain([CutMix(), CutMix()]),
    RandomChoice([CutMix(), RICAP()]),
    Scheduled(CutMix(), num_epochs=2, prob=lambda t: t),
    FMix(),
    GridMix(),
    SaliencyMix(),
]
BLENDING: list[Any] = [MixUp(), MixUp(prob=0.5), Chain([MixUp(), CutMix()])]
ERASING: list[Any] = [Cutout(side=8), Chain([CutMix(), Cutout(side=8)])]


def named(mix: Any) -> str:
    return type(mix).__name__


def images(levels: Sequence[Any]) -> ImageArrays:
    """An image of one level, or of one colour, for each."""
    pixels = np.zeros((len(levels), *SIZE, 3), np.uint8)
    for image, level in zip(pixels, levels, strict=True):
        image[:] = level
    return ImageArrays(pixels, [index % 4 for index in range(len(levels))])


def batches(target: Any, source: Any = None, **settings: Any) -> list[tuple[Any, Any]]:
    """Two epochs, with pixels in [0, 1]."""
    settings = {"batch_size": 5, "shuffle": True, "seed": 4, **settings}
    transform = EvalTransform(SIZE, SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)
    source = images(range(NUM)) if source is None else source
    loader = DataLoader(source, transform=transform, target=target, device="cpu", **settings)
    with loader:
        return [(image, part) for _ in range(2) for image, part in loader]


def shares_by_level(image: torch.Tensor) -> dict[int, float]:
    """Share of the pixels of each level of one image."""
    levels, counts = np.unique((image[0] * 255).round().int().numpy(), return_counts=True)
    return dict(zip(levels.tolist(), (counts / counts.sum()).tolist(), strict=True))


def values(num: int = NUM, width: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(num, width)).astype(np.float32)


# What a batch gets


@pytest.mark.parametrize("mix", [None, *PASTING], ids=named)
def test_rows_are_weighed_by_the_pixels_that_each_image_owns(mix: Any) -> None:
    rows = values()
    seen = 0
    for image, target in batches(Rows(rows), mix=mix):
        assert (target.shape, target.dtype) == ((len(image), 6), torch.float32)
        for pixels, row in zip(image, target.numpy(), strict=True):
            wanted = sum(share * rows[i] for i, share in shares_by_level(pixels).items())
            np.testing.assert_allclose(row, wanted, atol=2e-6)
            seen += 1
    assert seen == 2 * NUM  # the last batch of five has three


@pytest.mark.parametrize("mix", [None, *PASTING], ids=named)
def test_union_holds_every_label_of_every_image_that_shows(mix: Any) -> None:
    labels = np.random.default_rng(2).random((NUM, 7)) < 0.3
    for image, target in batches(Rows(labels, combine="union"), mix=mix):
        assert (target.shape, target.dtype) == ((len(image), 7), torch.float32)
        for pixels, row in zip(image, target.numpy(), strict=True):
            assert np.array_equal(row, labels[list(shares_by_level(pixels))].any(axis=0))


@pytest.mark.parametrize("mix", [None, *PASTING], ids=named)
def test_notes_name_every_image_that_shows_and_its_share(mix: Any) -> None:
    notes = [f"caption of {number}" for number in range(NUM)]
    for image, target in batches(Notes(notes), mix=mix):
        assert len(target) == len(image)
        for pixels, pairs in zip(image, target, strict=True):
            wanted = {notes[i]: share for i, share in shares_by_level(pixels).items()}
            assert {note for note, _ in pairs} == set(wanted)
            assert len(pairs) == len(wanted)
            for note, share in pairs:
                assert share == pytest.approx(wanted[note], abs=1e-6)


def test_notes_of_a_series_belong_to_images_by_position() -> None:
    pandas = pytest.importorskip("pandas")
    notes = pandas.Series(range(NUM), index=range(NUM)[::-1])
    for image, target in batches(Notes(notes)):
        for pixels, pairs in zip(image, target, strict=True):
            assert [note for note, _ in pairs] == list(shares_by_level(pixels))


@pytest.mark.parametrize("labels", [[2, 0, 1], [7, 5, 3]], ids=["shuffled", "filtered"])
def test_what_belongs_to_images_is_taken_from_a_series_by_position(labels: list[int]) -> None:
    """pandas indexes a Series by its labels, which a filter or a shuffle leaves as they were."""
    pandas = pytest.importorskip("pandas")

    def column(values: Iterable[Any]) -> Any:
        return pandas.Series(list(values), index=labels)

    images = ImageArrays(
        column(np.full((4, 4, 3), n, np.uint8) for n in range(3)), column(range(3))
    )
    assert [int(images.stored(n)[0, 0, 0]) for n in range(3)] == [0, 1, 2]
    assert images.targets.tolist() == [0, 1, 2]
    masks = Masks(column(np.full((4, 4), n, np.uint8) for n in range(3)))
    assert [int(masks.classes_in(n)[0, 0]) for n in range(3)] == [0, 1, 2]
    assert Masks(column("abc")).path(2) == "c"
    corners, of_image = [[[0, 0, n + 1, 1]] for n in range(3)], column([n] for n in range(3))
    boxes = Boxes(column(corners), of_image, fields={"n": of_image})
    assert [int(boxes[n]["n"][0]) for n in range(3)] == [0, 1, 2]
    assert [int(boxes[n]["boxes"][0, 2]) for n in range(3)] == [1, 2, 3]
    dicts = ({"boxes": boxes[n]["boxes"], "labels": boxes[n]["labels"]} for n in range(3))
    assert GuidedCutMix(column(dicts)) == GuidedCutMix(boxes)
    voxels = column(np.full((2, 2, 2), n, np.uint8) for n in range(3))
    window = Window(2, (0, 0, 0), (1, 1, 1), (False, False, False))
    assert Volumes(voxels, column("cab")).targets.tolist() == [2, 0, 1]
    assert Volumes(voxels).stored(window).item() == VolumeMasks(voxels).stored(window).item() == 2


@pytest.mark.parametrize("mix", BLENDING, ids=named)
@pytest.mark.parametrize("combine", ["weigh", "union"])
def test_blended_rows_follow_the_colours_of_the_pixels(mix: Any, combine: Any) -> None:
    """Images are red, green or blue, so that means of channels are shares of the three rows."""
    kinds = [number % 3 for number in range(NUM)]
    table = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 0]])
    source = images([255 * np.eye(3)[kind] for kind in kinds])
    for image, target in batches(Rows(table[kinds], combine), source, mix=mix):
        shares = image.mean(dim=(2, 3)).numpy()
        wanted = shares @ table if combine == "weigh" else ((shares > 1e-6) @ table) > 0
        np.testing.assert_allclose(target.numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize("mix", BLENDING, ids=named)
def test_blended_notes_follow_the_colours_of_the_pixels(mix: Any) -> None:
    source = images(255 * np.eye(3))
    for image, target in batches(Notes([0, 1, 2]), source, mix=mix, batch_size=3):
        for shares, pairs in zip(image.mean(dim=(2, 3)).tolist(), target, strict=True):
            for kind, share in pairs:
                assert share == pytest.approx(shares[kind], abs=2e-6)
            assert sum(share for _, share in pairs) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mix", [*PASTING, *BLENDING, *ERASING], ids=named)
def test_rows_of_the_classes_equal_the_dense_target(mix: Any) -> None:
    """Of erased pixels too, which keep their owner."""
    eye = np.eye(4)[[index % 4 for index in range(NUM)]]
    target = {"classes": "dense", "rows": Rows(eye)}
    for _, parts in batches(target, mix=mix):
        torch.testing.assert_close(parts["rows"], parts["classes"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mix", ERASING[:1], ids=named)
def test_an_erasing_mix_leaves_rows_and_notes_as_they_are(mix: Any) -> None:
    target = {"rows": Rows(values()), "notes": Notes(range(NUM))}
    for image, parts in batches(target, mix=mix):
        for row, pairs in zip(parts["rows"], parts["notes"], strict=True):
            ((index, share),) = pairs
            assert share == 1
            assert np.array_equal(row.numpy(), values()[index])
        assert len(parts["notes"]) == len(image)


def test_own_note_comes_first_and_an_image_in_two_regions_is_listed_once() -> None:
    """In a batch of two, the third region of `Stripes` shows the sample itself again."""
    mixed = batches(Notes(range(NUM)), mix=Stripes(), batch_size=2, drop_last=True)
    plain = batches(Notes(range(NUM)), batch_size=2, drop_last=True)
    for (_, target), (_, unmixed) in zip(mixed, plain, strict=True):
        for pairs, ((own, _),) in zip(target, unmixed, strict=True):
            assert [note == own for note, _ in pairs] == [True, False]
            assert pairs[1][1] == pytest.approx(1 / SIZE[1])


def test_an_image_that_is_its_own_partner_is_listed_once() -> None:
    served = batches(Notes(range(NUM)), mix=CutMix(), shuffle=False, sampler=[7] * 10)
    assert [target for _, target in served] == [[[(7, pytest.approx(1))]] * 5] * 4


def test_one_number_for_each_image_makes_a_target_of_one_axis() -> None:
    ages = np.arange(NUM) * 2
    for image, target in batches(Rows(ages), mix=CutMix()):
        assert target.shape == (len(image),)
        for pixels, age in zip(image, target.tolist(), strict=True):
            shares = shares_by_level(pixels).items()
            assert age == pytest.approx(sum(share * 2 * i for i, share in shares), abs=1e-5)


@pytest.mark.parametrize(
    "kind",
    [np.float64, np.float16, np.int64, np.uint8, np.bool_, "list", torch.tensor, "bfloat16"],
)
def test_values_of_any_kind_make_the_same_rows(kind: Any) -> None:
    labels = np.random.default_rng(3).random((NUM, 3)) < 0.5
    expected = batches(Rows(labels.astype(np.float32)), mix=CutMix())
    if kind == "list":
        converted: Any = labels.astype(int).tolist()
    elif kind == "bfloat16":
        converted = torch.tensor(labels, dtype=torch.bfloat16)
    else:
        converted = kind(labels) if kind is torch.tensor else labels.astype(kind)
    for (_, target), (_, wanted) in zip(
        batches(Rows(converted), mix=CutMix()), expected, strict=True
    ):
        assert torch.equal(target, wanted)


def test_a_sample_that_is_not_mixed_keeps_its_row_to_the_bit() -> None:
    for image, target in batches(Rows(values()), mix=CutMix(prob=0.5)):
        for pixels, row in zip(image, target.numpy(), strict=True):
            if len(shares := shares_by_level(pixels)) == 1:
                assert np.array_equal(row, values()[next(iter(shares))])


def test_an_epoch_without_mixing_has_rows_and_notes_as_stored() -> None:
    transform = EvalTransform(SIZE, SIZE)
    target = {
        "rows": Rows(values()),
        "any": Rows(values() > 0, "union"),
        "notes": Notes(range(NUM)),
    }
    loader = DataLoader(
        images(range(NUM)), 5, True, transform=transform, mix=CutMix(), target=target, device="cpu"
    )
    loader.mixup_enabled = False
    for _, parts in loader:
        indices = loader.batch_indices
        assert np.array_equal(parts["rows"].numpy(), values()[indices])
        assert np.array_equal(parts["any"].numpy(), values()[indices] > 0)
        assert parts["notes"] == [[(index, 1.0)] for index in indices]


def test_a_replaced_image_brings_its_own_row_and_note(
    tmp_path: Path, numbered_folder: Path
) -> None:
    root = shutil.copytree(numbered_folder, tmp_path / "data")
    (root / "b" / "11.png").write_bytes(b"no image")
    target = {"rows": Rows(np.eye(NUM)), "notes": Notes(range(NUM))}
    settings = {"mix": CutMix(), "on_error": "replace"}
    with pytest.warns(RuntimeWarning, match=r"replaced .*11\.png"):
        served = batches(target, root, **settings)
    for image, parts in served:
        for pixels, row, pairs in zip(image, parts["rows"], parts["notes"], strict=True):
            shares = {level // 10: share for level, share in shares_by_level(pixels).items()}
            assert 11 not in shares
            assert {note for note, _ in pairs} == set(shares)
            for index, share in shares.items():
                assert row[index].item() == pytest.approx(share, abs=1e-6)


def test_resumed_loader_serves_the_rows_and_notes_it_would_have_served() -> None:
    def loader() -> DataLoader:
        target = {"rows": Rows(values()), "notes": Notes(range(NUM)), "pair": "pair"}
        return DataLoader(
            images(range(NUM)), 5, True, transform=EvalTransform(SIZE, SIZE), mix=RICAP(),
            target=target, device="cpu",
        )  # fmt: skip

    expected = [parts for _, parts in loader()]
    first = loader()
    list(islice(first, 2))
    second = loader()
    second.load_state_dict(first.state_dict())
    for (_, parts), wanted in zip(second, expected[2:], strict=True):
        assert torch.equal(parts["rows"], wanted["rows"])
        assert parts["notes"] == wanted["notes"]
        assert torch.equal(dense_target(parts["pair"], 4), dense_target(wanted["pair"], 4))


def test_notes_are_handed_on_as_they_are() -> None:
    notes = [object() for _ in range(NUM)]
    known = set(map(id, notes))
    for _, target in batches(Notes(notes)):
        assert {id(note) for pairs in target for note, _ in pairs} <= known


def test_images_need_no_classes(numbered_folder: Path) -> None:
    paths = sorted(numbered_folder.glob("*/*.png"))
    for image, target in batches(Rows(np.arange(NUM)), paths, mix=CutMix()):
        for pixels, value in zip(image, target.tolist(), strict=True):
            shares = shares_by_level(pixels).items()
            assert value == pytest.approx(sum(s * level / 10 for level, s in shares), abs=1e-5)


# Refusals


@pytest.mark.parametrize("annotation", [Rows(values(22)), Notes(range(24))])
def test_an_annotation_of_another_number_of_images_is_refused(annotation: Any) -> None:
    with pytest.raises(ValueError, match=f"{len(annotation)}"):
        batches(annotation)


FINITE = (
    "Leave the image out of the source and of `values`, or fill the number in: NaN in a row would "
    "spread to the images that the row is mixed with."
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([[0, 1], [1, 0]], "mean"),
            "Rows: `combine` must be one of 'weigh', 'union', got 'mean'.",
        ),
        (
            ([[0.0, 1.0], [np.nan, 1.0]],),
            f"Rows: `values[1]` must be finite in float32, got [nan, 1.0]. {FINITE}",
        ),
        (([0.0, -np.inf],), f"Rows: `values[1]` must be finite in float32, got -inf. {FINITE}"),
        (([1e39],), f"Rows: `values[0]` must be finite in float32, got 1e+39. {FINITE}"),
        (
            ([[0, 1], [2, 1]], "union"),
            "Rows: `values[1]` must be 0 or 1 with combine='union', got [2, 1]. `combine='weigh'` "
            "takes any numbers.",
        ),
        (
            ([[0, 1], [1]],),
            "Rows: `values` must be [N, d] or [N] numbers, got rows of several lengths. Each "
            "image needs as many numbers as the first.",
        ),
        (
            (np.zeros((2, 3, 4)),),
            "Rows: `values` must be [N, d] or [N] numbers, and at least one, got shape (2, 3, 4) "
            "of float64.",
        ),
        (
            (["a", "b"],),
            "Rows: `values` must be [N, d] or [N] numbers, and at least one, got shape (2,) of "
            "<U1.",
        ),
        (
            ([],),
            "Rows: `values` must be [N, d] or [N] numbers, and at least one, got shape (0,) of "
            "float64.",
        ),
        (
            ([1j],),
            "Rows: `values` must be [N, d] or [N] numbers, and at least one, got shape (1,) of "
            "complex128.",
        ),
    ],
)
def test_rows_outside_their_range_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Rows(*arguments)


def test_the_first_bad_row_of_a_large_array_is_named() -> None:
    large = np.zeros((3_000_000, 2), np.float32)
    large[2_500_000, 1] = np.nan
    large[2_900_000] = np.inf
    with pytest.raises(ValueError, match=r"^Rows: `values\[2500000\]` must be finite"):
        Rows(large)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (
            "abc",
            "Notes: `values` must be a list of notes, got 'str'. Notes of a file are read by "
            "`read_notes`.",
        ),
        (
            {0: "a"},
            "Notes: `values` must be a list of notes, got 'dict'. Notes of a file are read by "
            "`read_notes`.",
        ),
        (
            iter([1]),
            "Notes: `values` must be a list of notes, got 'list_iterator'. Notes of a file are "
            "read by `read_notes`.",
        ),
        ([], "Notes: `values` must hold at least one note, got []."),
    ],
)
def test_what_is_no_list_of_notes_is_refused(notes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Notes(notes)
