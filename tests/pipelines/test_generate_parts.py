"""Generated objects with two parts, and their boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runs import recipe

generate = recipe("data/generate_parts")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts") / "out"
    generate.main(generate.Settings(out, num_classes=3, num_train=12, num_val=5))
    return out


def objects(parts: Path, part: str) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Every picture, its object with the bright end left and up, and its class."""
    content = json.loads((parts / f"{part}.json").read_text())
    boxes = {entry["image_id"]: entry["bbox"] for entry in content["annotations"]}
    rows = []
    for entry in content["images"]:
        pixels = np.asarray(Image.open(parts / part / entry["file_name"]))
        x, y, width, height = boxes[entry["id"]]
        turned = pixels[y : y + height, x : x + width]
        for _ in range(4):
            if turned.shape[0] == 12 and (turned[:, :12] == 255).sum() == 72:
                break
            turned = np.rot90(turned)
        rows.append((pixels, turned, Path(entry["file_name"]).parent.name))
    return rows


def test_a_class_has_one_pattern_at_each_end_and_no_two_classes_share_one(parts: Path) -> None:
    patterns: dict[str, set[bytes]] = {}
    for part, count in (("train", 12), ("val", 5)):
        rows = objects(parts, part)
        assert len(rows) == 3 * count
        for _, turned, name in rows:
            assert (turned[:, -12:] == 170).sum() == 72
            assert 6 <= turned.shape[1] - 24 <= 14
            assert (turned[4:8, 12:-12] == 130).all()
            filled = turned[:, :12] == 255, turned[:, -12:] == 170
            ends = b"".join(end.tobytes() for end in filled)
            patterns.setdefault(name, set()).add(ends)
    assert [len(patterns[f"part_{index:02}"]) for index in range(3)] == [1, 1, 1]
    halves = {ends[:144] for kinds in patterns.values() for ends in kinds}
    halves |= {ends[144:] for kinds in patterns.values() for ends in kinds}
    assert len(halves) == 6


@pytest.mark.parametrize("seed", range(3))
def test_no_two_patterns_of_many_classes_are_equal_after_turns(seed: int) -> None:
    patterns = generate.draw_patterns(200, np.random.default_rng(seed))
    assert patterns.shape == (200, 2, 4, 4)
    assert (patterns.sum((2, 3)) == 8).all()
    flat = patterns.reshape(400, 4, 4)
    least = {min(np.rot90(cells, turn).tobytes() for turn in range(4)) for cells in flat}
    assert len(least) == 400


def test_boxes_enclose_the_objects_and_nothing_else_is_brighter_than_noise(parts: Path) -> None:
    for pixels, turned, _ in objects(parts, "val"):
        assert pixels.shape == (48, 48)
        assert (pixels >= 130).sum() == (turned >= 130).sum()
        bright = turned >= 130
        assert bright.any(axis=0).all()
        assert bright.any(axis=1).all()


def test_objects_lie_in_all_directions_and_places(parts: Path) -> None:
    rows = objects(parts, "train")
    shapes = {pixels.tobytes() for pixels, _, _ in rows}
    assert len(shapes) == len(rows)
    content = json.loads((parts / "train.json").read_text())
    boxes = np.array([entry["bbox"] for entry in content["annotations"]])
    assert 0 < (boxes[:, 2] > boxes[:, 3]).mean() < 1
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 48


def test_counts_below_the_least_and_used_folders_are_refused(parts: Path, tmp_path: Path) -> None:
    for count in (1, 501):
        with pytest.raises(SystemExit, match="`num_classes` must be from 2 to 500"):
            generate.main(generate.Settings(tmp_path / "out", num_classes=count))
    with pytest.raises(SystemExit, match="`num_train` must be from 1 to 1000000, got 0"):
        generate.main(generate.Settings(tmp_path / "out", num_train=0))
    with pytest.raises(SystemExit, match="`out` must be a folder that is new or empty, got"):
        generate.main(generate.Settings(parts))
    assert not (tmp_path / "out").exists()
