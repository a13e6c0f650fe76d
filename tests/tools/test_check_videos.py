"""``dali-cutmix check --clips``: video files that are damaged, short, or of several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dali_cutmix import Clips
from dali_cutmix.tools.check.check import check
from dali_cutmix.tools.check.videos import check_videos
from video_files import remux, write_video

app = typer.Typer()
app.command()(check)


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
        app, [str(argument) for argument in arguments]
    )
    return result.exit_code, result.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Videos of 12, 20 and 16 frames, of 25, 50 and 25 frames per second."""
    write_video(tmp_path / "videos/run/a.mp4", 12)
    write_video(tmp_path / "videos/run/b.mkv", 20, rate=50)
    write_video(tmp_path / "videos/walk/c.mp4", 16, size=(40, 24))
    return tmp_path / "videos"


def test_good_videos_are_fine(root: Path) -> None:
    code, output = run(root, "--clips", "--frames", 4, "--stride", 3)
    assert output == "Frames of a clip: 12 to 20\nAll 3 clips are fine.\n"
    assert code == 0


def test_videos_that_are_too_short_are_listed(root: Path) -> None:
    code, output = run(root, "--clips", "--frames", 8, "--num-workers", 2)
    assert f"  {root}/run/a.mp4: 12 frames, and frames=8 need 15 frames\n" in output
    assert "1 of 3 clips is bad." in output
    assert code == 1


def test_videos_that_are_too_short_are_found_by_their_times(root: Path) -> None:
    code, output = run(root, "--clips", "--frames", 6, "--stride", 1, "--rate", 12)
    assert f"  {root}/run/b.mkv: 0.4 s, and frames=6 need over 0.417 s\n" in output
    assert "1 of 3 clips is bad." in output
    assert code == 1


def test_damaged_videos_are_listed(root: Path) -> None:
    video = root / "run/a.mp4"
    data = bytearray(video.read_bytes())
    middle = data.index(b"mdat") + 4 + 1200
    data[middle : middle + 300] = bytes(300)
    video.write_bytes(data)
    (root / "walk/d.avi").write_bytes(b"text")
    code, output = run(root, "--clips")
    assert "Clips with bad frames, or damaged: 2\n" in output
    assert f"  {video}: " in output
    assert f"  {root}/walk/d.avi: damaged, or not a video: " in output
    assert "Frames of a clip: 16 to 20\n" in output
    assert "2 of 4 clips are bad." in output
    assert code == 1


def test_videos_with_a_damaged_frame_that_decodes_are_listed(root: Path) -> None:
    video = write_video(root / "walk/d.avi", 12, "mpeg4", size=(72, 104))
    remux(video, lambda number, data: [data[: len(data) // 2] if number == 4 else data])
    code, output = run(root, "--clips")
    assert f"  {video}: the frame at 0.16 s is damaged\n" in output
    assert code == 1


def test_truncated_videos_are_listed(root: Path) -> None:
    video = write_video(root / "run/b.mkv", 40, size=(72, 104))
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    code, output = run(root, "--clips")
    assert f"Clips with bad frames, or damaged: 1\n  {video}: truncated" in output
    assert code == 1


def test_videos_with_frames_of_different_sizes_are_listed(root: Path) -> None:
    parts = [
        write_video(root.with_name("parts") / f"{number}.ts", length, "mpeg4", size=size)
        for number, (length, size) in enumerate(((5, (24, 40)), (3, (32, 40))))
    ]
    video = root / "walk/e.ts"
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    code, output = run(root, "--clips")
    assert (
        f"Clips with frames of different sizes: 1\n  {video}: 5 of 40 x 24, 3 of 40 x 32\n"
    ) in output
    assert code == 1


def test_the_function_tells_the_index_of_each_video(root: Path) -> None:
    done: list[int] = []
    clips = Clips(root, frames=8, stride=2)
    report = check_videos(clips, num_threads=2, has_length=True, on_progress=done.append)
    assert report.num_frames.tolist() == [12, 20, 16]
    assert list(report.short) == [0]
    assert done == [1, 2, 3]
    assert not check_videos(clips, num_threads=1, has_length=False).is_bad


def test_a_largest_size_of_video_files_is_a_usage_error(root: Path) -> None:
    code, output = run(root, "--clips", "--max-pixels", 1)
    assert code == 2
    assert "--max-pixels: goes without video files: their frames may have any size." in output
