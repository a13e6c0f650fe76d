"""Pictures of annotations: what is drawn where, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import CutMix, MixedTarget, MixPlan, Rect, contact_sheet, draw_plan
from dali_cutmix.mixing.clipcutmix import ClipPlan
from dali_cutmix.pictures.annotated import colour_of_class
from dali_cutmix.pictures.stacks import GAP as BETWEEN  # frames and slices
from dali_cutmix.pictures.tiles import BAR, GAP, INK, LINE_HEIGHT, MARGIN, OTHER, OWN, TITLE_SIZE
from dali_cutmix.tools.cli import app
from sheets import written

SIZE = (160, 200)


def gray(num: int = 1, level: int = 100) -> torch.Tensor:
    return torch.full((num, 3, *SIZE), level, dtype=torch.uint8)


def first_tile(sheet: Image.Image, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pixels of the image in the first tile: ``[height, width, 3]``."""
    pixels = np.asarray(sheet)
    return pixels[MARGIN : MARGIN + size[0], MARGIN : MARGIN + size[1]]


def test_mask_tints_each_pixel_half_by_the_colour_of_its_class_and_leaves_class_0() -> None:
    """Areas have an outline in the full colour, of a pixel."""
    mask = torch.zeros((1, *SIZE), dtype=torch.int64)
    mask[0, 20:60, 30:90] = 2
    mask[0, 100:, 150:] = 255
    tile = first_tile(contact_sheet(gray(), mask, classes=["ground", "car", "tree"]))
    for index in (0, 2, 255):
        colour = np.array(colour_of_class(index))
        area = (mask[0] == index).numpy()
        inner = area & np.roll(area, 1, 0) & np.roll(area, -1, 0)
        inner &= np.roll(area, 1, 1) & np.roll(area, -1, 1)
        # Beyond the border of the image there is no other class.
        inner[-1, 151:], inner[101:, -1] = index == 255, index == 255
        tinted = np.abs(tile[inner] - (0.5 * 100 + 0.5 * colour)).max() <= 1
        assert tinted == (index > 0)
        assert (tile[area & ~inner] == colour).all() == (index > 0)
    assert (tile[(mask[0] == 0).numpy()] == 100).all()


def test_tint_is_the_same_whatever_the_colour_of_the_object() -> None:
    mask = torch.ones((2, *SIZE), dtype=torch.int64)
    # Red and green of one luma.
    red, green = torch.tensor([196, 0, 0]), torch.tensor([0, 100, 0])
    image = torch.stack([red, green]).to(torch.uint8)[:, :, None, None].expand(2, 3, *SIZE)
    tiles = [first_tile(contact_sheet(one[None], mask[:1])) for one in image]
    assert np.abs(tiles[0].astype(int) - tiles[1]).max() <= 1
    assert np.abs(tiles[0].astype(int) - (58.6 + np.array(colour_of_class(1))) / 2).max() <= 1


@pytest.mark.parametrize(("num_pixels", "value"), [(3, "< 1%"), (159, "< 1%"), (400, "1%")])
def test_small_share_of_a_mask_never_reads_as_none(num_pixels: int, value: str) -> None:
    mask = torch.zeros((1, *SIZE), dtype=torch.int64)
    mask.view(-1)[:num_pixels] = 1
    sheet = contact_sheet(gray(), mask, classes=["ground", "car"])
    for name, colour, text in (("car", colour_of_class(1), value), ("ground", INK, "> 99%")):
        assert written(sheet, name, colour)
        assert written(sheet, text, colour) or (text == "> 99%" and num_pixels == 400)


def test_boxes_are_framed_along_their_inside() -> None:
    boxes = torch.tensor([[30.0, 40.0, 110.0, 90.0], [120.0, 5.0, 180.0, 150.0]])
    sample = {"boxes": boxes, "labels": torch.tensor([1, 2]), "visible": torch.tensor([0.5, 1.0])}
    tile = first_tile(contact_sheet(gray(), [sample], classes=["ground", "car", "tree"]))
    for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), (1, 2), strict=True):
        colour = colour_of_class(label)
        frame = np.zeros(SIZE, bool)
        frame[y0:y1, x0:x1] = True
        frame[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = False
        is_colour = (tile == colour).all(axis=2)
        assert is_colour[y1 - 2 : y1, x0:x1].all()
        assert is_colour[y0:y1, x1 - 2 : x1].all()
        assert not is_colour[y0 + 30 : y1 - 2, x0 + 50 : x1 - 2].any()
        assert (is_colour & frame).sum() > 0.9 * frame.sum()


@pytest.mark.parametrize(("classes", "name"), [((), "1"), (("ground", "car"), "car")])
def test_share_of_a_box_stands_apart_from_its_class(classes: Any, name: str) -> None:
    sample = {"boxes": torch.tensor([[30.0, 40.0, 110.0, 90.0]]), "labels": torch.tensor([1])}
    part = [sample | {"visible": torch.tensor([0.77])}]
    hidden = contact_sheet(gray(), part, classes=classes)
    expected = contact_sheet(gray(), [sample], classes=["ground", f"{name}: 0.77"])
    assert (first_tile(hidden) == first_tile(expected)).all()


def test_text_of_a_box_stands_beside_objects_and_covers_none() -> None:
    # At the top, where no text fits above; small; and one below another, which a text would hide.
    corners = [[20.0, 0.0, 60.0, 30.0], [100.0, 60.0, 110.0, 68.0], [100.0, 71.0, 140.0, 140.0]]
    sample = {"boxes": torch.tensor(corners), "labels": torch.tensor([1, 2, 3])}
    tile = first_tile(contact_sheet(gray(), [sample], classes=["a", "car", "tree", "owl"]))
    for (x0, y0, x1, y1), label in zip(
        torch.tensor(corners).int().tolist(), (1, 2, 3), strict=True
    ):
        inner = tile[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
        assert (inner == 100).all()
        is_colour = (tile == colour_of_class(label)).all(axis=2)
        assert is_colour[y0, x0:x1].all()
        is_colour[y0:y1, x0:x1] = False
        assert is_colour.sum() > 100  # the text's ground, outside of the box


def test_text_lies_below_frames_and_is_left_out_where_most_of_an_object_would_be_covered() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 200.0, 160.0], [60.0, 2.0, 72.0, 14.0], [5.0, 1.0, 17.0, 13.0]]
    )
    sample = {"boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    tile = first_tile(contact_sheet(gray(), [sample], classes=["", "w" * 30, "b", "c"]))
    for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), (1, 2, 3), strict=True):
        is_colour = (tile == colour_of_class(label)).all(axis=2)
        assert is_colour[y0:y1, x0].all() or label == 1
        assert is_colour[y1 - 1, x0:x1].all()
        covered = (tile[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] != 100).any(axis=2)
        assert covered.mean() <= 0.5


def test_clip_is_a_strip_of_frames_in_their_order() -> None:
    clip = torch.arange(9, dtype=torch.uint8)[None, None, :, None, None] * 20
    clip = clip.expand(2, 3, 9, 160, 40).contiguous()
    tile = first_tile(contact_sheet(clip, torch.tensor([0, 1]), classes="ab"), (160, 300))
    assert [tile[80, (40 + BETWEEN) * number + 20, 0] for number in range(6)] == [
        0,
        40,
        60,
        100,
        120,
        160,
    ]


def test_volume_is_three_slices_through_its_middle() -> None:
    volume = torch.zeros((1, 1, 60, 80, 100), dtype=torch.int16)
    volume[0, 0, 30] = 100
    volume[0, 0, :, 40] = 300
    volume[0, 0, :, :, 50] = 900
    mask = torch.zeros((1, 60, 80, 100), dtype=torch.int64)
    mask[0, :, :, :10] = 1
    # Slices are enlarged by 2.
    tile = first_tile(contact_sheet(volume, mask), (160, 200 + 200 + 160 + 2 * BETWEEN))
    assert [tile[10, 40].tolist(), tile[80, 40, 0], tile[10, 100, 0]] == [[28] * 3, 85, 255]
    assert tile[10, 200 + BETWEEN + 40, 0] == 85  # across the height
    assert (tile[10, 400 + 2 * BETWEEN + 40] == 255).all()  # across the width
    assert len(set(tile[10, 10].tolist())) > 1  # tinted


def test_slices_are_enlarged_until_the_longest_side_is_readable() -> None:
    volume = torch.zeros((1, 1, 12, 20, 16), dtype=torch.int16)
    volume[0, 0, 6, 10, 8] = 255
    tile = first_tile(
        contact_sheet(volume, torch.zeros(1, dtype=torch.int64), classes="a"), (200, 700)
    )
    for left, (y, x) in zip((0, 128, 256), ((10, 8), (6, 8), (6, 10)), strict=True):
        left += left // 128 * BETWEEN
        voxel = tile[8 * y : 8 * y + 8, left + 8 * x : left + 8 * x + 8]
        assert (voxel == 255).all()
        assert (tile[8 * y, left + 8 * x - 1] == 0).all()


def clip_plan(corners: list[tuple[int, int, int, int]]) -> ClipPlan:
    """A plan of two clips with a cut for each frame: (y, x, height, width)."""
    cuts = torch.tensor([corners, corners], dtype=torch.int32)
    source = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    weight = torch.tensor([[0.75, 0.25]] * 2)
    return ClipPlan(source, weight, (160, 120), anchors=cuts[..., :2], extents=cuts[..., 2:])


def outlined_boxes(
    tile: np.ndarray, bare: np.ndarray, inside: list[tuple[int, int, int, int]]
) -> None:
    """Check that outlines run around these boxes alone (top, left, bottom, right)."""
    changed = (tile != bare).any(axis=2)
    for top, left, bottom, right in inside:
        assert not changed[top:bottom, left:right].any()
        ring = np.zeros(changed.shape, bool)
        ring[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = True
        ring[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
        assert (tile[ring] == OTHER).all()
        changed[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4] = False
    assert not changed.any()


PAIR = MixedTarget(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.75, 0.25]] * 2))


def test_cut_of_a_clip_is_outlined_in_each_frame_where_it_lies() -> None:
    cuts = [(20, 30, 40, 50), (60, 40, 40, 50), (0, 0, 0, 0), (0, 0, 160, 120)]
    clip = torch.full((2, 3, 4, 160, 120), 100, dtype=torch.uint8)
    size = (160, 4 * 120 + 3 * BETWEEN)
    bare = first_tile(contact_sheet(clip, PAIR, classes="ab"), size)
    tile = first_tile(contact_sheet(clip, PAIR, clip_plan(cuts), classes="ab"), size)
    boxes = [
        (y, x + left, y + height, x + left + width)
        for number, (y, x, height, width) in enumerate(cuts)
        if height
        for left in [number * (120 + BETWEEN)]
    ]
    outlined_boxes(tile, bare, boxes)


def test_mixes_of_images_are_outlined_in_every_frame() -> None:
    clip = torch.full((2, 3, 3, 160, 160), 100, dtype=torch.uint8)
    cut = draw_plan(CutMix(), 2, (160, 160), seed=1, epoch=0, batch=0)
    (top, left), (height, width) = (cut.put.anchor[0, 1].tolist(), cut.put.extent[0, 1].tolist())
    assert min(height, width) > 8
    size = (160, 3 * 160 + 2 * BETWEEN)
    bare = first_tile(contact_sheet(clip, PAIR, classes="ab"), size)
    tile = first_tile(contact_sheet(clip, PAIR, cut, classes="ab"), size)
    boxes = [(top, left + n * 170, top + height, left + n * 170 + width) for n in range(3)]
    outlined_boxes(tile, bare, boxes)


def test_cuboid_is_outlined_in_the_slices_that_it_crosses() -> None:
    cuts = [(0, 0, 0, 0)] * 180
    for number in range(100, 140):  # the middle slice, 90, is not among them
        cuts[number] = (70, 20, 60, 30)
    volume = torch.full((2, 1, 180, 160, 120), 100, dtype=torch.uint8)
    size = (180, 120 + 120 + 160 + 2 * BETWEEN)
    bare = first_tile(contact_sheet(volume, PAIR, classes="ab"), size)
    tile = first_tile(contact_sheet(volume, PAIR, clip_plan(cuts), classes="ab"), size)
    # Across the height at row 80, which the cuboid crosses; across the width at 60 it does not.
    outlined_boxes(tile, bare, [(100, 130 + 20, 140, 130 + 50)])


def test_moving_cut_is_outlined_as_a_staircase_across_a_volume() -> None:
    cuts = [(40, number // 3, 80, 40) for number in range(180)]
    volume = torch.full((2, 1, 180, 160, 120), 100, dtype=torch.uint8)
    sheet = contact_sheet(volume, PAIR, clip_plan(cuts), classes="ab")
    tile = first_tile(sheet, (180, 120 + 120 + 160 + 2 * BETWEEN))
    assert (tile[40 - 2, 30 : 30 + 40] == OTHER).all()  # in slice 90
    for row in (30, 90, 150):
        left = 130 + row // 3
        assert (tile[row, left + 1 : left + 39] == 100).all()
        assert (tile[row, left - 3] == OTHER).all()
        assert (tile[row, left + 40 + 2] == OTHER).all()


@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize("side", [40, 224, 500])
def test_strips_stand_below_each_other_in_a_sheet_that_fits_a_screen(depth: int, side: int) -> None:
    clip = torch.zeros((12, 3, depth, side, side), dtype=torch.uint8)
    sheet = contact_sheet(clip, torch.zeros(12, dtype=torch.int64), classes="a")
    assert sheet.width <= 2000
    if depth == 6 and side == 500:  # frames stand in two rows, and none is reduced
        black = (np.asarray(sheet) == 0).all(axis=2)
        assert black.sum() == 12 * 6 * 500 * 500


def test_rows_and_notes_are_written_and_never_taken_for_classes() -> None:
    rows = torch.tensor([[0.0, 1.0, 1.0]])
    notes = [[("a cat on a mat", 0.75), ("a dog", 0.25)]]
    both = contact_sheet(gray(), {"row": rows, "note": notes}, classes={"row": ["a", "b", "c"]})
    assert both.height > contact_sheet(gray(), {"row": rows}).height


def text_under(notes: list[tuple[str, float]]) -> np.ndarray:
    """Pixels under the first tile: ``[height, width, 3]``."""
    return np.asarray(contact_sheet(gray(), [notes]))[MARGIN + SIZE[0] + 8 :]


def test_long_notes_are_broken_between_words_and_lose_none() -> None:
    words = [
        "a",
        "white",
        "elephant",
        "above",
        "a",
        "yellow",
        "zebra",
        "and",
        "two",
        "more",
        "owls",
    ]
    height = LINE_HEIGHT
    broken = text_under([(" ".join(words), 1.0)])
    assert len(broken) == len(text_under([("a", 1.0)])) + 2 * height
    for number in range(3):
        row = broken[number * height : (number + 1) * height]
        fitting = (
            end
            for end in range(1, len(words) + 1)
            if (text_under([(" ".join(words[:end]), 1.0)])[:height] == row).all()
        )
        words = words[next(fitting) :]
    assert not words


def test_notes_past_three_rows_are_shortened_and_mixed_notes_keep_their_shares() -> None:
    long = text_under([("word " * 60, 1.0)])
    assert len(long) == len(text_under([("word " * 15, 1.0)]))
    alone, mixed = text_under([("cat", 1.0)]), text_under([("cat", 0.75), ("dog", 0.25)])
    assert (alone[:LINE_HEIGHT, : SIZE[1] // 2] == mixed[:LINE_HEIGHT, : SIZE[1] // 2]).all()
    assert (alone[:LINE_HEIGHT, MARGIN + SIZE[1] // 2 :] == 255).all()
    assert (mixed[:LINE_HEIGHT, MARGIN + SIZE[1] // 2 :] != 255).any()


def bar_lengths(rows: list[list[float]], num_lines: int) -> list[int]:
    """Return the pixels of the bar of each row of a sheet, of one image above another."""
    sheet = contact_sheet(gray(len(rows)), {"row": torch.tensor(rows)}, columns=1)
    is_bar = (np.asarray(sheet) == BAR).all(axis=2).sum(axis=1)
    # Text covers the middle of a line, and no bar is at its first row of pixels.
    tops = np.flatnonzero(np.diff((is_bar > 0).astype(int), prepend=0) == 1)
    assert len(tops) == num_lines
    return is_bar[tops].tolist()


def test_bars_are_as_long_as_the_values_also_of_a_regression() -> None:
    assert bar_lengths([[1.0], [0.25]], 2) == [200, 50]
    assert bar_lengths([[80.0], [-20.0]], 2) == [200, 50]
    assert bar_lengths([[80.0, 0.5], [20.0, 0.25]], 4) == [200, 100, 50, 50]


def test_soft_labels_are_rows_where_classes_have_no_names() -> None:
    assert bar_lengths([[0.5, 0.5], [0.75, 0.25]], 4) == [100, 100, 150, 50]


@pytest.mark.parametrize("ignored", [-1, -100])
def test_ignored_pixels_take_the_name_of_no_class(ignored: int) -> None:
    mask = torch.full((1, *SIZE), ignored, dtype=torch.int64)
    sheets = [contact_sheet(gray(), mask, classes=classes) for classes in (("a", "b"), ())]
    assert np.array_equal(*map(np.asarray, sheets))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (["a", "b"], "target"),
        ({"thing": torch.zeros(2, 3, 4, 5)}, "thing"),
        ({"mask": torch.zeros((3, *SIZE), dtype=torch.int64)}, "mask"),
    ],
)
def test_what_is_no_target_of_the_batch_is_refused_by_name(target: Any, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"contact_sheet: `{name}` must ")):
        contact_sheet(gray(2), target)


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Gray photos with a mask and a box each: the right half of every photo is of class 2."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    listed: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    listed["categories"] = [{"id": 7, "name": "car"}, {"id": 9, "name": "tree"}]
    for number in range(4):
        Image.fromarray(np.full((64, 80), 100, np.uint8)).save(tmp_path / f"images/{number}.png")
        mask = np.zeros((64, 80), np.uint8)
        mask[:, 40:] = 2
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
        name = {"id": number, "file_name": f"{number}.png", "width": 80, "height": 64}
        box = {"id": number, "image_id": number, "category_id": 9, "bbox": [40, 0, 40, 64]}
        listed["images"].append(name)
        listed["annotations"].append(box | {"iscrowd": 0, "area": 2560})
    (tmp_path / "boxes.json").write_text(json.dumps(listed))
    return tmp_path


@pytest.mark.parametrize("option", ["masks", "boxes"])
def test_show_draws_masks_and_boxes_of_a_folder(option: str, annotated: Path) -> None:
    file, out = {"masks": "masks", "boxes": "boxes.json"}[option], annotated / "sheet.png"
    options = [f"--{option}", str(annotated / file), "--out", str(out), "--mix", "none"]
    arguments = ["show", str(annotated / "images"), *options, "--size", "160"]
    result = CliRunner().invoke(app, [*arguments, "--batch-size", "2"])
    assert result.exit_code == 0, result.output
    colour = np.array(colour_of_class(2))
    expected = np.round(50 + colour / 2 + 1e-3) if option == "masks" else colour
    tile = first_tile(Image.open(out), (160, 160))
    # The short side of 64 becomes 160, and the middle is kept: the object begins in its middle.
    assert (tile[80, 82] == 100).all() == (option == "boxes")
    assert (tile[80, 80] == colour).all()
    assert (tile[150, 159] == expected).all()
    assert (tile[80, 70] == 100).all()


def shown_by_command(data: Path, out: Path, *options: str) -> Image.Image:
    """Return the sheet that `show` draws of four samples without a mix."""
    arguments = ["show", str(data), "--out", str(out), "--mix", "none", "--batch-size", "4"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    sheet = Image.open(out)
    return sheet.crop((0, TITLE_SIZE + GAP, *sheet.size))  # below the title


def test_show_draws_clips_as_strips(tmp_path: Path) -> None:
    for clip in range(4):
        folder = tmp_path / "clips" / "ab"[clip % 2] / str(clip)
        folder.mkdir(parents=True)
        for time in range(12):
            Image.fromarray(np.full((40, 50), 20 * time, np.uint8)).save(folder / f"{time}.png")
    sheet = shown_by_command(tmp_path / "clips", tmp_path / "s.png", "--clips", "--size", "160")
    step = 160 + BETWEEN
    tile = first_tile(sheet, (160, 6 * step))
    levels = [np.unique(tile[:, step * n : step * n + 160]).tolist() for n in range(6)]
    assert levels == [[0], [40], [80], [120], [160], [200]]


@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_show_draws_volumes_as_three_slices_of_one_size(tmp_path: Path, num_channels: int) -> None:
    volumes = tmp_path / "volumes"
    (volumes / "more").mkdir(parents=True)
    for number in range(4):
        volume = np.zeros((60 + number, 80 + 2 * number, 100), np.int16)
        volume[len(volume) // 2] = 1000  # the middle slice across depth
        if num_channels > 1:  # the first is drawn
            others = np.full((*volume.shape, num_channels - 1), 2000, np.int16)
            volume = np.concatenate([volume[..., None], others], axis=3)
        np.save(volumes / ("more" if number % 2 else "") / f"{number}.npy", volume)
    # Slices are enlarged by 2.
    tile = first_tile(shown_by_command(volumes, tmp_path / "s.png", "--volumes"), (160, 580))
    assert (tile[:, :200] == 255).all()
    lefts = (200 + BETWEEN, 400 + 2 * BETWEEN)
    assert [tile[58:64:2, left + 80, 0].tolist() for left in lefts] == [[0, 255, 0]] * 2


def test_show_draws_the_numbers_of_a_table_as_bars(annotated: Path) -> None:
    lines = ["file,age,cat", *(f"{number}.png,{20 + 20 * number},1" for number in range(4))]
    (annotated / "table.csv").write_text("\n".join(lines) + "\n")
    options = ["--rows", str(annotated / "table.csv"), "--size", "160"]
    sheet = shown_by_command(annotated / "images", annotated / "s.png", *options)
    is_bar = (np.asarray(sheet) == BAR).all(axis=2)
    ends = is_bar & ~np.roll(is_bar, 1, axis=1)
    # Ages are 20, 40, 60 and 80, and each bar begins at its tile's left.
    lengths = {is_bar[y, x : x + 160].sum() for y, x in np.argwhere(ends)}
    assert {40, 80, 120, 160} <= lengths


@pytest.mark.parametrize("mix", ["tube", "temporal", "cuboid", "moving"])
def test_show_mixes_clips_by_each_kind(tmp_path: Path, mix: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 12, 16), np.uint8))
    np.save(tmp_path / "b.npy", np.full((8, 12, 16), 255, np.uint8))
    out = tmp_path / "s.png"
    arguments = ["show", str(tmp_path), "--volumes", "--mix", mix, "--batch-size", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    # Each volume is a class of its own: bars and captions tell whose shares there are.
    shown = np.asarray(Image.open(out))
    assert (shown == OWN).all(axis=2).any()
    assert (shown == OTHER).all(axis=2).any()
    refused = CliRunner().invoke(app, ["show", str(tmp_path), "--clips", "--volumes"])
    assert refused.exit_code == 2
    assert "must be left out with --clips" in " ".join(refused.output.split())


def test_show_counts_the_objects_that_are_too_hidden_for_a_box(annotated: Path) -> None:
    options = ["--boxes", str(annotated / "boxes.json"), "--size", "160", "--batch-size", "2"]
    listed = json.loads((annotated / "boxes.json").read_text())
    out = annotated / "s.png"
    for width, num_told in ((10, 2), (40, 0)):
        for box in listed["annotations"]:
            # The image shows columns 8 to 72 of 80: 2 of 10, or 32 of 40.
            box["bbox"] = [80 - width, 0, width, 64]
        (annotated / "boxes.json").write_text(json.dumps(listed))
        arguments = ["show", str(annotated / "images"), "--out", str(out), "--mix", "none"]
        assert CliRunner().invoke(app, [*arguments, *options]).exit_code == 0
        told = written(Image.open(out), "1 hidden (min_visible")
        assert len(told) == num_told


XML = """<annotation><filename>{name}</filename>{objects}</annotation>"""
TREE = """<object><name>tree</name><bndbox><xmin>41</xmin><ymin>1</ymin><xmax>80</xmax>
<ymax>64</ymax></bndbox></object>"""


@pytest.fixture
def with_folders_of_boxes(annotated: Path) -> Path:
    """The same boxes in folders of Pascal VOC and YOLO, and an image without a box."""
    Image.new("L", (80, 64)).save(annotated / "images/4.png")
    for folder in ("voc", "yolo"):
        (annotated / folder).mkdir()
    for number in range(5):
        xml = XML.format(name=f"{number}.png", objects=TREE if number < 4 else "")
        (annotated / f"voc/{number}.xml").write_text(xml)
        (annotated / f"yolo/{number}.txt").write_text("1 0.75 0.5 0.5 1\n" if number < 4 else "")
    return annotated


# VOC's folder has one name; YOLO's classes begin behind the background.
@pytest.mark.parametrize(("boxes", "label"), [("boxes.json", 2), ("voc", 1), ("yolo", 2)])
def test_show_draws_boxes_of_each_format_and_no_image_without_boxes(
    boxes: str, label: int, with_folders_of_boxes: Path
) -> None:
    data, out = with_folders_of_boxes / "images", with_folders_of_boxes / "s.png"
    options = ["--boxes", str(with_folders_of_boxes / boxes), "--size", "160"]
    sheet = shown_by_command(data, out, *options)
    is_frame = (np.asarray(sheet) == colour_of_class(label)).all(axis=2)
    tile = first_tile(sheet, (160, 160))
    frame = (tile == colour_of_class(label)).all(axis=2)
    assert frame[20:, 80:82].all()
    assert frame[20:, 158:].all()
    assert (tile[80, :80] == 100).all()
    assert is_frame.sum() == 4 * frame.sum()


def test_show_names_yolos_classes_by_the_numbers_in_their_files(
    with_folders_of_boxes: Path,
) -> None:
    path = with_folders_of_boxes / "boxes.json"
    named = json.loads(path.read_text())
    named["categories"] = [{"id": 7, "name": "0"}, {"id": 9, "name": "1"}]
    path.write_text(json.dumps(named))
    (with_folders_of_boxes / "images" / "4.png").unlink()  # the categories' file has no such image
    sheets = [
        shown_by_command(
            with_folders_of_boxes / "images",
            with_folders_of_boxes / "s.png",
            *("--boxes", str(with_folders_of_boxes / boxes)),
        )
        for boxes in ("boxes.json", "yolo")
    ]
    assert np.array_equal(np.asarray(sheets[0]), np.asarray(sheets[1]))


@pytest.mark.parametrize("boxes", ["voc", "yolo"])
def test_show_refuses_boxes_of_none_of_the_images(boxes: str, with_folders_of_boxes: Path) -> None:
    for path in (with_folders_of_boxes / boxes).iterdir():
        path.write_text(XML.format(name=f"{path.stem}.png", objects="") if boxes == "voc" else "")
    options = ["--boxes", str(with_folders_of_boxes / boxes)]
    result = CliRunner().invoke(app, ["show", str(with_folders_of_boxes / "images"), *options])
    assert result.exit_code != 0
    message = "show: `--boxes` must hold a box of an image in DATA, got no box of 5 images."
    assert message in " ".join(result.output.split())


def test_show_takes_masks_or_boxes(annotated: Path) -> None:
    options = ["--masks", str(annotated / "masks"), "--boxes", str(annotated / "boxes.json")]
    result = CliRunner().invoke(app, ["show", str(annotated / "images"), *options])
    assert result.exit_code == 2
    assert "draw two pictures" in " ".join(result.output.split())


def halves_of(sources: list[list[int]], height: int) -> MixPlan:
    """A plan of images of 160 px, whose upper rows are the sample's own and whose lower are not."""
    num = len(sources)
    rect = Rect(
        torch.tensor([[[0, 0], [height, 0]]] * num, dtype=torch.int32),
        torch.tensor([[[height, 160], [160 - height, 160]]] * num, dtype=torch.int32),
    )
    weight = torch.tensor([[height / 160, 1 - height / 160]] * num)
    source = torch.tensor(sources, dtype=torch.int32)
    return MixPlan(source=source, weight=weight, size=(160, 160), taken=rect, put=rect)


@pytest.mark.parametrize(
    ("sources", "classes", "is_known"),
    [
        # The first two rows do not tell whose half is whose. The third has one class.
        ([[0, 1], [1, 0], [2, 1]], [2, 0, 0], True),
        ([[0, 1], [1, 0]], [1, 0], False),
    ],
)
def test_class_weights_draw_as_pairs_of_classes_or_leave_it_open_whose_a_region_is(
    sources: list[list[int]], classes: list[int], is_known: bool
) -> None:
    plan, names = halves_of(sources, 80), ["a", "b", "c"]
    label = torch.tensor(classes)[plan.source.long()]
    dense = torch.zeros(len(sources), 3)
    dense.scatter_add_(1, label, plan.weight)
    images = torch.full((len(sources), 3, 160, 160), 255, dtype=torch.uint8)
    pair = contact_sheet(images, MixedTarget(label, plan.weight), plan, classes=names)
    sheet = contact_sheet(images, dense, plan, classes=names)
    assert (np.asarray(sheet) == np.asarray(pair)).all() == is_known
