"""The command ``frames``: which frames of which videos are written, once, and where."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import Clips
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.frames import frames

av: Any = pytest.importorskip("av")


def write_video(
    path: Path, rate: int, num_frames: int, size: tuple[int, int] = (48, 64), corner: int = 0
) -> None:
    """Write a video whose frame ``i`` has the gray level ``12 * i``, its top left part more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "1"}
        for number in range(num_frames):
            pixels = np.full((*size, 3), 12 * number, np.uint8)
            pixels[: size[0] // 2, : size[1] // 4] += corner
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


#: What a display matrix (a, b, c, d) makes of an image: (x, y) is shown at (ax + cy, bx + dy).
ORIENTED: dict[tuple[int, int, int, int], Any] = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


def set_display_matrix(video: Path, numbers: tuple[int, int, int, int]) -> None:
    """Write the matrix into the head of the track of an MP4."""
    data = video.read_bytes()
    matrix = data.index(b"tkhd") + 44
    a, b, c, d = (struct.pack(">i", number * 2**16) for number in numbers)
    none = bytes(4)
    video.write_bytes(data[:matrix] + a + b + none + c + d + data[matrix + 20 :])


def shown(folder: Path) -> list[int]:
    """Return which frames of the video the files of a folder show."""
    levels = [np.asarray(Image.open(path)).mean() for path in sorted(folder.iterdir())]
    return [round(level / 12) for level in levels]


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["frames", *map(str, arguments)])


def test_folders_are_kept_and_clips_reads_what_was_written(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "jump" / "a.mp4", 25, 20)
    write_video(tmp_path / "videos" / "run" / "b.mkv", 10, 15)
    result = call(tmp_path / "videos", tmp_path / "out", "--num-workers", 2)
    assert result.exit_code == 0, result.output
    clips = Clips(tmp_path / "out", frames=5)
    assert clips.classes == ["jump", "run"]
    assert clips.num_frames.tolist() == [20, 15]
    assert shown(tmp_path / "out" / "jump" / "a") == list(range(20))
    settings = json.loads((tmp_path / "out" / "frames.json").read_text())
    assert settings == {"rate": None, "short_side": None, "quality": 90}


def test_frames_are_taken_by_time_at_the_rate_asked_for(tmp_path: Path) -> None:
    for name, rate in (("a", 25), ("b", 10), ("c", 4)):
        write_video(tmp_path / f"{name}.mkv", rate, 20 if name == "a" else 10)
    videos = [tmp_path / f"{name}.mkv" for name in "abc"]
    assert call(*videos, tmp_path / "out", "--rate", 5).exit_code == 0
    # 0.8, 1 and 2.5 seconds: a frame is the last that has begun every 0.2 seconds.
    assert shown(tmp_path / "out" / "a") == [0, 5, 10, 15]
    assert shown(tmp_path / "out" / "b") == [0, 2, 4, 6, 8]
    assert shown(tmp_path / "out" / "c") == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9]


def test_times_that_a_container_rounds_are_taken_as_they_were(tmp_path: Path) -> None:
    # Times of Matroska are whole milliseconds: frame 2 begins at 0.067 s.
    write_video(tmp_path / "a.mkv", 30, 20)
    assert call(tmp_path / "a.mkv", tmp_path / "out", "--rate", 30).exit_code == 0
    assert shown(tmp_path / "out" / "a") == list(range(20))


@pytest.mark.parametrize("numbers", list(ORIENTED), ids=str)
def test_frames_are_turned_and_mirrored_as_the_display_matrix_says(
    tmp_path: Path, numbers: tuple[int, int, int, int]
) -> None:
    video = tmp_path / "a.mp4"
    write_video(video, 10, 1, corner=200)
    set_display_matrix(video, numbers)
    assert call(video, tmp_path / "out", "--quality", 100).exit_code == 0
    with av.open(str(video)) as container:
        stored = np.asarray(next(container.decode(video=0)).to_image())
    upright = np.asarray(Image.open(tmp_path / "out" / "a" / "000001.jpg"))
    assert (abs(upright.astype(int) - ORIENTED[numbers](stored)) < 8).all()


def test_short_side_is_shrunk_and_never_enlarged(tmp_path: Path) -> None:
    write_video(tmp_path / "tall.mp4", 10, 2, (96, 64))
    write_video(tmp_path / "small.mp4", 10, 2, (16, 32))
    out = tmp_path / "out"
    result = call(tmp_path / "tall.mp4", tmp_path / "small.mp4", out, "--short-side", 32)
    assert result.exit_code == 0
    assert Image.open(out / "tall" / "000001.jpg").size == (32, 48)
    assert Image.open(out / "small" / "000001.jpg").size == (32, 16)


def test_second_run_extracts_only_what_is_missing(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, 10, 3)
    videos, out = [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out"
    assert call(videos[0], out).exit_code == 0
    (out / "a" / "000002.jpg").write_bytes(b"kept")
    left_over = out / ".unfinished-b"  # of a run that was killed
    left_over.mkdir()
    (left_over / "000009.jpg").write_bytes(b"")
    assert call(*videos, out).exit_code == 0
    assert (out / "a" / "000002.jpg").read_bytes() == b"kept"
    assert shown(out / "b") == [0, 1, 2]
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "frames.json", "sources.json"]


def test_frames_of_another_video_are_not_taken_for_those_of_a_video(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder in ("one", "two"):
        write_video(tmp_path / folder / "a.mp4", 10, 3)
    one, two = (tmp_path / folder / "a.mp4" for folder in ("one", "two"))
    (out / "a").mkdir(parents=True)  # empty, as somebody may leave it
    assert call(one, out).exit_code == 0
    assert shown(out / "a") == [0, 1, 2]
    result = call(two, out)
    assert result.exit_code == 1
    assert result.stderr == (
        f"frames: `VIDEO` must be {one}, the video of the frames in {out / 'a'}, got {str(two)!r}. "
        "Extract into another folder, or remove the folder of these frames.\n"
    )
    one.unlink()
    assert call(two, out).exit_code == 0  # the video was moved
    write_video(two, 10, 4)
    assert call(two, out).exit_code == 1
    (out / "sources.json").unlink()  # as of a version that notes nothing
    assert call(two, out).exit_code == 0


def test_folder_that_another_run_fills_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 10, 3)
    out = tmp_path / "out"
    out.mkdir()
    with (out / "frames.json").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = call(tmp_path / "a.mp4", out)
    assert result.exit_code == 1
    assert result.stderr == (
        f"frames: another process extracts into {out}. Wait for its end, or choose another "
        "folder.\n"
    )
    assert call(tmp_path / "a.mp4", out).exit_code == 0


def test_folder_of_a_clip_holds_no_other_clip(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    for name in ("a.mp4", "a/b/c.mp4"):
        write_video(videos / name, 10, 3)
    inner = videos / "a" / "b" / "c.mp4"
    result = call(videos, out)
    assert result.exit_code == 1
    assert result.stderr == (
        "frames: `VIDEO` must lie in no folder that has the name of a video without the ending, "
        f"got {str(inner)!r}. Rename the folder, or {videos / 'a.mp4'}.\n"
    )
    assert not out.exists()
    inner.rename(tmp_path / "c.mp4")
    assert call(videos, out).exit_code == 0
    (tmp_path / "c.mp4").rename(inner)
    (videos / "a.mp4").rename(tmp_path / "a.mp4")
    result = call(videos, out)  # in two runs
    assert result.exit_code == 1
    assert result.stderr == (
        f"frames: `VIDEO` must have a folder of its own, and {out / 'a'} holds other files, got "
        f"{str(inner)!r}. Rename the video, or extract elsewhere.\n"
    )


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 10, 3)
    assert call(tmp_path / "a.mp4", tmp_path / "out").exit_code == 0
    result = call(tmp_path / "a.mp4", tmp_path / "out", "--rate", 5)
    assert result.exit_code == 1
    assert "frames: `OUT` must be a folder of frames with {'rate': 5.0" in result.stderr
    assert "Extract into another folder, or remove this folder." in result.stderr


def test_bad_video_is_named_and_all_others_are_extracted(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv", "c.mp4"):
        write_video(tmp_path / name, 10, 8)
    truncated = tmp_path / "a.mp4"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    (tmp_path / "b.mkv").write_bytes(b"")
    result = call(tmp_path, tmp_path / "out", "--num-workers", 2)
    assert result.exit_code == 1
    for name in ("a.mp4", "b.mkv"):
        assert f"dali-cutmix: cannot extract {tmp_path / name}: " in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "c",
        "frames.json",
        "sources.json",
    ]


def test_links_to_folders_of_videos_are_followed_and_hidden_folders_left_out(
    tmp_path: Path,
) -> None:
    write_video(tmp_path / "elsewhere/1.mp4", 4, 4)
    write_video(tmp_path / "videos/.old/2.mp4", 4, 4)
    (tmp_path / "videos/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "videos")
    assert call(tmp_path / "videos", tmp_path / "out").exit_code == 0
    found = [
        path.relative_to(tmp_path / "out").parent for path in (tmp_path / "out").rglob("*.jpg")
    ]
    assert set(found) == {Path("a/1")}


def test_folder_of_videos_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "videos/a/1.mp4", 4, 4)
    denied = tmp_path / "videos/b"
    denied.mkdir()
    scandir = os.scandir

    def deny(path: Any) -> Any:  # also for root, who reads everything
        if Path(path) == denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    result = call(tmp_path / "videos", tmp_path / "out")
    assert result.exit_code == 1
    assert "`VIDEO` must be readable, but" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_extracted_is_refused_in_one_sentence(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 10, 1)
    write_video(tmp_path / "a.mkv", 10, 1)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for arguments, message in (
        ([tmp_path / "no.mp4", out], "no.mp4 does not exist."),
        ([tmp_path / "empty", out], "empty must hold videos, names ending in .mp4, "),
        ([tmp_path, out], "`VIDEO` must have names of their own without the ending, as "),
    ):
        result = call(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert call(tmp_path / "a.mp4", out, "--rate", 0).exit_code == 2
    assert "must be finite and above 0, got inf." in call(out, out, "--rate", "inf").stderr
    assert not out.exists()


def test_called_from_python_all_but_a_list_of_paths_that_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, out = tmp_path / "missing", tmp_path / "out"
    rule = "frames: `VIDEO` must be a list of video files and folders, got"
    videos: Any
    for videos, message in (
        ([missing], f"frames: {missing} does not exist."),
        ([str(missing)], f"frames: {missing} does not exist."),
        (missing, f"{rule} {missing!r}."),
        ([], f"{rule} []."),
        (str(missing), f"{rule} {str(missing)!r}."),
    ):
        with pytest.raises(typer.Exit):
            frames(videos, out)
        assert capsys.readouterr().err == f"{message}\n"
    assert not out.exists()
