"""Which videos train and which validate: folders, or the lists that come with three data sets.

A video is a file, or a folder of frames as ``dali-cutmix frames`` extracts it, of the same name
without the ending.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.processes import stop

Layout = Literal["folders", "ucf101", "hmdb51", "kinetics"]

#: Endings that a video may have where a list names none, in the order in which they are tried.
ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov")


@dataclass(frozen=True)
class Videos:
    """Hold videos and their classes.

    Attributes:
        paths: A folder of frames or a file for each video.
        classes: Name of the class of each video.
    """

    paths: list[Path]
    classes: list[str]


def find_videos(
    name: str, data: Path, layout: Layout, lists: Path | None, split: int
) -> tuple[Videos, Videos]:
    """Return the videos that train, and those that validate.

    Args:
        name: Name of the recipe, for messages.
        data: With "folders" the folder of train/ and val/, each with a folder of videos for each
            class. Else the folder of a folder for each class.
        layout: "folders", or the data set whose lists say which video belongs where.
        lists: Folder of the data set's lists.
        split: Number of the split, from 1, of UCF-101 and HMDB-51.
    """
    if layout == "folders":
        train, val = (list(_in_folders(name, data / part)) for part in ("train", "val"))
    else:
        if lists is None or not lists.is_dir():
            stop(name, f"`lists` must be the folder of the lists of {layout}, got {lists}.")
        if layout == "ucf101":
            train, val = (
                list(_of_ucf101(name, lists / f"{part}list{split:02}.txt"))
                for part in ("train", "test")
            )
        elif layout == "hmdb51":
            train, val = (list(_of_hmdb51(name, lists, split, mark)) for mark in ("1", "2"))
        else:
            train, val = (list(_of_kinetics(name, lists, part)) for part in ("train", "val"))
        # Of Kinetics some videos are no longer to be had; the other sets are complete.
        may_miss = layout == "kinetics"
        train, val = (_found(name, data, listed, may_miss) for listed in (train, val))
    classes = {label for label, _ in train}
    odd = sorted({label for label, _ in val} ^ classes)
    if odd:
        stop(
            name,
            f"videos that train and that validate must have the same classes, and {odd[0]!r} is "
            f"among the ones alone, with {layout!r} in {data}.",
        )
    return _as_videos(train), _as_videos(val)


def _as_videos(listed: list[tuple[str, Path]]) -> Videos:
    return Videos([path for _, path in listed], [label for label, _ in listed])


def _in_folders(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield class and path of each video below a folder of classes."""
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not classes:
        stop(
            name,
            f"`data` must hold train/CLASS/VIDEO and val/CLASS/VIDEO, and {root} has no folders. "
            "generate_clips.py writes such folders.",
        )
    for folder in classes:
        videos = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if not videos:
            stop(name, f"`data` must hold videos of each class, and {folder} is empty.")
        yield from ((folder.name, path) for path in videos)


def _lines(name: str, path: Path) -> Iterator[str]:
    """Yield the lines of a list that are not empty."""
    if not path.is_file():
        stop(name, f"`lists` must hold {path.name}, and {path.parent} does not.")
    yield from filter(None, map(str.strip, path.read_text().splitlines()))


def _of_ucf101(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    """Yield class and video of a list such as ``trainlist01.txt``: ``CLASS/VIDEO.avi NUMBER``."""
    for line in _lines(name, path):
        video = Path(line.split()[0])
        if len(video.parts) != 2:
            stop(name, f"{path} must hold lines CLASS/VIDEO.avi, got {line!r}.")
        yield video.parts[0], video


def _of_hmdb51(name: str, lists: Path, split: int, mark: str) -> Iterator[tuple[str, Path]]:
    """Yield class and video of lists such as ``run_test_split1.txt``: ``VIDEO.avi MARK``."""
    ending = f"_test_split{split}.txt"
    paths = sorted(lists.glob(f"*{ending}"))
    if not paths:
        stop(name, f"`lists` must hold CLASS{ending}, and {lists} does not.")
    for path in paths:
        label = path.name.removesuffix(ending)
        for line in _lines(name, path):
            video, _, marked = line.rpartition(" ")
            if not video or marked not in ("0", "1", "2"):
                stop(name, f"{path} must hold lines VIDEO.avi and 0, 1 or 2, got {line!r}.")
            if marked == mark:
                yield label, Path(label, video.strip())


def _of_kinetics(name: str, lists: Path, part: str) -> Iterator[tuple[str, Path]]:
    """Yield class and video of ``train.csv`` or ``val.csv``, as the authors of Kinetics wrote it.

    Files are named by YouTube's name and by the seconds where they begin and end.
    """
    path = lists / f"{part}.csv"
    if part == "val" and not path.is_file() and (lists / "validate.csv").is_file():
        path = lists / "validate.csv"
    rows = csv.DictReader(_lines(name, path))
    needed = {"label", "youtube_id", "time_start", "time_end"}
    missing = sorted(needed - set(rows.fieldnames or ()))
    if missing:
        stop(name, f"{path} must have the columns {sorted(needed)}, and {missing[0]!r} is missing.")
    for row in rows:
        start, end = int(row["time_start"]), int(row["time_end"])
        yield row["label"], Path(row["label"], f"{row['youtube_id']}_{start:06}_{end:06}")


def _found(
    name: str, data: Path, listed: list[tuple[str, Path]], may_miss: bool
) -> list[tuple[str, Path]]:
    """Return class and path of each listed video: a folder of frames, or else a file."""
    found: list[tuple[str, Path]] = []
    for label, video in listed:
        stem = video.with_suffix("") if video.suffix in ENDINGS else video
        names = [stem, video, *(Path(f"{stem}{ending}") for ending in ENDINGS)]
        path = next((data / each for each in names if os.path.exists(data / each)), None)
        if path is not None:
            found.append((label, path))
        elif not may_miss:
            stop(
                name,
                f"`data` must hold all videos of the lists, and {data} holds neither {stem}/ nor "
                f"{stem}{ENDINGS[1]}.",
            )
    if not found:
        stop(name, f"`data` must hold CLASS/VIDEO as the lists name them, and {data} holds none.")
    return found
