"""``dali-cutmix check --clips``: folders of frames that are bad, short, or of several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from clip_files import write_clip
from dali_cutmix import Clips
from dali_cutmix.tools.check.check import check
from dali_cutmix.tools.check.clips import check_clips

app = typer.Typer()
app.command()(check)

WAY_OUT = (
    '`DataLoader(on_error="replace")` serves other clips in their place. A folder of too few '
    "frames is refused all the same."
)
SHORT = "Clips that are too short, which `Clips(short='loop')` starts again"


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
        app, [str(argument) for argument in arguments]
    )
    return result.exit_code, result.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Clips of 7, 9 and 8 frames, in two classes."""
    for number, (name, length) in enumerate((("jump/a", 7), ("run/b", 9), ("run/c", 8))):
        write_clip(tmp_path / "clips" / name, number, length)
    return tmp_path / "clips"


def test_good_clips_are_fine(root: Path) -> None:
    code, output = run(root, "--clips", "--frames", 3, "--stride", 3)
    assert output.startswith("24 frames, 24 with a side below 224 px\n")
    assert output.endswith(
        "All 24 frames are fine.\nFrames of a clip: 7 to 9\nAll 3 clips are fine.\n"
    )
    assert code == 0


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (("--frames", 8, "--stride", 1), 8),
        (("--frames", 5), 9),
        (("--frames", 5, "--stride", 1, "--fps", 30, "--rate", 15), 9),
    ],
)
def test_every_clip_that_is_too_short_is_listed(
    root: Path, options: tuple[object, ...], needed: int
) -> None:
    code, output = run(root, "--clips", *options)
    lengths = {"jump/a": 7, "run/b": 9, "run/c": 8}
    short = {name: length for name, length in lengths.items() if length < needed}
    lines = [
        f"  {root}/{name}: {length} frames, and a sample needs {needed}\n"
        for name, length in short.items()
    ]
    assert f"{SHORT}: {len(short)}\n{''.join(lines)}Frames of a clip: 7 to 9\n" in output
    is_are = "is" if len(short) == 1 else "are"
    assert output.endswith(f"{len(short)} of 3 clips {is_are} bad. {WAY_OUT}\n")
    assert code == 1


def test_bad_frames_are_named_and_their_clips_too(root: Path) -> None:
    (root / "run/b/4.png").write_bytes(b"text")
    (root / "run/b/0.png").write_bytes(b"")
    code, output = run(root, "--clips")
    assert f"Bad, empty: 1\n  {root}/run/b/0.png: " in output
    assert f"Bad, no image: 1\n  {root}/run/b/4.png: " in output
    assert (
        '2 of 24 frames are bad. `DataLoader(on_error="replace")` replaces their clips.' in output
    )
    assert f"Clips with bad frames, or damaged: 1\n  {root}/run/b: 2 of 9 frames\n" in output
    assert output.endswith(f"1 of 3 clips is bad. {WAY_OUT}\n")
    assert code == 1


def test_frames_of_different_sizes_in_a_clip_are_named(root: Path, tmp_path: Path) -> None:
    for frame in (3, 5):
        other = write_clip(tmp_path / f"other{frame}", 1, 9, (12, 22)) / f"{frame}.png"
        (root / f"run/b/{frame}.png").write_bytes(other.read_bytes())
    code, output = run(root, "--clips")
    assert (
        f"Clips with frames of different sizes: 1\n  {root}/run/b: 2 of 9 frames, as "
        f"{root}/run/b/3.png of 22 x 12, where {root}/run/b/0.png has 20 x 12\n"
    ) in output
    assert "All 24 frames are fine." in output
    assert code == 1


def test_clips_may_differ_in_size_from_each_other(tmp_path: Path) -> None:
    write_clip(tmp_path / "a/0", 0, 2, (12, 20))
    write_clip(tmp_path / "a/1", 1, 2, (14, 10))
    assert run(tmp_path, "--clips")[0] == 0


def test_the_function_tells_the_index_of_each_clip(root: Path) -> None:
    clips = Clips(root, frames=4, stride=2, short="loop")
    report = check_clips(clips, bad_frames=[6, 7], has_length=True)
    assert report.num_frames.tolist() == [7, 9, 8]
    assert list(report.bad) == [0, 1]
    assert (report.odd, report.short, report.is_bad) == ({}, {}, True)
    clips = Clips(root, frames=9, stride=1, short="loop")
    assert list(check_clips(clips, bad_frames=[], has_length=True).short) == [0, 2]
    assert not check_clips(clips, bad_frames=[], has_length=False).is_bad


@pytest.mark.parametrize("name", ["none", "empty", "frames"])
def test_what_is_no_folder_of_clips_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    write_clip(tmp_path / "frames" / "0", 0, 2)
    code, output = run(tmp_path / name, "--clips")
    assert code == 1
    assert output.startswith("Clips: ")
    assert str(tmp_path / name) in output
    assert output.count("\n") == 1


def test_an_empty_clip_is_named(root: Path) -> None:
    (root / "run/d").mkdir()
    code, output = run(root, "--clips")
    assert code == 1
    assert output.startswith("Clips: `clips` must hold frames")
    assert f"{root}/run/d" in output


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--frames", "3"), "goes with --clips."),
        (("--clips", "--stride", "3"), "goes with --frames."),
        (("--clips", "--frames", "3", "--fps", "3"), "goes with --rate."),
        (("--clips", "--out", "r.json"), "goes without --out, --first-label, --boxes, --masks"),
        (("--clips", "--volumes"), "goes without --out, --first-label, --boxes, --masks"),
        (("--window", "3", "3", "3"), "goes with --volumes."),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    root: Path, options: tuple[str, ...], rule: str
) -> None:
    code, output = run(root, *options)
    assert code == 2
    assert rule in output
