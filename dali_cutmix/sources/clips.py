"""`Clips`: video clips as folders of frames or as video files, sampled by time."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np

from dali_cutmix.core.checks import (
    Told,
    check_choice,
    check_count,
    checked_indices,
    is_number,
    local_path,
    refuse,
)
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.sources.base import Kind, StoredImages
from dali_cutmix.sources.clip_listing import Folder, are_videos, checked_paths, frames_in, list_root
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.stacks import Stacks, class_indices
from dali_cutmix.sources.video_files import import_av
from dali_cutmix.sources.video_times import FrameTimes
from dali_cutmix.sources.videos import VideoReader

WHERE = "Clips"

#: Frames. A clip may end this much early: rates such as 30000/1001 are not exact.
_TOLERANCE = 1e-6


class Span(NamedTuple):
    """Say which part of a video file is decoded.

    Attributes:
        clip: Index of the clip.
        share: Which of the possible first frames, as a share of them, in [0, 1). None takes the
            middle.
        way: Share of the way from the first possible frame to the last, in [0, 1], in place of
            ``share``. None where ``share`` says which frame.
    """

    clip: int
    share: float | None
    way: float | None = None


class Clips(Stacks):
    """List video clips, each a folder of frames or a video file, and the class of each.

    A loader yields ``[B, 3, T, height, width]`` with ``T = frames``. A clip has one crop, flip and
    colour draw for all frames. Its first frame is drawn anew in each epoch.

    Frames of a folder are its image files, in the order of their names, where numbers count as
    numbers: ``2.jpg`` comes before ``10.jpg``. Names that begin with a dot are left out, such as
    those of macOS and of unfinished clips.

    Frames of a video file are decoded by PyAV on ``num_workers`` threads, each once, from the key
    frame before: upright, and the same as ``dali-cutmix frames`` extracts, which makes folders of
    frames of video files. A file is looked at when its turn comes. A file that is damaged,
    truncated or too short is bad, as a bad frame is.

    With ``rate`` frames are taken by time. Frame ``t`` is what the clip shows ``t * stride / rate``
    seconds after the first frame, whatever the rate of the clip. A clip of a rate below ``rate /
    stride`` shows frames more than once. Folders need ``fps`` to know the time of a frame; video
    files know the time, also where their rate varies.

    Args:
        clips: A folder with a subfolder for each class, which holds a folder of frames or a video
            file for each clip; or a list of folders of frames, or of video files.
        classes: With a list, the class of each clip: an index, or a name, which is indexed as
            sorted; None where the loader's ``target`` asks for no class. With a folder None: the
            subfolders name the classes.
        frames: Frames of a sample, ``T``, at least 1.
        stride: Frames of the clip, or of ``rate``, from one frame of a sample to the next, at least
            1.
        fps: Frames per second of the clips, above 0: a number for all, a list with a number for
            each clip, or a mapping from a clip to its number. A clip is its path as listed, its
            path below the folder, or its mere name where no other clip has the name. None takes
            the times that a video file states; numbers replace these times.
        rate: Frames per second in which ``stride`` counts, above 0. Folders need ``fps`` with it.
        start: ``"random"`` draws the first frame, each possible frame equally likely. ``"centre"``
            takes the middle of the clip, for evaluation. A number in [0, 1] for each clip takes
            that share of the way from the first possible frame, 0, to the last, 1. With a list that
            names each video several times, such numbers spread several samples over a video.
        short: A clip that is shorter than a sample is refused (``"refuse"``), or starts again
            after its last frame (``"loop"``).
        short_side: Most pixels of the short side of a frame of a video file, at least 1: larger
            frames are shrunk as they are decoded, which saves memory and time. None keeps the size.

    Attributes:
        frame_files: Every frame of every folder: a `FileList`. None of video files.
        num_frames: Frames of each folder: ``[len(self)]`` int64. None of video files.

    Raises:
        ValueError: An argument outside its range; a folder that is too short or has no frames,
            named; a file that is not a video; or folders and video files in one list.
        FileNotFoundError: A folder or a video file does not exist, or a folder has no clips.
        ImportError: A clip is a video file, and PyAV is missing.
    """

    def __init__(
        self,
        clips: Folder | Sequence[Folder],
        classes: Sequence[int | str] | np.ndarray | None = None,
        *,
        frames: int = 16,
        stride: int = 2,
        fps: float | Sequence[float] | Mapping[str, float] | None = None,
        rate: float | None = None,
        start: Literal["random", "centre"] | Sequence[float] | np.ndarray = "random",
        short: Literal["refuse", "loop"] = "refuse",
        short_side: int | None = None,
    ) -> None:
        check_count(WHERE, "frames", frames, at_least=1)
        check_count(WHERE, "stride", stride, at_least=1)
        check_choice(WHERE, "short", short, ("refuse", "loop"))
        self._root, self._paths, targets, names = _listed(clips, classes)
        super().__init__(targets, names)
        self._frames, self._short = int(frames), short
        self._start, self._ways = _checked_start(start, len(self))
        self._settings: tuple[object, ...] = (frames, stride, rate, self._start, short)
        self._reader: VideoReader | None = None
        self.kind: Kind = "path"
        self.num_frames: np.ndarray | None = None
        self.frame_files: FileList | None = None
        self._video_files: FileList | None = None
        if are_videos(self._paths):
            self._open_videos(short_side)
        elif short_side is not None:
            way_out = "`dali-cutmix frames --short-side` makes folders of smaller frames."
            refuse(WHERE, "short_side", "be None with folders of frames", short_side, way_out)
        else:
            self._list_frames()
        # Seconds from frame to frame; None counts frames.
        self._seconds = None
        if self._reader is not None and fps is None and rate is not None:
            _check_rate("rate", rate)
            self._seconds = int(stride) / float(rate)
        # Frames of each clip from frame to frame of a sample.
        rates = self._rates(fps, rate) if self._seconds is None else np.ones(len(self))
        self._step = int(stride) * rates
        if short == "refuse" and self._reader is None:
            self._refuse_short()

    @property
    def read_images(self) -> StoredImages:
        """The frames of all folders; the video files themselves."""
        return self if self.frame_files is None else self.frame_files

    @property
    def reads(self) -> bool:
        """Whether clips are read ahead, as video files are. The graph reads frames itself."""
        return self._reader is not None

    @property
    def decodes(self) -> bool:
        """Whether `stored` decodes, as it does of video files."""
        return self._reader is not None

    @property
    def num_spanned(self) -> np.ndarray:
        """Frames of each clip from the first to the last of a sample: ``[len(self)]`` int64.

        Not for video files with ``rate`` and without ``fps``, which are sampled by their own times.
        """
        spanned: np.ndarray = self._offsets(np.arange(len(self)))[:, -1] + 1
        return spanned

    def path(self, index: int) -> str:
        """Return the folder or the file of a clip."""
        return self._paths[index]

    def stored(self, index: int | Span) -> np.ndarray:
        """Decode a part of a video file: ``[T, height, width, 3]`` uint8 RGB.

        Raises:
            OSError: The file cannot be read, is damaged, or is too short.
            TypeError: The clip is asked for as an image.
        """
        if not isinstance(index, Span) or self._reader is None:
            self._refuse_image(index)
        return self._reader.read(self.path(index.clip), partial(self._chosen, index))

    def depth(self, transform: Any) -> int:  # noqa: ARG002
        """Return the frames of a sample, ``T``."""
        return self._frames

    def check(self, transform: Any) -> None:
        """Refuse a transform of volumes."""
        if hasattr(transform, "windows"):
            way_out = "Frames of clips are images: pass a TrainTransform or an EvalTransform."
            refuse("DataLoader", "transform", "make images", transform, way_out)

    def parts(self, indices: Sequence[int], draws: HostDraws, transform: Any) -> list[Hashable]:  # noqa: ARG002
        """Draw the frames of a batch: their indices in `frame_files`, clip by clip.

        Of video files a `Span` of each.
        """
        clips = np.asarray(indices, np.int64)
        share = way = None
        if self._start == "random":
            share = draws.uniform("clips/start", []).astype(np.float64)
        elif self._ways is not None:
            way = self._ways[clips]
        if self.num_frames is None:
            shares, ways = (
                [None] * len(clips) if each is None else each.tolist() for each in (share, way)
            )
            return [Span(*span) for span in zip(clips.tolist(), shares, ways, strict=True)]
        offset = self._offsets(clips)
        count = self.num_frames[clips]
        start = _first_frames(np.maximum(count - offset[:, -1], 1), share, way)
        frames = self._first[clips, None] + (start[:, None] + offset) % count[:, None]
        return frames.reshape(-1).tolist()

    def take(self, indices: Sequence[int] | np.ndarray) -> Clips:
        """Return the clips of these indices, in this order, with the same classes."""
        chosen = checked_indices(WHERE, indices, len(self))
        part = copy.copy(self)
        part.targets = self.targets[chosen]
        part._step = self._step[chosen]
        part._ways = None if self._ways is None else self._ways[chosen]
        part._paths = [self._paths[index] for index in chosen]
        if self.num_frames is not None:
            part.num_frames, part._first = self.num_frames[chosen], self._first[chosen]
        else:
            part._list_videos()
        return part

    def __repr__(self) -> str:
        return f"Clips({len(self)} clips, {len(self.classes)} classes)"

    def _describe(self) -> Iterable[bytes]:
        yield repr(self._settings).encode()
        if self.num_frames is not None:
            for values in (self.num_frames, self._first):
                yield np.ascontiguousarray(values, "<i8").tobytes()
        yield np.ascontiguousarray(self._step, "<f8").tobytes()
        if self._ways is not None:
            yield np.ascontiguousarray(self._ways, "<f8").tobytes()
        if self._reader is not None:
            yield repr(self._seconds).encode()
        for files in (self.frame_files, self._video_files):
            if files is not None:
                yield from files._describe()

    def _list_frames(self) -> None:
        """List the frames of all folders."""
        listed = [frames_in(folder) for folder in self._paths]
        self.num_frames = np.array([len(paths) for paths in listed], np.int64)
        self._first = np.cumsum(self.num_frames) - self.num_frames
        paths = [path for clip in listed for path in clip]
        labels = np.repeat(self.targets, self.num_frames)
        self.frame_files = FileList(paths, labels, self.classes, self._root)

    def _open_videos(self, short_side: int | None) -> None:
        """Get ready to read video files; none is opened."""
        import_av(WHERE)
        if short_side is not None:
            check_count(WHERE, "short_side", short_side, at_least=1)
        self._settings = (*self._settings, short_side)
        self._reader = VideoReader(short_side)
        self.kind = "pixels"
        self._list_videos()

    def _list_videos(self) -> None:
        self._video_files = FileList(self._paths, self.targets, self.classes, self._root)

    def _chosen(self, span: Span, video: FrameTimes) -> np.ndarray:
        """Return the numbers of the frames of a part of a video: ``[T]`` int64.

        Raises:
            OSError: The video is too short.
        """
        share, way = (None if each is None else np.array([each]) for each in (span.share, span.way))
        if self._seconds is None:
            offset, count = self._offsets(np.array([span.clip]))[0], len(video.times)
            if count <= offset[-1] and self._short == "refuse":
                self._refuse_span(span, f"{offset[-1] + 1} frames", f"{count} frames")
            start = _first_frames(np.maximum(count - offset[-1:], 1), share, way)
            numbers: np.ndarray = (start + offset) % count
            return numbers
        seconds = self._seconds * np.arange(self._frames)
        # As of folders, the last frame begins before the end of the clip.
        latest = video.end - seconds[-1] - video.tolerance
        num_starts = int(np.searchsorted(video.times, latest, "left"))
        if not num_starts and self._short == "refuse":
            self._refuse_span(span, f"over {seconds[-1]:.3g} s", f"{video.end:.3g} s")
        start = _first_frames(np.array([max(num_starts, 1)]), share, way)
        times = (video.times[start] + seconds + video.tolerance) % video.end
        return np.searchsorted(video.times, times, "right") - 1

    def _refuse_span(self, span: Span, needed: str, there: str) -> NoReturn:
        reason = f"too short: {there}, and frames={self._frames} need {needed}"
        raise OSError(errno.EINVAL, reason, self.path(span.clip))

    def _offsets(self, clips: np.ndarray) -> np.ndarray:
        """Return how far behind the first frame each frame of a sample is: ``[n, T]`` int64."""
        steps = self._step[clips, None] * np.arange(self._frames)
        offsets: np.ndarray = np.floor(steps + _TOLERANCE).astype(np.int64)
        return offsets

    def _rates(self, fps: Any, rate: float | None) -> np.ndarray:
        """Return frames of each clip for a frame of ``rate``: ``[N]`` float64."""
        if (fps is None) != (rate is None):
            name, other = ("rate", "fps") if fps is not None else ("fps", "rate")
            way_out = "Without both, `stride` counts the frames of each clip."
            refuse(WHERE, name, f"be given with `{other}`", None, way_out)
        if fps is None or rate is None:
            return np.ones(len(self))
        _check_rate("rate", rate)
        if isinstance(fps, Mapping):
            fps = self._rates_by_name(fps)
        elif is_number(fps):
            _check_rate("fps", fps)
            fps = [float(fps)] * len(self)
        elif not isinstance(fps, (list, tuple, np.ndarray)) or len(fps) != len(self):
            rule = f"be a number, or one for each of the {len(self)} clips"
            refuse(WHERE, "fps", rule, _told(fps))
        for index, value in enumerate(fps):
            _check_rate(f"fps[{index}]", value)
        return np.array([float(value) for value in fps]) / float(rate)

    def _rates_by_name(self, fps: Mapping[Any, float]) -> list[float]:
        """Return the frames per second of each clip, by its path or its name."""
        rates = {os.fspath(name): rate for name, rate in fps.items()}
        paths = [self.path(index) for index in range(len(self))]
        names = [os.path.basename(os.path.normpath(path)) for path in paths]
        folders = _folders_of_names(paths, names)
        of_clips: list[float] = []
        for path, name in zip(paths, names, strict=True):
            below = path if self._root is None else os.path.relpath(path, self._root)
            key = next((key for key in (path, below, name) if key in rates), None)
            if key is None:
                rule = f"hold the frames per second of every clip, and {below} is missing"
                refuse(WHERE, "fps", rule, Told(f"a mapping of {len(fps)} clips"))
            if key not in (path, below) and len(folders[name]) > 1:
                rule = f"tell clips apart, and {len(folders[name])} clips have the name"
                refuse(WHERE, "fps", rule, name, "Name these clips by their paths.")
            of_clips.append(rates[key])
        return of_clips

    def _refuse_short(self) -> None:
        """Refuse folders that have too few frames."""
        assert self.num_frames is not None
        needed = self.num_spanned
        is_short = self.num_frames < needed
        if not is_short.any():
            return
        index = int(is_short.argmax())
        others = int(is_short.sum()) - 1
        also = f" and {others} more" if others else ""
        rule = (
            f"be at least as long as a sample, and {self.path(index)}{also} must have "
            f"{needed[index]} frames for frames={self._frames}"
        )
        way_out = "`short='loop'` starts such clips again; fewer frames or a smaller stride fit."
        refuse(WHERE, "clips", rule, Told(f"{self.num_frames[index]} frames"), way_out)


def _listed(
    clips: Folder | Sequence[Folder], classes: Sequence[int | str] | np.ndarray | None
) -> tuple[str | None, list[str], np.ndarray, Sequence[str]]:
    """Return the folder that holds all clips, or None; their paths, classes and class names."""
    if isinstance(clips, (str, os.PathLike)):
        if classes is not None:
            way_out = "Its subfolders name the classes. Else pass a list of clips."
            refuse(WHERE, "classes", "be None where `clips` is a folder", classes, way_out)
        root = local_path(WHERE, "clips", clips)
        return root, *list_root(root)
    paths = checked_paths(clips)
    if classes is None:
        return None, paths, np.zeros(len(paths), np.int64), []
    return None, paths, *class_indices(WHERE, classes, len(paths))


def _folders_of_names(paths: Sequence[str], names: Sequence[str]) -> dict[str, set[str]]:
    """Return the folders that have each name; a folder that is listed twice counts once."""
    folders: dict[str, set[str]] = {name: set() for name in names}
    for path, name in zip(paths, names, strict=True):
        folders[name].add(os.path.abspath(path))
    return folders


def _check_rate(name: str, value: object) -> None:
    if not is_number(value) or not 0 < value < float("inf"):
        refuse(WHERE, name, "be frames per second, finite and above 0", value)


def _told(numbers: Any) -> Any:
    """Return what a message says of a list of the wrong length."""
    return Told(f"{len(numbers)} numbers") if hasattr(numbers, "__len__") else numbers


def _checked_start(start: Any, num_clips: int) -> tuple[str, np.ndarray | None]:
    """Return which kind of start is asked for, and the number of each clip or None."""
    if isinstance(start, str):
        check_choice(WHERE, "start", start, ("random", "centre"))
        return start, None
    if not isinstance(start, (list, tuple, np.ndarray)) or len(start) != num_clips:
        rule = f"be 'random', 'centre', or a number in [0, 1] for each of the {num_clips} clips"
        refuse(WHERE, "start", rule, _told(start))
    for index, value in enumerate(start):
        if not is_number(value) or not 0 <= value <= 1:
            refuse(WHERE, f"start[{index}]", "be a number in [0, 1]", value)
    return "numbers", np.array([float(value) for value in start])


def _first_frames(
    num_starts: np.ndarray, share: np.ndarray | None, way: np.ndarray | None
) -> np.ndarray:
    """Return the first frame of each clip: ``[n]`` int64.

    Args:
        num_starts: Possible first frames of each clip, at least 1: ``[n]`` int64.
        share: Uniform numbers in [0, 1]: ``[n]`` float64. None takes the middle.
        way: Shares of the way from the first possible frame to the last, rounded to a whole frame:
            ``[n]`` float64 in [0, 1]. None asks ``share``.
    """
    if way is not None:
        last = num_starts - 1
        nearest: np.ndarray = np.floor(way * last + 0.5).astype(np.int64)
        return nearest
    if share is None:
        return (num_starts - 1) // 2
    # The minimum guards against a float32 uniform number that was rounded up to 1.
    start: np.ndarray = np.minimum(np.floor(share * num_starts).astype(np.int64), num_starts - 1)
    return start
