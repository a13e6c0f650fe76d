"""The command ``dali-cutmix check``: which files are bad, before a training run stops at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dali_cutmix.core.writing import replacing
from dali_cutmix.tools.check.options import MAX_PIXELS, Asked, check_options
from dali_cutmix.tools.check.printing import print_part, print_report
from dali_cutmix.tools.check.work import check_data
from dali_cutmix.tools.console import (
    FirstLabel,
    absolute,
    errors_as_one_sentence,
    expanded,
    image_progress,
    make_folder,
    native_messages_aside,
    tidy_when_terminated,
)

Data = Annotated[
    str,
    typer.Argument(
        help="Images: anything that DataLoader takes as a path. With --clips a folder with a "
        "subfolder for each class; with --volumes a folder of volumes.",
        metavar="DATA",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Report to write, a .json file, which `DataLoader` takes as its source. The "
        "report holds the absolute path of the data."
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Largest image accepted, in pixels; 0 accepts all.",
        show_default=str(MAX_PIXELS),
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads.", show_default="CPUs of this process, at most 8"),
]
BoxFiles = Annotated[
    Path | None,
    typer.Option(
        help="Boxes of the images in the folder DATA: a .json of COCO, a folder of .xml of "
        "Pascal VOC, or a folder of .txt of YOLO."
    ),
]
NameFile = Annotated[
    Path | None,
    typer.Option(
        help="Names of the classes of boxes: a text with a name on each line, or a .yaml of "
        "ultralytics."
    ),
]
NumClasses = Annotated[
    int | None, typer.Option(min=1, help="Classes of masks or boxes; 255 in masks is ignored.")
]
MaskFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of masks beside DATA, a folder of images or volumes; see `read_masks`. Looks "
        "for masks that are bad, or of another size than their images."
    ),
]
MaskSuffix = Annotated[str, typer.Option(help="What names of masks have before their ending.")]
AreClips = Annotated[
    bool, typer.Option("--clips", help="DATA are clips: folders of frames, or video files.")
]
Frames = Annotated[
    int | None, typer.Option(min=1, help="Frames of a sample, to find clips that are too short.")
]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Frames of a clip from one frame of a sample to the next, with --frames.",
        show_default="2",
    ),
]
Fps = Annotated[float | None, typer.Option(help="Frames per second of all clips, with --rate.")]
Rate = Annotated[float | None, typer.Option(help="Frames per second in which --stride counts.")]
AreVolumes = Annotated[
    bool, typer.Option("--volumes", help="DATA are volumes: .npy, .nii or .nii.gz files.")
]
Window = Annotated[
    tuple[int, int, int] | None,
    typer.Option(min=1, help="Sides that a transform crops, to find volumes that are too small."),
]


def check(
    data: Data,
    out: Out = None,
    max_pixels: MaxPixels = None,
    num_workers: NumWorkers = None,
    first_label: FirstLabel = None,
    boxes: BoxFiles = None,
    names: NameFile = None,
    masks: MaskFolder = None,
    mask_suffix: MaskSuffix = "",
    num_classes: NumClasses = None,
    clips: AreClips = False,
    frames: Frames = None,
    stride: Stride = None,
    fps: Fps = None,
    rate: Rate = None,
    volumes: AreVolumes = False,
    window: Window = None,
) -> None:
    """Decode every image, and list bad images and the range of sizes.

    Finds files that would stop a training run, and damage that decoders pass over in silence. With
    --boxes, also lists boxes without area, outside their images or of classes out of range; with
    --masks, also bad masks. With --clips or --volumes, looks at clips or volumes instead. Exits
    with status 1 if an image, a box, a mask, a clip or a volume is listed.
    """
    asked = Asked(
        data=absolute(data),
        out=expanded(out),
        max_pixels=max_pixels,
        num_workers=num_workers,
        first_label=first_label,
        boxes=boxes,
        names=names,
        num_classes=num_classes,
        masks=masks,
        mask_suffix=mask_suffix,
        clips=clips,
        frames=frames,
        stride=stride,
        fps=fps,
        rate=rate,
        volumes=volumes,
        window=window,
    )
    check_options(asked)
    with tidy_when_terminated(), errors_as_one_sentence(), _complete_or_absent(asked.out) as write:
        result = check_data(asked, _progress)
        if result.report is not None:
            write(result.report.to_json())
    console = Console()
    if result.report is not None:
        noun = "frame" if clips else "image"
        takes_report = not result.parts
        print_report(console, result.report, asked.out, noun=noun, takes_report=takes_report)
    for part in result.parts:
        print_part(console, part)
    if result.is_bad:
        raise typer.Exit(1)


@contextmanager
def _progress(what: str, num_files: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far a check has come, with messages of native libraries kept off the screen."""
    with (
        native_messages_aside() as screen,
        image_progress(what, num_files, screen, unit) as on_progress,
    ):
        yield on_progress


@contextmanager
def _complete_or_absent(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes the report, under another name until the block ends.

    The file is opened at once: an hour of checking must not end at a folder that takes no files.
    """
    if out is None:
        yield str  # discards the text
        return
    make_folder(out.parent)
    with replacing(out) as file:
        yield lambda text: file.write(text.encode())
