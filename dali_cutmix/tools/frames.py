"""The command ``dali-cutmix frames``: videos as folders of JPEGs, which `Clips` reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.cpus import usable_cpus
from dali_cutmix.core.errors import printable
from dali_cutmix.core.output import replacing
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.video_files import ENDINGS, Converter, import_av, opened
from dali_cutmix.sources.video_times import tolerance_of
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
        raise typer.BadParameter(f"must be above 0, got {rate:g}.", param_hint="--rate")
    out = expanded(out)
    with tidy_when_terminated(), errors_as_one_sentence():
        settings = FrameSettings(rate, short_side, quality)
        clips = list_clips([expanded(video) for video in videos], out)
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
        ValueError: Two videos would have one folder.
    """
    clips: dict[Path, Path] = {}
    for video in videos:
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
    return clips


def extract(
    clips: dict[Path, Path], out: Path, settings: FrameSettings, num_workers: int
) -> dict[Path, str]:
    """Extract the frames of all videos whose folders are missing.

    A folder gets its name when all frames are written, so that a folder that exists is complete.

    Args:
        clips: Folder of frames for each video, below ``out``.
        out: Folder that keeps the settings.
        settings: Which frames, and how.
        num_workers: Videos at a time, at least 1.

    Returns:
        Reason for each video that cannot be decoded.

    Raises:
        ImportError: PyAV is missing.
        ValueError: The folder holds frames of other settings.
    """
    import_av(WHERE)
    make_folder(out)
    _keep_settings(out, settings)
    missing = [(video, folder) for video, folder in clips.items() if not folder.exists()]
    bad: dict[Path, str] = {}
    with (
        image_progress("Extracting", len(missing)) as on_progress,
        ThreadPool(num_workers) as pool,
    ):
        futures = [pool.submit(lambda clip: _extract(*clip, settings), clip) for clip in missing]
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


def _keep_settings(out: Path, settings: FrameSettings) -> None:
    """Write the settings into the folder; refuse others than those of the frames there."""
    path = out / SETTINGS
    wanted = asdict(settings)
    if path.exists():
        try:
            kept = json.loads(path.read_text())
        except ValueError:
            kept = None
        if kept != wanted:
            way_out = "Extract into another folder, or remove this folder."
            refuse(WHERE, "OUT", f"be a folder of frames with {wanted}", kept, way_out)
        return
    with replacing(path) as file:
        file.write(json.dumps(wanted, indent=2).encode() + b"\n")


def _videos_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )
