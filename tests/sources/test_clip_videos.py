"""Clips of video files: the frames that were extracted, by number and by time; bad files."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from clip_files import unchanged, write_clips
from dali_cutmix import BadFileError, ClipCutMix, Clips, DataLoader, MixUp, TrainTransform
from dali_cutmix.tools.cli import app
from video_files import SIZE, av, decoded, frame_numbers, remux, write_frames, write_video

KINDS = [
    ("libx264", "mp4"),
    ("libx264", "mkv"),
    ("libx264", "ts"),
    ("libx265", "mp4"),
    ("libvpx", "webm"),
    ("libvpx-vp9", "webm"),
    ("mpeg4", "avi"),
]


def loaded(source: Clips, batch_size: int = 3, **settings: Any) -> DataLoader:
    settings = {"transform": unchanged(SIZE), "dtype": torch.uint8, "device": "cpu"} | settings
    return DataLoader(source, batch_size, **{"num_workers": 2} | settings)


def shown(source: Clips, **settings: Any) -> list[list[int]]:
    """Return the numbers of the frames that each clip of an epoch shows."""
    with loaded(source, **settings) as loader:
        return [clip for image, *_ in loader for clip in frame_numbers(image)]


def assert_equal_epochs(first: DataLoader, second: DataLoader, num_epochs: int = 2) -> None:
    with first, second:
        for _ in range(num_epochs):
            for (image, target), (same, same_target) in zip(first, second, strict=True):
                assert torch.equal(image, same)
                assert torch.equal(target, same_target)


class NoDraws:
    """Draw the middle of everything."""

    def uniform(self, *_: object) -> np.ndarray:
        return np.array([0.5], np.float32)


@pytest.mark.parametrize(("codec", "ending"), KINDS, ids=map("-".join, KINDS))
def test_clips_of_videos_equal_clips_of_their_extracted_frames_to_the_pixel(
    tmp_path: Path, codec: str, ending: str
) -> None:
    lengths = [30, 26, 28, 9]
    videos = [
        write_video(tmp_path / f"{n}.{ending}", length, codec, gop=8, size=(72, 104))
        for n, length in enumerate(lengths)
    ]
    folders = [write_frames(tmp_path / f"frames{n}", video) for n, video in enumerate(videos)]
    settings: dict[str, Any] = {"transform": TrainTransform((20, 16)), "mix": ClipCutMix("cuboid")}
    first, second = (
        loaded(Clips(clips, [0, 1, 2, 1], frames=4, stride=2), shuffle=True, seed=5, **settings)
        for clips in (videos, folders)
    )
    assert_equal_epochs(first, second)


def test_frames_far_apart_equal_those_of_extracted_frames(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", 30, gop=3) for n in range(3)]
    folders = [write_frames(tmp_path / f"frames{n}", video) for n, video in enumerate(videos)]
    first, second = (
        loaded(Clips(clips, [0, 1, 2], frames=2, stride=25)) for clips in (videos, folders)
    )
    assert_equal_epochs(first, second)


def test_frames_that_are_never_shown_are_no_frames_of_a_clip(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.webm", 60, "libvpx")

    def with_hidden(number: int, data: bytes) -> list[bytes]:
        is_hidden = number in (4, 9)
        return [bytes([data[0] & ~0x10]) + data[1:] if is_hidden else data]

    remux(video, with_hidden)
    folder = write_frames(tmp_path / "frames", video)
    assert len(os.listdir(folder)) == 58
    first, second = (
        loaded(Clips([clip] * 6, [0] * 6, frames=3, stride=2)) for clip in (video, folder)
    )
    assert_equal_epochs(first, second)


def test_packets_without_a_frame_are_no_frames_of_a_clip(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", 24, "mpeg4")
    not_coded = bytes.fromhex("000001b6504f")  # as in streams of packed frames
    remux(video, lambda number, data: [data, not_coded] if number == 7 else [data])
    with av.open(str(video)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 25
    folder = write_frames(tmp_path / "frames", video)
    assert len(os.listdir(folder)) == 24
    first, second = (
        loaded(Clips([clip] * 6, [0] * 6, frames=12, stride=1)) for clip in (video, folder)
    )
    assert_equal_epochs(first, second)


def test_clips_show_what_the_command_frames_extracts_but_for_jpegs_errors(tmp_path: Path) -> None:
    for name in ("jump/a.mp4", "run/b.mkv", "run/c.webm"):
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        write_video(tmp_path / "videos" / name, 20, codec, size=(36, 52))
    settings = [str(tmp_path / "videos"), str(tmp_path / "out"), "--short-side", "24"]
    assert CliRunner().invoke(app, ["frames", *settings, "--quality", "100"]).exit_code == 0
    options: dict[str, Any] = {"frames": 5, "stride": 3}
    of_videos = Clips(tmp_path / "videos", short_side=24, **options)
    of_frames = Clips(tmp_path / "out", **options)
    assert of_videos.classes == of_frames.classes == ["jump", "run"]
    assert of_videos.targets.tolist() == [0, 1, 1]
    assert of_videos.stored(of_videos.parts([0], NoDraws(), None)[0]).shape == (5, 24, 35, 3)
    transform = unchanged((24, 35))
    with (
        loaded(of_videos, transform=transform) as loader,
        loaded(of_frames, transform=transform) as other,
    ):
        for (image, label), (jpeg, same_label) in zip(loader, other, strict=True):
            assert (image.int() - jpeg.int()).abs().float().mean() < 1
            assert torch.equal(label, same_label)


def by_time(stamps: list[float], first: int, num: int, step: float) -> list[int]:
    """Return the last frame that has begun at each time, ``step`` seconds apart."""
    return [
        max(n for n, stamp in enumerate(stamps) if stamp <= stamps[first] + t * step + 1e-3)
        for t in range(num)
    ]


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_frames_of_a_variable_rate_are_taken_by_their_times(tmp_path: Path, ending: str) -> None:
    gaps = np.random.default_rng(1).integers(20, 260, 24)
    stamps = [int(stamp) for stamp in np.cumsum(gaps) - gaps[0]]
    video = write_video(tmp_path / f"a.{ending}", 24, stamps_ms=stamps)
    seconds = [stamp / 1000 for stamp in stamps]
    source = Clips([video] * 12, [0] * 12, frames=5, stride=3, rate=10)
    starts = set()
    for frames in shown(source):
        assert frames == by_time(seconds, frames[0], 5, 0.3)
        starts.add(frames[0])
    # The last frame begins before the end of the video.
    end = seconds[-1] + seconds[-1] - seconds[-2]
    possible = [n for n, second in enumerate(seconds) if second + 4 * 0.3 < end]
    assert starts <= set(possible)
    assert len(starts) > 4
    centre = Clips([video], [0], frames=5, stride=3, rate=10, start="centre")
    assert shown(centre)[0][0] == possible[(len(possible) - 1) // 2]
    spread = Clips([video] * 2, [0] * 2, frames=5, stride=3, rate=10, start=[0, 1])
    assert [frames[0] for frames in shown(spread)] == [possible[0], possible[-1]]


@pytest.mark.parametrize(("ending", "rate"), [("mkv", 30), ("mp4", 30), ("avi", 25), ("mkv", 24)])
@pytest.mark.parametrize("wanted", [30, 10, 7, 60])
def test_rates_mean_the_same_for_videos_as_for_folders(
    tmp_path: Path, ending: str, rate: int, wanted: int
) -> None:
    codec = "mpeg4" if ending == "avi" else "libx264"
    videos = [write_video(tmp_path / f"{n}.{ending}", 31, codec, rate=rate) for n in range(2)]
    folders = [write_frames(tmp_path / f"frames{n}", video) for n, video in enumerate(videos)]
    settings: dict[str, Any] = {"frames": 4, "stride": 2, "rate": wanted}
    for start in ("random", [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.9, 1]):
        settings["start"] = start
        wanted_frames = shown(Clips(folders * 4, [0] * 8, fps=rate, **settings))
        assert shown(Clips(videos * 4, [0] * 8, fps=rate, **settings)) == wanted_frames
        assert shown(Clips(videos * 4, [0] * 8, **settings)) == wanted_frames


def test_extracted_frames_of_a_rounding_container_are_those_of_their_times(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", 20, rate=30)  # times of Matroska are whole milliseconds
    settings = [str(tmp_path / "a.mkv"), str(tmp_path / "out"), "--rate", "30"]
    assert CliRunner().invoke(app, ["frames", *settings]).exit_code == 0
    source = Clips([tmp_path / "out" / "a"], [0], frames=20, stride=1)
    assert shown(source) == [list(range(20))]


def test_short_video_starts_again_where_asked_for(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", length) for n, length in enumerate([3, 1, 8])]
    settings: dict[str, Any] = {"frames": 4, "short": "loop", "start": "centre"}
    by_number = Clips(videos, range(3), stride=2, **settings)
    assert shown(by_number) == [[0, 2, 1, 0], [0, 0, 0, 0], [0, 2, 4, 6]]
    by_seconds = Clips(videos, range(3), stride=1, rate=12.5, **settings)
    assert shown(by_seconds) == [[0, 2, 1, 0], [0, 0, 0, 0], [0, 2, 4, 6]]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_upright_by_the_display_matrix(tmp_path: Path, rotation: int) -> None:
    video = write_video(tmp_path / "a.mp4", 4, rotation=rotation)
    size = SIZE[::-1] if rotation % 180 else SIZE
    with loaded(Clips([video], [0], frames=4, stride=1), transform=unchanged(size)) as loader:
        ((image, _),) = loader
    for frame, stored in zip(image[0].permute(1, 2, 3, 0).numpy(), decoded(video), strict=True):
        assert (frame == np.rot90(stored, rotation // 90)).all()


def test_mirrored_display_matrix_mirrors_the_frames(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 2, rotation=180)
    data = video.read_bytes()
    head = data.index(b"tkhd")
    turned = head + 44  # -1 in front of x and of y
    assert data[turned : turned + 4] == (-(2**16)).to_bytes(4, "big", signed=True)
    upright = turned + 16
    mirror = data[:upright] + (2**16).to_bytes(4, "big") + data[upright + 4 :]
    video.write_bytes(mirror)
    with loaded(Clips([video], [0], frames=2, stride=1)) as loader:
        ((image, _),) = loader
    assert (image[0, :, 0].permute(1, 2, 0).numpy() == decoded(video)[0][:, ::-1]).all()


def truncated(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated mp4": ("mp4", truncated(0.9), "damaged, or not a video: "),
    "truncated mkv": ("mkv", truncated(0.75), "truncated: the file ends after "),
    "truncated webm": ("webm", truncated(0.6), "truncated: the file ends after "),
    "truncated avi": ("avi", truncated(0.6), ""),
    "empty": ("mp4", lambda path: path.write_bytes(b""), "damaged, or not a video: "),
    "no video": ("mkv", lambda path: path.write_bytes(b"text " * 99), "damaged, or not a video: "),
    "missing": ("mp4", lambda path: path.unlink(), "No such file"),
    "a folder": ("mp4", lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "too short": (
        "mp4",
        lambda path: write_video(path, 6),
        "too short: 6 frames, and frames=4 need 7 frames",
    ),
    "other size": ("ts", lambda path: two_sizes(path), "a frame of "),
}


def two_sizes(path: Path) -> None:
    """Write a stream whose last frames have another size."""
    parts = [
        write_video(path.with_name(f"part{number}.ts"), 4, "mpeg4", size=size)
        for number, size in enumerate([SIZE, (32, 24)])
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


CODECS = {"webm": "libvpx-vp9", "avi": "mpeg4"}


@pytest.mark.parametrize("damage", BAD)
def test_bad_video_is_named_or_replaced_and_all_others_stay(tmp_path: Path, damage: str) -> None:
    ending, spoil, reason = BAD[damage]
    videos = [
        write_video(tmp_path / f"{n}.{ending}", 12, CODECS.get(ending, "libx264")) for n in range(4)
    ]
    source = Clips(videos, range(4), frames=4, stride=2)
    settings: dict[str, Any] = {"shuffle": True, "seed": 1}
    with loaded(source, **settings) as loader:
        wanted = [(image.clone(), label) for image, label in loader]
    spoil(videos[2])
    with loaded(source, **settings) as loader, pytest.raises(BadFileError) as raised:
        list(loader)
    assert raised.value.path == str(videos[2])
    assert raised.value.reason.startswith(reason)
    with loaded(source, on_error="replace", **settings) as loader:
        with pytest.warns(RuntimeWarning, match=re.escape(f"replaced {videos[2]} by {tmp_path}")):
            batches = list(loader)
        assert [path for path, _ in loader.bad_files] == [str(videos[2])]
    for (image, label), (before, label_before) in zip(batches, wanted, strict=True):
        assert image.shape == before.shape
        is_kept = label_before != 2
        assert torch.equal(image[is_kept], before[is_kept])
        assert torch.equal(label[is_kept], label_before[is_kept])
        assert 2 not in label.tolist()


def test_truncated_video_is_bad_though_the_clip_lies_before_the_missing_part(
    tmp_path: Path,
) -> None:
    for ending, missing in (("avi", 550), ("mkv", 800)):
        video = write_video(tmp_path / f"a.{ending}", 30, "mpeg4")
        video.write_bytes(video.read_bytes()[:-missing])
        source = Clips([video], [0], frames=2, stride=1, start="centre")
        with loaded(source, 1) as loader, pytest.raises(BadFileError) as raised:
            list(loader)
        assert raised.value.reason.startswith("truncated")


def test_video_that_lasts_too_short_for_the_rate_is_bad(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 25)
    source = Clips([video], [0], frames=6, stride=2, rate=10)
    with loaded(source, 1) as loader, pytest.raises(BadFileError) as raised:
        list(loader)
    assert raised.value.reason == "too short: 1 s, and frames=6 need over 1 s"


@pytest.mark.parametrize("name", ["a:b.mp4", "q?x=1#é %20.mp4", "A.MP4"])
def test_names_of_files_are_names_and_no_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    video = write_video(tmp_path / "a.mp4", 3)
    video.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert shown(Clips([name], [0], frames=3, stride=1)) == [[0, 1, 2]]


def test_video_without_pictures_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with loaded(Clips([path], [0], frames=1), 1) as loader, pytest.raises(BadFileError) as raised:
        list(loader)
    assert raised.value.reason == "damaged, or not a video: no video stream"


def test_file_that_changes_between_epochs_is_looked_at_anew(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 12)
    source = Clips([video], [0], frames=3, stride=1, start="centre")
    with loaded(source, 1) as loader:
        assert [frame_numbers(image) for image, _ in loader] == [[[4, 5, 6]]]
        write_video(video, 20)
        assert [frame_numbers(image) for image, _ in loader] == [[[8, 9, 10]]]


def test_threads_copies_and_resumed_runs_serve_the_same_clips(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", 14 + n) for n in range(7)]
    source = Clips(videos, [0] * 7, frames=3)
    settings: dict[str, Any] = {"transform": TrainTransform((16, 20)), "mix": ClipCutMix("moving")}
    settings |= {"shuffle": True}
    with loaded(source, 2, num_workers=1, **settings) as loader:
        wanted = list(loader)
    with (
        loaded(source, 2, num_workers=3, prefetch=1, **settings) as loader,
        pickle.loads(pickle.dumps(loader)) as twin,
    ):
        assert all(
            torch.equal(image, same) for (image, _), (same, _) in zip(loader, wanted, strict=True)
        )
        assert all(
            torch.equal(image, same) for (image, _), (same, _) in zip(twin, wanted, strict=True)
        )
    with loaded(source, 2, **settings) as loader:
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
    with loaded(source, 2, **settings) as loader:
        loader.load_state_dict(state)
        rest = list(loader)
    assert len(rest) == 3
    for (image, target), (same, same_target) in zip(rest, wanted[1:], strict=True):
        assert torch.equal(image, same)
        assert torch.equal(target, same_target)


def test_fork_reads_on_and_no_file_stays_open(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", 12) for n in range(5)]
    source = Clips(videos, [0] * 5, frames=3)
    with loaded(source, 2) as loader:
        list(loader)
        names = [os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()]
        assert not [name for name in names if name.startswith(str(tmp_path))]
    (part,) = source.parts([1], NoDraws(), None)
    wanted = source.stored(part)
    child = os.fork()
    if not child:
        os._exit(0 if (source.stored(part) == wanted).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def _descriptors() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{name}")]


def test_part_of_the_videos_and_blended_clips_are_served(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", 12, brightness=40 * n) for n in range(4)]
    source = Clips(videos, ["a", "b", "c", "d"], frames=3, stride=1, start="centre")
    part = source.take([3, 1])
    assert [path for path, _ in part.samples] == [str(videos[3]), str(videos[1])]
    assert part.fingerprint != source.fingerprint
    alike = Clips(videos, [0] * 4, frames=3)
    assert alike.take([0, 1]).fingerprint != alike.take([1, 2]).fingerprint
    with loaded(part) as loader:
        ((image, label),) = loader
    assert label.tolist() == [3, 1]
    assert frame_numbers(image[:1], 120) == frame_numbers(image[1:], 40) == [[4, 5, 6]]
    with loaded(source, 4, mix=MixUp(), dtype=torch.float32) as loader:
        ((image, target),) = loader
    assert image.shape == (4, 3, 3, *SIZE)
    assert target.sum(1).tolist() == pytest.approx([1] * 4)


def test_settings_and_names_are_part_of_what_identifies_the_videos(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", 2) for n in range(3)]
    prints = {
        Clips(files, [0, 1], **{"frames": 2} | settings).fingerprint
        for files, settings in (
            (videos[:2], {}),
            (videos[1:], {}),
            (videos[:2], {"short_side": 16}),
            (videos[:2], {"rate": 10}),
            (videos[:2], {"rate": 10, "fps": 10}),
        )
    }
    assert len(prints) == 5


def test_what_cannot_be_clips_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "videos" / "run" / "a.mp4", 2)
    (folder,) = write_clips(tmp_path, [4])
    mixed = (
        f"Clips: `clips` must be folders of frames or video files, not both, and {folder} is a "
        f"folder, got '{video}'. `dali-cutmix frames` makes folders of frames of video files."
    )
    (tmp_path / "a.txt").write_bytes(b"")
    for clips, settings, message in (
        ([folder, video], {}, mixed),
        ([video, folder], {}, mixed),
        (
            [folder],
            {"short_side": 8},
            "Clips: `short_side` must be None with folders of frames, got 8. `dali-cutmix frames "
            "--short-side` makes folders of smaller frames.",
        ),
        (
            [video],
            {"short_side": 0},
            "Clips: `short_side` must be a whole number of at least 1, got 0.",
        ),
        (
            [video],
            {"fps": 10},
            "Clips: `rate` must be given with `fps`, got None. Without both, `stride` counts the "
            "frames of each clip.",
        ),
        ([video], {"rate": 0}, "Clips: `rate` must be frames per second, finite and above 0, got"),
        (
            [tmp_path / "a.txt"],
            {},
            "Clips: `clips` must be folders of frames, or video files ending in .mp4, .avi, ",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            Clips(clips, list(range(len(clips))), frames=1, **settings)
    with pytest.raises(FileNotFoundError, match=r"the clip '.*no\.mp4' does not exist"):
        Clips([tmp_path / "no.mp4"], [0])
    source = Clips([video], [0], frames=1)
    with pytest.raises(TypeError, match=re.escape(f"{video} is not an image.")):
        source.stored(0)
    monkeypatch.setitem(sys.modules, "av", None)
    message = r"Clips: av cannot be imported .*`pip install -e '\.\[video\]'` in the checkout\."
    with pytest.raises(ImportError, match=message):
        Clips(tmp_path / "videos", frames=1)
