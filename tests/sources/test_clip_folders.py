"""Clips: which folders are clips, which frames a sample shows, and what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_files import frames_shown, unchanged, write_clip, write_clips
from dali_cutmix import ClipCutMix, Clips, DataLoader, Notes


def loaded(source: Clips, batch_size: int = 4, **settings: Any) -> DataLoader:
    settings = {"transform": unchanged(), "dtype": torch.uint8, "device": "cpu"} | settings
    return DataLoader(source, batch_size, num_workers=1, **settings)


def shown(source: Clips, **settings: Any) -> list[list[int]]:
    """Return the numbers of the frames that each clip of an epoch shows."""
    with loaded(source, **settings) as loader:
        return [clip for image, *_ in loader for clip in frames_shown(image)]


def test_folder_of_class_folders_of_clips_lists_clips_with_their_classes(tmp_path: Path) -> None:
    write_clip(tmp_path / "run" / "b", 1, 3)
    write_clip(tmp_path / "run" / "a", 0, 2)
    write_clip(tmp_path / "jump" / "a", 2, 4)
    source = Clips(tmp_path, frames=2, stride=1)
    assert source.classes == ["jump", "run"]
    assert [path for path, _ in source.samples] == [
        str(tmp_path / name) for name in ("jump/a", "run/a", "run/b")
    ]
    assert source.targets.tolist() == [0, 1, 1]
    assert source.num_frames.tolist() == [4, 2, 3]
    with loaded(source, 3) as loader:
        ((image, label),) = loader
    assert image.shape == (3, 3, 2, 12, 20)
    assert image.is_contiguous()
    assert image[:, 0, 0, 0, 0].tolist() == [2, 0, 1]
    assert label.tolist() == [0, 1, 1]


def test_list_of_clips_needs_classes_only_where_the_target_asks_for_classes(
    tmp_path: Path,
) -> None:
    source = Clips(write_clips(tmp_path, [2, 2, 2]), frames=2, stride=1)
    notes = Notes(["runs", "jumps", "sits"])
    with loaded(source, 2, mix=ClipCutMix(), target=notes) as loader:
        for image, mixed in loader:
            for clip, captions in zip(image[:, 0], mixed, strict=True):
                shares = {
                    n: float((clip == index).float().mean()) for index, n in enumerate(notes.values)
                }
                assert dict(captions) == pytest.approx({n: s for n, s in shares.items() if s})
    refusal = (
        f"DataLoader: `source[0]` must have a class, got {source.path(0)!r}. Pass `classes`. "
        "An annotation as `target`, such as Notes, needs none."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(refusal)}$"):
        loaded(source)


def test_list_of_clips_takes_names_or_indices_of_classes(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [2, 2, 2])
    assert Clips(clips, range(3), frames=1).targets.tolist() == [0, 1, 2]
    named = Clips(clips, ["run", "jump", "run"], frames=1)
    assert named.classes == ["jump", "run"]
    assert named.targets.tolist() == [1, 0, 1]
    assert Clips(clips, np.array([0, 2, 1]), frames=1).targets.tolist() == [0, 2, 1]


def test_frames_are_in_the_order_of_the_numbers_in_their_names(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [12])  # as texts, "10.png" comes before "2.png"
    assert shown(Clips(clips, [0], frames=12, stride=1)) == [list(range(12))]


def test_hidden_folders_and_files_are_left_out(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "run" / "a", 0, 3)
    write_clip(tmp_path / "run" / ".unfinished-b", 1, 3)
    write_clip(tmp_path / ".trash" / "c", 2, 3)
    (folder / "._0.png").write_bytes(b"of macOS")
    source = Clips(tmp_path, frames=3, stride=1)
    assert source.samples[:] == [(str(folder), 0)]
    assert shown(source) == [[0, 1, 2]]


def test_stride_counts_frames_of_the_clip_and_centre_takes_the_middle(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [9, 10, 7, 5])
    source = Clips(clips, range_of(4), frames=3, stride=2, start="centre")
    assert shown(source) == [[2, 4, 6], [2, 4, 6], [1, 3, 5], [0, 2, 4]]


def range_of(num: int) -> list[int]:
    return list(range(num))


def test_numbers_spread_several_samples_over_each_clip(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [9, 5])
    ways = [0.0, 0.4, 1.0]  # of at most four frames: 1.6 is nearest to 2
    settings: dict[str, Any] = {"frames": 3, "stride": 2}
    source = Clips([*clips] * 3, range_of(2) * 3, start=np.repeat(ways, 2), **settings)
    assert shown(source) == [
        *([0, 2, 4], [0, 2, 4]),
        *([2, 4, 6], [0, 2, 4]),
        *([4, 6, 8], [0, 2, 4]),
    ]
    assert shown(source.take([4, 0])) == [[4, 6, 8], [0, 2, 4]]
    short = Clips([clips[1]] * 2, [0, 0], frames=4, stride=2, start=[0, 1], short="loop")
    assert shown(short) == [[0, 2, 4, 1]] * 2


def test_each_possible_first_frame_is_drawn_equally_often(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [8])
    source = Clips(clips * 50, [0] * 50, frames=3, stride=2)
    starts = np.bincount([clip[0] for seed in range(4) for clip in shown(source, seed=seed)])
    # 200 draws of 4 starts: 50 each, standard deviation 6.1.
    assert len(starts) == 4
    assert (abs(starts - 50) < 25).all()


def test_first_frames_are_drawn_anew_in_each_epoch_and_alike_for_equal_seeds(
    tmp_path: Path,
) -> None:
    clips = write_clips(tmp_path, [30, 31, 32])
    source = Clips(clips, range_of(3), frames=2, stride=1)
    with loaded(source, 2) as loader:
        epochs = [[frames_shown(image) for image, _ in loader] for _ in range(2)]
    with loaded(source, 2) as loader:
        loader.set_epoch(1)
        again = [frames_shown(image) for image, _ in loader]
    assert epochs[0] != epochs[1]
    assert again == epochs[1]


@pytest.mark.parametrize("fps", [[10, 30, 24, 4], "mapping"])
def test_clips_of_different_rates_are_sampled_by_time(tmp_path: Path, fps: Any) -> None:
    rates = [10, 30, 24, 4]
    clips = write_clips(tmp_path, [30, 90, 72, 12])  # three seconds each
    if fps == "mapping":
        fps = {str(clip): rate for clip, rate in zip(clips, rates, strict=True)}
    source = Clips(clips, range_of(4), frames=5, stride=2, fps=fps, rate=10, start="centre")
    for frames, rate in zip(shown(source), rates, strict=True):
        first = frames[0]
        # Each frame is the last that has begun 0.2 seconds after the frame before.
        assert frames == [first + int(0.2 * turn * rate + 1e-6) for turn in range(5)]


def test_one_rate_for_all_clips_and_a_root_with_relative_names(tmp_path: Path) -> None:
    write_clip(tmp_path / "run" / "a", 0, 30)
    write_clip(tmp_path / "run" / "b", 1, 30)
    settings: dict[str, Any] = {"frames": 3, "stride": 1, "rate": 10, "start": "centre"}
    by_number = shown(Clips(tmp_path, fps=30, **settings))
    assert by_number == [[11, 14, 17]] * 2
    by_name = Clips(tmp_path, fps={"run/a": 30, "run/b": 10.0}, **settings)
    assert shown(by_name) == [[11, 14, 17], [13, 14, 15]]


def test_rates_of_listed_clips_go_by_their_names_where_names_tell_clips_apart(
    tmp_path: Path,
) -> None:
    for name, clip in (("run/a", 0), ("run/b", 1), ("sit/a", 2)):
        write_clip(tmp_path / name, clip, 30)
    run_a, run_b, sit_a = (tmp_path / name for name in ("run/a", "run/b", "sit/a"))
    settings: dict[str, Any] = {"frames": 3, "stride": 1, "rate": 10, "start": "centre"}
    by_name = {"a": 30, Path("b"): 10.0}
    assert shown(Clips([run_a, run_b, run_a], [0, 1, 0], fps=by_name, **settings)) == [
        [11, 14, 17],
        [13, 14, 15],
        [11, 14, 17],
    ]
    assert shown(Clips([f"{run_b}/"], [0], fps=by_name, **settings)) == [[13, 14, 15]]
    by_path: dict[Any, float] = {run_a: 30, "b": 10, str(sit_a): 20}
    assert shown(Clips([run_a, run_b, sit_a], [0, 1, 0], fps=by_path, **settings))[2] == [
        12,
        14,
        16,
    ]
    message = (
        "Clips: `fps` must tell clips apart, and 2 clips have the name, got 'a'. Name these clips "
        "by their paths."
    )
    for source, classes in (([run_a, run_b, sit_a], [0, 1, 0]), (tmp_path, None)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            Clips(source, classes, fps=by_name, **settings)


def test_short_clip_starts_again_after_its_last_frame_where_asked_for(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [3, 1, 8])
    source = Clips(clips, range_of(3), frames=4, stride=2, short="loop", start="centre")
    assert shown(source) == [[0, 2, 1, 0], [0, 0, 0, 0], [0, 2, 4, 6]]


def test_part_of_the_clips_shows_the_same_clips(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [4, 5, 6])
    source = Clips(clips, ["x", "y", "z"], frames=2, stride=1, start="centre")
    part = source.take([2, 0])
    assert [path for path, _ in part.samples] == [str(clips[2]), str(clips[0])]
    assert part.targets.tolist() == [2, 0]
    assert part.fingerprint != source.fingerprint
    assert shown(part) == [[2, 3], [1, 2]]
    assert source.take([-1, 0]).fingerprint == part.fingerprint
    with pytest.raises(ValueError, match=r"^Clips: `indices` must be whole numbers, got \[True, F"):
        source.take([True, False, True])
    subset = torch.utils.data.Subset(source, [2, 0])
    with loaded(subset) as loader:
        ((image, label),) = loader
    assert frames_shown(image) == [[2, 3], [1, 2]]
    assert label.tolist() == [2, 0]


def test_settings_and_frames_are_part_of_what_identifies_the_data(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [6, 6])
    settings: list[dict[str, Any]] = [
        {},
        {"stride": 1},
        {"start": "centre"},
        {"start": [0, 0]},
        {"start": [0, 1]},
        {"fps": 10, "rate": 10},
        {"fps": [10, 11], "rate": 10},
        {"short": "loop"},
    ]
    prints = [Clips(clips, [0, 1], **{"frames": 2} | given).fingerprint for given in settings]
    assert prints[0] == Clips(clips, [0, 1], frames=2).fingerprint
    assert len(set(prints)) == len(prints)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"frames": 0}, "Clips: `frames` must be a whole number of at least 1, got 0."),
    ({"stride": 0}, "Clips: `stride` must be a whole number of at least 1, got 0."),
    ({"start": "first"}, "Clips: `start` must be one of 'random', 'centre', got 'first'."),
    (
        {"start": [0.5]},
        "Clips: `start` must be 'random', 'centre', or a number in [0, 1] for each of the 2 clips, "
        "got 1 numbers.",
    ),
    (
        {"start": 0.5},
        "Clips: `start` must be 'random', 'centre', or a number in [0, 1] for each of the 2 clips, "
        "got 0.5.",
    ),
    ({"start": [0, 1.5]}, "Clips: `start[1]` must be a number in [0, 1], got 1.5."),
    ({"short": "pad"}, "Clips: `short` must be one of 'refuse', 'loop', got 'pad'."),
    (
        {"fps": 30},
        "Clips: `rate` must be given with `fps`, got None. Without both, `stride` counts the "
        "frames of each clip.",
    ),
    (
        {"rate": 30},
        "Clips: `fps` must be given with `rate`, got None. Without both, `stride` counts the "
        "frames of each clip.",
    ),
    (
        {"fps": [30, 0], "rate": 10},
        "Clips: `fps[1]` must be frames per second, finite and above 0, got 0.",
    ),
    (
        {"fps": 30, "rate": float("nan")},
        "Clips: `rate` must be frames per second, finite and above 0, got nan.",
    ),
    (
        {"fps": [30], "rate": 10},
        "Clips: `fps` must be a number, or one for each of the 2 clips, got 1 numbers.",
    ),
    (
        {"fps": {"other": 30}, "rate": 10},
        "Clips: `fps` must hold the frames per second of every clip, and {0} is missing, got a "
        "mapping of 1 clips.",
    ),
    (
        {"classes": "run"},
        "Clips: `classes` must be a list with a class for each of the 2 samples, got 'run'.",
    ),
    (
        {"classes": [0, 1, 0]},
        "Clips: `classes` must be a list with a class for each of the 2 samples, got 3 of them.",
    ),
    ({"classes": [0, -1]}, "Clips: `classes[1]` must be a class index of at least 0, got -1."),
    (
        {"classes": ["run", 1]},
        "Clips: `classes[0]` must be an index or a name as the others, got 'run'.",
    ),
    (
        {"frames": 3},
        "Clips: `clips` must be at least as long as a sample, and {1} must have 5 frames for "
        "frames=3, got 4 frames. `short='loop'` starts such clips again; fewer frames or a "
        "smaller stride fit.",
    ),
    (
        {"frames": 3, "stride": 3},
        "Clips: `clips` must be at least as long as a sample, and {0} and 1 more must have 7 "
        "frames for frames=3, got 5 frames. `short='loop'` starts such clips again; fewer frames "
        "or a smaller stride fit.",
    ),
    (
        {"clips": []},
        "Clips: `clips` must be a list of at least one folder of frames or video file, got []. Or "
        "a folder with a subfolder for each class.",
    ),
    (
        {"clips": [3]},
        "Clips: `clips[0]` must be a folder of frames or a video file, got 3.",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_bad_arguments_are_refused_by_name_before_anything_is_served(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    clips = write_clips(tmp_path, [5, 4])
    arguments: dict[str, Any] = {"clips": clips, "classes": [0, 1], "frames": 2, "stride": 2}
    with pytest.raises(ValueError, match=re.escape(message.format(*clips)) + "$"):
        Clips(**arguments | given)


def test_what_is_not_a_clip_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_bytes(b"")
    for name, error, message in (
        (
            "a.txt",
            ValueError,
            "Clips: `clips` must be folders of frames, or video files ending in .mp4, .avi, ",
        ),
        ("no", FileNotFoundError, "Clips: the clip '{0}' does not exist."),
        ("empty", ValueError, "Clips: `clips` must hold frames, names ending in .jpg, "),
    ):
        path = tmp_path / name
        with pytest.raises(error, match=re.escape(message.format(path))):
            Clips([path], [0])


def test_folder_of_another_layout_is_refused_with_the_layout(tmp_path: Path) -> None:
    layout = "a folder for each class, which holds a folder of frames or a video for each clip"
    message = f"Clips: `clips` must be {layout}, but '{tmp_path / 'no'}' does not exist."
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        Clips(tmp_path / "no")
    message = f"Clips: `clips` must be {layout}, but '{tmp_path}' has no folders."
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        Clips(tmp_path)
    write_clip(tmp_path / "run", 0, 2)
    message = f"class folder '{tmp_path / 'run'}' must hold a folder of frames or a video for each "
    holds = "clip, but holds frames itself."
    with pytest.raises(FileNotFoundError, match=re.escape(message + holds)):
        Clips(tmp_path)
    (tmp_path / "jump").mkdir()
    (tmp_path / "jump/1.npy").touch()
    way_out = "Volumes are read by `Volumes`, on the command line with `--volumes`."
    holds = f"each clip, but holds files (1), none of them a video. {way_out}"
    with pytest.raises(FileNotFoundError, match=re.escape(holds)):
        Clips(tmp_path)
    with pytest.raises(ValueError, match="`classes` must be None where `clips` is a folder"):
        Clips(tmp_path, [0])


def test_clip_is_not_taken_for_an_image(tmp_path: Path) -> None:
    source = Clips(write_clips(tmp_path, [2]), [0], frames=1)
    with pytest.raises(TypeError, match=re.escape(f"{tmp_path / 'clip0'} is not an image.")):
        source.stored(0)
