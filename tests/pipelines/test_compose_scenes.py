"""Scenes composed of rectangles: their boxes, masks, shares and captions, found by other means."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dali_cutmix import read_coco_boxes, read_notes
from runs import recipe

compose = recipe("data/compose_scenes")
NAMES = ("cat", "cow", "dog")
#: Gray levels of the silhouettes: an animal's shade tells which part its silhouette is of.
GRAY = {"train": 255, "val": 120}
SIZE = 64
LEVELS = ("00", "25", "50", "75")
CAPTION = re.compile(
    r"a (?P<colour>\w+) (?P<name>\w+)"
    r"( (?P<relation>left of|above) a (?P<second_colour>\w+) (?P<second_name>\w+))?"
    r"( and (?P<more>one more animal|two more animals))?"
)


def write_silhouettes(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, gray in GRAY.items():
        for name in NAMES:
            (folder / part / name).mkdir(parents=True)
            for number in range(6):
                image = np.zeros((28, 28), np.uint8)
                height, width = rng.integers(8, 24, 2)
                image[3 : 3 + height, 2 : 2 + width] = gray
                Image.fromarray(image).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def silhouettes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_silhouettes(tmp_path_factory.mktemp("silhouettes"))


def run(silhouettes: Path, out: Path, **settings: int) -> Path:
    counts = {"num_train": 40, "num_val": 20, "num_single": 3, "num_occluded": 5, "size": SIZE}
    compose.main(compose.Settings(silhouettes, out, **{**counts, **settings}))
    return out


@pytest.fixture(scope="module")
def scenes(silhouettes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(silhouettes, tmp_path_factory.mktemp("scenes") / "out")


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def annotated(folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """File name and annotations of each image, as COCO's file tells."""
    content = json.loads((folder / "coco.json").read_text())
    assert content["categories"] == [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)]
    of_image: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
    return [(entry["file_name"], of_image[entry["id"]]) for entry in content["images"]]


def shown(colour: str, part: str) -> np.ndarray:
    """The colour of every pixel of an animal of one part."""
    shade = 0.4 + 0.6 * GRAY[part] / 255
    return np.rint(shade * np.array(compose.COLOURS[colour])).astype(np.uint8)


def enclosing(mask: np.ndarray) -> list[int]:
    at = np.argwhere(mask)
    (top, left), (bottom, right) = at.min(axis=0), at.max(axis=0)
    return [left, top, right + 1 - left, bottom + 1 - top]


@pytest.mark.parametrize(("part", "count"), [("train", 40), ("val", 20)])
def test_masks_boxes_and_shares_are_of_the_visible_part(
    part: str, count: int, scenes: Path
) -> None:
    rows = annotated(scenes / part)
    assert [name for name, _ in rows] == [f"{number:05}.png" for number in range(count)]
    counts, hidden = Counter(), 0
    for name, animals in rows:
        image = pixels_of(scenes / part / "images" / name)
        assert image.shape == (SIZE, SIZE, 3)
        # Rectangles painted from back to front: whose each pixel is.
        owner = np.full((SIZE, SIZE), -1)
        for number, animal in enumerate(animals):
            x, y, width, height = animal["full_bbox"]
            assert 0 <= x <= x + width <= SIZE
            assert 0 <= y <= y + height <= SIZE
            owner[y : y + height, x : x + width] = number
        classes = np.zeros((SIZE, SIZE), int)
        for number, animal in enumerate(animals):
            mask = owner == number
            classes[mask] = animal["category_id"]
            assert animal["bbox"] == enclosing(mask)
            assert animal["area"] == mask.sum()
            _, _, width, height = animal["full_bbox"]
            assert animal["visible"] == pytest.approx(mask.sum() / (width * height), abs=1e-4)
            assert animal["visible"] >= 0.25
            assert animal["iscrowd"] == 0
            assert (image[mask] == shown(animal["colour"], part)).all()
            hidden += animal["visible"] < 1
        mask = pixels_of(scenes / part / "masks" / name)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, classes)
        counts[len(animals)] += 1
    assert set(counts) == {1, 2, 3, 4}
    assert hidden > count / 4


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_caption_tells_the_two_largest_animals_and_no_others_fit(part: str, scenes: Path) -> None:
    with open(scenes / part / "captions.csv", newline="") as file:
        header, *captions = csv.reader(file)
    assert header == ["path", "caption"]
    words = (scenes / "words.txt").read_text().split()
    assert words == sorted(set(words))
    relations = Counter()
    for (path, caption), (name, animals) in zip(captions, annotated(scenes / part), strict=True):
        assert path == name
        assert set(caption.split()) <= set(words)
        match = CAPTION.fullmatch(caption)
        assert match is not None, caption
        kinds = [(a["colour"], NAMES[a["category_id"] - 1]) for a in animals]
        assert len(set(kinds)) == len(kinds)
        first = animals[kinds.index((match["colour"], match["name"]))]
        more = {None: 0, "one more animal": 1, "two more animals": 2}[match["more"]]
        assert len(animals) == 1 + (match["relation"] is not None) + more
        if match["relation"] is None:
            continue
        second = animals[kinds.index((match["second_colour"], match["second_name"]))]
        others = [a["area"] for a in animals if a is not first and a is not second]
        assert all(area <= 0.8 * min(first["area"], second["area"]) for area in others)
        axis = 0 if match["relation"] == "left of" else 1
        ahead = [
            second["bbox"][i]
            - first["bbox"][i]
            + (second["bbox"][i + 2] - first["bbox"][i + 2]) / 2
            for i in (0, 1)
        ]
        assert ahead[axis] >= SIZE / 8
        assert ahead[axis] - abs(ahead[1 - axis]) >= SIZE / 16
        relations[match["relation"]] += 1
    assert min(relations["left of"], relations["above"]) > 1


def test_no_silhouette_serves_both_parts(scenes: Path) -> None:
    # `test_masks_boxes_and_shares_are_of_the_visible_part` looks at train/ and val/.
    for folder, part in (("single", "train"), *((f"occluded/{level}", "val") for level in LEVELS)):
        paths = sorted((scenes / folder).rglob("*.png"))
        assert len(paths) == 3 * (3 if folder == "single" else 5)
        for path in paths:
            image = pixels_of(path)
            assert image.shape == (SIZE, SIZE, 3)
            count = max((image == shown(c, part)).all(axis=2).sum() for c in compose.COLOURS)
            assert count > 20


@pytest.mark.parametrize("level", LEVELS)
def test_patches_cover_the_recorded_share_of_the_animal_and_nothing_else_changes(
    level: str, scenes: Path
) -> None:
    rows = annotated(scenes / "occluded" / level)
    assert Counter(Path(name).parent.name for name, _ in rows) == dict.fromkeys(NAMES, 5)
    smaller = LEVELS[max(0, LEVELS.index(level) - 1)]
    for name, [animal] in rows:
        assert NAMES[animal["category_id"] - 1] == Path(name).parent.name
        plain, below, image = (
            pixels_of(scenes / "occluded" / folder / name) for folder in ("00", smaller, level)
        )
        colour = shown(animal["colour"], "val")
        complete, visible = ((pixels == colour).all(axis=2) for pixels in (plain, image))
        assert animal["full_bbox"] == enclosing(complete)
        assert animal["bbox"] == enclosing(visible)
        assert animal["area"] == visible.sum()
        assert animal["visible"] == pytest.approx(visible.sum() / complete.sum(), abs=1e-4)
        # A quantile of few pixels: two may lie on one border.
        assert 1 - animal["visible"] == pytest.approx(int(level) / 100, abs=0.03)
        # Patches of a level cover all that those of the level below cover.
        covered, was_covered = ((pixels != plain).any(axis=2) for pixels in (image, below))
        assert (covered | ~was_covered).all()
        assert (image == below)[was_covered].all()


def test_the_library_reads_boxes_and_captions(scenes: Path) -> None:
    files, _ = read_coco_boxes(scenes / "val/coco.json", scenes / "val/images")
    assert len(files) == 20
    files, _ = read_coco_boxes(scenes / "occluded/75/coco.json", scenes / "occluded/75")
    assert len(files) == 15
    paths, _ = read_notes(scenes / "val/images", scenes / "val/captions.csv", file="path")
    assert len(paths) == 20


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_scenes_depend_on_the_seed_and_their_number_alone(
    silhouettes: Path, scenes: Path, tmp_path: Path
) -> None:
    few = {"num_train": 5, "num_val": 4, "num_single": 2, "num_occluded": 1}
    first, again, other = (
        contents(run(silhouettes, tmp_path / str(number), **few, seed=seed))
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again
    images = {name: content for name, content in first.items() if name.endswith(".png")}
    assert len(images) == 2 * 9 + 3 * 2 + 4 * 3
    assert images.items() <= contents(scenes).items()
    assert all(other[name] != content for name, content in images.items() if "mask" not in name)
    train, val = (pixels_of(scenes / part / "images/00000.png") for part in ("train", "val"))
    masks = [pixels_of(scenes / part / "masks/00000.png") for part in ("train", "val")]
    assert (train != val)[(masks[0] == 0) & (masks[1] == 0)].mean() > 0.5  # other backgrounds
    assert all(
        (pixels_of(a) != pixels_of(b)).any()
        for a, b in pairwise(sorted((scenes / "single").rglob("*.png")))
    )


def test_a_scene_without_a_clear_caption_is_drawn_again_and_nothing_stays_of_a_refusal(
    silhouettes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "MOST_TRIES", 1)
    problem = (
        r"compose_scenes: `silhouettes` must allow a clear scene of [234] animals, and none of 1 "
        r"drawings is one\. Give more silhouettes, of other sizes\."
    )
    with pytest.raises(SystemExit) as refusal:
        run(silhouettes, tmp_path / "out")
    assert re.fullmatch(problem, str(refusal.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"size": 47}, "`size` must be from 48 to 4096, got 47."),
        ({"num_train": 0}, "`num_train` must be from 1 to 1000000, got 0."),
        ({"num_val": -1}, "`num_val` must be from 1 to 1000000, got -1."),
        ({"num_single": 0}, "`num_single` must be from 1 to 1000000, got 0."),
        ({"num_occluded": 0}, "`num_occluded` must be from 1 to 1000000, got 0."),
    ],
)
def test_a_setting_out_of_range_is_named(
    settings: dict[str, int], problem: str, silhouettes: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as refusal:
        run(silhouettes, tmp_path / "out", **settings)
    assert str(refusal.value) == f"compose_scenes: {problem}"


def test_silhouettes_that_make_no_scene_are_named_and_leave_no_folder(tmp_path: Path) -> None:
    def refused(problem: str) -> None:
        with pytest.raises(SystemExit) as refusal:
            run(folder, tmp_path / "out")
        assert str(refusal.value) == f"compose_scenes: {problem}"
        assert not (tmp_path / "out").exists()

    folder = write_silhouettes(tmp_path / "silhouettes")
    cats = folder / "val/cat"
    broken = cats / "2.png"
    stored = broken.read_bytes()
    broken.write_bytes(stored[:40])
    with pytest.raises(SystemExit, match=re.escape(f"compose_scenes: {broken} must be an image: ")):
        run(folder, tmp_path / "out")
    Image.fromarray(np.full((28, 28), 63, np.uint8)).save(broken)
    refused(f"{broken} must show an animal, and no pixel has the gray level 64.")
    broken.write_bytes(stored)

    cats.rename(folder / "val/Cat")
    refused(f"{folder / 'val'} must hold a folder for each class, the same in train/ and val/.")
    for part in ("train", "val"):
        name = "cat" if part == "train" else "Cat"
        (folder / part / name).rename(folder / part / "red")
    refused(
        f"{folder / 'train/red'} must be named by a noun in small letters, since captions name it. "
        "Rename the folder."
    )
    for part in ("train", "val"):
        (folder / part / "red").rename(folder / part / "cat")
    for path in cats.iterdir():
        path.unlink()
    refused(f"{cats} must hold PNG files, and holds none.")
    (folder / "val").rename(folder / "test")
    refused(
        "`silhouettes` must hold train/ and val/, as data/prepare_silhouettes.py writes them, and "
        f"{folder} lacks val/."
    )


def test_a_folder_that_holds_scenes_is_left_alone(silhouettes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit) as refusal:
        run(silhouettes, tmp_path)
    assert str(refusal.value) == (
        f"compose_scenes: `out` must be a folder that is new or empty, got {tmp_path}. Name "
        "another `--out`."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
