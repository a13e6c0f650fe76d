"""Generated videos whose class is a motion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runs import recipe

generate = recipe("data/generate_clips")
CLASSES = ["right", "left", "down", "up", "clockwise", "counterclockwise", "growing", "shrinking"]


def settings(out: Path, **changes: Any) -> Any:
    few = {"num_train": 2, "num_val": 1, "num_frames": 5, "side": 16}
    return generate.Settings(out, **{**few, **changes})


def write_animals(root: Path) -> Path:
    """An animal of each part: a bright one that trains, a half as bright one that validates."""
    for part, level in (("train", 255), ("val", 128)):
        (root / part / "cat").mkdir(parents=True)
        Image.fromarray(np.full((28, 28), level, np.uint8)).save(root / part / "cat" / "0.png")
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.jpg")}


def test_each_class_has_its_videos_and_the_same_seed_writes_the_same(tmp_path: Path) -> None:
    for out in ("first", "again"):
        generate.main(settings(tmp_path / out))
    generate.main(settings(tmp_path / "other", seed=1))
    generate.main(settings(tmp_path / "more", num_train=3))
    for part, count in (("train", 2), ("val", 1)):
        assert {path.name for path in (tmp_path / "first" / part).iterdir()} == {*CLASSES}
        for name in CLASSES:
            videos = sorted((tmp_path / "first" / part / name).iterdir())
            assert [path.name for path in videos] == [f"{at:04}" for at in range(count)]
            frames = [path.name for path in sorted(videos[0].iterdir())]
            assert frames == [f"{at:03}.jpg" for at in range(5)]
    first = contents(tmp_path / "first")
    assert first == contents(tmp_path / "again")
    assert first != contents(tmp_path / "other")
    assert contents(tmp_path / "first/val") == contents(tmp_path / "more/val")
    assert Image.open(tmp_path / "first/val/up/0000/000.jpg").size == (16, 16)


def test_opposite_motions_are_the_same_videos_backwards_so_that_no_frame_tells_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    motions = []

    def numbered(motion: str, *_: Any) -> np.ndarray:
        motions.append(motion)
        return np.stack([np.full((16, 16, 3), 40 * at, np.uint8) for at in range(5)])

    monkeypatch.setattr(generate, "drawn", numbered)
    generate.main(settings(tmp_path / "out"))
    assert motions == 4 * ["right"] + 4 * ["down"] + 4 * ["clockwise"] + 4 * ["growing"] + [
        motion for motion in ("right", "down", "clockwise", "growing") for _ in range(2)
    ]
    for name in CLASSES:
        for video in (tmp_path / "out" / "train" / name).iterdir():
            levels = [np.asarray(Image.open(path)).mean() for path in sorted(video.iterdir())]
            levels = levels if name in motions else levels[::-1]
            assert levels == pytest.approx([0, 40, 80, 120, 160], abs=2)


def test_half_of_the_videos_show_animals_of_their_part_and_stars_differ_between_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    corners: set[Sequence[int]] = set()

    def looked_at(_: str, shape: np.ndarray, of_part: Sequence[int], *__: Any) -> np.ndarray:
        shown.append(int(shape.max()) if shape.shape == (28, 28) else 0)
        corners.add(tuple(of_part))
        return np.zeros((5, 16, 16, 3), np.uint8)

    monkeypatch.setattr(generate, "drawn", looked_at)
    animals = write_animals(tmp_path / "animals")
    generate.main(settings(tmp_path / "out", silhouettes=animals, num_val=2))
    assert shown == 4 * [0, 0, 255, 255] + 4 * [0, 0, 128, 128]
    assert corners == {(3, 5, 7), (4, 6, 8)}


def test_parts_draw_different_videos_also_of_the_same_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "CORNERS", {"train": (3,), "val": (3,)})
    generate.main(settings(tmp_path / "out", num_train=1))
    train, val = (contents(tmp_path / "out" / part) for part in ("train", "val"))
    assert train.keys() == val.keys()
    assert all(train[name] != val[name] for name in train)


def test_an_object_that_is_neither_turned_nor_scaled_shows_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    assert (generate.placed(image, 10.0, 10.0, 0.0, 20.0, 20) == image / 255).all()
    moved = generate.placed(image, 13.0, 9.0, 0.0, 20.0, 20)
    assert (moved[3:, :-1] == image[:-3, 1:] / 255).all()


@pytest.mark.parametrize("number", [3, 4, 7])
def test_a_star_has_as_many_tips_as_corners(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "STAR", 1024)  # thin tips have smooth edges
    rng = np.random.default_rng(number)
    for _ in range(5):
        image = generate.star((number,), rng)
        # On a circle between notches, at most 0.45 of the way, and tips, at least 0.6.
        angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
        y, x = (512 + 0.53 * 512 * at(angles) for at in (np.sin, np.cos))
        is_far = image[np.rint(y).astype(int), np.rint(x).astype(int)] > 0
        assert (is_far & ~np.roll(is_far, 1)).sum() == number


def seen(covered: np.ndarray) -> np.ndarray:
    """Column and row of a gray square, the direction of a bright dot from there, and its size."""
    y, x = np.nonzero((covered > 0.4) & (covered < 0.6))
    dot_y, dot_x = np.nonzero(covered > 0.9)
    direction = np.degrees(np.arctan2(dot_y.mean() - y.mean(), dot_x.mean() - x.mean()))
    return np.array([x.mean(), y.mean(), direction, 20 * np.log(len(x))])


@pytest.mark.parametrize("seed", range(4))
def test_each_motion_moves_as_it_is_called_and_most_of_all(tmp_path: Path, seed: int) -> None:
    image = np.zeros((64, 64), np.uint8)
    image[16:48, 16:48] = 128
    image[28:36, 50:62] = 255
    changes = []
    for motion in generate.OPPOSITES:
        rng = np.random.default_rng(seed)
        numbers = settings(tmp_path, side=96, num_frames=12)
        path = generate.path(motion, (0.5, 0.5), numbers, rng)
        first, last = (seen(generate.placed(image, *row, 96)) for row in path[[0, -1]])
        change = last - first
        change[2] = (change[2] + 180) % 360 - 180
        changes.append(change)
    matrix = np.array(changes)  # of each motion: to the right, down, clockwise, larger
    assert (np.diag(matrix) > 0).all()
    assert abs(matrix).argmax(axis=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 0}, "`num_train` must be from 1 to 1000000, got 0."),
        ({"num_frames": 1}, "`num_frames` must be from 2 to 1000000, got 1."),
        ({"side": 15}, "`side` must be from 16 to 4096, got 15."),
        (
            {"silhouettes": Path("nowhere")},
            "`silhouettes` must hold train/CLASS/NUMBER.png, as prepare_silhouettes.py writes "
            "them, got nowhere.",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        generate.main(settings(tmp_path / "out", **change))
    assert str(refused.value) == f"generate_clips: {message}"
    assert not (tmp_path / "out").exists()


def test_used_folder_and_broken_animal_are_refused_by_name(tmp_path: Path) -> None:
    animals = write_animals(tmp_path / "animals")
    with pytest.raises(SystemExit) as refused:
        generate.main(settings(animals))
    assert str(refused.value) == (
        f"generate_clips: `out` must be a folder that is new or empty, got {animals}. Name another "
        "`--out`."
    )
    broken = animals / "val" / "cat" / "0.png"
    broken.write_bytes(b"no image")
    with pytest.raises(SystemExit, match=f"{broken} must be an image, and cannot be decoded"):
        generate.main(settings(tmp_path / "out", silhouettes=animals))
