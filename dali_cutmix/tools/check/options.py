"""The options of ``dali-cutmix check``, and which of them go together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from dali_cutmix.tools.console import check_ending

#: Pixels of the largest image that is accepted unless the command is told another number.
MAX_PIXELS = 2**27


@dataclass(frozen=True)
class Asked:
    """Hold what the command is asked to check.

    Attributes:
        data: Absolute path, or URL, of the data.
        out: Report to write.
        max_pixels: Largest image accepted, in pixels. 0 accepts all, None takes `MAX_PIXELS`.
        num_workers: CPU threads. None takes the CPUs of this process, at most 8.
        first_label: Label of class 0 in TFRecords.
        boxes: COCO's JSON, or a folder of Pascal VOC's or YOLO's files.
        names: File of the names of classes.
        num_classes: Number of classes of boxes or masks.
        masks: Folder of masks.
        mask_suffix: What names of masks have before their ending.
        clips: Whether the data are clips.
        frames: Frames of a sample. None takes clips of any length.
        stride: Frames of a clip, or of ``rate``, from one frame of a sample to the next.
        fps: Frames per second of all clips.
        rate: Frames per second in which ``stride`` counts.
        volumes: Whether the data are volumes.
        window: ``(d, h, w)`` in voxels of the window that a transform crops.
    """

    data: str
    out: Path | None = None
    max_pixels: int | None = None
    num_workers: int | None = None
    first_label: int | None = None
    boxes: Path | None = None
    names: Path | None = None
    num_classes: int | None = None
    masks: Path | None = None
    mask_suffix: str = ""
    clips: bool = False
    frames: int | None = None
    stride: int | None = None
    fps: float | None = None
    rate: float | None = None
    volumes: bool = False
    window: tuple[int, int, int] | None = None


#: Names of attributes, and the attributes of which one has to be there too.
_NEEDS = (
    ("mask_suffix", ("masks",)),
    ("num_classes", ("masks", "boxes")),
    ("names", ("boxes",)),
    ("frames", ("clips",)),
    ("stride", ("frames",)),
    ("rate", ("frames",)),
    ("fps", ("rate",)),
    ("window", ("volumes",)),
)

#: Names of attributes, attributes that must not be there too, and why.
_EXCLUDES = (
    ("masks", ("out", "first_label", "boxes"), "a report holds no masks"),
    ("clips", ("out", "first_label", "boxes", "masks", "volumes"), "a report holds no clips"),
    ("volumes", ("out", "first_label", "boxes"), "a report holds no volumes"),
    ("volumes", ("max_pixels", "num_workers"), "volumes of any size are read one by one"),
    ("num_classes", ("names",), "names say how many classes there are"),
)


def check_options(asked: Asked) -> None:
    """Refuse options that do not go together.

    Raises:
        typer.BadParameter: Names the option and the rule.
    """

    def is_there(name: str) -> bool:
        value = getattr(asked, name)
        return value is not None and value is not False and value != ""  # 0 is there

    for name, excluded, reason in _EXCLUDES:
        if is_there(name) and any(map(is_there, excluded)):
            refuse_option(name, f"goes without {_listed(excluded, 'and')}: {reason}.")
    for name, needed in _NEEDS:
        if is_there(name) and not any(map(is_there, needed)):
            refuse_option(name, f"goes with {_listed(needed, 'or')}.")
    check_ending("--out", asked.out, ".json")
    if asked.out is None:
        return
    if os.path.realpath(asked.out) == os.path.realpath(asked.data):
        refuse_option(
            "out",
            f"must be another file than DATA, got {str(asked.out)!r}: a report names its source.",
        )
    if asked.boxes is not None:
        refuse_option(
            "out", "must be left out with --boxes: a report lists images by their classes."
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(names: tuple[str, ...], word: str) -> str:
    *first, last = map(_option, names)
    return f"{', '.join(first)} {word} {last}" if first else last


def refuse_option(name: str, rule: str) -> NoReturn:
    """Refuse an option by the name of its attribute, as in "goes with --clips."."""
    raise typer.BadParameter(rule, param_hint=_option(name))
