"""Which folders and files are clips, and which files are the frames of a folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.sources.base import IMAGE_ENDINGS, warn_of_splits
from dali_cutmix.sources.other_files import holdings, reader_of
from dali_cutmix.sources.video_files import ENDINGS

WHERE = "Clips"

_NUMBER = re.compile(r"(\d+)")

Folder = str | os.PathLike[str]


def list_root(root: str) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the clips below a folder, the class of each, and the names of the classes."""
    layout = "a folder for each class, which holds a folder of frames or a video for each clip"
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise FileNotFoundError(f"{WHERE}: `clips` must be {layout}, but {root!r} {problem}.")
    names = _subfolders(root)
    if not names:
        raise FileNotFoundError(f"{WHERE}: `clips` must be {layout}, but {root!r} has no folders.")
    paths: list[str] = []
    targets: list[int] = []
    for label, name in enumerate(names):
        folder = os.path.join(root, name)
        clips = sorted(_subfolders(folder) + _videos_in(folder))
        if not clips:
            files = sorted(os.listdir(folder))
            holds = "holds frames itself" if _listed(folder) else holdings(files, "a video")
            way_out = reader_of(files) or "`clips` may also be a list, with `classes`."
            raise FileNotFoundError(
                f"{WHERE}: class folder {folder!r} must hold a folder of frames or a video for "
                f"each clip, but {holds}. {way_out}"
            )
        paths += [os.path.join(folder, clip) for clip in clips]
        targets += [label] * len(clips)
    warn_of_splits(WHERE, root, names)
    return paths, np.array(targets, np.int64), names


def checked_paths(clips: Any) -> list[str]:
    """Return the paths of a list of clips."""
    if not isinstance(clips, (list, tuple)) or not clips:
        way_out = "Or a folder with a subfolder for each class."
        rule = "be a list of at least one folder of frames or video file"
        refuse(WHERE, "clips", rule, clips, way_out)
    for number, clip in enumerate(clips):
        if not isinstance(clip, (str, os.PathLike)):
            refuse(WHERE, f"clips[{number}]", "be a folder of frames or a video file", clip)
    return [local_path(WHERE, "clips", clip) for clip in clips]


def are_videos(paths: Sequence[str]) -> bool:
    """Return whether clips are video files; refuse both kinds in one list, and other files."""
    is_folder: dict[bool, str] = {}
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            raise FileNotFoundError(f"{WHERE}: the clip {path!r} does not exist.") from None
        is_folder.setdefault(stat.S_ISDIR(mode), path)
        if not stat.S_ISDIR(mode) and not path.lower().endswith(ENDINGS):
            rule = f"be folders of frames, or video files ending in {', '.join(ENDINGS)}"
            refuse(WHERE, "clips", rule, path)
    if len(is_folder) > 1:
        rule = f"be folders of frames or video files, not both, and {is_folder[True]} is a folder"
        way_out = "`dali-cutmix frames` makes folders of frames of video files."
        refuse(WHERE, "clips", rule, is_folder[False], way_out)
    return False in is_folder


def _videos_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(ENDINGS)]
        return [
            name
            for name in names
            if name[0] != "." and not os.path.isdir(os.path.join(folder, name))
        ]


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    return sorted(names)


def frames_in(folder: str) -> list[str]:
    """Return the frames of a folder, in order."""
    names = _listed(folder)
    if not names:
        endings = ", ".join(IMAGE_ENDINGS)
        refuse(WHERE, "clips", f"hold frames, names ending in {endings}", folder)
    return [os.path.join(folder, name) for name in names]


def _listed(folder: str) -> list[str]:
    """Return the names of images in a folder, in order."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_ENDINGS)]
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
