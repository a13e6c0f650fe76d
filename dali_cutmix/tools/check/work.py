"""What ``dali-cutmix check`` does for images, boxes, masks, clips and volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dali_cutmix.annotations.mask_folders import read_masks
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.clips import Clips
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.report import Report
from dali_cutmix.tools.check.boxes import check_boxes, open_boxes
from dali_cutmix.tools.check.clips import check_clips
from dali_cutmix.tools.check.images import check_images
from dali_cutmix.tools.check.masks import check_masks
from dali_cutmix.tools.check.names import read_names
from dali_cutmix.tools.check.options import MAX_PIXELS, Asked, refuse_option
from dali_cutmix.tools.check.parts import Part, Progress
from dali_cutmix.tools.check.videos import check_videos
from dali_cutmix.tools.check.volume_masks import check_volume_masks, masks_of
from dali_cutmix.tools.check.volumes import check_volumes, list_volumes
from dali_cutmix.tools.console import expanded

#: Frames from one frame of a sample to the next, as of `Clips`.
_STRIDE = 2


@dataclass(frozen=True)
class Result:
    """Hold what a check found.

    Attributes:
        report: Of images, or of the frames of clips. None of video files and volumes.
        parts: Of boxes, masks, clips or volumes.
    """

    report: Report | None
    parts: tuple[Part, ...] = ()

    @property
    def is_bad(self) -> bool:
        """Whether anything is bad."""
        return bool(self.report and self.report.bad) or any(part.is_bad for part in self.parts)


def check_data(asked: Asked, progress: Progress) -> Result:
    """Check what the command is asked to check.

    Args:
        asked: The options.
        progress: Shows how far a check has come.

    Raises:
        OSError: A file or folder is missing, or cannot be read.
        ValueError: The data or an annotation are malformed.
        ImportError: A package for such files is missing.
        TroubleError: The machine or the storage is in trouble.
    """
    if asked.volumes:
        return _volumes(asked, progress)
    if asked.clips:
        return _clips(asked, progress)
    if asked.masks is not None:
        return _masks(asked, progress)
    if asked.boxes is not None:
        return _boxes(asked, progress)
    images = open_source(asked.data, first_label=asked.first_label)
    return Result(_report(images, asked, progress))


def _report(images: StoredImages, asked: Asked, progress: Progress) -> Report:
    with progress("Checking", len(images), "images") as on_progress:
        return check_images(
            images,
            num_threads=asked.num_workers,
            max_pixels=(MAX_PIXELS if asked.max_pixels is None else asked.max_pixels) or None,
            on_progress=on_progress,
            source=asked.data,
            first_label=asked.first_label,
        )


def _boxes(asked: Asked, progress: Progress) -> Result:
    assert asked.boxes is not None
    names = None if asked.names is None else read_names(expanded(asked.names))
    images, boxes = open_boxes(asked.boxes, asked.data)
    part = check_boxes(images, boxes, names=names, num_classes=asked.num_classes)
    return Result(_report(images, asked, progress), (part,))


def _masks(asked: Asked, progress: Progress) -> Result:
    assert asked.masks is not None
    images, masks = read_masks(asked.data, asked.masks, mask_suffix=asked.mask_suffix)
    report = _report(images, asked, progress)
    with progress("Checking masks", len(images), "images") as on_progress:
        part = check_masks(
            images,
            masks,
            bad_images={image.index for image in report.bad},
            num_classes=asked.num_classes,
            on_progress=on_progress,
        )
    return Result(report, (part,))


def _clips(asked: Asked, progress: Progress) -> Result:
    has_length = asked.frames is not None
    settings: dict[str, Any] = {
        "frames": asked.frames or 1,
        "stride": asked.stride or _STRIDE,
        "fps": asked.fps,
        "rate": asked.rate,
    }
    # Short folders are all listed; `Clips` would refuse the first.
    clips = Clips(asked.data, short="loop", **settings)
    if clips.frame_files is None:
        if asked.max_pixels is not None:
            refuse_option("max_pixels", "goes without video files: their frames may have any size.")
        videos = Clips(asked.data, short="refuse", **settings)
        with progress("Checking", len(videos), "clips") as on_progress:
            part = check_videos(
                videos,
                num_threads=asked.num_workers,
                has_length=has_length,
                on_progress=on_progress,
            )
        return Result(None, (part,))
    report = _report(clips.frame_files, asked, progress)
    bad_frames = [image.index for image in report.bad]
    return Result(report, (check_clips(clips, bad_frames=bad_frames, has_length=has_length),))


def _volumes(asked: Asked, progress: Progress) -> Result:
    volumes = list_volumes(asked.data)
    masks = None
    if asked.masks is not None:
        masks = masks_of(volumes, str(expanded(asked.masks)), asked.mask_suffix)
    with progress("Checking", len(volumes), "volumes") as on_progress:
        part = check_volumes(list(volumes.values()), window=asked.window, on_progress=on_progress)
    if masks is None:
        return Result(None, (part,))
    with progress("Checking masks", len(volumes), "volumes") as on_progress:
        of_masks = check_volume_masks(
            part, masks, num_classes=asked.num_classes, on_progress=on_progress
        )
    return Result(None, (part, of_masks))
