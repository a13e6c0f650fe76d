"""The command ``dali-cutmix check``: which images are bad, before a training run stops at them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dali_cutmix.annotations.mask_folders import read_masks
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.core.output import replacing
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.check.boxes import OddBox, odd_boxes, open_boxes
from dali_cutmix.tools.check.images import check_images
from dali_cutmix.tools.check.masks import MaskReport, check_masks
from dali_cutmix.tools.check.printing import (
    MOST_NAMES,
    print_bad,
    print_boxes,
    print_line,
    print_sizes,
    summary,
)
from dali_cutmix.tools.console import (
    FirstLabel,
    absolute,
    check_ending,
    errors_as_one_sentence,
    expanded,
    image_progress,
    make_folder,
    native_messages_aside,
    print_path,
    tidy_when_terminated,
)


def check(
    data: Annotated[
        str,
        typer.Argument(help="Images: anything that DataLoader takes as a path.", metavar="DATA"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Report to write, a .json file, which `DataLoader` takes as its source. The "
            "report holds the absolute path of the data."
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=0, help="Largest image accepted, in pixels; 0 accepts all.")
    ] = 2**27,
    num_workers: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="CPUs of this process, at most 8"),
    ] = None,
    first_label: FirstLabel = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Boxes of the images in the folder DATA: a .json of COCO, a folder of .xml of "
            "Pascal VOC, or a folder of .txt of YOLO."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks beside DATA, a folder of images; see `read_masks`. Looks for "
            "masks that are bad, or of another size than their images."
        ),
    ] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="What names of masks have before their ending.")
    ] = "",
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of masks; 255 is ignored.")
    ] = None,
) -> None:
    """Decode every image, and list bad images and the range of sizes.

    Finds files that would stop a training run, and damage that decoders pass over in silence. With
    --boxes, also lists boxes without area or outside their images; with --masks, also bad masks.
    Exits with status 1 if an image, a box or a mask is listed.
    """
    out = expanded(out)
    _check_options(data, out, first_label, boxes, masks, mask_suffix, num_classes)
    odd: list[OddBox] | None = None
    listed_masks: Masks | None = None
    mask_report: MaskReport | None = None
    with tidy_when_terminated(), errors_as_one_sentence(), _complete_or_absent(out) as write:
        source = absolute(data)
        images: StoredImages
        if masks is not None:
            images, listed_masks = read_masks(source, masks, mask_suffix=mask_suffix)
        elif boxes is not None:
            files, annotation = open_boxes(boxes, source)
            images, odd = files, odd_boxes(files, annotation)
        else:
            images = open_source(source, first_label=first_label)
        with _progress("Checking", len(images)) as on_progress:
            report = check_images(
                images,
                num_threads=num_workers,
                max_pixels=max_pixels or None,
                on_progress=on_progress,
                source=source,
                first_label=first_label,
            )
        write(report.to_json())
        if listed_masks is not None:
            with _progress("Checking masks", len(images)) as on_progress:
                mask_report = check_masks(
                    images,
                    listed_masks,
                    bad_images={image.index for image in report.bad},
                    num_classes=num_classes,
                    on_progress=on_progress,
                )
    console = Console()
    print_sizes(console, report)
    print_bad(console, report, out)
    if out is not None:
        print_path(console, out)
    takes_report = odd is None and mask_report is None
    print_line(console, summary(report, out, takes_report=takes_report))
    if odd is not None:
        print_boxes(console, annotation, odd)
    if mask_report is not None:
        for line in mask_report.lines(MOST_NAMES):
            print_line(console, line)
    if report.bad or odd or (mask_report is not None and mask_report.bad):
        raise typer.Exit(1)


def _check_options(
    data: str,
    out: Path | None,
    first_label: int | None,
    boxes: Path | None,
    masks: Path | None,
    mask_suffix: str,
    num_classes: int | None,
) -> None:
    """Refuse options that do not go together."""
    if masks is not None and (out, first_label, boxes) != (None, None, None):
        rule = "goes without --out, --first-label and --boxes: a report holds no masks."
        raise typer.BadParameter(rule, param_hint="--masks")
    if masks is None and (mask_suffix or num_classes is not None):
        raise typer.BadParameter("goes with --masks.", param_hint="--mask-suffix, --num-classes")
    check_ending("--out", out, ".json")
    if out is not None and os.path.realpath(out) == os.path.realpath(data):
        rule = f"must be another file than DATA, got {str(out)!r}: a report names its source."
        raise typer.BadParameter(rule, param_hint="--out")
    if out is not None and boxes is not None:
        rule = "must be left out with --boxes: a report lists images by their classes."
        raise typer.BadParameter(rule, param_hint="--out")


@contextmanager
def _progress(what: str, num_images: int) -> Iterator[Callable[[int], None]]:
    """Show how far a check has come, with messages of native libraries kept off the screen."""
    with (
        native_messages_aside() as screen,
        image_progress(what, num_images, screen) as on_progress,
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
