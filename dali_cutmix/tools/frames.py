"""The command ``dali-cutmix frames``: videos as folders of JPEGs, which `Clips` reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from dali_cutmix.annotations.listing import walk
from dali_cutmix.core.checks import refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.threads import ThreadPool, usable_cpus
from dali_cutmix.core.writing import replacing
from dali_cutmix.sources.video_files import ENDINGS, Converter, import_av, opened
from dali_cutmix.sources.video_times import tolerance_of
from dali_cutmix.tools.claim import locked, rewrite
from dali_cutmix.tools.console import (
    errors_as_one_sentence,
    expanded,
    image_progress,
    make_folder,
    print_path,
    print_text,
    tidy_when_terminated,
)

WHERE = "frames"

#: The file in the output folder that holds the settings.
SETTINGS = "frames.json"

#: The file in the output folder that holds the video of each folder of frames.
SOURCES = "sources.json"

#: Name of a clip's first frame. A folder that holds this file is complete.
_FIRST = "000001.jpg"

#: Front of the name of a clip's folder that is not complete.
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class FrameSettings:
    """Say which frames are written and how.

    Attributes:
        rate: Frames per second; None writes every frame.
        short_side: Most pixels of the short side; None keeps the size.
        quality: Of the JPEGs, 1 to 100.
    """

    rate: float | None = None
    short_side: int | None = None
    quality: int = 90


def frames(
    videos: Annotated[
        list[Path],
        typer.Argument(
            help="Video files, or folders that hold video files at any depth.", metavar="VIDEO..."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the folders of frames.", metavar="OUT")],
    rate: Annotated[
        float | None,
        typer.Option(help="Frames per second, above 0.", show_default="every frame"),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Shrink the shorter side to at most this many pixels.",
            show_default="keep the size",
        ),
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90,
    num_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Videos at a time.", show_default="one for each CPU"),
    ] = None,
) -> None:
    """Extract the frames of videos into a folder of JPEGs for each video, which `Clips` reads.

    Folders below VIDEO are kept: `videos/jump/a.mp4` becomes `OUT/jump/a/000001.jpg` and so on. An
    interrupted run continues when you run the same command again.
    """
    if rate is not None and not 0 < rate < float("inf"):
        raise typer.BadParameter(f"must be finite and above 0, got {rate:g}.", param_hint="--rate")
    out = expanded(out)
    with tidy_when_terminated(), errors_as_one_sentence():
        settings = FrameSettings(rate, short_side, quality)
        clips = list_clips(videos, out)
        bad = extract(clips, out, settings, num_workers or usable_cpus())
    for path, reason in bad.items():
        print_text(Console(stderr=True), f"dali-cutmix: cannot extract {path}: {reason}.")
    print_path(Console(), out)
    if bad:
        raise typer.Exit(1)


def list_clips(videos: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return the folder of frames for each video.

    Args:
        videos: Files, and folders that hold files.
        out: Folder for the folders of frames.

    Raises:
        FileNotFoundError: A path that does not exist, or a folder without videos.
        ValueError: Not a list of paths, or an empty one; or two videos would have one folder, or
            folders of which one holds the other.
    """
    if isinstance(videos, (str, os.PathLike)) or not videos:  # a text is no list of its letters
        refuse(WHERE, "VIDEO", "be a list of video files and folders", videos)
    clips: dict[Path, Path] = {}
    for video in map(expanded, videos):
        if not video.exists():
            raise FileNotFoundError(f"{WHERE}: {printable(str(video))} does not exist.")
        files = [video] if video.is_file() else _videos_below(video)
        if not files:
            endings = ", ".join(ENDINGS)
            raise FileNotFoundError(
                f"{WHERE}: the folder {printable(str(video))} must hold videos, names ending in "
                f"{endings}, and holds none."
            )
        for path in files:
            name = path.relative_to(video) if path != video else Path(path.name)
            clips[path] = out / name.with_suffix("")
    owners: dict[Path, Path] = {}
    for path, folder in clips.items():
        if (other := owners.setdefault(folder, path)) != path:
            way_out = "Rename one of them, or extract them into different folders."
            rule = f"have names of their own without the ending, as {other} has the name of"
            refuse(WHERE, "VIDEO", rule, str(path), way_out)
    for folder, path in owners.items():
        for parent in folder.parents:
            if parent in owners:
                rule = "lie in no folder that has the name of a video without the ending"
                way_out = f"Rename the folder, or {owners[parent]}."
                refuse(WHERE, "VIDEO", rule, str(path), way_out)
    return clips


def extract(
    clips: dict[Path, Path], out: Path, settings: FrameSettings, num_workers: int
) -> dict[Path, str]:
    """Extract the frames of all videos whose folders are missing.

    A folder gets its name when all frames are written, so that a folder with frames is complete.

    Args:
        clips: Folder of frames for each video, below ``out``.
        out: Folder that keeps the settings, and notes which video each folder is of.
        settings: Which frames, and how.
        num_workers: Videos at a time, at least 1.

    Returns:
        Reason for each video that cannot be decoded.

    Raises:
        ImportError: PyAV is missing.
        OSError: Another process extracts into the folder.
        ValueError: The folder holds frames of other settings, or of another video with the name of
            a video.
    """
    import_av(WHERE)
    make_folder(out)
    bad: dict[Path, str] = {}
    with _claimed(out, settings):
        missing = [clip for clip in clips.items() if not Path(clip[1], _FIRST).exists()]
        _keep_sources(clips, out)
        with (
            image_progress("Extracting", len(missing)) as on_progress,
            ThreadPool(num_workers) as pool,
        ):
            futures = [
                pool.submit(lambda clip: _extract(*clip, settings), clip) for clip in missing
            ]
            for number, ((video, _), future) in enumerate(zip(missing, futures, strict=True), 1):
                reason = future.result()
                if reason:
                    bad[video] = reason
                on_progress(number)
    return bad


def _extract(video: Path, folder: Path, settings: FrameSettings) -> str | None:
    """Write the frames of a video; return why the video cannot be decoded."""
    errors = (import_av(WHERE).error.FFmpegError, IndexError, ValueError)
    # Closed in any case, since an error's traceback would keep the video open.
    with _unfinished(folder) as unfinished, closing(_images(video, settings)) as images:
        try:
            number = 0
            for number, image in enumerate(images, 1):
                path = unfinished / f"{number:06d}.jpg"
                image.save(path, "JPEG", quality=settings.quality)
            if not number:
                return "no frames"
        except errors as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        os.replace(unfinished, folder)
    return None


def _images(video: Path, settings: FrameSettings) -> Generator[Image.Image, None, None]:
    """Yield the frames of a video that are written."""
    convert = Converter(settings.short_side)
    with closing(_frames_at(video, settings.rate)) as shown:
        for frame in shown:
            yield Image.fromarray(convert(frame))


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Make an empty folder beside a folder that is due; remove what is left of it."""
    path = folder.with_name(_UNFINISHED + folder.name)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _frames_at(video: Path, rate: float | None) -> Generator[Any, None, None]:
    """Yield the frames that a video shows at times 0, 1 / rate, 2 / rate and so on.

    Times count from the first frame. The last frame is shown as long as the frame before.
    """
    with opened(str(video)) as (container, stream):
        decoded = container.decode(stream)
        if rate is None:
            yield from decoded
            return
        shown: Any = None
        first = start = shown_until = length = 0.0
        num_yielded = 0
        tolerance = tolerance_of(1 / float(stream.average_rate or 25), float(stream.time_base))
        for frame in decoded:
            now = shown_until if frame.time is None else float(frame.time)
            if shown is None:
                first = now
            else:
                length = now - start
                for _ in range(_count(now - first - tolerance, rate) - num_yielded):
                    yield shown
                    num_yielded += 1
            shown, start, shown_until = frame, now, now + length
        if shown is not None:
            for _ in range(max(_count(shown_until - first - tolerance, rate), 1) - num_yielded):
                yield shown


def _count(seconds: float, rate: float) -> int:
    """Return how many of the times 0, 1 / rate, ... lie up to a time."""
    return floor(seconds * rate) + 1


@contextmanager
def _claimed(out: Path, settings: FrameSettings) -> Iterator[None]:
    """Hold the folder against other processes; refuse other settings than those of its frames."""
    wanted = asdict(settings)
    text = json.dumps(wanted, indent=2) + "\n"
    with locked(out / SETTINGS, WHERE, "extracts into") as file:
        former_text = file.read()
        if text.startswith(former_text):  # a run that was killed leaves the beginning
            rewrite(file, text)
        else:
            kept = None
            with suppress(ValueError):
                kept = json.loads(former_text)
            if kept != wanted:
                way_out = "Extract into another folder, or remove this folder."
                refuse(WHERE, "OUT", f"be a folder of frames with {wanted}", kept, way_out)
        yield


def _keep_sources(clips: dict[Path, Path], out: Path) -> None:
    """Note the video of each folder that is due; refuse folders that hold anything else.

    Folders of versions that noted nothing are taken for those of the videos.
    """
    path = out / SOURCES
    try:
        noted = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        way_out = "Remove the file if all frames are of these videos."
        refuse(WHERE, "OUT", f"hold a {SOURCES} that can be read", str(path), way_out)
    due = {}
    for video, folder in clips.items():
        name = folder.relative_to(out).as_posix()
        source = {"path": os.path.realpath(video), "size": video.stat().st_size}
        if Path(folder, _FIRST).exists():
            if name in noted and _are_different(noted[name], source):
                rule = f"be {noted[name]['path']}, the video of the frames in {folder}"
                way_out = "Extract into another folder, or remove the folder of these frames."
                refuse(WHERE, "VIDEO", rule, str(video), way_out)
        else:
            _refuse_taken(video, folder, out)
            due[name] = source
    if due:
        with replacing(path) as file:
            file.write(json.dumps(noted | due, indent=2).encode() + b"\n")


def _refuse_taken(video: Path, folder: Path, out: Path) -> None:
    """Refuse a folder without frames that holds files, or lies in the folder of another clip."""
    taken = [p for p in folder.parents if p.is_relative_to(out) and Path(p, _FIRST).exists()]
    if folder.is_dir() and any(folder.iterdir()):
        taken.append(folder)
    if taken:
        rule = f"have a folder of its own, and {taken[0]} holds other files"
        refuse(WHERE, "VIDEO", rule, str(video), "Rename the video, or extract elsewhere.")


def _are_different(noted: dict[str, Any], source: dict[str, Any]) -> bool:
    """Return whether two videos differ. A video that was moved is the same."""
    if noted["size"] != source["size"]:
        return True
    return noted["path"] != source["path"] and os.path.exists(noted["path"])


def _videos_below(folder: Path) -> list[Path]:
    paths = (folder / name for name in walk(WHERE, "VIDEO", str(folder)))
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS and path.is_file())
