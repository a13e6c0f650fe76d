"""`Clips`: video clips as folders of frames, sampled by time."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS  # type: ignore[import-untyped]

from dali_cutmix.core.checks import check_choice, check_count, is_number, local_path, refuse
from dali_cutmix.core.draws import HostDraws
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.stacks import Stacks, class_indices

WHERE = "Clips"

#: Endings of files that are videos, which have to be extracted.
_VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ts")

_NUMBER = re.compile(r"(\d+)")

#: Frames. A clip may end this much early: rates such as 30000/1001 are not exact.
_TOLERANCE = 1e-6

Folder = str | os.PathLike[str]


class Clips(Stacks):
    """List video clips, each a folder of frames, and the class of each.

    A loader yields ``[B, 3, T, height, width]`` with ``T = frames``. A clip has one crop, flip and
    colour draw for all frames. Its first frame is drawn anew in each epoch.

    Frames of a clip are the image files of its folder, in the order of their names, where numbers
    count as numbers: ``2.jpg`` comes before ``10.jpg``. Names that begin with a dot are left out,
    such as those of macOS and of unfinished clips. ``dali-cutmix frames`` makes such folders of
    video files.

    With ``fps`` and ``rate`` frames are taken by time. Frame ``t`` is what the clip shows
    ``t * stride / rate`` seconds after the first frame, whatever the rate of the clip. A clip of a
    rate below ``rate / stride`` shows frames more than once.

    Args:
        clips: A folder with a subfolder for each class, which holds a folder of frames for each
            clip; or a list of folders of frames.
        classes: With a list, the class of each clip: an index, or a name, which is indexed as
            sorted; None where the loader's ``target`` asks for no class. With a folder None: the
            subfolders name the classes.
        frames: Frames of a sample, ``T``, at least 1.
        stride: Frames of the clip, or of ``rate``, from one frame of a sample to the next, at least
            1.
        fps: Frames per second of the clips: a number for all, a list with a number for each clip,
            or a mapping from a clip to its number. A clip is its path as listed, its path below the
            folder, or its mere name where no other clip has the name. Above 0.
        rate: Frames per second in which ``stride`` counts, above 0; with ``fps`` only.
        start: ``"random"`` draws the first frame, each possible frame equally likely. ``"centre"``
            takes the middle of the clip, for evaluation.
        short: A clip that is shorter than a sample is refused (``"refuse"``), or starts again
            after its last frame (``"loop"``).

    Attributes:
        frame_files: Every frame of every clip: a `FileList`.
        num_frames: Frames of each clip: ``[len(self)]`` int64.

    Raises:
        ValueError: An argument outside its range; a clip that is too short or has no frames, named;
            or a file where a folder of frames is due.
        FileNotFoundError: A folder does not exist, or has no clips.
    """

    kind = "path"

    def __init__(
        self,
        clips: Folder | Sequence[Folder],
        classes: Sequence[int | str] | np.ndarray | None = None,
        *,
        frames: int = 16,
        stride: int = 2,
        fps: float | Sequence[float] | Mapping[str, float] | None = None,
        rate: float | None = None,
        start: Literal["random", "centre"] = "random",
        short: Literal["refuse", "loop"] = "refuse",
    ) -> None:
        check_count(WHERE, "frames", frames, at_least=1)
        check_count(WHERE, "stride", stride, at_least=1)
        check_choice(WHERE, "start", start, ("random", "centre"))
        check_choice(WHERE, "short", short, ("refuse", "loop"))
        root: str | None = None
        names: Sequence[str]
        if isinstance(clips, (str, os.PathLike)):
            if classes is not None:
                way_out = "Its subfolders name the classes. Else pass a list of folders of frames."
                refuse(WHERE, "classes", "be None where `clips` is a folder", classes, way_out)
            root = local_path(WHERE, "clips", clips)
            folders, targets, names = _list_root(root)
        else:
            folders = _checked_folders(clips)
            targets, names = np.zeros(len(folders), np.int64), []
            if classes is not None:
                targets, names = class_indices(WHERE, classes, len(folders))
        super().__init__(targets, names)
        self._folders = folders
        self._root = root
        listed = [_frames_in(folder) for folder in folders]
        self.num_frames = np.array([len(paths) for paths in listed], np.int64)
        self._first = np.cumsum(self.num_frames) - self.num_frames
        paths = [path for clip in listed for path in clip]
        labels = np.repeat(self.targets, self.num_frames)
        self.frame_files = FileList(paths, labels, self.classes, root)
        self._frames, self._start = int(frames), start
        self._settings = (frames, stride, rate, start, short)
        self._step = int(stride) * self._rates(fps, rate)  # frames of each clip
        if short == "refuse":
            self._refuse_short()

    @property
    def read_images(self) -> FileList:
        """The frames of all clips."""
        return self.frame_files

    @property
    def reads(self) -> bool:
        """False: the graph reads the frames."""
        return False

    def path(self, index: int) -> str:
        """Return the folder of a clip."""
        return self._folders[index]

    def stored(self, index: int) -> np.ndarray:
        """Refuse: a clip is not an image."""
        self._refuse_image(index)

    def depth(self, transform: Any) -> int:  # noqa: ARG002
        """Return the frames of a sample, ``T``."""
        return self._frames

    def check(self, transform: Any) -> None:
        """Refuse a transform of volumes."""
        if hasattr(transform, "windows"):
            way_out = "Frames of clips are images: pass a TrainTransform or an EvalTransform."
            refuse("DataLoader", "transform", "make images", transform, way_out)

    def parts(self, indices: Sequence[int], draws: HostDraws, transform: Any) -> list[Hashable]:  # noqa: ARG002
        """Draw the frames of a batch: their indices in `frame_files`, clip by clip."""
        clips = np.asarray(indices, np.int64)
        offset = self._offsets(clips)
        count = self.num_frames[clips]
        num_starts = np.maximum(count - offset[:, -1], 1)
        if self._start == "random":
            share = draws.uniform("clips/start", []).astype(np.float64)
            # The minimum guards against a float32 uniform number that was rounded up to 1.
            start = np.minimum(np.floor(share * num_starts).astype(np.int64), num_starts - 1)
        else:
            start = (num_starts - 1) // 2
        frames = self._first[clips, None] + (start[:, None] + offset) % count[:, None]
        return frames.reshape(-1).tolist()

    def take(self, indices: Sequence[int] | np.ndarray) -> Clips:
        """Return the clips of these indices, in this order, with the same classes."""
        chosen = np.asarray(indices, np.int64).reshape(-1)
        part = copy.copy(self)
        part.__dict__.pop("fingerprint", None)
        part.targets = self.targets[chosen]
        part.num_frames, part._first = self.num_frames[chosen], self._first[chosen]
        part._step = self._step[chosen]
        part._folders = [self._folders[index] for index in chosen]
        return part

    def __repr__(self) -> str:
        return f"Clips({len(self)} clips, {len(self.classes)} classes)"

    def _describe(self) -> Iterable[bytes]:
        yield repr(self._settings).encode()
        for values in (self.num_frames, self._first):
            yield np.ascontiguousarray(values, "<i8").tobytes()
        yield np.ascontiguousarray(self._step, "<f8").tobytes()
        yield from self.frame_files._describe()

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
            got = f"{len(fps)} numbers" if hasattr(fps, "__len__") else fps
            refuse(WHERE, "fps", f"be a number, or one for each of the {len(self)} clips", got)
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
                refuse(WHERE, "fps", rule, f"a mapping of {len(fps)} clips")
            if key not in (path, below) and len(folders[name]) > 1:
                rule = f"tell clips apart, and {len(folders[name])} clips have the name"
                refuse(WHERE, "fps", rule, name, "Name these clips by their paths.")
            of_clips.append(rates[key])
        return of_clips

    def _refuse_short(self) -> None:
        needed = self._offsets(np.arange(len(self)))[:, -1] + 1
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
        refuse(WHERE, "clips", rule, f"{self.num_frames[index]} frames", way_out)


def _folders_of_names(paths: Sequence[str], names: Sequence[str]) -> dict[str, set[str]]:
    """Return the folders that have each name; a folder that is listed twice counts once."""
    folders: dict[str, set[str]] = {name: set() for name in names}
    for path, name in zip(paths, names, strict=True):
        folders[name].add(os.path.abspath(path))
    return folders


def _check_rate(name: str, value: object) -> None:
    if not is_number(value) or not 0 < value < float("inf"):
        refuse(WHERE, name, "be frames per second, finite and above 0", value)


def _list_root(root: str) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the clips below a folder, the class of each, and the names of the classes."""
    layout = "a folder for each class, which holds a folder of frames for each clip"
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise FileNotFoundError(f"{WHERE}: `clips` must be {layout}, but {root!r} {problem}.")
    names = _subfolders(root)
    if not names:
        raise FileNotFoundError(f"{WHERE}: `clips` must be {layout}, but {root!r} has no folders.")
    folders: list[str] = []
    targets: list[int] = []
    for label, name in enumerate(names):
        folder = os.path.join(root, name)
        clips = _subfolders(folder)
        if not clips:
            holds = "holds frames itself" if _listed(folder) else "is empty"
            raise FileNotFoundError(
                f"{WHERE}: class folder {folder!r} must hold a folder of frames for each clip, "
                f"but {holds}. `clips` may also be a list of folders of frames, with `classes`."
            )
        folders += [os.path.join(folder, clip) for clip in clips]
        targets += [label] * len(clips)
    return folders, np.array(targets, np.int64), names


def _checked_folders(clips: Any) -> list[str]:
    if not isinstance(clips, (list, tuple)) or not clips:
        way_out = "Or a folder with a subfolder for each class."
        refuse(WHERE, "clips", "be a list of at least one folder of frames", clips, way_out)
    for number, clip in enumerate(clips):
        if not isinstance(clip, (str, os.PathLike)):
            refuse(WHERE, f"clips[{number}]", "be a folder of frames", clip)
    return [local_path(WHERE, "clips", clip) for clip in clips]


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    return sorted(names)


def _frames_in(folder: str) -> list[str]:
    """Return the frames of a clip, in order."""
    if not os.path.isdir(folder):
        if not os.path.exists(folder):
            raise FileNotFoundError(f"{WHERE}: the clip {folder!r} does not exist.")
        way_out = f"Extract the frames first: `dali-cutmix frames {folder} OUT`."
        is_video = folder.lower().endswith(_VIDEOS)
        refuse(WHERE, "clips", "be folders of frames", folder, way_out if is_video else "")
    names = _listed(folder)
    if not names:
        endings = ", ".join(IMG_EXTENSIONS)
        refuse(WHERE, "clips", f"hold frames, names ending in {endings}", folder)
    return [os.path.join(folder, name) for name in names]


def _listed(folder: str) -> list[str]:
    """Return the names of images in a folder, in order."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMG_EXTENSIONS)]
    return sorted((name for name in names if name[0] != "."), key=_natural)


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return the key that sorts names with numbers in them by the numbers."""
    texts = _NUMBER.split(name)
    # Every second text is a number. A million digits are compared as a text.
    key = [
        (1, int(text), "") if at % 2 and len(text) < 1000 and text.isascii() else (0, 0, text)
        for at, text in enumerate(texts)
    ]
    return key, name
